//! System calls of `stacks` that change its address space.

use std::{
    ffi::{c_int, c_void},
    hint::black_box,
    io,
    ptr::null_mut,
};

use memtrace_tests::{ledger::Stretch, memory::page_bytes};

use super::Said;

/// Changes so many bytes from an address on; 0 if it did.
type Change = fn(*mut c_void, usize) -> c_int;

/// Pages of them, as nothing else has.
const CALLED_PAGES: usize = 37;

#[unsafe(no_mangle)]
#[inline(never)]
fn ledger_map(bytes: usize) -> *mut c_void {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: the kernel chooses the place, so no other memory is touched.
    black_box(unsafe { libc::mmap(null_mut(), bytes, libc::PROT_READ, flags, -1, 0) })
}

#[unsafe(no_mangle)]
#[inline(never)]
fn ledger_protect(start: *mut c_void, bytes: usize) -> c_int {
    // SAFETY: the caller owns the memory.
    black_box(unsafe { libc::mprotect(start, bytes, libc::PROT_READ | libc::PROT_WRITE) })
}

#[unsafe(no_mangle)]
#[inline(never)]
fn ledger_advise(start: *mut c_void, bytes: usize) -> c_int {
    // SAFETY: the caller owns the memory, and nothing relies on its content.
    black_box(unsafe { libc::madvise(start, bytes, libc::MADV_DONTNEED) })
}

#[unsafe(no_mangle)]
#[inline(never)]
fn ledger_unmap(start: *mut c_void, bytes: usize) -> c_int {
    // SAFETY: the caller owns the memory, and nothing refers to it.
    black_box(unsafe { libc::munmap(start, bytes) })
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) fn ledger_calls(said: &mut Said) -> io::Result<()> {
    said.caller = "ledger_calls";
    let bytes = CALLED_PAGES * page_bytes();
    let start = ledger_map(bytes);
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let addr = start.addr() as u64;
    let stretch = Stretch { start: addr, end: addr + bytes as u64 };
    said.called("mmap", stretch, &["mmap", "mmap64"], "ledger_map");
    let calls: [(&str, Change, &str); 3] = [
        ("mprotect", ledger_protect, "ledger_protect"),
        ("madvise", ledger_advise, "ledger_advise"),
        ("munmap", ledger_unmap, "ledger_unmap"),
    ];
    for (name, call, caller) in calls {
        if call(start, bytes) != 0 {
            return Err(io::Error::last_os_error());
        }
        said.called(name, stretch, &[name], caller);
    }
    Ok(())
}
