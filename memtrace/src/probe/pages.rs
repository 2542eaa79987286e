//! Reads the state of the pages of a range: by `PAGEMAP_SCAN`, or where that is missing, by pagemap words.
//!
//! Layer: shell. Input: an open `/proc/PID/pagemap`. Output: [`StateRun`]s; pages in none are absent.
//! Source: `Documentation/admin-guide/mm/pagemap.rst`; reads beyond the end of user space are short.
//! Keeps: both ways give the same runs, but for `HUGE`, `PFNZERO` and `GUARD`, which are not taken from words.
//! Not here: bit layouts (`pagemap`, `sys::scan`).

use std::{
    fs::File,
    os::{fd::AsFd, unix::fs::FileExt},
    sync::atomic::{AtomicBool, Ordering},
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

    /// Up to where all pages of `range`, which begins at a page, are absent: to the first that is not, to the end, or as far as the
    /// search had come when `stop` was set.
    ///
    /// Where there are no page tables a scan passes over terabytes in milliseconds; of words there are 2 GiB per TiB.
    pub fn absent_until(
        &mut self,
        pagemap: &File,
        range: VirtRange,
        stop: &AtomicBool,
    ) -> Result<VirtAddr, ProbeError> {
        if is_gone(pagemap)? {
            return Err(ProbeError::Gone);
        }
        let mut rest = Some(range);
        while let Some(here) = rest
            && !stop.load(Ordering::Relaxed)
        {
            let first = if let Some((scanner, query)) = &mut self.scanner {
                let (first, left) = scanner.find(pagemap.as_fd(), here, *query)?;
                rest = left;
                first
            } else {
                let page = self.page;
                let words = self.next_words(pagemap, here)?;
                let first =
                    if are_absent(words) { None } else { words.iter().position(|word| is_there(*word)) };
                let end = words.len();
                let addr = |index| VirtAddr::from_raw(here.start().as_raw() + index as u64 * page.bytes());
                rest = VirtRange::new(addr(end), here.end()).filter(|_| end > 0);
                first.map(addr)
            };
            if let Some(first) = first {
                return Ok(first);
            }
        }
        Ok(rest.map_or(range.end(), VirtRange::start))
    }

    fn read_words(
        &mut self,
        pagemap: &File,
        range: VirtRange,
        runs: &mut Vec<StateRun>,
    ) -> Result<(), ProbeError> {
        let page = self.page;
        let mut next = range.start();
        while let Some(rest) = VirtRange::new(next, range.end()) {
            let words = self.next_words(pagemap, rest)?;
            if words.is_empty() {
                break;
            }
            if are_absent(words) {
                next = VirtAddr::from_raw(next.as_raw() + words.len() as u64 * page.bytes());
                continue;
            }
            for word in words {
                let end = VirtAddr::from_raw(next.as_raw() + page.bytes());
                if let Some(range) = VirtRange::new(next, end)
                    && is_there(*word)
                {
                    append(runs, StateRun::new(range, categories(*word)));
                }
                next = end;
            }
        }
        Ok(())
    }

    /// Words of the first pages of `range`; none beyond the end of user space.
    fn next_words(&mut self, pagemap: &File, range: VirtRange) -> Result<&[[u8; WORD_BYTES]], ProbeError> {
        let pages = usize::try_from(range.pages(self.page).get()).unwrap_or(usize::MAX);
        let batch = &mut self.words[..pages.min(BATCH_WORDS) * WORD_BYTES];
        let read = pagemap.read_at(batch, range.start().vpn(self.page).as_raw() * WORD_BYTES as u64)?;
        let (words, _) = batch[..read].as_chunks::<WORD_BYTES>();
        if words.is_empty() && is_gone(pagemap)? { Err(ProbeError::Gone) } else { Ok(words) }
    }
}

fn categories(word: [u8; WORD_BYTES]) -> PageCategories {
    PageCategories::from_word(u64::from_ne_bytes(word))
}

/// Whether a page is not absent that has this word.
fn is_there(word: [u8; WORD_BYTES]) -> bool {
    categories(word).intersects(QUERY.any_of)
}

/// Whether `words` are alike, and of absent pages: those of a hole are, with the same flags or none.
///
/// Compared as memory, which takes a fraction of what it takes to read each.
pub(super) fn are_absent(words: &[[u8; WORD_BYTES]]) -> bool {
    let bytes = words.as_flattened();
    words
        .first()
        .is_none_or(|first| !is_there(*first) && bytes[WORD_BYTES..] == bytes[..bytes.len() - WORD_BYTES])
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
    fn words_of_a_hole_are_alike_and_absent() {
        const SOFT_DIRTY: u64 = 1 << 55;
        let absent =
            |words: &[u64]| are_absent(&words.iter().map(|word| word.to_ne_bytes()).collect::<Vec<_>>());

        assert!(absent(&[]) && absent(&[0]) && absent(&[0, 0, 0]) && absent(&[SOFT_DIRTY, SOFT_DIRTY]));
        // Present, swapped, or for others to read.
        for words in [[1 << 63, 1 << 63], [1 << 62, 1 << 62], [0, 1 << 63], [1 << 62, 0], [0, SOFT_DIRTY]] {
            assert!(!absent(&words), "{words:x?}");
        }
    }

    #[test]
    fn page_amid_a_hole_of_many_batches_is_found_by_words() {
        let (_memory, first) = memory(&[2 * BATCH_WORDS + 77]);
        let range = range(first, first + 3 * BATCH_WORDS as u64 * PAGE);
        let mut reader = PageReader::new(page(), PageCategories::empty(), Duration::MAX);

        let runs = reader.read(&own_pagemap(), range).expect("own memory");
        let found = reader.absent_until(&own_pagemap(), range, &AtomicBool::new(false)).expect("own memory");

        assert_eq!(shape(&runs, first), [(2 * BATCH_WORDS as u64 + 77, 1, PageCategories::PRESENT)]);
        assert_eq!(found, runs[0].range.start());
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
