//! Words for records that are missing.

use super::Cpu;
use crate::units::Timestamp;

/// Records known to be missing. Never silent: totals across it are lower bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Nothing was missing before.
    pub start: Timestamp,
    /// Nothing is missing after; `None` if nothing at all is known after.
    pub end: Option<Timestamp>,
    /// CPU that lost them, where known.
    pub cpu: Option<Cpu>,
    /// Why.
    pub cause: LossCause,
    /// How many records; `None` if it cannot be known.
    pub count: Option<u64>,
}

impl Loss {
    /// As many records are missing beside these; a sum beyond 2^64 - 1 stays there.
    pub fn add(&mut self, count: Option<u64>) {
        self.count = self.count.zip(count).map(|(sum, count)| sum.saturating_add(count));
    }

    /// Whether records of the time from `start` to `end`, which is not included, may be missing.
    #[must_use]
    pub fn touches(&self, start: Timestamp, end: Timestamp) -> bool {
        self.start < end && self.end.is_none_or(|until| start <= until)
    }
}

/// Why records are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LossCause {
    /// The ring of faults was full.
    EventsRing,
    /// The ring of task and map events was full.
    ControlRing,
    /// A ring of perf, which tells of new VMAs, was full; or there was none for a CPU that came.
    SideBand,
    /// The table of traced tasks was full: new tasks go untraced.
    TaskTable,
    /// A program that runs with the privileges of another user, or may not be read, is hidden from the events of perf.
    HiddenProgram,
    /// A record arrived after the reordering window had closed.
    Late,
    /// The recording ends without its end mark, or part of it cannot be read.
    TornTail,
    /// A record of a kind that this build does not know.
    UnknownKind,
    /// The kernel skipped a program that was at work on the same CPU already: for which process is not known.
    Skipped,
    /// The kernel counted faults of a target of which no event came at all.
    NoEvents,
    /// A CPU went or came: what ran on it meanwhile had no events of perf, which tell of completions and of new VMAs.
    CpuOffline,
}

impl LossCause {
    /// Whether changes of address spaces may be among what is missing.
    #[must_use]
    pub const fn hides_changes(self) -> bool {
        match self {
            Self::EventsRing => false,
            Self::ControlRing
            | Self::SideBand
            | Self::TaskTable
            | Self::HiddenProgram
            | Self::Late
            | Self::TornTail
            | Self::UnknownKind
            | Self::Skipped
            | Self::NoEvents
            | Self::CpuOffline => true,
        }
    }

    /// Whether births, programs and ends of tasks may be.
    #[must_use]
    pub const fn hides_tasks(self) -> bool {
        match self {
            Self::EventsRing | Self::SideBand | Self::HiddenProgram | Self::CpuOffline => false,
            Self::ControlRing
            | Self::TaskTable
            | Self::Late
            | Self::TornTail
            | Self::UnknownKind
            | Self::Skipped
            | Self::NoEvents => true,
        }
    }

    /// The word for it in the table `losses`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::EventsRing => "events_ring",
            Self::ControlRing => "control_ring",
            Self::SideBand => "side_band",
            Self::TaskTable => "task_table",
            Self::HiddenProgram => "hidden_program",
            Self::Late => "late",
            Self::TornTail => "torn_tail",
            Self::UnknownKind => "unknown_kind",
            Self::Skipped => "skipped",
            Self::NoEvents => "no_events",
            Self::CpuOffline => "cpu_offline",
        }
    }
}
