//! What was scanned, why, and what was not.

use std::collections::BTreeMap;

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

/// Base pages by what was seen of them; `None` where scans did not tell of all pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageCounts {
    /// In memory.
    pub present: PageCount,
    /// In swap, or another non-present entry.
    pub swapped: PageCount,
    /// Of a file or shared memory.
    pub file: PageCount,
    /// The zero page.
    pub zero: Option<PageCount>,
    /// Mapped by a huge entry.
    pub huge: Option<PageCount>,
    /// In memory, and mapped more than once, but for the zero page.
    pub shared: Option<PageCount>,
    /// In memory, and mapped just here.
    pub exclusive: Option<PageCount>,
    /// Merged by KSM.
    pub ksm: Option<PageCount>,
    /// In a large folio, and not mapped by a huge entry.
    pub mthp: Option<PageCount>,
    /// Of hugetlb.
    pub hugetlb: Option<PageCount>,
}

impl Default for PageCounts {
    /// No pages, of which everything is known.
    fn default() -> Self {
        let (none, known) = (PageCount::default(), Some(PageCount::default()));
        Self {
            present: none,
            swapped: none,
            file: none,
            zero: known,
            huge: known,
            shared: known,
            exclusive: known,
            ksm: known,
            mthp: known,
            hugetlb: known,
        }
    }
}

impl std::ops::AddAssign for PageCounts {
    fn add_assign(&mut self, other: Self) {
        let Self { present, swapped, file, zero, huge, shared, exclusive, ksm, mthp, hugetlb } = other;
        self.present += present;
        self.swapped += swapped;
        self.file += file;
        let sums = [
            (&mut self.zero, zero),
            (&mut self.huge, huge),
            (&mut self.shared, shared),
            (&mut self.exclusive, exclusive),
            (&mut self.ksm, ksm),
            (&mut self.mthp, mthp),
            (&mut self.hugetlb, hugetlb),
        ];
        for (sum, pages) in sums {
            *sum = sum.zip(pages).map(|(mut sum, pages)| {
                sum += pages;
                sum
            });
        }
    }
}
