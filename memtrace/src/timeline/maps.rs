//! What rows and totals say of changes of address spaces.

use std::{collections::BTreeMap, sync::Arc};

use super::{Backing, CodePlace, ProcessId, RegionId, RegionLabel};
use crate::{
    event::{CallKind, Tgid, Tid, WaitStatus},
    units::{Nanos, Timestamp, VirtRange},
};

/// Something that changed an address space, or was meant to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapRow {
    /// When it took effect, as far as the kernel tells; else when the call returned.
    pub time: Timestamp,
    /// Process.
    pub tgid: Tgid,
    /// Thread.
    pub tid: Tid,
    /// The system call; or `exec` for a mapping that the kernel made for a new program, `stack` for growth by a fault,
    /// `fork`, `exit`, `unexplained`, `contradiction`.
    pub action: &'static str,
    /// Where; what the call gave, if it gave something.
    pub range: Option<VirtRange>,
    /// The four characters of maps, of the region that came of it, or that went.
    pub perms: Option<[u8; 4]>,
    /// Flags, mode or advice of the call.
    pub flags: Option<MapFlags>,
    /// What stands behind the region.
    pub backing: Option<Backing>,
    /// Path or bracketed name of the region.
    pub name: Option<Arc<[u8]>>,
    /// The region; of several, the first.
    pub region: Option<RegionId>,
    /// What the call returned, or its error number; `None` if it was no call.
    pub result: Option<Result<u64, i32>>,
    /// Whether a result that is no error is an address.
    pub gives_address: bool,
    /// Number of the caller's stack; `None` if that is not known.
    pub stack: Option<u64>,
    /// Where that stack begins: the instruction that made the call.
    pub caller: Option<CodePlace>,
    /// The process that has the copy of the address space, of a fork.
    pub child: Option<Tgid>,
    /// Path of the program for which the kernel made the mapping, if that is known.
    pub program: Option<Arc<[u8]>>,
    /// How the process ended; `None` if it did not, or the kernel has no BTF.
    pub status: Option<WaitStatus>,
}

impl MapRow {
    /// A row that says no more than this.
    #[must_use]
    pub const fn new(time: Timestamp, task: (Tgid, Tid), action: &'static str) -> Self {
        Self {
            time,
            tgid: task.0,
            tid: task.1,
            action,
            range: None,
            perms: None,
            flags: None,
            backing: None,
            name: None,
            region: None,
            result: None,
            gives_address: false,
            stack: None,
            caller: None,
            child: None,
            program: None,
            status: None,
        }
    }

    /// The same about the region with this label.
    #[must_use]
    pub fn with_label(self, label: Option<RegionLabel>) -> Self {
        let Some(RegionLabel { id, range: _, perms, backing, name, file_offset: _ }) = label else {
            return self;
        };
        Self { perms: Some(perms), backing: Some(backing), name: Some(name), region: Some(id), ..self }
    }
}

/// Numbers that a call was given, by the headers that name their bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapFlags {
    /// `MAP_*`
    Map(u64),
    /// `MREMAP_*`
    Remap(u64),
    /// One of `MADV_*`
    Advice(u64),
    /// `MLOCK_*`
    Lock(u64),
    /// `MCL_*`
    LockAll(u64),
    /// `SHM_*`
    Attach(u64),
    /// `UFFDIO_REGISTER_MODE_*`
    Watch(u64),
    /// Number of the system call during which something happened that nothing explains.
    During(u64),
}

/// Successful calls in one row of the timeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each counts calls of that name")]
pub struct MapTally {
    pub mmap: u64,
    pub munmap: u64,
    pub mremap: u64,
    pub mprotect: u64,
    pub madvise: u64,
    pub brk: u64,
    /// All others that concern address spaces.
    pub other: u64,
}

impl MapTally {
    /// Counts a successful call.
    pub const fn add(&mut self, kind: CallKind) {
        let count = match kind {
            CallKind::Mmap => &mut self.mmap,
            CallKind::Munmap => &mut self.munmap,
            CallKind::Mremap => &mut self.mremap,
            CallKind::Mprotect | CallKind::PkeyMprotect => &mut self.mprotect,
            CallKind::Madvise | CallKind::ProcessMadvise => &mut self.madvise,
            CallKind::Brk => &mut self.brk,
            CallKind::Mlock
            | CallKind::Munlock
            | CallKind::Mlockall
            | CallKind::Munlockall
            | CallKind::Shmat
            | CallKind::Shmdt
            | CallKind::RemapFilePages
            | CallKind::Mseal
            | CallKind::Prctl
            | CallKind::Userfaultfd => &mut self.other,
        };
        *count += 1;
    }
}

/// What became of address spaces over the whole session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapSummary {
    /// Successful calls by kind.
    pub calls: BTreeMap<CallKind, u64>,
    /// Failed calls by kind.
    pub failed: BTreeMap<CallKind, u64>,
    /// Comparisons with maps.
    pub identity: MapIdentity,
    /// By process.
    pub processes: BTreeMap<ProcessId, MappingProcess>,
    /// Calls of `madvise` by process and advice.
    pub advice: BTreeMap<(ProcessId, u64), Advised>,
    /// Mappings of one size that went by `munmap` as they had come by `mmap`, by process and size in bytes.
    pub churn: BTreeMap<(ProcessId, u64), Churn>,
}

/// How often the regions were compared with what the kernel shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapIdentity {
    /// Comparisons of which the outcome could have been a contradiction.
    pub checks: u64,
    /// Stretches of pages at which maps showed something else.
    pub contradictions: u64,
    /// Readings that could not be compared: of another address space than the one that they were expected to be of, from before
    /// a program was loaded, or with too many changes meanwhile.
    pub inconclusive: u64,
    /// Readings from which regions were learnt: at the start, after losses and after changes that nothing explains.
    pub resyncs: u64,
    /// Processes that ended without being held for a last comparison; `None` if none was to be.
    pub unverified: Option<u64>,
}

/// What one process mapped and unmapped, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MappingProcess {
    /// Successful calls.
    pub calls: u64,
    /// What its calls mapped.
    pub mapped: u64,
    /// What its calls unmapped, or replaced by other mappings.
    pub unmapped: u64,
    /// Whether it may have been more: the regions were doubtful at some of the calls.
    pub lower_bound: bool,
}

/// What one process gave one advice on by `madvise`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Advised {
    /// Successful calls.
    pub calls: u64,
    /// Bytes that were mapped where they were about.
    pub bytes: u64,
    /// Whether it may have been more: the regions were doubtful at some of the calls.
    pub lower_bound: bool,
}

/// Mappings of one size that a process made and took away again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Churn {
    /// How many.
    pub count: u64,
    /// Sum of their lifetimes.
    pub lifetime_sum: Nanos,
    /// The shortest lifetime.
    pub shortest: Nanos,
    /// The longest lifetime.
    pub longest: Nanos,
}
