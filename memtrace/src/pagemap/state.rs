//! Runs of pages that share their state, and what can be told of a part of them.

use rangemap::RangeSet;
use serde::{Deserialize, Serialize};

use super::{categories::PageCategories, entry::PagemapEntry, flags::PageFlags};
use crate::units::{PageSize, Pfn, VirtAddr, VirtRange};

/// Consecutive pages that share their categories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRun {
    /// Addresses of the run; page-aligned.
    pub range: VirtRange,
    /// What holds for each page of it.
    pub categories: PageCategories,
    /// What else was read of them; `None` if nothing was asked for.
    pub words: Option<PageWords>,
}

/// What the kernel has written of consecutive pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageWords {
    /// Word of the first page in pagemap; the others follow from it.
    pub entry: PagemapEntry,
    /// Word of the frame of each page in `/proc/kpageflags`; `None` for pages without one, and where frames are hidden.
    pub flags: Option<PageFlags>,
}

impl StateRun {
    /// A run of which nothing but `categories` is known.
    #[must_use]
    pub const fn new(range: VirtRange, categories: PageCategories) -> Self {
        Self { range, categories, words: None }
    }

    /// The frame of the first page.
    #[must_use]
    pub fn pfn(&self) -> Option<Pfn> {
        self.words?.entry.pfn()
    }

    /// What this tells of the pages of `range`; `None` if it has none of them.
    #[must_use]
    pub fn part(&self, range: VirtRange, page: PageSize) -> Option<Self> {
        let range = self.range.intersection(range)?;
        let words = self
            .words
            .and_then(|words| Some(PageWords { entry: self.entry_at(range.start(), page)?, ..words }));
        Some(Self { range, words, ..*self })
    }

    /// One run of this and `next`, if that is as this would go on.
    #[must_use]
    pub fn joined(&self, next: &Self, page: PageSize) -> Option<Self> {
        let flags = |run: &Self| run.words.map(|words| words.flags);
        let is_next = self.range.end() == next.range.start()
            && self.categories == next.categories
            && flags(self) == flags(next)
            && self.entry_at(self.range.end(), page) == next.words.map(|words| words.entry);
        let range = VirtRange::new(self.range.start(), next.range.end()).filter(|_| is_next)?;
        Some(Self { range, ..*self })
    }

    /// The word in pagemap of the page at `addr`, which lies in this or right behind.
    fn entry_at(&self, addr: VirtAddr, page: PageSize) -> Option<PagemapEntry> {
        let pages = (addr.as_raw() - self.range.start().as_raw()) / page.bytes();
        self.words?.entry.advanced(pages)
    }

    fn has(&self, flag: PageFlags) -> bool {
        self.words.and_then(|words| words.flags).is_some_and(|flags| flags.intersects(flag))
    }

    /// Whether `next` goes on in the large folio that this ends in.
    fn shares_folio_with(&self, next: &Self, page: PageSize) -> bool {
        let frame_behind = self.entry_at(self.range.end(), page).and_then(PagemapEntry::pfn);
        next.has(PageFlags::COMPOUND_TAIL)
            && self.range.end() == next.range.start()
            && frame_behind.is_some()
            && frame_behind == next.pfn()
    }
}

/// The part of the folio of `pages`, which lie in the run with this `index`, that is mapped without a gap: of a large one the
/// head and its tails, in frames that follow; else each page for itself.
#[must_use]
pub fn folio_around(runs: &[StateRun], index: usize, pages: VirtRange, page: PageSize) -> VirtRange {
    if !runs[index].has(PageFlags::COMPOUND) {
        return pages;
    }
    let (mut first, mut last) = (index, index);
    while first > 0 && runs[first - 1].shares_folio_with(&runs[first], page) {
        first -= 1;
    }
    while runs.get(last + 1).is_some_and(|next| runs[last].shares_folio_with(next, page)) {
        last += 1;
    }
    VirtRange::new(runs[first].range.start(), runs[last].range.end()).unwrap_or(pages)
}

/// What `runs` tell of the pages in `addrs`.
pub fn inside(
    runs: &[StateRun],
    addrs: &RangeSet<VirtAddr>,
    page: PageSize,
) -> impl Iterator<Item = StateRun> {
    runs.iter().flat_map(move |run| {
        let parts = addrs.overlapping(run.range.addrs());
        parts.filter_map(move |part| run.part(VirtRange::new(part.start, part.end)?, page))
    })
}

/// What `runs` tell of the pages that are not in `addrs`.
pub fn outside(
    runs: &[StateRun],
    addrs: &RangeSet<VirtAddr>,
    page: PageSize,
) -> impl Iterator<Item = StateRun> {
    runs.iter().flat_map(move |run| {
        let whole = run.range.addrs();
        let gaps: Vec<_> = addrs.gaps(&whole).collect();
        gaps.into_iter().filter_map(move |gap| run.part(VirtRange::new(gap.start, gap.end)?, page))
    })
}
