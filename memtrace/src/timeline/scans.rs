//! What was scanned, why, and what was not.

use std::collections::BTreeMap;

use super::PageCounts;
use crate::{
    event::ScanReason,
    units::{PageCount, Timestamp},
};

/// All scans of pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanSummary {
    /// Scans by what asked for them.
    pub by_reason: BTreeMap<ScanReason, ScanCount>,
    /// Slots in which faults happened between two readings of the heat counters, each time counted.
    pub hot_slots: u64,
    /// Those of them whose process was gone when that became known.
    pub hot_slots_gone: u64,
    /// Those of them that were scanned before the next reading; others had to wait, or their process went.
    pub hot_slots_scanned: u64,
    /// Regions that no scan saw, but for those that allow no access.
    pub unseen: UnseenRegions,
}

impl ScanSummary {
    /// All scans together.
    #[must_use]
    pub fn total(&self) -> ScanCount {
        self.by_reason.values().fold(ScanCount::default(), |mut sum, count| {
            sum += *count;
            sum
        })
    }
}

/// A number of scans, and the pages that they covered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanCount {
    /// How many.
    pub scans: u64,
    /// Pages of address space, mapped or not.
    pub pages: PageCount,
}

impl std::ops::AddAssign for ScanCount {
    fn add_assign(&mut self, other: Self) {
        self.scans += other.scans;
        self.pages += other.pages;
    }
}

/// Regions that no scan saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnseenRegions {
    /// How many.
    pub regions: u64,
    /// Their sizes together.
    pub bytes: u64,
    /// How many of them were gone before an interval was over: no scan could have been in time.
    pub brief: u64,
}

/// Pages of a region, or of a process, as scans saw them last: each at its own time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageState {
    /// When the last scan was.
    pub scanned: Timestamp,
    /// What was seen.
    pub counts: PageCounts,
}

impl std::ops::AddAssign for PageState {
    fn add_assign(&mut self, other: Self) {
        self.scanned = self.scanned.max(other.scanned);
        self.counts += other.counts;
    }
}
