//! Reads the state of the pages of a range: by `PAGEMAP_SCAN`, or where that is missing, by pagemap words.
//!
//! Layer: shell. Input: an open `/proc/PID/pagemap`. Output: [`StateRun`]s; pages in none are absent.
//! Source: `Documentation/admin-guide/mm/pagemap.rst`; reads beyond the end of user space are short.
//! Keeps: both ways give the same runs, but for `HUGE`, `PFNZERO` and `GUARD`, which are not taken from words.
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

/// Pages that are not absent, and what is told of them by every `PAGEMAP_SCAN`.
pub(super) const QUERY: Query = Query {
    inverted: PageCategories::empty(),
    all_of: PageCategories::empty(),
    any_of: PageCategories::PRESENT.union(PageCategories::SWAPPED),
    wanted: PageCategories::PRESENT
        .union(PageCategories::SWAPPED)
        .union(PageCategories::FILE)
        .union(PageCategories::PFNZERO)
        .union(PageCategories::HUGE),
};

/// Bytes of a word of pagemap, and of the files that tell of frames.
pub(super) const WORD_BYTES: usize = size_of::<u64>();

/// Words per read of pagemap: the state of 16 MiB with pages of 4 KiB.
const BATCH_WORDS: usize = 4096;

/// Reads page state.
#[derive(Debug)]
pub struct PageReader {
    page: PageSize,
    /// What to ask `PAGEMAP_SCAN` for; `None` where the kernel has none, or it is not to be used.
    scanner: Option<(Scanner, Query)>,
    words: Vec<u8>,
}

impl PageReader {
    /// A reader for processes with base pages of size `page`, which holds their memory map for about `max_lock` at a time;
    /// `scan` is what the host's `PAGEMAP_SCAN` can tell, nothing where there is none.
    #[must_use]
    pub fn new(page: PageSize, scan: PageCategories, max_lock: Duration) -> Self {
        let wanted = QUERY.wanted | (PageCategories::GUARD & scan);
        let scanner =
            scan.contains(QUERY.wanted).then(|| (Scanner::new(page, max_lock), Query { wanted, ..QUERY }));
        Self { page, scanner, words: vec![0; BATCH_WORDS * WORD_BYTES] }
    }

    /// What [`Self::read`] can tell of a page.
    #[must_use]
    pub fn tells(&self) -> PageCategories {
        self.scanner.as_ref().map_or(PageCategories::OF_WORDS, |(_, query)| query.wanted)
    }

    /// State of the pages of `range`, which begins at a page, in address order.
    pub fn read(&mut self, pagemap: &File, range: VirtRange) -> Result<Vec<StateRun>, ProbeError> {
        let mut runs = Vec::new();
        match &mut self.scanner {
            Some(_) if is_gone(pagemap)? => return Err(ProbeError::Gone),
            Some((scanner, query)) => {
                let mut rest = Some(range);
                while let Some(range) = rest {
                    let (found, left) = scanner.step(pagemap.as_fd(), range, *query)?;
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
                    append(runs, StateRun::new(range, categories));
                }
                next = end;
            }
        }
        Ok(())
    }
}

/// Whether the address space behind `pagemap` is gone: a living one has a word for page 0.
///
/// To be asked before a scan: of a file that was opened while the process ended, or of a kernel thread, kernels until about
/// Linux 6.14 scan a memory map that is not there, and crash. To read it does no harm.
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
    use crate::sys::guard;

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
        let known = PageReader::new(page(), QUERY.wanted, Duration::MAX).read(&own_pagemap(), here).is_ok();
        if !known {
            eprintln!("skipped: needs Linux 6.7 (PAGEMAP_SCAN)");
        }
        known
    }

    #[test]
    fn words_show_exactly_the_touched_pages() {
        let (_memory, first) = memory(&[3, 4, 10]);
        let range = range(first, first + 64 * PAGE);

        let runs = PageReader::new(page(), PageCategories::empty(), Duration::MAX)
            .read(&own_pagemap(), range)
            .expect("own memory");

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

        let runs = PageReader::new(page(), QUERY.wanted, Duration::MAX)
            .read(&own_pagemap(), range)
            .expect("own memory");

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

        let scanned = PageReader::new(page(), QUERY.wanted, Duration::MAX)
            .read(&own_pagemap(), range)
            .expect("own memory");
        let words = PageReader::new(page(), PageCategories::empty(), Duration::MAX)
            .read(&own_pagemap(), range)
            .expect("own memory");

        assert_eq!(scanned.len(), 2000);
        assert_eq!(shape(&scanned, first), shape(&words, first));
    }

    #[test]
    fn long_run_is_one_across_batches() {
        let touched: Vec<usize> = (0..BATCH_WORDS + 10).collect();
        let (_memory, first) = memory(&touched);
        let range = range(first, first + 8192 * PAGE);

        let runs = PageReader::new(page(), PageCategories::empty(), Duration::MAX)
            .read(&own_pagemap(), range)
            .expect("own memory");

        assert_eq!(shape(&runs, first), [(0, 4106, PageCategories::PRESENT)]);
    }

    #[test]
    fn page_of_a_guard_region_is_told_where_the_kernel_can() {
        let categories = QUERY.wanted | PageCategories::GUARD;
        let seen = guard::with_guard_page(|addr| {
            let range = range(addr.as_raw(), addr.as_raw() + PAGE);
            PageReader::new(page(), categories, Duration::MAX).read(&own_pagemap(), range)
        });
        let Ok(Ok(runs)) = seen else {
            return eprintln!("skipped: needs Linux 6.16 (PAGE_IS_GUARD)");
        };

        let [run] = runs[..] else { panic!("{runs:?}") };
        assert_eq!(run.categories & !PageCategories::FILE, PageCategories::GUARD | PageCategories::SWAPPED);
    }

    #[test]
    fn words_beyond_user_space_are_none() {
        let range = range(0xffff_8000_0000_0000, 0xffff_8000_0001_0000);

        let runs = PageReader::new(page(), PageCategories::empty(), Duration::MAX)
            .read(&own_pagemap(), range)
            .expect("no error");

        assert!(runs.is_empty());
    }
}
