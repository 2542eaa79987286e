//! Gives memory that was freed back to the kernel.
//!
//! Layer: shell. Input: none. Output: none.
//! Source: `malloc_trim(3)`: the allocator of glibc keeps what lies below anything that is still used.
//! Keeps: nothing that is used moves.
//! Not here: when it pays (`session`).

/// Gives back all whole pages that are free. It takes a millisecond for each few thousand of them.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes the locks of the allocator, and frees only what is not used.
    let _anything_freed = unsafe { libc::malloc_trim(0) };
}
