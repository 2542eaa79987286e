//! Memory that signal handlers of `stacks` touch, on the stack of what they interrupt and on one of their own.
//!
//! Source: sigaltstack(2), sigaction(2); `SA_RESTORER` of the old action is where handlers return to.

use std::{
    ffi::{c_int, c_void},
    hint::black_box,
    io,
    mem::MaybeUninit,
    ptr::null_mut,
};

use memtrace_tests::{
    ledger::{Area, Base, Step},
    memory::{Mapping, page_bytes},
    task,
};

use super::{PAGES, Said, expect, function, ledger_touch, library, take, whole, writer};

/// Forbidden pages, each of which raises a signal.
pub(crate) const SIGNALS: usize = 4;

/// Pages that one signal makes its handler touch.
pub(crate) const PAGES_PER_SIGNAL: usize = 4;

/// Touches pages; makes the page writable that SIGSEGV was raised for.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ledger_handle(signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    let (start, pages) = take(PAGES_PER_SIGNAL);
    ledger_touch(start, pages);
    if signal == libc::SIGSEGV {
        // SAFETY: the kernel fills `si_addr` for SIGSEGV.
        let addr = unsafe { (*info).si_addr() };
        let page = addr.map_addr(|addr| addr & !(page_bytes() - 1));
        // SAFETY: opens a page that its owner forbade; at any other address the call or the retry fails.
        if unsafe { libc::mprotect(page, page_bytes(), libc::PROT_READ | libc::PROT_WRITE) } != 0 {
            // SAFETY: no preconditions.
            unsafe { libc::abort() }
        }
    }
    black_box(info);
}

/// Lets [`ledger_handle`] handle `signal`; returns where it returns to.
pub(crate) fn handle(signal: c_int, flags: c_int) -> io::Result<u64> {
    let mut before = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: all-zero is a valid `sigaction`: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = ledger_handle as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | flags;
    for old in [null_mut(), before.as_mut_ptr()] {
        // SAFETY: the handler calls nothing but mprotect(2) and abort(3), which are async-signal-safe.
        if unsafe { libc::sigaction(signal, &raw const action, old) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: all bytes were zero, and libc has filled it in.
    let before = unsafe { before.assume_init() };
    let restorer = before.sa_restorer.ok_or_else(|| io::Error::other("no restorer"))?;
    Ok((restorer as *const ()).addr() as u64)
}

/// From now on handlers with `SA_ONSTACK` run on these [`PAGES`] in this thread.
pub(crate) fn stand_on(start: *mut u8) -> io::Result<()> {
    let stack = libc::stack_t { ss_sp: start.cast(), ss_flags: 0, ss_size: PAGES * page_bytes() };
    // SAFETY: the memory is there until the end, and nothing else uses it.
    match unsafe { libc::sigaltstack(&raw const stack, null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Interrupts itself in the C library, until nothing is left to touch.
#[unsafe(no_mangle)]
#[inline(never)]
fn ledger_kill(signals: usize) {
    for _ in 0..signals {
        // SAFETY: the signal has a handler, which has run when the call returns: there is one thread.
        unsafe { libc::kill(libc::getpid(), libc::SIGUSR1) };
    }
    black_box(signals);
}

writer! {
    /// Interrupts itself by writing to forbidden pages.
    ledger_trespass
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) fn ledger_signals(said: &mut Said) -> io::Result<()> {
    said.caller = "ledger_signals";
    let alternate = Mapping::anonymous(PAGES)?;
    stand_on(alternate.start())?;
    said.held.push(alternate);
    for (where_to, flags) in [("", 0), (" on a stack of its own", libc::SA_ONSTACK)] {
        let restorer = Step::Restorer(handle(libc::SIGUSR1, flags)?);
        let memory = Mapping::anonymous(PAGES_PER_SIGNAL * SIGNALS)?;
        expect(&memory);
        ledger_kill(SIGNALS);
        let [touch, handler] = ["ledger_touch", "ledger_handle"].map(function);
        let steps = vec![touch, handler, restorer, library(&["kill"]), function("ledger_kill")];
        said.touched(&format!("handler{where_to}"), memory, steps);
        if flags != 0 {
            said.far();
        }

        let restorer = Step::Restorer(handle(libc::SIGSEGV, flags)?);
        let memory = Mapping::anonymous(PAGES_PER_SIGNAL * SIGNALS)?;
        let forbidden = Mapping::anonymous(SIGNALS)?;
        forbidden.forbid()?;
        expect(&memory);
        ledger_trespass(forbidden.start(), SIGNALS);
        let [touch, handler] = ["ledger_touch", "ledger_handle"].map(function);
        let steps = vec![touch, handler, restorer, function("ledger_trespass")];
        said.touched(&format!("handler of a fault{where_to}"), memory, steps);
        if flags != 0 {
            said.far();
        }
        let area = Area { failed: SIGNALS as u64, ..whole(&forbidden, task::tid()) };
        let name = format!("what raised the signal{where_to}");
        said.note(&name, area, vec![function("ledger_trespass")], Base::Main);
        said.held.push(forbidden);
    }
    Ok(())
}
