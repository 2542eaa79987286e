//! Map events: what they do to regions, and what rows say of them.

use std::collections::BTreeMap;

use super::tasks::Tasks;
use crate::{
    event::{CallKind, MapAction, MapCall, MapEvent, MapRequest, ShownVma, SpaceId, TaskEvent, Tgid, Tid},
    region::{AddressSpace, Comparison, Contradiction},
    timeline::{Churn, MapFlags, MapRow, MapSummary, RegionId, RegionLabel},
    units::{Nanos, Timestamp, VirtAddr, VirtRange},
};

/// What came of a map event.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Where it happened.
    pub(super) place: Option<(Tgid, SpaceId, Option<RegionId>)>,
    /// The call, if one succeeded.
    pub(super) succeeded: Option<CallKind>,
    /// What it looks like in the table `maps`.
    pub(super) row: Option<MapRow>,
}

/// Applies `event`.
pub(super) fn apply(event: &MapEvent, tasks: &mut Tasks) -> Done {
    let MapEvent { time, tgid, tid, action } = event;
    let row = |action| MapRow::new(*time, (*tgid, *tid), action);
    match action {
        MapAction::Shown(shown) => apply_shown(event, shown, tasks).unwrap_or_default(),
        MapAction::Call { space, call } => {
            tasks.witness(*time, *tgid, *tid, *space);
            apply_call(event, *space, call, tasks)
        }
        MapAction::Copied { parent, child, brk, total_vm } => {
            tasks.copy(*time, (*parent, *child), *brk, *total_vm);
            Done { row: Some(row("fork")), ..Done::default() }
        }
        MapAction::Renewed { space } => {
            tasks.renew(*time, *tid, *space);
            Done::default()
        }
        MapAction::Trimmed { space, pages } => {
            let trimmed =
                tasks.regions_mut(*space).and_then(|(regions, ids)| regions.trim(*time, *pages, ids));
            let row = trimmed.map(|range| MapRow { range: Some(range), ..row("trim") });
            Done { place: Some((*tgid, *space, None)), row, ..Done::default() }
        }
        MapAction::Unexplained { space, syscall } => {
            if let Some((regions, _)) = tasks.regions_mut(*space) {
                regions.doubt(*time);
            }
            let place = Some((*tgid, *space, None));
            let row = MapRow { flags: Some(MapFlags::During(*syscall)), ..row("unexplained") };
            Done { place, row: Some(row), ..Done::default() }
        }
    }
}

/// Applies a VMA that the kernel shows. Rows tell of those that no call explains.
fn apply_shown(event: &MapEvent, shown: &ShownVma, tasks: &mut Tasks) -> Option<Done> {
    let MapEvent { time, tgid, tid, .. } = *event;
    let space = tasks.space_of(tgid, tid)?;
    let is_guest = tasks.is_guest(tgid, space);
    let (regions, ids) = tasks.regions_mut(space)?;
    regions.show(time, tid, shown.clone(), ids);
    if is_guest {
        // It may be part of a program that the guest executes: without BTF its new space is told when that is over.
        regions.doubt(time);
    }
    let is_stack = shown.vma.name == b"[stack]" || regions.grows_down_to(shown.vma.range);
    if !regions.is_loading() && !is_stack {
        return None;
    }
    let action = if regions.is_loading() { "exec" } else { "stack" };
    regions.settle(ids);
    let range = shown.vma.range;
    let label = regions.label(regions.find(range.start())?);
    let place = Some((tgid, space, Some(label.id)));
    let row = MapRow { range: Some(range), ..MapRow::new(time, (tgid, tid), action) }.with_label(Some(label));
    Some(Done { place, succeeded: None, row: Some(row) })
}

fn apply_call(event: &MapEvent, space: SpaceId, call: &MapCall, tasks: &mut Tasks) -> Done {
    let MapEvent { time, tgid, tid, .. } = *event;
    let MapCall { request, result, may_have_resized: _ } = call;
    let kind = request.kind();
    let (mut range, mut label) = (None, None);
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
            // How long a segment is only the region tells.
            range = label.as_ref().map(|label| label.range).or(range);
        }
    }
    let place = Some((tgid, space, label.as_ref().map(|label: &RegionLabel| label.id)));
    let succeeded = result.is_ok().then_some(kind);
    let row = MapRow {
        range,
        flags: flags_of(request),
        result: Some(*result),
        gives_address: matches!(kind, CallKind::Mmap | CallKind::Mremap | CallKind::Brk | CallKind::Shmat),
        ..MapRow::new(time, (tgid, tid), kind.name())
    };
    Done { place, succeeded, row: Some(row.with_label(label)) }
}

/// How rows show the first region in `range`.
fn label_at(regions: &AddressSpace, range: Option<VirtRange>) -> Option<RegionLabel> {
    let region = regions.overlapping(range?).next()?;
    Some(regions.label(region))
}

/// The row for the end of a process.
pub(super) fn exit_row(event: &TaskEvent) -> MapRow {
    MapRow::new(event.time, (event.tgid, event.tid), "exit")
}

/// The row for a contradiction that a reading at `time` of the maps of `tgid` showed.
pub(super) fn contradiction_row(time: Timestamp, tgid: Tgid, contradiction: Contradiction) -> MapRow {
    let Contradiction { range, region, found } = contradiction;
    let row = MapRow::new(time, (tgid, Tid(tgid.0)), "contradiction");
    let (perms, backing, name) = match found {
        Some((perms, backing, name)) => (Some(perms), Some(backing), Some(name)),
        None => (None, None, None),
    };
    MapRow { range: Some(range), region, perms, backing, name, ..row }
}

/// The pages that a call is about; those that it gave if it succeeded.
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
/// Pairs of process and size whose churn is told apart.
const SIZES: usize = 4_096;

/// Sums over all map events; bounded by the number of processes.
#[derive(Debug, Default)]
pub(super) struct MapTotals {
    summary: MapSummary,
    /// Size in bytes and birth of mappings that came by one `mmap`, by place.
    mapped: BTreeMap<(SpaceId, VirtAddr), (u64, Timestamp)>,
    /// The end of the heap.
    breaks: BTreeMap<SpaceId, VirtAddr>,
}

impl MapTotals {
    /// Adds a map event.
    pub(super) fn add(&mut self, event: &MapEvent) {
        let MapAction::Call { space, call: MapCall { request, result, .. } } = &event.action else { return };
        let (space, tgid, kind) = (*space, event.tgid, request.kind());
        let result = match *result {
            Ok(result) => VirtAddr::from_raw(result),
            Err(_) => return *self.summary.failed.entry(kind).or_default() += 1,
        };
        *self.summary.calls.entry(kind).or_default() += 1;
        let (mut grown, mut shrunk) = (0, 0);
        match *request {
            MapRequest::Mmap { length, .. } => {
                grown = length;
                if self.mapped.len() < REMEMBERED {
                    self.mapped.insert((space, result), (length, event.time));
                }
            }
            MapRequest::Munmap { addr, length } => {
                shrunk = length;
                self.unmapped(event, (space, addr), length);
            }
            MapRequest::Mremap { old_addr, old_size, new_size, .. } => {
                grown = new_size.saturating_sub(old_size);
                shrunk = old_size.saturating_sub(new_size);
                self.mapped.remove(&(space, old_addr));
            }
            MapRequest::Brk { .. } => {
                if let Some(before) = self.breaks.insert(space, result) {
                    grown = result.as_raw().saturating_sub(before.as_raw());
                    shrunk = before.as_raw().saturating_sub(result.as_raw());
                }
            }
            MapRequest::Madvise { length, advice, .. } => {
                let (calls, bytes) = self.summary.advice.entry((tgid, advice)).or_default();
                *calls += 1;
                *bytes = bytes.saturating_add(length);
            }
            _ => {}
        }
        let process = self.summary.processes.entry(tgid).or_default();
        process.calls += 1;
        process.mapped = process.mapped.saturating_add(grown);
        process.unmapped = process.unmapped.saturating_add(shrunk);
    }

    /// Notes that `munmap` took `length` bytes at `place` away: churn, if one `mmap` had brought just these.
    fn unmapped(&mut self, event: &MapEvent, place: (SpaceId, VirtAddr), length: u64) {
        let Some((mapped, born)) = self.mapped.remove(&place) else { return };
        let key = (event.tgid, length);
        let churn = &mut self.summary.churn;
        if mapped != length || (churn.len() == SIZES && !churn.contains_key(&key)) {
            return;
        }
        let lifetime = event.time.since(born);
        let none = Churn { count: 0, lifetime_sum: Nanos::default(), shortest: lifetime, longest: lifetime };
        let Churn { count, lifetime_sum, shortest, longest } = churn.entry(key).or_insert(none);
        *count += 1;
        *lifetime_sum += lifetime;
        *shortest = (*shortest).min(lifetime);
        *longest = (*longest).max(lifetime);
    }

    /// Adds a comparison; its contradictions are handed over.
    pub(super) fn compared(&mut self, comparison: Comparison) -> Vec<Contradiction> {
        let identity = &mut self.summary.identity;
        match comparison {
            Comparison::Conclusive(contradictions) => {
                identity.checks += 1;
                identity.contradictions += contradictions.len() as u64;
                return contradictions;
            }
            Comparison::Learnt => identity.learnt += 1,
            Comparison::Inconclusive => identity.inconclusive += 1,
        }
        Vec::new()
    }

    /// Forgets an address space that is no more.
    pub(super) fn forget(&mut self, space: SpaceId) {
        self.breaks.remove(&space);
        let all = (space, VirtAddr::default())..=(space, VirtAddr::from_raw(u64::MAX));
        let gone: Vec<_> = self.mapped.range(all).map(|(place, _)| *place).collect();
        for place in gone {
            self.mapped.remove(&place);
        }
    }

    /// The sums.
    pub(super) fn into_summary(self) -> MapSummary {
        self.summary
    }
}
