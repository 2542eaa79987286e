//! Which frame each page was in at its last close look, and what changed since.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
};

use rangemap::RangeSet;

use super::pages::{slot_end, slot_of};
use crate::{
    event::{MapRequest, SpaceId, flags},
    pagemap::{PageCategories, PageFlags, PageWords, PagemapEntry, StateRun},
    units::{PageSize, Pfn, Timestamp, VirtAddr, VirtRange},
};

/// Runs that are kept in mind, over all slots: 4 MiB. The slots that were looked at longest ago are forgotten first.
const MAX_RUNS: usize = 1 << 16;

/// Runs that a slot counts for even if it has none.
const SLOT_RUNS: usize = 4;

/// Looks at slots that are remembered for each slot, most of them of no use any more.
const MAX_LOOKED_PER_SLOT: usize = 4;

/// Pages of files are mapped together with those around them that are cached, in blocks of `1 << AROUND_SHIFT` bytes:
/// `fault_around_bytes`, unless an administrator changed that.
pub(super) const AROUND_SHIFT: u32 = 16;

/// Pages of all address spaces, slot by slot.
#[derive(Debug)]
pub(super) struct Places {
    page: PageSize,
    slots: BTreeMap<(SpaceId, VirtAddr), Place>,
    /// In the order of their looks; one that was looked at again is there again.
    looked: VecDeque<(Timestamp, (SpaceId, VirtAddr))>,
    /// Addresses that had no pages at one time, and were not looked at since.
    emptied: BTreeMap<SpaceId, RangeSet<VirtAddr>>,
    /// How much is kept in mind.
    runs: usize,
}

/// Pages of a slot, and what happened to them since they were looked at.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// When the look began; if there was none, when the first fault happened.
    looked: Timestamp,
    /// Pages that are not absent.
    runs: Vec<StateRun>,
    /// Pages of which it is not known where they are.
    unknown: RangeSet<VirtAddr>,
    faulted: RangeSet<VirtAddr>,
    called: RangeSet<VirtAddr>,
    last_fault: Timestamp,
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
        Self { page, slots: BTreeMap::new(), looked: VecDeque::new(), emptied: BTreeMap::new(), runs: 0 }
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

    /// A fault was completed.
    pub(super) fn fault(&mut self, time: Timestamp, space: SpaceId, addr: VirtAddr) {
        let key = (space, slot_of(addr));
        let Self { page, slots, looked, emptied, runs } = self;
        let place = slots.entry(key).or_insert_with(|| {
            looked.push_back((time, key));
            *runs += SLOT_RUNS;
            Place { looked: time, ..Place::unseen(key.1, emptied.get(&space)) }
        });
        place.faulted.insert(page_at(addr, *page));
        place.last_fault = time;
        self.forget();
    }

    /// A call in `space` was about `range`; tells whether pages that were there are there no more.
    pub(super) fn call(&mut self, space: SpaceId, request: &MapRequest, range: VirtRange) -> bool {
        use flags::{MADV_DONTNEED, MADV_DONTNEED_LOCKED, MADV_REMOVE};
        match *request {
            MapRequest::Mmap { .. }
            | MapRequest::Munmap { .. }
            | MapRequest::Brk { .. }
            | MapRequest::Madvise { advice: MADV_DONTNEED | MADV_DONTNEED_LOCKED | MADV_REMOVE, .. } => {
                self.empty(space, range.start()..range.end());
                true
            }
            MapRequest::Mremap { old_addr, old_size, .. } => {
                let old_end = VirtAddr::from_raw(old_addr.as_raw().saturating_add(old_size));
                if let Some(old) = VirtRange::new(old_addr, old_end) {
                    self.lose_sight(space, old);
                }
                self.lose_sight(space, range);
                true
            }
            MapRequest::Madvise { .. } | MapRequest::Mlock { .. } => {
                for (place, part) in parts(&mut self.slots, space, range.start()..range.end()) {
                    place.called.insert(part);
                }
                false
            }
            _ => false,
        }
    }

    /// There are no pages at `addrs` now.
    fn empty(&mut self, space: SpaceId, addrs: Range<VirtAddr>) {
        self.emptied.entry(space).or_default().insert(addrs.clone());
        for (place, part) in parts(&mut self.slots, space, addrs) {
            self.runs -= place.runs.len();
            if let Some(gap) = VirtRange::new(part.start, part.end) {
                place.runs = without(&place.runs, gap, self.page);
            }
            self.runs += place.runs.len();
            place.unknown.remove(part.clone());
            place.faulted.remove(part.clone());
            place.called.insert(part);
        }
    }

    /// What there is in `range` is not known now.
    fn lose_sight(&mut self, space: SpaceId, range: VirtRange) {
        let addrs = range.start()..range.end();
        if let Some(emptied) = self.emptied.get_mut(&space) {
            emptied.remove(addrs.clone());
        }
        for (place, part) in parts(&mut self.slots, space, addrs) {
            place.unknown.insert(part.clone());
            place.faulted.remove(part.clone());
            place.called.insert(part);
        }
    }

    /// Replaces what was known of the slot at `slot` by what a look that began at `began` saw, and returns it.
    pub(super) fn replace(
        &mut self,
        began: Timestamp,
        space: SpaceId,
        slot: VirtAddr,
        runs: Vec<StateRun>,
    ) -> Place {
        let key = (space, slot);
        self.runs += runs.len() + SLOT_RUNS;
        self.looked.push_back((began, key));
        let mut place = Place { looked: began, runs, ..Place::default() };
        let before = self.slots.remove(&key);
        if let Some(before) = &before {
            self.runs -= before.runs.len() + SLOT_RUNS;
            // Whether the look saw what a fault amid it brought, nobody knows.
            if before.last_fault >= began {
                place.faulted.clone_from(&before.faulted);
                place.last_fault = before.last_fault;
            }
        }
        self.slots.insert(key, place);
        self.forget();
        let emptied = self.emptied.get_mut(&space);
        let before = before.unwrap_or_else(|| Place::unseen(slot, emptied.as_deref()));
        if let Some(emptied) = emptied {
            emptied.remove(slot..slot_end(slot));
        }
        before
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
                    (Before::Run(one), Before::Run(other)) => Before::Run(join(one, other, page)?),
                    (one, other) if one == other => one,
                    _ => return None,
                };
                let after = match (*after, next.after) {
                    (Some(one), Some(other)) => Some(join(one, other, page)?),
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

    /// What was known of the page at `addr`.
    pub(super) fn page(&self, addr: VirtAddr, page: PageSize) -> Before {
        if self.unknown.contains(&addr) {
            return Before::Unknown;
        }
        let Range { start, end } = page_at(addr, page);
        let run = self.runs.iter().find(|run| run.range.contains(addr));
        let here = VirtRange::new(start, end);
        run.zip(here).and_then(|(run, here)| part_of(run, here, page)).map_or(Before::Absent, Before::Run)
    }

    /// Whether it is known of any page of `range` where it was.
    pub(super) fn knows_of(&self, range: VirtRange) -> bool {
        self.unknown.gaps(&(range.start()..range.end())).next().is_some()
    }

    /// How many pages of `range` had a fault since.
    pub(super) fn faulted_pages(&self, range: VirtRange, page: PageSize) -> u64 {
        let parts = self.faulted.overlapping(range.start()..range.end());
        let parts = parts.filter_map(|part| VirtRange::new(part.start, part.end)?.intersection(range));
        parts.map(|part| part.pages(page).get()).sum()
    }

    /// Whether a fault happened in `range` since.
    fn has_faulted(&self, range: VirtRange) -> bool {
        self.faulted.overlaps(&(range.start()..range.end()))
    }

    /// What is different in `range`, part of a slot, if `after` is what there is now.
    pub(super) fn changes(&self, range: VirtRange, after: &[StateRun], page: PageSize) -> Vec<Change> {
        let mut changes = Vec::new();
        let (mut old, mut new) = (0, 0);
        let mut next = range.start();
        while next < range.end() {
            let passed = |runs: &[StateRun], from: usize| {
                from + runs[from..].partition_point(|run| run.range.end() <= next)
            };
            (old, new) = (passed(&self.runs, old), passed(after, new));
            let border = |runs: &[StateRun], index: usize| {
                let run = runs.get(index)?.range;
                Some(if run.start() <= next { run.end() } else { run.start() })
            };
            let edge = |set: &RangeSet<VirtAddr>| {
                let mut edges = set.overlapping(next..range.end()).flat_map(|part| [part.start, part.end]);
                edges.find(|addr| *addr > next)
            };
            let borders =
                [border(&self.runs, old), border(after, new), Some(range.end()), Some(block_end(next))];
            let edges = [&self.unknown, &self.faulted, &self.called].map(edge);
            let Some(stop) = borders.into_iter().chain(edges).flatten().min() else { break };
            let Some(here) = VirtRange::new(next, stop) else { break };
            next = stop;
            let part = |runs: &[StateRun], index: usize| part_of(runs.get(index)?, here, page);
            let (was, is) = (part(&self.runs, old), part(after, new));
            if are_alike(was.as_ref(), is.as_ref()) {
                continue;
            }
            let folio = if is.is_some() { folio(after, new, here, page) } else { here };
            let before = if self.unknown.overlaps(&(here.start()..here.end())) {
                Before::Unknown
            } else {
                was.map_or(Before::Absent, Before::Run)
            };
            let change =
                Change { range: here, before, after: is, cause: self.cause(here, folio, is.as_ref()) };
            if !changes.last_mut().is_some_and(|last: &mut Change| last.try_append(&change, page)) {
                changes.push(change);
            }
        }
        changes
    }

    /// Why `range` is now like `after`, in a folio that lies at `folio`.
    fn cause(&self, range: VirtRange, folio: VirtRange, after: Option<&StateRun>) -> Cause {
        let around = range.widened(AROUND_SHIFT);
        let is_there = after.is_some_and(|run| run.categories.contains(PageCategories::PRESENT));
        if is_there && self.has_faulted(folio) {
            Cause::Fault
        } else if after.is_some_and(|run| run.categories.contains(PageCategories::FILE))
            && self.has_faulted(around)
        {
            Cause::FaultAround
        } else if self.called.overlaps(&(range.start()..range.end())) {
            Cause::Call
        } else {
            Cause::Kernel
        }
    }
}

/// The part of the folio of `pages`, which lie in the run with this `index`, that is mapped without a gap: of a large one the head
/// and its tails, in frames that follow; else each page for itself.
pub(super) fn folio(runs: &[StateRun], index: usize, pages: VirtRange, page: PageSize) -> VirtRange {
    let has = |run: &StateRun, flag| {
        run.words.and_then(|words| words.flags).is_some_and(|flags| flags.intersects(flag))
    };
    let is_next = |one: &StateRun, other: &StateRun| {
        has(other, PageFlags::COMPOUND_TAIL)
            && one.range.end() == other.range.start()
            && frame_at(one, one.range.end(), page).is_some()
            && frame_at(one, one.range.end(), page) == frame_at(other, other.range.start(), page)
    };
    if !has(&runs[index], PageFlags::COMPOUND) {
        return pages;
    }
    let (mut first, mut last) = (index, index);
    while first > 0 && is_next(&runs[first - 1], &runs[first]) {
        first -= 1;
    }
    while runs.get(last + 1).is_some_and(|next| is_next(&runs[last], next)) {
        last += 1;
    }
    VirtRange::new(runs[first].range.start(), runs[last].range.end()).unwrap_or(pages)
}

/// Where the block ends in which a fault at `addr` brings pages of a file.
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

/// The page that holds `addr`.
fn page_at(addr: VirtAddr, page: PageSize) -> Range<VirtAddr> {
    let start = addr.vpn(page).start(page);
    start..VirtAddr::from_raw(start.as_raw().saturating_add(page.bytes()))
}

/// The word of pagemap that `run` gives the page at `addr`, which lies in it or right behind.
fn word_at(run: &StateRun, addr: VirtAddr, page: PageSize) -> Option<PagemapEntry> {
    let pages = (addr.as_raw() - run.range.start().as_raw()) / page.bytes();
    run.words?.entry.advanced(pages)
}

fn frame_at(run: &StateRun, addr: VirtAddr, page: PageSize) -> Option<Pfn> {
    word_at(run, addr, page)?.pfn()
}

/// What `run` tells of the pages of `range`.
pub(super) fn part_of(run: &StateRun, range: VirtRange, page: PageSize) -> Option<StateRun> {
    let range = run.range.intersection(range)?;
    let words =
        run.words.and_then(|words| Some(PageWords { entry: word_at(run, range.start(), page)?, ..words }));
    Some(StateRun { range, words, ..*run })
}

/// One run of two neighbours, if the second is as the first would go on.
fn join(one: StateRun, other: StateRun, page: PageSize) -> Option<StateRun> {
    let flags = |run: &StateRun| run.words.map(|words| words.flags);
    let is_next = one.categories == other.categories
        && flags(&one) == flags(&other)
        && word_at(&one, one.range.end(), page) == other.words.map(|words| words.entry);
    let range = VirtRange::new(one.range.start(), other.range.end()).filter(|_| is_next)?;
    Some(StateRun { range, ..one })
}

/// What `runs` tell of pages outside `gap`.
fn without(runs: &[StateRun], gap: VirtRange, page: PageSize) -> Vec<StateRun> {
    let before = |run: &StateRun| VirtRange::new(run.range.start(), run.range.end().min(gap.start()));
    let behind = |run: &StateRun| VirtRange::new(run.range.start().max(gap.end()), run.range.end());
    let rest = |run| {
        [before(run), behind(run)].into_iter().flatten().filter_map(move |rest| part_of(run, rest, page))
    };
    runs.iter().flat_map(rest).collect()
}

/// Whether the same pages are in the same state, and in the same frames.
fn are_alike(one: Option<&StateRun>, other: Option<&StateRun>) -> bool {
    const STATE: PageCategories = PageCategories::PRESENT
        .union(PageCategories::SWAPPED)
        .union(PageCategories::HUGE)
        .union(PageCategories::PFNZERO)
        .union(PageCategories::GUARD);
    let state = |run: &StateRun| (run.categories & STATE, run.words.and_then(|words| words.entry.pfn()));
    one.map(state) == other.map(state)
}

#[cfg(test)]
mod tests;
