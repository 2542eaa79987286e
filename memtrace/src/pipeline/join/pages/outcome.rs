//! The outcomes of faults, and what changed pages: found by the first close scan that follows.

use std::{collections::BTreeMap, ops::Range};

use rangemap::RangeSet;

use super::{
    counts::kind_of,
    history::{Before, Cause, Change, SlotBefore, fault_around},
};
use crate::{
    event::{Access, Fault, FaultKind, SpaceId, Tgid},
    pagemap::{NotPresent, PageCategories, PagemapEra, Residence, StateRun, folio_around},
    pipeline::join::reclaims::Reclaims,
    timeline::{FaultOutcome, OutcomeKind, PageCause, PageKind, PageRow, PropertySet, RegionId},
    units::{PageCount, PageSize, Timestamp, VirtAddr, VirtRange, Vpn},
};

/// A fault whose outcome somebody wants to know, in the order of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::pipeline) struct FaultId(pub(in crate::pipeline) u64);

/// Completed faults that no scan has followed yet, by page. Of several at one page the last: the outcomes of the others are gone.
#[derive(Debug, Default)]
pub(super) struct Unresolved(BTreeMap<(SpaceId, Vpn), Waiting>);

/// A fault whose page was not scanned yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) id: FaultId,
    pub(super) time: Timestamp,
    kind: FaultKind,
    access: Option<Access>,
    protection: Option<bool>,
    /// Whether it lies in a mapping of a file.
    is_of_file: bool,
    /// Whether it is the first at its page since that was scanned.
    is_first: bool,
    /// Whether the page was read before it, which gives the zero page where there is nothing.
    follows_read: bool,
}

impl Unresolved {
    /// A completed `fault` in `space`. Returns the one at the same page that waited until then.
    pub(super) fn add(
        &mut self,
        (space, page): (SpaceId, PageSize),
        id: FaultId,
        fault: &Fault,
        (is_first, is_of_file): (bool, bool),
    ) -> Option<FaultId> {
        let Fault { time, kind, access, protection, .. } = *fault;
        let key = (space, fault.addr.vpn(page));
        let before = self.0.get(&key).and_then(|waiting| waiting.access);
        let follows_read = before == Some(Access::Read);
        let waiting = Waiting { id, time, kind, access, protection, is_of_file, is_first, follows_read };
        self.0.insert(key, waiting).map(|before| before.id)
    }

    /// What faults brought to `range` of `space` is there no more, or not in its place: which these are.
    pub(super) fn forget(&mut self, space: SpaceId, range: VirtRange, page: PageSize) -> Vec<FaultId> {
        self.0.extract_if(keys(space, range, page), |_, _| true).map(|(_, waiting)| waiting.id).collect()
    }

    /// The rows of faults before `first` are out: nobody asks for their outcomes any more.
    pub(super) fn forget_before(&mut self, first: FaultId) {
        self.0.retain(|_, waiting| waiting.id >= first);
    }

    /// Takes the faults in `slot` that a scan decides which began at `began`, in the order of addresses. What `raced` since
    /// waits for the next one.
    pub(super) fn take(
        &mut self,
        space: SpaceId,
        slot: VirtRange,
        page: PageSize,
        began: Timestamp,
        racing: &RangeSet<VirtAddr>,
    ) -> Vec<(VirtAddr, Waiting)> {
        let known = self.0.extract_if(keys(space, slot, page), |(_, vpn), waiting| {
            waiting.time <= began && !racing.contains(&vpn.start(page))
        });
        known.map(|((_, vpn), waiting)| (vpn.start(page), waiting)).collect()
    }
}

/// The pages of `range` in `space`.
fn keys(space: SpaceId, range: VirtRange, page: PageSize) -> Range<(SpaceId, Vpn)> {
    let end = VirtAddr::from_raw(range.end().as_raw() - 1).vpn(page).as_raw() + 1;
    (space, range.start().vpn(page))..(space, Vpn::from_raw(end))
}

/// Where that ends which was counted with faults at lower addresses of the slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    /// Pages of files, with those of fault-around.
    around: VirtAddr,
    /// Other pages, with their folio.
    folio: VirtAddr,
}

impl Counted {
    /// Nothing yet of the slot that begins at `start`.
    pub(super) const fn from(start: VirtAddr) -> Self {
        Self { around: start, folio: start }
    }
}

/// Consecutive pages of a region that are in another state than at the scan before.
#[derive(Clone, Copy, Debug)]
pub(in crate::pipeline) struct PageChange {
    region: RegionId,
    range: VirtRange,
    pages: PageCount,
    /// What they are, and what they were; `None` if absent.
    is: Option<StateRun>,
    was: Option<StateRun>,
    state: PageKind,
    prev_state: PageKind,
    /// Pages of their folio as far as it is mapped here, as a power of two.
    order: Option<u32>,
    cause: PageCause,
}

impl PageChange {
    /// The row of it, in the process `tgid` and seen at `time`.
    pub(in crate::pipeline) fn row(self, time: Timestamp, tgid: Tgid) -> PageRow {
        let Self { region, range, pages, is, was, state, prev_state, order, cause } = self;
        let (pfn, prev_pfn) = (is.and_then(|run| run.pfn()), was.and_then(|run| run.pfn()));
        let flags = is.and_then(|run| run.words?.flags);
        PageRow { time, tgid, region, range, pages, state, prev_state, pfn, prev_pfn, flags, order, cause }
    }
}

/// A close scan of a slot, and what was known of it before.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlotScan<'a> {
    pub(super) began: Timestamp,
    /// What it saw.
    pub(super) runs: &'a [StateRun],
    /// What was known of the slot before.
    pub(super) before: &'a SlotBefore,
    pub(super) page: PageSize,
    /// Which kinds of pages it knows.
    pub(super) known: PropertySet,
    /// What the kernel reclaimed until then.
    pub(super) reclaims: Reclaims,
}

impl SlotScan<'_> {
    /// The outcome of the fault at the page `addr` in `region`, which was `waiting`; `None` if it is there no more, or not known.
    ///
    /// Faults come in the order of addresses, and what was `counted` with one is not counted again with the next.
    pub(super) fn outcome(
        &self,
        addr: VirtAddr,
        region: Option<VirtRange>,
        waiting: &Waiting,
        counted: &mut Counted,
    ) -> Option<FaultOutcome> {
        let is_of_file = waiting.is_of_file;
        let index = self.runs.iter().position(|run| run.range.contains(addr))?;
        let run = &self.runs[index];
        let here = VirtRange::of_page(addr, self.page);
        let kinds = PropertySet::of(run);
        if !kinds.contains(PropertySet::PRESENT) {
            return None;
        }
        // What a fault before it made of the page was not scanned.
        let before = if waiting.is_first { self.before.page(addr, self.page) } else { Before::Unknown };
        let was = match before {
            Before::Run(was) => PropertySet::of(&was),
            Before::Absent | Before::Unknown if waiting.follows_read && !is_of_file => PropertySet::ZERO,
            Before::Absent | Before::Unknown => PropertySet::empty(),
        };
        // What is written to in a private mapping of a file is copied, whether or not the page was mapped before.
        let is_copy = waiting.access == Some(Access::Write)
            && (waiting.protection == Some(true) || is_of_file)
            && !was.intersects(PropertySet::ZERO | PropertySet::SWAPPED);
        let is_in = run.part(here, self.page).and_then(|run| run.pfn());
        let kind = if kinds.contains(PropertySet::ZERO) {
            OutcomeKind::Zero
        } else if kinds.contains(PropertySet::HUGETLB) && !kinds.contains(PropertySet::FILE) {
            // There is no zero page of hugetlb, and no swap.
            match before {
                Before::Absent => OutcomeKind::Hugetlb,
                Before::Run(was) if was.pfn()? == is_in? => OutcomeKind::Reuse,
                Before::Run(_) => OutcomeKind::Copy,
                Before::Unknown => return None,
            }
        } else if is_copy {
            match before {
                // What decides is whether the page is still in its frame.
                Before::Run(_) if is_in.is_none() => return None,
                Before::Run(was) if was.pfn() == is_in => OutcomeKind::Reuse,
                _ if kinds.contains(PropertySet::FILE) => OutcomeKind::File,
                Before::Run(was) if was.pfn().is_some() => OutcomeKind::Copy,
                Before::Absent if is_of_file => OutcomeKind::Copy,
                Before::Unknown if is_of_file && waiting.follows_read => OutcomeKind::Copy,
                _ => return None,
            }
        } else if kinds.contains(PropertySet::FILE) {
            OutcomeKind::File
        } else if was.contains(PropertySet::SWAPPED) {
            OutcomeKind::Swap
        } else if waiting.kind == FaultKind::Major && before == Before::Unknown {
            // It may have been in swap; but others serve faults too.
            return None;
        } else if self.known.contains(PropertySet::ZERO) || waiting.access == Some(Access::Write) {
            OutcomeKind::Anon
        } else {
            return None;
        };
        let pages = match kind {
            OutcomeKind::File => region.and_then(|region| {
                let around = fault_around(addr, region)?;
                // What the kernel maps as a whole may be larger.
                let folio = self.folio(index, here).unwrap_or(here);
                let all = around.start().min(folio.start())..around.end().max(folio.end());
                self.came_along(VirtRange::new(all.start, all.end)?, &mut counted.around)
            }),
            OutcomeKind::Reuse => Some(PageCount::new(1)),
            _ => match self.folio(index, here) {
                // Of threads that fault at one folio at once, one is given it.
                Some(folio) if folio.start() < counted.folio => return None,
                Some(folio) => {
                    counted.folio = folio.end();
                    Some(folio.pages(self.page))
                }
                None => None,
            },
        };
        Some(FaultOutcome { kind, pages, lag: self.began.since(waiting.time) })
    }

    /// Where the folio lies that `here`, in the run with this `index`, is a page of; `None` if that is not known.
    fn folio(&self, index: usize, here: VirtRange) -> Option<VirtRange> {
        let run = &self.runs[index];
        if run.words.is_some_and(|words| words.flags.is_some()) {
            return Some(folio_around(self.runs, index, here, self.page));
        }
        let shift = self.page.bytes().ilog2() + self.page.pmd_order();
        run.categories.contains(PageCategories::HUGE).then(|| here.widened(shift))
    }

    /// Pages of a file, `around` a fault as fault-around brings them, that are there now and were not before, and its own one; not those that had faults themselves,
    /// nor those before `counted`.
    fn came_along(&self, around: VirtRange, counted: &mut VirtAddr) -> Option<PageCount> {
        if self.before.was_busy(around) {
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
                    let faulted = self.before.faulted_pages(range, self.page);
                    let others = range.pages(self.page).get().saturating_sub(faulted);
                    pages += PageCount::new(others);
                }
                Before::Absent | Before::Run(_) => {}
            }
        }
        Some(pages)
    }

    /// The row of `change` in a region; `None` if it is not known whether it is one.
    pub(super) fn change(&self, change: &Change, region: RegionId) -> Option<PageChange> {
        let Change { range, before, after, .. } = *change;
        let was = match before {
            Before::Unknown => return None,
            Before::Absent => None,
            Before::Run(run) => Some(run),
        };
        let index = self.runs.iter().position(|run| run.range.contains(range.start()));
        let first = VirtRange::of_page(range.start(), self.page);
        let pages_of_folio = index.and_then(|index| Some(self.folio(index, first)?.pages(self.page)));
        let kind_of = |run: StateRun| kind_of(&run, self.known);
        Some(PageChange {
            region,
            range,
            pages: range.pages(self.page),
            is: after,
            was,
            state: after.map_or(PageKind::Absent, kind_of),
            prev_state: was.map_or(PageKind::Absent, kind_of),
            order: pages_of_folio.map(|pages| pages.get().ilog2()),
            cause: self.cause_of(change),
        })
    }

    /// Why there is a `change`.
    pub(super) fn cause_of(&self, change: &Change) -> PageCause {
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
        let was = PropertySet::of(&run);
        let is = change.after.as_ref().map(PropertySet::of).unwrap_or_default();
        if !is.contains(PropertySet::PRESENT) {
            return self.cause_of_absence(&run, change.after.as_ref());
        }
        // Small, part of a large folio, mapped by a huge entry.
        let size =
            |kinds: PropertySet| (kinds.contains(PropertySet::HUGE), kinds.contains(PropertySet::MTHP));
        if size(is) > size(was) {
            PageCause::Collapse
        } else if is.difference(was).contains(PropertySet::KSM) && self.known.contains(PropertySet::KSM) {
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
        let kinds = PropertySet::of(was);
        if !kinds.contains(PropertySet::PRESENT) {
            return PageCause::Unknown;
        }
        let entry = after.and_then(|run| run.words).map(|words| words.entry);
        match entry.map(|entry| entry.residence(PagemapEra::V6_15, None)) {
            Some(Residence::NotPresent(NotPresent::Swap(_))) => PageCause::Reclaim,
            // Of these there are no lists to reclaim from.
            _ if kinds.intersects(PropertySet::ZERO | PropertySet::HUGETLB) => PageCause::Unknown,
            _ if self.reclaims.has_taken(was, self.before.scanned()) => PageCause::Reclaim,
            _ => PageCause::Unknown,
        }
    }
}
