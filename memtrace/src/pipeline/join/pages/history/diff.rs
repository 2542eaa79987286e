//! What is different between what was known of pages and what a scan saw.

use super::{super::evidence::Evidence, SlotHistory};
use crate::{
    pagemap::{PageCategories, StateRun, folio_around},
    pipeline::slots::{slot_end, slot_of},
    units::{PageSize, Timestamp, VirtAddr, VirtRange},
};

/// A fault at a page of a file maps those around it that are cached, `1 << AROUND_SHIFT` bytes at most: `fault_around_bytes`, unless
/// an administrator changed that.
pub(super) const AROUND_SHIFT: u32 = 16;

/// What was known of a slot when a scan was taken, and what raced with it.
#[derive(Debug)]
pub(in super::super) struct SlotBefore(pub(super) SlotHistory);

/// Consecutive pages that are in another state than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Change {
    pub(in super::super) range: VirtRange,
    pub(in super::super) before: Before,
    /// What they are; `None` if absent.
    pub(in super::super) after: Option<StateRun>,
    pub(in super::super) cause: Cause,
}

/// What was known of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Before {
    /// Nothing: there was no close scan, or something that may have moved them since.
    Unknown,
    /// They were absent.
    Absent,
    /// They were like this.
    Run(StateRun),
}

/// What changed pages, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Cause {
    /// A fault at one of them, or at a page of the same folio.
    Fault,
    /// A fault at a page of the same file nearby.
    FaultAround,
    /// A call that maps, unmaps or gives advice.
    Call,
    /// Nothing that was seen: the kernel did it on its own.
    Kernel,
}

impl Change {
    /// Adds `next` at the end, unless it is no neighbour or of another kind.
    fn try_append(&mut self, next: &Self, page: PageSize) -> bool {
        let Self { range, before, after, cause } = self;
        let both = VirtRange::new(range.start(), next.range.end());
        let joined =
            both.filter(|_| range.end() == next.range.start() && *cause == next.cause).and_then(|both| {
                let before = match (*before, next.before) {
                    (Before::Run(one), Before::Run(other)) => Before::Run(one.joined(&other, page)?),
                    (one, other) if one == other => one,
                    _ => return None,
                };
                let after = match (*after, next.after) {
                    (Some(one), Some(other)) => Some(one.joined(&other, page)?),
                    (None, None) => None,
                    _ => return None,
                };
                Some(Self { range: both, before, after, cause: *cause })
            });
        joined.map(|joined| *self = joined).is_some()
    }
}

impl SlotBefore {
    /// When the scan before ended.
    pub(in super::super) fn scanned(&self) -> Timestamp {
        self.0.scanned
    }

    /// What was known of the page at `addr`.
    pub(in super::super) fn page(&self, addr: VirtAddr, page: PageSize) -> Before {
        if self.0.evidence.at(addr).contains(Evidence::UNKNOWN) {
            return Before::Unknown;
        }
        let run = self.0.run_at(addr).and_then(|run| run.part(VirtRange::of_page(addr, page), page));
        run.map_or(Before::Absent, Before::Run)
    }

    /// Whether anything is known of a page of `range`: where it was, and nothing raced with the scan there.
    pub(in super::super) fn knows_of(&self, range: VirtRange) -> bool {
        !self.0.evidence.covers(range, Evidence::UNKNOWN | Evidence::RACED)
    }

    /// Whether something raced with the scan in `range`, other than faults at its pages.
    pub(in super::super) fn was_busy(&self, range: VirtRange) -> bool {
        let busy = |here: Evidence| here.contains(Evidence::RACED) && !here.contains(Evidence::FAULT);
        self.0.evidence.parts(&range.addrs()).any(|(_, here)| busy(here))
    }

    /// How many pages of `range` had a fault since.
    pub(in super::super) fn faulted_pages(&self, range: VirtRange, page: PageSize) -> u64 {
        let parts = self.0.evidence.parts(&range.addrs());
        let faulted = parts.filter(|(_, here)| here.contains(Evidence::FAULT));
        faulted
            .filter_map(|(part, _)| VirtRange::new(part.start, part.end))
            .map(|part| part.pages(page).get())
            .sum()
    }

    /// What is different in `range`, the part of a slot that one region has, if `after` is what the scan saw.
    pub(in super::super) fn changes(
        &self,
        range: VirtRange,
        after: &[StateRun],
        page: PageSize,
    ) -> Vec<Change> {
        let Self(place) = self;
        let mut changes = Vec::new();
        let (mut old, mut new) = (0, 0);
        let mut next = range.start();
        while next < range.end() {
            let passed = |runs: &[StateRun], from: usize| {
                from + runs[from..].partition_point(|run| run.range.end() <= next)
            };
            (old, new) = (passed(&place.runs, old), passed(after, new));
            let border = |runs: &[StateRun], index: usize| {
                let run = runs.get(index)?.range;
                Some(if run.start() <= next { run.end() } else { run.start() })
            };
            let first = fault_around(range.start(), range).map(VirtRange::end).filter(|end| next < *end);
            let blocks = [Some(range.end()), Some(block_end(next)), first];
            let evidence = place.evidence.next_border(next, range.end());
            let borders = [border(&place.runs, old), border(after, new), evidence];
            let Some(stop) = borders.into_iter().chain(blocks).flatten().min() else { break };
            let Some(here) = VirtRange::new(next, stop) else { break };
            next = stop;
            let part = |runs: &[StateRun], index: usize| runs.get(index)?.part(here, page);
            let (was, is) = (part(&place.runs, old), part(after, new));
            let evidence = place.evidence.at(here.start());
            if are_alike(was.as_ref(), is.as_ref()) || evidence.contains(Evidence::RACED) {
                continue;
            }
            let folio = if is.is_some() { folio_around(after, new, here, page) } else { here };
            let before = if evidence.contains(Evidence::UNKNOWN) {
                Before::Unknown
            } else {
                was.map_or(Before::Absent, Before::Run)
            };
            let cause = self.cause(here, range, folio, is.as_ref());
            let change = Change { range: here, before, after: is, cause };
            if !changes.last_mut().is_some_and(|last: &mut Change| last.try_append(&change, page)) {
                changes.push(change);
            }
        }
        changes
    }

    /// Whether a fault happened in `range` since.
    fn has_faulted(&self, range: VirtRange) -> bool {
        self.0.evidence.has(range, Evidence::FAULT)
    }

    /// Why `range`, part of `whole` in one block of a file, is now like `after`, in a folio that lies at `folio`.
    fn cause(&self, range: VirtRange, whole: VirtRange, folio: VirtRange, after: Option<&StateRun>) -> Cause {
        let is_there = after.is_some_and(|run| run.categories.contains(PageCategories::PRESENT));
        let came_along = || {
            let first = fault_around(whole.start(), whole).filter(|first| first.contains(range.start()));
            let of_first = first.and_then(|first| VirtRange::new(first.start(), block_end(first.start())));
            [Some(range.widened(AROUND_SHIFT)), of_first].into_iter().flatten().any(|at| self.has_faulted(at))
        };
        if is_there && self.has_faulted(folio) {
            Cause::Fault
        } else if after.is_some_and(|run| run.categories.contains(PageCategories::FILE)) && came_along() {
            Cause::FaultAround
        } else if self.0.evidence.has(range, Evidence::CALL)
            || is_there && self.0.evidence.has(range, Evidence::POPULATE)
        {
            Cause::Call
        } else {
            Cause::Kernel
        }
    }
}

/// What a fault at `addr` maps of a file that is mapped at `region`, as far as it is cached.
///
/// Source: `do_fault_around` in `mm/memory.c`: from where a block begins, but not before the region, for the length of a block; not
/// beyond the page table.
pub(in super::super) fn fault_around(addr: VirtAddr, region: VirtRange) -> Option<VirtRange> {
    let start = VirtAddr::from_raw(addr.as_raw() >> AROUND_SHIFT << AROUND_SHIFT);
    let start = start.max(region.start()).max(slot_of(addr));
    let end = VirtAddr::from_raw(start.as_raw().saturating_add(1 << AROUND_SHIFT));
    VirtRange::new(start, end.min(region.end()).min(slot_end(addr)))
}

/// Where the block of a file ends that `addr` lies in.
fn block_end(addr: VirtAddr) -> VirtAddr {
    VirtAddr::from_raw((addr.as_raw() >> AROUND_SHIFT).saturating_add(1) << AROUND_SHIFT)
}

/// Whether the same pages are in the same state, and in the same frames.
fn are_alike(one: Option<&StateRun>, other: Option<&StateRun>) -> bool {
    const STATE: PageCategories = PageCategories::PRESENT
        .union(PageCategories::SWAPPED)
        .union(PageCategories::HUGE)
        .union(PageCategories::PFNZERO)
        .union(PageCategories::GUARD);
    let state = |run: &StateRun| (run.categories & STATE, run.pfn());
    one.map(state) == other.map(state)
}
