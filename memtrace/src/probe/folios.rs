//! Finds the folio that a piece of one belongs to.
//!
//! Layer: shell. Input: [`FolioPiece`]s. Output: [`FolioExtent`]s.
//! Source: flags of heads and tails in `/proc/kpageflags`, `fs/proc/page.c`.
//! Keeps: few frames about the piece are read; a folio that was split or freed meanwhile is not known.
//! Not here: pieces (`census`).

use std::path::Path;

use super::{files::FileError, frames::FrameFile, pages::WORD_BYTES};
use crate::{
    census::{FolioExtent, FolioPiece},
    pagemap::PageFlags,
    units::PageCount,
};

/// Frames that are read at once at most; more than any folio has that page tables map in part.
const MAX_FRAMES: u64 = 1 << 14;

/// Scans about pieces of folios.
#[derive(Debug)]
pub(super) struct FolioFinder {
    flags: FrameFile,
}

impl FolioFinder {
    pub(super) fn open() -> Result<Self, FileError> {
        Ok(Self { flags: FrameFile::open(Path::new("/proc/kpageflags"))? })
    }

    /// The folio of which `piece` is a part; `None` if there is none any more.
    pub(super) fn extent(&mut self, piece: &FolioPiece) -> Result<Option<FolioExtent>, FileError> {
        let first = piece.frame.as_raw();
        let end = first + piece.pages.get();
        let tails = self.tails_from(end)?;
        if tails == 0 && piece.has_head {
            return Ok(Some(FolioExtent { pages: piece.pages, is_whole: true }));
        }
        let before = if piece.has_head { Some(0) } else { self.frames_since_head(first)? };
        Ok(before.map(|before| {
            let pages = PageCount::new(before + piece.pages.get() + tails);
            FolioExtent { pages, is_whole: false }
        }))
    }

    /// How many frames from `first` on are tails.
    fn tails_from(&mut self, first: u64) -> Result<u64, FileError> {
        let (mut tails, mut count) = (0, 1);
        while tails < MAX_FRAMES {
            let words = self.flags.words(first + tails, count)?;
            let found = words.iter().take_while(|word| has(**word, PageFlags::COMPOUND_TAIL)).count() as u64;
            tails += found;
            if found < count {
                break;
            }
            count *= 2;
        }
        Ok(tails)
    }

    /// How many frames before `end` there are from the next head on, all others being tails.
    fn frames_since_head(&mut self, end: u64) -> Result<Option<u64>, FileError> {
        let (mut passed, mut count) = (0, 8);
        while passed < MAX_FRAMES && passed < end {
            let now = (end - passed).min(count);
            let words = self.flags.words(end - passed - now, now)?;
            let tails = words.iter().rev().take_while(|word| has(**word, PageFlags::COMPOUND_TAIL)).count();
            passed += tails as u64;
            if tails < words.len() {
                let is_head = has(words[words.len() - 1 - tails], PageFlags::COMPOUND_HEAD);
                return Ok(is_head.then_some(passed + 1));
            }
            count *= 2;
        }
        Ok(None)
    }
}

fn has(word: [u8; WORD_BYTES], flag: PageFlags) -> bool {
    PageFlags::from_bits_retain(u64::from_ne_bytes(word)).contains(flag)
}
