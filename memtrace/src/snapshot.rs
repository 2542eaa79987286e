//! A census in words: text for people, JSON and CSV for programs.
//!
//! Layer: codec. Input: a [`Snapshot`]. Output: text.
//! Source: `tools/mm/page-types.c` and `tools/mm/thpmaps` of the kernel for tables that scripts read; `proc_pid_smaps(5)`.
//! Keeps: what was not told is null in JSON, an empty field in CSV, and left out of text.
//! Not here: counting (`census`).
#![forbid(unsafe_code)]

mod csv;
mod flags;
mod json;
mod list;
#[cfg(test)]
mod tests;
mod text;
mod thp;

use std::collections::BTreeMap;

pub use self::{
    csv::CsvRegions,
    flags::{describe, table},
    list::{List, Listing},
    text::Text,
};
use crate::{
    census::{FileCensus, ProcessCensus, Rules, Sharers, Tally},
    units::{PageCount, Timestamp},
};

/// Version of the JSON; changes when a key changes its meaning or goes.
const SCHEMA: u32 = 1;

/// What was found at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// When it was begun.
    pub time: Timestamp,
    /// When that was, in nanoseconds since 1970.
    pub realtime_ns: i128,
    /// How words were read.
    pub rules: Rules,
    /// What was told.
    pub known: Known,
    /// What was scanned.
    pub subject: Subject,
    /// The sums over all of it.
    pub total: Tally,
    /// Paths of memory cgroups by inode, of those that are still there.
    pub cgroup_paths: BTreeMap<u64, String>,
}

/// What was scanned.
#[derive(Debug)]
pub enum Subject {
    /// Processes.
    Processes {
        /// Each of them.
        processes: Vec<ProcessCensus>,
        /// Frames by the set of processes that share them, which are numbers of `processes`; most first. `None` if they were too
        /// many.
        sharing: Option<Vec<(Sharers, PageCount)>>,
        /// How many that were found could not be scanned.
        passed_over: u64,
    },
    /// Files in the page cache.
    Files {
        /// Those that have pages there.
        files: Vec<FileCensus>,
        /// How many that were found could not be scanned.
        passed_over: u64,
    },
    /// All physical memory.
    System,
}

/// Which numbers of a [`Tally`] mean something; others were not asked for or are for more privileged users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is told or not, whatever the others are")]
pub struct Known {
    /// What goes by flags, and by numbers of frames.
    pub flags: bool,
    /// What goes by counts of mappings.
    pub mapcounts: bool,
    /// What goes by memory cgroup.
    pub cgroups: bool,
    /// Whether pages are mapped by entries of page middle directories.
    pub huge: bool,
    /// What goes by neighbouring pages: large folios, blocks and stretches. Of pages here and there it would be another.
    pub places: bool,
}

impl Snapshot {
    /// Whether each process was there until its last page was scanned.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        match &self.subject {
            Subject::Processes { processes, .. } => processes.iter().all(|process| process.is_complete),
            Subject::Files { .. } | Subject::System => true,
        }
    }
}

/// How text is printed.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "choices that people can make independently")]
pub struct Style {
    /// Flags as page-types shows them if asked for raw ones.
    pub is_raw: bool,
    /// Sums alone.
    pub is_rolled_up: bool,
    /// Counters that are 0 too.
    pub has_zeros: bool,
    /// When it was, for those that are followed by others.
    pub has_time: bool,
}
