//! Per-CPU totals in the array `COUNTERS`, mapped into user space.

/// What a counter counts. The discriminant is its place in a CPU's section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Counter {
    /// Minor faults that completed in traced tasks, written to the ring or not.
    Minor = 0,
    /// Major faults that completed in traced tasks, written to the ring or not.
    Major = 1,
    /// Minor faults charged without an event.
    UncountedMinor = 2,
    /// Major faults charged without an event.
    UncountedMajor = 3,
    /// Fault records that found no room in their ring.
    LostEvents = 4,
    /// Records that found no room in `CONTROL`.
    LostControl = 5,
    /// Tasks that found no room in `TASKS` and go untraced.
    LostTasks = 6,
    /// Completions counted in an overflow cell of `HEAT`.
    HeatOverflow = 7,
    /// Completions seen twice and counted once: two perf events covered one task.
    Duplicates = 8,
    /// Address spaces numbered so far; gives each a number of its own.
    Spaces = 9,
    /// Dumps of stacks sent so far; gives each a number of its own.
    Dumps = 10,
}

impl Counter {
    /// Counters in one CPU's section: two cache lines, so that CPUs do not share any.
    pub const STRIDE: u32 = 16;
}

/// Index in `COUNTERS` of `counter` on `cpu`.
#[must_use]
pub const fn counter_index(cpu: u32, counter: Counter) -> u32 {
    cpu * Counter::STRIDE + counter as u32
}
