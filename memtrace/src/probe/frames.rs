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

/// Frames to look up that follow one another as the pages in them do; ordered by frames.
///
/// Memory comes in stretches mostly, and it takes less time to sort those than their frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lookup {
    first: u64,
    /// Index of the page that is in the first.
    index: usize,
    frames: u64,
}

impl Lookup {
    /// The frame `first`, in which the page with this `index` is.
    pub(super) const fn new(first: Pfn, index: usize) -> Self {
        Self { first: first.as_raw(), index, frames: 1 }
    }

    /// Adds `next`, a single frame, if it goes on here and one call can read all.
    pub(super) const fn try_append(&mut self, next: Self) -> bool {
        let goes_on = next.first == self.end()
            && next.index as u64 == self.index as u64 + self.frames
            && self.frames < MAX_SPAN;
        self.frames += goes_on as u64;
        goes_on
    }

    const fn end(self) -> u64 {
        self.first + self.frames
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

    /// Hands `sink` the index of the first page and the words of each of `lookups`, which ascend; fewer at the end of memory.
    pub(super) fn read(
        &mut self,
        lookups: &[Lookup],
        mut sink: impl FnMut(usize, &[[u8; WORD_BYTES]]),
    ) -> Result<(), FileError> {
        let mut rest = lookups;
        while let Some(Lookup { first, .. }) = rest.first() {
            let mut end = *first;
            let fits = |lookup: &&Lookup| {
                let is_near = lookup.first <= end + MAX_GAP && lookup.end() - first <= MAX_SPAN;
                if is_near {
                    end = end.max(lookup.end());
                }
                is_near
            };
            let count = rest.iter().take_while(fits).count();
            let (now, later) = rest.split_at(count);
            let words = self.words(*first, end - first)?;
            for lookup in now {
                let index =
                    |frame: u64| usize::try_from(frame - first).map_or(words.len(), |at| at.min(words.len()));
                sink(lookup.index, &words[index(lookup.first)..index(lookup.end())]);
            }
            rest = later;
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

    /// The word of each of `frames`, looked up in a file with `of`; `None` if it has none.
    fn read(frames: &[u64], of: u64) -> Vec<Option<u64>> {
        let mut lookups: Vec<Lookup> = Vec::new();
        for (index, frame) in frames.iter().enumerate() {
            let next = Lookup::new(Pfn::new(*frame).expect("not 0"), index);
            if !lookups.last_mut().is_some_and(|last| last.try_append(next)) {
                lookups.push(next);
            }
        }
        lookups.sort();
        let mut found = vec![None; frames.len()];
        let sink = |index: usize, words: &[[u8; WORD_BYTES]]| {
            for (found, word) in found[index..].iter_mut().zip(words) {
                *found = Some(u64::from_ne_bytes(*word));
            }
        };
        file(of).read(&lookups, sink).expect("a file");
        found
    }

    #[test]
    fn each_frame_has_its_own_word() {
        let frames = [7, 8, 1, 2, 3, 100, 100, 101, 9000, 13, 4195, 4196, 2, 3, 4];

        assert_eq!(read(&frames, 10_000), frames.map(|frame| Some(3 * frame)));
    }

    #[test]
    fn long_stretches_are_read_in_parts() {
        let frames: Vec<u64> = (1..20_000).collect();

        let expected: Vec<_> = frames.iter().map(|frame| Some(3 * frame)).collect();
        assert_eq!(read(&frames, 20_000), expected);
    }

    #[test]
    fn frame_beyond_the_end_has_no_word() {
        assert_eq!(read(&[11, 500, 8, 9, 10], 10), [None, None, Some(24), Some(27), None]);
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
