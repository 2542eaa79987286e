//! Names of maps, programs and globals that user space looks up in the object.

/// Ring buffer of task events and uncounted faults.
pub const CONTROL: &str = "CONTROL";
/// Ring buffers of faults.
pub const EVENTS: [&str; EVENT_RINGS] =
    ["EVENTS_0", "EVENTS_1", "EVENTS_2", "EVENTS_3", "EVENTS_4", "EVENTS_5", "EVENTS_6", "EVENTS_7"];
/// Rings of faults in the object.
pub const EVENT_RINGS: usize = 8;
/// Hash map from thread ID in the initial PID namespace to [`TaskState`](crate::TaskState).
pub const TASKS: &str = "TASKS";
/// Hash map from thread-group ID to address space: processes whose threads join when first seen.
pub const GROUPS: &str = "GROUPS";
/// Array of [`HeatCell`](crate::HeatCell), a section per CPU.
pub const HEAT: &str = "HEAT";
/// The iterator that writes a [`TaskIds`](crate::TaskIds) for each task.
pub const TASK_IDS: &str = "task_ids";
/// Ring buffer of [`StackEvent`](crate::StackEvent)s, complete or not.
pub const STACKS: &str = "STACKS";
/// Array of [`RuleBucket`](crate::RuleBucket)s, written by user space.
pub const RULES: &str = "RULES";
/// Array of the stacks that were sent, by the low bits of their hashes.
pub const SENT_STACKS: &str = "SENT_STACKS";
/// Elements of [`SENT_STACKS`] when stacks are recorded.
pub const SENT_STACKS_LEN: u32 = 1 << 16;
/// Array of counters, a section per CPU.
pub const COUNTERS: &str = "COUNTERS";
/// The global that holds [`Config`](crate::Config).
pub const CONFIG: &str = "CONFIG";
/// The global that holds the path of the traced cgroup.
pub const CGROUP_PATH: &str = "CGROUP_PATH";
/// The global that tells which [`Call`](crate::Call) a system-call number is: a byte for each of
/// [`Call::NUMBERS`](crate::Call::NUMBERS), then as many for 32-bit programs.
pub const CALLS: &str = "CALLS";

/// A program at a raw tracepoint, and its twin at the classic one, which does the same from the record.
#[derive(Clone, Copy, Debug)]
pub struct Twins {
    /// The name of the one at the raw tracepoint.
    pub raw: &'static str,
    /// The name of its twin.
    pub record: &'static str,
}

/// The names of twins.
macro_rules! twins {
    ($name:literal) => {
        Twins { raw: $name, record: concat!($name, "_record") }
    };
}

/// A fault in user mode begins.
pub const FAULT_ENTER_USER: Twins = twins!("fault_enter_user");
/// A fault in kernel mode begins.
pub const FAULT_ENTER_KERNEL: Twins = twins!("fault_enter_kernel");
/// A fault begins, by the software event of perf.
pub const FAULT_ENTER_SOFTWARE: &str = "fault_enter_software";
/// A signal is sent, maybe for a fault.
pub const SIGNAL_GENERATED: Twins = twins!("signal_generated");
/// A minor fault completes.
pub const FAULT_MINOR: &str = "fault_minor";
/// A major fault completes.
pub const FAULT_MAJOR: &str = "fault_major";
/// A memory map is locked.
pub const LOCK_ACQUIRED: Twins = twins!("lock_acquired");
/// As [`LOCK_ACQUIRED`], where the tracepoint has the path of a cgroup among its arguments (before Linux 6.14).
pub const LOCK_ACQUIRED_PATH: &str = "lock_acquired_path";
/// A memory map is unlocked.
pub const LOCK_RELEASED: Twins = twins!("lock_released");
/// As [`LOCK_RELEASED`], where the tracepoint has the path of a cgroup among its arguments (before Linux 6.14).
pub const LOCK_RELEASED_PATH: &str = "lock_released_path";
/// A system call returns.
pub const CALL_RETURNED: Twins = twins!("call_returned");
/// A request of `io_uring` is completed.
pub const REQUEST_COMPLETED: Twins = twins!("request_completed");
/// A task is born.
pub const TASK_NEW: Twins = twins!("task_new");
/// A task executes a program.
pub const TASK_EXEC: Twins = twins!("task_exec");
/// A task ends.
pub const TASK_EXIT: Twins = twins!("task_exit");
/// The kernel forgets a task.
pub const TASK_FREE: Twins = twins!("task_free");
/// A task gets another name.
pub const TASK_RENAME: Twins = twins!("task_rename");
/// A task moves to another cgroup.
pub const CGROUP_ATTACH: Twins = twins!("cgroup_attach");
