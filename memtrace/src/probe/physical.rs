//! Reads what the kernel tells of all page frames, as runs.
//!
//! Layer: shell. Input: ranges of frames; or a copy of `/proc/kpageflags`. Output: [`FrameRun`]s.
//! Source: `Documentation/admin-guide/mm/pagemap.rst`, `fs/proc/page.c`: a word for each frame up to the end of memory, those of
//! holes too.
//! Keeps: memory is bounded whatever the range, and the CPU is taken as [`Budget`] says; no lock is held. Each file is read at
//! another moment, so that what is told of a frame that changes may not fit together.
//! Not here: which pages of whom are in the frames (`walk`, `cached`).

use std::{ops::Range, path::Path};

use super::{
    budget::Budget,
    files::FileError,
    frames::{END_OF_FRAMES, FrameFile, FrameFiles},
    pages::WORD_BYTES,
    walk::Wanted,
};
use crate::{
    pagemap::{Frame, PageFlags},
    units::{FrameIndex, PageCount},
};

/// Frames per batch.
const BATCH: u64 = 64 << 10;

/// What a file tells of the frames of a batch; `None` if it is not asked for.
type Words<'a> = Option<&'a [[u8; WORD_BYTES]]>;

/// Consecutive frames that are alike in everything that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRun {
    /// The first frame.
    pub first: FrameIndex,
    /// How many frames.
    pub frames: PageCount,
    /// What holds for each. Where there is no memory the flags are [`PageFlags::NOPAGE`] alone; but in Linux 6.18, not yet in
    /// 6.12, they are none there, as those of memory that the kernel has for itself.
    pub frame: Frame,
}

/// Reads frames.
#[derive(Debug)]
pub struct PhysicalReader {
    files: FrameFiles,
    budget: Budget,
}

impl PhysicalReader {
    /// All frames that a machine can have.
    pub const ALL: Range<FrameIndex> = FrameIndex::from_raw(0)..FrameIndex::from_raw(END_OF_FRAMES);

    /// A reader of this machine's frames; of `budget` only the share of a CPU counts.
    ///
    /// Fails if a file that tells what is `wanted` cannot be read: they are for root, and kernels without memory cgroups have no
    /// `/proc/kpagecgroup`. If nothing is wanted there is nothing to read.
    pub fn open(wanted: Wanted, budget: Budget) -> Result<Self, FileError> {
        Ok(Self { files: FrameFiles::open(wanted)?, budget })
    }

    /// A reader of the flags in `path`, a copy of `/proc/kpageflags`, at full speed.
    pub fn of_copy(path: &Path) -> Result<Self, FileError> {
        let files = FrameFiles { flags: Some(FrameFile::open(path)?), mapcount: None, cgroup: None };
        Ok(Self { files, budget: Budget::default() })
    }

    /// Hands `sink` those of `frames` that come before the end of memory, in order.
    ///
    /// If a file cannot be read on, what was read until then has been handed over.
    pub fn walk(
        &mut self,
        frames: Range<FrameIndex>,
        mut sink: impl FnMut(FrameRun),
    ) -> Result<(), FileError> {
        let mut last: Option<FrameRun> = None;
        let result = self.walk_frames(frames, |first, frame| match &mut last {
            Some(run) if run.frame == frame => run.frames += PageCount::new(1),
            last => {
                let run = FrameRun { first: FrameIndex::from_raw(first), frames: PageCount::new(1), frame };
                last.replace(run).into_iter().for_each(&mut sink);
            }
        });
        last.into_iter().for_each(sink);
        result
    }

    /// Hands `emit` the number of each frame and what is told of it.
    fn walk_frames(
        &mut self,
        frames: Range<FrameIndex>,
        mut emit: impl FnMut(u64, Frame),
    ) -> Result<(), FileError> {
        let Self { files: FrameFiles { flags, mapcount, cgroup }, budget } = self;
        let mut shift = budget.shift();
        let (mut next, end) = (frames.start.as_raw(), frames.end.as_raw().min(END_OF_FRAMES));
        while next < end {
            let count = BATCH.min(end - next);
            let flags = words(flags, next, count)?;
            let mapcount = words(mapcount, next, count)?;
            let cgroup = words(cgroup, next, count)?;
            // If memory came between two reads, one file ends before the others.
            let known = [flags, mapcount, cgroup].into_iter().flatten().map(<[_]>::len).min().unwrap_or(0);
            if known == 0 {
                break;
            }
            for index in 0..known {
                let frame = Frame {
                    flags: word(flags, index).map(PageFlags::from_bits_retain),
                    mapcount: word(mapcount, index),
                    cgroup: word(cgroup, index),
                };
                emit(next + index as u64, frame);
            }
            next += known as u64;
            shift.rest();
        }
        Ok(())
    }
}

fn words(file: &mut Option<FrameFile>, first: u64, count: u64) -> Result<Words<'_>, FileError> {
    file.as_mut().map(|file| file.words(first, count)).transpose()
}

fn word(words: Words<'_>, index: usize) -> Option<u64> {
    words.map(|words| u64::from_ne_bytes(words[index]))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use tempfile::NamedTempFile;

    use super::*;

    /// A copy with words of `end` frames: the first is reserved, the last is locked, and between them there is no memory.
    fn copy(end: usize) -> NamedTempFile {
        let mut words = vec![PageFlags::NOPAGE; end];
        words[0] = PageFlags::RESERVED;
        words[end - 1] = PageFlags::LOCKED;
        let bytes: Vec<u8> = words.iter().flat_map(|flags| flags.bits().to_ne_bytes()).collect();
        let mut copy = NamedTempFile::new().expect("a temporary file");
        copy.write_all(&bytes).expect("room");
        copy
    }

    /// First frame, frames and flags of each run of `frames` in `copy`.
    fn runs(copy: &NamedTempFile, frames: Range<FrameIndex>) -> Vec<(u64, u64, PageFlags)> {
        let mut runs = Vec::new();
        let mut reader = PhysicalReader::of_copy(copy.path()).expect("whole words");
        reader
            .walk(frames, |FrameRun { first, frames, frame }| {
                assert_eq!((frame.mapcount, frame.cgroup), (None, None));
                runs.push((first.as_raw(), frames.get(), frame.flags.expect("a copy has them")));
            })
            .expect("a file");
        runs
    }

    fn frames(start: u64, end: u64) -> Range<FrameIndex> {
        FrameIndex::from_raw(start)..FrameIndex::from_raw(end)
    }

    #[test]
    fn frames_are_distinguished_from_the_first_to_the_last_and_holes_too() {
        let runs = runs(&copy(10), PhysicalReader::ALL);

        assert_eq!(runs, [(0, 1, PageFlags::RESERVED), (1, 8, PageFlags::NOPAGE), (9, 1, PageFlags::LOCKED)]);
    }

    #[test]
    fn run_goes_on_across_batches() {
        let runs = runs(&copy(200_000), PhysicalReader::ALL);

        assert_eq!(
            runs,
            [(0, 1, PageFlags::RESERVED), (1, 199_998, PageFlags::NOPAGE), (199_999, 1, PageFlags::LOCKED),]
        );
    }

    #[test]
    fn range_ends_where_memory_does() {
        let copy = copy(10);

        assert_eq!(runs(&copy, frames(3, 5)), [(3, 2, PageFlags::NOPAGE)]);
        assert_eq!(runs(&copy, frames(9, 1000)), [(9, 1, PageFlags::LOCKED)]);
        assert_eq!(runs(&copy, frames(10, 1000)), []);
        assert_eq!(runs(&copy, frames(5, 5)), []);
        assert_eq!(runs(&copy, frames(u64::MAX - 1, u64::MAX)), []);
    }

    #[test]
    fn copy_that_is_not_there_is_an_error_with_its_path() {
        let error = PhysicalReader::of_copy(Path::new("/nowhere")).expect_err("no such file");

        assert!(matches!(error, FileError::Unreadable { path, .. } if path == Path::new("/nowhere")));
    }
}
