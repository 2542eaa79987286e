//! Page state of looks, counted.

use memtrace_ebpf::HEAT_SLOT_SHIFT;

use super::residence::kinds_of;
use crate::{
    pagemap::PageCategories,
    timeline::PageTally,
    units::{PageCount, Timestamp, VirtAddr, VirtRange},
};

/// `range` cut at the borders of heat slots.
pub(super) fn slots(range: VirtRange) -> impl Iterator<Item = VirtRange> {
    let mut next = range.start();
    std::iter::from_fn(move || {
        let slot = VirtRange::new(next, slot_end(next).min(range.end()))?;
        next = slot.end();
        Some(slot)
    })
}

/// Where the heat slot begins that holds `addr`.
pub(super) fn slot_of(addr: VirtAddr) -> VirtAddr {
    VirtAddr::from_raw(addr.as_raw() >> HEAT_SLOT_SHIFT << HEAT_SLOT_SHIFT)
}

/// Where the heat slot ends that holds `addr`.
pub(super) fn slot_end(addr: VirtAddr) -> VirtAddr {
    VirtAddr::from_raw(slot_of(addr).as_raw().saturating_add(1 << HEAT_SLOT_SHIFT))
}

impl PageTally {
    /// Nothing looked at yet.
    pub(super) fn at(looked: Timestamp, told: PageCategories) -> Self {
        let none = PageCount::default();
        let zero = told.contains(PageCategories::PFNZERO).then_some(none);
        let huge = told.contains(PageCategories::HUGE).then_some(none);
        Self { looked, looked_pages: none, present: none, swapped: none, file: none, zero, huge }
    }

    /// Adds `pages` pages for which `categories` hold.
    pub(super) fn add(&mut self, categories: PageCategories, pages: PageCount) {
        let counts = [
            Some(&mut self.present),
            Some(&mut self.swapped),
            Some(&mut self.file),
            self.zero.as_mut(),
            self.huge.as_mut(),
        ];
        for (count, holds) in counts.into_iter().zip(kinds_of(categories)) {
            if let Some(count) = count.filter(|_| holds) {
                *count += pages;
            }
        }
    }
}
