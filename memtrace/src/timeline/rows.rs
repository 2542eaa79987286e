//! What the pipeline puts out, and what of it is wanted.

use super::{FaultRow, FrameRow, MapRow, PageRow, ProcessSummary, RegionSummary, RssRow, TimelineRow};
use crate::event::Loss;

/// What the pipeline puts out, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// An interval closed.
    Timeline(TimelineRow),
    /// A fault, in time order.
    Fault(FaultRow),
    /// A change of an address space, in time order.
    Map(MapRow),
    /// A region that is no more, or was there at the end.
    Region(RegionSummary),
    /// Pages changed between two scans, in the order of the scans.
    Pages(PageRow),
    /// A frame of a stack that rows name from now on, innermost first.
    Frame(FrameRow),
    /// The kernel's counters of an address space were read.
    Rss(RssRow),
    /// A process, at the end of the recording.
    Process(ProcessSummary),
    /// Records are missing.
    Loss(Loss),
}

bitflags::bitflags! {
    /// What is wanted of a run of the pipeline: rows by table, and sums. What is not wanted takes neither time nor memory.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RowSet: u16 {
        /// [`Row::Timeline`].
        const TIMELINE = 1;
        /// [`Row::Fault`].
        const FAULTS = 1 << 1;
        /// [`Row::Map`].
        const MAPS = 1 << 2;
        /// [`Row::Region`].
        const REGIONS = 1 << 3;
        /// [`Row::Pages`].
        const PAGES = 1 << 4;
        /// [`Row::Loss`].
        const LOSSES = 1 << 5;
        /// No rows: the sums by process, also of those that ended, and by outcome of faults, in the [`Summary`](super::Summary).
        const SUMS = 1 << 6;
        /// [`Row::Frame`].
        const FRAMES = 1 << 7;
        /// [`Row::Rss`].
        const RSS = 1 << 8;
        /// [`Row::Process`]; it takes the sums too.
        const PROCESSES = 1 << 9 | Self::SUMS.bits();
    }
}
