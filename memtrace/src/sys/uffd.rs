//! Asks what this kernel's userfaultfd can do.
//!
//! Layer: shell. Input: none. Output: the feature bits.
//! Source: `ioctl_userfaultfd(2)`; `include/uapi/linux/userfaultfd.h`.
//! Keeps: nothing is registered; the descriptor is closed again.
//! Not here: write-protecting pages.

use std::io;

use rustix::{
    ioctl::{Updater, ioctl, opcode},
    mm::{UserfaultfdFlags, userfaultfd},
};

/// Write-protect faults are resolved by the kernel without a message (Linux 6.7).
pub const WP_ASYNC: u64 = 1 << 15;

/// Faults on pages of shared memory that are there already can be told (Linux 5.14).
pub const MINOR_SHMEM: u64 = 1 << 10;

/// Shared memory and hugetlb can be write-protected, where no page is by a marker (Linux 5.19).
pub const WP_HUGETLBFS_SHMEM: u64 = 1 << 12;

const UFFD_API: u64 = 0xaa;

/// `UFFD_USER_MODE_ONLY`: what an unprivileged process may ask for.
const USER_MODE_ONLY: u32 = 1;

/// `struct uffdio_api`; its first field is called `api` there.
#[repr(C)]
struct Api {
    version: u64,
    features: u64,
    ioctls: u64,
}

/// The `UFFD_FEATURE_*` bits that the kernel offers.
pub fn features() -> io::Result<u64> {
    let flags = UserfaultfdFlags::CLOEXEC
        | UserfaultfdFlags::NONBLOCK
        | UserfaultfdFlags::from_bits_retain(USER_MODE_ONLY);
    // SAFETY: nothing is registered with the descriptor, so no fault ever waits for it.
    let fd = unsafe { userfaultfd(flags) }?;
    let mut api = Api { version: UFFD_API, features: 0, ioctls: 0 };
    // SAFETY: UFFDIO_API reads and writes one `uffdio_api`.
    let call = unsafe { Updater::<{ opcode::read_write::<Api>(0xaa, 0x3f) }, Api>::new(&mut api) };
    // SAFETY: as above, on a userfaultfd.
    unsafe { ioctl(&fd, call) }?;
    Ok(api.features)
}
