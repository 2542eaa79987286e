//! userfaultfd for a test's own memory: what leaves its mark in page tables.
//!
//! Input: pages of a [`Mapping`]. Output: write-protection and poison; answers to faults.
//! Source: `ioctl_userfaultfd(2)`; `include/uapi/linux/userfaultfd.h`.
//! Keeps: a fault on what is registered waits until somebody answers it.
//! Not here: what memtrace itself asks of userfaultfd (`memtrace::sys::uffd`).
#![expect(unsafe_code, reason = "rustix has no ioctls of userfaultfd")]

use std::{io, ops::Range, os::fd::OwnedFd};

use rustix::{
    event::{PollFd, PollFlags, poll},
    ioctl::{Opcode, Updater, ioctl, opcode},
    mm::{UserfaultfdFlags, userfaultfd},
};

use crate::{
    ledger::Area,
    memory::{Mapping, page_bytes},
};

/// Memory of files and of hugetlb can be write-protected, and markers keep it so where no page is (Linux 5.19).
pub const WP_HUGETLBFS_SHMEM: u64 = 1 << 12;
/// Anonymous memory has such markers as well (Linux 6.4).
pub const WP_UNPOPULATED: u64 = 1 << 13;
/// Pages can be poisoned (Linux 6.6).
pub const POISON: u64 = 1 << 14;

/// What is told to userfaultfd of the memory that is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Mode {
    /// The first touch of a page.
    Missing = 1,
    /// Writes to what is protected.
    WriteProtect = 2,
}

/// `struct uffdio_api`; its first field is called `api` there.
#[repr(C)]
struct Api {
    version: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_range`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Stretch {
    start: u64,
    len: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct Register {
    range: Stretch,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_writeprotect`.
#[repr(C)]
struct WriteProtect {
    range: Stretch,
    mode: u64,
}

/// `struct uffdio_poison`.
#[repr(C)]
struct Poison {
    range: Stretch,
    mode: u64,
    updated: i64,
}

/// `struct uffdio_zeropage`.
#[repr(C)]
struct ZeroPage {
    range: Stretch,
    mode: u64,
    zeroed: i64,
}

const API: Opcode = opcode::read_write::<Api>(0xaa, 0x3f);
const REGISTER: Opcode = opcode::read_write::<Register>(0xaa, 0x00);
const ZERO_PAGE: Opcode = opcode::read_write::<ZeroPage>(0xaa, 0x04);
const WRITE_PROTECT: Opcode = opcode::read_write::<WriteProtect>(0xaa, 0x06);
const POISON_PAGES: Opcode = opcode::read_write::<Poison>(0xaa, 0x08);

/// A userfaultfd; what is registered with it is free again at the end.
#[derive(Debug)]
pub struct Uffd {
    fd: OwnedFd,
}

impl Uffd {
    /// One with `features`; an error if the kernel lacks one of them.
    pub fn open(features: u64) -> io::Result<Self> {
        // SAFETY: nothing is registered yet, so no fault waits for it.
        let fd = unsafe { userfaultfd(UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK) }?;
        let uffd = Self { fd };
        uffd.call::<API, _>(Api { version: 0xaa, features, ioctls: 0 })?;
        Ok(uffd)
    }

    /// Registers all of `mapping`.
    pub fn register(&self, mapping: &Mapping, mode: Mode) -> io::Result<()> {
        let range = stretch(mapping, 0..mapping.pages());
        self.call::<REGISTER, _>(Register { range, mode: mode as u64, ioctls: 0 })
    }

    /// Write-protects pages.
    pub fn protect(&self, mapping: &Mapping, pages: Range<usize>) -> io::Result<()> {
        const PROTECT: u64 = 1;
        self.call::<WRITE_PROTECT, _>(WriteProtect { range: stretch(mapping, pages), mode: PROTECT })
    }

    /// Poisons pages that are not there.
    pub fn poison(&self, mapping: &Mapping, pages: Range<usize>) -> io::Result<()> {
        self.call::<POISON_PAGES, _>(Poison { range: stretch(mapping, pages), mode: 0, updated: 0 })
    }

    /// Waits until a thread faults on a page that is registered, and takes the message of it.
    pub fn wait_for_fault(&self) -> io::Result<()> {
        // `struct uffd_msg` has 32 bytes.
        let mut message = [0; 32];
        poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], None)?;
        rustix::io::read(&self.fd, &mut message)?;
        Ok(())
    }

    /// Gives the pages of `area` the zero page, and wakes who waits for them.
    pub fn answer(&self, area: &Area) -> io::Result<()> {
        let range = Stretch { start: area.start, len: area.end - area.start };
        self.call::<ZERO_PAGE, _>(ZeroPage { range, mode: 0, zeroed: 0 })
    }

    fn call<const OPCODE: Opcode, T>(&self, mut argument: T) -> io::Result<()> {
        // SAFETY: each opcode above reads and writes one argument of the type that it is made of.
        let call = unsafe { Updater::<OPCODE, T>::new(&mut argument) };
        // SAFETY: as above, on a userfaultfd; pages of a `Mapping` hold no Rust object.
        unsafe { ioctl(&self.fd, call) }.map_err(io::Error::from)
    }
}

/// The addresses of pages of `mapping`.
fn stretch(mapping: &Mapping, pages: Range<usize>) -> Stretch {
    let bytes = |pages: usize| (pages * page_bytes()) as u64;
    Stretch { start: mapping.area(0).start + bytes(pages.start), len: bytes(pages.len()) }
}
