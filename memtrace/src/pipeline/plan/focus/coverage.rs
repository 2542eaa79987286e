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
    /// Present pages of each slot that has any, as last seen.
    slots: BTreeMap<VirtAddr, u64>,
    seen: u64,
    resident: u64,
    visit: Visit,
}

/// Whether everything has been visited.
#[derive(Clone, Copy, Debug)]
enum Visit {
    /// It is to be, since so many pages were resident.
    Due(u64),
    /// Yes, since resident pages were counted; so many were when the visit became due.
    Done(u64),
    /// Yes, and so many resident pages were not seen: the kernel counts some that no table has, and others change meanwhile.
    Missed(u64),
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
        let unseen = self.resident.saturating_sub(self.seen);
        let missed = match self.visit {
            Visit::Due(_) => return,
            // What came since may have come behind the visit: another one will see it.
            Visit::Done(before) => unseen.saturating_sub(self.resident.saturating_sub(before)),
            Visit::Missed(missed) => missed.min(unseen),
        };
        let is_worthwhile = unseen - missed >= GROWTH_PAGES.max(self.resident / GROWTH_PART);
        self.visit = if is_worthwhile { Visit::Due(self.resident) } else { Visit::Missed(missed) };
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
            Visit::Done(_) | Visit::Missed(_) => Visit::Done(self.resident),
        };
    }

    /// A scan of whole slots.
    pub(super) fn see(&mut self, scan: &PageScan, page: PageSize) {
        let before = self.slots.extract_if(scan.range.addrs(), |_, _| true);
        self.seen -= before.map(|(_, pages)| pages).sum::<u64>();
        for run in scan.runs.iter().filter(|run| run.categories.contains(PageCategories::PRESENT)) {
            for part in slots(run.range) {
                let pages = part.pages(page).get();
                *self.slots.entry(slot_of(part.start())).or_default() += pages;
                self.seen += pages;
            }
        }
    }
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
}
