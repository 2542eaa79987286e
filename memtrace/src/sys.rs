//! Safe wrappers over the system calls that have none: rustix first, libc for what it lacks.
//!
//! Layer: shell. Input: descriptors, addresses and names. Output: typed values, or the kernel's error.
//! Source: each part names its own.
//! Keeps: `unsafe` occurs nowhere else in the library; each block is one operation with its reason.
//! Not here: what to do with the answers (`probe`, `host`, `live`, `session`).
#![expect(unsafe_code, reason = "the one module whose task is to make these calls safe")]

pub mod bpf;
pub mod cache;
pub mod clock;
pub mod guard;
pub mod heap;
pub mod limits;
pub mod memlock;
pub mod namespace;
pub mod perf;
pub mod process;
pub mod ptrace;
pub mod scan;
pub mod secret;
pub mod shared;
pub mod sideband;
pub mod signals;
pub mod touch;
pub mod uffd;

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
};

/// The descriptor that a raw call returned, or its error.
///
/// # Safety
///
/// `result` is what libc has just returned for a call that makes a new descriptor.
unsafe fn opened(result: libc::c_long) -> io::Result<OwnedFd> {
    match RawFd::try_from(result) {
        // SAFETY: a new descriptor belongs to nobody else; the caller vouches that it is one.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
