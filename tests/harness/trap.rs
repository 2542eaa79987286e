//! Signals that faults raise: counts them, and lets the access succeed when it is made again.
//!
//! Input: memory that refuses an access. Output: how many signals there were, as their handler counted.
//! Source: sigaction(2); `siginfo_t` of signal(7).
//! Keeps: handlers call nothing that is not async-signal-safe.
//! Not here: the memory (`memory`).
#![expect(unsafe_code, reason = "rustix has no signal handlers, and a handler gets raw addresses")]

use std::{
    ffi::{c_int, c_void},
    fs::File,
    io,
    os::{fd::AsRawFd as _, unix::thread::JoinHandleExt as _},
    ptr::null_mut,
    sync::atomic::{AtomicI32, AtomicU64, Ordering},
    thread::JoinHandle,
};

use crate::memory::page_bytes;

/// Signals that the handler has counted.
static SIGNALS: AtomicU64 = AtomicU64::new(0);
/// The file that SIGBUS makes a page long.
static FILE: AtomicI32 = AtomicI32::new(-1);

/// How many signals have come since [`open_page`], [`lengthen`] or [`take_interruptions`].
#[must_use]
pub fn signals() -> u64 {
    SIGNALS.load(Ordering::Relaxed)
}

/// From now on SIGSEGV is counted, and makes the page writable that it was raised for.
pub fn open_page() -> io::Result<()> {
    handle(libc::SIGSEGV)
}

/// From now on SIGBUS is counted, and makes `file` a page long.
pub fn lengthen(file: &File) -> io::Result<()> {
    FILE.store(file.as_raw_fd(), Ordering::Relaxed);
    handle(libc::SIGBUS)
}

/// From now on [`interrupt`] is counted and does nothing else.
pub fn take_interruptions() -> io::Result<()> {
    handle(libc::SIGUSR1)
}

/// Sends a thread the signal of [`take_interruptions`].
pub fn interrupt<T>(thread: &JoinHandle<T>) -> io::Result<()> {
    // SAFETY: the handle keeps the thread's identity.
    match unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGUSR1) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn handle(signal: c_int) -> io::Result<()> {
    SIGNALS.store(0, Ordering::Relaxed);
    // SAFETY: all-zero is a valid `sigaction`: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the handler calls nothing but mprotect(2), ftruncate(2) and abort(3), which are async-signal-safe.
    match unsafe { libc::sigaction(signal, &raw const action, null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn handler(signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
    let done = match signal {
        libc::SIGSEGV => {
            // SAFETY: the kernel fills `si_addr` for SIGSEGV.
            let addr = unsafe { (*info).si_addr() };
            let page = addr.map_addr(|addr| addr & !(page_bytes() - 1));
            // SAFETY: makes a page accessible that its owner forbade; at any other address the call or the retry fails.
            unsafe { libc::mprotect(page, page_bytes(), libc::PROT_READ | libc::PROT_WRITE) }
        }
        libc::SIGBUS => {
            let len = libc::off_t::try_from(page_bytes()).unwrap_or(0);
            // SAFETY: a descriptor and a length.
            unsafe { libc::ftruncate(FILE.load(Ordering::Relaxed), len) }
        }
        _ => 0,
    };
    if done != 0 {
        // SAFETY: no preconditions.
        unsafe { libc::abort() }
    }
}
