//! Opens what has pages in the page cache: a file, or what is behind a VMA of any process.
//!
//! Layer: shell. Input: a process and the range of a VMA, a path, or an open file. Output: [`MemoryObject`].
//! Source: `proc_pid_map_files(5)`, `fs/proc/base.c`; `can_do_mincore` of `mm/mincore.c`.
//! Keeps: nothing is opened before it is known to be a file with pages in the page cache: to open a device may do things. The
//! time of access stays as it is where the kernel lets this process leave it. To open a file ends a lease for writing that
//! somebody may have on it.
//! Not here: which of its pages are where (`residency`).

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{FileType, Mode, OFlags, fstat, fstatfs, open},
    io::Errno,
};

use crate::{
    event::Tid,
    sys::cache,
    units::{PageCount, PageSize, VirtRange},
};

/// `TMPFS_MAGIC`: tmpfs, memfd, System V and shared anonymous memory.
const TMPFS: u64 = 0x0102_1994;
/// `HUGETLBFS_MAGIC`: to map a part reserves huge pages, and mincore(2) tells of the caller's page tables alone.
const HUGETLBFS: u64 = 0x9584_58f6;
/// `SYSFS_MAGIC`, `DEBUGFS_MAGIC`, `TRACEFS_MAGIC`, `PROC_SUPER_MAGIC`: registers and buffers of the kernel and of devices.
const OF_THE_KERNEL: [u64; 4] = [0x6265_6572, 0x6462_6720, 0x7472_6163, 0x9fa0];
/// `OVERLAYFS_SUPER_MAGIC`, `ECRYPTFS_SUPER_MAGIC`, `FUSE_SUPER_MAGIC`: pages may be those of a file of another file system.
const STACKED: [u64; 3] = [0x794c_7630, 0xf15f, 0x6573_5546];

/// Bytes from the end of a file to where it surely has no page: more than any folio has.
const BEYOND: u64 = 1 << 30;

/// Why the pages of an object cannot be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// Objects of other processes take privileges.
    #[error(
        "cannot open {name}: needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE, and the right to trace the process"
    )]
    Forbidden {
        /// The object.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A device, memory of huge pages (hugetlbfs), or anything else that has no pages in the page cache.
    #[error("{name} is no file with pages in the page cache")]
    Uncached {
        /// The object.
        name: String,
    },
    /// The kernel says of all pages that they are in memory, since the caller is not to know.
    #[error(
        "cannot tell which pages of {name} are in memory: needs its owner, the right to write it, or CAP_FOWNER"
    )]
    Hidden {
        /// The object.
        name: String,
    },
    /// Anything else, such as a file system that lets nobody map its files.
    #[error("cannot {operation} {name}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The object.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A file, or a piece of shared memory, of which pages may be in memory although nobody maps them.
#[derive(Debug)]
pub struct MemoryObject {
    pub(super) file: File,
    pub(super) page: PageSize,
    name: String,
    kind: Kind,
}

/// What of the page cache can be where.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Pages are in memory or in the file.
    File,
    /// The same, of another file, which the kernel passes by when it counts the pages of this one.
    StackedFile,
    /// Pages are in memory or swapped.
    SharedMemory,
}

impl Kind {
    /// That of `file`, which need not be open for reading.
    fn of(file: impl AsFd, name: &str) -> Result<Self, ObjectError> {
        let read = |error| failure("read", name, error);
        let is_file = FileType::from_raw_mode(fstat(&file).map_err(read)?.st_mode).is_file();
        let file_system = u64::try_from(fstatfs(&file).map_err(read)?.f_type);
        match file_system {
            _ if !is_file => Err(ObjectError::Uncached { name: name.to_owned() }),
            Ok(magic) if magic == HUGETLBFS || OF_THE_KERNEL.contains(&magic) => {
                Err(ObjectError::Uncached { name: name.to_owned() })
            }
            Ok(TMPFS) => Ok(Self::SharedMemory),
            Ok(magic) if STACKED.contains(&magic) => Ok(Self::StackedFile),
            _ => Ok(Self::File),
        }
    }
}

impl MemoryObject {
    /// What is behind the VMA of the thread `tid` that has exactly the range `range`, on a host with base pages of size `page`.
    ///
    /// `None` if there is nothing: the memory is private and anonymous, the VMA has changed meanwhile, or the thread has ended.
    pub fn of_vma(tid: Tid, range: VirtRange, page: PageSize) -> Result<Option<Self>, ObjectError> {
        let (start, end) = (range.start().as_raw(), range.end().as_raw());
        let name = format!("/proc/{}/map_files/{start:x}-{end:x}", tid.0);
        let path = match open(&name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Ok(path) => path,
            Err(Errno::NOENT | Errno::SRCH) => return Ok(None),
            Err(error @ (Errno::PERM | Errno::ACCESS)) => {
                return Err(ObjectError::Forbidden { name, source: error.into() });
            }
            Err(error) => return Err(failure("open", &name, error)),
        };
        let kind = Kind::of(&path, &name)?;
        match open_for_reading(&path) {
            Ok(file) => Self::new(file, name, kind, page).map(Some),
            Err(error @ (Errno::PERM | Errno::ACCESS)) => {
                Err(ObjectError::Forbidden { name, source: error.into() })
            }
            Err(error) => Err(failure("open", &name, error)),
        }
    }

    /// The file that `path` names, on a host with base pages of size `page`. Symbolic links are not followed: they are
    /// [`ObjectError::Uncached`].
    pub fn of_path(path: &Path, page: PageSize) -> Result<Self, ObjectError> {
        let name = path.display().to_string();
        let failure = |error| failure("open", &name, error);
        let path =
            open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).map_err(failure)?;
        let kind = Kind::of(&path, &name)?;
        let file = open_for_reading(&path).map_err(failure)?;
        Self::new(file, name, kind, page)
    }

    /// The object that `file` is, called `name` in errors; its position in the file is moved.
    pub fn of_file(file: File, name: &str, page: PageSize) -> Result<Self, ObjectError> {
        let kind = Kind::of(&file, name)?;
        Self::new(file, name.to_owned(), kind, page)
    }

    fn new(file: File, name: String, kind: Kind, page: PageSize) -> Result<Self, ObjectError> {
        let object = Self { file, page, name, kind };
        // There are no offsets above.
        let last = i64::MAX.unsigned_abs() / page.bytes() * page.bytes() - page.bytes();
        let beyond = (object.pages()?.get().saturating_mul(page.bytes()).saturating_add(BEYOND)).min(last);
        let mut state = [0];
        cache::mincore(object.file.as_fd(), beyond, &mut state)
            .map_err(|error| object.failure("map", error))?;
        match state {
            [0] => Ok(object),
            _ => Err(ObjectError::Hidden { name: object.name }),
        }
    }

    /// Its present size in base pages, the last of which may be used in part.
    pub fn pages(&self) -> Result<PageCount, ObjectError> {
        let size = self.file.metadata().map_err(|error| self.failure("read", error))?.len();
        Ok(PageCount::new(size.div_ceil(self.page.bytes())))
    }

    /// Whether it is shared memory (tmpfs, memfd, System V, shared anonymous), whose pages may be swapped.
    #[must_use]
    pub const fn is_shared_memory(&self) -> bool {
        matches!(self.kind, Kind::SharedMemory)
    }

    /// Whether its pages are those of another file.
    pub(super) const fn is_of_another(&self) -> bool {
        matches!(self.kind, Kind::StackedFile)
    }

    /// The error for an `operation` that failed.
    pub(super) fn failure(&self, operation: &'static str, source: impl Into<io::Error>) -> ObjectError {
        failure(operation, &self.name, source)
    }
}

/// Opens again what `path` was opened to name.
fn open_for_reading(path: &OwnedFd) -> Result<File, Errno> {
    let link = format!("/proc/self/fd/{}", path.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let reopen = |more| open(&link, flags | more, Mode::empty());
    // Only owners may leave the time of access alone.
    reopen(OFlags::NOATIME).or_else(|_| reopen(OFlags::empty())).map(File::from)
}

fn failure(operation: &'static str, name: &str, source: impl Into<io::Error>) -> ObjectError {
    ObjectError::Io { operation, name: name.to_owned(), source: source.into() }
}
