//! What the files of frames tell of the pages of a batch.

use std::ops::Range;

use super::{
    super::{
        files::FileError,
        frames::{FrameFile, FrameFiles, Lookup},
    },
    Wanted,
    batch::Part,
};
use crate::pagemap::{Frame, PageFlags, PagemapEntry};

/// What is told of the frames of a batch; `None` what is not asked for.
#[derive(Debug)]
pub(in super::super) struct Columns {
    flags: Option<Column>,
    mapcount: Option<Column>,
    cgroup: Option<Column>,
    /// Whether parts say what is in huge pages.
    is_scanned: bool,
}

impl Columns {
    pub(in super::super) fn open(wanted: Wanted, is_scanned: bool) -> Result<Self, FileError> {
        let FrameFiles { flags, mapcount, cgroup } = FrameFiles::open(wanted)?;
        Ok(Self {
            flags: flags.map(Column::new),
            mapcount: mapcount.map(Column::new),
            cgroup: cgroup.map(Column::new),
            is_scanned,
        })
    }

    /// Reads what is told of the frames that `words` name.
    pub(in super::super) fn read(&mut self, parts: &[Part], words: &[PagemapEntry]) -> Result<(), FileError> {
        if let Some(flags) = &mut self.flags {
            // Of a huge page the head, and one tail for all.
            flags.read(words, parts.iter().flat_map(|part| part.speakers(2)))?;
            flags.spread(parts, 2);
        }
        if let Some(cgroup) = &mut self.cgroup {
            cgroup.read(words, parts.iter().flat_map(|part| part.speakers(1)))?;
            cgroup.spread(parts, 1);
        }
        let flags = self.flags.as_ref();
        if let Some(mapcount) = &mut self.mapcount {
            // Without a scan a large folio may be mapped as a huge page.
            let is_small = |index: usize| {
                let flags = flags.map(|flags| PageFlags::from_bits_retain(flags.words[index]));
                self.is_scanned || flags.is_some_and(|flags| !flags.contains(PageFlags::THP))
            };
            let is_once = |index: &usize| {
                words[*index].is_exclusive() && words[*index].pfn().is_some() && is_small(*index)
            };
            let (huge, small) = (|part: &&Part| part.is_huge(), |part: &&Part| !part.is_huge());
            let of_small = parts.iter().filter(small).flat_map(|part| part.pages.clone());
            let of_huge = parts.iter().filter(huge).flat_map(|part| {
                let Range { start, end } = part.pages;
                let is_read = !words[start].is_exclusive();
                start..if is_like_first(flags, part, words) { start + usize::from(is_read) } else { end }
            });
            mapcount.read(words, of_small.filter(|index| !is_once(index)).chain(of_huge))?;
            for part in parts {
                let pages = part.pages.clone();
                if part.is_huge() && is_like_first(flags, part, words) {
                    let count =
                        if words[pages.start].is_exclusive() { 1 } else { mapcount.words[pages.start] };
                    mapcount.words[pages].fill(count);
                } else if !part.is_huge() {
                    pages.filter(is_once).for_each(|index| mapcount.words[index] = 1);
                }
            }
        }
        Ok(())
    }

    /// Whether the same is told of all pages of `part` behind the first.
    pub(super) fn are_tails_alike(&self, part: &Part, words: &[PagemapEntry]) -> bool {
        part.is_whole && (self.mapcount.is_none() || self.is_like_first(part, words))
    }

    /// Whether [`Self::is_like_first`] may be true of any part.
    pub(super) const fn can_tell_alike(&self) -> bool {
        self.flags.is_some()
    }

    /// Whether the pages of `part`, a huge one, are surely mapped as often as its first.
    pub(super) fn is_like_first(&self, part: &Part, words: &[PagemapEntry]) -> bool {
        is_like_first(self.flags.as_ref(), part, words)
    }

    /// Whether `pages` are, as far as they are there, surely mapped each for itself, and ordinary ones: a scan would tell nothing
    /// that their words do not.
    pub(super) fn are_mapped_singly(&self, pages: Range<usize>, words: &[PagemapEntry]) -> bool {
        const LARGE: PageFlags = PageFlags::COMPOUND.union(PageFlags::THP).union(PageFlags::HUGE);
        const TELLING: PageFlags = LARGE.union(PageFlags::ZERO_PAGE).union(PageFlags::MMAP);
        self.flags.as_ref().is_some_and(|flags| {
            let is_ordinary = |word| PageFlags::from_bits_retain(word) & TELLING == PageFlags::MMAP;
            words[pages.clone()]
                .iter()
                .zip(&flags.words[pages])
                .all(|(entry, word)| entry.pfn().is_none() || is_ordinary(*word))
        })
    }

    /// Whether the same is told of two pages.
    pub(super) fn agree(&self, one: usize, other: usize) -> bool {
        let Self { flags, mapcount, cgroup, is_scanned: _ } = self;
        [flags, mapcount, cgroup].into_iter().flatten().all(|column| column.words[one] == column.words[other])
    }

    /// What is told of the page at `index`.
    pub(in super::super) fn frame(&self, index: usize) -> Frame {
        let word = |column: &Option<Column>| column.as_ref()?.word(index);
        Frame {
            flags: word(&self.flags).map(PageFlags::from_bits_retain),
            mapcount: word(&self.mapcount),
            cgroup: word(&self.cgroup),
        }
    }
}

/// Whether the pages of `part` are surely mapped as often as its first, which is told by its word or by reading.
///
/// The word of a page in a huge one tells of the first page of it at best: others may map but a part. An anonymous one that is
/// exclusive as a whole has a flag for it at its head, and of hugetlb nobody maps a part.
fn is_like_first(flags: Option<&Column>, part: &Part, words: &[PagemapEntry]) -> bool {
    const EXCLUSIVE: PageFlags = PageFlags::ANON.union(PageFlags::OWNER_2);
    let first = part.pages.start;
    let Some(flags) = flags.filter(|_| part.is_whole) else { return false };
    let flags = PageFlags::from_bits_retain(flags.words[first]);
    flags.contains(PageFlags::HUGE) || flags.contains(EXCLUSIVE) && words[first].is_exclusive()
}

/// What one file tells of the frames of a batch.
#[derive(Debug)]
struct Column {
    file: FrameFile,
    /// For each page that was asked for the word of its frame, or [`Self::UNTOLD`].
    words: Vec<u64>,
    asked: Vec<Lookup>,
}

impl Column {
    /// No word: the kernel writes none with all bits set.
    const UNTOLD: u64 = u64::MAX;

    const fn new(file: FrameFile) -> Self {
        Self { file, words: Vec::new(), asked: Vec::new() }
    }

    /// Scans up the frames of those of `entries` whose indices are `pages`.
    fn read(
        &mut self,
        entries: &[PagemapEntry],
        pages: impl Iterator<Item = usize>,
    ) -> Result<(), FileError> {
        let Self { file, words, asked } = self;
        words.resize(entries.len(), Self::UNTOLD);
        asked.clear();
        for index in pages {
            words[index] = Self::UNTOLD;
            let Some(frame) = entries[index].pfn() else { continue };
            let next = Lookup::new(frame, index);
            if !asked.last_mut().is_some_and(|last| last.try_append(next)) {
                asked.push(next);
            }
        }
        asked.sort();
        file.read(asked, |index, known| {
            for (word, bytes) in words[index..].iter_mut().zip(known) {
                *word = u64::from_ne_bytes(*bytes);
            }
        })
    }

    /// Gives the pages of huge pages that were not looked up the word of the last of the `speakers` of theirs.
    fn spread(&mut self, parts: &[Part], speakers: usize) {
        for part in parts.iter().filter(|part| part.is_whole) {
            let silent = part.speakers(speakers).end..part.pages.end;
            let word = self.words[silent.start - 1];
            self.words[silent].fill(word);
        }
    }

    fn word(&self, index: usize) -> Option<u64> {
        Some(self.words[index]).filter(|word| *word != Self::UNTOLD)
    }
}
