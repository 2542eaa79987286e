//! Reads the state of the pages of a range: by `PAGEMAP_SCAN`, or where that is missing, by pagemap words.
//!
//! Layer: shell. Input: an open `/proc/PID/pagemap`. Output: [`StateRun`]s; pages in none are absent.
//! Source: `Documentation/admin-guide/mm/pagemap.rst`; reads beyond the end of user space are short.
//! Keeps: both ways give the same runs, but for `HUGE` and `PFNZERO`, of which the words know nothing.
//! Not here: bit layouts (`pagemap`, `sys::scan`).

use std::{
    fs::File,
    os::{fd::AsFd, unix::fs::FileExt},
    time::Duration,
};

use super::ProbeError;
use crate::{
    pagemap::{PageCategories, StateRun},
    sys::scan::{Query, Scanner},
    units::{PageSize, VirtAddr, VirtRange},
};

/// Pages that hold something, and what is told of them.
const QUERY: Query = Query {
    any_of: PageCategories::PRESENT.union(PageCategories::SWAPPED),
    wanted: PageCategories::PRESENT
        .union(PageCategories::SWAPPED)
        .union(PageCategories::FILE)
        .union(PageCategories::PFNZERO)
        .union(PageCategories::HUGE),
};

const WORD_BYTES: usize = size_of::<u64>();

/// Words per read of pagemap: the state of 16 MiB with pages of 4 KiB.
const BATCH_WORDS: usize = 4096;

/// Longest time for which a look holds the lock of a memory map.
const MAX_LOCK: Duration = Duration::from_millis(2);

/// Reads page state.
#[derive(Debug)]
pub struct PageReader {
    page: PageSize,
    /// `None` where the kernel has no `PAGEMAP_SCAN`, or it is not to be used.
    scanner: Option<Scanner>,
    words: Vec<u8>,
}

impl PageReader {
    /// A reader for processes with base pages of size `page`; `scan` if the host has `PAGEMAP_SCAN`.
    #[must_use]
    pub fn new(page: PageSize, scan: bool) -> Self {
        let scanner = scan.then(|| Scanner::new(page, MAX_LOCK));
        Self { page, scanner, words: vec![0; BATCH_WORDS * WORD_BYTES] }
    }

    /// What [`Self::read`] can tell of a page.
    #[must_use]
    pub fn tells(&self) -> PageCategories {
        if self.scanner.is_some() { QUERY.wanted } else { PageCategories::OF_WORDS }
    }

    /// State of the pages of `range`, which begins at a page, in address order.
    pub fn read(&mut self, pagemap: &File, range: VirtRange) -> Result<Vec<StateRun>, ProbeError> {
        let mut runs = Vec::new();
        match &mut self.scanner {
            Some(scanner) => {
                let mut rest = Some(range);
                while let Some(range) = rest {
                    let (found, left) = scanner.step(pagemap.as_fd(), range, QUERY)?;
                    found.for_each(|run| append(&mut runs, run));
                    rest = left;
                }
            }
            None => self.read_words(pagemap, range, &mut runs)?,
        }
        Ok(runs)
    }

    fn read_words(
        &mut self,
        pagemap: &File,
        range: VirtRange,
        runs: &mut Vec<StateRun>,
    ) -> Result<(), ProbeError> {
        let mut next = range.start();
        while let Some(rest) = VirtRange::new(next, range.end()) {
            let pages = usize::try_from(rest.pages(self.page).get()).unwrap_or(usize::MAX);
            let batch = &mut self.words[..pages.min(BATCH_WORDS) * WORD_BYTES];
            let read = pagemap.read_at(batch, next.vpn(self.page).as_raw() * WORD_BYTES as u64)?;
            let (words, _) = batch[..read].as_chunks::<WORD_BYTES>();
            if words.is_empty() {
                return if is_gone(pagemap)? { Err(ProbeError::Gone) } else { Ok(()) };
            }
            for word in words {
                let end = VirtAddr::from_raw(next.as_raw() + self.page.bytes());
                let categories = PageCategories::from_word(u64::from_ne_bytes(*word));
                if let Some(range) = VirtRange::new(next, end)
                    && categories.intersects(QUERY.any_of)
                {
                    append(runs, StateRun { range, categories });
                }
                next = end;
            }
        }
        Ok(())
    }
}

/// Whether the address space behind `pagemap` is gone: a living one has a word for page 0.
pub(super) fn is_gone(pagemap: &File) -> Result<bool, ProbeError> {
    Ok(pagemap.read_at(&mut [0; WORD_BYTES], 0)? == 0)
}

/// Appends `run`, as part of the last one if they touch and agree.
fn append(runs: &mut Vec<StateRun>, run: StateRun) {
    if let Some(last) = runs.last_mut()
        && last.range.end() == run.range.start()
        && last.categories == run.categories
        && let Some(range) = VirtRange::new(last.range.start(), run.range.end())
    {
        last.range = range;
    } else {
        runs.push(run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    fn page() -> PageSize {
        PageSize::from_bytes(PAGE).expect("a power of two")
    }

    fn range(start: u64, end: u64) -> VirtRange {
        VirtRange::new(VirtAddr::from_raw(start), VirtAddr::from_raw(end)).expect("not empty")
    }

    /// Memory of which just the pages `touched` were written to, and the address of its page 0.
    ///
    /// Large enough that the allocator maps it anew; without huge pages, so that a touch is one page.
    fn memory(touched: &[usize]) -> (Vec<u8>, u64) {
        rustix::thread::disable_transparent_huge_pages(true).expect("exists since 3.15");
        let mut memory = vec![0_u8; 64 << 20];
        let start = memory.as_ptr().addr() as u64;
        // The allocator's own header touches the first page.
        let first = start.next_multiple_of(PAGE) + PAGE;
        let skipped = usize::try_from(first - start).expect("two pages at most");
        for page in touched {
            memory[skipped + page * 4096] = 1;
        }
        (memory, first)
    }

    /// First page, number of pages and categories of each run, counted from `first`.
    fn shape(runs: &[StateRun], first: u64) -> Vec<(u64, u64, PageCategories)> {
        runs.iter()
            .map(|run| {
                let start = (run.range.start().as_raw() - first) / PAGE;
                (start, run.range.bytes() / PAGE, run.categories)
            })
            .collect()
    }

    fn own_pagemap() -> File {
        File::open("/proc/self/pagemap").expect("own pagemap can be opened")
    }

    /// Whether this kernel can; says so if not.
    fn has_scan() -> bool {
        let here = range(PAGE, 2 * PAGE);
        let known = PageReader::new(page(), true).read(&own_pagemap(), here).is_ok();
        if !known {
            eprintln!("skipped: needs Linux 6.7 (PAGEMAP_SCAN)");
        }
        known
    }

    #[test]
    fn words_show_exactly_the_touched_pages() {
        let (_memory, first) = memory(&[3, 4, 10]);
        let range = range(first, first + 64 * PAGE);

        let runs = PageReader::new(page(), false).read(&own_pagemap(), range).expect("own memory");

        let present = PageCategories::PRESENT;
        assert_eq!(shape(&runs, first), [(3, 2, present), (10, 1, present)]);
    }

    #[test]
    fn scan_shows_exactly_the_touched_pages() {
        if !has_scan() {
            return;
        }
        let (_memory, first) = memory(&[0, 1, 2, 63]);
        let range = range(first, first + 64 * PAGE);

        let runs = PageReader::new(page(), true).read(&own_pagemap(), range).expect("own memory");

        let present = PageCategories::PRESENT;
        assert_eq!(shape(&runs, first), [(0, 3, present), (63, 1, present)]);
    }

    #[test]
    fn scan_and_words_agree_on_more_runs_than_one_call_returns() {
        if !has_scan() {
            return;
        }
        // 2000 runs of one page: four calls of the scan; 8000 pages: two batches of words.
        let touched: Vec<usize> = (0..2000).map(|run| run * 4).collect();
        let (_memory, first) = memory(&touched);
        let range = range(first, first + 8000 * PAGE);

        let scanned = PageReader::new(page(), true).read(&own_pagemap(), range).expect("own memory");
        let words = PageReader::new(page(), false).read(&own_pagemap(), range).expect("own memory");

        assert_eq!(scanned.len(), 2000);
        assert_eq!(shape(&scanned, first), shape(&words, first));
    }

    #[test]
    fn long_run_is_one_across_batches() {
        let touched: Vec<usize> = (0..BATCH_WORDS + 10).collect();
        let (_memory, first) = memory(&touched);
        let range = range(first, first + 8192 * PAGE);

        let runs = PageReader::new(page(), false).read(&own_pagemap(), range).expect("own memory");

        assert_eq!(shape(&runs, first), [(0, 4106, PageCategories::PRESENT)]);
    }

    #[test]
    fn words_beyond_user_space_are_none() {
        let range = range(0xffff_8000_0000_0000, 0xffff_8000_0001_0000);

        let runs = PageReader::new(page(), false).read(&own_pagemap(), range).expect("no error");

        assert!(runs.is_empty());
    }
}
