//! Tells which pages of a file or of shared memory are in memory or swapped, whether or not anyone maps them.
//!
//! Layer: shell. Input: a [`MemoryObject`], pages of it. Output: [`ObjectRun`]s, [`CacheTotals`].
//! Source: `mincore(2)`; `lseek(2)` with `SEEK_DATA`, `mapping_seek_hole_data` of `mm/filemap.c`; `cachestat`, and
//! `shmem_partial_swap_usage` of `mm/shmem.c` for what smaps counts as swapped.
//! Keeps: no page is touched; memory is bounded whatever the range, and work is by what is there, not by the size of a sparse
//! file (but for files where the kernel lacks `cachestat`).
//! Not here: opening (`object`); pages that are mapped (`walk`).

use std::{fs, ops::Range, os::fd::AsFd as _};

use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};

use super::object::{MemoryObject, ObjectError};
use crate::{
    event::Vma,
    pagemap::StateRun,
    sys::cache,
    units::{FilePage, PageCount, VirtAddr, VirtRange},
};

/// Bytes of a file that are mapped at a time.
const WINDOW_BYTES: u64 = 64 << 20;

/// Where a page of an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In memory, and valid: in the page cache, or in the swap cache on its way in or out.
    Resident,
    /// In swap alone. Of shared memory only.
    Swapped,
}

/// Consecutive pages of an object that are in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectRun {
    /// The first page.
    pub first: FilePage,
    /// How many pages.
    pub pages: PageCount,
    /// Where each of them is.
    pub place: Place,
}

impl ObjectRun {
    /// The page behind the last.
    pub(super) const fn end(&self) -> u64 {
        self.first.as_raw() + self.pages.get()
    }
}

/// What the page cache has of an object, each page as it was when the kernel passed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheTotals {
    /// Pages in the page cache; those reserved by fallocate(2) but never written, and those being read, are among them.
    pub cached: PageCount,
    /// Of these, pages to be written to the file; of shared memory none.
    pub dirty: PageCount,
    /// Of these, pages that are being written.
    pub writeback: PageCount,
    /// Pages that were evicted, as far as the kernel remembers; of shared memory the swapped ones, those in the swap cache too.
    pub evicted: PageCount,
    /// Of the evicted, those so recently that their return would count as a refault of the working set.
    pub recently_evicted: PageCount,
}

/// Pages of an object in swap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SwappedPages {
    /// How many there are.
    pub pages: PageCount,
    /// Whether there may be more: where [`MemoryObject::totals`] are not known nobody says which pages are in the swap cache.
    pub is_lower_bound: bool,
}

impl SwappedPages {
    /// Nothing is known of them.
    pub const UNKNOWN: Self = Self { pages: PageCount::new(0), is_lower_bound: true };

    /// These and `others`.
    #[must_use]
    pub fn plus(mut self, others: Self) -> Self {
        self.pages += others.pages;
        self.is_lower_bound |= others.is_lower_bound;
        self
    }
}

impl MemoryObject {
    /// Hands `sink` those of the `pages` that are somewhere, in order.
    ///
    /// Pages in no run are in the file alone, are holes, or lie beyond its end. Of shared memory, pages that fallocate(2)
    /// reserved and nobody ever wrote are no different from holes. A page that is freed during the call may pass for swapped.
    pub fn walk(&self, pages: Range<FilePage>, mut sink: impl FnMut(ObjectRun)) -> Result<(), ObjectError> {
        let mut last: Option<ObjectRun> = None;
        let result = self.walk_windows(pages, &mut |run: ObjectRun| match &mut last {
            Some(last) if last.place == run.place && last.end() == run.first.as_raw() => {
                last.pages += run.pages;
            }
            last => last.replace(run).into_iter().for_each(&mut sink),
        });
        last.into_iter().for_each(sink);
        result
    }

    /// Hands `sink` those pages of `vma`, which maps this object, that are somewhere although its page tables do not tell: in
    /// none of the runs `known`, which are in address order, as [`PageReader::read`](super::pages::PageReader::read) gives them.
    pub fn walk_untold(
        &self,
        vma: &Vma,
        known: &[StateRun],
        mut sink: impl FnMut(VirtRange, Place),
    ) -> Result<(), ObjectError> {
        let first = vma.offset / self.page.bytes();
        let pages = first..first + vma.range.pages(self.page).get();
        let address =
            |page: u64| VirtAddr::from_raw(vma.range.start().as_raw() + (page - first) * self.page.bytes());
        let mut known = known.iter().map(|run| run.range).peekable();
        self.walk(FilePage::from_raw(pages.start)..FilePage::from_raw(pages.end), |run| {
            let mut next = address(run.first.as_raw());
            while let Some(rest) = VirtRange::new(next, address(run.end())) {
                while known.next_if(|known| known.end() <= rest.start()).is_some() {}
                let stop = known.peek().filter(|known| known.start() < rest.end());
                let unknown = VirtRange::new(rest.start(), stop.map_or(rest.end(), |known| known.start()));
                if let Some(unknown) = unknown {
                    sink(unknown, run.place);
                }
                next = stop.map_or(rest.end(), |known| known.end());
            }
        })
    }

    /// Those of `pages` that are in swap as smaps counts them: with those in the swap cache, which are [`Place::Resident`] too.
    pub fn swapped(&self, pages: Range<FilePage>) -> Result<SwappedPages, ObjectError> {
        let mut swapped = SwappedPages::default();
        if !self.is_shared_memory() {
            return Ok(swapped);
        }
        if let Some(totals) = self.totals(pages.clone())? {
            return Ok(SwappedPages { pages: totals.evicted, ..swapped });
        }
        self.walk(pages, |run| {
            if run.place == Place::Swapped {
                swapped.pages += run.pages;
            }
        })?;
        swapped.is_lower_bound = !is_swap_cache_empty();
        Ok(swapped)
    }

    /// What the page cache has of `pages`; `None` where the kernel does not tell: before Linux 6.5, without
    /// `CONFIG_CACHESTAT_SYSCALL`, under a filter of system calls, and of files whose pages are another's, as on overlayfs.
    pub fn totals(&self, pages: Range<FilePage>) -> Result<Option<CacheTotals>, ObjectError> {
        let end = pages.end.as_raw().min(self.pages()?.get());
        self.totals_of(pages.start.as_raw()..end)
    }

    fn totals_of(&self, pages: Range<u64>) -> Result<Option<CacheTotals>, ObjectError> {
        if self.is_of_another() {
            return Ok(None);
        }
        if pages.is_empty() {
            return Ok(Some(CacheTotals::default()));
        }
        let bytes = self.page.bytes();
        let stat =
            cache::cachestat(self.file.as_fd(), pages.start * bytes, (pages.end - pages.start) * bytes);
        match stat {
            Ok(cache::CacheStat { cached, dirty, writeback, evicted, recently_evicted }) => {
                Ok(Some(CacheTotals {
                    cached: PageCount::new(cached),
                    dirty: PageCount::new(dirty),
                    writeback: PageCount::new(writeback),
                    evicted: PageCount::new(evicted),
                    recently_evicted: PageCount::new(recently_evicted),
                }))
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOSYS | libc::EPERM | libc::EOPNOTSUPP) => Ok(None),
                _ => Err(self.failure("count the cached pages of", error)),
            },
        }
    }

    /// As [`Self::walk`], but runs may be followed by some that are alike.
    fn walk_windows(
        &self,
        pages: Range<FilePage>,
        emit: &mut impl FnMut(ObjectRun),
    ) -> Result<(), ObjectError> {
        let end = pages.end.as_raw().min(self.pages()?.get());
        let mut rest = pages.start.as_raw()..end;
        let mut stretches = Vec::new();
        let mut states = Vec::new();
        // Data is looked for first: a page that comes between the two calls is not told of, and does not pass for swapped.
        while let Some(window) = self.next_window(rest)? {
            let first = window.start;
            rest = window.end..end;
            self.find_possible(window, &mut stretches)?;
            let Some(last) = stretches.last() else { continue };
            self.read_states(first..last.end, &mut states)?;
            for Range { start, end } in stretches.drain(..) {
                let states = &states[index(start - first)..index(end - first)];
                self.tell(start, states, emit);
            }
        }
        Ok(())
    }

    /// Hands `emit` the pages from `first` on that have `states`, as mincore(2) tells them.
    fn tell(&self, mut first: u64, states: &[u8], emit: &mut impl FnMut(ObjectRun)) {
        let is_resident = |state: u8| state & 1 == 1;
        for run in states.chunk_by(|one, other| is_resident(*one) == is_resident(*other)) {
            let pages = run.len() as u64;
            let place = if is_resident(run[0]) {
                Some(Place::Resident)
            } else {
                self.is_shared_memory().then_some(Place::Swapped)
            };
            if let Some(place) = place {
                emit(ObjectRun { first: FilePage::from_raw(first), pages: PageCount::new(pages), place });
            }
            first += pages;
        }
    }

    /// Fills `states` with what mincore(2) says of `pages`.
    fn read_states(&self, pages: Range<u64>, states: &mut Vec<u8>) -> Result<(), ObjectError> {
        states.clear();
        states.resize(index(pages.end - pages.start), 0);
        cache::mincore(self.file.as_fd(), pages.start * self.page.bytes(), states)
            .map_err(|error| self.failure("map", error))
    }

    /// The first of `pages` that may be somewhere, and what follows it and can be mapped at a time.
    pub(super) fn next_window(&self, pages: Range<u64>) -> Result<Option<Range<u64>>, ObjectError> {
        if pages.is_empty() {
            return Ok(None);
        }
        let first = self.next_possible(pages.start)?.filter(|first| *first < pages.end);
        Ok(first.map(|first| first..pages.end.min(first + WINDOW_BYTES / self.page.bytes())))
    }

    /// The first page at or after `page` that may be somewhere.
    fn next_possible(&self, page: u64) -> Result<Option<u64>, ObjectError> {
        // Holes of files may be cached, those of shared memory are nowhere.
        if self.is_shared_memory() { self.seek(page, SeekFrom::Data) } else { Ok(Some(page)) }
    }

    /// Puts the pages of `window` that may be somewhere into `stretches`.
    fn find_possible(&self, window: Range<u64>, stretches: &mut Vec<Range<u64>>) -> Result<(), ObjectError> {
        if !self.is_shared_memory() {
            let is_empty = self.totals_of(window.clone())?.is_some_and(|totals| totals.cached.get() == 0);
            stretches.extend((!is_empty).then_some(window));
            return Ok(());
        }
        let mut next = window.start;
        while let Some(first) = self.seek(next, SeekFrom::Data)?.filter(|first| *first < window.end)
            && let Some(end) = self.seek(first, SeekFrom::Hole)?
        {
            next = end.min(window.end);
            stretches.push(first..next);
        }
        Ok(())
    }

    /// The page at or after `page` where the next data or hole begins; `None` from the end of the file on.
    fn seek(&self, page: u64, from: fn(u64) -> SeekFrom) -> Result<Option<u64>, ObjectError> {
        match seek(&self.file, from(page * self.page.bytes())) {
            Ok(offset) => Ok(Some(offset.div_ceil(self.page.bytes()))),
            Err(Errno::NXIO) => Ok(None),
            Err(error) => Err(self.failure("look for data in", error)),
        }
    }
}

/// Whether the swap cache of the machine has no page at all.
fn is_swap_cache_empty() -> bool {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let cached = meminfo.lines().find_map(|line| line.strip_prefix("SwapCached:"));
    cached.is_some_and(|cached| cached.trim() == "0 kB")
}

/// An index among the pages of a window.
fn index(pages: u64) -> usize {
    usize::try_from(pages).expect("at most a window")
}
