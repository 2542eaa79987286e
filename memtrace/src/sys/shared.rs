//! Reads words that the kernel or eBPF programs write, and writes words that they read, through memory and without a system call.
//!
//! Layer: shell. Input: an array map made with `BPF_F_MMAPABLE`. Output: [`SharedWords`], [`WritableWords`].
//! Source: `array_map_mmap` of `kernel/bpf/arraymap.c` (Linux 5.5); its pages are there before they are touched.
//! Keeps: the mapping ends with its owner, and is read-only but for [`WritableWords`].
//! Not here: what the words mean (`live`).

use std::{
    ffi::c_void,
    io,
    os::fd::BorrowedFd,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering, fence},
};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A read-only view of words that change under it.
#[derive(Debug)]
pub struct SharedWords {
    words: NonNull<AtomicU64>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is only ever read, atomically.
unsafe impl Send for SharedWords {}
// SAFETY: as above; concurrent atomic loads are no data race.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Maps the first `len` 64-bit words of `map`.
    pub fn map(map: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        Self::map_for(ProtFlags::READ, map, len)
    }

    fn map_for(access: ProtFlags, map: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let bytes = len.checked_mul(size_of::<u64>()).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: the kernel chooses an address that nothing else uses.
        let start = unsafe { mmap(std::ptr::null_mut(), bytes, access, MapFlags::SHARED, map, 0) }?;
        let words = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { words, len })
    }

    /// The word `index`; what its writer wrote before it is seen too.
    ///
    /// # Panics
    ///
    /// If `index` is not below the length that was mapped.
    #[must_use]
    pub fn load(&self, index: usize) -> u64 {
        let word = self.word(index);
        // A relaxed load and a fence: of all orderings, read-only memory guarantees the relaxed load alone.
        let value = word.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        value
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.len, "word {index} of {}", self.len);
        // SAFETY: `index` is in the mapping, which lives as long as `self`.
        let word = unsafe { self.words.add(index) };
        // SAFETY: the mapping is page-aligned, so the word is aligned; it is only ever accessed atomically here.
        unsafe { word.as_ref() }
    }
}

/// Words that others read while they are written here.
#[derive(Debug)]
pub struct WritableWords(SharedWords);

impl WritableWords {
    /// Maps the first `len` 64-bit words of `map`.
    pub fn map(map: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        SharedWords::map_for(ProtFlags::READ | ProtFlags::WRITE, map, len).map(Self)
    }

    /// The word `index`. It panics as [`SharedWords::load`] does.
    #[must_use]
    pub fn load(&self, index: usize) -> u64 {
        self.0.load(index)
    }

    /// Writes the word `index`; who sees it sees what was written before as well. It panics as [`SharedWords::load`] does.
    pub fn store(&self, index: usize, value: u64) {
        self.0.word(index).store(value, Ordering::Release);
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        let start = self.words.as_ptr().cast::<c_void>();
        // SAFETY: `map` mapped these bytes, and no reference into them outlives `self`.
        let result = unsafe { munmap(start, self.len * size_of::<u64>()) };
        debug_assert!(result.is_ok(), "the mapping was there");
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd, os::unix::fs::FileExt};

    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    #[test]
    fn word_written_after_mapping_is_seen() {
        let file = memfd_create("words", MemfdFlags::CLOEXEC).expect("memfd exists since 3.17");
        let file = File::from(file);
        file.set_len(4096).expect("a page is affordable");
        let words = SharedWords::map(file.as_fd(), 512).expect("a memfd can be mapped");

        file.write_all_at(&0x1122_3344_5566_7788_u64.to_ne_bytes(), 511 * 8).expect("the file is that long");

        assert_eq!(words.load(511), 0x1122_3344_5566_7788);
        assert_eq!(words.load(0), 0);
    }

    #[test]
    fn more_words_than_addresses_are_refused() {
        let file = memfd_create("words", MemfdFlags::CLOEXEC).expect("memfd exists since 3.17");

        let error = SharedWords::map(file.as_fd(), usize::MAX / 8 + 2).expect_err("they take 8 bytes each");

        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    #[should_panic(expected = "word 1 of 1")]
    fn word_beyond_the_mapping_is_refused() {
        let file = memfd_create("words", MemfdFlags::CLOEXEC).expect("memfd exists since 3.17");
        rustix::fs::ftruncate(&file, 8).expect("a word is affordable");
        let words = SharedWords::map(file.as_fd(), 1).expect("a memfd can be mapped");

        let _ = words.load(1);
    }
}
