//! The pages of a test's own memory, as the walk tells of them and as the kernel's files have them.
//!
//! Input: mappings, or ranges of any pagemap. Output: a [`Page`] for each page; runs; single words.
//! Source: `Documentation/admin-guide/mm/pagemap.rst`, which has the bits of a word.
//! Keeps: where there is `PAGEMAP_SCAN`, pages are scanned with and without it, and must be the same. The soft-dirty bit is
//! left out of what is compared: most configurations set it for any fresh page.
//! Not here: touching memory (`memory`); what entries that are not present mean, which kernels differ in.

use std::{
    fs::{self, File},
    io, iter,
    os::unix::fs::FileExt as _,
};

use memtrace::{
    pagemap::{Frame, PageCategories, PageFlags, PageRun, PagemapEntry},
    probe::{
        ProbeError,
        budget::Budget,
        walk::{PageWalker, Wanted},
    },
    units::{PageSize, VirtAddr, VirtRange},
};
use rustix::thread::CapabilitySet;

use crate::{
    memory::{Mapping, page_bytes},
    task::without,
    wait_until,
};

/// In memory.
pub const PRESENT: u64 = 1 << 63;
/// Something else is in the page table.
pub const SWAPPED: u64 = 1 << 62;
/// A page of a file or of shared memory.
pub const FILE: u64 = 1 << 61;
/// A guard page, since Linux 6.15.
pub const GUARD: u64 = 1 << 58;
/// Write-protected by userfaultfd, since Linux 5.14.
pub const UFFD_WP: u64 = 1 << 57;
/// Mapped nowhere else.
pub const EXCLUSIVE: u64 = 1 << 56;
/// Written to since the bit was cleared.
pub const SOFT_DIRTY: u64 = 1 << 55;
/// A frame number, or type and offset.
pub const LOW: u64 = SOFT_DIRTY - 1;

/// All that a walk can tell.
pub const EVERYTHING: Wanted = Wanted { flags: true, mapcount: true, cgroup: true };

/// Size of a base page.
#[must_use]
pub fn page_size() -> PageSize {
    PageSize::from_bytes(page_bytes() as u64).expect("a power of two")
}

/// The addresses from `start` to `end`.
#[must_use]
pub fn span(start: u64, end: u64) -> VirtRange {
    VirtRange::new(VirtAddr::from_raw(start), VirtAddr::from_raw(end)).expect("not empty")
}

/// The addresses of `mapping`.
#[must_use]
pub fn range(mapping: &Mapping) -> VirtRange {
    let area = mapping.area(0);
    span(area.start, area.end)
}

/// Number of the first page of `mapping`, which is that of its word in pagemap.
#[must_use]
pub fn first_page(mapping: &Mapping) -> u64 {
    range(mapping).start().vpn(page_size()).as_raw()
}

/// The field `name` of smaps in pages, for the VMA of the thread `tid` that begins at `start`.
#[must_use]
#[track_caller]
pub fn smaps_pages(tid: u32, start: u64, name: &str) -> u64 {
    let smaps = fs::read_to_string(format!("/proc/{tid}/smaps")).expect("root may");
    let begin = format!("{start:x}-");
    let mut rows = smaps.lines().skip_while(|row| !row.starts_with(&begin));
    let field = rows.find_map(|row| row.strip_prefix(name)?.strip_prefix(':')).expect("a row for each VMA");
    let kib: u64 = field.trim().trim_end_matches(" kB").parse().expect("a number");
    (kib << 10) / page_size().bytes()
}

/// The pagemap of this process.
#[must_use]
pub fn own_pagemap() -> File {
    File::open("/proc/self/pagemap").expect("own pagemap can be opened")
}

/// As [`own_pagemap`], opened without the right to see frames: the kernel goes by who opened it.
#[must_use]
pub fn own_pagemap_without_rights() -> File {
    without(CapabilitySet::SYS_ADMIN, own_pagemap)
}

/// Word number `index` of a file with a word for each page or frame; `None` at its end.
#[must_use]
pub fn word(file: &File, index: u64) -> Option<u64> {
    let mut word = [0; 8];
    match file.read_exact_at(&mut word, index * 8) {
        Ok(()) => Some(u64::from_ne_bytes(word)),
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
            None
        }
    }
}

/// The runs that a walk over `range` finds, with `PAGEMAP_SCAN` if `scan`.
pub fn walk(
    pagemap: &File,
    range: VirtRange,
    scan: bool,
    wanted: Wanted,
) -> Result<Vec<PageRun>, ProbeError> {
    let mut walker =
        PageWalker::new(page_size(), scan, wanted, Budget::default()).expect("root may open all of it");
    let mut runs = Vec::new();
    walker.walk(pagemap, range, |run| runs.push(run))?;
    Ok(runs)
}

/// Whether the kernel has `PAGEMAP_SCAN`.
#[must_use]
pub fn has_scan() -> bool {
    walk(&own_pagemap(), span(0, page_size().bytes()), true, Wanted::default()).is_ok()
}

/// What the walk tells of a page; of an absent one nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Page {
    /// Its word.
    pub entry: PagemapEntry,
    /// `PAGE_IS_*`.
    pub categories: PageCategories,
    /// Of the frame that it is in.
    pub frame: Frame,
}

impl Page {
    /// Its word without the soft-dirty bit.
    #[must_use]
    pub const fn word(&self) -> u64 {
        self.entry.as_raw() & !SOFT_DIRTY
    }

    /// The upper bits of its word, without soft-dirty.
    #[must_use]
    pub const fn bits(&self) -> u64 {
        self.word() & !LOW
    }

    /// The lower bits: a frame number, or type and offset.
    #[must_use]
    pub const fn low(&self) -> u64 {
        self.word() & LOW
    }

    /// Whether its frame has all of `flags`.
    #[must_use]
    pub fn has(&self, flags: PageFlags) -> bool {
        self.frame.flags.is_some_and(|known| known.contains(flags))
    }

    /// Whether it is known to have none of `flags`.
    #[must_use]
    pub fn lacks(&self, flags: PageFlags) -> bool {
        self.frame.flags.is_some_and(|known| !known.intersects(flags))
    }
}

/// Each page of `range`, of which `runs` tell.
fn pages(range: VirtRange, runs: &[PageRun]) -> Vec<Page> {
    let first = range.start().vpn(page_size()).as_raw();
    let mut pages = vec![Page::default(); usize::try_from(range.pages(page_size()).get()).expect("small")];
    for run in runs {
        let start = usize::try_from(run.entries.first.as_raw() - first).expect("in the range");
        for (page, entry) in iter::zip(&mut pages[start..], run.entries.entries()) {
            *page = Page { entry, categories: run.categories, frame: run.frame };
        }
    }
    pages
}

/// What the walk tells of each page of `range`, with `PAGEMAP_SCAN` or without.
#[track_caller]
fn scan_by(pagemap: &File, range: VirtRange, scan: bool) -> Vec<Page> {
    pages(range, &walk(pagemap, range, scan, EVERYTHING).expect("this process lives"))
}

/// As [`scan`], at a range of this process through `pagemap`.
#[must_use]
#[track_caller]
pub fn scan_through(pagemap: &File, range: VirtRange) -> Vec<Page> {
    let by_words = scan_by(pagemap, range, false);
    if !has_scan() {
        return by_words;
    }
    let by_scan = scan_by(pagemap, range, true);
    let seen =
        |pages: &[Page]| pages.iter().map(|page| (page.word(), page.frame.mapcount)).collect::<Vec<_>>();
    assert_eq!(seen(&by_scan), seen(&by_words), "by scan, by words");
    by_scan
}

/// What the walk tells of each page of `mapping`, with `PAGEMAP_SCAN` where there is one; without it, it is the same.
#[must_use]
#[track_caller]
pub fn scan(mapping: &Mapping) -> Vec<Page> {
    scan_through(&own_pagemap(), range(mapping))
}

/// Scans `mapping`, which the kernel is changing, until `condition` holds of every page, or patience ends; what was seen last.
pub fn scan_until(mapping: &Mapping, mut condition: impl FnMut(&Page) -> bool) -> Vec<Page> {
    let mut pages = Vec::new();
    let _in_time = wait_until(|| {
        pages = scan_by(&own_pagemap(), range(mapping), has_scan());
        pages.iter().all(&mut condition)
    });
    pages
}

/// Checks that `condition` holds of each of `pages`, and says that it is not `what` where it does not.
#[track_caller]
pub fn expect_each(pages: &[Page], what: &str, condition: impl Fn(&Page) -> bool) {
    for (index, page) in pages.iter().enumerate() {
        assert!(condition(page), "page {index} of {} is not {what}: {page:x?}", pages.len());
    }
}

/// Whether the low bits of `pages` grow by `step` from one to the next.
#[must_use]
pub fn grow_by(pages: &[Page], step: u64) -> bool {
    pages.windows(2).all(|pair| pair[1].low() == pair[0].low() + step)
}
