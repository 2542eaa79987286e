//! All that is known of pages, behind one type: what they were, what happened to them since, and what scans find of both.

use std::collections::{BTreeMap, BTreeSet};

use rangemap::RangeSet;

use super::{
    counts::{Counting, stretches},
    history::{self, PageHistory, fault_around},
    levels::Levels,
    moves::moved_by,
    occupancy::{Occupancy, Occupied},
    origins::{Origin, Origins},
    outcome::{Counted, FaultId, PageChange, SlotScan, Unresolved},
    proven::Proven,
    residency::{self, Met, ResidencyMap},
};
use crate::{
    event::{
        Fault, HostFacts, Loss, MapRequest, PageScan, ReclaimReading, ScanDepth, SpaceId, TaskAction,
        TaskEvent, UncountedCause, syscall_name,
    },
    pipeline::{
        Detail, Options,
        join::{reclaims::Reclaims, tasks::Tasks},
        slots::{occupied, slot_end, slot_of},
    },
    region::{AddressSpace, Region},
    timeline::{
        Departure, FaultOutcome, OutcomeKind, OutcomeUnknown, PageCause, PageTally, PropertySet, RegionId,
        Residency, RowSet,
    },
    units::{PageCount, PageSize, Timestamp, VirtAddr, VirtRange},
};

/// Rows that say how much is resident, or what follows from it.
const FOLLOWED: RowSet = RowSet::TIMELINE.union(RowSet::FAULTS).union(RowSet::RSS).union(RowSet::SUMS);

/// The pages of all address spaces. Regions are known as parts of an [`AddressSpace`] alone.
#[derive(Debug)]
pub(in crate::pipeline) struct PageLedger {
    page: PageSize,
    /// Architecture of the host, by which system calls have their numbers.
    arch: String,
    /// Whether faults are recorded one by one.
    detail: Detail,
    /// Whether each change is wanted.
    tells_changes: bool,
    counting: Counting,
    history: PageHistory,
    reclaims: Reclaims,
    unresolved: Unresolved,
    proven: Proven,
    occupancy: Occupancy,
    origins: Origins,
    /// `None` where nobody asks.
    residency: Option<(ResidencyMap, Levels)>,
    /// When losses begin and end that what comes next has not passed, and whether they hide changes of address spaces.
    losses: BTreeMap<Timestamp, bool>,
}

/// What may have changed pages, other than a fault.
#[derive(Clone, Copy, Debug)]
pub(in crate::pipeline) enum Happening<'a> {
    /// The address space is new, and a program is loaded into it.
    Begin,
    /// The address space is new, and a copy of this one.
    Fork(SpaceId),
    /// A call about this range took effect.
    Call(&'a MapRequest, VirtRange),
    /// A call about this range failed, and may have done a part of it.
    Failed(VirtRange),
    /// `mlockall` with these flags, which are none of `munlockall`.
    LockAll(u64),
    /// The address space is copied from this one now, before the task that has it is known.
    Copied(SpaceId),
    /// A reading of maps was compared with the regions, which may have corrected them.
    Reading,
}

impl Happening<'_> {
    /// What `event` does to the pages of which address space.
    pub(in crate::pipeline) fn of_task(event: &TaskEvent) -> Option<(SpaceId, Self)> {
        match event.action {
            TaskAction::Exec { space, .. } => Some((space, Self::Begin)),
            TaskAction::Fork { space, parent_space, .. } if space != parent_space => {
                Some((space, Self::Fork(parent_space)))
            }
            _ => None,
        }
    }
}

/// What a scan found, in terms of what others keep.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct Findings {
    /// What it saw of each region.
    pub(in crate::pipeline) tallies: BTreeMap<RegionId, PageTally>,
    /// What changed since the scan before, if that is wanted.
    pub(in crate::pipeline) changes: Vec<PageChange>,
    /// The outcomes of faults.
    pub(in crate::pipeline) outcomes: Vec<(FaultId, FaultOutcome)>,
    /// Faults of which it cannot say, and why.
    pub(in crate::pipeline) undecided: Vec<(FaultId, OutcomeUnknown)>,
}

impl PageLedger {
    pub(in crate::pipeline) fn new(host: &HostFacts, options: &Options) -> Self {
        Self {
            page: host.page,
            arch: host.arch.clone(),
            detail: options.detail,
            tells_changes: options.wants.contains(RowSet::PAGES),
            counting: Counting::new(host),
            history: PageHistory::new(host.page),
            reclaims: Reclaims::default(),
            unresolved: Unresolved::default(),
            proven: Proven::default(),
            occupancy: Occupancy::new(host.page),
            origins: Origins::new(host, options.wants.contains(RowSet::SUMS), options.stays),
            // Without a record of each fault only scans are known.
            residency: (options.detail == Detail::Full && options.wants.intersects(FOLLOWED))
                .then(|| (ResidencyMap::new(host), Levels::new(host, options.interval))),
            losses: BTreeMap::new(),
        }
    }

    /// What comes next is not before `time`.
    pub(in crate::pipeline) fn advance(&mut self, time: Timestamp, tasks: &Tasks) {
        let Some((map, levels)) = &mut self.residency else { return };
        let mut lost = None;
        while let Some(entry) = self.losses.first_entry().filter(|entry| *entry.key() <= time) {
            let (at, hides_changes) = entry.remove_entry();
            let (_, hides_any) = lost.get_or_insert((at, false));
            *hides_any |= hides_changes;
        }
        if let Some((at, hides_changes)) = lost {
            levels.advance(at, map, tasks);
            if hides_changes { map.forget_all(time) } else { map.doubt_all(time) }
        }
        if lost.is_some() || map.take_forgotten() {
            levels.touch_all(tasks);
        }
        levels.advance(time, map, tasks);
    }

    /// The ends of intervals until `time` at which regions had other pages than at the one before.
    pub(in crate::pipeline) fn changed_until(&self, time: Timestamp) -> Vec<Timestamp> {
        self.residency.iter().flat_map(|(_, levels)| levels.changed_until(time)).collect()
    }

    /// The rows of the interval that ends at `time` are made: regions that had other pages than at the end of the one before.
    pub(in crate::pipeline) fn settle(&mut self, time: Timestamp) -> Vec<(SpaceId, RegionId)> {
        let changes = self.residency.as_mut().map(|(_, levels)| levels.settle(time));
        changes.unwrap_or_default().into_keys().collect()
    }

    /// How much of `region` was resident at the end that was settled last; `None` if that is not followed, or nothing is known of it.
    pub(in crate::pipeline) fn settled(&self, region: RegionId) -> Option<Residency> {
        self.residency.as_ref()?.1.settled(region)
    }

    /// The recording ends at `end`, and with it the interval under way.
    pub(in crate::pipeline) fn end(&mut self, end: Timestamp, tasks: &Tasks) {
        self.advance(end, tasks);
        if let Some((map, levels)) = &mut self.residency {
            levels.end(end, map, tasks);
        }
    }

    /// Pages came to `space` without faults at them.
    pub(in crate::pipeline) fn unseen(
        &mut self,
        (time, space): (Timestamp, SpaceId),
        cause: UncountedCause,
        tasks: &Tasks,
    ) {
        let Some((map, levels)) = &mut self.residency else { return };
        let is_followed = match cause {
            UncountedCause::Exec | UncountedCause::Exit | UncountedCause::CoreDump => true,
            UncountedCause::Syscall(number) => syscall_name(number, &self.arch).is_some_and(populates),
            UncountedCause::User | UncountedCause::UnknownCall | UncountedCause::Unseen => false,
        };
        if is_followed {
            return;
        }
        map.unseen(time, space);
        levels.touch_space(space, tasks.regions(space));
    }

    /// How much of what the kernel counts is resident now in `space`; `None` if that is not followed.
    pub(in crate::pipeline) fn resident(&mut self, space: SpaceId, tasks: &Tasks) -> Option<Residency> {
        let (map, levels) = self.residency.as_mut()?;
        levels.count(map, tasks);
        let mut sum = Residency::default();
        for region in tasks.regions(space)?.live().filter(|region| region.traits.backing().is_in_rss()) {
            sum += levels.now(region);
        }
        Some(sum)
    }

    /// Records are missing. What was known when they begin or end is in doubt from then on.
    pub(in crate::pipeline) fn lose(&mut self, loss: &Loss) {
        if self.residency.is_none() {
            return;
        }
        let hides_changes = loss.cause.hides_changes();
        for time in [Some(loss.start), loss.end].into_iter().flatten() {
            *self.losses.entry(time).or_default() |= hides_changes;
        }
    }

    /// Something happened to pages of `space`, which has these regions now. Returns faults of which the outcome cannot be known any more.
    pub(in crate::pipeline) fn happened(
        &mut self,
        time: Timestamp,
        (space, regions): (SpaceId, Option<&AddressSpace>),
        what: Happening,
    ) -> Vec<(FaultId, OutcomeUnknown)> {
        let mut undecided = Vec::new();
        match what {
            Happening::Begin => {
                if let Some((map, _)) = &mut self.residency {
                    map.begin(space);
                }
                self.history.begin(space);
                self.origins.begin(time, space);
            }
            Happening::Fork(parent) => {
                self.copied(parent, (space, regions));
                self.history.fork(time, parent, space);
            }
            Happening::Copied(parent) => self.copied(parent, (space, regions)),
            Happening::Failed(range) => {
                if let Some((map, levels)) = &mut self.residency {
                    map.failed(time, space, range);
                    overlapping(regions, range).for_each(|region| levels.touch(space, region.id));
                }
            }
            Happening::Call(request, range) => {
                let has_taken = self.history.call(time, space, request, range);
                if has_taken {
                    let taken = self.unresolved.forget(space, range, self.page);
                    undecided = taken.into_iter().map(|id| (id, OutcomeUnknown::Taken)).collect();
                }
                self.origins.call(time, space, request, range, has_taken);
                if let Some(regions) = regions {
                    self.occupancy.call((space, regions), request, range);
                }
                if let Some((map, levels)) = &mut self.residency {
                    map.call(time, space, request, range);
                    for range in moved_by(request, self.page).into_iter().chain([range]) {
                        let changed = overlapping(regions, range.with_neighbours(self.page));
                        changed.for_each(|region| levels.touch(space, region.id));
                    }
                }
            }
            Happening::LockAll(flags) => {
                if let Some((map, levels)) = &mut self.residency {
                    map.lock_all(space, flags);
                    levels.touch_space(space, regions);
                }
            }
            Happening::Reading => {
                if let Some(regions) = regions {
                    self.occupancy.read(space, regions);
                }
                if let Some((_, levels)) = &mut self.residency {
                    levels.touch_space(space, regions);
                }
            }
        }
        undecided
    }

    /// `child`, which has these `regions`, is copied from `parent`.
    fn copied(&mut self, parent: SpaceId, (child, regions): (SpaceId, Option<&AddressSpace>)) {
        if let Some((map, levels)) = &mut self.residency {
            map.fork(parent, (child, regions));
            levels.touch_space(child, regions);
        }
    }

    /// A fault in `space` was completed: what is known of it by what was known of its page.
    pub(in crate::pipeline) fn meet(
        &mut self,
        fault: &Fault,
        (space, regions): (SpaceId, Option<&AddressSpace>),
    ) -> Met {
        let region = regions.and_then(|regions| regions.find(fault.addr));
        let (Some((map, levels)), Some(region)) = (&mut self.residency, region) else {
            return Met::default();
        };
        levels.touch(space, region.id);
        map.fault(space, region, fault)
    }

    /// A fault in `space` was completed. Its outcome is reported as that of `id`, if there is one. Returns faults of which the outcome cannot be
    /// known any more.
    pub(in crate::pipeline) fn fault(
        &mut self,
        id: Option<FaultId>,
        fault: &Fault,
        (space, regions): (SpaceId, Option<&AddressSpace>),
        has_proof: bool,
    ) -> Vec<(FaultId, OutcomeUnknown)> {
        let is_first = self.history.fault(space, fault);
        self.origins.fault(space, fault);
        let mut undecided = Vec::new();
        if let Some(id) = id {
            undecided.extend(self.proven.fault(id, (space, self.page), fault, has_proof));
            let region = regions.and_then(|regions| regions.find(fault.addr));
            let is_of_file = region.is_some_and(|region| region.traits.file_offset(fault.addr).is_some());
            let before = self.unresolved.add((space, self.page), id, fault, (is_first, is_of_file));
            undecided.extend(before.map(|before| (before, OutcomeUnknown::FaultedAgain)));
        }
        undecided
    }

    /// The rows of faults before `first` are out: nobody asks for their outcomes any more.
    pub(in crate::pipeline) fn forget_before(&mut self, first: FaultId) {
        self.unresolved.forget_before(first);
        self.proven.forget_before(first);
    }

    /// Notes how much the kernel has reclaimed.
    pub(in crate::pipeline) fn reclaim(&mut self, reading: ReclaimReading) {
        self.reclaims.read(reading);
    }

    /// Takes what a scan of `space` saw that ended at `time`, and says what follows from it; `is_of_last` if it is for the interval that had
    /// ended then.
    pub(in crate::pipeline) fn observe(
        &mut self,
        time: Timestamp,
        (space, regions): (SpaceId, Option<&AddressSpace>),
        scan: &PageScan,
        is_of_last: bool,
    ) -> Findings {
        let mut findings = Findings::default();
        if let Some(regions) = regions {
            self.occupancy.settle(space, regions);
        }
        for region in overlapping(regions, scan.range) {
            if let Some(part) = region.range.intersection(scan.range) {
                findings
                    .tallies
                    .insert(region.id, self.tally((time, is_of_last), (space, region), scan, part));
            }
        }
        if scan.depth >= ScanDepth::Words && self.detail == Detail::Full {
            self.observe_slots(time, (space, regions), scan, &mut findings);
        }
        findings
    }

    /// Counts the pages of a region in `part`.
    fn tally(
        &mut self,
        (time, is_of_last): (Timestamp, bool),
        (space, region): (SpaceId, &Region),
        scan: &PageScan,
        part: VirtRange,
    ) -> PageTally {
        let mut tally = PageTally { scanned_pages: part.pages(self.page), ..PageTally::at(time) };
        let known = self.counting.known_from(scan);
        let stretches = stretches(scan, part);
        for (range, properties) in &stretches {
            tally.counts.add(*properties, known, range.pages(self.page));
        }
        self.occupancy.see(time, (space, region), part, (known, &stretches));
        if let Some((map, levels)) = &mut self.residency {
            let may_be_zero = !known.contains(PropertySet::ZERO) && residency::is_anonymous(region);
            let (began, ended) = (scan.began, time);
            let seen = residency::Seen { began, ended, part, stretches: &stretches, may_be_zero };
            levels.touch(space, region.id);
            if is_of_last {
                levels.correct(map, (space, region), &seen);
            }
            map.see(space, &seen);
        }
        tally
    }

    /// Takes a close scan slot by slot, where it found pages or more is known than that there are none; and the rest as ranges.
    fn observe_slots(
        &mut self,
        time: Timestamp,
        (space, regions): (SpaceId, Option<&AddressSpace>),
        scan: &PageScan,
        findings: &mut Findings,
    ) {
        let range = scan.range;
        let racing = self.history.racing_since(scan.began, space, range);
        let occupied = occupied(scan, range).map(|part| slot_of(part.start()));
        let slots: BTreeSet<VirtAddr> = occupied.chain(self.history.slots_in(space, range)).collect();
        let mut next = range.start();
        for slot in slots {
            let start = slot.max(range.start());
            if let Some(empty) = VirtRange::new(next, start) {
                self.observe_absent((space, regions), scan, (empty, &racing), findings);
            }
            next = slot_end(slot).min(range.end());
            if let Some(slot) = VirtRange::new(start, next) {
                self.observe_slot(time, (space, regions), scan, (slot, &racing), findings);
            }
        }
        if let Some(empty) = VirtRange::new(next, range.end()) {
            self.observe_absent((space, regions), scan, (empty, &racing), findings);
        }
    }

    /// A close scan found no page in `range`, where no slot is kept. What raced with it stays as it was known.
    fn observe_absent(
        &mut self,
        (space, regions): (SpaceId, Option<&AddressSpace>),
        scan: &PageScan,
        (range, racing): (VirtRange, &RangeSet<VirtAddr>),
        findings: &mut Findings,
    ) {
        let gone = self.unresolved.take(space, range, self.page, scan.began, racing);
        findings.undecided.extend(gone.iter().map(|(_, fault)| (fault.id, OutcomeUnknown::Gone)));
        self.origins.absent(scan.began, space, range, racing);
        let known = self.history.observe_absent(space, range, racing);
        for region in overlapping(regions, range) {
            if known.overlaps(&region.range.addrs()) {
                findings.add_migrated(region.id, scan, PageCount::default());
            }
        }
    }

    /// Notes what changed in a slot since it was scanned before, and the outcomes of faults; not of what raced with the scan.
    fn observe_slot(
        &mut self,
        time: Timestamp,
        (space, regions): (SpaceId, Option<&AddressSpace>),
        scan: &PageScan,
        (slot, racing): (VirtRange, &RangeSet<VirtAddr>),
        findings: &mut Findings,
    ) {
        let page = self.page;
        let first = scan.runs.partition_point(|run| run.range.end() <= slot.start());
        let runs: Vec<_> = scan.runs[first..].iter().map_while(|run| run.part(slot, page)).collect();
        let region_at = |addr| regions?.find(addr).map(|region| region.range);
        let faults = self.unresolved.take(space, slot, page, scan.began, racing);
        let raced = if racing.overlaps(&slot.addrs()) {
            let brought = faults.iter().filter_map(|(addr, _)| fault_around(*addr, region_at(*addr)?));
            history::raced(slot, &runs, racing, &brought.map(VirtRange::addrs).collect())
        } else {
            RangeSet::new()
        };
        self.origins.see(scan.began, space, slot, &runs, racing);
        let before = self.history.replace(time, space, slot, &runs, &raced);
        let known = self.counting.known_from(scan);
        let reclaims = self.reclaims;
        let seen = SlotScan { began: scan.began, runs: &runs, before: &before, page, known, reclaims };
        for region in overlapping(regions, slot) {
            let Some(part) = region.range.intersection(slot).filter(|part| before.knows_of(*part)) else {
                continue;
            };
            let changes = before.changes(part, &runs, page);
            if let Some((map, _)) = &mut self.residency {
                let taken = changes.iter().filter(|change| seen.cause_of(change) == PageCause::Reclaim);
                taken.for_each(|change| map.departed(space, change.range, Departure::Reclaim));
            }
            let migrated = changes.iter().filter(|change| seen.cause_of(change) == PageCause::Migration);
            findings.add_migrated(region.id, scan, migrated.map(|change| change.range.pages(page)).sum());
            if self.tells_changes {
                let changes = changes.iter().filter_map(|change| seen.change(change, region.id));
                findings.changes.extend(changes);
            }
        }
        let mut counted = Counted::from(slot.start());
        for (addr, fault) in faults {
            let outcome = seen.outcome(addr, region_at(addr), &fault, &mut counted);
            if outcome.is_none() {
                let is_there = runs.iter().any(|run| {
                    run.range.contains(addr) && PropertySet::of(run).contains(PropertySet::PRESENT)
                });
                let why = if is_there { OutcomeUnknown::Unclear } else { OutcomeUnknown::Gone };
                findings.undecided.push((fault.id, why));
            }
            if let Some(block) = outcome.and_then(|outcome| block_of(addr, &outcome, region_at(addr), page)) {
                self.origins.brought(space, (fault.time, addr), block, &runs);
            }
            findings.outcomes.extend(outcome.map(|outcome| (fault.id, outcome)));
        }
    }

    /// Takes what is known of the pages of `region`, which has gone, or of which nobody will ask again.
    pub(in crate::pipeline) fn take(&mut self, space: SpaceId, region: &Region) -> Option<Occupied> {
        if let Some((_, levels)) = &mut self.residency {
            levels.forget(region.id);
        }
        self.occupancy.take(space, region)
    }

    /// Takes the pages that faults brought to `space` and that are there still, by stack and time.
    pub(in crate::pipeline) fn take_resident(&mut self, space: SpaceId) -> BTreeMap<Origin, PageCount> {
        self.origins.take(space)
    }

    /// Whether more stays than [`Self::take_resident`] has.
    pub(in crate::pipeline) const fn is_resident_lower_bound(&self) -> bool {
        self.origins.is_lower_bound()
    }

    /// All address spaces with pages that faults brought.
    pub(in crate::pipeline) fn resident_spaces(&self) -> Vec<SpaceId> {
        self.origins.spaces()
    }

    /// Forgets address spaces that are gone.
    pub(in crate::pipeline) fn retain(&mut self, is_there: impl Fn(SpaceId) -> bool) {
        self.history.retain(&is_there);
        if let Some((map, _)) = &mut self.residency {
            map.retain(&is_there);
        }
        self.occupancy.retain(is_there);
    }
}

impl Findings {
    /// Adds pages that a close scan found in other frames than before.
    fn add_migrated(&mut self, region: RegionId, scan: &PageScan, pages: PageCount) {
        if scan.depth >= ScanDepth::Frames
            && let Some(tally) = self.tallies.get_mut(&region)
        {
            *tally.migrated.get_or_insert_default() += pages;
        }
    }
}

/// The pages that a fault at `addr` with this outcome may have brought, in a region.
fn block_of(
    addr: VirtAddr,
    outcome: &FaultOutcome,
    region: Option<VirtRange>,
    page: PageSize,
) -> Option<VirtRange> {
    let pages = outcome.pages.map(PageCount::get).filter(|pages| *pages > 1)?;
    let region = region?;
    if outcome.kind == OutcomeKind::File {
        return fault_around(addr, region);
    }
    let bytes = pages.checked_next_power_of_two()?.checked_mul(page.bytes())?;
    let start = addr.as_raw() - addr.as_raw() % bytes;
    VirtRange::new(VirtAddr::from_raw(start), VirtAddr::from_raw(start.checked_add(bytes)?))?
        .intersection(region)
}

/// Whether the call with this name is followed in what it populates.
fn populates(name: &str) -> bool {
    matches!(
        name,
        "mmap" | "mremap" | "brk" | "mprotect" | "madvise" | "mlock" | "mlock2" | "mlockall" | "shmat"
    )
}

/// The regions that have a part in `range`, if any are known.
fn overlapping(regions: Option<&AddressSpace>, range: VirtRange) -> impl Iterator<Item = &Region> {
    regions.into_iter().flat_map(move |regions| regions.overlapping(range))
}
