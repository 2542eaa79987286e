//! `memfd_secret(2)`: memory that is in no page table but the owner's.

use std::{io, os::fd::OwnedFd};

/// A new piece of it, without any page. Kernels may lack it or have it switched off (`secretmem.enable`).
pub fn create() -> io::Result<OwnedFd> {
    // SAFETY: the call takes flags alone.
    let result = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    // SAFETY: that was a call that makes a new descriptor.
    unsafe { super::opened(result) }
}
