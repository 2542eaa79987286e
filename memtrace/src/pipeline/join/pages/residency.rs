//! Which pages are resident, as far as is known: what scans saw, carried on through what faults and calls did since.
//!
//! Of what the kernel does without a fault or call, such as reclaim, only scans tell.

mod space;

use std::{collections::BTreeMap, iter, mem};

use rangemap::RangeMap;
pub(super) use space::is_anonymous;
use space::{Doubt, Known, Space, State, everything, ranges};

use super::{
    moves::{moved_by, parts},
    races::Races,
};
use crate::{
    event::{Access, Fault, HostFacts, LargeFolios, MapRequest, SpaceId, flags},
    region::{AddressSpace, Region},
    timeline::{Departure, OutcomeKind, PropertySet, Refault, Residency},
    units::{PageCount, PageSize, Timestamp, VirtRange},
};

/// The pages of all address spaces.
#[derive(Debug)]
pub(super) struct ResidencyMap {
    page: PageSize,
    large_folios: Option<LargeFolios>,
    spaces: BTreeMap<SpaceId, Space>,
    races: Races,
    /// Whether something was forgotten for want of room, and nobody knows yet.
    has_forgotten: bool,
}

/// What is known of a fault by what was known of its page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::pipeline) struct Met {
    /// The page was there before, and had gone.
    pub(in crate::pipeline) refault: Option<Refault>,
    /// What the fault brought, if nobody else was at it.
    pub(in crate::pipeline) proof: Option<OutcomeKind>,
}

/// What a scan of a part of a region saw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub(super) began: Timestamp,
    pub(super) ended: Timestamp,
    pub(super) part: VirtRange,
    /// What it found, in order; elsewhere it found no page.
    pub(super) stretches: &'a [(VirtRange, PropertySet)],
    /// Whether a page that is there may be the zero page, which the scan does not tell.
    pub(super) may_be_zero: bool,
}

impl Seen<'_> {
    /// `range` in pieces of like properties.
    fn pieces(&self, range: VirtRange) -> impl Iterator<Item = (VirtRange, PropertySet)> {
        let first = self.stretches.partition_point(|(stretch, _)| stretch.end() <= range.start());
        let stretches = self.stretches[first..].iter();
        let stretches = stretches
            .map_while(move |(stretch, properties)| Some((stretch.intersection(range)?, *properties)));
        let end = iter::once((range.end(), range.end(), PropertySet::empty()));
        let known = stretches.map(|(stretch, here)| (stretch.start(), stretch.end(), here)).chain(end);
        let mut next = range.start();
        known.flat_map(move |(start, end, here)| {
            let gap = VirtRange::new(next, start).map(|gap| (gap, PropertySet::empty()));
            next = end;
            gap.into_iter().chain(VirtRange::new(start, end).map(|stretch| (stretch, here)))
        })
    }
}

impl ResidencyMap {
    pub(super) fn new(host: &HostFacts) -> Self {
        Self {
            page: host.page,
            large_folios: host.large_folios,
            spaces: BTreeMap::new(),
            races: Races::default(),
            has_forgotten: false,
        }
    }

    fn space(&mut self, space: SpaceId) -> &mut Space {
        self.spaces.entry(space).or_insert_with(|| Space { is_old: true, ..Space::default() })
    }

    /// A program is loaded into `space`, which was empty. What the kernel puts there itself comes unseen.
    pub(super) fn begin(&mut self, space: SpaceId) {
        let mut place = Space::default();
        place.known.insert(everything().addrs(), Known::UNSEEN);
        self.spaces.insert(space, place);
    }

    /// `child`, which has these `regions`, is copied from `parent`: private memory without a file is there. Pages of files may be, or are left to
    /// faults.
    pub(super) fn fork(&mut self, parent: SpaceId, (child, regions): (SpaceId, Option<&AddressSpace>)) {
        if self.spaces.contains_key(&child) {
            return;
        }
        let Some(Space { known, served, wiped, advised_huge, is_old, .. }) = self.spaces.get(&parent) else {
            return;
        };
        let copied = regions.into_iter().flat_map(AddressSpace::live).flat_map(|region| {
            let copy = move |here: Known| match here.state {
                State::Resident if !is_anonymous(region) => Known::UNSEEN,
                // What may be in swap is not known to be absent.
                State::Gone(Departure::Advice | Departure::Unmap, _) => {
                    Known { state: State::Absent, ..here }
                }
                _ => here,
            };
            parts(known, region.range).map(move |(part, here)| (part.addrs(), copy(here)))
        });
        let mut known: RangeMap<_, _> = copied.collect();
        for wiped in wiped.iter() {
            known.insert(wiped.clone(), Known::ABSENT);
        }
        // A child has no locks.
        let (served, wiped, advised_huge) = (served.clone(), wiped.clone(), advised_huge.clone());
        let copy = Space {
            known,
            served,
            wiped,
            advised_huge,
            is_old: *is_old,
            has_certain: true,
            ..Space::default()
        };
        self.spaces.insert(child, copy);
    }

    /// A fault in `region` of `space` was completed.
    pub(super) fn fault(&mut self, space: SpaceId, region: &Region, fault: &Fault) -> Met {
        let Fault { time, addr, access, protection, .. } = *fault;
        let (page, large_folios) = (self.page, self.large_folios);
        let here = VirtRange::of_page(addr, page);
        let place = self.space(space);
        let before = place.known.get(&addr).copied();
        let is_resident = before.is_some_and(Known::is_resident);
        // A load from memory without a file may have brought the zero page.
        if !is_anonymous(region) || access == Some(Access::Write) {
            place.known.insert(here.addrs(), Known::RESIDENT);
        } else if !is_resident {
            place.known.remove(here.addrs());
        }
        let brought = place.brought_with(fault, region, page, large_folios);
        // Others are doubtful as soon as one is.
        let is_first = protection != Some(true) && !is_resident && !before.is_some_and(Known::is_doubtful);
        if is_first {
            place.doubt(brought.unwrap_or(here), Doubt::UntilScanned);
        }
        let proof = place.proof(before, fault, region, brought.is_none());
        self.has_forgotten |= place.limit();
        self.races.add(time, space, brought.filter(|_| is_first).unwrap_or(here));
        let refault = match before.map(|before| before.state) {
            Some(State::Gone(of, since)) if protection == Some(false) => {
                Some(Refault { of, age: time.since(since) })
            }
            _ => None,
        };
        Met { refault, proof }
    }

    /// Pages of `space` came without faults at them.
    pub(super) fn unseen(&mut self, time: Timestamp, space: SpaceId) {
        let place = self.space(space);
        if place.has_certain {
            place.doubt(everything(), Doubt::UntilScanned);
            place.has_certain = false;
            self.races.add(time, space, everything());
        }
    }

    /// A call about `range` failed, and may have done a part of what it was asked for.
    pub(super) fn failed(&mut self, time: Timestamp, space: SpaceId, range: VirtRange) {
        let range = range.whole_pages(self.page);
        self.space(space).known.remove(range.addrs());
        self.races.add(time, space, range);
    }

    /// A call about `range` took effect at `time`.
    pub(super) fn call(&mut self, time: Timestamp, space: SpaceId, request: &MapRequest, range: VirtRange) {
        use flags::{
            MADV_COLLAPSE, MADV_DONTNEED, MADV_DONTNEED_LOCKED, MADV_GUARD_INSTALL, MADV_HUGEPAGE,
            MADV_KEEPONFORK, MADV_NOHUGEPAGE, MADV_PAGEOUT, MADV_REMOVE, MADV_WIPEONFORK, MAP_LOCKED,
        };
        let page = self.page;
        let range = range.whole_pages(page);
        let place = self.space(space);
        match *request {
            MapRequest::Mmap { .. }
            | MapRequest::Munmap { .. }
            | MapRequest::Brk { .. }
            | MapRequest::Shmat { .. }
            | MapRequest::Shmdt { .. } => {
                place.advised_huge.remove(range.addrs());
                for advised in [&mut place.served, &mut place.wiped, &mut place.locked] {
                    advised.remove(range.addrs());
                }
                place.empty(range, (Departure::Unmap, time));
                let is_locked = matches!(request, MapRequest::Mmap { flags, .. } if flags & MAP_LOCKED != 0);
                if place.locks_new || is_locked {
                    place.locked.insert(range.addrs());
                    place.doubt(range, Doubt::Populating);
                }
            }
            MapRequest::Mlock { .. } if request.populates() => place.locked.insert(range.addrs()),
            MapRequest::Munlock { .. } => place.locked.remove(range.addrs()),
            MapRequest::Mprotect { .. } if place.locked.overlaps(&range.addrs()) => {
                place.doubt(range, Doubt::Populating);
            }
            MapRequest::Madvise {
                advice: MADV_DONTNEED | MADV_DONTNEED_LOCKED | MADV_REMOVE | MADV_GUARD_INSTALL,
                ..
            } => place.empty(range, (Departure::Advice, time)),
            MapRequest::Madvise { advice: advice @ (MADV_HUGEPAGE | MADV_NOHUGEPAGE), .. } => {
                place.advised_huge.insert(range.addrs(), advice == MADV_HUGEPAGE);
            }
            MapRequest::Madvise { advice: MADV_WIPEONFORK, .. } => place.wiped.insert(range.addrs()),
            MapRequest::Madvise { advice: MADV_KEEPONFORK, .. } => place.wiped.remove(range.addrs()),
            MapRequest::Madvise { advice: MADV_PAGEOUT, .. } | MapRequest::RemapFilePages { .. } => {
                place.known.remove(range.addrs());
            }
            MapRequest::Madvise { advice: MADV_COLLAPSE, .. } => place.doubt(range, Doubt::UntilScanned),
            MapRequest::UffdRegister { .. } => {
                place.served.insert(range.addrs());
                place.doubt(range, Doubt::UntilScanned);
            }
            MapRequest::Mremap { .. } => {
                let old = moved_by(request, page);
                place.take_along(old, range, time);
                if let Some(old) = old {
                    self.races.add(time, space, old);
                }
            }
            _ if !request.populates() => return,
            _ => {}
        }
        let place = self.space(space);
        if request.populates() {
            place.doubt(range, Doubt::Populating);
        }
        self.has_forgotten |= place.limit();
        self.races.add(time, space, range);
    }

    /// What is mapped in `space` is locked, and what will be, as far as it is to be populated at once.
    pub(super) fn lock_all(&mut self, space: SpaceId, flags: u64) {
        use flags::{MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT};
        let populates = flags & MCL_ONFAULT == 0;
        let place = self.space(space);
        place.lock_all(populates && flags & MCL_CURRENT != 0, populates && flags & MCL_FUTURE != 0);
        if flags == 0 {
            place.locked.clear();
        }
    }

    /// What a scan saw: what raced with it stays as it was known.
    pub(super) fn see(&mut self, space: SpaceId, seen: &Seen) {
        let racing = self.races.since(seen.began, space, seen.part);
        let place = self.space(space);
        for gap in ranges(racing.gaps(&seen.part.addrs())) {
            for (piece, properties) in seen.pieces(gap) {
                if is_memory(properties) {
                    place.found_present(piece, seen.may_be_zero);
                    continue;
                }
                if properties.contains(PropertySet::SWAPPED) {
                    // It was there.
                    place.known.insert(piece.addrs(), Known::RESIDENT);
                }
                place.found_empty(piece, seen.ended);
            }
        }
        self.has_forgotten |= place.limit();
    }

    /// By how much more is resident, and less is unknown, than was before this was seen; of those pages alone to which nothing
    /// happened since `time`, and that no call populates meanwhile.
    pub(super) fn correction(&self, time: Timestamp, space: SpaceId, seen: &Seen) -> Correction {
        let mut racing = self.races.since(time, space, seen.part);
        let known = self.spaces.get(&space).map(|place| parts(&place.known, seen.part));
        let populating = known.into_iter().flatten().filter(|(_, here)| here.doubt == Doubt::Populating);
        racing.extend(populating.map(|(part, _)| part.addrs()));
        if seen.may_be_zero {
            racing.extend(seen.stretches.iter().map(|(stretch, _)| stretch.addrs()));
        }
        let mut correction = Correction::default();
        for gap in ranges(racing.gaps(&seen.part.addrs())) {
            let before = self.residency(space, gap);
            let resident = seen.pieces(gap).filter(|(_, properties)| is_memory(*properties));
            let resident: u64 = resident.map(|(piece, _)| piece.pages(self.page).get()).sum();
            correction.came += resident;
            correction.went += before.pages.get();
            correction.known += before.unknown.get();
        }
        correction
    }

    /// A close scan found out how pages of `range` went that were there.
    pub(super) fn departed(&mut self, space: SpaceId, range: VirtRange, how: Departure) {
        let place = self.space(space);
        let gone: Vec<_> = parts(&place.known, range).collect();
        for (part, here) in gone {
            if let State::Gone(Departure::Unknown, time) = here.state {
                place.known.insert(part.addrs(), Known { state: State::Gone(how, time), ..here });
            }
        }
    }

    /// Records of faults are missing, as became known at `time`: what was not there may be.
    pub(super) fn doubt_all(&mut self, time: Timestamp) {
        let spaces: Vec<_> = self.spaces.keys().copied().collect();
        for space in spaces {
            self.unseen(time, space);
        }
    }

    /// Records of calls are missing, as became known at `time`.
    pub(super) fn forget_all(&mut self, time: Timestamp) {
        for (space, place) in &mut self.spaces {
            *place = Space { is_old: true, ..Space::default() };
            self.races.add(time, *space, everything());
        }
    }

    /// Whether something was forgotten for want of room since this was asked last.
    pub(super) fn take_forgotten(&mut self) -> bool {
        mem::take(&mut self.has_forgotten)
    }

    /// How much of `range` is resident.
    pub(super) fn residency(&self, space: SpaceId, range: VirtRange) -> Residency {
        let (mut pages, mut absent) = (0, 0);
        let known = self.spaces.get(&space).map(|space| parts(&space.known, range));
        for (part, known) in known.into_iter().flatten() {
            let here = part.pages(self.page).get();
            if known.is_resident() {
                pages += here;
            } else if !known.is_doubtful() {
                absent += here;
            }
        }
        let unknown = range.pages(self.page).get().saturating_sub(pages + absent);
        Residency { pages: PageCount::new(pages), unknown: PageCount::new(unknown) }
    }

    /// Forgets address spaces that are gone.
    pub(super) fn retain(&mut self, is_there: impl Fn(SpaceId) -> bool) {
        self.spaces.retain(|space, _| is_there(*space));
    }
}

/// What a scan changes of what was known at an earlier time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Correction {
    came: u64,
    went: u64,
    known: u64,
}

impl Correction {
    /// `before` with it.
    pub(super) fn of(self, before: Residency) -> Residency {
        let Self { came, went, known } = self;
        Residency {
            pages: PageCount::new((before.pages.get() + came).saturating_sub(went)),
            unknown: PageCount::new(before.unknown.get().saturating_sub(known)),
        }
    }
}

/// Whether pages with these properties are memory: the zero page is there, and takes none.
fn is_memory(properties: PropertySet) -> bool {
    properties.contains(PropertySet::PRESENT) && !properties.contains(PropertySet::ZERO)
}
