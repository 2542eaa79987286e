//! The recording: an append-only log of compressed, checksummed chunks that survives a torn tail.
//!
//! Layer: codec. Input: [`Frame`](crate::decode::Frame)s in arrival order. Output: a file that gives back the same frames.
//! Source: RFC 8878 (zstd), IEEE 802.3 (CRC-32).
//! Keeps: a frame comes back byte for byte; damage costs the chunk it lies in, and shows as a loss.
//! Not here: what frames mean (`decode`), when to flush (`session`).
//!
//! A file is [`MAGIC`], the format version as a little-endian `u32`, and chunks: one header, any number of frames
//! chunks, one end mark. Header and end mark are JSON, so that a build which cannot read the frames can still say why.
#![forbid(unsafe_code)]

use std::{fmt, io, ops::Add, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    event::{FaultCounts, HostFacts},
    pagemap::PageEra,
    pipeline::{Detail, FocusOptions, Options},
    timeline::RowSet,
    units::{Nanos, TimeRange, Timestamp},
};

mod chunk;
mod columns;
mod frames;
mod reader;
mod replay;
mod symbols;
#[cfg(test)]
mod tests;
mod wire;
mod writer;

pub use reader::{Recording, Recovery};
pub use replay::{ReplayError, replay};
pub use symbols::add_symbols;
use wire::facts::{StoredCounts, StoredDetail, StoredFocus, StoredHost, known_counts};
pub use writer::Writer;

/// The first bytes of every recording.
pub const MAGIC: [u8; 8] = *b"memtrace";

/// Version of the file format. It stays: what is new gets a kind of item, of event or of column of its own, or stands behind what
/// was there, so that each build reads what an earlier one wrote, and of a later one what it knows.
pub const FORMAT_VERSION: u32 = 6;

/// Whether a file that begins with `head`, of some dozen bytes or all there are, is a recording. The magic is a word, which a text may
/// begin with too; but none has the zero bytes of the version behind it.
#[must_use]
pub fn is_recording(head: &[u8]) -> bool {
    head.strip_prefix(&MAGIC).is_some_and(|rest| rest.get(..4).is_none_or(|version| version.contains(&0)))
}

/// What a recording was made with, and of; its first chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of memtrace that recorded.
    pub memtrace_version: String,
    /// The traced machine.
    #[serde(with = "StoredHost")]
    pub host: HostFacts,
    /// What was asked for.
    pub capture: Capture,
    /// What the kernel had, and why the rest was not used.
    pub features: Vec<Feature>,
    /// How the host's words about pages are to be read; `None` in recordings of builds that did not say.
    #[serde(default)]
    pub page_era: Option<PageEra>,
}

impl Header {
    /// Options by which the pipeline makes what somebody `wants` of this recording.
    #[must_use]
    pub fn options(&self, wants: RowSet) -> Options {
        let Capture { interval, detail, follows_maps, verify, .. } = self.capture;
        let focus = self.capture.focus.clone();
        let sees_effects = self.feature("mmap_lock_tracepoint") == Some(&Availability::Usable);
        let stays = TimeRange::default();
        Options { interval, detail, follows_maps, sees_effects, verify, wants, stays, focus }
    }

    /// The state of the facility called `name` when the recording was made.
    #[must_use]
    pub fn feature(&self, name: &str) -> Option<&Availability> {
        let mut features = self.features.iter();
        features.find_map(|feature| (feature.name == name).then_some(&feature.state))
    }
}

/// What was asked for, and the state of the target when the probes were armed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "what can be asked for independently")]
pub struct Capture {
    /// The traced command and its arguments; empty if none was started.
    pub command: Vec<String>,
    /// The target in words.
    pub targets: String,
    /// Whether faults were recorded one by one or only counted.
    #[serde(with = "StoredDetail")]
    pub detail: Detail,
    /// Length of a timeline interval.
    pub interval: Nanos,
    /// Size of the ring of faults, in bytes.
    pub ring_bytes: u64,
    /// Whether new processes of traced ones were traced.
    pub follow_forks: bool,
    /// Whether changes of address spaces were followed; without it regions are those of readings of maps.
    pub follows_maps: bool,
    /// Whether processes were held at their exit, to compare their maps a last time.
    pub verify: bool,
    /// What was scanned.
    #[serde(with = "StoredFocus")]
    pub focus: FocusOptions,
    /// `min_flt` and `maj_flt` of the command when the probes were armed; `None` if there was no command.
    #[serde(default, with = "known_counts")]
    pub gate: Option<FaultCounts>,
    /// Whether stacks were recorded.
    #[serde(default)]
    pub stacks: bool,
}

impl fmt::Display for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.command.is_empty() {
            f.write_str(&self.targets)
        } else {
            f.write_str(&self.command.join(" "))
        }
    }
}

/// One facility of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feature {
    /// Its name, such as `pagemap_scan`.
    pub name: String,
    /// Whether it could be used.
    pub state: Availability,
}

/// Whether a facility can be used, or why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Availability {
    /// It can.
    Usable,
    /// It is there and was refused.
    Denied {
        /// The privilege or setting that it needs.
        need: String,
        /// A line to run that gives it.
        fix: String,
    },
    /// The kernel does not have it.
    Missing {
        /// The first release with it, or the configuration option.
        since: String,
    },
}

impl fmt::Display for Availability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usable => f.write_str("usable"),
            Self::Denied { need, fix } => write!(f, "denied: needs {need}: {fix}"),
            Self::Missing { since } => write!(f, "missing: {since}"),
        }
    }
}

/// How a recording ended; its last chunk, whose absence means that the recorder did not live to write it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// When recording stopped.
    pub time: Timestamp,
    /// What ended recording.
    pub ending: Ending,
    /// How the command ended; `None` if there was none or it ran on.
    pub exit: Option<ExitReason>,
    /// `ru_minflt` and `ru_majflt` of the command and of the children that it waited for, from `wait4`.
    #[serde(default, with = "known_counts")]
    pub rusage: Option<FaultCounts>,
    /// The programs' own totals.
    pub totals: Totals,
    /// What recording cost.
    pub cost: Cost,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.exit, self.ending) {
            (Some(ExitReason::Code(code)), _) => write!(f, "the command exited with {code}"),
            (Some(ExitReason::Signal(signal)), _) => write!(f, "the command was killed by signal {signal}"),
            (None, Ending::Target) => f.write_str("the target ended"),
            (None, Ending::Duration) => f.write_str("--duration was over"),
            (None, Ending::Signal(signal)) => write!(f, "signal {signal} stopped the recording"),
            (None, Ending::Failure) => f.write_str("recording failed"),
        }
    }
}

/// What ended recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The target.
    Target,
    /// `--duration`.
    Duration,
    /// This signal to memtrace.
    Signal(i32),
    /// Recording itself failed.
    Failure,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitReason {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Totals that the programs keep beside the rings, exact whatever the rings lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Completed faults that the programs saw.
    #[serde(with = "StoredCounts")]
    pub recorded: FaultCounts,
    /// Faults charged without an event.
    #[serde(with = "StoredCounts")]
    pub uncounted: FaultCounts,
    /// Fault records that found no room in their ring.
    pub lost_events: u64,
    /// Task records that found no room in theirs.
    pub lost_control: u64,
    /// Tasks that found no room in the table and went untraced.
    pub lost_tasks: u64,
    /// Faults counted in overflow cells of the heat array.
    pub heat_overflow: u64,
    /// Completions seen twice and counted once.
    pub duplicates: u64,
}

/// What recording cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// CPU time of memtrace, in nanoseconds.
    pub cpu_ns: u64,
    /// Time in kernel calls that scan a target and may hold its `mmap_lock`, in nanoseconds.
    pub lock_ns: u64,
    /// Scans of pages; recordings have another name for them.
    #[serde(rename = "looks")]
    pub scans: u64,
    /// Base pages that they covered.
    #[serde(rename = "looked_pages")]
    pub scanned_pages: u64,
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns.saturating_add(other.cpu_ns),
            lock_ns: self.lock_ns.saturating_add(other.lock_ns),
            scans: self.scans.saturating_add(other.scans),
            scanned_pages: self.scanned_pages.saturating_add(other.scanned_pages),
        }
    }
}

/// Why a recording cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The file could not be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// As given.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Reading failed.
    #[error("cannot read the recording")]
    Read(#[source] io::Error),
    /// Writing failed: a full disk, most often. What was written before can still be read.
    #[error("cannot write the recording")]
    Write(#[source] io::Error),
    /// One chunk would exceed what a reader accepts.
    #[error("cannot write the recording: a chunk of {bytes} bytes is too large")]
    ChunkTooLarge {
        /// Its size in bytes.
        bytes: usize,
    },
    /// There is nothing in the file.
    #[error("the file is empty: recording ended before it began, record again")]
    Empty,
    /// The file is something else.
    #[error("the file is not a recording of memtrace")]
    NotARecording,
    /// The file ends or is damaged before its header is complete.
    #[error("the recording is torn in its header and holds no events, record again")]
    TornHeader,
    /// The file has another format.
    #[error(
        "the recording has format {found} and this memtrace reads format {FORMAT_VERSION}: \
         read it with the version that recorded it"
    )]
    Format {
        /// The version in the file.
        found: u32,
    },
    /// The header is whole, and says something that this build does not know.
    #[error("the recording is of another memtrace: read it with memtrace {recorder}")]
    Header {
        /// Version of memtrace that recorded.
        recorder: String,
    },
}
