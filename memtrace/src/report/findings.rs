//! What the numbers say that a programmer may want to change.
//!
//! Layer: codec. Input: [`Report`]. Output: [`Finding`]s.
//! Keeps: a finding tells what was seen, in numbers; its remedy says on what it depends.
//! Not here: layout (`text`, `json`).

use super::{
    Report,
    numbers::{Size, Time},
};
use crate::timeline::{Churn, ProcessId};

/// Something that a programmer may want to change.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// The sort of finding, one word.
    pub(super) kind: &'static str,
    /// The process.
    pub(super) process: ProcessId,
    /// What was seen.
    pub(super) seen: String,
    /// What helps.
    pub(super) remedy: String,
}

/// Mappings of one size that are worth a change of the program: each costs two calls and a fault for every page that is
/// touched anew, some 10 µs even for one page.
const MANY: u64 = 1_000;
/// Lifetime in nanoseconds from which on a mapping is more than a scratch buffer.
const LONG: u64 = 100_000_000;
/// Size in bytes up to which glibc never maps memory for one `malloc`, unless told so (`M_MMAP_THRESHOLD`).
const MALLOC_MAPS_ABOVE: u64 = 128 << 10;

impl Report {
    /// All findings, the most frequent thing first.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let worth = |churn: &Churn| churn.count > MANY && mean_lifetime(churn) < LONG;
        let churn = self.churn().into_iter().filter(|(_, _, churn)| worth(churn));
        churn.map(|(process, bytes, churn)| self.churn_finding(process, bytes, churn)).collect()
    }

    fn churn_finding(&self, process: ProcessId, bytes: u64, churn: &Churn) -> Finding {
        let at_least = if self.is_complete() { "" } else { "at least " };
        let seen = format!(
            "{at_least}{} mappings of {} were made and unmapped again, after {} on average",
            churn.count,
            Size(bytes),
            Time(mean_lifetime(churn)),
        );
        // Both: the threshold alone moves the ping-pong from mmap and munmap to brk.
        let malloc = if bytes > MALLOC_MAPS_ABOVE {
            "; where glibc's malloc maps it, set M_MMAP_THRESHOLD and M_TRIM_THRESHOLD above that size"
        } else {
            ""
        };
        let remedy =
            format!("keep the memory and use it again, or give back its pages with madvise instead{malloc}");
        Finding { kind: "churn", process, seen, remedy }
    }

    /// Mappings of one size in bytes that a process made and took away again, the most frequent first.
    pub(super) fn churn(&self) -> Vec<(ProcessId, u64, &Churn)> {
        let churn = self.summary.maps.churn.iter();
        let mut churn: Vec<_> = churn.map(|((process, bytes), churn)| (*process, *bytes, churn)).collect();
        churn.sort_by_key(|(_, _, churn)| std::cmp::Reverse(churn.count));
        churn
    }
}

/// Mean lifetime in nanoseconds.
pub(super) fn mean_lifetime(churn: &Churn) -> u64 {
    churn.lifetime_sum.get().checked_div(churn.count).unwrap_or_default()
}
