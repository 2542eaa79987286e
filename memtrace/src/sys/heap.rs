//! The allocator of the programs: it ends them in good order where there is no memory, and keeps what it holds close to what is used.
//!
//! Layer: shell. Input: none. Output: [`Heap`].
//! Source: `malloc_trim(3)`: the allocator of glibc keeps what lies below anything that is still used. `mallopt(3)`: a block
//! from `M_MMAP_THRESHOLD` on is a mapping of its own; the allocator raises that as such blocks are freed, up to 32 MiB.
//! Keeps: nothing that is used moves.
//! Not here: when it pays (`session`).

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::{Cursor, Write as _},
    sync::atomic::{AtomicU8, Ordering},
};

use super::limits::Shortage;

/// Exit code where there is no memory.
static FAILURE: AtomicU8 = AtomicU8::new(1);

/// Makes `code` the exit code where there is no memory.
pub fn fail_with(code: u8) {
    FAILURE.store(code, Ordering::Relaxed);
}

/// The system's allocator; a program that it has no memory for ends with a message, where Rust's would abort.
#[derive(Debug)]
pub struct Heap;

// SAFETY: `System` keeps the contract; what it returns is passed on unless it is null, and then nothing returns.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract.
        granted(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract.
        granted(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller keeps the contract.
        granted(unsafe { System.realloc(block, layout, size) }, size)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(block, layout) }
    }
}

/// `block`, unless the system refused one of `size` bytes.
fn granted(block: *mut u8, size: usize) -> *mut u8 {
    if block.is_null() { fail(size) } else { block }
}

/// Says that there is no memory for `size` bytes, and ends the process; allocates nothing.
#[cold]
fn fail(size: usize) -> ! {
    let mut text = Cursor::new([0; 256]);
    // What does not fit is cut, and nobody is left to know if it cannot be printed.
    let _cut = match Shortage::behind(libc::ENOMEM) {
        Some(shortage) => writeln!(text, "memtrace: no memory for {size} bytes; {shortage}"),
        None => writeln!(text, "memtrace: no memory for {size} bytes"),
    };
    let len = usize::try_from(text.position()).unwrap_or_default();
    let _gone = rustix::io::write(rustix::stdio::stderr(), &text.get_ref()[..len]);
    // SAFETY: it ends the process, and runs nothing of it any more.
    unsafe { libc::_exit(FAILURE.load(Ordering::Relaxed).into()) }
}

/// Bytes from which on a block is given back as soon as it is freed.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 256 << 10;

/// From now on gives large blocks back as soon as they are freed: of buffers that grow and go, a heap would keep all that
/// they ever were.
pub fn give_back_large() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets a number under the allocator's lock; an allocator that is in use has nothing left to initialise.
    let _accepted = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
}

/// Gives back all whole pages that are free. It takes a millisecond for each few thousand of them.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes the locks of the allocator, and frees only what is not used.
    let _anything_freed = unsafe { libc::malloc_trim(0) };
}
