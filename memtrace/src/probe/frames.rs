//! Reads what the kernel tells of page frames.
//!
//! Layer: shell. Input: frame numbers. Output: words of `/proc/kpageflags`, `/proc/kpagecount` and `/proc/kpagecgroup`.
//! Source: `fs/proc/page.c`: a word for each frame up to the end of memory, where reads are short.
//! Keeps: a frame beyond the end has no word.
//! Not here: what the words mean (`pagemap`).

use std::{fs::File, io, os::unix::fs::FileExt};

use crate::units::Pfn;

const WORD_BYTES: usize = size_of::<u64>();

/// Words that are read although nobody asked for them, if that saves a call: the kernel takes as long for so many.
const MAX_GAP: u64 = 4;
/// Words per call.
const MAX_SPAN: u64 = 4096;

/// A file with a word for each frame.
#[derive(Debug)]
pub struct FrameFile {
    file: File,
    bytes: Vec<u8>,
}

impl FrameFile {
    /// Opens `path`, such as `/proc/kpageflags`.
    pub fn open(path: &str) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, bytes: Vec::new() })
    }

    /// Hands `sink` the word of each of `frames`, which ascend, with what stands beside the frame's number.
    pub fn read<T: Copy>(&mut self, frames: &[(Pfn, T)], mut sink: impl FnMut(T, u64)) -> io::Result<()> {
        let spans = frames.chunk_by(|(this, _), (next, _)| next.as_raw() - this.as_raw() <= MAX_GAP);
        for span in spans {
            let mut rest = span;
            while let Some((first, _)) = rest.first() {
                let first = first.as_raw();
                let len = rest.partition_point(|(frame, _)| frame.as_raw() - first < MAX_SPAN);
                let (now, later) = rest.split_at(len);
                let last = now[len - 1].0.as_raw();
                let words = self.words(first, last - first + 1)?;
                for (frame, beside) in now {
                    let index = usize::try_from(frame.as_raw() - first).unwrap_or(usize::MAX);
                    if let Some(word) = words.get(index) {
                        sink(*beside, u64::from_ne_bytes(*word));
                    }
                }
                rest = later;
            }
        }
        Ok(())
    }

    /// The words of `count` frames from `first` on, fewer at the end of memory.
    fn words(&mut self, first: u64, count: u64) -> io::Result<&[[u8; WORD_BYTES]]> {
        let len = usize::try_from(count).unwrap_or(usize::MAX / WORD_BYTES) * WORD_BYTES;
        if self.bytes.len() < len {
            self.bytes.resize(len, 0);
        }
        let read = self.file.read_at(&mut self.bytes[..len], first * WORD_BYTES as u64)?;
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
        FrameFile { file, bytes: Vec::new() }
    }

    fn read(frames: &[u64], of: u64) -> Vec<(u64, u64)> {
        let asked: Vec<_> = frames.iter().map(|&frame| (Pfn::new(frame).expect("not 0"), frame)).collect();
        let mut found = Vec::new();
        file(of).read(&asked, |frame, word| found.push((frame, word))).expect("a file");
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
}
