//! Pages that are read together.

use std::{
    fs::File,
    mem,
    ops::Range,
    os::{fd::AsFd as _, unix::fs::FileExt as _},
};

use super::{
    super::{
        ProbeError,
        pages::{QUERY, WORD_BYTES, are_absent, is_gone},
    },
    Columns, SCAN,
};
use crate::{
    pagemap::{EntryRun, PageCategories, PageRun, PagemapEntry},
    sys::scan::Scanner,
    units::{PageCount, PageSize, VirtRange, Vpn},
};

/// Pages per batch; batches begin at multiples of it, so that huge pages lie in one.
const BATCH_PAGES: u64 = 8192;

/// Absent pages whose words are read although nobody asked for them, if that saves a call.
const MAX_GAP_PAGES: usize = 64;

/// Neighbouring pages, most of which are there; read together.
#[derive(Debug)]
pub(super) struct Batch {
    /// Number of the first page.
    first: u64,
    /// Index of the page behind the last.
    end: usize,
    parts: Vec<Part>,
    page: PageSize,
    /// Scans what was not scanned before, if it has to be after all; `None` where there is no scan.
    scanner: Option<Scanner>,
    /// Whether it had to be.
    pub(super) was_scanned: bool,
    bytes: Vec<u8>,
    /// Words of all pages, absent ones too.
    words: Vec<PagemapEntry>,
    columns: Columns,
}

/// Pages of a batch: part of one huge page, or any number of others.
#[derive(Debug)]
pub(in super::super) struct Part {
    /// Their indices.
    pub(super) pages: Range<usize>,
    /// What the scan said of them; `None` if it was not asked, and they may be absent.
    categories: Option<PageCategories>,
    /// Whether they lie in one huge page, and their words follow from the first.
    pub(super) is_whole: bool,
}

impl Batch {
    pub(super) fn new(page: PageSize, scanner: Option<Scanner>, columns: Columns) -> Self {
        Self {
            first: 0,
            end: 0,
            parts: Vec::new(),
            page,
            scanner,
            was_scanned: false,
            bytes: Vec::new(),
            words: Vec::new(),
            columns,
        }
    }

    /// Adds the first of `pages`, which come after all before, and returns the others: those that have no place here any more.
    pub(super) fn add(&mut self, pages: Range<u64>, categories: Option<PageCategories>) -> Range<u64> {
        if self.parts.is_empty() {
            self.first = pages.start;
        }
        // Batches begin at multiples of their size, or later.
        let end = (self.first / BATCH_PAGES + 1) * BATCH_PAGES;
        if pages.start > self.first + (self.end + MAX_GAP_PAGES) as u64 || pages.start >= end {
            return pages;
        }
        let stop = pages.end.min(end);
        self.push(pages.start..stop, categories);
        stop..pages.end
    }

    /// Adds `pages`, which have a place here, as parts.
    fn push(&mut self, pages: Range<u64>, categories: Option<PageCategories>) {
        let is_huge = categories.is_some_and(|categories| categories.contains(PageCategories::HUGE));
        // As many as a page table has entries.
        let unit = if is_huge { self.page.bytes() / WORD_BYTES as u64 } else { BATCH_PAGES };
        let mut next = pages.start;
        while next < pages.end {
            let stop = pages.end.min((next / unit + 1) * unit);
            let index = |page: u64| usize::try_from(page - self.first).expect("at most a batch");
            let pages = index(next)..index(stop);
            self.end = self.end.max(pages.end);
            self.parts.push(Part { pages, categories, is_whole: false });
            next = stop;
        }
    }

    /// How many frames have to be looked up, each for itself: of a huge page but two.
    pub(super) fn lookups(&self) -> usize {
        let of_part = |part: &Part| if part.is_huge() { 2 } else { part.pages.len() };
        self.parts.iter().map(of_part).sum()
    }

    /// Reads what is told of the pages.
    pub(super) fn read(&mut self, pagemap: &File) -> Result<(), ProbeError> {
        self.words.resize(self.end, PagemapEntry::from_raw(0));
        if self.columns.can_tell_alike() && self.parts.iter().any(Part::is_huge) {
            self.read_heads(pagemap)?;
            self.columns.read(&self.parts, &self.words)?;
            if self.parts.iter().all(|part| !part.is_huge() || self.columns.is_like_first(part, &self.words))
            {
                return Ok(());
            }
        }
        self.read_words(pagemap)?;
        self.columns.read(&self.parts, &self.words)?;
        if self.needs_scan() {
            self.scan(pagemap)?;
            self.was_scanned = true;
            return self.read(pagemap);
        }
        Ok(())
    }

    /// Forgets all pages.
    pub(super) fn clear(&mut self) {
        self.parts.clear();
        self.end = 0;
        self.was_scanned = false;
    }

    /// Whether a scan might tell more than words and flags do of pages that were not scanned.
    fn needs_scan(&self) -> bool {
        let mut unscanned = self.parts.iter().filter(|part| part.categories.is_none());
        self.scanner.is_some()
            && unscanned.any(|part| !self.columns.are_mapped_singly(part.pages.clone(), &self.words))
    }

    /// Scans what was not scanned.
    fn scan(&mut self, pagemap: &File) -> Result<(), ProbeError> {
        let Some(mut scanner) = self.scanner.take() else { return Ok(()) };
        let mut result = Ok(());
        for part in mem::take(&mut self.parts) {
            if part.categories.is_some() {
                self.parts.push(part);
                continue;
            }
            let addr = |index: usize| Vpn::from_raw(self.first + index as u64).start(self.page);
            let mut rest = VirtRange::new(addr(part.pages.start), addr(part.pages.end));
            while let (Some(range), Ok(())) = (rest, &result) {
                let step = scanner.step(pagemap.as_fd(), range, SCAN).map_err(ProbeError::from);
                result = step.map(|(runs, left)| {
                    rest = left;
                    runs.for_each(|run| self.push(run.range.vpns(self.page), Some(run.categories)));
                });
            }
        }
        self.scanner = Some(scanner);
        result
    }

    /// Reads the words of the batch.
    ///
    /// Those of a huge page too, each: others may map a part of it alone, so that its pages are not equally exclusive.
    fn read_words(&mut self, pagemap: &File) -> Result<(), ProbeError> {
        self.read_span(pagemap, 0..self.end)?;
        if are_absent(self.bytes.as_chunks().0) {
            // Absent pages are not reported.
            self.parts.clear();
        }
        for part in self.parts.iter_mut().filter(|part| part.is_huge()) {
            let words = &self.words[part.pages.clone()];
            part.is_whole = (0..).zip(words).all(|(page, word)| words[0].advanced(page) == Some(*word));
        }
        Ok(())
    }

    /// Reads the words of the batch, of a huge page the first alone: the others are taken to follow from it.
    fn read_heads(&mut self, pagemap: &File) -> Result<(), ProbeError> {
        let mut next = 0;
        for index in 0..self.parts.len() {
            let part = &mut self.parts[index];
            if part.is_huge() {
                part.is_whole = true;
                let Range { start, end } = part.pages;
                self.read_span(pagemap, next..start + 1)?;
                let first = self.words[start];
                for (page, word) in (0..).zip(&mut self.words[start..end]) {
                    *word = first.advanced(page).unwrap_or(first);
                }
                next = end;
            }
        }
        self.read_span(pagemap, next..self.end)
    }

    /// Reads the words of pages from one index to another.
    fn read_span(&mut self, pagemap: &File, pages: Range<usize>) -> Result<(), ProbeError> {
        if pages.is_empty() {
            return Ok(());
        }
        self.bytes.resize(pages.len() * WORD_BYTES, 0);
        let offset = (self.first + pages.start as u64) * WORD_BYTES as u64;
        let mut read = 0;
        while read < self.bytes.len() {
            match pagemap.read_at(&mut self.bytes[read..], offset + read as u64)? {
                0 if read == 0 && is_gone(pagemap)? => return Err(ProbeError::Gone),
                0 => break,
                more => read += more,
            }
        }
        self.bytes[read..].fill(0);
        for (word, bytes) in self.words[pages].iter_mut().zip(self.bytes.as_chunks::<WORD_BYTES>().0) {
            *word = PagemapEntry::from_raw(u64::from_ne_bytes(*bytes));
        }
        Ok(())
    }

    /// Hands `emit` the pages that are there.
    pub(super) fn tell(&self, emit: &mut impl FnMut(PageRun)) {
        for part in &self.parts {
            let mut next = part.pages.start;
            while next < part.pages.end {
                let (first, entry) = (next, self.words[next]);
                let follows = |index: usize| {
                    entry.advanced((index - first) as u64) == Some(self.words[index])
                        && self.columns.agree(first, index)
                };
                next = if first > part.pages.start && self.columns.are_tails_alike(part, &self.words) {
                    part.pages.end
                } else {
                    (first + 1..part.pages.end).find(|index| !follows(*index)).unwrap_or(part.pages.end)
                };
                // The word is younger than the scan; that of an absent page may still be soft-dirty.
                let by_word = PageCategories::from_word(entry.as_raw());
                if !by_word.intersects(QUERY.any_of) {
                    continue;
                }
                emit(PageRun {
                    entries: EntryRun {
                        first: Vpn::from_raw(self.first + first as u64),
                        pages: PageCount::new((next - first) as u64),
                        entry,
                    },
                    categories: by_word
                        | part.categories.unwrap_or_default().difference(PageCategories::OF_WORDS),
                    frame: self.columns.frame(first),
                });
            }
        }
    }
}

impl Part {
    /// These pages, each for itself.
    pub(in super::super) const fn of_small_pages(pages: Range<usize>) -> Self {
        Self { pages, categories: None, is_whole: false }
    }

    /// Whether a scan found them in a huge page.
    pub(super) const fn is_huge(&self) -> bool {
        matches!(self.categories, Some(categories) if categories.contains(PageCategories::HUGE))
    }

    /// The pages that speak for all: the first `count` of a huge page, or else each for itself.
    pub(super) fn speakers(&self, count: usize) -> Range<usize> {
        let Range { start, end } = self.pages;
        start..if self.is_whole { end.min(start + count) } else { end }
    }
}
