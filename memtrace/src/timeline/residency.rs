//! How much is resident, and what was resident before.

use crate::units::{Nanos, PageCount};

/// How much of some pages is resident, as far as is known: as scanned last, and as faults and calls changed it since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Residency {
    /// Present, and not the zero page.
    pub pages: PageCount,
    /// Pages of which it is not known whether they are.
    pub unknown: PageCount,
}

impl std::ops::AddAssign for Residency {
    fn add_assign(&mut self, other: Self) {
        self.pages += other.pages;
        self.unknown += other.unknown;
    }
}

/// How a page went that was resident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Departure {
    /// By `madvise`.
    Advice,
    /// It was unmapped, or something else was mapped in its place.
    Unmap,
    /// The kernel reclaimed it.
    Reclaim,
    /// Not known: no call of its process took it.
    Unknown,
}

impl Departure {
    /// The word for it in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Advice => "advice",
            Self::Unmap => "unmap",
            Self::Reclaim => "reclaim",
            Self::Unknown => "unknown",
        }
    }
}

/// A fault at a page that had been resident, and had gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refault {
    /// How it went.
    pub of: Departure,
    /// Since when it was gone; if a scan found that, since that.
    pub age: Nanos,
}

/// Faults at pages that had been resident, together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RefaultTotals {
    /// How many.
    pub faults: u64,
    /// Sum of their known latencies.
    pub latency_sum: Nanos,
}
