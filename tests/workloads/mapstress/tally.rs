//! Counters that `mapstress` shares with its children, those that execute it included.
//!
//! Input: a file in memory, which an executed child inherits. Output: [`Stress`].

use std::{
    io,
    os::fd::RawFd,
    process,
    ptr::null_mut,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use memtrace_tests::ledger::{Calls, Stress};

/// A kind of call.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Mmap,
    Munmap,
    Mremap,
    Mprotect,
    Madvise,
    Brk,
}

const KINDS: [(Kind, &str); 6] = [
    (Kind::Mmap, "mmap"),
    (Kind::Munmap, "munmap"),
    (Kind::Mremap, "mremap"),
    (Kind::Mprotect, "mprotect"),
    (Kind::Madvise, "madvise"),
    (Kind::Brk, "brk"),
];

/// Counters that all processes share.
#[derive(Default)]
#[repr(C)]
pub(crate) struct Tally {
    attempts: [AtomicU64; KINDS.len()],
    successes: [AtomicU64; KINDS.len()],
    pub(crate) forks: AtomicU64,
    pub(crate) execs: AtomicU64,
    pub(crate) storm_faults: AtomicU64,
}

impl Tally {
    /// The counters in the file `fd`, mapped until the process ends.
    pub(crate) fn of(fd: RawFd) -> io::Result<&'static Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the kernel chooses the place, so no other memory is touched.
        let start = unsafe { libc::mmap(null_mut(), size_of::<Self>(), protection, libc::MAP_SHARED, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: page-aligned, never unmapped, and as long as the file; any bytes are atomics.
        Ok(unsafe { &*start.cast::<Self>() })
    }

    /// Counts a call; returns whether it was a success.
    pub(crate) fn count(&self, kind: Kind, is_success: bool) -> bool {
        self.attempts[kind as usize].fetch_add(1, Relaxed);
        self.successes[kind as usize].fetch_add(is_success.into(), Relaxed);
        is_success
    }

    /// What was counted so far.
    pub(crate) fn ledger(&self) -> Stress {
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        let calls = |kind: Kind| Calls {
            attempts: load(&self.attempts[kind as usize]),
            successes: load(&self.successes[kind as usize]),
        };
        Stress {
            pid: process::id(),
            calls: KINDS.iter().map(|&(kind, name)| (name.to_owned(), calls(kind))).collect(),
            forks: load(&self.forks),
            execs: load(&self.execs),
            storm_faults: load(&self.storm_faults),
        }
    }
}
