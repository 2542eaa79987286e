//! Page state of looks, counted.

use memtrace_ebpf::HEAT_SLOT_SHIFT;

use crate::{
    pagemap::PageCategories,
    timeline::PageTally,
    units::{PageCount, Timestamp, VirtAddr, VirtRange},
};

/// `range` cut at the borders of heat slots.
pub(super) fn slots(range: VirtRange) -> impl Iterator<Item = VirtRange> {
    let mut next = range.start();
    std::iter::from_fn(move || {
        let border = VirtAddr::from_raw(((next.as_raw() >> HEAT_SLOT_SHIFT) + 1) << HEAT_SLOT_SHIFT);
        let slot = VirtRange::new(next, border.min(range.end()))?;
        next = slot.end();
        Some(slot)
    })
}

/// Where the heat slot begins that holds all of `part`.
pub(super) fn slot_of(part: VirtRange) -> VirtAddr {
    VirtAddr::from_raw(part.start().as_raw() >> HEAT_SLOT_SHIFT << HEAT_SLOT_SHIFT)
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
        let present = categories.contains(PageCategories::PRESENT);
        let counts = [
            (Some(&mut self.present), present),
            (Some(&mut self.swapped), categories.contains(PageCategories::SWAPPED)),
            (Some(&mut self.file), categories.contains(PageCategories::FILE)),
            (self.zero.as_mut(), categories.contains(PageCategories::PFNZERO)),
            (self.huge.as_mut(), present && categories.contains(PageCategories::HUGE)),
        ];
        for (count, holds) in counts {
            if let Some(count) = count.filter(|_| holds) {
                *count += pages;
            }
        }
    }
}
