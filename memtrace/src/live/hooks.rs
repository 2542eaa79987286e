//! Which programs are needed, and what each is attached to.
//!
//! Layer: shell. Input: [`Plan`]. Output: [`Hooks`].
//! Source: the entry points of `memtrace-ebpf`.
//! Keeps: a program that the plan has no use for never meets the verifier.
//! Not here: loading and attaching (`probes`).

use std::fmt;

use aya::programs::perf_event::SoftwareEvent;

use super::{Entry, Plan};
use crate::host::LockArguments;

/// What a program is attached to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hook {
    /// A raw tracepoint.
    Raw(&'static str),
    /// A classic tracepoint: its category and name.
    Record(&'static str, &'static str),
    /// A software event of perf, of tasks or of CPUs.
    Software(SoftwareEvent),
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raw(name) => write!(f, "the raw tracepoint {name}"),
            Self::Record(category, name) => write!(f, "the tracepoint {category}:{name}"),
            Self::Software(event) => write!(f, "the software event {event:?}"),
        }
    }
}

/// A program by its name in the object, and its hook.
pub(super) type Hooked = (&'static str, Hook);

/// The programs of a session, by the step of arming that attaches them.
#[derive(Debug)]
pub(super) struct Hooks {
    /// Births, execs, ends and names of tasks.
    pub(super) tasks: Vec<Hooked>,
    /// Moves between cgroups.
    pub(super) cgroup: Vec<Hooked>,
    /// Changes of address spaces, and population without events.
    pub(super) maps: Vec<Hooked>,
    /// Entries of faults, and the signals by which they fail.
    pub(super) entries: Vec<Hooked>,
    /// Completions of faults; entries too, where software events stand in for the tracepoints.
    pub(super) completions: Vec<Hooked>,
}

impl Hooks {
    /// Those that `plan` needs.
    pub(super) fn new(plan: &Plan) -> Self {
        let has_task_layout = plan.config.has_task_layout != 0;
        let mut tasks = if plan.from_records {
            vec![
                ("task_exec_record", Hook::Record("sched", "sched_process_exec")),
                ("task_exit_record", Hook::Record("sched", "sched_process_exit")),
            ]
        } else {
            vec![
                ("task_exec", Hook::Raw("sched_process_exec")),
                ("task_exit", Hook::Raw("sched_process_exit")),
            ]
        };
        let mut cgroup = Vec::new();
        if has_task_layout {
            // Records do not tell where the task is. And tasks are forgotten in interrupts, which may come while a
            // program runs: the kernel would skip one at a classic tracepoint then.
            tasks.push(("task_new", Hook::Raw("task_newtask")));
            tasks.push(("task_free", Hook::Raw("sched_process_free")));
        } else {
            tasks.push(("task_new_record", Hook::Record("task", "task_newtask")));
            tasks.push(("task_free_record", Hook::Record("sched", "sched_process_free")));
        }
        tasks.push(if has_task_layout && !plan.from_records {
            ("task_rename", Hook::Raw("task_rename"))
        } else {
            ("task_rename_record", Hook::Record("task", "task_rename"))
        });
        if plan.config.join_groups != 0 {
            cgroup.push(if has_task_layout {
                ("cgroup_attach", Hook::Raw("cgroup_attach_task"))
            } else {
                ("cgroup_attach_record", Hook::Record("cgroup", "cgroup_attach_task"))
            });
        }
        // Before the entries: a fault whose signal was missed would pass for one that was retried.
        let mut entries = vec![if plan.from_records {
            ("signal_generated_record", Hook::Record("signal", "signal_generate"))
        } else {
            ("signal_generated", Hook::Raw("signal_generate"))
        }];
        let mut completions = vec![
            ("fault_minor", Hook::Software(SoftwareEvent::PageFaultsMin)),
            ("fault_major", Hook::Software(SoftwareEvent::PageFaultsMaj)),
        ];
        match plan.entry {
            Entry::Tracepoints if plan.from_records => {
                entries.push(("fault_enter_user_record", Hook::Record("exceptions", "page_fault_user")));
                entries.push(("fault_enter_kernel_record", Hook::Record("exceptions", "page_fault_kernel")));
            }
            Entry::Tracepoints => {
                entries.push(("fault_enter_user", Hook::Raw("page_fault_user")));
                entries.push(("fault_enter_kernel", Hook::Raw("page_fault_kernel")));
            }
            Entry::Software => {
                completions.push(("fault_enter_software", Hook::Software(SoftwareEvent::PageFaults)));
            }
        }
        let mut maps = Vec::new();
        let (lock_released, lock_acquired) = ("mmap_lock_released", "mmap_lock_acquire_returned");
        match plan.lock {
            Some(_) if plan.from_records => {
                maps.push(("lock_released_record", Hook::Record("mmap_lock", lock_released)));
                maps.push(("lock_acquired_record", Hook::Record("mmap_lock", lock_acquired)));
            }
            Some(LockArguments::Plain) => {
                maps.push(("lock_released", Hook::Raw(lock_released)));
                maps.push(("lock_acquired", Hook::Raw(lock_acquired)));
            }
            Some(LockArguments::WithPath) => {
                maps.push(("lock_released_path", Hook::Raw(lock_released)));
                maps.push(("lock_acquired_path", Hook::Raw(lock_acquired)));
            }
            None => {}
        }
        // The record does not have the arguments of the call.
        if plan.follows_maps && plan.from_records && plan.config.has_task_pt_regs != 0 {
            maps.push(("call_returned_record", Hook::Record("raw_syscalls", "sys_exit")));
        } else if plan.follows_maps {
            maps.push(("call_returned", Hook::Raw("sys_exit")));
        }
        if plan.follows_maps && plan.config.has_requests != 0 {
            if !plan.from_records {
                maps.push(("request_completed", Hook::Raw("io_uring_complete")));
            } else if plan.config.completed_request != 0 {
                maps.push(("request_completed_record", Hook::Record("io_uring", "io_uring_complete")));
            }
        }
        Self { tasks, cgroup, maps, entries, completions }
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = Hooked> {
        let Self { tasks, cgroup, maps, entries, completions } = self;
        [tasks, cgroup, maps, entries, completions].into_iter().flatten().copied()
    }
}
