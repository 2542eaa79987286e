//! Asks the kernel which pages of a file are in memory, without touching any.
//!
//! Layer: shell. Input: an open file, a range of it. Output: a byte for each page, or counts of pages.
//! Source: `mincore(2)`, `mm/mincore.c`; `cachestat` (Linux 6.5), `mm/filemap.c`, `include/uapi/linux/mman.h`.
//! Keeps: what is mapped is inaccessible, private and unmapped again, so no page is brought in and no seal is in the way.
//! Not here: which ranges to ask for, and what a missing page means (`probe`).

use std::{
    ffi::c_void,
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr,
};

use rustix::{
    mm::{MapFlags, ProtFlags, mmap, munmap},
    param::page_size,
};

/// Number of the call `cachestat`, the same on all architectures but alpha.
const SYS_CACHESTAT: libc::c_long = 451;

/// `struct cachestat`: counts of pages.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStat {
    /// In the page cache.
    pub cached: u64,
    /// Of these, to be written.
    pub dirty: u64,
    /// Of these, being written.
    pub writeback: u64,
    /// Evicted from the page cache, as far as the kernel remembers.
    pub evicted: u64,
    /// Of these, so recently that their return would count as a refault of the working set.
    pub recently_evicted: u64,
}

/// `struct cachestat_range`, in bytes.
#[repr(C)]
struct CachestatRange {
    offset: u64,
    len: u64,
}

const _: () = assert!(size_of::<CacheStat>() == 40);
const _: () = assert!(size_of::<CachestatRange>() == 16);

/// Counts the pages of the `len` bytes, not 0, from `offset` on.
///
/// Kernels without the call say `ENOSYS`.
pub fn cachestat(file: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<CacheStat> {
    let range = CachestatRange { offset, len };
    let mut stat = CacheStat::default();
    let (range, to) = (&raw const range, &raw mut stat);
    // SAFETY: the call reads one `cachestat_range` and writes one `cachestat`, both of which live here.
    match unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), range, to, 0) } {
        0 => Ok(stat),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets bit 0 of each byte of `states` if the page of this machine is in memory; the first stands for the page at `offset`, in
/// bytes.
///
/// Pages beyond the end of the file are not. To those who neither own the file nor may write it, all pages seem to be.
pub fn mincore(file: BorrowedFd<'_>, offset: u64, states: &mut [u8]) -> io::Result<()> {
    if states.is_empty() {
        return Ok(());
    }
    let len = states.len().checked_mul(page_size()).ok_or(io::ErrorKind::InvalidInput)?;
    let mapped = Mapped::new(file, offset, len, ProtFlags::empty())?;
    // SAFETY: the mapping has as many pages as `states` has bytes, which the call writes; it reads no memory.
    match unsafe { libc::mincore(mapped.start, mapped.len, states.as_mut_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Part of a file in this address space, private.
#[derive(Debug)]
pub(super) struct Mapped {
    pub(super) start: *mut c_void,
    pub(super) len: usize,
}

impl Mapped {
    pub(super) fn new(file: BorrowedFd<'_>, offset: u64, len: usize, access: ProtFlags) -> io::Result<Self> {
        // SAFETY: the kernel chooses the place, so no other memory is touched.
        let start = unsafe { mmap(ptr::null_mut(), len, access, MapFlags::PRIVATE, file, offset) }?;
        Ok(Self { start, len })
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: `new` mapped these bytes, and nothing refers to them.
        let result = unsafe { munmap(self.start, self.len) };
        debug_assert!(result.is_ok(), "the mapping was there");
    }
}
