//! What a workload says that it did: the ground truth of a test.
//!
//! Input: none. Output: one line of JSON on stdout, written after the measured phase.
//! Keeps: counts are derived from what the program did, or from getrusage(2), never from memtrace.
//! Not here: doing it (`memory`, and the workloads).

use std::io::{self, Write as _};

use serde::{Deserialize, Serialize};

use crate::task::Usage;

/// What `touch` did in its measured phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Its process.
    pub pid: u32,
    /// Faults that must be found, by thread and address.
    pub areas: Vec<Area>,
    /// Pages that the kernel populated without raising an event.
    pub uncounted: u64,
    /// Growth of the fault counters of the calling thread over the phase.
    pub charged: Usage,
}

/// Faults of one thread in one range of addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Area {
    /// The thread.
    pub tid: u32,
    /// First address.
    pub start: u64,
    /// First address behind.
    pub end: u64,
    /// Completed minor faults.
    pub minor: u64,
    /// Completed major faults.
    pub major: u64,
    /// Faults that ended without a page, and were not tried again.
    pub failed: u64,
    /// Faults that ended without a page, followed at once by another one on the same page.
    pub retried: u64,
}

/// The first line of a workload that waits for a line on stdin before its phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Its process.
    pub pid: u32,
    /// Threads that it will use, the first one being the main thread's.
    pub tids: Vec<u32>,
}

/// What `storm` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storm {
    /// Pages touched for the first time: one fault each.
    pub faults: u64,
    /// Rounds of all threads.
    pub rounds: u64,
    /// Wall time in nanoseconds.
    pub ns: u64,
    /// Growth of the process's `ru_minflt` over the storm.
    pub minflt: u64,
}

/// What `witness` learnt from wait4(2) about its child and the descendants that the child waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Testimony {
    /// The child.
    pub pid: u32,
    /// Its `ru_minflt`.
    pub minflt: u64,
    /// Its `ru_majflt`.
    pub majflt: u64,
}

/// Prints `entry` as one line of JSON on stdout.
pub fn print(entry: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(entry)?;
    line.push(b'\n');
    io::stdout().lock().write_all(&line)
}
