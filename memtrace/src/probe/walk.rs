//! Walks the pages of a range and tells everything that is asked for of each, as runs.
//!
//! Layer: shell. Input: an open `/proc/PID/pagemap`. Output: [`PageRun`]s; pages in none are absent.
//! Source: `Documentation/admin-guide/mm/pagemap.rst`, `fs/proc/page.c`.
//! Keeps: memory is bounded whatever the range; the lock of the memory map is held in turns of `max_lock` at most.
//! Not here: bit layouts (`pagemap`), which regions to walk.

use std::{
    fs::File,
    io, mem,
    ops::Range,
    os::{fd::AsFd, unix::fs::FileExt},
    time::Duration,
};

use super::{ProbeError, frames::FrameFile, pages::is_gone};
use crate::{
    pagemap::{EntryFlags, EntryRun, Frame, PageCategories, PageFlags, PageRun, PagemapEntry},
    sys::scan::{Query, Scanner},
    units::{PageCount, PageSize, Pfn, VirtRange, Vpn},
};

const WORD_BYTES: usize = size_of::<u64>();

/// Pages per batch; batches begin at multiples of it, so that huge pages lie in one.
const BATCH_PAGES: u64 = 8192;

/// Absent pages whose words are read although nobody asked for them, if that saves a call.
const MAX_GAP_PAGES: u64 = 64;

/// One of these is what a page has that is not absent. The word of an absent one may still be soft-dirty.
const THERE: PageCategories = PageCategories::PRESENT.union(PageCategories::SWAPPED);

/// What to tell of each page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Its flags.
    pub flags: bool,
    /// How often it is mapped.
    pub mappings: bool,
    /// Its memory cgroup.
    pub cgroup: bool,
}

/// Walks pages.
#[derive(Debug)]
pub struct PageWalker {
    page: PageSize,
    /// What to find and to tell of it, and by what; `None` where the kernel has no `PAGEMAP_SCAN`, or it is not to be used.
    scanner: Option<(Scanner, Query)>,
    frames: FrameFiles,
    batch: Batch,
}

/// The files that tell of frames what is asked for.
#[derive(Debug)]
struct FrameFiles {
    flags: Option<FrameFile>,
    mappings: Option<FrameFile>,
    cgroup: Option<FrameFile>,
}

impl PageWalker {
    /// A walker for processes with base pages of size `page`; without `scan`, the host has no `PAGEMAP_SCAN`.
    ///
    /// Fails if a file that tells what is `wanted` cannot be opened.
    pub fn new(page: PageSize, scan: bool, wanted: Wanted, max_lock: Duration) -> io::Result<Self> {
        let query = Query {
            any_of: THERE,
            wanted: THERE | PageCategories::FILE | PageCategories::PFNZERO | PageCategories::HUGE,
        };
        let open = |wanted: bool, path| wanted.then(|| FrameFile::open(path)).transpose();
        let frames = FrameFiles {
            flags: open(wanted.flags, "/proc/kpageflags")?,
            mappings: open(wanted.mappings, "/proc/kpagecount")?,
            cgroup: open(wanted.cgroup, "/proc/kpagecgroup")?,
        };
        let scanner = scan.then(|| (Scanner::new(page, max_lock), query));
        Ok(Self { page, scanner, frames, batch: Batch::new(page, wanted.mappings) })
    }

    /// Hands `sink` the pages of `range`, which begins at a page, in address order.
    ///
    /// If the process ends or executes a program meanwhile, what was seen until then has been handed over, and the error is
    /// [`ProbeError::Gone`].
    pub fn walk(
        &mut self,
        pagemap: &File,
        range: VirtRange,
        mut sink: impl FnMut(PageRun),
    ) -> Result<(), ProbeError> {
        self.batch.clear();
        let mut last: Option<PageRun> = None;
        let result = self.walk_runs(pagemap, range, &mut |run| {
            if !last.as_mut().is_some_and(|last| last.try_append(&run))
                && let Some(last) = last.replace(run)
            {
                sink(last);
            }
        });
        last.into_iter().for_each(sink);
        result
    }

    /// As [`Self::walk`], but runs may be followed by some that are alike.
    fn walk_runs(
        &mut self,
        pagemap: &File,
        range: VirtRange,
        emit: &mut impl FnMut(PageRun),
    ) -> Result<(), ProbeError> {
        let Self { page, scanner, frames, batch } = self;
        let pages_of = |range: VirtRange| {
            let first = range.start().vpn(*page).as_raw();
            first..first + range.pages(*page).get()
        };
        let Some((scanner, query)) = scanner else {
            // The words say it all.
            batch.add(pages_of(range), PageCategories::empty(), pagemap, frames, emit)?;
            return batch.finish(pagemap, frames, emit);
        };
        let mut rest = Some(range);
        while let Some(range) = rest {
            let (runs, left) = scanner.step(pagemap.as_fd(), range, *query)?;
            rest = left;
            for run in runs {
                batch.add(pages_of(run.range), run.categories, pagemap, frames, emit)?;
            }
        }
        batch.finish(pagemap, frames, emit)
    }
}

/// Neighbouring pages, most of which are there; read together.
#[derive(Debug)]
struct Batch {
    /// Number of the first page.
    first: u64,
    /// Index of the page behind the last.
    end: usize,
    parts: Vec<Part>,
    /// Pages in a huge page: as many as a page table has entries.
    huge_pages: u64,
    bytes: Vec<u8>,
    /// Words of all pages, absent ones too.
    words: Vec<PagemapEntry>,
    /// Frames to look up, with the index of the page.
    asked: Vec<(Pfn, usize)>,
    /// What was read of the frames of pages.
    told: Vec<Frame>,
    /// Whether a page that is mapped exactly once is to tell so.
    tells_mappings: bool,
}

/// Pages of a batch that a scan found: part of one huge page, or any number of others.
#[derive(Debug)]
struct Part {
    /// Their indices.
    pages: Range<usize>,
    /// What the scan said of them.
    categories: PageCategories,
    /// Whether they lie in one huge page, and their words follow from the first.
    is_whole: bool,
}

impl Batch {
    fn new(page: PageSize, tells_mappings: bool) -> Self {
        Self {
            first: 0,
            end: 0,
            parts: Vec::new(),
            huge_pages: page.bytes() / WORD_BYTES as u64,
            bytes: Vec::new(),
            words: Vec::new(),
            asked: Vec::new(),
            told: Vec::new(),
            tells_mappings,
        }
    }

    /// Adds `pages`, which come after all before; tells of each batch that is full.
    fn add(
        &mut self,
        pages: Range<u64>,
        categories: PageCategories,
        pagemap: &File,
        frames: &mut FrameFiles,
        emit: &mut impl FnMut(PageRun),
    ) -> Result<(), ProbeError> {
        let mut next = pages.start;
        while next < pages.end {
            let number = next / BATCH_PAGES;
            let is_far =
                next > self.first + self.end as u64 + MAX_GAP_PAGES || number != self.first / BATCH_PAGES;
            if is_far && !self.parts.is_empty() {
                self.finish(pagemap, frames, emit)?;
            }
            if self.parts.is_empty() {
                self.first = next;
            }
            let unit = if categories.contains(PageCategories::HUGE) { self.huge_pages } else { BATCH_PAGES };
            let stop = pages.end.min((next / unit + 1) * unit);
            let index = |page: u64| usize::try_from(page - self.first).expect("at most a batch");
            let pages = index(next)..index(stop);
            self.end = pages.end;
            self.parts.push(Part { pages, categories, is_whole: false });
            next = stop;
        }
        Ok(())
    }

    /// Reads the batch, tells of it, and empties it.
    fn finish(
        &mut self,
        pagemap: &File,
        frames: &mut FrameFiles,
        emit: &mut impl FnMut(PageRun),
    ) -> Result<(), ProbeError> {
        let result = self.read(pagemap, frames);
        if result.is_ok() {
            self.tell(emit);
        }
        self.clear();
        result
    }

    /// Forgets all pages.
    fn clear(&mut self) {
        self.parts.clear();
        self.end = 0;
    }

    fn read(&mut self, pagemap: &File, frames: &mut FrameFiles) -> Result<(), ProbeError> {
        self.read_words(pagemap)?;
        self.told.clear();
        self.told.resize(self.words.len(), Frame::default());
        if let Some(file) = &mut frames.flags {
            // The head, and one tail for all.
            self.ask(|part, _| part.heads(2), |_| true);
            file.read(&self.asked, |index, word| {
                self.told[index].flags = Some(PageFlags::from_bits_retain(word));
            })?;
        }
        if let Some(file) = &mut frames.cgroup {
            self.ask(|part, _| part.heads(1), |_| true);
            file.read(&self.asked, |index, word| self.told[index].cgroup = Some(word))?;
        }
        if let Some(file) = &mut frames.mappings {
            // Pages that are mapped exactly once say so themselves.
            let pages_of =
                |part: &Part, batch: &Self| if batch.is_exclusive(part) { 0..0 } else { part.pages.clone() };
            self.ask(pages_of, |word| !is_exclusive(word));
            file.read(&self.asked, |index, word| self.told[index].mappings = Some(word))?;
        }
        Ok(())
    }

    /// Reads the words of the batch.
    fn read_words(&mut self, pagemap: &File) -> Result<(), ProbeError> {
        self.bytes.resize(self.end * WORD_BYTES, 0);
        let read = pagemap.read_at(&mut self.bytes, self.first * WORD_BYTES as u64)?;
        if read == 0 && is_gone(pagemap)? {
            return Err(ProbeError::Gone);
        }
        let words = self.bytes[..read].as_chunks::<WORD_BYTES>().0;
        self.words.clear();
        self.words.extend(words.iter().map(|word| PagemapEntry::from_raw(u64::from_ne_bytes(*word))));
        self.words.resize(self.end, PagemapEntry::default());
        for part in self.parts.iter_mut().filter(|part| part.categories.contains(PageCategories::HUGE)) {
            let words = &self.words[part.pages.clone()];
            part.is_whole = (0..).zip(words).all(|(page, word)| words[0].advanced(page) == Some(*word));
        }
        Ok(())
    }

    /// Lists the frames of those pages of each part that `pages_of` names and whose words `is_asked` takes, in ascending order.
    fn ask(
        &mut self,
        pages_of: impl Fn(&Part, &Self) -> Range<usize>,
        is_asked: impl Fn(PagemapEntry) -> bool,
    ) {
        let mut asked = mem::take(&mut self.asked);
        asked.clear();
        for part in &self.parts {
            let pages = pages_of(part, self).map(|index| (self.words[index], index));
            let wanted = pages.filter(|(word, _)| is_asked(*word));
            asked.extend(wanted.filter_map(|(word, index)| Some((word.pfn()?, index))));
        }
        if !asked.is_sorted_by_key(|(frame, _)| *frame) {
            asked.sort_unstable();
        }
        self.asked = asked;
    }

    /// Whether all pages of `part`, which are in one huge page, are mapped exactly once.
    fn is_exclusive(&self, part: &Part) -> bool {
        part.is_whole && is_exclusive(self.words[part.pages.start])
    }

    /// What is known of the frame of the page at `index`, of `part`.
    fn frame(&self, part: &Part, index: usize) -> Frame {
        let Frame { mappings, .. } = self.told[index];
        let Frame { flags, cgroup, .. } = if part.is_whole {
            let head = part.pages.start;
            Frame { cgroup: self.told[head].cgroup, ..self.told[index.min(head + 1)] }
        } else {
            self.told[index]
        };
        let word = self.words[index];
        let is_once = self.tells_mappings && is_exclusive(word) && word.pfn().is_some();
        Frame { flags, mappings: if is_once { Some(1) } else { mappings }, cgroup }
    }

    /// Hands `emit` the pages that are there.
    fn tell(&self, emit: &mut impl FnMut(PageRun)) {
        for part in &self.parts {
            let mut next = part.pages.start;
            while next < part.pages.end {
                let (first, entry, frame) = (next, self.words[next], self.frame(part, next));
                let follows = |index: &usize| {
                    entry.advanced((*index - first) as u64) == Some(self.words[*index])
                        && self.frame(part, *index) == frame
                };
                let mut others = first + 1..part.pages.end;
                next = if first > part.pages.start && self.is_exclusive(part) {
                    // All tails are alike.
                    part.pages.end
                } else {
                    others.find(|index| !follows(index)).unwrap_or(part.pages.end)
                };
                // The word is younger than the scan.
                let by_word = PageCategories::from_word(entry.as_raw());
                if !by_word.intersects(THERE) {
                    continue;
                }
                emit(PageRun {
                    entries: EntryRun {
                        first: Vpn::from_raw(self.first + first as u64),
                        pages: PageCount::new((next - first) as u64),
                        entry,
                    },
                    categories: part.categories.difference(PageCategories::OF_WORDS) | by_word,
                    frame,
                });
            }
        }
    }
}

impl Part {
    /// The pages that speak for all: the first `heads` of a huge page, or else each for itself.
    fn heads(&self, heads: usize) -> Range<usize> {
        let Range { start, end } = self.pages;
        start..if self.is_whole { end.min(start + heads) } else { end }
    }
}

/// Whether a page is mapped exactly once, as its word tells.
fn is_exclusive(word: PagemapEntry) -> bool {
    word.as_raw() & EntryFlags::EXCLUSIVE.bits() != 0
}
