//! What close scans tell of single pages: the outcomes of faults, and what changed between scans.

use crate::{
    event::Tgid,
    pagemap::PageFlags,
    timeline::RegionId,
    units::{Nanos, PageCount, Pfn, Timestamp, VirtRange},
};

/// What a fault brought, as the first close scan after it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultOutcome {
    /// What it was.
    pub kind: OutcomeKind,
    /// How many pages came with it: its folio as far as that is mapped, and of a file those around that came along; `None` if it
    /// is not told, or not known which were there before.
    pub pages: Option<PageCount>,
    /// Time from the fault to the scan.
    pub lag: Nanos,
}

/// Kinds of what faults bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OutcomeKind {
    /// Fresh anonymous memory.
    Anon,
    /// The zero page, or the huge one.
    Zero,
    /// Pages of a file, or of shared memory, that of hugetlb too. Whether the fault made them or they were there before, nobody
    /// says.
    File,
    /// Memory that had been swapped out.
    Swap,
    /// A copy of a page that others have too.
    Copy,
    /// Leave to write to the page that was there.
    Reuse,
    /// Leave to write where there was a page: to that one, to a copy of it, or to fresh memory in the place of the zero page. Which of
    /// them is not known.
    WriteProtect,
    /// A fresh page of hugetlb, private.
    Hugetlb,
}

impl OutcomeKind {
    /// How many of `pages` that faults brought were taken for them, and charged to a cgroup or taken from a pool of hugetlb; `None`
    /// if that is not known.
    #[must_use]
    pub fn fresh(self, pages: Option<PageCount>) -> Option<PageCount> {
        match self {
            Self::Anon | Self::Copy | Self::Hugetlb => pages,
            Self::Zero | Self::Reuse => Some(PageCount::default()),
            // They may have been in the page cache, or in the swap cache.
            Self::File | Self::Swap | Self::WriteProtect => None,
        }
    }

    /// How many pages a fault brought where nothing can have come along with its own.
    #[must_use]
    pub const fn pages_alone(self) -> Option<PageCount> {
        match self {
            Self::Anon | Self::Zero | Self::Copy | Self::Reuse => Some(PageCount::new(1)),
            Self::File | Self::Swap | Self::Hugetlb | Self::WriteProtect => None,
        }
    }

    /// The word for it in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Anon => "anon",
            Self::Zero => "zero",
            Self::File => "file",
            Self::Swap => "swap",
            Self::Copy => "copy",
            Self::Reuse => "reuse",
            Self::WriteProtect => "write-protect",
            Self::Hugetlb => "hugetlb",
        }
    }
}

/// Why it is not known what a fault brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OutcomeUnknown {
    /// No known region held the address.
    NoRegion,
    /// No close scan came before the row was due.
    NotScanned,
    /// Another fault at the page came before the scan.
    FaultedAgain,
    /// A call took the page before the scan.
    Taken,
    /// The scan found no page there.
    Gone,
    /// Another fault was under way at the page.
    Raced,
    /// What the scan found allows for more than one.
    Unclear,
}

impl OutcomeUnknown {
    /// The word for it in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoRegion => "no_region",
            Self::NotScanned => "not_scanned",
            Self::FaultedAgain => "faulted_again",
            Self::Taken => "taken",
            Self::Gone => "gone",
            Self::Raced => "raced",
            Self::Unclear => "unclear",
        }
    }

    /// What it means, in one line.
    #[must_use]
    pub const fn doc(self) -> &'static str {
        match self {
            Self::NoRegion => "in no known region",
            Self::NotScanned => "no close scan of the page came in time",
            Self::FaultedAgain => "another fault at the page came before the scan",
            Self::Taken => "a call took the page before the scan",
            Self::Gone => "the page had gone when it was scanned",
            Self::Raced => "another fault was under way at the page",
            Self::Unclear => "what the scan found allows for more than one",
        }
    }
}

/// Faults that gave the same, together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutcomeTotals {
    /// How many faults.
    pub faults: u64,
    /// Those of which it is known how many pages they brought.
    pub sized: u64,
    /// What these brought.
    pub known_pages: PageCount,
    /// Sum of their known latencies.
    pub latency_sum: Nanos,
}

impl OutcomeTotals {
    /// What they brought in all; `None` if that is not known of each.
    #[must_use]
    pub fn pages(&self) -> Option<PageCount> {
        (self.sized == self.faults).then_some(self.known_pages)
    }
}

/// What forks of a process cost: writes to pages that it shared with children which had not executed a program yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForkTax {
    /// Children that it forked.
    pub forks: u64,
    /// What the process itself wrote to while there were such children.
    pub by_parent: CopyTotals,
    /// What its children wrote to.
    pub by_children: CopyTotals,
}

/// Write faults at present pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyTotals {
    /// How many.
    pub faults: u64,
    /// Sum of their known latencies.
    pub latency_sum: Nanos,
}

/// Consecutive pages that are in another state than at the scan before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRow {
    /// When the scan began that shows it.
    pub time: Timestamp,
    /// Their process.
    pub tgid: Tgid,
    /// Their region.
    pub region: RegionId,
    /// Where they lie.
    pub range: VirtRange,
    /// How many they are.
    pub pages: PageCount,
    /// What they are now.
    pub state: PageKind,
    /// What they were.
    pub prev_state: PageKind,
    /// The frame of the first of them now.
    pub pfn: Option<Pfn>,
    /// The frame of the first of them before.
    pub prev_pfn: Option<Pfn>,
    /// Flags of their frames now.
    pub flags: Option<PageFlags>,
    /// Pages of their folio as far as it is mapped here, as a power of two; `None` if they are absent, or it is not told.
    pub order: Option<u32>,
    /// What changed them.
    pub cause: PageCause,
}

/// States of pages that are distinguished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// Nothing is there.
    Absent,
    /// In swap, or another non-present entry.
    Swapped,
    /// A guard region.
    Guard,
    /// The zero page.
    Zero,
    /// Of hugetlb.
    Hugetlb,
    /// Mapped by a huge entry.
    Huge,
    /// In a large folio, mapped page by page.
    Mthp,
    /// In a large folio, where it is not told how that is mapped.
    Thp,
    /// Merged by KSM.
    Ksm,
    /// In a frame of its own.
    Small,
    /// In memory, where no more is told.
    Present,
}

impl PageKind {
    /// The word for it in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Swapped => "swapped",
            Self::Guard => "guard",
            Self::Zero => "zero",
            Self::Hugetlb => "hugetlb",
            Self::Huge => "huge",
            Self::Mthp => "mthp",
            Self::Thp => "thp",
            Self::Ksm => "ksm",
            Self::Small => "small",
            Self::Present => "present",
        }
    }
}

/// What changed pages, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageCause {
    /// A fault at one of them, or at a page of the same folio.
    Fault,
    /// A fault at a page of the same file nearby.
    FaultAround,
    /// A call that maps, unmaps or gives advice.
    Call,
    /// The kernel moved them to other frames.
    Migration,
    /// The kernel made a huge page of them.
    Collapse,
    /// The kernel mapped them page by page.
    Split,
    /// The kernel merged them with others.
    Merge,
    /// The kernel took them away for want of memory: they are in swap, or it reclaimed pages of their kind meanwhile.
    Reclaim,
    /// Nothing that was seen.
    Unknown,
}

impl PageCause {
    /// The word for it in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fault => "fault",
            Self::FaultAround => "fault-around",
            Self::Call => "call",
            Self::Migration => "migration",
            Self::Collapse => "collapse",
            Self::Split => "split",
            Self::Merge => "merge",
            Self::Reclaim => "reclaim",
            Self::Unknown => "unknown",
        }
    }
}
