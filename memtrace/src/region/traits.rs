//! What the pages of a region have in common.

use std::sync::Arc;

use super::Name;
use crate::{
    event::{
        Device, FileKind, Landmarks, ReportedVma, Vma,
        flags::{MAP_GROWSDOWN, MAP_STACK},
    },
    timeline::Backing,
    units::{VirtAddr, VirtRange},
};

/// What maps shows of a stretch of pages besides its place, and what only events tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traits {
    perms: [u8; 4],
    content: Content,
    /// Path, or name in brackets, as maps prints it; not `[heap]` and `[stack]`, which follow from the place.
    name: Name,
    /// The name that `PR_SET_VMA` set; empty if there is none.
    given: Name,
    /// What the file is, as far as that is known.
    kind: Option<FileKind>,
    /// Which of [`LASTING`] the pages were mapped with.
    map_flags: u64,
    /// `MADV_DONTFORK`
    is_kept_from_forks: bool,
}

/// Flags of `mmap` that pages keep: those of the stack of a thread, and of memory that grows down.
const LASTING: u64 = MAP_STACK | MAP_GROWSDOWN;

/// What stands behind pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// No file.
    Plain,
    /// A file, at a fixed distance between address and offset.
    File { device: (u32, u32), inode: u64, distance: u64 },
    /// A file at this distance, but perf could not say which.
    Unread { distance: u64 },
}

impl Traits {
    /// What maps shows of `vma`, the file of which is of this kind.
    #[must_use]
    pub fn of(vma: &Vma, kind: Option<FileKind>) -> Self {
        // The first System V segment has the inode 0.
        let has_file = vma.inode != 0 || vma.device != (0, 0);
        let distance = vma.range.start().as_raw().wrapping_sub(vma.offset);
        let content = match &vma.name[..] {
            b"//toolong" | b"//enomem" => Content::Unread { distance },
            _ if has_file => Content::File { device: vma.device, inode: vma.inode, distance },
            _ => Content::Plain,
        };
        let (name, given): (&[u8], &[u8]) = match &vma.name[..] {
            name if is_by_place(name) => (b"", b""),
            name => match given_name(name) {
                Some(given) if has_file => (SHARED_ANON, given),
                Some(given) => (b"", given),
                None => (name, b""),
            },
        };
        Self {
            perms: vma.perms,
            content,
            name: Arc::from(name),
            given: Arc::from(given),
            kind,
            map_flags: 0,
            is_kept_from_forks: false,
        }
    }

    /// What perf shows.
    pub(super) fn of_reported(shown: &ReportedVma) -> Self {
        Self::of(&shown.vma, shown.kind)
    }

    /// The four characters of maps.
    #[must_use]
    pub const fn perms(&self) -> [u8; 4] {
        self.perms
    }

    /// Whether pages of both, side by side, are one region. A path may have changed in between; the file has not.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.looks_like(other)
            && self.map_flags == other.map_flags
            && self.is_kept_from_forks == other.is_kept_from_forks
    }

    /// Whether maps shows both alike.
    pub(super) fn looks_like(&self, other: &Self) -> bool {
        self.perms == other.perms && self.given == other.given && self.has_content_of(other)
    }

    /// Whether both have the same behind them, whoever may access it and whatever name was given to it.
    pub(super) fn has_content_of(&self, other: &Self) -> bool {
        self.content == other.content && (self.content != Content::Plain || self.name == other.name)
    }

    /// Whether `PR_SET_VMA` set a name for it.
    pub(super) fn has_given_name(&self) -> bool {
        !self.given.is_empty()
    }

    /// Whether forks do not copy it: by advice, or because the kernel maps such memory with `VM_DONTCOPY`, as it does rings of
    /// perf events (`perf_mmap` of `kernel/events/core.c`).
    pub(super) fn is_kept_from_forks(&self) -> bool {
        self.is_kept_from_forks || *self.name == *b"anon_inode:[perf_event]"
    }

    /// Whether it is no part of the address space, though maps lists it.
    pub(super) fn is_vsyscall(&self) -> bool {
        *self.name == *b"[vsyscall]"
    }

    /// Whether it is memory without a file and without a name.
    pub(super) fn is_nameless(&self) -> bool {
        self.content == Content::Plain && self.name.is_empty()
    }

    /// Whether perf could not tell what file it is.
    pub(super) const fn is_unread(&self) -> bool {
        matches!(self.content, Content::Unread { .. })
    }

    /// Whether perf could not say of `other` which file it is, and it may be this one: it is at the same distance.
    pub(super) fn may_be_unread(&self, other: &Self) -> bool {
        match (self.content, other.content) {
            (Content::File { distance, .. }, Content::Unread { distance: other }) => distance == other,
            _ => false,
        }
    }

    /// Whether it is a System V segment attached at `addr`.
    pub(super) fn is_segment_at(&self, addr: VirtAddr) -> bool {
        let is_here = matches!(self.content, Content::File { distance, .. } if distance == addr.as_raw());
        // Those of huge pages lie on hugetlbfs.
        let is_of_kernel = matches!(self.kind, Some(FileKind::SharedMemory | FileKind::Hugetlb));
        is_here && is_of_kernel && self.name.starts_with(SEGMENT)
    }

    /// The same for pages that are now `held`, with what only events show of them.
    pub(super) fn in_place_of(&self, held: &Self) -> Self {
        let Self { map_flags, is_kept_from_forks, .. } = *held;
        Self { map_flags, is_kept_from_forks, ..self.clone() }
    }

    /// The same with another protection.
    pub(super) fn with_perms_of(&self, other: &Self) -> Self {
        Self { perms: other.perms, ..self.clone() }
    }

    /// The same, mapped with these flags of `mmap`.
    pub(super) fn with_map_flags(self, flags: u64) -> Self {
        Self { map_flags: flags & LASTING, ..self }
    }

    /// Whether faults below it make it grow.
    pub(super) const fn grows_down(&self) -> bool {
        self.map_flags & MAP_GROWSDOWN != 0
    }

    /// The same after `MADV_DONTFORK` or `MADV_DOFORK`.
    pub(super) fn with_fork(self, is_kept_from_forks: bool) -> Self {
        Self { is_kept_from_forks, ..self }
    }

    /// Whether `PR_SET_VMA` may name it: there is no file that has a name of its own.
    pub(super) fn may_be_named(&self) -> bool {
        let is_shared_anon = self.kind == Some(FileKind::SharedMemory) && *self.name == *SHARED_ANON;
        self.content == Content::Plain || is_shared_anon
    }

    /// The same with the name `given`, if that would show; an empty one takes the name away.
    pub(super) fn with_given_name(self, given: &[u8]) -> Self {
        let shows = self.may_be_named() && (self.content != Content::Plain || self.name.is_empty());
        if shows { Self { given: Arc::from(given), ..self } } else { self }
    }

    /// The same under the name that maps shows now, if it is of a file, and as what its device is now known to be; `None` if
    /// that is nothing new. For a target with another root directory maps shows more of the path than the target sees.
    pub(super) fn with_file_of(&self, other: &Self) -> Option<Self> {
        let name = if other.name.ends_with(&self.name) { &self.name } else { &other.name };
        let kind = other.kind.map(|kind| kind.instead_of(self.kind)).or(self.kind);
        let is_new = self.content != Content::Plain && (kind != self.kind || *name != self.name);
        is_new.then(|| Self { name: name.clone(), kind, ..self.clone() })
    }

    /// The same at a place that is `by` bytes higher, modulo 2^64.
    pub(super) fn moved(&self, by: u64) -> Self {
        let content = match self.content {
            Content::Plain => Content::Plain,
            Content::File { device, inode, distance } => {
                Content::File { device, inode, distance: distance.wrapping_add(by) }
            }
            Content::Unread { distance } => Content::Unread { distance: distance.wrapping_add(by) },
        };
        Self { content, ..self.clone() }
    }

    /// Whether it is executable memory of a file.
    #[must_use]
    pub fn is_code(&self) -> bool {
        self.perms[2] == b'x' && self.content != Content::Plain
    }

    /// Device and inode of its file; `None` if there is none, or it is not known which.
    #[must_use]
    pub const fn file(&self) -> Option<(Device, u64)> {
        match self.content {
            Content::File { device, inode, .. } => Some((device, inode)),
            Content::Plain | Content::Unread { .. } => None,
        }
    }

    /// Offset in the file of the page at `addr`, in bytes; `None` if there is no file.
    #[must_use]
    pub const fn file_offset(&self, addr: VirtAddr) -> Option<u64> {
        match self.content {
            Content::Plain => None,
            Content::File { distance, .. } | Content::Unread { distance } => {
                Some(addr.as_raw().wrapping_sub(distance))
            }
        }
    }

    /// Backing and name of pages with these traits in `range`.
    pub(super) fn shown(
        &self,
        range: VirtRange,
        landmarks: &Landmarks,
        brk: Option<VirtAddr>,
    ) -> (Backing, Name) {
        if self.content == Content::Plain && self.perms[3] == b'p' {
            // As `get_vma_name` of `fs/proc/task_mmu.c` has it; the heap is what touches it.
            let is_heap = landmarks
                .start_brk
                .zip(brk)
                .is_some_and(|(start, end)| start < end && range.start() <= end && range.end() > start);
            if is_heap && !self.name.starts_with(b"[v") {
                return (Backing::Heap, Arc::from(*b"[heap]"));
            }
            if landmarks.start_stack.is_some_and(|stack| range.contains(stack)) {
                return (Backing::Stack, Arc::from(*b"[stack]"));
            }
        }
        (self.backing(), self.shown_name())
    }

    /// Path, or name in brackets.
    fn shown_name(&self) -> Name {
        let brackets: &[u8] = match self.content {
            _ if self.given.is_empty() => return self.name.clone(),
            Content::Plain => ANON,
            Content::File { .. } | Content::Unread { .. } => ANON_SHMEM,
        };
        [brackets, &self.given, b"]"].concat().into()
    }

    /// What stands behind it, wherever it lies: heap and stack are memory without a file, too.
    #[must_use]
    pub fn backing(&self) -> Backing {
        if self.content != Content::Plain {
            return self.backing_of_file();
        }
        match &*self.name {
            b"[vdso]" => Backing::Vdso,
            name if name.starts_with(b"[vvar") => Backing::Vvar,
            name if name.starts_with(b"[stack:") => Backing::ThreadStack,
            b"" if self.map_flags & MAP_STACK != 0 => Backing::ThreadStack,
            b"" => Backing::Anon,
            _ => Backing::Other,
        }
    }

    /// What stands behind a file. The name decides only what the kernel alone can name so on its own tmpfs.
    fn backing_of_file(&self) -> Backing {
        match self.kind {
            Some(FileKind::SharedMemory) if self.name.starts_with(b"/memfd:") => Backing::Memfd,
            Some(FileKind::SharedMemory) if self.name.starts_with(SEGMENT) => Backing::Sysv,
            Some(FileKind::SharedMemory | FileKind::Tmpfs) => Backing::Shmem,
            Some(FileKind::Hugetlb) => Backing::Hugetlb,
            Some(FileKind::Secret) => Backing::Secretmem,
            // A private mapping of this one device is memory without a file (`mmap_zero` of `drivers/char/mem.c`).
            Some(FileKind::Device) if *self.name == *b"/dev/zero" => Backing::Anon,
            Some(FileKind::Device) => Backing::Device,
            Some(FileKind::Other) | None if self.name.starts_with(b"/") => Backing::File,
            Some(FileKind::Other) | None => Backing::Other,
        }
    }
}

/// What stands behind `vma`, the file of which is of this kind, as far as maps shows.
#[must_use]
pub fn backing_of(vma: &Vma, kind: Option<FileKind>) -> Backing {
    match vma.name.as_slice() {
        b"[heap]" => Backing::Heap,
        b"[stack]" => Backing::Stack,
        _ => Traits::of(vma, kind).backing(),
    }
}

/// How the names of System V segments begin.
const SEGMENT: &[u8] = b"/SYSV";
/// How maps shows shared memory without a file of its own, and how it shows memory that has a given name.
const SHARED_ANON: &[u8] = b"/dev/zero (deleted)";
const ANON: &[u8] = b"[anon:";
const ANON_SHMEM: &[u8] = b"[anon_shmem:";

/// The name that `PR_SET_VMA` set for what maps shows as `name`.
fn given_name(name: &[u8]) -> Option<&[u8]> {
    [ANON, ANON_SHMEM].iter().find_map(|brackets| name.strip_prefix(*brackets))?.strip_suffix(b"]")
}

/// Whether maps shows `name` because of the place, whatever else the name of the memory there may be
/// (`get_vma_name` of `fs/proc/task_mmu.c`).
pub(super) fn is_by_place(name: &[u8]) -> bool {
    matches!(name, b"[heap]" | b"[stack]")
}
