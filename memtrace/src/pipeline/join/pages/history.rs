//! Which frame each page was in at its last close scan, and what changed since.

mod diff;

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
};

use rangemap::RangeSet;

use self::diff::AROUND_SHIFT;
pub(super) use self::diff::{Before, Cause, Change, SlotBefore, fault_around};
use super::{
    evidence::{Evidence, EvidenceMap},
    moves::moved_by,
    races::Races,
};
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
const MAX_ELSEWHERE: usize = 1 << 16;

/// Pages of all address spaces, slot by slot.
#[derive(Debug)]
pub(super) struct PageHistory {
    page: PageSize,
    slots: BTreeMap<(SpaceId, VirtAddr), SlotHistory>,
    /// In the order of their scans; one that was scanned again is there again.
    scanned: VecDeque<(Timestamp, (SpaceId, VirtAddr))>,
    /// Where no slot is kept: there were no pages at one time, or that is unknown.
    elsewhere: BTreeMap<SpaceId, EvidenceMap>,
    races: Races,
    /// How many runs and ranges all slots hold.
    held: usize,
}

/// Pages of a slot, and what happened to them since they were scanned.
#[derive(Clone, Debug, Default)]
struct SlotHistory {
    /// When the scan ended; if there was none, when the first fault happened.
    scanned: Timestamp,
    /// Pages that are not absent.
    runs: Vec<StateRun>,
    evidence: EvidenceMap,
}

impl PageHistory {
    pub(super) fn new(page: PageSize) -> Self {
        Self {
            page,
            slots: BTreeMap::new(),
            scanned: VecDeque::new(),
            elsewhere: BTreeMap::new(),
            races: Races::default(),
            held: 0,
        }
    }

    /// `space` is new: it had nothing in it before the first fault.
    pub(super) fn begin(&mut self, space: SpaceId) {
        if self.elsewhere.contains_key(&space) {
            return;
        }
        self.elsewhere.insert(space, EvidenceMap::everywhere(Evidence::CALL));
        if let Some(everything) = VirtRange::new(VirtAddr::from_raw(0), VirtAddr::from_raw(u64::MAX)) {
            self.change(space, everything, |place, part| place.evidence.retain(&part, !Evidence::UNKNOWN));
        }
    }

    /// `child` has what `parent` has in private memory; of files it may have less. It is not remembered if there is no room: most
    /// children soon execute something else.
    pub(super) fn fork(&mut self, time: Timestamp, parent: SpaceId, child: SpaceId) {
        if let Some(evidence) = self.elsewhere.get(&parent) {
            let doubts = Evidence::UNKNOWN | Evidence::CALL;
            let doubtful = evidence.iter().filter(|(_, here)| here.intersects(doubts));
            let unknown = doubtful.map(|(range, _)| (range, Evidence::UNKNOWN)).collect();
            self.elsewhere.insert(child, unknown);
        }
        let keys = (parent, VirtAddr::from_raw(0))..=(parent, VirtAddr::from_raw(u64::MAX));
        let slots = self.slots.range(keys);
        let held: usize = slots.clone().map(|(_, place)| place.held()).sum();
        if self.held + held > MAX_HELD {
            return;
        }
        let forked: Vec<_> = slots.map(|((_, slot), place)| ((child, *slot), place.forked(time))).collect();
        for (key, place) in forked {
            // Before what was scanned: it is the first to be forgotten.
            self.scanned.push_front((time, key));
            self.put(key, place);
        }
    }

    /// A fault was completed; returns whether it is the first at its page since that was scanned.
    pub(super) fn fault(&mut self, space: SpaceId, fault: &Fault) -> bool {
        let Fault { time, addr, latency, .. } = *fault;
        let key = (space, slot_of(addr));
        let Self { page, slots, scanned, elsewhere, races, held, .. } = self;
        let here = VirtRange::of_page(addr, *page);
        races.add(time, space, here);
        let place = slots.entry(key).or_insert_with(|| {
            scanned.push_back((time, key));
            let place = SlotHistory { scanned: time, ..SlotHistory::unseen(key.1, elsewhere.get(&space)) };
            forget_elsewhere(elsewhere, key);
            *held += place.held();
            place
        });
        *held -= place.held();
        // One under way when the scan ended may have done its work by then.
        let began = time.before(latency.unwrap_or_default());
        let may_have_moved = began < place.scanned && place.run_at(addr).is_some();
        let is_first = !place.evidence.at(addr).contains(Evidence::FAULT);
        let doubt = if may_have_moved { Evidence::UNKNOWN } else { Evidence::empty() };
        place.evidence.add(here.addrs(), Evidence::FAULT | doubt);
        *held += place.held();
        self.forget();
        is_first
    }

    /// A call in `space` was about `range`; returns whether pages that were there are there no more.
    pub(super) fn call(
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
            self.add(space, range, Evidence::POPULATE);
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
                self.races.add(time, space, range);
                self.empty(space, range);
                true
            }
            MapRequest::Mremap { .. } => {
                for range in moved_by(request, self.page).into_iter().chain([range]) {
                    self.races.add(time, space, range);
                    self.invalidate(space, range);
                }
                true
            }
            MapRequest::Madvise { .. } | MapRequest::Mlock { .. } => {
                self.races.add(time, space, range);
                self.add(space, range, Evidence::CALL);
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
            place.evidence.set(part, Evidence::CALL);
        });
        self.elsewhere(space).set(range.addrs(), Evidence::CALL);
    }

    /// What there is in `range` is not known now.
    fn invalidate(&mut self, space: SpaceId, range: VirtRange) {
        let evidence = Evidence::UNKNOWN | Evidence::CALL;
        self.change(space, range, |place, part| place.evidence.set(part, evidence));
        self.elsewhere(space).set(range.addrs(), evidence);
    }

    /// Adds `evidence` for the pages of `range`.
    fn add(&mut self, space: SpaceId, range: VirtRange, evidence: Evidence) {
        self.change(space, range, |place, part| place.evidence.add(part, evidence));
        self.elsewhere(space).add(range.addrs(), evidence);
    }

    /// What is known of `space` where no slot is kept.
    fn elsewhere(&mut self, space: SpaceId) -> &mut EvidenceMap {
        self.elsewhere.entry(space).or_insert_with(|| EvidenceMap::everywhere(Evidence::UNKNOWN))
    }

    /// Changes the slots that have a part in `range` of `space`.
    fn change(
        &mut self,
        space: SpaceId,
        range: VirtRange,
        change: impl Fn(&mut SlotHistory, Range<VirtAddr>),
    ) {
        let keys = (space, slot_of(range.start()))..(space, range.end());
        for ((_, slot), place) in self.slots.range_mut(keys) {
            self.held -= place.held();
            change(place, range.start().max(*slot)..range.end().min(slot_end(*slot)));
            self.held += place.held();
        }
    }

    fn put(&mut self, key: (SpaceId, VirtAddr), place: SlotHistory) {
        self.held += place.held();
        let replaced = self.slots.insert(key, place);
        self.held -= replaced.as_ref().map_or(0, SlotHistory::held);
    }

    /// What faults and calls did in `range` of `space` after the scan began that is to be applied.
    pub(super) fn racing_since(
        &self,
        began: Timestamp,
        space: SpaceId,
        range: VirtRange,
    ) -> RangeSet<VirtAddr> {
        self.races.since(began, space, range)
    }

    /// Replaces what was known of `slot` by what a scan saw that ended at `ended`, and returns it. What raced with the scan
    /// stays as it was known: the next scan finds it.
    pub(super) fn replace(
        &mut self,
        ended: Timestamp,
        space: SpaceId,
        slot: VirtRange,
        seen: &[StateRun],
        raced: &RangeSet<VirtAddr>,
    ) -> SlotBefore {
        let key = (space, slot_of(slot.start()));
        let known = self.slots.remove(&key);
        self.held -= known.as_ref().map_or(0, SlotHistory::held);
        let mut place = known.unwrap_or_else(|| SlotHistory::unseen(key.1, self.elsewhere.get(&space)));
        let next = place.scanned(ended, seen, raced, self.page);
        for part in raced.iter() {
            place.evidence.add(part.clone(), Evidence::RACED);
        }
        let elsewhere = self.elsewhere(space);
        if next.is_empty() {
            elsewhere.set(slot.addrs(), Evidence::empty());
            for (part, populating) in next.evidence.parts(&slot.addrs()) {
                elsewhere.set(part, populating);
            }
        } else {
            elsewhere.set(slot.addrs(), Evidence::UNKNOWN);
            self.scanned.push_back((ended, key));
            self.put(key, next);
            self.forget();
        }
        SlotBefore(place)
    }

    /// The slots in `range` of `space` that are kept.
    pub(super) fn slots_in(&self, space: SpaceId, range: VirtRange) -> impl Iterator<Item = VirtAddr> {
        let keys = (space, slot_of(range.start()))..(space, range.end());
        self.slots.range(keys).map(|((_, slot), _)| *slot)
    }

    /// A scan found no page in `range`, where no slot is kept. What `raced` with it stays as it was known. Returns where else
    /// it was known before that there was none.
    pub(super) fn observe_absent(
        &mut self,
        space: SpaceId,
        range: VirtRange,
        racing: &RangeSet<VirtAddr>,
    ) -> RangeSet<VirtAddr> {
        let evidence = self.elsewhere(space);
        let mut known = RangeSet::new();
        for part in racing.gaps(&range.addrs()) {
            let unknown = evidence.parts(&part).filter(|(_, here)| here.contains(Evidence::UNKNOWN));
            let unknown: RangeSet<_> = unknown.map(|(part, _)| part).collect();
            known.extend(unknown.gaps(&part));
            evidence.retain(&part, Evidence::POPULATE);
        }
        if evidence.len() > MAX_ELSEWHERE {
            *evidence = EvidenceMap::everywhere(Evidence::UNKNOWN);
        }
        known
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
                forget_elsewhere(&mut self.elsewhere, key);
            }
        }
    }

    /// Forgets address spaces that are gone.
    pub(super) fn retain(&mut self, is_there: impl Fn(SpaceId) -> bool) {
        self.slots.retain(|(space, _), _| is_there(*space));
        self.scanned.retain(|(_, (space, _))| is_there(*space));
        self.elsewhere.retain(|space, _| is_there(*space));
        self.held = self.slots.values().map(SlotHistory::held).sum();
    }
}

/// It is no longer known from `elsewhere` where the slot at `key` has no pages.
fn forget_elsewhere(elsewhere: &mut BTreeMap<SpaceId, EvidenceMap>, (space, slot): (SpaceId, VirtAddr)) {
    if let Some(evidence) = elsewhere.get_mut(&space) {
        evidence.set(slot..slot_end(slot), Evidence::UNKNOWN);
        if evidence.len() > MAX_ELSEWHERE {
            *evidence = EvidenceMap::everywhere(Evidence::UNKNOWN);
        }
    }
}

impl SlotHistory {
    /// A slot that is not kept, with this evidence of its address space; if there is none, nothing is known.
    fn unseen(slot: VirtAddr, elsewhere: Option<&EvidenceMap>) -> Self {
        let slot = slot..slot_end(slot);
        let evidence = match elsewhere {
            Some(evidence) => evidence.parts(&slot).collect(),
            None => [(slot, Evidence::UNKNOWN)].into_iter().collect(),
        };
        Self { evidence, ..Self::default() }
    }

    /// What a child has that is forked at `time`: of files the kernel leaves to faults what they can bring again.
    fn forked(&self, time: Timestamp) -> Self {
        let (of_files, private): (Vec<StateRun>, Vec<_>) =
            self.runs.iter().partition(|run| run.categories.contains(PageCategories::FILE));
        let doubts = Evidence::UNKNOWN | Evidence::FAULT | Evidence::CALL;
        let doubtful = self.evidence.iter().filter(|(_, here)| here.intersects(doubts));
        let unknown = doubtful.map(|(part, _)| part).chain(of_files.into_iter().map(|run| run.range.addrs()));
        let evidence = unknown.map(|part| (part, Evidence::UNKNOWN)).collect();
        Self { scanned: time, runs: private, evidence }
    }

    /// This after a scan that ended at `ended` and saw `seen`, which does not count for what `raced`.
    fn scanned(
        &self,
        ended: Timestamp,
        seen: &[StateRun],
        raced: &RangeSet<VirtAddr>,
        page: PageSize,
    ) -> Self {
        let new: Vec<_> = outside(seen, raced, page).collect();
        let mut evidence: EvidenceMap =
            self.evidence.iter().map(|(part, here)| (part, here & Evidence::POPULATE)).collect();
        for run in &new {
            evidence.set(run.range.addrs(), Evidence::empty());
        }
        for part in raced.iter() {
            for (part, here) in self.evidence.parts(part) {
                evidence.set(part, here);
            }
        }
        let mut runs: Vec<_> = new.into_iter().chain(inside(&self.runs, raced, page)).collect();
        runs.sort_by_key(|run| run.range.start());
        Self { scanned: ended, runs, evidence }
    }

    /// Whether no more is known of it than that the last scan found no page, but what a call populates.
    fn is_empty(&self) -> bool {
        let Self { scanned: _, runs, evidence } = self;
        runs.is_empty() && evidence.iter().all(|(_, here)| here == Evidence::POPULATE)
    }

    /// For how many runs and ranges it counts.
    fn held(&self) -> usize {
        HELD_BY_SLOT + self.runs.len() + self.evidence.len()
    }

    /// The run that the page at `addr` is in.
    fn run_at(&self, addr: VirtAddr) -> Option<&StateRun> {
        let index = self.runs.partition_point(|run| run.range.end() <= addr);
        self.runs.get(index).filter(|run| run.range.contains(addr))
    }
}

/// The pages of `slot` that `raced` with a scan which saw it as `seen`, and those of files that fault-around may have brought with
/// them; but not those that `came` before.
pub(super) fn raced(
    slot: VirtRange,
    seen: &[StateRun],
    racing: &RangeSet<VirtAddr>,
    came: &RangeSet<VirtAddr>,
) -> RangeSet<VirtAddr> {
    let parts = racing.overlapping(slot.addrs());
    let parts: Vec<_> =
        parts.filter_map(|part| VirtRange::new(part.start, part.end)?.intersection(slot)).collect();
    let near: RangeSet<_> = parts.iter().map(|part| around_any(*part).addrs()).collect();
    let files = seen.iter().filter(|run| run.categories.contains(PageCategories::FILE));
    let files: RangeSet<_> = files.map(|run| run.range.addrs()).collect();
    let along = near.intersection(&files);
    let along = along.flat_map(|part| came.gaps(&part).collect::<Vec<_>>());
    parts.into_iter().map(VirtRange::addrs).chain(along).collect()
}

/// Whatever the region: all that fault-around brings with one of `pages`, and all faults that bring one of them.
fn around_any(pages: VirtRange) -> VirtRange {
    let before = VirtAddr::from_raw(pages.start().as_raw().saturating_sub(1 << AROUND_SHIFT));
    let behind = VirtAddr::from_raw(pages.end().as_raw().saturating_add(1 << AROUND_SHIFT));
    VirtRange::new(before, behind).unwrap_or(pages)
}

#[cfg(test)]
mod tests;
