//! How much memory processes had, as the kernel counts it.

use super::{ProcessId, Residency};
use crate::{
    event::{RssCounters, SpaceId, Tgid},
    units::{PageCount, Timestamp},
};

/// The kernel's counters of an address space at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RssRow {
    /// When they were read.
    pub time: Timestamp,
    /// Which address space.
    pub space: SpaceId,
    /// The process that was asked.
    pub tgid: Tgid,
    /// What they were.
    pub counters: RssCounters,
    /// What the regions of the address space have together by then; `None` if that is not followed.
    pub residency: Option<Residency>,
}

impl RssRow {
    /// Pages that the kernel counts as resident.
    #[must_use]
    pub fn counted(&self) -> PageCount {
        let RssCounters { anon, file, shmem, .. } = self.counters;
        [anon, file, shmem].into_iter().sum()
    }
}

/// Readings of the kernel's counters beside what is known of regions at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RssCheck {
    /// How many readings.
    pub readings: u64,
    /// The one that was farthest from what the regions have.
    pub largest: Option<RssDifference>,
}

/// A reading of counters, and what the regions had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RssDifference {
    /// When it was taken.
    pub time: Timestamp,
    /// Of which process.
    pub process: ProcessId,
    /// What the kernel counted.
    pub counted: PageCount,
    /// What the regions had.
    pub residency: Residency,
}

impl RssDifference {
    /// By how many pages they differ.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.counted.get().abs_diff(self.residency.pages.get())
    }
}

impl RssCheck {
    /// One more.
    pub fn add(&mut self, difference: RssDifference) {
        self.readings += 1;
        if self.largest.is_none_or(|largest| largest.pages() < difference.pages()) {
            self.largest = Some(difference);
        }
    }
}
