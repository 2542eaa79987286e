//! Everything that a page must pass to be counted.

use std::ops::Range;

use super::{BitsFilter, Condition, PageRange, PageView, ScanMasks};
use crate::pagemap::{EntryFlags, FlagsEra, Frame, PageCategories, PageFlags, PageRun, PagemapEntry};

/// Which pages are counted; by default all.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Whether filters of bits are held against raw flags.
    pub is_raw: bool,
    /// Filters that flags must all pass.
    pub bits: Vec<BitsFilter>,
    /// Inode of the memory cgroup that pages are charged to; entries of swap are in none.
    pub charged: Option<u64>,
    /// What must hold for a page; where that is not known it does not.
    pub condition: Option<Condition>,
    /// Numbers of pages, or of frames; all if there are none.
    pub ranges: Vec<PageRange>,
}

impl Selection {
    /// Whether all pages are counted.
    #[must_use]
    pub const fn is_all(&self) -> bool {
        let Self { is_raw: _, bits, charged, condition, ranges } = self;
        bits.is_empty() && charged.is_none() && condition.is_none() && ranges.is_empty()
    }

    /// Whether the pages of `run` are counted; `known` is which categories are known of them.
    #[must_use]
    pub fn takes(&self, run: &PageRun, known: PageCategories, era: FlagsEra) -> bool {
        let entry = run.entries.entry;
        self.takes_all(
            &run.frame,
            entry,
            PageView { categories: run.categories, known, flags: run.frame.flags },
            era,
        )
    }

    /// Whether a frame is counted of which it is not known who maps it.
    #[must_use]
    pub fn takes_frame(&self, frame: &Frame, era: FlagsEra) -> bool {
        let (categories, known) = (PageCategories::PRESENT, PageCategories::PRESENT);
        self.takes_all(
            frame,
            PagemapEntry::default(),
            PageView { categories, known, flags: frame.flags },
            era,
        )
    }

    fn takes_all(&self, frame: &Frame, entry: PagemapEntry, page: PageView, era: FlagsEra) -> bool {
        if self.charged.is_some() && frame.cgroup != self.charged {
            return false;
        }
        if !self.bits.is_empty() {
            let of_entry = EntryFlags::from_bits_retain(entry.as_raw());
            let shown = frame.flags.unwrap_or_default().shown(of_entry, self.is_raw, era);
            if !self.bits.iter().all(|filter| filter.matches(shown)) {
                return false;
            }
        }
        self.condition.as_ref().is_none_or(|condition| {
            let is_present = page.categories.contains(PageCategories::PRESENT);
            // Where there is no frame there are no flags of one.
            let flags = page.flags.or((!is_present).then(PageFlags::empty));
            let flags = flags.map(|flags| flags.expanded(era, entry));
            condition.matches(&PageView { flags, ..page }) == Some(true)
        })
    }

    /// What to ask `PAGEMAP_SCAN` for, which takes the categories `can`: no page that is counted is left out, and no absent one is
    /// reported.
    #[must_use]
    pub fn scan_masks(&self, can: PageCategories) -> ScanMasks {
        const THERE: PageCategories = PageCategories::PRESENT.union(PageCategories::SWAPPED);
        // What holds for all pages of a VMA holds for absent ones too.
        const ABSENT: [PageCategories; 4] = [
            PageCategories::empty(),
            PageCategories::WPALLOWED,
            PageCategories::SOFT_DIRTY,
            PageCategories::WPALLOWED.union(PageCategories::SOFT_DIRTY),
        ];
        let there = ScanMasks { any_of: THERE, ..ScanMasks::default() };
        let Some(condition) = &self.condition else { return there };
        let masks = [condition.scan_masks(can), condition.of_pages_there().scan_masks(can)];
        let leaves_absent = |masks: &ScanMasks| !ABSENT.iter().any(|absent| masks.passes(*absent));
        masks.into_iter().find(leaves_absent).unwrap_or(there)
    }

    /// The parts of `pages` that are in some range, apart and ascending.
    #[must_use]
    pub fn parts(&self, pages: Range<u64>) -> Vec<Range<u64>> {
        if self.ranges.is_empty() {
            return vec![pages];
        }
        let inside = self.ranges.iter().map(|range| {
            let range = range.range();
            range.start.max(pages.start)..range.end.min(pages.end)
        });
        let mut parts: Vec<_> = inside.filter(|part| !part.is_empty()).collect();
        parts.sort_unstable_by_key(|part| part.start);
        let mut apart: Vec<Range<u64>> = Vec::new();
        for part in parts {
            match apart.last_mut() {
                Some(last) if part.start <= last.end => last.end = last.end.max(part.end),
                _ => apart.push(part),
            }
        }
        apart
    }
}
