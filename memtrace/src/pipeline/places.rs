//! Which frame each page was in at its last close look, and what changed since.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
};

use rangemap::RangeSet;

use super::{
    pages::{slot_end, slot_of},
    touched::Touched,
};
use crate::{
    event::{Fault, MapRequest, SpaceId, flags},
    pagemap::{PageCategories, StateRun, folio_around, inside, outside},
    units::{PageSize, Timestamp, VirtAddr, VirtRange},
};

/// Runs that are kept in mind, over all slots: 4 MiB. The slots that were looked at longest ago are forgotten first.
const MAX_RUNS: usize = 1 << 16;

/// Runs that a slot counts for even if it has none.
const SLOT_RUNS: usize = 4;

/// Looks at slots that are remembered for each slot, most of them of no use any more.
const MAX_LOOKED_PER_SLOT: usize = 4;

/// A fault at a page of a file maps those around it that are cached, `1 << AROUND_SHIFT` bytes at most: `fault_around_bytes`, unless
/// an administrator changed that.
const AROUND_SHIFT: u32 = 16;

/// Pages of all address spaces, slot by slot.
#[derive(Debug)]
pub(super) struct Places {
    page: PageSize,
    slots: BTreeMap<(SpaceId, VirtAddr), Place>,
    /// In the order of their looks; one that was looked at again is there again.
    looked: VecDeque<(Timestamp, (SpaceId, VirtAddr))>,
    /// Addresses that had no pages at one time, and were not looked at since.
    emptied: BTreeMap<SpaceId, RangeSet<VirtAddr>>,
    touched: Touched,
    /// How much is kept in mind.
    runs: usize,
}

/// Pages of a slot, and what happened to them since they were looked at.
#[derive(Clone, Debug, Default)]
struct Place {
    /// When the look ended; if there was none, when the first fault happened.
    looked: Timestamp,
    /// Pages that are not absent.
    runs: Vec<StateRun>,
    /// Pages of which it is not known where they are.
    unknown: RangeSet<VirtAddr>,
    faulted: RangeSet<VirtAddr>,
    called: RangeSet<VirtAddr>,
}

/// What was known of a slot when a look was taken.
#[derive(Debug)]
pub(super) struct Former {
    place: Place,
    /// What was touched amid the look: its state there may be the one before or the one after. So the next look tells of it.
    amid: RangeSet<VirtAddr>,
}

/// Consecutive pages that are in another state than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) range: VirtRange,
    pub(super) before: Before,
    /// What they are; `None` if absent.
    pub(super) after: Option<StateRun>,
    pub(super) cause: Cause,
}

/// What was known of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// Nothing: there was no close look, or something that may have moved them since.
    Unknown,
    /// They were absent.
    Absent,
    /// They were like this.
    Run(StateRun),
}

/// What changed pages, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// A fault at one of them, or at a page of the same folio.
    Fault,
    /// A fault at a page of the same file nearby.
    FaultAround,
    /// A call that maps, unmaps or gives advice.
    Call,
    /// Nothing that was seen: the kernel did it on its own.
    Kernel,
}

impl Places {
    pub(super) fn new(page: PageSize) -> Self {
        Self {
            page,
            slots: BTreeMap::new(),
            looked: VecDeque::new(),
            emptied: BTreeMap::new(),
            touched: Touched::default(),
            runs: 0,
        }
    }

    /// `space` is new: it had nothing in it before the first fault.
    pub(super) fn begin(&mut self, space: SpaceId) {
        if self.emptied.contains_key(&space) {
            return;
        }
        let everything = VirtAddr::from_raw(0)..VirtAddr::from_raw(u64::MAX);
        self.emptied.entry(space).or_default().insert(everything.clone());
        for (_, place) in self.slots.range_mut((space, everything.start)..(space, everything.end)) {
            place.unknown.clear();
        }
    }

    /// `child` has what `parent` has in private memory; of files it may have less.
    pub(super) fn fork(&mut self, time: Timestamp, parent: SpaceId, child: SpaceId) {
        let keys = (parent, VirtAddr::from_raw(0))..=(parent, VirtAddr::from_raw(u64::MAX));
        let forked = self.slots.range(keys).map(|((_, slot), place)| ((child, *slot), place.forked(time)));
        let forked: Vec<_> = forked.collect();
        for (key, place) in forked {
            self.runs += place.runs.len() + SLOT_RUNS;
            self.looked.push_back((time, key));
            self.slots.insert(key, place);
        }
        self.forget();
    }

    /// A fault was completed; tells whether it is the first at its page since that was looked at.
    pub(super) fn fault(&mut self, space: SpaceId, fault: &Fault) -> bool {
        let Fault { time, addr, latency, .. } = *fault;
        let key = (space, slot_of(addr));
        let Self { page, slots, looked, emptied, touched, runs } = self;
        let here = VirtRange::of_page(addr, *page).addrs();
        touched.add(time, space, here.clone());
        let place = slots.entry(key).or_insert_with(|| {
            looked.push_back((time, key));
            *runs += SLOT_RUNS;
            Place { looked: time, ..Place::unseen(key.1, emptied.get(&space)) }
        });
        // One under way when the look ended may have done its work by then.
        let began = time.before(latency.unwrap_or_default());
        if began < place.looked && place.run_at(addr).is_some() {
            place.unknown.insert(here.clone());
        }
        let is_first = !place.faulted.contains(&addr);
        place.faulted.insert(here);
        self.forget();
        is_first
    }

    /// A call in `space` was about `range`; tells whether pages that were there are there no more.
    pub(super) fn call(
        &mut self,
        time: Timestamp,
        space: SpaceId,
        request: &MapRequest,
        range: VirtRange,
    ) -> bool {
        use flags::{MADV_DONTNEED, MADV_DONTNEED_LOCKED, MADV_REMOVE};
        match *request {
            MapRequest::Mmap { .. }
            | MapRequest::Munmap { .. }
            | MapRequest::Brk { .. }
            | MapRequest::Madvise { advice: MADV_DONTNEED | MADV_DONTNEED_LOCKED | MADV_REMOVE, .. } => {
                self.touched.add(time, space, range.addrs());
                self.empty(space, range);
                true
            }
            MapRequest::Mremap { old_addr, old_size, .. } => {
                let old_end = VirtAddr::from_raw(old_addr.as_raw().saturating_add(old_size));
                for range in VirtRange::new(old_addr, old_end).into_iter().chain([range]) {
                    self.touched.add(time, space, range.addrs());
                    self.lose_sight(space, range);
                }
                true
            }
            MapRequest::Madvise { .. } | MapRequest::Mlock { .. } => {
                self.touched.add(time, space, range.addrs());
                for (place, part) in parts(&mut self.slots, space, range.addrs()) {
                    place.called.insert(part);
                }
                false
            }
            _ => false,
        }
    }

    /// There are no pages in `range` now.
    fn empty(&mut self, space: SpaceId, range: VirtRange) {
        let gap: RangeSet<_> = [range.addrs()].into_iter().collect();
        for (place, part) in parts(&mut self.slots, space, range.addrs()) {
            self.runs -= place.runs.len();
            place.runs = outside(&place.runs, &gap, self.page).collect();
            self.runs += place.runs.len();
            place.unknown.remove(part.clone());
            place.faulted.remove(part.clone());
            place.called.insert(part);
        }
        self.emptied.entry(space).or_default().insert(range.addrs());
    }

    /// What there is in `range` is not known now.
    fn lose_sight(&mut self, space: SpaceId, range: VirtRange) {
        if let Some(emptied) = self.emptied.get_mut(&space) {
            emptied.remove(range.addrs());
        }
        for (place, part) in parts(&mut self.slots, space, range.addrs()) {
            place.unknown.insert(part.clone());
            place.faulted.remove(part.clone());
            place.called.insert(part);
        }
    }

    /// What was touched in `range` of `space` after the look that is told of began.
    pub(super) fn touched_since(
        &self,
        began: Timestamp,
        space: SpaceId,
        range: VirtRange,
    ) -> RangeSet<VirtAddr> {
        self.touched.since(began, space, range)
    }

    /// Replaces what was known of `slot` by what a look saw that ended at `ended`, and returns it. What was `touched` amid the look
    /// stays as it was known.
    pub(super) fn replace(
        &mut self,
        ended: Timestamp,
        space: SpaceId,
        slot: VirtRange,
        seen: &[StateRun],
        touched: &RangeSet<VirtAddr>,
    ) -> Former {
        let key = (space, slot_of(slot.start()));
        let known = self.slots.remove(&key);
        self.runs -= known.as_ref().map_or(0, |place| place.runs.len() + SLOT_RUNS);
        let emptied = self.emptied.get_mut(&space);
        let place = known.unwrap_or_else(|| Place::unseen(key.1, emptied.as_deref()));
        if let Some(emptied) = emptied {
            emptied.remove(slot.addrs());
        }
        let amid = amid(slot, seen, touched);
        let next = place.looked_at(ended, seen, &amid, self.page);
        self.runs += next.runs.len() + SLOT_RUNS;
        self.looked.push_back((ended, key));
        self.slots.insert(key, next);
        self.forget();
        Former { place, amid }
    }

    /// Forgets what is too much.
    fn forget(&mut self) {
        if self.looked.len() > MAX_LOOKED_PER_SLOT * (self.slots.len() + SLOT_RUNS) {
            let Self { slots, looked, .. } = self;
            looked.retain(|(time, key)| slots.get(key).is_some_and(|place| place.looked == *time));
        }
        while self.runs > MAX_RUNS
            && let Some((looked, key)) = self.looked.pop_front()
        {
            if self.slots.get(&key).is_some_and(|place| place.looked == looked)
                && let Some(place) = self.slots.remove(&key)
            {
                self.runs -= place.runs.len() + SLOT_RUNS;
            }
        }
    }

    /// Forgets address spaces that are gone.
    pub(super) fn retain(&mut self, is_there: impl Fn(SpaceId) -> bool) {
        self.slots.retain(|(space, _), _| is_there(*space));
        self.looked.retain(|(_, (space, _))| is_there(*space));
        self.emptied.retain(|space, _| is_there(*space));
        self.runs = self.slots.values().map(|place| place.runs.len() + SLOT_RUNS).sum();
    }
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

impl Place {
    /// A slot that was not looked at, of which the addresses in `emptied` had no pages at one time.
    fn unseen(slot: VirtAddr, emptied: Option<&RangeSet<VirtAddr>>) -> Self {
        let slot = slot..slot_end(slot);
        let (mut unknown, mut called) = (RangeSet::new(), RangeSet::new());
        unknown.insert(slot.clone());
        for part in emptied.into_iter().flat_map(|emptied| emptied.overlapping(slot.clone())) {
            let part = part.start.max(slot.start)..part.end.min(slot.end);
            unknown.remove(part.clone());
            called.insert(part);
        }
        Self { unknown, called, ..Self::default() }
    }

    /// What a child has that is forked at `time`: of files the kernel leaves to faults what they can bring again.
    fn forked(&self, time: Timestamp) -> Self {
        let (of_files, private): (Vec<StateRun>, Vec<_>) =
            self.runs.iter().partition(|run| run.categories.contains(PageCategories::FILE));
        let mut unknown = self.unknown.clone();
        unknown.extend(of_files.into_iter().map(|run| run.range.addrs()));
        unknown.extend(self.faulted.iter().chain(self.called.iter()).cloned());
        Self { looked: time, runs: private, unknown, ..Self::default() }
    }

    /// This after a look that ended at `ended` and saw `seen`, which does not count for what lies in `amid`.
    fn looked_at(
        &self,
        ended: Timestamp,
        seen: &[StateRun],
        amid: &RangeSet<VirtAddr>,
        page: PageSize,
    ) -> Self {
        let kept = |set: &RangeSet<VirtAddr>| set.intersection(amid).collect();
        let mut runs: Vec<_> = outside(seen, amid, page).chain(inside(&self.runs, amid, page)).collect();
        runs.sort_by_key(|run| run.range.start());
        let [unknown, faulted, called] = [&self.unknown, &self.faulted, &self.called].map(kept);
        Self { looked: ended, runs, unknown, faulted, called }
    }

    /// The run that the page at `addr` is in.
    fn run_at(&self, addr: VirtAddr) -> Option<&StateRun> {
        let index = self.runs.partition_point(|run| run.range.end() <= addr);
        self.runs.get(index).filter(|run| run.range.contains(addr))
    }

    /// Whether a fault happened in `range` since.
    fn has_faulted(&self, range: VirtRange) -> bool {
        self.faulted.overlaps(&range.addrs())
    }

    /// Why `range`, part of `whole` in one block of a file, is now like `after`, in a folio that lies at `folio`.
    fn cause(&self, range: VirtRange, whole: VirtRange, folio: VirtRange, after: Option<&StateRun>) -> Cause {
        let is_there = after.is_some_and(|run| run.categories.contains(PageCategories::PRESENT));
        let came_along = || {
            let first = around(whole.start(), whole).filter(|first| first.contains(range.start()));
            let of_first = first.and_then(|first| VirtRange::new(first.start(), block_end(first.start())));
            [Some(range.widened(AROUND_SHIFT)), of_first].into_iter().flatten().any(|at| self.has_faulted(at))
        };
        if is_there && self.has_faulted(folio) {
            Cause::Fault
        } else if after.is_some_and(|run| run.categories.contains(PageCategories::FILE)) && came_along() {
            Cause::FaultAround
        } else if self.called.overlaps(&range.addrs()) {
            Cause::Call
        } else {
            Cause::Kernel
        }
    }
}

impl Former {
    /// What was known of the page at `addr`.
    pub(super) fn page(&self, addr: VirtAddr, page: PageSize) -> Before {
        if self.place.unknown.contains(&addr) {
            return Before::Unknown;
        }
        let run = self.place.run_at(addr).and_then(|run| run.part(VirtRange::of_page(addr, page), page));
        run.map_or(Before::Absent, Before::Run)
    }

    /// Whether it is known of any page of `range` where it was.
    pub(super) fn knows_of(&self, range: VirtRange) -> bool {
        self.place.unknown.gaps(&range.addrs()).next().is_some()
    }

    /// How many pages of `range` had a fault since.
    pub(super) fn faulted_pages(&self, range: VirtRange, page: PageSize) -> u64 {
        let parts = self.place.faulted.overlapping(range.addrs());
        let parts = parts.filter_map(|part| VirtRange::new(part.start, part.end)?.intersection(range));
        parts.map(|part| part.pages(page).get()).sum()
    }

    /// What is different in `range`, the part of a slot that one region has, if `after` is what the look saw.
    pub(super) fn changes(&self, range: VirtRange, after: &[StateRun], page: PageSize) -> Vec<Change> {
        let Self { place, amid } = self;
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
            let edge = |set: &RangeSet<VirtAddr>| {
                let mut edges = set.overlapping(next..range.end()).flat_map(|part| [part.start, part.end]);
                edges.find(|addr| *addr > next)
            };
            let first = around(range.start(), range).map(VirtRange::end).filter(|end| next < *end);
            let blocks = [Some(range.end()), Some(block_end(next)), first];
            let borders = [border(&place.runs, old), border(after, new)].into_iter().chain(blocks);
            let edges = [&place.unknown, &place.faulted, &place.called, amid].map(edge);
            let Some(stop) = borders.chain(edges).flatten().min() else { break };
            let Some(here) = VirtRange::new(next, stop) else { break };
            next = stop;
            let part = |runs: &[StateRun], index: usize| runs.get(index)?.part(here, page);
            let (was, is) = (part(&place.runs, old), part(after, new));
            if are_alike(was.as_ref(), is.as_ref()) || amid.contains(&here.start()) {
                continue;
            }
            let folio = if is.is_some() { folio_around(after, new, here, page) } else { here };
            let before = if place.unknown.overlaps(&here.addrs()) {
                Before::Unknown
            } else {
                was.map_or(Before::Absent, Before::Run)
            };
            let cause = place.cause(here, range, folio, is.as_ref());
            let change = Change { range: here, before, after: is, cause };
            if !changes.last_mut().is_some_and(|last: &mut Change| last.try_append(&change, page)) {
                changes.push(change);
            }
        }
        changes
    }
}

/// The pages of `slot` that were `touched` amid a look, and those of files that may have come along with them.
fn amid(slot: VirtRange, seen: &[StateRun], touched: &RangeSet<VirtAddr>) -> RangeSet<VirtAddr> {
    let parts = touched.overlapping(slot.addrs());
    let parts: Vec<_> = parts
        .filter_map(|part| VirtRange::new(part.start.max(slot.start()), part.end.min(slot.end())))
        .collect();
    let files = seen.iter().filter(|run| run.categories.contains(PageCategories::FILE));
    let along = |part: &VirtRange| {
        let block = around_any(*part);
        files.clone().filter_map(move |run| run.range.intersection(block))
    };
    parts.iter().copied().chain(parts.iter().flat_map(along)).map(VirtRange::addrs).collect()
}

/// What a fault at `addr` maps of a file that is mapped at `region`, as far as it is cached.
///
/// Source: `do_fault_around` in `mm/memory.c`: from where a block begins, but not before the region, for the length of a block; not
/// beyond the page table.
pub(super) fn around(addr: VirtAddr, region: VirtRange) -> Option<VirtRange> {
    let start = VirtAddr::from_raw(addr.as_raw() >> AROUND_SHIFT << AROUND_SHIFT);
    let start = start.max(region.start()).max(slot_of(addr));
    let end = VirtAddr::from_raw(start.as_raw().saturating_add(1 << AROUND_SHIFT));
    VirtRange::new(start, end.min(region.end()).min(slot_end(addr)))
}

/// Whatever the region: all that comes along with one of `pages`, and all that one of them may come along with.
fn around_any(pages: VirtRange) -> VirtRange {
    let before = VirtAddr::from_raw(pages.start().as_raw().saturating_sub(1 << AROUND_SHIFT));
    let behind = VirtAddr::from_raw(pages.end().as_raw().saturating_add(1 << AROUND_SHIFT));
    VirtRange::new(before, behind).unwrap_or(pages)
}

/// Where the block of a file ends that `addr` lies in.
fn block_end(addr: VirtAddr) -> VirtAddr {
    VirtAddr::from_raw((addr.as_raw() >> AROUND_SHIFT).saturating_add(1) << AROUND_SHIFT)
}

/// The slots that have a part in `addrs` of `space`, and that part.
fn parts(
    slots: &mut BTreeMap<(SpaceId, VirtAddr), Place>,
    space: SpaceId,
    addrs: Range<VirtAddr>,
) -> impl Iterator<Item = (&mut Place, Range<VirtAddr>)> {
    let keys = (space, slot_of(addrs.start))..(space, addrs.end);
    slots
        .range_mut(keys)
        .map(move |((_, start), place)| (place, addrs.start.max(*start)..addrs.end.min(slot_end(*start))))
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

#[cfg(test)]
mod tests;
