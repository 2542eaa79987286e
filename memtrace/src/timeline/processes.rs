//! Processes: where they came from, what they ran, how they ended, and what that took.

use std::sync::Arc;

use super::{PageState, ProcessId};
use crate::{
    event::{Account, Comm, FaultCounts, SpaceId, Tgid, WaitStatus},
    units::{Nanos, PageCount, Timestamp},
};

/// One traced process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessSummary {
    /// Which process.
    pub id: ProcessId,
    /// Its last known name.
    pub comm: Comm,
    /// Completed faults in fault records.
    pub faults: FaultCounts,
    /// Faults charged without an event; `None` if none was seen and no account tells that there was none.
    pub uncounted: Option<FaultCounts>,
    /// Sum of the accounts of its tasks; `None` until one ended.
    pub account: Option<Account>,
    /// Pages of the regions that it had at its end, or that of the recording, as last seen; `None` if no scan saw any.
    pub pages: Option<PageState>,
    /// Its last address space.
    pub space: Option<SpaceId>,
    /// Thread group that made it, if known.
    pub parent: Option<Tgid>,
    /// Path of the program that it executed last; `None` if that is not known.
    pub program: Option<Arc<[u8]>>,
    /// When it ended; `None` if it did not, or nobody saw it.
    pub died: Option<Timestamp>,
    /// How it ended; `None` if it did not, or that is not known.
    pub status: Option<WaitStatus>,
    /// The most pages that were resident at once in its last address space.
    pub peak: PeakRss,
    /// Sum of the known latencies of its faults; `None` where they were counted without records.
    pub stall: Option<Nanos>,
    /// Whether a loss touches its life: counts are at least these.
    pub lower_bound: bool,
}

/// The most pages that were resident at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeakRss {
    /// The kernel's high-water mark when nothing came any more; `None` if it was not read then.
    pub exact: Option<PageCount>,
    /// What it was when it was read last; `None` if it never was.
    pub seen: Option<PageCount>,
}
