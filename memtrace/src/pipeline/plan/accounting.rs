//! Which scans were taken, and what they left out.

use std::collections::BTreeSet;

use crate::{
    event::{HeatReading, PageScan, SpaceId},
    region::Region,
    timeline::{ScanCount, ScanSummary},
    units::{Nanos, PageSize, Timestamp, VirtAddr},
};

/// Counts scans.
#[derive(Debug)]
pub(in crate::pipeline) struct ScanTotals {
    page: PageSize,
    interval: Nanos,
    /// Slots that the last reading found hot, and no scan has seen since.
    hot: BTreeSet<(SpaceId, VirtAddr)>,
    summary: ScanSummary,
}

impl ScanTotals {
    pub(in crate::pipeline) fn new(page: PageSize, interval: Nanos) -> Self {
        Self { page, interval, hot: BTreeSet::new(), summary: ScanSummary::default() }
    }

    /// The heat counters were read; `is_there` says which address spaces still have a process.
    pub(in crate::pipeline) fn read(&mut self, reading: &HeatReading, is_there: impl Fn(SpaceId) -> bool) {
        let slots = reading.cells.iter().filter_map(|cell| Some((cell.space?, cell.slot?.start())));
        let (there, gone): (BTreeSet<_>, BTreeSet<_>) = slots.partition(|(space, _)| is_there(*space));
        self.summary.hot_slots += (there.len() + gone.len()) as u64;
        self.summary.hot_slots_gone += gone.len() as u64;
        self.hot = there;
    }

    /// A scan of `space` was taken.
    pub(in crate::pipeline) fn add(&mut self, space: SpaceId, scan: &PageScan) {
        let PageScan { range, reason, .. } = scan;
        let count = ScanCount { scans: 1, pages: range.pages(self.page) };
        *self.summary.by_reason.entry(*reason).or_default() += count;
        let seen = self.hot.extract_if((space, range.start())..(space, range.end()), |_| true);
        self.summary.hot_slots_scanned += seen.count() as u64;
    }

    /// No scan saw `region`, which died at `died` if it did.
    pub(in crate::pipeline) fn miss(&mut self, region: &Region, died: Option<Timestamp>) {
        if region.traits.perms().starts_with(b"---") {
            return;
        }
        let unseen = &mut self.summary.unseen;
        unseen.regions += 1;
        unseen.bytes = unseen.bytes.saturating_add(region.range.bytes());
        unseen.brief += u64::from(died.is_some_and(|died| died.since(region.born) < self.interval));
    }

    pub(in crate::pipeline) fn into_summary(self) -> ScanSummary {
        self.summary
    }
}
