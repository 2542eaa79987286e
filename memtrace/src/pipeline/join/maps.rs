//! Map events: what they do to regions, and what rows say of them.

use std::{collections::BTreeMap, sync::Arc};

use super::{pages::Happening, tasks::Tasks};
use crate::{
    event::{
        CallKind, MapAction, MapCall, MapEvent, MapRequest, ReportedVma, SpaceId, TaskAction, TaskEvent,
        Tgid, Tid,
    },
    region::{AddressSpace, Comparison, Contradiction, Turnover},
    timeline::{Churn, MapFlags, MapIdentity, MapRow, MapSummary, ProcessId, RegionId, RegionLabel},
    units::{Nanos, Timestamp, VirtAddr, VirtRange},
};

/// What came of a map event.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct Done {
    /// Where it happened.
    pub(in crate::pipeline) place: Option<(ProcessId, SpaceId, Option<RegionId>)>,
    /// The call, if one succeeded.
    pub(in crate::pipeline) succeeded: Option<CallKind>,
    /// What it mapped and unmapped, if it is a call that may.
    turnover: Option<Turnover>,
    /// Bytes that are mapped where advice is given; `None` if that is not known.
    advised: Option<u64>,
    /// Its row in the table `maps`.
    pub(in crate::pipeline) row: Option<MapRow>,
}

impl Done {
    /// What the kernel mapped for a program, and in which process.
    pub(in crate::pipeline) fn loaded(&self) -> Option<(ProcessId, &Arc<[u8]>)> {
        let row = self.row.as_ref().filter(|row| row.action == "exec")?;
        Some((self.place?.0, row.name.as_ref()?))
    }

    /// What `event`, of which this came, does to the pages of which address space.
    pub(in crate::pipeline) fn happening<'a>(&self, event: &'a MapEvent) -> Option<(SpaceId, Happening<'a>)> {
        match &event.action {
            MapAction::Call { space, call } if call.took_effect() => {
                let what = match call.request {
                    MapRequest::Mlockall { flags } => Happening::LockAll(flags),
                    MapRequest::Munlockall => Happening::LockAll(0),
                    ref request => Happening::Call(request, self.row.as_ref()?.range?),
                };
                Some((*space, what))
            }
            MapAction::Call { space, call } => {
                let is_partial =
                    matches!(call.request, MapRequest::Madvise { .. } | MapRequest::Mlock { .. });
                let range = self.row.as_ref()?.range.filter(|_| is_partial)?;
                Some((*space, Happening::Failed(range)))
            }
            MapAction::Copied { parent, child, .. } => Some((*child, Happening::Copied(*parent))),
            MapAction::Renewed { space } => Some((*space, Happening::Begin)),
            _ => None,
        }
    }
}

/// Applies `event`.
pub(in crate::pipeline) fn apply(event: &MapEvent, tasks: &mut Tasks) -> Done {
    let MapEvent { time, tgid, tid, action } = event;
    let row = |action| MapRow::new(*time, (*tgid, *tid), action);
    match action {
        MapAction::Shown(shown) => apply_reported(event, shown, tasks).unwrap_or_default(),
        MapAction::Call { space, call } => {
            tasks.witness(*time, *tgid, *tid, *space);
            apply_call(event, *space, call, tasks)
        }
        MapAction::Copied { parent, child, brk, total_vm } => {
            tasks.copy(*time, (*parent, *child), *brk, *total_vm);
            Done::default()
        }
        MapAction::Renewed { space } => {
            tasks.renew(*time, *tid, *space);
            Done::default()
        }
        MapAction::Trimmed { space, pages } => {
            let trimmed = tasks.regions_mut(*space).and_then(|(regions, ids)| {
                let trimmed = regions.trim(*time, *pages, ids);
                // No call unmapped it.
                regions.take_turnover();
                trimmed
            });
            let row = trimmed.map(|range| MapRow { range: Some(range), ..row("trim") });
            let place = Some((tasks.process(*time, *tgid, *tid), *space, None));
            Done { place, row, ..Done::default() }
        }
        MapAction::Unexplained { space, syscall } => {
            if let Some((regions, _)) = tasks.regions_mut(*space) {
                regions.doubt(*time);
            }
            let place = Some((tasks.process(*time, *tgid, *tid), *space, None));
            let row = MapRow { flags: Some(MapFlags::During(*syscall)), ..row("unexplained") };
            Done { place, row: Some(row), ..Done::default() }
        }
    }
}

/// Applies a VMA that the kernel reports. Those that no call explains have rows.
fn apply_reported(event: &MapEvent, shown: &ReportedVma, tasks: &mut Tasks) -> Option<Done> {
    let MapEvent { time, tgid, tid, .. } = *event;
    let space = tasks.space_of(tgid, tid)?;
    let process = tasks.process(time, tgid, tid);
    let is_guest = tasks.is_guest(process, space);
    let kind = shown.kind.or_else(|| tasks.kind_on(shown.vma.device));
    let (regions, ids) = tasks.regions_mut(space)?;
    regions.show(time, tid, ReportedVma { kind, ..shown.clone() }, ids);
    if is_guest {
        // It may be part of a program that the guest executes: without BTF its new space is reported when that is over.
        regions.doubt(time);
    }
    let is_stack = shown.vma.name == b"[stack]" || regions.grows_down_to(shown.vma.range);
    if !regions.is_loading() && !is_stack {
        return None;
    }
    let action = if regions.is_loading() { "exec" } else { "stack" };
    regions.settle(ids);
    // No call mapped it.
    regions.take_turnover();
    let range = shown.vma.range;
    let label = regions.label(regions.find(range.start())?);
    let place = Some((process, space, Some(label.id)));
    let row = MapRow { range: Some(range), ..MapRow::new(time, (tgid, tid), action) }.with_label(Some(label));
    Some(Done { place, row: Some(row), ..Done::default() })
}

fn apply_call(event: &MapEvent, space: SpaceId, call: &MapCall, tasks: &mut Tasks) -> Done {
    let MapEvent { time, tgid, tid, .. } = *event;
    let MapCall { request, result, may_have_resized: _, file: _, stack: _ } = call;
    let kind = request.kind();
    let (mut range, mut label, mut turnover, mut advised) = (None, None, None, None);
    if let Some((regions, ids)) = tasks.regions_mut(space) {
        range = place_of(regions, request, *result);
        let heap_end = regions.heap_end();
        // What goes has to be asked for before it does.
        let goes = matches!(request, MapRequest::Munmap { .. } | MapRequest::Shmdt { .. }) && result.is_ok();
        if goes {
            regions.settle(ids);
            label = label_at(regions, range);
        }
        regions.call(time, tid, call, ids);
        if matches!(request, MapRequest::Brk { .. }) {
            range = heap_end
                .zip(regions.heap_end())
                .and_then(|(one, other)| VirtRange::new(one.min(other), one.max(other)));
        }
        if !goes && result.is_ok() {
            label = label_at(regions, range);
        }
        if matches!(request, MapRequest::Shmat { .. }) {
            // Only the region has the length of a segment.
            range = label.as_ref().map(|label| label.range).or(range);
        }
        turnover = request.resizes().then(|| regions.take_turnover());
        if matches!(request, MapRequest::Madvise { .. }) && !regions.is_doubtful() {
            advised = range.map(|range| regions.mapped_bytes(range));
        }
    }
    let process = tasks.process(time, tgid, tid);
    let place = Some((process, space, label.as_ref().map(|label: &RegionLabel| label.id)));
    let succeeded = result.is_ok().then_some(kind);
    let row = MapRow {
        range,
        flags: flags_of(request),
        result: Some(*result),
        gives_address: matches!(kind, CallKind::Mmap | CallKind::Mremap | CallKind::Brk | CallKind::Shmat),
        ..MapRow::new(time, (tgid, tid), kind.name())
    };
    Done { place, succeeded, turnover, advised, row: Some(row.with_label(label)) }
}

/// How rows show the first region in `range`.
fn label_at(regions: &AddressSpace, range: Option<VirtRange>) -> Option<RegionLabel> {
    let region = regions.overlapping(range?).next()?;
    Some(regions.label(region))
}

/// The row for what `event` did to address spaces, if it made one or is the end of a process.
pub(in crate::pipeline) fn task_row(event: &TaskEvent, is_end: bool) -> Option<MapRow> {
    let row = |action| MapRow::new(event.time, (event.tgid, event.tid), action);
    match event.action {
        TaskAction::Fork { child_tgid, space, parent_space, .. } if space != parent_space => {
            Some(MapRow { child: Some(child_tgid), ..row("fork") })
        }
        TaskAction::Exit { status, .. } if is_end => Some(MapRow { status, ..row("exit") }),
        _ => None,
    }
}

/// The row for a contradiction that a reading at `time` of the maps of `tgid` showed.
pub(in crate::pipeline) fn contradiction_row(
    time: Timestamp,
    tgid: Tgid,
    contradiction: Contradiction,
) -> MapRow {
    let Contradiction { range, region, found } = contradiction;
    let row = MapRow::new(time, (tgid, Tid(tgid.0)), "contradiction");
    let (perms, backing, name) = match found {
        Some((perms, backing, name)) => (Some(perms), Some(backing), Some(name)),
        None => (None, None, None),
    };
    MapRow { range: Some(range), region, perms, backing, name, ..row }
}

/// The pages that a call is about; those that it returned if it succeeded.
fn place_of(regions: &AddressSpace, request: &MapRequest, result: Result<u64, i32>) -> Option<VirtRange> {
    let span = |addr, length| regions.span(addr, length);
    let given = |addr: VirtAddr| result.map_or(addr, VirtAddr::from_raw);
    match *request {
        MapRequest::Mmap { addr, length, .. } => span(given(addr), length),
        MapRequest::Mremap { old_addr, new_size, .. } => span(given(old_addr), new_size),
        MapRequest::Munmap { addr, length }
        | MapRequest::Mprotect { addr, length, .. }
        | MapRequest::Madvise { addr, length, .. }
        | MapRequest::Mlock { addr, length, .. }
        | MapRequest::Munlock { addr, length }
        | MapRequest::Mseal { addr, length }
        | MapRequest::SetName { addr, length, .. }
        | MapRequest::UffdRegister { addr, length, .. }
        | MapRequest::UffdUnregister { addr, length } => span(addr, length),
        MapRequest::RemapFilePages { addr, size, .. } => span(addr, size),
        MapRequest::Shmat { addr, .. } => span(given(addr), 1),
        MapRequest::Shmdt { addr } => span(addr, 1),
        MapRequest::Brk { .. }
        | MapRequest::ProcessMadvise { .. }
        | MapRequest::Mlockall { .. }
        | MapRequest::Munlockall
        | MapRequest::SetBounds { .. } => None,
    }
}

fn flags_of(request: &MapRequest) -> Option<MapFlags> {
    Some(match *request {
        MapRequest::Mmap { flags, .. } => MapFlags::Map(flags),
        MapRequest::Mremap { flags, .. } => MapFlags::Remap(flags),
        MapRequest::Madvise { advice, .. } | MapRequest::ProcessMadvise { advice } => {
            MapFlags::Advice(advice)
        }
        MapRequest::Mlock { flags, .. } => MapFlags::Lock(flags),
        MapRequest::Mlockall { flags } => MapFlags::LockAll(flags),
        MapRequest::Shmat { flags, .. } => MapFlags::Attach(flags),
        MapRequest::UffdRegister { mode, .. } => MapFlags::Watch(mode),
        _ => return None,
    })
}

/// Mappings that are remembered until they go, for their lifetimes.
const REMEMBERED: usize = 1 << 16;
/// Pairs of process and size whose churn is distinguished.
const SIZES: usize = 4_096;

/// Sums over all map events; bounded by the number of processes that are not forgotten.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct MapTotals {
    summary: MapSummary,
    /// Mappings that came by one `mmap` and of which no part went, by their start, with their birth. They do not overlap.
    mapped: BTreeMap<(SpaceId, VirtAddr), (VirtRange, Timestamp)>,
}

impl MapTotals {
    /// Adds a map event, of which `done` came.
    pub(in crate::pipeline) fn add(&mut self, event: &MapEvent, done: &Done) {
        let MapAction::Call { space, call: MapCall { request, result, .. } } = &event.action else { return };
        let (kind, is_done) = (request.kind(), result.is_ok());
        let by_kind = if is_done { &mut self.summary.calls } else { &mut self.summary.failed };
        *by_kind.entry(kind).or_default() += 1;
        let Some((process, ..)) = done.place else { return };
        let turnover = done.turnover.unwrap_or_default();
        if is_done || turnover != Turnover::default() {
            let sums = self.summary.processes.entry(process).or_default();
            sums.calls += u64::from(is_done);
            sums.mapped = sums.mapped.saturating_add(turnover.came);
            sums.unmapped = sums.unmapped.saturating_add(turnover.went);
            sums.lower_bound |= turnover.lower_bound;
        }
        let range = done.row.as_ref().and_then(|row| row.range);
        if let (true, Some(range)) = (is_done, range) {
            self.follow(event.time, (process, *space), request, range);
        }
        if let (true, MapRequest::Madvise { advice, .. }) = (is_done, request) {
            let advised = self.summary.advice.entry((process, *advice)).or_default();
            advised.calls += 1;
            advised.bytes = advised.bytes.saturating_add(done.advised.unwrap_or_default());
            advised.lower_bound |= done.advised.is_none();
        }
    }

    /// Follows mappings from `mmap` to `munmap` by a call about `range`: churn, if one goes as it came.
    fn follow(
        &mut self,
        time: Timestamp,
        (process, space): (ProcessId, SpaceId),
        request: &MapRequest,
        range: VirtRange,
    ) {
        match *request {
            MapRequest::Mmap { .. } => {
                self.take(space, range);
                if self.mapped.len() < REMEMBERED {
                    self.mapped.insert((space, range.start()), (range, time));
                }
            }
            MapRequest::Munmap { .. } => {
                for (mapped, born) in self.take(space, range) {
                    if mapped.intersection(range) == Some(mapped) {
                        self.add_churn(process, mapped.bytes(), time.since(born));
                    }
                }
            }
            MapRequest::Mremap { old_addr, old_size, .. } => {
                let old_end = VirtAddr::from_raw(old_addr.as_raw().saturating_add(old_size));
                for range in [Some(range), VirtRange::new(old_addr, old_end)].into_iter().flatten() {
                    self.take(space, range);
                }
            }
            _ => {}
        }
    }

    /// Takes the mappings of `space` that have a part in `range`.
    fn take(&mut self, space: SpaceId, range: VirtRange) -> Vec<(VirtRange, Timestamp)> {
        let before = self.mapped.range((space, VirtAddr::default())..(space, range.start())).next_back();
        let within = self.mapped.range((space, range.start())..(space, range.end()));
        let has_part = |(_, (mapped, _)): &(_, &(VirtRange, _))| mapped.intersection(range).is_some();
        let places: Vec<_> =
            before.into_iter().chain(within).filter(has_part).map(|(place, _)| *place).collect();
        places.iter().filter_map(|place| self.mapped.remove(place)).collect()
    }

    /// A mapping of `bytes` bytes went as it had come, after this `lifetime`.
    fn add_churn(&mut self, process: ProcessId, bytes: u64, lifetime: Nanos) {
        let churn = &mut self.summary.churn;
        if churn.len() == SIZES && !churn.contains_key(&(process, bytes)) {
            return;
        }
        let none = Churn { count: 0, lifetime_sum: Nanos::default(), shortest: lifetime, longest: lifetime };
        let Churn { count, lifetime_sum, shortest, longest } = churn.entry((process, bytes)).or_insert(none);
        *count += 1;
        *lifetime_sum += lifetime;
        *shortest = (*shortest).min(lifetime);
        *longest = (*longest).max(lifetime);
    }

    /// Adds a comparison; its contradictions are handed over.
    pub(in crate::pipeline) fn compared(&mut self, comparison: Comparison) -> Vec<Contradiction> {
        let identity = &mut self.summary.identity;
        match comparison {
            Comparison::Conclusive(contradictions) => {
                identity.checks += 1;
                identity.contradictions += contradictions.len() as u64;
                return contradictions;
            }
            Comparison::Resynchronised => identity.resyncs += 1,
            Comparison::Inconclusive => identity.inconclusive += 1,
        }
        Vec::new()
    }

    /// Forgets an address space that is no more.
    pub(in crate::pipeline) fn forget(&mut self, space: SpaceId) {
        if let Some(all) = VirtRange::new(VirtAddr::default(), VirtAddr::from_raw(u64::MAX)) {
            self.take(space, all);
        }
    }

    /// Forgets a process that has ended.
    pub(in crate::pipeline) fn forget_process(&mut self, process: ProcessId) {
        let MapSummary { processes, advice, churn, .. } = &mut self.summary;
        processes.remove(&process);
        let all = (process, 0)..=(process, u64::MAX);
        advice.extract_if(all.clone(), |_, _| true).for_each(drop);
        churn.extract_if(all, |_, _| true).for_each(drop);
    }

    /// The sums; `unverified` processes ended without a last comparison.
    pub(in crate::pipeline) fn into_summary(self, unverified: Option<u64>) -> MapSummary {
        let Self { summary, mapped: _ } = self;
        MapSummary { identity: MapIdentity { unverified, ..summary.identity }, ..summary }
    }
}
