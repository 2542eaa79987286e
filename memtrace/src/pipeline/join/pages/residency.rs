//! Which pages are resident, as far as is known: what scans saw, carried on through what faults and calls did since.
//!
//! Of what the kernel does without a fault or call, such as reclaim, only scans tell.

use std::{collections::BTreeMap, iter, mem};

use rangemap::{RangeMap, RangeSet};

use super::{
    moves::{move_pages, moved_by, parts},
    races::Races,
};
use crate::{
    event::{Access, Fault, FaultKind, HostFacts, LargeFolios, MapRequest, SpaceId, flags},
    region::{AddressSpace, Region},
    timeline::{Backing, Departure, OutcomeKind, PropertySet, Refault, Residency},
    units::{PageCount, PageSize, Timestamp, VirtAddr, VirtRange},
};

/// Ranges that are remembered of one address space: 48 MiB. If there are more, all are forgotten.
const MOST: usize = 1 << 20;

/// The pages of all address spaces.
#[derive(Debug)]
pub(super) struct ResidencyMap {
    page: PageSize,
    large_folios: Option<LargeFolios>,
    spaces: BTreeMap<SpaceId, Space>,
    races: Races,
    /// Whether something was forgotten for want of room since it was asked for.
    has_forgotten: bool,
}

/// One address space.
#[derive(Debug, Default)]
struct Space {
    /// Of pages that are not in it nothing is known.
    known: RangeMap<VirtAddr, Known>,
    /// What is registered with userfaultfd: whoever serves it gives pages without faults at them.
    served: RangeSet<VirtAddr>,
    /// What children have empty.
    wiped: RangeSet<VirtAddr>,
    /// What is locked: as it grows or is opened, the kernel populates it.
    locked: RangeSet<VirtAddr>,
    /// Whether what is mapped from now on is.
    locks_new: bool,
    /// For what large folios were advised, or advised against.
    advised_huge: RangeMap<VirtAddr, bool>,
    /// Whether some page that is not there may be without doubt.
    has_certain: bool,
    /// Whether it was there before events reported what is registered.
    is_old: bool,
}

/// What is known of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    state: State,
    doubt: Doubt,
}

/// Whether a page that is not there may have become resident since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Doubt {
    /// Not without a fault at it.
    Nothing,
    /// Along with another page, or unseen: a scan tells.
    UntilScanned,
    /// A call populates it, and may do so for many scans.
    Populating,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Resident,
    /// Not there. Whether it ever was is not known.
    Absent,
    /// Not there, after it was; with the time when that became known.
    Gone(Departure, Timestamp),
}

impl Known {
    const RESIDENT: Self = Self { state: State::Resident, doubt: Doubt::Nothing };
    const ABSENT: Self = Self { state: State::Absent, doubt: Doubt::Nothing };
    /// Not there, unless it came unseen.
    const UNSEEN: Self = Self { state: State::Absent, doubt: Doubt::UntilScanned };

    fn is_resident(self) -> bool {
        self.state == State::Resident
    }

    /// The same page, which is not there, for which there is this reason if it was there.
    const fn emptied(self, how: Departure, time: Timestamp) -> Self {
        let state = match self.state {
            State::Resident => State::Gone(how, time),
            State::Absent | State::Gone(..) => self.state,
        };
        Self { state, ..Self::ABSENT }
    }

    fn is_doubtful(self) -> bool {
        self.doubt > Doubt::Nothing
    }
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

impl Space {
    /// A call has emptied `range`.
    fn empty(&mut self, range: VirtRange, (how, time): (Departure, Timestamp)) {
        let before: Vec<_> = parts(&self.known, range).collect();
        self.has_certain = true;
        self.known.insert(range.addrs(), Known::ABSENT);
        for (part, here) in before {
            self.known.insert(part.addrs(), here.emptied(how, time));
        }
        let served: Vec<_> = self.served.overlapping(range.addrs()).cloned().collect();
        for part in ranges(served).filter_map(|part| part.intersection(range)) {
            self.doubt(part, Doubt::UntilScanned);
        }
    }

    /// A scan found pages in `range`. Where these may be zero pages, only what was resident before is known to be.
    fn found_present(&mut self, range: VirtRange, may_be_zero: bool) {
        let gone = parts(&self.known, range).filter(|(_, here)| !here.is_resident());
        let gone: Vec<_> = gone.collect();
        if may_be_zero {
            for (part, _) in gone {
                self.known.remove(part.addrs());
            }
        } else {
            self.known.insert(range.addrs(), Known::RESIDENT);
        }
    }

    /// A scan that ended at `time` found nothing in `range`: what a call populates may come yet.
    fn found_empty(&mut self, range: VirtRange, time: Timestamp) {
        let before = parts(&self.known, range);
        let populating: Vec<_> = before.filter(|(_, here)| here.doubt == Doubt::Populating).collect();
        self.empty(range, (Departure::Unknown, time));
        for (part, here) in populating {
            self.known.insert(part.addrs(), here);
        }
    }

    /// What a fault in `region` brought at a page that was like `before`; `alone` if nothing can have come along.
    fn proof(
        &self,
        before: Option<Known>,
        fault: &Fault,
        region: &Region,
        alone: bool,
    ) -> Option<OutcomeKind> {
        let is_write = fault.access? == Access::Write;
        let is_file = region.traits.backing().is_file();
        match (is_shared(region), fault.protection?) {
            // A store to a page that was mapped for loads: nothing is copied.
            (true, true) => return is_write.then_some(OutcomeKind::Reuse),
            // The kernel lets migration and NUMA balancing look as if nothing were there.
            (true, false) => {
                let is_resident = before.is_some_and(Known::is_resident);
                return (is_file && !is_resident).then_some(OutcomeKind::File);
            }
            (false, true) => return None,
            (false, false) => {}
        }
        let before = before?;
        // What a scan found gone may be in swap.
        let is_emptied =
            matches!(before.state, State::Absent | State::Gone(Departure::Advice | Departure::Unmap, _));
        if !is_emptied || self.served.contains(&fault.addr) {
            return None;
        }
        if is_file && !is_write {
            return Some(OutcomeKind::File);
        }
        let is_certain = before.doubt == Doubt::Nothing;
        match is_anonymous(region) {
            _ if !is_certain => None,
            false => is_file.then_some(OutcomeKind::Copy),
            true if !alone || fault.kind != FaultKind::Minor => None,
            true if is_write => Some(OutcomeKind::Anon),
            true => (!self.is_old).then_some(OutcomeKind::Zero),
        }
    }

    /// What `fault` in `region` may bring besides its page; `None` if nothing.
    ///
    /// The kernel maps files and memory by a huge entry at most, hugetlb by one of any size. A store to a private mapping of a file copies
    /// its page alone (`do_cow_fault` of `mm/memory.c`).
    fn brought_with(
        &self,
        fault: &Fault,
        region: &Region,
        page: PageSize,
        large_folios: Option<LargeFolios>,
    ) -> Option<VirtRange> {
        if region.traits.backing() == Backing::Hugetlb {
            return Some(region.range);
        }
        let Fault { addr, access, .. } = *fault;
        let may_be_large = match (large_folios, self.advised_huge.get(&addr)) {
            _ if !is_anonymous(region) => is_shared(region) || access != Some(Access::Write),
            (None, _) => true,
            (Some(LargeFolios::Never), _) => false,
            (Some(LargeFolios::Advised), advised) => *advised.unwrap_or(&self.is_old),
            (Some(LargeFolios::Always), advised) => *advised.unwrap_or(&true),
        };
        let block = VirtRange::of_page(addr, page).widened(page.bytes().ilog2() + page.pmd_order());
        block.intersection(region.range).filter(|block| may_be_large && block.bytes() > page.bytes())
    }

    /// Pages of `range` that are not there may come unseen.
    fn doubt(&mut self, range: VirtRange, doubt: Doubt) {
        let certain = parts(&self.known, range).filter(|(_, here)| !here.is_resident() && here.doubt < doubt);
        let certain: Vec<_> = certain.collect();
        for (part, here) in certain {
            self.known.insert(part.addrs(), Known { doubt, ..here });
        }
    }

    /// What is mapped is locked now, `current`; and what will be, if it is to be populated.
    fn lock_all(&mut self, current: bool, future: bool) {
        self.locks_new = future;
        if current {
            self.locked.insert(everything().addrs());
            self.doubt(everything(), Doubt::Populating);
        }
    }

    /// The pages of `old` are in `new` now; in what it has grown by there are none.
    fn take_along(&mut self, old: Option<VirtRange>, new: VirtRange, time: Timestamp) {
        move_pages(&mut self.known, old, new);
        move_pages(&mut self.advised_huge, old, new);
        let Some(old) = old else { return };
        // What some of it has is taken for what all of it has; but children have empty what is so as a whole.
        let is_whole = self.wiped.gaps(&old.addrs()).next().is_none();
        let had = [&mut self.served, &mut self.locked, &mut self.wiped].map(|set| {
            let had = set.overlaps(&old.addrs());
            set.remove(old.addrs());
            set.remove(new.addrs());
            had
        });
        let [is_served, is_locked, is_wiped] = had;
        for (set, has) in [
            (&mut self.served, is_served),
            (&mut self.locked, is_locked),
            (&mut self.wiped, is_wiped && is_whole),
        ] {
            if has {
                set.insert(new.addrs());
            }
        }
        let end_of_old = VirtAddr::from_raw(new.start().as_raw().saturating_add(old.bytes()));
        if let Some(grown) = VirtRange::new(end_of_old, new.end()) {
            self.empty(grown, (Departure::Unmap, time));
            if is_locked {
                self.doubt(grown, Doubt::Populating);
            }
        }
    }

    /// Forgets what is too much: what had gone first. Returns whether it did.
    fn limit(&mut self) -> bool {
        let is_too_much = self.known.len() > MOST;
        if is_too_much {
            let known = mem::take(&mut self.known);
            let resident = known.into_iter().filter(|(_, here)| here.is_resident());
            self.known = resident.collect();
            if self.known.len() > MOST / 2 {
                self.known.clear();
            }
        }
        is_too_much
    }
}

/// Whether `region` is private memory without a file.
pub(super) fn is_anonymous(region: &Region) -> bool {
    !is_shared(region) && matches!(region.traits.backing(), Backing::Anon | Backing::ThreadStack)
}

/// Whether stores to `region` are seen by all that map its file, or its memory.
fn is_shared(region: &Region) -> bool {
    region.traits.perms()[3] == b's'
}

/// All addresses.
fn everything() -> VirtRange {
    let (start, end) = (VirtAddr::from_raw(0), VirtAddr::from_raw(u64::MAX));
    VirtRange::new(start, end).expect("not empty")
}

/// Whether pages with these properties are memory: the zero page is there, and takes none.
fn is_memory(properties: PropertySet) -> bool {
    properties.contains(PropertySet::PRESENT) && !properties.contains(PropertySet::ZERO)
}

/// `all` as ranges of addresses.
fn ranges(all: impl IntoIterator<Item = std::ops::Range<VirtAddr>>) -> impl Iterator<Item = VirtRange> {
    all.into_iter().filter_map(|part| VirtRange::new(part.start, part.end))
}
