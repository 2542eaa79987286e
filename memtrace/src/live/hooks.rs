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
    /// Entries of faults.
    pub(super) entries: Vec<Hooked>,
    /// Completions of faults; entries too, where software events stand in for the tracepoints.
    pub(super) completions: Vec<Hooked>,
}

impl Hooks {
    /// Those that `plan` needs.
    pub(super) fn new(plan: &Plan) -> Self {
        let has_task_layout = plan.config.has_task_layout != 0;
        let mut tasks = vec![
            ("task_exec", Hook::Raw("sched_process_exec")),
            ("task_exit", Hook::Raw("sched_process_exit")),
        ];
        let mut cgroup = Vec::new();
        if has_task_layout {
            tasks.push(("task_new", Hook::Raw("task_newtask")));
            tasks.push(("task_free", Hook::Raw("sched_process_free")));
            tasks.push(("task_rename", Hook::Raw("task_rename")));
        } else {
            tasks.push(("task_new_record", Hook::Record("task", "task_newtask")));
            tasks.push(("task_free_record", Hook::Record("sched", "sched_process_free")));
            tasks.push(("task_rename_record", Hook::Record("task", "task_rename")));
        }
        if plan.config.join_groups != 0 {
            cgroup.push(if has_task_layout {
                ("cgroup_attach", Hook::Raw("cgroup_attach_task"))
            } else {
                ("cgroup_attach_record", Hook::Record("cgroup", "cgroup_attach_task"))
            });
        }
        let mut entries = Vec::new();
        let mut completions = vec![
            ("fault_minor", Hook::Software(SoftwareEvent::PageFaultsMin)),
            ("fault_major", Hook::Software(SoftwareEvent::PageFaultsMaj)),
        ];
        match plan.entry {
            Entry::Tracepoints => {
                entries.push(("fault_enter_user", Hook::Raw("page_fault_user")));
                entries.push(("fault_enter_kernel", Hook::Raw("page_fault_kernel")));
            }
            Entry::Software => {
                completions.push(("fault_enter_software", Hook::Software(SoftwareEvent::PageFaults)));
            }
        }
        let mut maps = Vec::new();
        if let Some(arguments) = plan.lock {
            let (released, acquired) = match arguments {
                LockArguments::Plain => ("lock_released", "lock_acquired"),
                LockArguments::WithPath => ("lock_released_path", "lock_acquired_path"),
            };
            maps.push((released, Hook::Raw("mmap_lock_released")));
            maps.push((acquired, Hook::Raw("mmap_lock_acquire_returned")));
        }
        if plan.follows_maps {
            maps.push(("call_returned", Hook::Raw("sys_exit")));
        }
        Self { tasks, cgroup, maps, entries, completions }
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = Hooked> {
        let Self { tasks, cgroup, maps, entries, completions } = self;
        [tasks, cgroup, maps, entries, completions].into_iter().flatten().copied()
    }
}
