//! How much of each region was resident when intervals ended.
//!
//! A scan follows the end of an interval: it says what was there then, too, where nothing has happened since.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
};

use super::residency::{ResidencyMap, Seen};
use crate::{
    event::{HostFacts, SpaceId},
    pipeline::join::tasks::Tasks,
    region::{AddressSpace, Region},
    timeline::{RegionId, Residency},
    units::{Nanos, PageSize, Timestamp},
};

/// Regions with how much of them is resident.
type Changes = BTreeMap<(SpaceId, RegionId), Residency>;

/// All regions, over the intervals of which the rows are not out.
#[derive(Debug)]
pub(super) struct Levels {
    page: PageSize,
    origin: Timestamp,
    /// Length of an interval.
    length: Nanos,
    /// End of the interval under way.
    next: Timestamp,
    /// Regions that have to be counted.
    stale: BTreeSet<(SpaceId, RegionId)>,
    now: BTreeMap<RegionId, Residency>,
    /// What is different since the last end.
    changed: Changes,
    ends: VecDeque<End>,
    /// At the last end of which the rows are out.
    settled: BTreeMap<RegionId, Residency>,
}

/// The end of an interval, and what was different from the one before.
#[derive(Debug)]
struct End {
    time: Timestamp,
    changed: Changes,
}

impl Levels {
    pub(super) fn new(host: &HostFacts, length: Nanos) -> Self {
        Self {
            page: host.page,
            origin: host.start,
            length: length.max(Nanos::new(1)),
            next: host.start.after(length),
            stale: BTreeSet::new(),
            now: BTreeMap::new(),
            changed: BTreeMap::new(),
            ends: VecDeque::new(),
            settled: BTreeMap::new(),
        }
    }

    /// Something happened to pages of `region`.
    pub(super) fn touch(&mut self, space: SpaceId, region: RegionId) {
        self.stale.insert((space, region));
    }

    /// Something happened to all regions of `space`.
    pub(super) fn touch_space(&mut self, space: SpaceId, regions: Option<&AddressSpace>) {
        let live = regions.into_iter().flat_map(AddressSpace::live);
        self.stale.extend(live.map(|region| (space, region.id)));
    }

    /// Something happened to all regions.
    pub(super) fn touch_all(&mut self, tasks: &Tasks) {
        for (space, _, regions) in tasks.spaces() {
            self.touch_space(space, Some(regions));
        }
    }

    /// What comes next is not before `time`: notes what was at the end that lies before.
    pub(super) fn advance(&mut self, time: Timestamp, map: &ResidencyMap, tasks: &Tasks) {
        if time < self.next {
            return;
        }
        self.count(map, tasks);
        self.close(self.next);
        self.next = self.start_of(time).after(self.length);
    }

    /// The recording ends at `end`, and with it the interval under way.
    pub(super) fn end(&mut self, end: Timestamp, map: &ResidencyMap, tasks: &Tasks) {
        self.count(map, tasks);
        self.close(end);
    }

    fn close(&mut self, time: Timestamp) {
        let changed = mem::take(&mut self.changed);
        match self.ends.back_mut() {
            // Nobody has to ask for one at which nothing is different.
            Some(last) if last.changed.is_empty() => *last = End { time, changed },
            _ => self.ends.push_back(End { time, changed }),
        }
    }

    /// When the interval began that `time` is in.
    fn start_of(&self, time: Timestamp) -> Timestamp {
        let past = time.since(self.origin).get();
        self.origin.after(Nanos::new(past - past % self.length.get()))
    }

    /// Counts the regions that something happened to.
    pub(super) fn count(&mut self, map: &ResidencyMap, tasks: &Tasks) {
        let stale = mem::take(&mut self.stale);
        let spaces: BTreeSet<_> = stale.iter().map(|(space, _)| *space).collect();
        for space in spaces {
            let live = tasks.regions(space).into_iter().flat_map(AddressSpace::live);
            for region in live.filter(|region| stale.contains(&(space, region.id))) {
                let residency = map.residency(space, region.range);
                self.now.insert(region.id, residency);
                if self.at_last_end(space, region) == residency {
                    self.changed.remove(&(space, region.id));
                } else {
                    self.changed.insert((space, region.id), residency);
                }
            }
        }
    }

    /// How much of a region is resident, as counted last; if it never was, nothing is known of it.
    pub(super) fn now(&self, region: &Region) -> Residency {
        self.now.get(&region.id).copied().unwrap_or_else(|| self.unknown(region))
    }

    /// How much of `region` was resident when the last interval ended.
    fn at_last_end(&self, space: SpaceId, region: &Region) -> Residency {
        let open = self.ends.iter().rev().find_map(|end| end.changed.get(&(space, region.id)));
        let known = open.or_else(|| self.settled.get(&region.id)).copied();
        known.unwrap_or_else(|| self.unknown(region))
    }

    fn unknown(&self, region: &Region) -> Residency {
        Residency { unknown: region.range.pages(self.page), ..Residency::default() }
    }

    /// A scan has `seen` pages of `region` that the map does not have yet: it says what was there at the last end.
    pub(super) fn correct(&mut self, map: &ResidencyMap, (space, region): (SpaceId, &Region), seen: &Seen) {
        let before = self.at_last_end(space, region);
        let start = self.start_of(seen.ended);
        let Some(end) = self.ends.back_mut().filter(|end| end.time == start) else { return };
        let corrected = map.correction(end.time, space, seen).of(before);
        if corrected != before {
            end.changed.insert((space, region.id), corrected);
        }
    }

    /// The ends before `time` at which something was different.
    pub(super) fn changed_until(&self, time: Timestamp) -> impl Iterator<Item = Timestamp> {
        let ends = self.ends.iter().take_while(move |end| end.time <= time);
        ends.filter(|end| !end.changed.is_empty()).map(|end| end.time)
    }

    /// The rows of the interval that ends at `time` are made: what was different from the one before. Nothing before it is corrected any more.
    pub(super) fn settle(&mut self, time: Timestamp) -> Changes {
        let mut changes = BTreeMap::new();
        while let Some(end) = self.ends.pop_front_if(|end| end.time <= time) {
            changes.extend(end.changed);
        }
        self.settled.extend(changes.iter().map(|((_, region), residency)| (*region, *residency)));
        changes
    }

    /// How much of `region` was resident at the end that was settled last; `None` if nothing happened to it until then.
    pub(super) fn settled(&self, region: RegionId) -> Option<Residency> {
        self.settled.get(&region).copied()
    }

    /// Nobody will ask for `region` again.
    pub(super) fn forget(&mut self, region: RegionId) {
        self.now.remove(&region);
        self.settled.remove(&region);
    }
}
