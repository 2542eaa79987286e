//! What is resident in an address space against what scans have seen of it.

use std::collections::BTreeMap;

use crate::{
    event::PageScan,
    pagemap::PageCategories,
    pipeline::slots::{slot_of, slots},
    units::{PageCount, PageSize, VirtAddr},
};

/// Growth of what is resident unseen that makes a visit worth its time: this many pages, and this part of all.
const GROWTH_PAGES: u64 = 256;
const GROWTH_PART: u64 = 64;

/// Resident and seen pages.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    /// Present pages of each slot that has any, as last seen; without zero pages where these are known.
    slots: BTreeMap<VirtAddr, u64>,
    seen: u64,
    resident: u64,
    /// The least that was resident beyond what was seen, in pages, since that was settled: the kernel counts some that no table
    /// has. Less than nothing where scans see what it does not count (devices; zero pages that are not distinguished from others), or not
    /// yet (what threads have not added up, before Linux 6.2).
    missed: i128,
    /// What it was when the last visit ended: no more than this comes back to it when scans see what was freed.
    most_missed: i128,
    visit: Visit,
}

/// Whether everything has been visited.
#[derive(Clone, Copy, Debug)]
enum Visit {
    /// It is to be, since so many pages were resident.
    Due(u64),
    /// Yes, since resident pages were counted; so many were when the visit became due.
    Done(u64),
    /// Yes, and what it missed is settled.
    Settled,
}

impl Default for Visit {
    fn default() -> Self {
        Self::Due(0)
    }
}

impl Coverage {
    /// The kernel counts so many resident pages now.
    pub(super) fn count(&mut self, pages: PageCount) {
        self.resident = pages.get();
        let beyond_seen = |resident| i128::from(resident) - i128::from(self.seen);
        let unseen = beyond_seen(self.resident);
        match self.visit {
            Visit::Due(_) => return,
            Visit::Done(before) => {
                // What came since may have come behind the visit: another one will see it.
                self.missed = self.missed.max(beyond_seen(self.resident.min(before))).min(unseen);
                self.most_missed = self.missed.max(beyond_seen(before));
            }
            Visit::Settled => self.missed = self.missed.min(unseen),
        }
        let is_worthwhile = unseen - self.missed >= GROWTH_PAGES.max(self.resident / GROWTH_PART).into();
        self.visit = if is_worthwhile { Visit::Due(self.resident) } else { Visit::Settled };
    }

    /// Whether everything is to be visited.
    pub(super) const fn is_visit_due(&self) -> bool {
        matches!(self.visit, Visit::Due(_))
    }

    /// Makes a visit due.
    pub(super) fn ask_for_visit(&mut self) {
        self.visit = Visit::Due(self.resident);
    }

    /// The last scans of a visit have been asked for.
    pub(super) fn end_visit(&mut self) {
        self.visit = match self.visit {
            Visit::Due(before) => Visit::Done(before),
            Visit::Done(_) | Visit::Settled => Visit::Done(self.resident),
        };
    }

    /// A scan of whole slots.
    pub(super) fn see(&mut self, scan: &PageScan, page: PageSize) {
        let before: Vec<_> = self.slots.extract_if(scan.range.addrs(), |_, _| true).collect();
        self.seen -= before.iter().map(|(_, pages)| pages).sum::<u64>();
        for run in scan.runs.iter().filter(|run| may_be_resident(run.categories)) {
            for part in slots(run.range) {
                let pages = part.pages(page).get();
                *self.slots.entry(slot_of(part.start())).or_default() += pages;
                self.seen += pages;
            }
        }
        let left = |slot| self.slots.get(slot).copied().unwrap_or_default();
        let gone: u64 = before.iter().map(|(slot, pages)| pages.saturating_sub(left(slot))).sum();
        // If it was counted before it was seen, less seemed missed meanwhile; what was not, the next count takes away again.
        self.missed = self.missed.max(self.most_missed.min(self.missed + i128::from(gone)));
    }
}

/// Whether the kernel may count pages of these categories: it counts no zero pages.
const fn may_be_resident(categories: PageCategories) -> bool {
    categories.contains(PageCategories::PRESENT) && !categories.contains(PageCategories::PFNZERO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{ScanDepth, ScanReason},
        pagemap::StateRun,
        units::{Timestamp, VirtRange},
    };

    const SLOT: u64 = 2 << 20;

    fn range(start: u64, end: u64) -> VirtRange {
        VirtRange::new(VirtAddr::from_raw(start), VirtAddr::from_raw(end)).expect("not empty")
    }

    /// A scan of two slots that finds the first `pages` pages of them present.
    fn scan(pages: u64) -> PageScan {
        let categories = PageCategories::PRESENT;
        PageScan {
            began: Timestamp::default(),
            reason: ScanReason::Rotation,
            range: range(SLOT, 3 * SLOT),
            known: categories,
            depth: ScanDepth::Categories,
            runs: vec![StateRun::new(range(SLOT, SLOT + pages * 4096), categories)],
        }
    }

    fn page() -> PageSize {
        PageSize::from_bytes(4096).expect("a power of two")
    }

    #[test]
    fn visit_is_due_when_more_is_resident_than_was_seen() {
        let mut coverage = Coverage::default();
        assert!(coverage.is_visit_due(), "nothing has been seen");
        coverage.count(PageCount::new(630));
        coverage.ask_for_visit();
        coverage.see(&scan(600), page());
        coverage.end_visit();
        coverage.count(PageCount::new(630));
        assert!(!coverage.is_visit_due(), "30 pages are no page-table's");

        coverage.count(PageCount::new(630 + 255));
        assert!(!coverage.is_visit_due());
        coverage.count(PageCount::new(630 + 256));
        assert!(coverage.is_visit_due());
    }

    #[test]
    fn what_was_seen_before_is_replaced() {
        let mut coverage = Coverage::default();
        coverage.see(&scan(1024), page());
        coverage.see(&scan(10), page());
        coverage.end_visit();

        coverage.count(PageCount::new(10));
        coverage.count(PageCount::new(10 + 256));

        assert!(coverage.is_visit_due());
    }

    #[test]
    fn growth_counts_from_the_least_that_was_unseen() {
        let mut coverage = Coverage::default();
        coverage.count(PageCount::new(1000));
        coverage.ask_for_visit();
        coverage.end_visit();
        for pages in [1000, 100, 355] {
            coverage.count(PageCount::new(pages));
            assert!(!coverage.is_visit_due(), "{pages}");
        }

        coverage.count(PageCount::new(356));

        assert!(coverage.is_visit_due());
    }

    #[test]
    fn what_came_behind_a_visit_before_it_was_counted_makes_another_one_due() {
        let mut coverage = Coverage::default();
        coverage.count(PageCount::new(1000));
        coverage.ask_for_visit();
        coverage.see(&scan(900), page());
        coverage.end_visit();

        coverage.count(PageCount::new(1000 + 256));

        assert!(coverage.is_visit_due(), "256 came since");
        coverage.see(&scan(1156), page());
        coverage.end_visit();
        coverage.count(PageCount::new(1000 + 256));
        assert!(!coverage.is_visit_due(), "100 are in no table");
    }

    /// A visit that saw so many pages when so many were resident, and so many are when it has ended.
    fn visited(seen: u64, resident: u64) -> Coverage {
        let mut coverage = Coverage::default();
        coverage.count(PageCount::new(resident));
        coverage.ask_for_visit();
        coverage.see(&scan(seen), page());
        coverage.end_visit();
        coverage.count(PageCount::new(resident));
        assert!(!coverage.is_visit_due(), "{resident} resident, {seen} seen");
        coverage
    }

    #[test]
    fn what_scans_see_and_the_kernel_does_not_count_hides_no_growth() {
        let mut coverage = visited(591, 87);

        coverage.count(PageCount::new(87 + 255));
        assert!(!coverage.is_visit_due());
        coverage.count(PageCount::new(87 + 256));

        assert!(coverage.is_visit_due(), "256 came, and none of them was seen");
    }

    #[test]
    fn what_the_kernel_counts_late_makes_one_visit_due() {
        let mut coverage = visited(591, 87);
        coverage.count(PageCount::new(591));
        assert!(coverage.is_visit_due(), "504 more are resident");

        coverage.see(&scan(591), page());
        coverage.end_visit();
        coverage.count(PageCount::new(591));
        assert!(!coverage.is_visit_due(), "all of them had been seen");

        coverage.count(PageCount::new(591 + 256));
        assert!(coverage.is_visit_due());
    }

    #[test]
    fn what_came_behind_a_visit_is_found_where_the_kernel_does_not_count_all_that_is_seen() {
        let mut coverage = visited(591, 87);
        coverage.count(PageCount::new(400));
        assert!(coverage.is_visit_due(), "313 came");
        coverage.see(&scan(591 + 313), page());
        coverage.end_visit();

        coverage.count(PageCount::new(400 + 256));

        assert!(coverage.is_visit_due(), "256 came since");
    }

    #[test]
    fn what_is_freed_is_no_growth_when_scans_see_it_gone() {
        let mut coverage = visited(1000, 1000);

        for (seen, resident) in [(400, 400), (10, 10)] {
            coverage.count(PageCount::new(resident));
            coverage.see(&scan(seen), page());
            coverage.count(PageCount::new(resident));
            assert!(!coverage.is_visit_due(), "{resident}");
        }

        coverage.count(PageCount::new(10 + 256));
        assert!(coverage.is_visit_due());
    }

    #[test]
    fn what_scans_see_gone_before_it_is_counted_hides_no_growth() {
        let mut coverage = visited(1000, 1000);
        coverage.see(&scan(400), page());
        assert!(!coverage.is_visit_due());

        coverage.count(PageCount::new(400 + 256));

        assert!(coverage.is_visit_due(), "600 went, and 256 came elsewhere");
    }

    #[test]
    fn what_went_in_one_slot_and_came_in_another_is_no_growth() {
        let mut coverage = visited(512, 512);
        coverage.count(PageCount::new(0));
        let run = StateRun::new(range(2 * SLOT, 3 * SLOT), PageCategories::PRESENT);

        coverage.see(&PageScan { runs: vec![run], ..scan(1) }, page());
        coverage.count(PageCount::new(512));

        assert!(!coverage.is_visit_due(), "as many as before, and all were seen");
    }

    #[test]
    fn zero_pages_that_are_written_to_are_no_growth() {
        let mut coverage = visited(100, 100);
        let zero = PageCategories::PRESENT | PageCategories::PFNZERO;
        let run = |start, categories| StateRun::new(range(start, start + 300 * 4096), categories);
        let see = |coverage: &mut Coverage, categories| {
            let runs = vec![run(2 * SLOT, categories)];
            coverage.see(&PageScan { range: range(2 * SLOT, 3 * SLOT), runs, ..scan(1) }, page());
        };
        see(&mut coverage, zero);
        coverage.count(PageCount::new(100));

        see(&mut coverage, PageCategories::PRESENT);
        coverage.count(PageCount::new(400));

        assert!(!coverage.is_visit_due(), "300 more are resident, and were seen");
    }
}
