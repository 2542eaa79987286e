//! Pages of a region as looks saw them last: a look takes in only a part of it, as a rule.

use std::collections::BTreeMap;

use memtrace_ebpf::HEAT_SLOT_SHIFT;

use crate::{
    pagemap::PageCategories,
    timeline::PageState,
    units::{PageCount, Timestamp, VirtAddr, VirtRange},
};

/// State of the pages of a region, slot by slot.
#[derive(Debug, Default)]
pub(super) struct Residence {
    /// Slots that have any pages.
    slots: BTreeMap<VirtAddr, SlotState>,
    present: u64,
    peak: u64,
    looked: Timestamp,
    told: PageCategories,
}

/// Kinds of pages: present, swapped, of files, zero, huge.
const KINDS: usize = 5;

/// Pages of one slot by kind; a slot has 512 at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SlotState([u16; KINDS]);

impl SlotState {
    /// Adds `pages` pages for which `categories` hold.
    pub(super) fn add(&mut self, categories: PageCategories, pages: PageCount) {
        let pages = u16::try_from(pages.get()).unwrap_or(u16::MAX);
        for (count, holds) in self.0.iter_mut().zip(kinds_of(categories)) {
            *count = count.saturating_add(if holds { pages } else { 0 });
        }
    }
}

/// Of which kinds a page is, if `categories` hold for it.
pub(super) fn kinds_of(categories: PageCategories) -> [bool; KINDS] {
    let present = categories.contains(PageCategories::PRESENT);
    // A guard has the form of a swap entry.
    let swapped = categories.contains(PageCategories::SWAPPED) && !categories.contains(PageCategories::GUARD);
    let (file, zero) =
        (categories.contains(PageCategories::FILE), categories.contains(PageCategories::PFNZERO));
    [present, swapped, file, zero, present && categories.contains(PageCategories::HUGE)]
}

impl Residence {
    /// A look that could tell `told` saw the part of the region in the slot at `slot` like this.
    pub(super) fn see(&mut self, time: Timestamp, told: PageCategories, slot: VirtAddr, state: SlotState) {
        let before = if state == SlotState::default() {
            self.slots.remove(&slot)
        } else {
            self.slots.insert(slot, state)
        };
        let SlotState(before) = before.unwrap_or_default();
        self.present = self.present + u64::from(state.0[0]) - u64::from(before[0]);
        self.peak = self.peak.max(self.present);
        (self.looked, self.told) = (time, told);
    }

    /// Most pages that were present at one time, as far as looks tell.
    pub(super) fn peak(&self) -> PageCount {
        PageCount::new(self.peak)
    }

    /// The slots of `range`, where the region is now, as last seen: it may have shrunk or moved since.
    pub(super) fn state(&self, range: VirtRange) -> PageState {
        let slots = range.widened(HEAT_SLOT_SHIFT);
        let mut sum = [0; KINDS];
        for SlotState(pages) in self.slots.range(slots.start()..slots.end()).map(|(_, state)| state) {
            sum.iter_mut().zip(pages).for_each(|(sum, pages)| *sum += u64::from(*pages));
        }
        let [present, swapped, file, zero, huge] = sum.map(PageCount::new);
        let told = |category, pages| self.told.contains(category).then_some(pages);
        PageState {
            looked: self.looked,
            present,
            swapped,
            file,
            zero: told(PageCategories::PFNZERO, zero),
            huge: told(PageCategories::HUGE, huge),
        }
    }
}
