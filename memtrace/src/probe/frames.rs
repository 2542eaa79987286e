//! Reads what the kernel tells of page frames.
//!
//! Layer: shell. Input: frame numbers. Output: words of `/proc/kpageflags`, `/proc/kpagecount` and `/proc/kpagecgroup`.
//! Source: `fs/proc/page.c`: a word for each frame up to the end of memory, where reads are short.
//! Keeps: a frame beyond the end has no word.
//! Not here: what the words mean (`pagemap`).

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::{files::FileError, pages::WORD_BYTES, walk::Wanted};
use crate::units::Pfn;

/// Words that are read although nobody asked for them, if that saves a call: the kernel takes as long for so many.
const MAX_GAP: u64 = 4;
/// Words per call.
const MAX_SPAN: u64 = 4096;

/// The number of the first frame that no memory can have: architectures have frames with numbers of 40 bits at most.
pub(super) const END_OF_FRAMES: u64 = 1 << 48;

/// A frame to look up, and the index of the page that is in it; in the order of frames.
///
/// One number for both, since sorting takes a good part of the time of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lookup(u64);

impl Lookup {
    /// `None` for a frame that no memory can have.
    pub(super) const fn new(frame: Pfn, index: u16) -> Option<Self> {
        let frame = frame.as_raw();
        if frame < END_OF_FRAMES { Some(Self(frame << u16::BITS | index as u64)) } else { None }
    }

    const fn frame(self) -> u64 {
        self.0 >> u16::BITS
    }

    fn index(self) -> usize {
        let [low, high, ..] = self.0.to_le_bytes();
        usize::from(u16::from_le_bytes([low, high]))
    }
}

/// The kernel's files that tell what is wanted of frames; `None` what is not.
#[derive(Debug)]
pub(super) struct FrameFiles {
    pub(super) flags: Option<FrameFile>,
    pub(super) mapcount: Option<FrameFile>,
    pub(super) cgroup: Option<FrameFile>,
}

impl FrameFiles {
    pub(super) fn open(wanted: Wanted) -> Result<Self, FileError> {
        let Wanted { flags, mapcount, cgroup } = wanted;
        let open = |wanted: bool, path| wanted.then(|| FrameFile::open(Path::new(path))).transpose();
        Ok(Self {
            flags: open(flags, "/proc/kpageflags")?,
            mapcount: open(mapcount, "/proc/kpagecount")?,
            cgroup: open(cgroup, "/proc/kpagecgroup")?,
        })
    }
}

/// A file with a word for each frame.
#[derive(Debug)]
pub(super) struct FrameFile {
    path: PathBuf,
    file: File,
    bytes: Vec<u8>,
}

impl FrameFile {
    /// Opens `path`: `/proc/kpageflags` or its like, or a copy of one.
    ///
    /// Fails with [`io::ErrorKind::InvalidData`] if a copy ends amid a word.
    pub(super) fn open(path: &Path) -> Result<Self, FileError> {
        let file = Self::open_whole(path).map_err(|error| FileError::of(path, error))?;
        Ok(Self { path: path.to_owned(), file, bytes: Vec::new() })
    }

    fn open_whole(path: &Path) -> io::Result<File> {
        let file = File::open(path)?;
        // The kernel's own have no size.
        let bytes = file.metadata()?.len();
        if bytes % WORD_BYTES as u64 != 0 {
            let message =
                format!("a copy of words of {WORD_BYTES} bytes has {bytes} bytes: it was cut, copy it again");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(file)
    }

    /// Hands `sink` the index and the word of each of `frames`, which ascend.
    pub(super) fn read(
        &mut self,
        frames: &[Lookup],
        mut sink: impl FnMut(usize, u64),
    ) -> Result<(), FileError> {
        let spans = frames.chunk_by(|this, next| next.frame() - this.frame() <= MAX_GAP);
        for span in spans {
            let mut rest = span;
            while let Some(first) = rest.first().map(|lookup| lookup.frame()) {
                let len = rest.partition_point(|lookup| lookup.frame() - first < MAX_SPAN);
                let (now, later) = rest.split_at(len);
                let words = self.words(first, now[len - 1].frame() - first + 1)?;
                for lookup in now {
                    let nth = usize::try_from(lookup.frame() - first).unwrap_or(usize::MAX);
                    if let Some(word) = words.get(nth) {
                        sink(lookup.index(), u64::from_ne_bytes(*word));
                    }
                }
                rest = later;
            }
        }
        Ok(())
    }

    /// The words of `count` frames from `first` on, fewer at the end of memory.
    pub(super) fn words(&mut self, first: u64, count: u64) -> Result<&[[u8; WORD_BYTES]], FileError> {
        let len = usize::try_from(count).unwrap_or(usize::MAX / WORD_BYTES) * WORD_BYTES;
        if self.bytes.len() < len {
            self.bytes.resize(len, 0);
        }
        let read = self.file.read_at(&mut self.bytes[..len], first * WORD_BYTES as u64);
        let read = read.map_err(|error| FileError::of(&self.path, error))?;
        Ok(self.bytes[..read].as_chunks().0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// A file in which the word of frame n is 3n, for `frames` frames.
    fn file(frames: u64) -> FrameFile {
        let mut file = tempfile::tempfile().expect("a temporary file");
        for frame in 0..frames {
            file.write_all(&(3 * frame).to_ne_bytes()).expect("room");
        }
        FrameFile { path: PathBuf::new(), file, bytes: Vec::new() }
    }

    fn read(frames: &[u64], of: u64) -> Vec<(u64, u64)> {
        let lookup = |(index, frame)| Lookup::new(Pfn::new(frame).expect("not 0"), index).expect("in memory");
        let asked: Vec<_> = (0..).zip(frames.iter().copied()).map(lookup).collect();
        let mut found = Vec::new();
        file(of).read(&asked, |index, word| found.push((frames[index], word))).expect("a file");
        found
    }

    #[test]
    fn each_frame_has_its_own_word() {
        let frames = [1, 2, 3, 7, 8, 13, 100, 100, 4195, 4196, 9000];

        assert_eq!(read(&frames, 10_000), frames.map(|frame| (frame, 3 * frame)));
    }

    #[test]
    fn long_spans_are_read_in_parts() {
        let frames: Vec<u64> = (1..20_000).collect();

        assert_eq!(read(&frames, 20_000).len(), frames.len());
    }

    #[test]
    fn frame_beyond_the_end_has_no_word() {
        assert_eq!(read(&[8, 9, 10, 11, 500], 10), [(8, 24), (9, 27)]);
    }

    #[test]
    fn copy_that_was_cut_is_refused() {
        let mut copy = tempfile::NamedTempFile::new().expect("a temporary file");
        copy.write_all(&[0; 20]).expect("room");

        let error = FrameFile::open(copy.path()).expect_err("two and a half words");

        let FileError::Unreadable { path, source } = error else { panic!("{error}") };
        assert_eq!((path.as_path(), source.kind()), (copy.path(), io::ErrorKind::InvalidData));
        assert!(source.to_string().contains("20 bytes"), "{source}");
    }
}
