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
/// Array of counters, a section per CPU.
pub const COUNTERS: &str = "COUNTERS";
/// The global that holds [`Config`](crate::Config).
pub const CONFIG: &str = "CONFIG";
/// The global that holds the path of the traced cgroup.
pub const CGROUP_PATH: &str = "CGROUP_PATH";
/// The global that tells which [`Call`](crate::Call) a system-call number is: a byte for each of
/// [`Call::NUMBERS`](crate::Call::NUMBERS), then as many for 32-bit programs.
pub const CALLS: &str = "CALLS";
