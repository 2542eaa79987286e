//! The outcomes of faults, and what changed pages: found by the first close scan that follows.

use std::{collections::BTreeMap, ops::Range};

use rangemap::RangeSet;

use super::{
    counts::Kinds,
    history::{Before, Cause, Change, SlotBefore, around},
};
use crate::{
    event::{Access, Fault, FaultKind, SpaceId, Tgid},
    pagemap::{NotPresent, PageCategories, PagemapEra, Residence, StateRun, folio_around},
    pipeline::join::reclaims::Reclaims,
    timeline::{FaultOutcome, FaultRow, OutcomeKind, PageCause, PageKind, PageRow, RegionId},
    units::{PageCount, PageSize, Timestamp, VirtAddr, VirtRange, Vpn},
};

/// Completed faults that no scan has followed yet, by page. Of several at one page the last: what the others gave is gone.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct Unresolved(BTreeMap<(SpaceId, Vpn), Waiting>);

/// A fault whose page was not scanned yet.
#[derive(Clone, Copy, Debug)]
pub(in crate::pipeline) struct Waiting {
    pub(in crate::pipeline) time: Timestamp,
    /// Its place among the fault rows of its interval.
    pub(in crate::pipeline) row: usize,
    access: Option<Access>,
    /// Whether it is the first at its page since that was scanned.
    is_first: bool,
    /// Whether the page was read before it, which gives the zero page where there is nothing.
    follows_read: bool,
}

impl Unresolved {
    /// A completed `fault` in `space`.
    pub(in crate::pipeline) fn add(
        &mut self,
        space: SpaceId,
        page: PageSize,
        row: usize,
        fault: &Fault,
        is_first: bool,
    ) {
        let Fault { time, access, .. } = *fault;
        let key = (space, fault.addr.vpn(page));
        let before = self.0.get(&key).and_then(|waiting| waiting.access);
        let follows_read = before == Some(Access::Read);
        self.0.insert(key, Waiting { time, row, access, is_first, follows_read });
    }

    /// What faults brought to `range` of `space` is there no more, or not in its place.
    pub(in crate::pipeline) fn forget(&mut self, space: SpaceId, range: VirtRange, page: PageSize) {
        self.0.extract_if(keys(space, range, page), |_, _| true).for_each(drop);
    }

    /// No scan will tell any more of faults before `time`.
    pub(in crate::pipeline) fn forget_before(&mut self, time: Timestamp) {
        self.0.retain(|_, waiting| waiting.time >= time);
    }

    /// Takes the faults in `slot` that a scan decides which began at `began`, in the order of addresses. What `raced` since
    /// waits for the next one.
    pub(in crate::pipeline) fn take(
        &mut self,
        space: SpaceId,
        slot: VirtRange,
        page: PageSize,
        began: Timestamp,
        touched: &RangeSet<VirtAddr>,
    ) -> Vec<(VirtAddr, Waiting)> {
        let known = self.0.extract_if(keys(space, slot, page), |(_, vpn), waiting| {
            waiting.time <= began && !touched.contains(&vpn.start(page))
        });
        known.map(|((_, vpn), waiting)| (vpn.start(page), waiting)).collect()
    }
}

/// The pages of `range` in `space`.
fn keys(space: SpaceId, range: VirtRange, page: PageSize) -> Range<(SpaceId, Vpn)> {
    let end = VirtAddr::from_raw(range.end().as_raw() - 1).vpn(page).as_raw() + 1;
    (space, range.start().vpn(page))..(space, Vpn::from_raw(end))
}

/// A close scan of a slot, and what was known of it before.
#[derive(Clone, Copy, Debug)]
pub(in crate::pipeline) struct SlotScan<'a> {
    pub(in crate::pipeline) began: Timestamp,
    /// What it saw.
    pub(in crate::pipeline) runs: &'a [StateRun],
    /// What was known of the slot before.
    pub(in crate::pipeline) before: &'a SlotBefore,
    pub(in crate::pipeline) page: PageSize,
    /// Which kinds of pages it knows.
    pub(in crate::pipeline) known: Kinds,
    /// What the kernel reclaimed until then.
    pub(in crate::pipeline) reclaims: Reclaims,
}

impl SlotScan<'_> {
    /// The outcome of the fault at the page `addr` in `region`, which was `waiting`; `None` if it is there no more, or not known.
    ///
    /// Faults come in the order of addresses. Pages of a file before `counted` came along with another one.
    pub(in crate::pipeline) fn outcome(
        &self,
        row: &FaultRow,
        region: Option<VirtRange>,
        waiting: &Waiting,
        counted: &mut VirtAddr,
    ) -> Option<FaultOutcome> {
        let FaultRow { fault, place, .. } = row;
        let index = self.runs.iter().position(|run| run.range.contains(fault.addr))?;
        let run = &self.runs[index];
        let here = VirtRange::of_page(fault.addr, self.page);
        let kinds = Kinds::of(run);
        if !kinds.contains(Kinds::PRESENT) {
            return None;
        }
        let is_of_file = place.as_ref().is_some_and(|place| place.file_offset.is_some());
        // What a fault before it made of the page was not scanned.
        let before = if waiting.is_first { self.before.page(fault.addr, self.page) } else { Before::Unknown };
        let was = match before {
            Before::Run(was) => Kinds::of(&was),
            Before::Absent | Before::Unknown if waiting.follows_read && !is_of_file => Kinds::ZERO,
            Before::Absent | Before::Unknown => Kinds::empty(),
        };
        // What is written to in a private mapping of a file is copied, whether or not the page was mapped before.
        let is_copy = fault.access == Some(Access::Write)
            && (fault.protection == Some(true) || is_of_file)
            && !was.intersects(Kinds::ZERO | Kinds::SWAPPED);
        let kind = if kinds.contains(Kinds::HUGETLB) {
            OutcomeKind::Hugetlb
        } else if kinds.contains(Kinds::ZERO) {
            OutcomeKind::Zero
        } else if is_copy {
            let is_in = run.part(here, self.page).and_then(|run| run.pfn());
            match before {
                // What decides is whether the page is still in its frame.
                Before::Run(_) if is_in.is_none() => return None,
                Before::Run(was) if was.pfn() == is_in => OutcomeKind::Reuse,
                _ if kinds.contains(Kinds::FILE) => OutcomeKind::File,
                Before::Run(was) if was.pfn().is_some() => OutcomeKind::Copy,
                Before::Absent if is_of_file => OutcomeKind::Copy,
                Before::Unknown if is_of_file && waiting.follows_read => OutcomeKind::Copy,
                _ => return None,
            }
        } else if kinds.contains(Kinds::FILE) {
            OutcomeKind::File
        } else if was.contains(Kinds::SWAPPED) {
            OutcomeKind::Swap
        } else if fault.kind == FaultKind::Major && before == Before::Unknown {
            // It may have been in swap; but others serve faults too.
            return None;
        } else if self.known.contains(Kinds::ZERO) || fault.access == Some(Access::Write) {
            OutcomeKind::Anon
        } else {
            return None;
        };
        let pages = match kind {
            OutcomeKind::File => region.and_then(|region| {
                let around = around(fault.addr, region)?;
                // What the kernel maps as a whole may be larger.
                let folio = self.folio(index, here).unwrap_or(here);
                let all = around.start().min(folio.start())..around.end().max(folio.end());
                self.came_along(VirtRange::new(all.start, all.end)?, counted)
            }),
            OutcomeKind::Reuse => Some(PageCount::new(1)),
            _ => self.folio(index, here).map(|folio| folio.pages(self.page)),
        };
        Some(FaultOutcome { kind, pages, lag: self.began.since(fault.time) })
    }

    /// Where the folio lies that `here`, in the run with this `index`, is a page of; `None` if that is not known.
    fn folio(&self, index: usize, here: VirtRange) -> Option<VirtRange> {
        let run = &self.runs[index];
        if run.words.is_some_and(|words| words.flags.is_some()) {
            return Some(folio_around(self.runs, index, here, self.page));
        }
        // A page table has as many entries as there are words in a page.
        let bytes_of_huge = self.page.bytes() * (self.page.bytes() / size_of::<u64>() as u64);
        run.categories.contains(PageCategories::HUGE).then(|| here.widened(bytes_of_huge.ilog2()))
    }

    /// Pages of a file, `around` a fault as fault-around brings them, that are there now and were not before, and its own one; not those that had faults themselves,
    /// nor those before `counted`.
    fn came_along(&self, around: VirtRange, counted: &mut VirtAddr) -> Option<PageCount> {
        if self.before.was_busy(around, self.page) {
            return None;
        }
        let mut pages = PageCount::new(1);
        let rest = VirtRange::new(around.start().max(*counted), around.end());
        *counted = around.end().max(*counted);
        let changes = rest.map(|rest| self.before.changes(rest, self.runs, self.page)).unwrap_or_default();
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

    /// The row of `change` in a region; `None` if it is not known whether it is one.
    pub(in crate::pipeline) fn row(&self, change: &Change, tgid: Tgid, region: RegionId) -> Option<PageRow> {
        let Change { range, before, after, .. } = *change;
        let was = match before {
            Before::Unknown => return None,
            Before::Absent => None,
            Before::Run(run) => Some(run),
        };
        let index = self.runs.iter().position(|run| run.range.contains(range.start()));
        let first = VirtRange::of_page(range.start(), self.page);
        let pages_of_folio = index.and_then(|index| Some(self.folio(index, first)?.pages(self.page)));
        Some(PageRow {
            time: self.began,
            tgid,
            region,
            range,
            pages: range.pages(self.page),
            state: after.map_or(PageKind::Absent, |run| self.known.kind_of(&run)),
            prev_state: was.map_or(PageKind::Absent, |run| self.known.kind_of(&run)),
            pfn: after.and_then(|run| run.pfn()),
            prev_pfn: was.and_then(|run| run.pfn()),
            flags: after.and_then(|run| run.words?.flags),
            order: pages_of_folio.map(|pages| pages.get().ilog2()),
            cause: self.cause_of(change),
        })
    }

    /// Why there is a `change`.
    pub(in crate::pipeline) fn cause_of(&self, change: &Change) -> PageCause {
        match change.cause {
            Cause::Fault => PageCause::Fault,
            Cause::FaultAround => PageCause::FaultAround,
            Cause::Call => PageCause::Call,
            Cause::Kernel => self.cause_in_kernel(change),
        }
    }

    /// What the kernel did on its own.
    fn cause_in_kernel(&self, change: &Change) -> PageCause {
        let Before::Run(run) = change.before else { return PageCause::Unknown };
        let frames = run.pfn().zip(change.after.and_then(|run| run.pfn()));
        let is_in_other_frame = frames.is_some_and(|(before, after)| before != after);
        let was = Kinds::of(&run);
        let is = change.after.as_ref().map(Kinds::of).unwrap_or_default();
        if !is.contains(Kinds::PRESENT) {
            return self.cause_of_absence(&run, change.after.as_ref());
        }
        // Small, part of a large folio, mapped by a huge entry.
        let size = |kinds: Kinds| (kinds.contains(Kinds::HUGE), kinds.contains(Kinds::MTHP));
        if size(is) > size(was) {
            PageCause::Collapse
        } else if is.difference(was).contains(Kinds::KSM) && self.known.contains(Kinds::KSM) {
            PageCause::Merge
        } else if is_in_other_frame {
            PageCause::Migration
        } else if size(is) < size(was) {
            PageCause::Split
        } else {
            PageCause::Unknown
        }
    }

    /// Why pages that were like `was` are not present, though no call took them.
    ///
    /// The kernel does not say which pages it reclaims. Programs take pages away by calls that name files too, such as `fallocate` and
    /// `ftruncate`, and other processes take away what is shared with them.
    fn cause_of_absence(&self, was: &StateRun, after: Option<&StateRun>) -> PageCause {
        let kinds = Kinds::of(was);
        if !kinds.contains(Kinds::PRESENT) {
            return PageCause::Unknown;
        }
        let entry = after.and_then(|run| run.words).map(|words| words.entry);
        match entry.map(|entry| entry.residence(PagemapEra::V6_15, None)) {
            Some(Residence::NotPresent(NotPresent::Swap(_))) => PageCause::Reclaim,
            // Of these there are no lists to reclaim from.
            _ if kinds.intersects(Kinds::ZERO | Kinds::HUGETLB) => PageCause::Unknown,
            _ if self.reclaims.has_taken(was, self.before.scanned()) => PageCause::Reclaim,
            _ => PageCause::Unknown,
        }
    }
}
