//! Shows a page of a guard region, to learn how the kernel tells of such.
//!
//! Layer: shell. Input: what reads it. Output: what that saw.
//! Source: `madvise(2)`, `MADV_GUARD_INSTALL` of `include/uapi/asm-generic/mman-common.h` (Linux 6.13).
//! Keeps: the page is this process's own, and gone afterwards.
//! Not here: reading page tables (`probe`, `host`).

use std::{io, ptr::null_mut};

use rustix::{
    mm::{MapFlags, ProtFlags, mmap_anonymous, munmap},
    param::page_size,
};

use crate::units::VirtAddr;

/// `MADV_GUARD_INSTALL`.
const GUARD_INSTALL: libc::c_int = 102;

/// What `scan` sees of a page in a guard region at the address that it is given.
///
/// Fails with [`io::ErrorKind::InvalidInput`] where the kernel has no guard regions.
pub fn with_guard_page<T>(scan: impl FnOnce(VirtAddr) -> T) -> io::Result<T> {
    let len = page_size();
    // SAFETY: the kernel chooses the place, so no other memory is touched.
    let page = unsafe { mmap_anonymous(null_mut(), len, ProtFlags::READ, MapFlags::PRIVATE) }?;
    // SAFETY: the page was just mapped, and nothing reads it.
    let advised = unsafe { libc::madvise(page, len, GUARD_INSTALL) };
    let seen = if advised == 0 {
        Ok(scan(VirtAddr::from_raw(page.addr() as u64)))
    } else {
        Err(io::Error::last_os_error())
    };
    // SAFETY: the page is this function's, and nothing refers to it any more.
    unsafe { munmap(page, len) }?;
    seen
}
