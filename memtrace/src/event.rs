//! The vocabulary of everything the core may learn about the world.
//!
//! Layer: core. Input: none; these are the words that `decode` speaks and `pipeline` understands.
//! Keeps: unknown is an `Option` or an enum, never 0.
//! Not here: byte layouts (`memtrace_ebpf`), the file format (`record`).
#![forbid(unsafe_code)]

use std::fmt;

mod file;
mod loss;
mod map;
mod scan;
mod stack;
mod symbol;
mod syscall;

use serde::{Deserialize, Serialize};

use crate::units::{Nanos, PageCount, PageSize, Printable, Timestamp, VirtAddr, VirtRange};

pub use file::{Device, FileKind, MappedFile};
pub use loss::{Loss, LossCause};
pub use map::{CallKind, MapAction, MapCall, MapEvent, MapRequest, OUT_OF_MEMORY, ReportedVma, flags};
pub use scan::{
    MapsReading, Observation, PageScan, ProbeRequest, ProbeTarget, RssCounters, RssReading, ScanDepth,
    ScanReason, Seen, Vma,
};
pub use stack::{BuildId, Stack, StackEnd, StackFrame, StackId};
pub use symbol::{CodeFile, CodeSegment, Function, NamedCode, Symbols};
pub use syscall::syscall_name;

/// A thread-group ID in the recorder's PID namespace: what the command line calls a PID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Tgid(pub u32);

/// A thread ID in the recorder's PID namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tid(pub u32);

/// The number of a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cpu(pub u32);

/// How a process ended, as `wait(2)` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitStatus(pub u32);

impl WaitStatus {
    /// The code with which it exited; `None` if a signal ended it.
    #[must_use]
    pub const fn code(self) -> Option<u32> {
        if self.signal().is_none() { Some(self.0 >> 8 & 0xff) } else { None }
    }

    /// The signal that ended it, if one did.
    #[must_use]
    pub const fn signal(self) -> Option<u32> {
        match self.0 & 0x7f {
            0 => None,
            signal => Some(signal),
        }
    }
}

/// An address space (the kernel's `mm_struct`), numbered by the programs at birth, join or exec.
///
/// Never reused within a recording, and no kernel pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct SpaceId(pub u64);

impl SpaceId {
    /// The number that no address space has: it is not known which one is meant.
    pub const UNKNOWN: Self = Self(0);
}

/// The name of a task: at most 15 bytes, as the kernel keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Comm([u8; 16]);

impl Comm {
    /// The name that ends at the first zero byte of `bytes`.
    #[must_use]
    pub const fn from_raw(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The first 15 bytes of `text`.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        let mut bytes = [0; 16];
        let len = text.len().min(15);
        bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
        Self(bytes)
    }

    /// The name without the bytes after its end.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// All 16 bytes.
    #[must_use]
    pub const fn to_raw(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Printable::from_bytes(self.as_bytes()))
    }
}

/// Everything the core may learn, in arrival order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A page fault ended.
    Fault(Fault),
    /// A traced task changed.
    Task(TaskEvent),
    /// An address space changed.
    Map(Box<MapEvent>),
    /// The kernel charged faults without an event.
    Uncounted(Uncounted),
    /// A stack was seen for the first time.
    Stack(Box<Stack>),
    /// A mapped file has this build ID.
    BuildId(Box<BuildId>),
    /// Code has these names.
    Symbols(Box<Symbols>),
    /// The heat array was read.
    Heat(HeatReading),
    /// The kernel's counters of reclaim were read.
    Reclaim(ReclaimReading),
    /// A scan of a traced process.
    Observation(Observation),
    /// Records are missing here.
    Loss(Loss),
    /// Time passed: every event before it, less the reordering window, has arrived.
    Tick(Timestamp),
}

/// A page fault that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Completion; if it never completed, when that became known.
    pub time: Timestamp,
    /// Faulting thread.
    pub tid: Tid,
    /// CPU that it ended on.
    pub cpu: Cpu,
    /// Faulting address.
    pub addr: VirtAddr,
    /// Instruction pointer.
    pub ip: VirtAddr,
    /// What was attempted; `None` where the hardware's error code is not to be had.
    pub access: Option<Access>,
    /// Whether a present page refused the access; `None` where the error code is not to be had.
    pub protection: Option<bool>,
    /// Privilege level of the access.
    pub mode: Mode,
    /// How it ended.
    pub kind: FaultKind,
    /// Entry to completion; `None` if tracing began in between, or it never completed.
    pub latency: Option<Nanos>,
    /// Number of the system call in which the kernel faulted, on the traced architecture; `None` in user mode, or if unknown.
    pub syscall: Option<u32>,
    /// The stack of the thread in user mode.
    pub stack: Option<StackId>,
}

/// What a faulting instruction attempted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Exec,
}

/// Privilege level of a faulting access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// The program's own access.
    User,
    /// An access by the kernel on its behalf, such as the copy of `read(2)`.
    Kernel,
}

/// How a fault ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// Completed and charged to `min_flt`.
    Minor,
    /// Completed and charged to `maj_flt`; no I/O implied.
    Major,
    /// Never completed; SIGSEGV or SIGBUS followed.
    Failed,
    /// Never completed: an access of the kernel's own, which went on without the page.
    Refused,
    /// Never completed: the kernel emulated a call in the vsyscall page.
    Emulated,
    /// Never completed; the kernel returned to the instruction, to be executed again.
    Retried,
    /// Had not ended when the thread did, or tracing.
    Unfinished,
}

impl FaultKind {
    /// The word for it in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Minor => "minor",
            Self::Major => "major",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Emulated => "emulated",
            Self::Retried => "retried",
            Self::Unfinished => "unfinished",
        }
    }

    /// Whether the access was completed, and charged.
    #[must_use]
    pub const fn is_completed(self) -> bool {
        matches!(self, Self::Minor | Self::Major)
    }
}

/// Something a traced task did, or that became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskEvent {
    /// When.
    pub time: Timestamp,
    /// Its thread group.
    pub tgid: Tgid,
    /// Its thread.
    pub tid: Tid,
    /// What.
    pub action: TaskAction,
}

/// What a [`TaskEvent`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskAction {
    /// It made a new task.
    Fork {
        /// Thread group of the new task.
        child_tgid: Tgid,
        /// Thread of the new task.
        child_tid: Tid,
        /// Raw `CLONE_*` flags.
        clone_flags: u64,
        /// Address space of the new task.
        space: SpaceId,
        /// Address space of the parent.
        parent_space: SpaceId,
        /// Name of both.
        comm: Comm,
    },
    /// It replaced its address space.
    Exec {
        /// The new address space.
        space: SpaceId,
        /// Its thread ID before; differs if a thread other than the leader called.
        old_tid: Tid,
        /// Its new name.
        comm: Comm,
        /// Whether [`MapAction::Renewed`] told when the new address space began to fill.
        is_space_told: bool,
        /// Where its heap begins and its stack is, as far as known.
        landmarks: Landmarks,
        /// Whether the kernel took the events of perf away that follow the task: completions of faults, and new VMAs.
        is_hidden: bool,
        /// `total_vm` of the new address space: how many pages are mapped; `None` if unknown.
        total_vm: Option<PageCount>,
        /// The most pages that the process had resident at once before; `None` if unknown.
        max_rss: Option<PageCount>,
    },
    /// It ended.
    Exit {
        /// Its address space.
        space: SpaceId,
        /// Whether no task of its thread group was left but such as had come to their exit: of two, both may see that.
        group_dead: bool,
        /// What the kernel charged to it.
        account: Option<Account>,
        /// How its process ended, if it did; `None` if unknown.
        status: Option<WaitStatus>,
        /// The most pages that its process had resident at once, in all its programs, if it ended; `None` if unknown.
        max_rss: Option<PageCount>,
    },
    /// Tracing ended while it lived.
    Alive {
        /// Its address space.
        space: SpaceId,
        /// What the kernel charged to it.
        account: Option<Account>,
    },
    /// It got another name.
    Comm(Comm),
    /// It became traced other than by birth.
    Join {
        /// Its address space.
        space: SpaceId,
        /// Thread group of its parent, if known.
        parent: Option<Tgid>,
        /// Its name.
        comm: Comm,
    },
    /// What was charged to it between its exit and its end.
    Late {
        /// Beyond the account of its exit.
        account: Option<Account>,
    },
    /// It left the traced cgroup.
    Leave {
        /// What the kernel charged to it.
        account: Option<Account>,
    },
}

/// Places in an address space by which the kernel tells its heap and its first stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Landmarks {
    /// `mm->start_brk`: where the heap begins.
    pub start_brk: Option<VirtAddr>,
    /// `mm->start_stack`: an address in the stack of the main thread.
    pub start_stack: Option<VirtAddr>,
}

/// A number of minor and of major faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Minor faults.
    pub minor: u64,
    /// Major faults.
    pub major: u64,
}

impl std::ops::AddAssign for FaultCounts {
    /// A sum beyond 2^64 - 1 stays there: only a made-up recording has one.
    fn add_assign(&mut self, other: Self) {
        self.minor = self.minor.saturating_add(other.minor);
        self.major = self.major.saturating_add(other.major);
    }
}

impl FaultCounts {
    /// Minor and major faults together.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.minor.saturating_add(self.major)
    }
}

/// The kernel's fault counters of one task over its traced life, against what the programs saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Growth of `min_flt` and `maj_flt`, as the programs read them.
    pub kernel: FaultCounts,
    /// Completions that the programs saw, whether or not their records were lost.
    pub recorded: FaultCounts,
    /// Charged without an event.
    pub uncounted: FaultCounts,
}

impl std::ops::AddAssign for Account {
    fn add_assign(&mut self, other: Self) {
        self.kernel += other.kernel;
        self.recorded += other.recorded;
        self.uncounted += other.uncounted;
    }
}

/// Faults that the kernel charged to a task without raising an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uncounted {
    /// When the jump of the counters was noticed.
    pub time: Timestamp,
    /// Thread group of the task.
    pub tgid: Tgid,
    /// The task.
    pub tid: Tid,
    /// Its address space.
    pub space: SpaceId,
    /// How many.
    pub faults: FaultCounts,
    /// What the task was doing.
    pub cause: UncountedCause,
}

/// What a task was doing when the kernel populated memory without events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UncountedCause {
    /// The system call with this number on the traced architecture.
    Syscall(u32),
    /// Replacing its address space.
    Exec,
    /// Exiting.
    Exit,
    /// Dying of a signal of which the kernel writes a core dump.
    CoreDump,
    /// Running in user mode: no call explains it.
    User,
    /// A system call that the kernel could not name.
    UnknownCall,
    /// Running on a CPU whose completions were not seen for a time, perhaps ([`LossCause::CpuOffline`]).
    Unseen,
}

/// Growth of the heat counters since they were read before, over all CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeatReading {
    /// When they were read.
    pub time: Timestamp,
    /// Slots that grew, in order of address space and slot.
    pub cells: Vec<HeatCell>,
}

/// How many pages the kernel had reclaimed since it was booted, for the machine's need or for the limit of a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReclaimReading {
    /// When the counters were read.
    pub time: Timestamp,
    /// Pages of anonymous and of shared memory.
    pub swap_backed: u64,
    /// Pages of files, and of memory that `MADV_FREE` was advised for.
    pub file: u64,
}

/// Completed faults in one slot of one address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeatCell {
    /// Address space; `None` in the overflow cell that several share.
    pub space: Option<SpaceId>,
    /// Addresses of the slot (2 MiB); `None` for faults in slots that found no place in the table.
    pub slot: Option<VirtRange>,
    /// Faults since the reading before.
    pub faults: FaultCounts,
}

/// Facts about the traced host without which records mean nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// Base page size.
    pub page: PageSize,
    /// Architecture in the words of `uname -m`.
    pub arch: String,
    /// Kernel release in the words of `uname -r`.
    pub kernel_release: String,
    /// CPUs that were online.
    pub cpus: u32,
    /// Start of the session; times in exports count from here.
    pub start: Timestamp,
    /// `CLOCK_REALTIME` minus `CLOCK_BOOTTIME` at the start, in nanoseconds.
    pub realtime_offset_ns: i64,
    /// What lies on each device that is no disk, as far as memtrace itself saw it at the start.
    pub devices: Vec<(Device, FileKind)>,
    /// For which memory without a file a fault may bring more than a page, as chosen at the start; `None` if that is not known.
    pub large_folios: Option<LargeFolios>,
}

/// For which memory without a file the kernel may use large folios.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LargeFolios {
    /// All, but for what was advised against.
    Always,
    /// What `MADV_HUGEPAGE` was given for.
    Advised,
    /// None.
    Never,
}

#[cfg(test)]
impl HostFacts {
    /// A machine for tests: x86-64, two CPUs, a session that began at `start`.
    pub(crate) fn sample(start: Timestamp) -> Self {
        Self {
            page: PageSize::from_bytes(4096).expect("a power of two"),
            arch: "x86_64".to_owned(),
            kernel_release: "6.18.0".to_owned(),
            cpus: 2,
            start,
            realtime_offset_ns: -5,
            devices: vec![((0, 1), FileKind::SharedMemory)],
            large_folios: Some(LargeFolios::Advised),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_faults_stay_at_their_limit() {
        let most = FaultCounts { minor: u64::MAX, major: 1 };
        let mut sum = most;
        sum += most;

        assert_eq!(sum, FaultCounts { minor: u64::MAX, major: 2 });
        assert_eq!(sum.total(), u64::MAX);
    }
}
