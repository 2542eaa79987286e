//! Which frame each page was in at its last close scan, and what changed since.

mod diff;

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
};

use rangemap::RangeSet;

use self::diff::AROUND_SHIFT;
pub(in crate::pipeline) use self::diff::{Before, Cause, Change, SlotBefore, around};
use super::races::Races;
use crate::{
    event::{Fault, MapRequest, SpaceId, flags},
    pagemap::{PageCategories, StateRun, inside, outside},
    pipeline::slots::{slot_end, slot_of},
    units::{PageSize, Timestamp, VirtAddr, VirtRange},
};

/// Runs and ranges that are remembered, over all slots: 4 MiB. The slots that were scanned longest ago are forgotten first.
const MAX_HELD: usize = 1 << 16;

/// For how many of them a slot counts even if it has none.
const HELD_BY_SLOT: usize = 4;

/// Scans at slots that are remembered for each slot, most of them of no use any more.
const MAX_SCANS_PER_SLOT: usize = 4;

/// Ranges that are remembered of one address space where no slot is kept. If there are more, all are forgotten.
const MAX_POPULATING: usize = 1 << 12;

/// Pages of all address spaces, slot by slot.
#[derive(Debug)]
pub(in crate::pipeline) struct PageHistory {
    page: PageSize,
    slots: BTreeMap<(SpaceId, VirtAddr), Place>,
    /// In the order of their scans; one that was scanned again is there again.
    scanned: VecDeque<(Timestamp, (SpaceId, VirtAddr))>,
    /// Addresses that had no pages at one time, and were not scanned since.
    emptied: BTreeMap<SpaceId, RangeSet<VirtAddr>>,
    /// Addresses that a call populates and that no scan saw pages at yet: it may go on for many scans.
    populating: BTreeMap<SpaceId, RangeSet<VirtAddr>>,
    touched: Races,
    /// How many runs and ranges all slots hold.
    held: usize,
}

/// Pages of a slot, and what happened to them since they were scanned.
#[derive(Clone, Debug, Default)]
struct Place {
    /// When the scan ended; if there was none, when the first fault happened.
    scanned: Timestamp,
    /// Pages that are not absent.
    runs: Vec<StateRun>,
    /// Pages of which it is not known where they are.
    unknown: RangeSet<VirtAddr>,
    faulted: RangeSet<VirtAddr>,
    called: RangeSet<VirtAddr>,
}

impl PageHistory {
    pub(in crate::pipeline) fn new(page: PageSize) -> Self {
        Self {
            page,
            slots: BTreeMap::new(),
            scanned: VecDeque::new(),
            emptied: BTreeMap::new(),
            populating: BTreeMap::new(),
            touched: Races::default(),
            held: 0,
        }
    }

    /// `space` is new: it had nothing in it before the first fault.
    pub(in crate::pipeline) fn begin(&mut self, space: SpaceId) {
        if self.emptied.contains_key(&space) {
            return;
        }
        let everything = VirtAddr::from_raw(0)..VirtAddr::from_raw(u64::MAX);
        self.emptied.entry(space).or_default().insert(everything.clone());
        for (_, place) in self.slots.range_mut((space, everything.start)..(space, everything.end)) {
            self.held -= place.unknown.len();
            place.unknown.clear();
        }
    }

    /// `child` has what `parent` has in private memory; of files it may have less. It is not remembered if there is no room: most
    /// children soon execute something else.
    pub(in crate::pipeline) fn fork(&mut self, time: Timestamp, parent: SpaceId, child: SpaceId) {
        let keys = (parent, VirtAddr::from_raw(0))..=(parent, VirtAddr::from_raw(u64::MAX));
        let places = self.slots.range(keys);
        let held: usize = places.clone().map(|(_, place)| place.held()).sum();
        if self.held + held > MAX_HELD {
            return;
        }
        let forked: Vec<_> = places.map(|((_, slot), place)| ((child, *slot), place.forked(time))).collect();
        for (key, place) in forked {
            // Before what was scanned: it is the first to be forgotten.
            self.scanned.push_front((time, key));
            self.put(key, place);
        }
    }

    /// A fault was completed; returns whether it is the first at its page since that was scanned.
    pub(in crate::pipeline) fn fault(&mut self, space: SpaceId, fault: &Fault) -> bool {
        let Fault { time, addr, latency, .. } = *fault;
        let key = (space, slot_of(addr));
        let Self { page, slots, scanned, emptied, touched, held, .. } = self;
        let here = VirtRange::of_page(addr, *page);
        touched.add(time, space, here);
        let place = slots.entry(key).or_insert_with(|| {
            scanned.push_back((time, key));
            let place = Place { scanned: time, ..Place::unseen(key.1, emptied.get(&space)) };
            *held += place.held();
            place
        });
        *held -= place.held();
        // One under way when the scan ended may have done its work by then.
        let began = time.before(latency.unwrap_or_default());
        if began < place.scanned && place.run_at(addr).is_some() {
            place.unknown.insert(here.addrs());
        }
        let is_first = !place.faulted.contains(&addr);
        place.faulted.insert(here.addrs());
        *held += place.held();
        self.forget();
        is_first
    }

    /// A call in `space` was about `range`; returns whether pages that were there are there no more.
    pub(in crate::pipeline) fn call(
        &mut self,
        time: Timestamp,
        space: SpaceId,
        request: &MapRequest,
        range: VirtRange,
    ) -> bool {
        // A part of a page stands for all of it.
        let range = range.whole_pages(self.page);
        let has_taken = self.disturb(time, space, request, range);
        if request.populates() {
            self.populating.entry(space).or_default().insert(range.addrs());
            if self.populating.values().map(RangeSet::len).sum::<usize>() > MAX_POPULATING {
                self.populating.clear();
            }
        }
        has_taken
    }

    /// Notes what a call about whole pages does at once, as [`Self::call`].
    fn disturb(&mut self, time: Timestamp, space: SpaceId, request: &MapRequest, range: VirtRange) -> bool {
        use flags::{MADV_DONTNEED, MADV_DONTNEED_LOCKED, MADV_REMOVE};
        match *request {
            MapRequest::Mmap { .. }
            | MapRequest::Munmap { .. }
            | MapRequest::Brk { .. }
            | MapRequest::Madvise { advice: MADV_DONTNEED | MADV_DONTNEED_LOCKED | MADV_REMOVE, .. } => {
                self.touched.add(time, space, range);
                self.empty(space, range);
                true
            }
            MapRequest::Mremap { old_addr, old_size, .. } => {
                let old_end = VirtAddr::from_raw(old_addr.as_raw().saturating_add(old_size));
                let old = VirtRange::new(old_addr, old_end).map(|old| old.whole_pages(self.page));
                for range in old.into_iter().chain([range]) {
                    self.touched.add(time, space, range);
                    self.invalidate(space, range);
                }
                true
            }
            MapRequest::Madvise { .. } | MapRequest::Mlock { .. } => {
                self.touched.add(time, space, range);
                self.change(space, range, |place, part| place.called.insert(part));
                false
            }
            _ => false,
        }
    }

    /// There are no pages in `range` now.
    fn empty(&mut self, space: SpaceId, range: VirtRange) {
        let gap: RangeSet<_> = [range.addrs()].into_iter().collect();
        let page = self.page;
        self.change(space, range, |place, part| {
            place.runs = outside(&place.runs, &gap, page).collect();
            place.unknown.remove(part.clone());
            place.faulted.remove(part.clone());
            place.called.insert(part);
        });
        self.emptied.entry(space).or_default().insert(range.addrs());
        self.give_up_populating(space, range);
    }

    /// What there is in `range` is not known now.
    fn invalidate(&mut self, space: SpaceId, range: VirtRange) {
        if let Some(emptied) = self.emptied.get_mut(&space) {
            emptied.remove(range.addrs());
        }
        self.change(space, range, |place, part| {
            place.unknown.insert(part.clone());
            place.faulted.remove(part.clone());
            place.called.insert(part);
        });
        self.give_up_populating(space, range);
    }

    /// What a call populates in `range` now is other memory than before.
    fn give_up_populating(&mut self, space: SpaceId, range: VirtRange) {
        if let Some(populating) = self.populating.get_mut(&space) {
            populating.remove(range.addrs());
        }
    }

    /// What a call populates in `slot`; no more of that where there are pages by now, which is where `seen` are, but for `amid`.
    fn populated(
        &mut self,
        space: SpaceId,
        slot: VirtRange,
        seen: &[StateRun],
        amid: &RangeSet<VirtAddr>,
    ) -> RangeSet<VirtAddr> {
        let Some(populating) = self.populating.get_mut(&space) else { return RangeSet::new() };
        let slot: RangeSet<_> = [slot.addrs()].into_iter().collect();
        let here = populating.intersection(&slot).collect();
        for run in outside(seen, amid, self.page) {
            populating.remove(run.range.addrs());
        }
        if populating.is_empty() {
            self.populating.remove(&space);
        }
        here
    }

    /// Changes the slots that have a part in `range` of `space`.
    fn change(&mut self, space: SpaceId, range: VirtRange, change: impl Fn(&mut Place, Range<VirtAddr>)) {
        let keys = (space, slot_of(range.start()))..(space, range.end());
        for ((_, slot), place) in self.slots.range_mut(keys) {
            self.held -= place.held();
            change(place, range.start().max(*slot)..range.end().min(slot_end(*slot)));
            self.held += place.held();
        }
    }

    fn put(&mut self, key: (SpaceId, VirtAddr), place: Place) {
        self.held += place.held();
        let replaced = self.slots.insert(key, place);
        self.held -= replaced.as_ref().map_or(0, Place::held);
    }

    /// What was touched in `range` of `space` after the scan that is told of began.
    pub(in crate::pipeline) fn touched_since(
        &self,
        began: Timestamp,
        space: SpaceId,
        range: VirtRange,
    ) -> RangeSet<VirtAddr> {
        self.touched.since(began, space, range)
    }

    /// Replaces what was known of `slot` by what a scan saw that ended at `ended`, and returns it. What was done `amid` the scan
    /// stays as it was known.
    pub(in crate::pipeline) fn replace(
        &mut self,
        ended: Timestamp,
        space: SpaceId,
        slot: VirtRange,
        seen: &[StateRun],
        amid: RangeSet<VirtAddr>,
    ) -> SlotBefore {
        let key = (space, slot_of(slot.start()));
        let known = self.slots.remove(&key);
        self.held -= known.as_ref().map_or(0, Place::held);
        let emptied = self.emptied.get_mut(&space);
        let place = known.unwrap_or_else(|| Place::unseen(key.1, emptied.as_deref()));
        if let Some(emptied) = emptied {
            emptied.remove(slot.addrs());
        }
        let populating = self.populated(space, slot, seen, &amid);
        let next = place.scanned(ended, seen, &amid, self.page);
        self.scanned.push_back((ended, key));
        self.put(key, next);
        self.forget();
        SlotBefore { place, amid, populating }
    }

    /// Forgets what is too much.
    fn forget(&mut self) {
        if self.scanned.len() > MAX_SCANS_PER_SLOT * (self.slots.len() + 1) {
            let Self { slots, scanned, .. } = self;
            scanned.retain(|(time, key)| slots.get(key).is_some_and(|place| place.scanned == *time));
        }
        while self.held > MAX_HELD
            && let Some((scanned, key)) = self.scanned.pop_front()
        {
            if self.slots.get(&key).is_some_and(|place| place.scanned == scanned)
                && let Some(place) = self.slots.remove(&key)
            {
                self.held -= place.held();
            }
        }
    }

    /// Forgets address spaces that are gone.
    pub(in crate::pipeline) fn retain(&mut self, is_there: impl Fn(SpaceId) -> bool) {
        self.slots.retain(|(space, _), _| is_there(*space));
        self.scanned.retain(|(_, (space, _))| is_there(*space));
        self.emptied.retain(|space, _| is_there(*space));
        self.populating.retain(|space, _| is_there(*space));
        self.held = self.slots.values().map(Place::held).sum();
    }
}

impl Place {
    /// A slot that was not scanned, of which the addresses in `emptied` had no pages at one time.
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
        Self { scanned: time, runs: private, unknown, ..Self::default() }
    }

    /// This after a scan that ended at `ended` and saw `seen`, which does not count for what `raced`.
    fn scanned(
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
        Self { scanned: ended, runs, unknown, faulted, called }
    }

    /// For how many runs and ranges it counts.
    fn held(&self) -> usize {
        HELD_BY_SLOT + self.runs.len() + self.unknown.len() + self.faulted.len() + self.called.len()
    }

    /// The run that the page at `addr` is in.
    fn run_at(&self, addr: VirtAddr) -> Option<&StateRun> {
        let index = self.runs.partition_point(|run| run.range.end() <= addr);
        self.runs.get(index).filter(|run| run.range.contains(addr))
    }
}

/// The pages of `slot` that `raced` with a scan which saw it as `seen`, and those of files that fault-around may have brought with
/// them; but not those that `came` before.
pub(in crate::pipeline) fn amid(
    slot: VirtRange,
    seen: &[StateRun],
    touched: &RangeSet<VirtAddr>,
    came: &RangeSet<VirtAddr>,
) -> RangeSet<VirtAddr> {
    let parts = touched.overlapping(slot.addrs());
    let parts: Vec<_> =
        parts.filter_map(|part| VirtRange::new(part.start, part.end)?.intersection(slot)).collect();
    let near: RangeSet<_> = parts.iter().map(|part| around_any(*part).addrs()).collect();
    let files = seen.iter().filter(|run| run.categories.contains(PageCategories::FILE));
    let files: RangeSet<_> = files.map(|run| run.range.addrs()).collect();
    let along = near.intersection(&files);
    let along = along.flat_map(|part| came.gaps(&part).collect::<Vec<_>>());
    parts.into_iter().map(VirtRange::addrs).chain(along).collect()
}

/// Whatever the region: all that comes along with one of `pages`, and all that one of them may come along with.
fn around_any(pages: VirtRange) -> VirtRange {
    let before = VirtAddr::from_raw(pages.start().as_raw().saturating_sub(1 << AROUND_SHIFT));
    let behind = VirtAddr::from_raw(pages.end().as_raw().saturating_add(1 << AROUND_SHIFT));
    VirtRange::new(before, behind).unwrap_or(pages)
}

#[cfg(test)]
mod tests;
