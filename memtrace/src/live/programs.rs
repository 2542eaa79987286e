//! The table of programs: what the kernel is watched for, and where.
//!
//! Layer: shell. Input: [`Plan`]. Output: [`Programs`].
//! Source: `memtrace_ebpf::names`; the programs are in `memtrace-ebpf/src/prog`.
//! Keeps: a program that the plan has no use for never meets the verifier.
//! Not here: loading and attaching (`probes`); why the steps are in this order (`target`).

use std::fmt;

use aya::programs::perf_event::SoftwareEvent;
use memtrace_ebpf::names::{self, Twins};

use super::{Entry, Plan};
use crate::host::LockArguments;

/// When programs are attached: those of a step together, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Births, execs, ends and names of tasks.
    Tasks,
    /// Moves between cgroups.
    Cgroup,
    /// Changes of address spaces, and population without events.
    Maps,
    /// Completions of faults; entries too, where software events stand in for the tracepoints.
    Completions,
    /// Entries of faults, and the signals by which they fail.
    Entries,
}

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

/// One thing that the kernel is watched for.
struct Probe {
    step: Step,
    /// Whether a session has a use for it, and the kernel has it.
    needed: Condition,
    /// Ways to watch for it; the first that fits is taken.
    ways: &'static [Way],
    /// Whether something is missing when the kernel skips its program; else runs only add to what others tell.
    is_loss_if_skipped: bool,
}

/// A program by its name in the object, its hook, and when it is the right one.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    hook: Hook,
    fits: Condition,
}

type Condition = fn(&Plan) -> bool;

const TABLE: &[Probe] = &[
    probe(Step::Tasks, always, &tracepoint(names::TASK_EXEC, "sched", "sched_process_exec", from_records)),
    probe(Step::Tasks, always, &tracepoint(names::TASK_EXIT, "sched", "sched_process_exit", from_records)),
    // Records do not tell where the task is. And tasks are forgotten in interrupts, which may come while a program runs: the
    // kernel would skip one at a classic tracepoint then.
    probe(Step::Tasks, always, &tracepoint(names::TASK_NEW, "task", "task_newtask", without_layout)),
    probe(Step::Tasks, always, &tracepoint(names::TASK_FREE, "sched", "sched_process_free", without_layout)),
    probe(
        Step::Tasks,
        always,
        &tracepoint(names::TASK_RENAME, "task", "task_rename", |plan| {
            from_records(plan) || without_layout(plan)
        }),
    ),
    probe(
        Step::Cgroup,
        |plan| plan.config.join_groups != 0,
        &tracepoint(names::CGROUP_ATTACH, "cgroup", "cgroup_attach_task", without_layout),
    ),
    probe(
        Step::Maps,
        |plan| plan.lock.is_some(),
        &lock(names::LOCK_RELEASED, names::LOCK_RELEASED_PATH, "mmap_lock_released"),
    ),
    probe(
        Step::Maps,
        |plan| plan.lock.is_some(),
        &lock(names::LOCK_ACQUIRED, names::LOCK_ACQUIRED_PATH, "mmap_lock_acquire_returned"),
    ),
    // The record does not have the arguments of the call.
    probe(
        Step::Maps,
        |plan| plan.follows_maps,
        &tracepoint(names::CALL_RETURNED, "raw_syscalls", "sys_exit", |plan| {
            from_records(plan) && plan.config.has_task_pt_regs != 0
        }),
    ),
    probe(
        Step::Maps,
        |plan| {
            plan.follows_maps
                && plan.config.has_requests != 0
                && (!from_records(plan) || plan.config.completed_request != 0)
        },
        &tracepoint(names::REQUEST_COMPLETED, "io_uring", "io_uring_complete", from_records),
    ),
    probe(Step::Completions, always, &software(names::FAULT_MINOR, SoftwareEvent::PageFaultsMin)),
    probe(Step::Completions, always, &software(names::FAULT_MAJOR, SoftwareEvent::PageFaultsMaj)),
    probe(
        Step::Completions,
        |plan| plan.entry == Entry::Software,
        &software(names::FAULT_ENTER_SOFTWARE, SoftwareEvent::PageFaults),
    ),
    // Before the entries: a fault whose signal was missed would pass for one that was retried.
    addition(
        Step::Entries,
        always,
        &tracepoint(names::SIGNAL_GENERATED, "signal", "signal_generate", from_records),
    ),
    addition(
        Step::Entries,
        |plan| plan.entry == Entry::Tracepoints,
        &tracepoint(names::FAULT_ENTER_USER, "exceptions", "page_fault_user", from_records),
    ),
    addition(
        Step::Entries,
        |plan| plan.entry == Entry::Tracepoints,
        &tracepoint(names::FAULT_ENTER_KERNEL, "exceptions", "page_fault_kernel", from_records),
    ),
];

/// What others tell nothing of: when the kernel skips its program, something is missing.
const fn probe(step: Step, needed: Condition, ways: &'static [Way]) -> Probe {
    Probe { step, needed, ways, is_loss_if_skipped: true }
}

/// What only adds to what others tell.
const fn addition(step: Step, needed: Condition, ways: &'static [Way]) -> Probe {
    Probe { is_loss_if_skipped: false, ..probe(step, needed, ways) }
}

const fn always(_: &Plan) -> bool {
    true
}

const fn from_records(plan: &Plan) -> bool {
    plan.from_records
}

const fn without_layout(plan: &Plan) -> bool {
    plan.config.has_task_layout == 0
}

/// A tracepoint: the classic one where its record is to be read, else the raw one.
const fn tracepoint(
    names: Twins,
    category: &'static str,
    name: &'static str,
    is_by_record: Condition,
) -> [Way; 2] {
    [
        Way { name: names.record, hook: Hook::Record(category, name), fits: is_by_record },
        Way { name: names.raw, hook: Hook::Raw(name), fits: always },
    ]
}

/// A tracepoint of the lock of a memory map, whose arguments differ between kernels.
const fn lock(names: Twins, with_path: &'static str, name: &'static str) -> [Way; 3] {
    let [record, raw] = tracepoint(names, "mmap_lock", name, from_records);
    let has_path: Condition = |plan| matches!(plan.lock, Some(LockArguments::WithPath));
    [record, Way { name: with_path, hook: Hook::Raw(name), fits: has_path }, raw]
}

/// A software event.
const fn software(name: &'static str, event: SoftwareEvent) -> [Way; 1] {
    [Way { name, hook: Hook::Software(event), fits: always }]
}

/// A program that a session attaches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attachable {
    /// Its name in the object.
    pub(super) name: &'static str,
    /// What it is attached to.
    pub(super) hook: Hook,
    step: Step,
    is_loss_if_skipped: bool,
}

/// The programs of a session.
#[derive(Debug)]
pub(super) struct Programs(Vec<Attachable>);

impl Programs {
    /// Those that `plan` needs.
    pub(super) fn new(plan: &Plan) -> Self {
        let needed = TABLE.iter().filter(|probe| (probe.needed)(plan));
        let chosen = needed.filter_map(|&Probe { step, needed: _, ways, is_loss_if_skipped }| {
            let Way { name, hook, fits: _ } = *ways.iter().find(|way| (way.fits)(plan))?;
            Some(Attachable { name, hook, step, is_loss_if_skipped })
        });
        Self(chosen.collect())
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = Attachable> {
        self.0.iter().copied()
    }

    /// Those of `step`.
    pub(super) fn of(&self, step: Step) -> impl Iterator<Item = Attachable> {
        self.iter().filter(move |program| program.step == step)
    }

    /// Those of which a run that the kernel skips is a loss.
    pub(super) fn missed_if_skipped(&self) -> impl Iterator<Item = Attachable> {
        self.iter().filter(|program| program.is_loss_if_skipped)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use memtrace_ebpf::Config;

    use super::{super::probes::OBJECT, *};

    /// A session of named tasks on a kernel that has everything.
    fn plan() -> Plan {
        Plan {
            config: Config { has_task_layout: 1, has_task_pt_regs: 1, has_requests: 1, ..Config::ZERO },
            cgroup_path: String::new(),
            entry: Entry::Tracepoints,
            lock: Some(LockArguments::Plain),
            follows_maps: true,
            from_records: false,
            ring_bytes: 1 << 20,
            possible_cpus: 2,
            stacks: false,
            verbose: false,
        }
    }

    fn names_of(plan: &Plan, step: Step) -> Vec<&'static str> {
        Programs::new(plan).of(step).map(|program| program.name).collect()
    }

    #[test]
    fn each_program_has_one_row_and_is_in_the_object() {
        let ways = TABLE.iter().flat_map(|probe| probe.ways);
        let names: Vec<_> = ways.map(|way| way.name).collect();

        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
        for name in names {
            let symbol = [b"\0", name.as_bytes(), b"\0"].concat();
            assert!(OBJECT.windows(symbol.len()).any(|bytes| bytes == symbol), "{name}");
        }
    }

    /// What a record does not tell is read from the task, which only the arguments have.
    #[test]
    fn births_stay_at_raw_tracepoints_where_the_types_of_the_kernel_are_known() {
        let tasks = |has_task_layout, from_records| {
            let config = Config { has_task_layout, ..plan().config };
            names_of(&Plan { config, from_records, ..plan() }, Step::Tasks)
        };

        assert_eq!(tasks(1, false), ["task_exec", "task_exit", "task_new", "task_free", "task_rename"]);
        assert_eq!(
            tasks(1, true),
            ["task_exec_record", "task_exit_record", "task_new", "task_free", "task_rename_record"]
        );
        assert_eq!(
            tasks(0, false),
            ["task_exec", "task_exit", "task_new_record", "task_free_record", "task_rename_record"]
        );
    }

    #[test]
    fn what_a_session_has_no_use_for_is_not_loaded() {
        let faults_alone = Plan { lock: None, follows_maps: false, ..plan() };

        assert_eq!(names_of(&faults_alone, Step::Maps), [""; 0]);
        assert_eq!(names_of(&faults_alone, Step::Cgroup), [""; 0]);
        assert_eq!(names_of(&faults_alone, Step::Completions), ["fault_minor", "fault_major"]);
    }

    #[test]
    fn lock_with_the_path_of_a_cgroup_has_programs_of_its_own() {
        let before_6_14 = Plan { lock: Some(LockArguments::WithPath), ..plan() };

        assert_eq!(names_of(&before_6_14, Step::Maps)[..2], ["lock_released_path", "lock_acquired_path"]);
        assert_eq!(names_of(&plan(), Step::Maps)[..2], ["lock_released", "lock_acquired"]);
    }
}
