//! What was looked at, why, and what was not.

use std::collections::BTreeMap;

use crate::{
    event::LookReason,
    units::{PageCount, Timestamp},
};

/// All looks at pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LookSummary {
    /// Looks by what asked for them.
    pub by_reason: BTreeMap<LookReason, LookCount>,
    /// Slots in which faults happened between two readings of the heat counters, each time counted.
    pub hot_slots: u64,
    /// Those of them whose process was gone when that became known.
    pub hot_slots_gone: u64,
    /// Those of them that were looked at before the next reading; others had to wait, or their process went.
    pub hot_slots_looked: u64,
    /// Regions that no look saw, but for those that allow no access.
    pub unseen: UnseenRegions,
}

impl LookSummary {
    /// All looks together.
    #[must_use]
    pub fn total(&self) -> LookCount {
        self.by_reason.values().fold(LookCount::default(), |mut sum, count| {
            sum += *count;
            sum
        })
    }
}

/// A number of looks, and the pages that they covered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LookCount {
    /// How many.
    pub looks: u64,
    /// Pages of address space, mapped or not.
    pub pages: PageCount,
}

impl std::ops::AddAssign for LookCount {
    fn add_assign(&mut self, other: Self) {
        self.looks += other.looks;
        self.pages += other.pages;
    }
}

/// Regions that no look saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnseenRegions {
    /// How many.
    pub regions: u64,
    /// Their sizes together.
    pub bytes: u64,
    /// How many of them were gone before an interval was over: no look could have been in time.
    pub brief: u64,
}

/// Pages of a region, or of a process, as looks saw them last: each slot of 2 MiB at its own time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageState {
    /// When the last look was.
    pub looked: Timestamp,
    /// In memory.
    pub present: PageCount,
    /// In swap, or another non-present entry.
    pub swapped: PageCount,
    /// Of a file or shared memory.
    pub file: PageCount,
    /// The zero page; `None` if looks could not tell.
    pub zero: Option<PageCount>,
    /// Mapped by a huge entry; `None` if looks could not tell.
    pub huge: Option<PageCount>,
}

impl std::ops::AddAssign for PageState {
    fn add_assign(&mut self, other: Self) {
        let Self { looked, present, swapped, file, zero, huge } = other;
        self.looked = self.looked.max(looked);
        self.present += present;
        self.swapped += swapped;
        self.file += file;
        for (sum, pages) in [(&mut self.zero, zero), (&mut self.huge, huge)] {
            *sum = sum.zip(pages).map(|(mut sum, pages)| {
                sum += pages;
                sum
            });
        }
    }
}
