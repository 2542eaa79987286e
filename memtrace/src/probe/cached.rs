//! Tells of the pages of a file that are in the page cache what page tables and frames do.
//!
//! Layer: shell. Input: a [`MemoryObject`], pages of it. Output: [`CachedRun`]s.
//! Source: `walk_file_range` of `tools/mm/page-types.c`, which does the same: own page tables are the only ones that surely have
//! the pages, and so tell their frames.
//! Keeps: memory is bounded whatever the file. Nothing is read from disk and no hole is filled, but for a page that leaves memory
//! between two calls, some milliseconds apart; a page in the swap cache comes back from there. A file may shrink meanwhile.
//! Not here: which pages are in memory (`residency`); which files there are (`tree`).

use std::{fs::File, io, ops::Range, os::fd::AsFd as _, path::Path};

use super::{
    budget::Budget,
    files::FileError,
    object::{MemoryObject, ObjectError},
    residency::Place,
    walk::{Columns, PageWalker, Part, Wanted},
};
use crate::{
    pagemap::{EntryFlags, Frame, PageCategories, PageRun, PagemapEntry},
    sys::touch::Window,
    units::{FilePage, PageCount, PageSize},
};

/// Consecutive cached pages of a file that are alike in everything that was asked for, and in frames that follow one another.
///
/// This process maps them to learn their frames, and what is told of these is read when it does not any more. So a page that
/// nobody maps has a count of 0; whether one is exclusive is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachedRun {
    /// The first page.
    pub first: FilePage,
    /// How many pages.
    pub pages: PageCount,
    /// The word of the first page; the others follow from it, as in [`EntryRun`](crate::pagemap::EntryRun).
    pub entry: PagemapEntry,
    /// What holds for each.
    pub categories: PageCategories,
    /// What holds for the frame of each.
    pub frame: Frame,
}

impl CachedRun {
    /// Adds `next` at the end, unless it is no neighbour or not alike.
    fn try_append(&mut self, next: &Self) -> bool {
        let Self { first, pages, entry, categories, frame } = self;
        let fits = next.first.as_raw() == first.as_raw() + pages.get()
            && entry.advanced(pages.get()) == Some(next.entry)
            && (*categories, *frame) == (next.categories, next.frame);
        if fits {
            *pages += next.pages;
        }
        fits
    }
}

/// Scans of cached pages.
#[derive(Debug)]
pub struct CachedReader {
    walker: PageWalker,
    columns: Columns,
    pagemap: File,
    budget: Budget,
    /// What own page tables have of a window: number, word and categories of each page.
    seen: Vec<(FilePage, PagemapEntry, PageCategories)>,
}

impl CachedReader {
    /// A reader on a host with base pages of size `page`; without `scan`, it has no `PAGEMAP_SCAN`.
    ///
    /// Fails as [`PageWalker::new`] does.
    pub fn new(page: PageSize, scan: bool, wanted: Wanted, budget: Budget) -> Result<Self, FileError> {
        let path = Path::new("/proc/self/pagemap");
        let pagemap = File::open(path).map_err(|error| FileError::of(path, error))?;
        let walker = PageWalker::new(page, scan, Wanted::default(), budget)?;
        Ok(Self { walker, columns: Columns::open(wanted, scan)?, pagemap, budget, seen: Vec::new() })
    }

    /// Hands `sink` those of the `pages` of `object` that are in the page cache, in order.
    ///
    /// On an error, what was seen until then has been handed over.
    pub fn walk(
        &mut self,
        object: &MemoryObject,
        pages: Range<FilePage>,
        mut sink: impl FnMut(CachedRun),
    ) -> Result<(), ObjectError> {
        let mut last: Option<CachedRun> = None;
        let result = self.walk_windows(object, pages, &mut |run| {
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
    fn walk_windows(
        &mut self,
        object: &MemoryObject,
        pages: Range<FilePage>,
        emit: &mut impl FnMut(CachedRun),
    ) -> Result<(), ObjectError> {
        let end = pages.end.as_raw().min(object.pages()?.get());
        let mut rest = pages.start.as_raw()..end;
        let mut cached: Vec<Range<u64>> = Vec::new();
        while let Some(window) = object.next_window(rest)? {
            rest = window.end..end;
            let mut shift = self.budget.shift();
            object.walk(FilePage::from_raw(window.start)..FilePage::from_raw(window.end), |run| {
                if run.place == Place::Resident {
                    cached.push(run.first.as_raw()..run.end());
                }
            })?;
            let touched = touch(object, &mut cached)?;
            shift.rest();
            if let Some((first, window)) = touched {
                self.scan(object, &window, first)?;
                drop(window);
                self.tell(object, emit)?;
            }
        }
        Ok(())
    }

    /// Notes which pages are in `window`, whose first is page `first` of `object`.
    fn scan(&mut self, object: &MemoryObject, window: &Window, first: u64) -> Result<(), ObjectError> {
        let Self { walker, pagemap, seen, .. } = self;
        let range = window.range();
        let start = range.start().vpn(object.page).as_raw();
        seen.clear();
        let result = walker.walk(pagemap, range, |PageRun { entries, categories, frame: _ }| {
            for (number, entry) in (first + entries.first.as_raw() - start..).zip(entries.entries()) {
                // That is about this mapping of it.
                let entry = PagemapEntry::from_raw(entry.as_raw() & !EntryFlags::EXCLUSIVE.bits());
                seen.push((FilePage::from_raw(number), entry, categories));
            }
        });
        result.map_err(|error| object.failure("scan the pages of", io::Error::other(error)))
    }

    /// Hands `emit` the pages that were noted.
    fn tell(&mut self, object: &MemoryObject, emit: &mut impl FnMut(CachedRun)) -> Result<(), ObjectError> {
        let Self { columns, seen, .. } = self;
        let words: Vec<_> = seen.iter().map(|(_, entry, _)| *entry).collect();
        let result = columns.read(&[Part::of_small_pages(0..words.len())], &words);
        result.map_err(|error| object.failure("scan the frames of", io::Error::other(error)))?;
        for (index, (first, entry, categories)) in seen.drain(..).enumerate() {
            let frame = columns.frame(index);
            emit(CachedRun { first, pages: PageCount::new(1), entry, categories, frame });
        }
        Ok(())
    }
}

/// Maps the part of `object` where the pages `cached` are, touches these and forgets them; the first, and the mapping.
fn touch(object: &MemoryObject, cached: &mut Vec<Range<u64>>) -> Result<Option<(u64, Window)>, ObjectError> {
    let (Some(first), Some(last)) = (cached.first(), cached.last()) else {
        return Ok(None);
    };
    let (first, end) = (first.start, last.end);
    let window = Window::map(object.file.as_fd(), first * object.page.bytes(), bytes(object, end - first))
        .map_err(|error| object.failure("map", error))?;
    for page in cached.drain(..).flatten() {
        // One that cannot be touched has left memory, or is damaged: it is not in page tables then.
        let _absent = window.touch(bytes(object, page - first));
    }
    Ok(Some((first, window)))
}

/// Bytes of so many pages in a window.
fn bytes(object: &MemoryObject, pages: u64) -> usize {
    usize::try_from(pages * object.page.bytes()).expect("at most a window")
}
