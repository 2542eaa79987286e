//! Words for what happens to address spaces.

use super::{FileKind, Landmarks, MappedFile, SpaceId, StackId, Tgid, Tid, Vma};
use crate::units::{PageCount, Timestamp, VirtAddr, VirtRange};

/// Something that changed an address space, or was meant to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapEvent {
    /// When it took effect, as far as the kernel tells; else when the call returned.
    pub time: Timestamp,
    /// Thread group of the task that did it.
    pub tgid: Tgid,
    /// The task.
    pub tid: Tid,
    /// What happened.
    pub action: MapAction,
}

impl MapEvent {
    /// The stack of the caller, if a call did it.
    #[must_use]
    pub const fn stack(&self) -> Option<StackId> {
        match &self.action {
            MapAction::Call { call, .. } => call.stack,
            _ => None,
        }
    }
}

/// What a [`MapEvent`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapAction {
    /// The kernel shows this VMA from now on, in the address space that the task lives in.
    Shown(ReportedVma),
    /// A system call returned.
    Call {
        /// Address space of the caller.
        space: SpaceId,
        /// What was asked for, and what came of it.
        call: MapCall,
    },
    /// A new address space is a copy of another one.
    Copied {
        /// The copied one.
        parent: SpaceId,
        /// The copy.
        child: SpaceId,
        /// The end of its heap, where the kernel tells: it is that of a moment before.
        brk: Option<VirtAddr>,
        /// `total_vm` of the copy: how many pages are mapped; `None` if unknown.
        total_vm: Option<PageCount>,
    },
    /// The task lives in a new address space, which is empty and fills from now on.
    Renewed {
        /// The new one.
        space: SpaceId,
    },
    /// A task that is executing a program unmapped the last pages of what it had mapped just before: what lies behind the
    /// first segment of an ELF file.
    Trimmed {
        /// The new address space.
        space: SpaceId,
        /// How many.
        pages: PageCount,
    },
    /// Something changed that no other event tells of.
    Unexplained {
        /// The changed address space.
        space: SpaceId,
        /// Number of the system call in flight on the traced architecture.
        syscall: u64,
    },
}

/// A VMA as perf's `PERF_RECORD_MMAP2` shows it: after the kernel has merged it with its neighbours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportedVma {
    /// As maps would show it.
    pub vma: Vma,
    /// What its file is, as far as that is known; perf shows huge pages alone.
    pub kind: Option<FileKind>,
}

/// A system call that concerns an address space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapCall {
    /// What was asked for.
    pub request: MapRequest,
    /// What it returned: an address for calls that give one, else 0; or the error number.
    pub result: Result<u64, i32>,
    /// Whether other pages may be mapped than before, so that a call that failed did something all the same.
    pub may_have_resized: bool,
    /// The file that it mapped, if there is one and it could be read.
    pub file: Option<MappedFile>,
    /// The stack of the caller.
    pub stack: Option<StackId>,
}

/// What a [`MapCall`] asked for; lengths in bytes, flags and protections as the kernel's headers number them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the arguments have the names of the manual pages")]
pub enum MapRequest {
    /// `mmap(2)`
    Mmap { addr: VirtAddr, length: u64, prot: u64, flags: u64, offset: u64 },
    /// `munmap(2)`
    Munmap { addr: VirtAddr, length: u64 },
    /// `mremap(2)`
    Mremap { old_addr: VirtAddr, old_size: u64, new_size: u64, flags: u64, new_addr: VirtAddr },
    /// `brk(2)`
    Brk { addr: VirtAddr },
    /// `mprotect(2)`, or `pkey_mprotect(2)` with its key
    Mprotect { addr: VirtAddr, length: u64, prot: u64, pkey: Option<u64> },
    /// `madvise(2)`
    Madvise { addr: VirtAddr, length: u64, advice: u64 },
    /// `process_madvise(2)`: advice to the process behind a descriptor
    ProcessMadvise { advice: u64 },
    /// `mlock(2)` and `mlock2(2)`
    Mlock { addr: VirtAddr, length: u64, flags: u64 },
    /// `munlock(2)`
    Munlock { addr: VirtAddr, length: u64 },
    /// `mlockall(2)`
    Mlockall { flags: u64 },
    /// `munlockall(2)`
    Munlockall,
    /// `shmat(2)`
    Shmat { id: u64, addr: VirtAddr, flags: u64 },
    /// `shmdt(2)`
    Shmdt { addr: VirtAddr },
    /// `remap_file_pages(2)`
    RemapFilePages { addr: VirtAddr, size: u64, flags: u64 },
    /// `mseal(2)`
    Mseal { addr: VirtAddr, length: u64 },
    /// `prctl(PR_SET_VMA)`; an empty name takes one away
    SetName { addr: VirtAddr, length: u64, name: Vec<u8> },
    /// `prctl(PR_SET_MM)`, with what is set after it; `brk` is the end of the heap
    SetBounds { landmarks: Landmarks, brk: Option<VirtAddr> },
    /// `ioctl(UFFDIO_REGISTER)`
    UffdRegister { addr: VirtAddr, length: u64, mode: u64 },
    /// `ioctl(UFFDIO_UNREGISTER)`
    UffdUnregister { addr: VirtAddr, length: u64 },
}

/// Kinds of calls, in the order in which reports list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each has the name of its system call")]
pub enum CallKind {
    Mmap,
    Munmap,
    Mremap,
    Brk,
    Mprotect,
    PkeyMprotect,
    Madvise,
    ProcessMadvise,
    Mlock,
    Munlock,
    Mlockall,
    Munlockall,
    Shmat,
    Shmdt,
    RemapFilePages,
    Mseal,
    Prctl,
    Userfaultfd,
}

impl CallKind {
    /// The name of the system call; `mlock2` counts as `mlock`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mmap => "mmap",
            Self::Munmap => "munmap",
            Self::Mremap => "mremap",
            Self::Brk => "brk",
            Self::Mprotect => "mprotect",
            Self::PkeyMprotect => "pkey_mprotect",
            Self::Madvise => "madvise",
            Self::ProcessMadvise => "process_madvise",
            Self::Mlock => "mlock",
            Self::Munlock => "munlock",
            Self::Mlockall => "mlockall",
            Self::Munlockall => "munlockall",
            Self::Shmat => "shmat",
            Self::Shmdt => "shmdt",
            Self::RemapFilePages => "remap_file_pages",
            Self::Mseal => "mseal",
            Self::Prctl => "prctl",
            Self::Userfaultfd => "userfaultfd",
        }
    }
}

/// `ENOMEM`: of calls about ranges, that not all of it is mapped.
pub const OUT_OF_MEMORY: i32 = 12;

impl MapCall {
    /// Whether it did what it was asked for; advice does so to all that is mapped, and then says that not all was
    /// (`madvise_walk_vmas` of `mm/madvise.c`).
    #[must_use]
    pub const fn took_effect(&self) -> bool {
        matches!((&self.request, self.result), (_, Ok(_)) | (MapRequest::Madvise { .. }, Err(OUT_OF_MEMORY)))
    }

    /// Addresses whose pages the call may have given or taken away; `None` if it did not, or the addresses are not known.
    #[must_use]
    pub fn changed_pages(&self) -> Option<VirtRange> {
        if !self.took_effect() {
            return None;
        }
        let result = VirtAddr::from_raw(self.result.unwrap_or_default());
        let (start, bytes) = match self.request {
            MapRequest::Mmap { length, .. } => (result, length),
            MapRequest::Mremap { new_size, .. } => (result, new_size),
            MapRequest::Munmap { addr, length }
            | MapRequest::Madvise { addr, length, .. }
            | MapRequest::Mlock { addr, length, .. } => (addr, length),
            _ => return None,
        };
        VirtRange::new(start, VirtAddr::from_raw(start.as_raw().saturating_add(bytes)))
    }
}

impl MapRequest {
    /// Whether it goes on to give pages to the memory that it is about, after all else it does.
    #[must_use]
    pub const fn populates(&self) -> bool {
        use flags::{
            MADV_POPULATE_READ, MADV_POPULATE_WRITE, MAP_LOCKED, MAP_NONBLOCK, MAP_POPULATE, MLOCK_ONFAULT,
        };
        match *self {
            Self::Mmap { flags, .. } => {
                flags & MAP_LOCKED != 0 || flags & (MAP_POPULATE | MAP_NONBLOCK) == MAP_POPULATE
            }
            Self::Madvise { advice, .. } => matches!(advice, MADV_POPULATE_READ | MADV_POPULATE_WRITE),
            Self::Mlock { flags, .. } => flags & MLOCK_ONFAULT == 0,
            _ => false,
        }
    }

    /// Whether it may change which addresses are mapped.
    #[must_use]
    pub const fn resizes(&self) -> bool {
        match self.kind() {
            CallKind::Mmap
            | CallKind::Munmap
            | CallKind::Mremap
            | CallKind::Brk
            | CallKind::Shmat
            | CallKind::Shmdt
            | CallKind::RemapFilePages => true,
            CallKind::Mprotect
            | CallKind::PkeyMprotect
            | CallKind::Madvise
            | CallKind::ProcessMadvise
            | CallKind::Mlock
            | CallKind::Munlock
            | CallKind::Mlockall
            | CallKind::Munlockall
            | CallKind::Mseal
            | CallKind::Prctl
            | CallKind::Userfaultfd => false,
        }
    }

    /// Which call it is.
    #[must_use]
    pub const fn kind(&self) -> CallKind {
        match self {
            Self::Mmap { .. } => CallKind::Mmap,
            Self::Munmap { .. } => CallKind::Munmap,
            Self::Mremap { .. } => CallKind::Mremap,
            Self::Brk { .. } => CallKind::Brk,
            Self::Mprotect { pkey: None, .. } => CallKind::Mprotect,
            Self::Mprotect { pkey: Some(_), .. } => CallKind::PkeyMprotect,
            Self::Madvise { .. } => CallKind::Madvise,
            Self::ProcessMadvise { .. } => CallKind::ProcessMadvise,
            Self::Mlock { .. } => CallKind::Mlock,
            Self::Munlock { .. } => CallKind::Munlock,
            Self::Mlockall { .. } => CallKind::Mlockall,
            Self::Munlockall => CallKind::Munlockall,
            Self::Shmat { .. } => CallKind::Shmat,
            Self::Shmdt { .. } => CallKind::Shmdt,
            Self::RemapFilePages { .. } => CallKind::RemapFilePages,
            Self::Mseal { .. } => CallKind::Mseal,
            Self::SetName { .. } | Self::SetBounds { .. } => CallKind::Prctl,
            Self::UffdRegister { .. } | Self::UffdUnregister { .. } => CallKind::Userfaultfd,
        }
    }
}

/// Numbers of `include/uapi/asm-generic/mman-common.h` and `mman.h` on which regions and their pages depend.
pub mod flags {
    /// `MAP_FIXED`
    pub const MAP_FIXED: u64 = 0x10;
    /// `MAP_GROWSDOWN`
    pub const MAP_GROWSDOWN: u64 = 0x100;
    /// `MAP_LOCKED`
    pub const MAP_LOCKED: u64 = 0x2000;
    /// `MAP_POPULATE`
    pub const MAP_POPULATE: u64 = 0x8000;
    /// `MAP_NONBLOCK`: with it nothing is populated.
    pub const MAP_NONBLOCK: u64 = 0x1_0000;
    /// `MAP_STACK`: glibc marks the stacks of threads with it.
    pub const MAP_STACK: u64 = 0x2_0000;
    /// `MAP_HUGETLB`
    pub const MAP_HUGETLB: u64 = 0x4_0000;
    /// `MREMAP_FIXED`
    pub const MREMAP_FIXED: u64 = 2;
    /// `MREMAP_DONTUNMAP`
    pub const MREMAP_DONTUNMAP: u64 = 4;
    /// `MADV_DONTNEED`
    pub const MADV_DONTNEED: u64 = 4;
    /// `MADV_REMOVE`
    pub const MADV_REMOVE: u64 = 9;
    /// `MADV_HUGEPAGE`
    pub const MADV_HUGEPAGE: u64 = 14;
    /// `MADV_NOHUGEPAGE`
    pub const MADV_NOHUGEPAGE: u64 = 15;
    /// `MADV_WIPEONFORK`
    pub const MADV_WIPEONFORK: u64 = 18;
    /// `MADV_KEEPONFORK`
    pub const MADV_KEEPONFORK: u64 = 19;
    /// `MADV_PAGEOUT`
    pub const MADV_PAGEOUT: u64 = 21;
    /// `MADV_COLLAPSE`
    pub const MADV_COLLAPSE: u64 = 25;
    /// `MADV_POPULATE_READ`
    pub const MADV_POPULATE_READ: u64 = 22;
    /// `MADV_POPULATE_WRITE`
    pub const MADV_POPULATE_WRITE: u64 = 23;
    /// `MLOCK_ONFAULT`
    pub const MLOCK_ONFAULT: u64 = 1;
    /// `MCL_CURRENT`
    pub const MCL_CURRENT: u64 = 1;
    /// `MCL_FUTURE`
    pub const MCL_FUTURE: u64 = 2;
    /// `MCL_ONFAULT`
    pub const MCL_ONFAULT: u64 = 4;
    /// `MADV_DONTNEED_LOCKED`
    pub const MADV_DONTNEED_LOCKED: u64 = 24;
    /// `MADV_GUARD_INSTALL`
    pub const MADV_GUARD_INSTALL: u64 = 102;
    /// `MADV_DONTFORK`
    pub const MADV_DONTFORK: u64 = 10;
    /// `MADV_DOFORK`
    pub const MADV_DOFORK: u64 = 11;
}
