//! Brings pages of a file that are in memory into own page tables, and leaves them as they are.
//!
//! Layer: shell. Input: an open file, a range of it, pages to touch. Output: the addresses at which they are.
//! Source: `filemap_fault` and `filemap_map_pages` of `mm/filemap.c`; `zap_present_folio_ptes` of `mm/memory.c`; `rt_sigprocmask` of
//! `kernel/signal.c`; `walk_file_range` of `tools/mm/page-types.c` for the advices.
//! Keeps: nothing is read ahead, no page is marked as referenced (`MADV_POPULATE_READ`, `process_vm_readv(2)` and `/proc/self/mem`
//! would mark them), and a page that the file no longer has is an error, not a signal.
//! Not here: which pages are in memory (`cache`): others are read from disk.

use std::{io, os::fd::BorrowedFd, ptr::null_mut};

use rustix::mm::{Advice, ProtFlags, madvise};

use super::cache::Mapped;
use crate::units::{VirtAddr, VirtRange};

/// Bytes of a set of signals, as the kernel has it.
const SIGSET_BYTES: usize = size_of::<u64>();

/// Part of a file in this address space, for reading; unmapped at the end.
#[derive(Debug)]
pub struct Window(Mapped);

impl Window {
    /// Maps the `len` bytes, not 0, from `offset` on: both whole pages.
    pub fn map(file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Self> {
        let window = Self(Mapped::new(file, offset, len, ProtFlags::READ)?);
        // A page that left memory since somebody asked for it comes back without its neighbours.
        window.advise(Advice::Random)?;
        Ok(window)
    }

    /// The addresses at which it is.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "it never does")]
    pub fn range(&self) -> VirtRange {
        let start = self.0.start.addr() as u64;
        let end = start + self.0.len as u64;
        VirtRange::new(VirtAddr::from_raw(start), VirtAddr::from_raw(end)).expect("no mapping is empty")
    }

    /// Lets the kernel read the beginning of the page at `offset`, in bytes.
    ///
    /// Fails with `EFAULT` if the page is beyond the end of the file, or cannot be read.
    ///
    /// # Panics
    ///
    /// If the page is not in the window.
    pub fn touch(&self, offset: usize) -> io::Result<()> {
        const NOTHING: libc::c_int = -1;
        let last = self.0.len.checked_sub(SIGSET_BYTES);
        assert!(last.is_some_and(|last| offset <= last), "{offset} of {}", self.0.len);
        let page = self.0.start.wrapping_byte_add(offset);
        let none = null_mut::<libc::sigset_t>();
        // SAFETY: the kernel reads a set of signals that is within the mapping, or finds that it cannot. Then it refuses to do
        // `NOTHING` with them, so the mask stays.
        let result = unsafe { libc::syscall(libc::SYS_rt_sigprocmask, NOTHING, page, none, SIGSET_BYTES) };
        debug_assert_eq!(result, -1, "there is no such change of a mask");
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) }
    }

    fn advise(&self, advice: Advice) -> io::Result<()> {
        // SAFETY: the memory is this mapping's, and the advices of this module leave its content alone.
        unsafe { madvise(self.0.start, self.0.len, advice) }.map_err(io::Error::from)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // Else kernels before 6.3 mark the pages as referenced when they are unmapped.
        let advised = self.advise(Advice::Sequential);
        debug_assert!(advised.is_ok(), "the mapping was there");
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd as _};

    use rustix::param::page_size;

    use super::*;

    fn file(pages: usize) -> File {
        let file = tempfile::tempfile().expect("room");
        file.set_len((pages * page_size()) as u64).expect("holes take no room");
        file
    }

    #[test]
    fn page_beyond_the_end_of_the_file_is_an_error_and_no_signal() {
        let file = file(3);
        let window = Window::map(file.as_fd(), 0, 3 * page_size()).expect("a file");
        window.touch(2 * page_size()).expect("a page of the file");
        file.set_len(page_size() as u64).expect("a file");

        let error = window.touch(2 * page_size()).expect_err("the file has it no more");

        assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
        window.touch(0).expect("the file still has it");
    }

    #[test]
    fn window_lies_where_the_pages_of_the_file_are() {
        let file = file(3);
        let page = page_size() as u64;

        let window = Window::map(file.as_fd(), page, 2 * page_size()).expect("a file");

        assert_eq!(window.range().bytes(), 2 * page);
        assert!(window.range().start().as_raw().is_multiple_of(page));
    }
}
