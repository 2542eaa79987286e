//! Pages as scans saw them last, by address: a scan takes in only a part of a region, and regions split, merge and move.

use std::collections::BTreeMap;

use rangemap::RangeMap;

use super::moves::{move_pages, moved_by, parts};
use crate::{
    event::{MapRequest, SpaceId},
    region::{AddressSpace, Region},
    timeline::{PageCounts, PageState, PropertySet, RegionId},
    units::{PageCount, PageSize, Timestamp, VirtAddr, VirtRange},
};

/// Ranges that are remembered of one address space: 40 MiB. If there are more, all are forgotten.
const MAX_SEEN: usize = 1 << 20;

/// What is in all address spaces.
#[derive(Debug)]
pub(super) struct Occupancy {
    page: PageSize,
    spaces: BTreeMap<SpaceId, Space>,
    /// Regions of which pages were seen.
    regions: BTreeMap<RegionId, Tally>,
    /// Those of them that have gone, until somebody asks for them.
    gone: BTreeMap<RegionId, Occupied>,
}

/// The pages of a region over its life.
#[derive(Clone, Copy, Debug)]
pub(in crate::pipeline) struct Occupied {
    /// Most that were present at one time, as far as scans saw.
    pub(in crate::pipeline) peak: PageCount,
    /// As seen last; `None` if no scan saw any that it has, or had at its end.
    pub(in crate::pipeline) state: Option<PageState>,
}

/// One address space.
#[derive(Debug, Default)]
struct Space {
    seen: RangeMap<VirtAddr, Seen>,
    /// The last region of which is known that it has gone.
    last_gone: Option<RegionId>,
}

/// What a scan saw of a page; of those that no scan saw there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    time: Timestamp,
    properties: PropertySet,
    known: PropertySet,
}

#[derive(Debug)]
struct Tally {
    /// Where the region lies, or lay when that changed last.
    range: VirtRange,
    /// How many pages are present there; `None` if they have to be counted.
    present: Option<u64>,
    peak: u64,
}

impl Occupancy {
    pub(super) const fn new(page: PageSize) -> Self {
        Self { page, spaces: BTreeMap::new(), regions: BTreeMap::new(), gone: BTreeMap::new() }
    }

    /// A scan that ended at `time` saw `stretches` in `part` of `region`, and nothing else; which properties it knows is `known`.
    pub(super) fn see(
        &mut self,
        time: Timestamp,
        (space, region): (SpaceId, &Region),
        part: VirtRange,
        (known, stretches): (PropertySet, &[(VirtRange, PropertySet)]),
    ) {
        self.adopt(space, region);
        let Self { page, spaces, regions, .. } = self;
        let space = spaces.entry(space).or_default();
        let before = space.present(part, *page);
        let mut next = part.start();
        for (range, properties) in stretches {
            space.put(next, range.start(), Seen { time, properties: PropertySet::empty(), known });
            space.put(range.start(), range.end(), Seen { time, properties: *properties, known });
            next = range.end();
        }
        space.put(next, part.end(), Seen { time, properties: PropertySet::empty(), known });
        let tally = regions.entry(region.id).or_insert(Tally { range: region.range, present: None, peak: 0 });
        let present = match tally.present {
            Some(present) if tally.range == region.range => {
                present.saturating_sub(before) + space.present(part, *page)
            }
            _ => space.present(region.range, *page),
        };
        *tally = Tally { range: region.range, present: Some(present), peak: tally.peak.max(present) };
        if space.seen.len() > MAX_SEEN {
            space.seen.clear();
            for tally in regions.values_mut() {
                tally.present = None;
            }
        }
    }

    /// A call about `range` took effect, after which these are the regions.
    pub(super) fn call(
        &mut self,
        (space, regions): (SpaceId, &AddressSpace),
        request: &MapRequest,
        range: VirtRange,
    ) {
        self.settle(space, regions);
        let page = self.page;
        let Some(held) = self.spaces.get_mut(&space) else { return };
        let (old, is_other_memory) = match *request {
            MapRequest::Mmap { .. }
            | MapRequest::Munmap { .. }
            | MapRequest::Brk { .. }
            | MapRequest::Shmat { .. }
            | MapRequest::Shmdt { .. }
            | MapRequest::RemapFilePages { .. } => {
                held.seen.remove(range.addrs());
                (None, true)
            }
            MapRequest::Mremap { .. } => {
                let old = moved_by(request, page);
                move_pages(&mut held.seen, old, range);
                (old, true)
            }
            _ => (None, false),
        };
        for range in old.into_iter().chain([range]) {
            // Regions beside it may have had a part of it.
            let range = range.with_neighbours(page);
            self.follow(space, regions.overlapping(range), is_other_memory);
        }
    }

    /// A reading of maps was compared, after which these are the regions.
    pub(super) fn read(&mut self, space: SpaceId, regions: &AddressSpace) {
        self.settle(space, regions);
        self.follow(space, regions.live(), false);
    }

    /// Takes note of regions that have gone: what comes in their place is not theirs.
    pub(super) fn settle(&mut self, id: SpaceId, regions: &AddressSpace) {
        let Some(space) = self.spaces.get_mut(&id) else { return };
        let before = space.last_gone;
        space.last_gone = regions.retired().last().map(|retired| retired.region.id).or(before);
        let new = regions.retired().iter().rev().take_while(|retired| Some(retired.region.id) != before);
        for retired in new {
            let (region, range) = (retired.region.id, retired.region.range);
            if let Some(tally) = self.regions.remove(&region) {
                // One that was merged with another where it went has what it had there.
                let is_there = tally.range.intersection(range).is_some();
                let state = if is_there { space.state(range, self.page) } else { None };
                self.gone.insert(region, tally.occupied(state));
            }
        }
    }

    /// Takes note of where `regions` are now, and whether there may be other memory than before.
    fn follow<'a>(
        &mut self,
        space: SpaceId,
        regions: impl Iterator<Item = &'a Region>,
        is_other_memory: bool,
    ) {
        for region in regions {
            match self.regions.get_mut(&region.id) {
                Some(tally) => {
                    if is_other_memory || tally.range != region.range {
                        tally.present = None;
                    }
                    tally.range = region.range;
                }
                None => self.adopt(space, region),
            }
        }
    }

    /// Takes a region in of which pages may have been seen as those of another one, or before it came to be.
    fn adopt(&mut self, space: SpaceId, region: &Region) {
        let Some(space) = self.spaces.get_mut(&space).filter(|_| !self.regions.contains_key(&region.id))
        else {
            return;
        };
        if region.parent.is_none() {
            // Its memory is its own.
            let stale = space.parts(region.range).filter(|(_, seen)| seen.time < region.born);
            let stale: Vec<_> = stale.map(|(part, _)| part).collect();
            for part in stale {
                space.seen.remove(part.addrs());
            }
        }
        if space.seen.overlaps(&region.range.addrs()) {
            let present = space.present(region.range, self.page);
            let tally = Tally { range: region.range, present: Some(present), peak: present };
            self.regions.insert(region.id, tally);
        }
    }

    /// Takes what is known of `region`, which has gone, or of which nobody will ask again; `None` if no scan saw any of it.
    pub(super) fn take(&mut self, space: SpaceId, region: &Region) -> Option<Occupied> {
        if let Some(gone) = self.gone.remove(&region.id) {
            return Some(gone);
        }
        let tally = self.regions.remove(&region.id)?;
        Some(tally.occupied(self.spaces.get(&space)?.state(region.range, self.page)))
    }

    /// Forgets address spaces that are gone.
    pub(super) fn retain(&mut self, is_there: impl Fn(SpaceId) -> bool) {
        self.spaces.retain(|space, _| is_there(*space));
    }
}

impl Tally {
    /// The pages of its region over its life, with those that it has in the end.
    fn occupied(&self, state: Option<PageState>) -> Occupied {
        let last = state.and_then(|state| state.counts.present()).map_or(0, PageCount::get);
        Occupied { peak: PageCount::new(self.peak.max(last)), state }
    }
}

impl Space {
    fn put(&mut self, start: VirtAddr, end: VirtAddr, seen: Seen) {
        if start < end {
            self.seen.insert(start..end, seen);
        }
    }

    /// What was seen in `range`, in order.
    fn parts(&self, range: VirtRange) -> impl Iterator<Item = (VirtRange, Seen)> {
        parts(&self.seen, range)
    }

    /// How many pages of `range` are present.
    fn present(&self, range: VirtRange, page: PageSize) -> u64 {
        let present = self.parts(range).filter(|(_, seen)| seen.properties.contains(PropertySet::PRESENT));
        present.map(|(part, _)| part.pages(page).get()).sum()
    }

    /// The pages of `range`; `None` if no scan saw any.
    fn state(&self, range: VirtRange, page: PageSize) -> Option<PageState> {
        let mut state = None;
        for (part, Seen { time, properties, known }) in self.parts(range) {
            let PageState { scanned, counts } =
                state.get_or_insert(PageState { scanned: time, counts: PageCounts::default() });
            *scanned = time.max(*scanned);
            counts.add(properties, known, part.pages(page));
        }
        state
    }
}
