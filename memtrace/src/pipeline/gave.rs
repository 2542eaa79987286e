//! What faults gave, and what changed pages: told by the first close look that follows.

use std::{collections::BTreeMap, ops::Range};

use super::{
    pages::{Kinds, slot_end},
    places::{AROUND_SHIFT, Before, Cause, Change, Place, folio, part_of},
};
use crate::{
    event::{Access, Fault, FaultKind, SpaceId, Tgid},
    pagemap::{PageCategories, StateRun},
    timeline::{FaultRow, Gave, GaveKind, PageCause, PageKind, PageRow, RegionId},
    units::{PageCount, PageSize, Pfn, Timestamp, VirtAddr, VirtRange, Vpn},
};

/// Completed faults that no look has followed yet, by page. Of several at one page the last: what the others gave is gone.
#[derive(Debug, Default)]
pub(super) struct Unresolved(BTreeMap<(SpaceId, Vpn), Waiting>);

/// A fault whose page was not looked at yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) time: Timestamp,
    /// Its place among the fault rows of its interval.
    pub(super) row: usize,
    access: Option<Access>,
    /// Whether the page was read before it, which gives the zero page where there is nothing.
    pub(super) follows_read: bool,
}

impl Unresolved {
    /// `fault` in `space`, which has the place `row` among those of its interval.
    pub(super) fn add(&mut self, space: SpaceId, page: PageSize, row: usize, fault: &Fault) {
        let Fault { time, access, kind, .. } = *fault;
        if matches!(kind, FaultKind::Minor | FaultKind::Major) {
            let key = (space, fault.addr.vpn(page));
            let before = self.0.get(&key).and_then(|waiting| waiting.access);
            self.0.insert(key, Waiting { time, row, access, follows_read: before == Some(Access::Read) });
        }
    }

    /// What faults brought to `range` of `space` is there no more, or not in its place.
    pub(super) fn forget(&mut self, space: SpaceId, range: VirtRange, page: PageSize) {
        self.0.extract_if(keys(space, range, page), |_, _| true).for_each(drop);
    }

    /// No look will tell any more of faults before `time`.
    pub(super) fn forget_before(&mut self, time: Timestamp) {
        self.0.retain(|_, waiting| waiting.time >= time);
    }

    /// Takes the faults of one slot that `look` tells of.
    pub(super) fn take(&mut self, space: SpaceId, look: &SlotLook<'_>) -> Vec<Waiting> {
        let Some(slot) = VirtRange::new(look.slot, slot_end(look.slot)) else { return Vec::new() };
        let told = self.0.extract_if(keys(space, slot, look.page), |_, waiting| waiting.time <= look.began);
        told.map(|(_, waiting)| waiting).collect()
    }
}

/// The pages of `range` in `space`.
fn keys(space: SpaceId, range: VirtRange, page: PageSize) -> Range<(SpaceId, Vpn)> {
    let end = VirtAddr::from_raw(range.end().as_raw() - 1).vpn(page).as_raw() + 1;
    (space, range.start().vpn(page))..(space, Vpn::from_raw(end))
}

/// A close look at a slot, and what was known of it before.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlotLook<'a> {
    pub(super) began: Timestamp,
    pub(super) slot: VirtAddr,
    /// What it saw.
    pub(super) runs: &'a [StateRun],
    /// What was known of the slot before.
    pub(super) before: &'a Place,
    pub(super) page: PageSize,
    /// Of which kinds of pages it tells.
    pub(super) told: Kinds,
}

impl SlotLook<'_> {
    /// What the fault of `row` gave; `None` if it is there no more. `brought` is the block of a file that the fault before had
    /// pages of: of faults in one block the first brought what came along.
    pub(super) fn gave(
        &self,
        row: &FaultRow,
        follows_read: bool,
        brought: &mut Option<VirtRange>,
    ) -> Option<Gave> {
        let FaultRow { fault, place, .. } = row;
        let index = self.runs.iter().position(|run| run.range.contains(fault.addr))?;
        let run = &self.runs[index];
        let here = self.page_at(fault.addr)?;
        let kinds = Kinds::of(run);
        if !kinds.contains(Kinds::PRESENT) {
            return None;
        }
        let is_of_file = place.as_ref().is_some_and(|place| place.file_offset.is_some());
        let before = self.before.page(fault.addr, self.page);
        let (was, was_in) = match before {
            Before::Run(was) => (Kinds::of(&was), frame(&was)),
            Before::Absent | Before::Unknown if follows_read && !is_of_file => (Kinds::ZERO, None),
            Before::Absent | Before::Unknown => (Kinds::empty(), None),
        };
        // What is written to in a private mapping of a file is copied, whether or not the page was mapped before.
        let is_copy = fault.access == Some(Access::Write)
            && (fault.protection == Some(true) || is_of_file)
            && !was.intersects(Kinds::ZERO | Kinds::SWAPPED);
        let is_in = part_of(run, here, self.page).as_ref().and_then(frame);
        let kind = if kinds.contains(Kinds::HUGETLB) {
            GaveKind::Hugetlb
        } else if kinds.contains(Kinds::ZERO) {
            GaveKind::Zero
        } else if is_copy && is_in.is_none() {
            // Whether the page is still in its frame is what tells.
            return None;
        } else if is_copy && is_in == was_in {
            GaveKind::Reuse
        } else if kinds.contains(Kinds::FILE) {
            GaveKind::File
        } else if is_copy {
            GaveKind::Copy
        } else if was.contains(Kinds::SWAPPED) {
            GaveKind::Swap
        } else if fault.kind == FaultKind::Major && before == Before::Unknown {
            // It may have been in swap; but others serve faults too.
            return None;
        } else if self.told.contains(Kinds::ZERO) || fault.access == Some(Access::Write) {
            GaveKind::Anon
        } else {
            return None;
        };
        let pages = match kind {
            GaveKind::File => self.came_along(fault.addr, brought),
            GaveKind::Reuse => Some(PageCount::new(1)),
            _ => self.pages_of_folio(index, here),
        };
        Some(Gave { kind, pages, lag: self.began.since(fault.time) })
    }

    /// How many pages the folio has that `here`, in the run with this `index`, is a page of; `None` if that is not told.
    fn pages_of_folio(&self, index: usize, here: VirtRange) -> Option<PageCount> {
        let run = &self.runs[index];
        if run.words.is_some_and(|words| words.flags.is_some()) {
            return Some(folio(self.runs, index, here, self.page).pages(self.page));
        }
        // As many as a page table has entries.
        let pages_of_huge = self.page.bytes() / size_of::<u64>() as u64;
        run.categories.contains(PageCategories::HUGE).then(|| PageCount::new(pages_of_huge))
    }

    /// Pages of a file that are there now and were not before, and in which no fault happened, beside the one at `addr`.
    fn came_along(&self, addr: VirtAddr, brought: &mut Option<VirtRange>) -> Option<PageCount> {
        let one = PageCount::new(1);
        let block = self.page_at(addr)?.widened(AROUND_SHIFT);
        if brought.replace(block) == Some(block) {
            return Some(one);
        }
        let mut pages = one;
        let changes = self.before.changes(block, self.runs, self.page);
        for Change { range, before, after, .. } in changes {
            let is_new = after
                .is_some_and(|run| run.categories.contains(PageCategories::PRESENT | PageCategories::FILE));
            match before {
                Before::Unknown => return None,
                Before::Absent if is_new => {
                    let others = range.pages(self.page).get() - self.before.faulted_pages(range, self.page);
                    pages += PageCount::new(others);
                }
                Before::Absent | Before::Run(_) => {}
            }
        }
        Some(pages)
    }

    fn page_at(&self, addr: VirtAddr) -> Option<VirtRange> {
        let start = addr.vpn(self.page).start(self.page);
        VirtRange::new(start, VirtAddr::from_raw(start.as_raw().saturating_add(self.page.bytes())))
    }

    /// The row of `change` in a region; `None` if it is not known whether it is one.
    pub(super) fn row(&self, change: &Change, tgid: Tgid, region: RegionId) -> Option<PageRow> {
        let Change { range, before, after, .. } = *change;
        let was = match before {
            Before::Unknown => return None,
            Before::Absent => None,
            Before::Run(run) => Some(run),
        };
        let index = self.runs.iter().position(|run| run.range.contains(range.start()));
        let first = self.page_at(range.start())?;
        let pages_of_folio = index.and_then(|index| self.pages_of_folio(index, first));
        Some(PageRow {
            time: self.began,
            tgid,
            region,
            range,
            pages: range.pages(self.page),
            state: after.map_or(PageKind::Absent, |run| self.told.kind_of(&run)),
            prev_state: was.map_or(PageKind::Absent, |run| self.told.kind_of(&run)),
            pfn: after.as_ref().and_then(frame),
            prev_pfn: was.as_ref().and_then(frame),
            flags: after.and_then(|run| run.words?.flags),
            order: pages_of_folio.map(|pages| pages.get().ilog2()),
            cause: self.cause_of(change),
        })
    }

    fn cause_of(&self, change: &Change) -> PageCause {
        match change.cause {
            Cause::Fault => PageCause::Fault,
            Cause::FaultAround => PageCause::FaultAround,
            Cause::Call => PageCause::Call,
            Cause::Kernel => self.cause_in_kernel(change),
        }
    }

    /// What the kernel did on its own.
    fn cause_in_kernel(&self, change: &Change) -> PageCause {
        let Before::Run(was) = change.before else { return PageCause::Unknown };
        let was = Kinds::of(&was);
        let is = change.after.as_ref().map(Kinds::of).unwrap_or_default();
        if !is.contains(Kinds::PRESENT) {
            return if was.contains(Kinds::PRESENT) { PageCause::Reclaim } else { PageCause::Unknown };
        }
        // Small, part of a large folio, mapped by a huge entry.
        let size = |kinds: Kinds| (kinds.contains(Kinds::HUGE), kinds.contains(Kinds::MTHP));
        if size(is) > size(was) {
            PageCause::Collapse
        } else if is.difference(was).contains(Kinds::KSM) && self.told.contains(Kinds::KSM) {
            PageCause::Merge
        } else if is_migration(change) {
            PageCause::Migration
        } else if size(is) < size(was) {
            PageCause::Split
        } else {
            PageCause::Unknown
        }
    }
}

/// The frame of the first page of `run`.
fn frame(run: &StateRun) -> Option<Pfn> {
    run.words?.entry.pfn()
}

/// Whether the kernel moved present pages to other frames on its own.
pub(super) fn is_migration(change: &Change) -> bool {
    let Before::Run(was) = change.before else { return false };
    let frames = (frame(&was), change.after.as_ref().and_then(frame));
    change.cause == Cause::Kernel && matches!(frames, (Some(before), Some(after)) if before != after)
}
