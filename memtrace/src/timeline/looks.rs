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
    /// What was seen.
    pub counts: PageCounts,
}

impl std::ops::AddAssign for PageState {
    fn add_assign(&mut self, other: Self) {
        self.looked = self.looked.max(other.looked);
        self.counts += other.counts;
    }
}

/// Base pages by what was seen of them; `None` where looks did not tell of all pages.
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
