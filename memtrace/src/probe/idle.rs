//! Marks frames idle, so that a later scan shows which of them were used since.
//!
//! Layer: shell. Input: frames. Output: bits in `/sys/kernel/mm/page_idle/bitmap`.
//! Source: `Documentation/admin-guide/mm/idle_page_tracking.rst`; `page_idle_bitmap_write` of `mm/page_idle.c`: words of 64
//! frames, written whole; frames that are on no list of reclaim are passed over.
//! Keeps: neighbours take one write.
//! Not here: the flag itself (`pagemap`).

use std::{
    fs::{File, OpenOptions},
    io, mem,
    os::unix::fs::FileExt as _,
    path::Path,
};

use rustix::io::Errno;

use super::{files::FileError, pages::WORD_BYTES};
use crate::units::{PageCount, Pfn};

/// Frames in a word.
const WORD_FRAMES: u64 = u64::BITS as u64;

/// Marks frames idle.
#[derive(Debug)]
pub struct IdleMarker {
    bitmap: File,
    /// Number and content of the word that is not written yet.
    pending: Option<(u64, u64)>,
    result: io::Result<()>,
}

/// Why nothing can be marked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdleError {
    /// The kernel does not track idle pages.
    #[error("this kernel cannot mark pages idle: needs Linux 4.3 with CONFIG_IDLE_PAGE_TRACKING=y")]
    Missing,
    /// The file cannot be opened.
    #[error(transparent)]
    File(#[from] FileError),
}

impl IdleMarker {
    /// The file with a bit for each frame.
    fn path() -> &'static Path {
        Path::new("/sys/kernel/mm/page_idle/bitmap")
    }

    /// Opens the bitmap of idle pages.
    pub fn open() -> Result<Self, IdleError> {
        let path = Self::path();
        match OpenOptions::new().write(true).open(path) {
            Ok(bitmap) => Ok(Self { bitmap, pending: None, result: Ok(()) }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(IdleError::Missing),
            Err(error) => Err(FileError::of(path, error).into()),
        }
    }

    /// Marks `pages` frames from `first` on; some of them, and what goes wrong, only at [`Self::finish`].
    pub(super) fn mark(&mut self, first: Pfn, pages: PageCount) {
        let end = first.as_raw() + pages.get();
        let mut next = first.as_raw();
        while next < end {
            let number = next / WORD_FRAMES;
            let stop = end.min((number + 1) * WORD_FRAMES);
            let bits = u64::MAX >> (WORD_FRAMES - (stop - next)) << (next % WORD_FRAMES);
            match &mut self.pending {
                Some((pending, word)) if *pending == number => *word |= bits,
                _ => {
                    self.write();
                    self.pending = Some((number, bits));
                }
            }
            next = stop;
        }
    }

    /// Writes what is not written yet.
    pub(super) fn finish(&mut self) -> Result<(), FileError> {
        self.write();
        mem::replace(&mut self.result, Ok(())).map_err(|error| FileError::of(Self::path(), error))
    }

    fn write(&mut self) {
        let Some((number, word)) = self.pending.take() else { return };
        // A word is taken as a whole; if memory ends amid it, the kernel says that it wrote nothing.
        let written = self.bitmap.write_at(&word.to_ne_bytes(), number * WORD_BYTES as u64).map(drop);
        match written {
            // Behind the last frame of memory: those of devices cannot be idle.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NXIO) => {}
            written => self.result = mem::replace(&mut self.result, Ok(())).and(written),
        }
    }
}
