//! What a workload says that it did: the ground truth of a test.
//!
//! Input: none. Output: one line of JSON on stdout, written after the measured phase.
//! Keeps: counts are derived from what the program did, or from getrusage(2), never from memtrace.
//! Not here: doing it (`memory`, and the workloads).

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    time::Instant,
};

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

/// What `comebacks` touched, took away and touched again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comebacks {
    /// Its process.
    pub pid: u32,
    /// Memory by what was done to it.
    pub stretches: BTreeMap<String, Comeback>,
}

/// Memory that was given back and touched again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comeback {
    /// Where it is in the end.
    pub stretch: Stretch,
    /// How many of them were at pages that had been there and had gone in this way.
    pub refaults: BTreeMap<String, u64>,
    /// How many of them brought this.
    pub outcomes: BTreeMap<String, u64>,
}

/// What the child of `turnover` mapped and unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turnover {
    /// The child.
    pub pid: u32,
    /// Bytes that its calls mapped.
    pub mapped: u64,
    /// Bytes that they unmapped or replaced.
    pub unmapped: u64,
    /// By how many bytes more was mapped after them, as the kernel counts.
    pub grown: i64,
}

/// What `stacks` did in one round, and from where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walks {
    /// Memory that was touched for the first time.
    pub touches: Vec<Touch>,
    /// Calls that changed the address space.
    pub calls: Vec<Call>,
}

/// Memory that was touched from one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touch {
    /// What is special about it.
    pub name: String,
    /// Where, and how many faults that were.
    pub area: Area,
    /// The system call in which the kernel touched it.
    pub syscall: Option<String>,
    /// Whether some frame of the stack is more than 16 KiB from the next one.
    pub is_far: bool,
    /// The stack.
    pub stack: Callers,
}

/// A system call that changed the address space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Its name.
    pub name: String,
    /// The thread.
    pub tid: u32,
    /// What it changed.
    pub stretch: Stretch,
    /// The stack.
    pub stack: Callers,
}

/// What a stack consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Callers {
    /// Innermost first.
    pub steps: Vec<Step>,
    /// What is beyond.
    pub base: Base,
}

/// A frame, or some.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// A function of the program.
    Function(String),
    /// One frame in the C library, that no symbol names.
    Inside,
    /// One frame in the C library or several; the outermost one is in a function with one of these names.
    Library(Vec<String>),
    /// The code that returns from a signal, at this address.
    Restorer(u64),
}

/// The outer end of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Base {
    /// Function `main` of the program somewhere, then the C library, then `_start`.
    Main,
    /// The C library's start of threads.
    Thread,
    /// More frames of the outermost function than are recorded.
    TooDeep,
}

/// What `vanish` lets go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vanishing {
    /// Its process.
    pub pid: u32,
    /// Memory by kind, of which every page is there at first.
    pub stretches: BTreeMap<String, Stretch>,
}

/// What `advise` asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advised {
    /// In order.
    pub advised: Vec<AdvisedStretch>,
}

/// Advice on some memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdvisedStretch {
    /// The memory.
    pub stretch: Stretch,
    /// One of `MADV_*`.
    pub advice: u32,
    /// 0, or an error number below.
    pub result: i32,
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
    /// Faults that raised SIGSEGV or SIGBUS.
    pub failed: u64,
    /// Faults in system calls that came back with `EFAULT`.
    pub refused: u64,
    /// Calls into the vsyscall page.
    pub emulated: u64,
    /// Faults that another signal interrupted, so that the access was made again.
    pub retried: u64,
    /// Faults that had no answer when the thread ended.
    pub unfinished: u64,
}

impl Area {
    /// How many faults this one has that `other` has not, or has otherwise; all that `other` has beyond it, if it has more.
    #[must_use]
    pub fn apart_from(&self, other: &Self) -> u64 {
        let counts = |area: &Self| {
            let Self {
                tid: _,
                start: _,
                end: _,
                minor,
                major,
                failed,
                refused,
                emulated,
                retried,
                unfinished,
            } = *area;
            [minor, major, failed, refused, emulated, retried, unfinished]
        };
        let (ours, theirs) = (counts(self), counts(other));
        let missing = ours.iter().zip(&theirs).map(|(one, other)| one.saturating_sub(*other)).sum();
        let more = theirs.iter().zip(&ours).map(|(one, other)| one.saturating_sub(*other)).sum();
        u64::max(missing, more)
    }
}

/// What `endings` did at one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// Where, and how the faults there ended.
    pub area: Area,
    /// How long the last access took by the clock of the program, in nanoseconds.
    pub took_ns: u64,
}

/// What `spaces` did to its address space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spaces {
    /// Its process.
    pub pid: u32,
    /// Where.
    pub place: Option<Stretch>,
    /// Steps of growth in user mode, and as many in the kernel.
    pub steps: u64,
    /// What maps calls `[heap]`.
    pub heap: Vec<Stretch>,
    /// Forked processes, with how many rows their maps have in `place`.
    pub children: Vec<(u32, u64)>,
}

/// A child that had the same process ID as another one, which had ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namesake {
    /// Their process ID.
    pub pid: u32,
    /// Name of the child.
    pub name: String,
    /// What wait4(2) said was charged to it.
    pub charged: Usage,
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
    /// The most memory that one of them had at once, in bytes, and never less than that of `witness`.
    pub peak_bytes: u64,
    /// Wall time from its start to its end, in nanoseconds.
    pub ns: u64,
}

/// What `mapstress` did, all processes that it made included.
///
/// Calls that libc makes by itself (stacks of threads, memory of malloc, the loader) are not in it, so its successes
/// are a lower bound for those of a kind; libc never needs mremap(2) here, so these are exact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stress {
    /// Its process.
    pub pid: u32,
    /// Calls by kind: `mmap`, `munmap`, `mremap`, `mprotect`, `madvise`, `brk`.
    pub calls: BTreeMap<String, Calls>,
    /// Children that ended without executing anything.
    pub forks: u64,
    /// Children that executed a program.
    pub execs: u64,
    /// Pages that the storm touched for the first time: one fault each.
    pub storm_faults: u64,
}

/// Calls of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calls {
    /// All of them.
    pub attempts: u64,
    /// Those that did what was asked for.
    pub successes: u64,
}

/// What `mapzoo` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zoo {
    /// Its process.
    pub pid: u32,
    /// Where each thing is.
    pub things: BTreeMap<String, Stretch>,
    /// Why a thing is not there.
    pub missing: BTreeMap<String, String>,
    /// Times that the page of code became executable.
    pub jit_flips: u64,
    /// What a child found that was forked after the advices about forks.
    pub child: Option<ForkedView>,
}

/// What `kinds` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kinds {
    /// Its process.
    pub pid: u32,
    /// What it mapped, and what that is.
    pub things: BTreeMap<String, Kind>,
    /// Why a thing is not there.
    pub missing: BTreeMap<String, String>,
}

/// Memory of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kind {
    /// Where.
    pub place: Stretch,
    /// What stands behind it, in the words of the table `regions`.
    pub backing: String,
    /// How its name ends.
    pub name: String,
}

/// Addresses of a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    /// First address.
    pub start: u64,
    /// First address behind.
    pub end: u64,
}

/// What a forked child of `mapzoo` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkedView {
    /// The child.
    pub pid: u32,
    /// Whether it has the memory with `MADV_DONTFORK`.
    pub has_dontfork: bool,
    /// A byte of the memory with `MADV_WIPEONFORK`, which is 1 in the parent.
    pub wipeonfork_byte: u8,
}

/// How fast a workload was that does the same thing over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CostModel {
    /// Times that it did it.
    pub turns: u64,
    /// Wall time of all turns in nanoseconds.
    pub ns: u64,
}

impl CostModel {
    /// That of `turns` turns, the first of which began at `begin`, and which have just ended.
    #[must_use]
    pub fn since(begin: Instant, turns: u64) -> Self {
        Self { turns, ns: u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX) }
    }
}

/// How fast the state of pages was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scan {
    /// Pages that were there.
    pub pages: u64,
    /// Wall time in nanoseconds.
    pub ns: u64,
    /// The most memory that the reader had at once, in bytes.
    pub peak_bytes: u64,
}

/// What `layout` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Its process.
    pub pid: u32,
    /// A forked child that holds a copy, if there is one.
    pub child: Option<u32>,
    /// Where its memory is.
    pub stretches: Vec<Stretch>,
    /// Pages of these that it touched.
    pub touched_pages: u64,
    /// Those of them that the kernel swapped out, as far as mincore(2) tells.
    pub swapped_pages: u64,
}

/// What the workload `outcome` has touched since it said so the last time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gifts {
    /// By what they are like.
    pub gifts: BTreeMap<String, Gift>,
    /// Whether it is done.
    pub are_all: bool,
}

/// A stretch of memory that was touched in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gift {
    /// The process that touched it.
    pub pid: u32,
    /// First address.
    pub start: u64,
    /// First address behind.
    pub end: u64,
    /// How many of its pages were touched, huge ones as one, each time counted.
    pub touched: u64,
    /// When all of them had been, in nanoseconds on `CLOCK_BOOTTIME`.
    pub time_ns: u64,
}

/// Prints `entry` as one line of JSON on stdout.
pub fn print(entry: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(entry)?;
    line.push(b'\n');
    io::stdout().lock().write_all(&line)
}
