//! Which stack brought each page that is there: memory that stays has one.

use std::collections::BTreeMap;

use rangemap::{RangeMap, RangeSet};

use super::moves::{move_pages, moved_by};
use crate::{
    event::{Fault, HostFacts, MapRequest, SpaceId, StackId},
    pagemap::StateRun,
    timeline::PropertySet,
    units::{Nanos, PageCount, PageSize, TimeRange, Timestamp, VirtAddr, VirtRange},
};

/// Ranges that are remembered of one address space: 48 MiB. If there are more, all are forgotten.
const MOST: usize = 1 << 20;

/// What an identity of a stack means is distinguished by times so far apart; what one stack brought in between is one range.
const SLICE: Nanos = Nanos::new(10_000_000);

/// A stack, and the slice in which it brought pages: later its identity may mean another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::pipeline) struct Origin {
    pub(in crate::pipeline) stack: StackId,
    slice: u64,
}

impl Origin {
    fn of(stack: StackId, time: Timestamp) -> Self {
        Self { stack, slice: time.as_nanos() / SLICE.get() }
    }

    /// Begin and end of the slice.
    pub(in crate::pipeline) fn times(self) -> [Timestamp; 2] {
        let at = |slice: u64| Timestamp::from_nanos(slice.saturating_mul(SLICE.get()));
        [at(self.slice), at(self.slice + 1)]
    }
}

/// Whether pages of `run` are memory: the zero page is there, and takes none.
fn is_memory(run: &StateRun) -> bool {
    let properties = PropertySet::of(run);
    properties.contains(PropertySet::PRESENT) && !properties.contains(PropertySet::ZERO)
}

/// The pages that faults brought, and that nothing is known to have taken away.
#[derive(Debug)]
pub(super) struct Origins {
    page: PageSize,
    /// Whether somebody asks for them.
    is_wanted: bool,
    start: Timestamp,
    /// Whose faults are meant; what happens to their pages after it does not count.
    times: TimeRange,
    spaces: BTreeMap<SpaceId, RangeMap<VirtAddr, Origin>>,
    /// Whether some were forgotten.
    is_lower_bound: bool,
}

impl Origins {
    pub(super) fn new(host: &HostFacts, is_wanted: bool, times: TimeRange) -> Self {
        Self {
            page: host.page,
            is_wanted,
            start: host.start,
            times,
            spaces: BTreeMap::new(),
            is_lower_bound: false,
        }
    }

    fn since_start(&self, time: Timestamp) -> Nanos {
        time.since(self.start)
    }

    /// Whether what is so at `time` does not count.
    fn is_over(&self, time: Timestamp) -> bool {
        self.times.is_over(self.since_start(time))
    }

    /// A fault in `space` was completed. Who brought its page is not known of one without a stack, and not asked of one that is too early.
    pub(super) fn fault(&mut self, space: SpaceId, fault: &Fault) {
        if !self.is_wanted || self.is_over(fault.time) {
            return;
        }
        let page = VirtRange::of_page(fault.addr, self.page);
        let is_ahead = self.times.is_ahead(self.since_start(fault.time));
        match fault.stack.filter(|_| !is_ahead) {
            Some(stack) => {
                let known = self.spaces.entry(space).or_default();
                known.insert(page.addrs(), Origin::of(stack, fault.time));
                if known.len() > MOST {
                    known.clear();
                    self.is_lower_bound = true;
                }
            }
            None => self.remove(space, page),
        }
    }

    /// The fault at `addr` at `time` brought the page there and those around it in `block`, of which a scan saw `runs`.
    pub(super) fn brought(
        &mut self,
        space: SpaceId,
        (time, addr): (Timestamp, VirtAddr),
        block: VirtRange,
        runs: &[StateRun],
    ) {
        if self.is_over(time) {
            return;
        }
        let Some(known) = self.spaces.get_mut(&space) else { return };
        let Some(origin) = known.get(&addr).copied() else { return };
        for part in runs.iter().filter(|run| is_memory(run)).filter_map(|run| run.range.intersection(block)) {
            let others: Vec<_> = known.gaps(&part.addrs()).collect();
            for gap in others {
                known.insert(gap, origin);
            }
        }
    }

    /// A scan that began at `time` and `raced` with these found no memory in `range`.
    pub(super) fn absent(
        &mut self,
        time: Timestamp,
        space: SpaceId,
        range: VirtRange,
        raced: &RangeSet<VirtAddr>,
    ) {
        if self.is_over(time) {
            return;
        }
        let Some(known) = self.spaces.get_mut(&space) else { return };
        let gone: Vec<_> = raced.gaps(&range.addrs()).collect();
        for gap in gone {
            known.remove(gap);
        }
    }

    /// A scan of `slot` that began at `time` saw these `runs`, but for what raced with it.
    pub(super) fn see(
        &mut self,
        time: Timestamp,
        space: SpaceId,
        slot: VirtRange,
        runs: &[StateRun],
        raced: &RangeSet<VirtAddr>,
    ) {
        if !self.spaces.contains_key(&space) {
            return;
        }
        let mut next = slot.start();
        let present = runs.iter().filter(|run| is_memory(run));
        for (start, end) in
            present.map(|run| (run.range.start(), run.range.end())).chain([(slot.end(), slot.end())])
        {
            if let Some(gap) = VirtRange::new(next, start) {
                self.absent(time, space, gap, raced);
            }
            next = end;
        }
    }

    /// A call about `range` took effect at `time`; `has_taken` if pages that were there are there no more.
    pub(super) fn call(
        &mut self,
        time: Timestamp,
        space: SpaceId,
        request: &MapRequest,
        range: VirtRange,
        has_taken: bool,
    ) {
        if self.is_over(time) {
            return;
        }
        let page = self.page;
        match *request {
            MapRequest::Mremap { .. } => {
                let Some(known) = self.spaces.get_mut(&space) else { return };
                move_pages(known, moved_by(request, page), range);
            }
            _ if has_taken => self.remove(space, range.whole_pages(page)),
            _ => {}
        }
    }

    /// A program is loaded at `time` into `space`, which is empty.
    pub(super) fn begin(&mut self, time: Timestamp, space: SpaceId) {
        if !self.is_over(time) {
            self.spaces.remove(&space);
        }
    }

    fn remove(&mut self, space: SpaceId, range: VirtRange) {
        if let Some(known) = self.spaces.get_mut(&space) {
            known.remove(range.addrs());
        }
    }

    /// Takes the pages of `space`, which is gone, or of which nobody will ask again, by what brought them.
    pub(super) fn take(&mut self, space: SpaceId) -> BTreeMap<Origin, PageCount> {
        let mut pages: BTreeMap<_, PageCount> = BTreeMap::new();
        for (range, origin) in self.spaces.remove(&space).unwrap_or_default() {
            let range = VirtRange::new(range.start, range.end);
            *pages.entry(origin).or_default() +=
                range.map_or(PageCount::default(), |range| range.pages(self.page));
        }
        pages
    }

    /// Whether there were more.
    pub(super) const fn is_lower_bound(&self) -> bool {
        self.is_lower_bound
    }

    /// All address spaces with pages.
    pub(super) fn spaces(&self) -> Vec<SpaceId> {
        self.spaces.keys().copied().collect()
    }
}
