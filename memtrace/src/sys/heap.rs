//! Keeps the memory that the allocator holds close to what is used.
//!
//! Layer: shell. Input: none. Output: [`Heap`].
//! Source: `malloc_trim(3)`: the allocator of glibc keeps what lies below anything that is still used. `mallopt(3)`: a block
//! from `M_MMAP_THRESHOLD` on is a mapping of its own; the allocator raises that as such blocks are freed, up to 32 MiB.
//! Keeps: nothing that is used moves.
//! Not here: when it pays (`session`).

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
