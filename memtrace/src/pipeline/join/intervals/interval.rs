//! One interval: what happened in it by process and region, and how that becomes rows.

use std::collections::{BTreeMap, BTreeSet};

use super::held::HeldFaults;
use crate::{
    event::{Fault, FaultKind, HeatCell, Mode, SpaceId},
    pipeline::join::{
        pages::{FaultId, PageLedger},
        tasks::{Position, Task, Tasks},
    },
    timeline::{
        FaultTally, MapTally, PageTally, ProcessId, Refault, RegionId, RegionLabel, Residency, TimelineRow,
    },
    units::{Timestamp, VirtRange},
};

/// What one row is about. In the order of rows: by process, what no region explains last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CellKey {
    pub(super) process: Option<ProcessId>,
    pub(super) space: SpaceId,
    pub(super) place: Place,
}

/// Where faults of one row lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Region(RegionId),
    Slot(VirtRange),
    Unknown,
}

/// Faults of one interval that may wait for a scan that finds their region; 20 MiB. Those beyond have none.
const MAX_WAITING: usize = 1 << 18;

impl CellKey {
    /// The row for faults of `task` in `region`.
    pub(super) fn of(task: Option<Task>, position: Option<Position>) -> Self {
        Self {
            process: task.map(|task| task.process),
            space: task.map_or(SpaceId::UNKNOWN, |task| task.space),
            place: position.map_or(Place::Unknown, |(region, _)| Place::Region(region)),
        }
    }
}

/// What a row will say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cell {
    pub(super) faults: FaultTally,
    pub(super) uncounted: Option<u64>,
    pub(super) maps: MapTally,
    pub(super) pages: Option<Scan>,
}

/// What the scans that follow one reading saw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scan {
    pub(super) reading: Timestamp,
    pub(super) tally: PageTally,
}

/// A fault in no known region: a scan before its interval closes may find one.
#[derive(Debug)]
struct Waiting {
    fault: Fault,
    task: Task,
    /// Its row, if it has one.
    row: Option<FaultId>,
}

/// One interval.
#[derive(Debug)]
pub(super) struct Interval {
    pub(super) start: Timestamp,
    pub(super) end: Timestamp,
    pub(super) cells: BTreeMap<CellKey, Cell>,
    waiting: Vec<Waiting>,
    /// How many rows of its faults are held.
    pub(super) fault_rows: usize,
    /// With counts alone: the growth that the reading at its end found.
    pub(super) grown: Vec<HeatCell>,
}

impl Interval {
    pub(super) fn new(start: Timestamp, end: Timestamp) -> Self {
        let cells = BTreeMap::new();
        Self { start, end, cells, waiting: Vec::new(), fault_rows: 0, grown: Vec::new() }
    }

    /// Keeps a fault in no known region until rows are made; `false` if there is no room for it.
    pub(super) fn keep_waiting(&mut self, fault: &Fault, task: Task, row: Option<FaultId>) -> bool {
        let has_room = self.waiting.len() < MAX_WAITING;
        if has_room {
            self.waiting.push(Waiting { fault: *fault, task, row });
        }
        has_room
    }

    /// Gives all that waited a row.
    pub(super) fn place_all(&mut self, tasks: &Tasks, held: &mut HeldFaults) {
        self.place_waiting(tasks, held);
        self.place_grown(tasks);
    }

    /// Gives each of `regions` a row, if its process is known.
    pub(super) fn add_rows(&mut self, regions: Vec<(SpaceId, RegionId)>, tasks: &Tasks) {
        let has_row: BTreeSet<_> = self.cells.keys().map(|key| (key.space, key.place)).collect();
        let place_of = |(space, region)| (space, Place::Region(region));
        for (space, place) in regions.into_iter().map(place_of).filter(|place| !has_row.contains(place)) {
            if let Some(process) = tasks.process_of(space) {
                self.cells.entry(CellKey { process: Some(process), space, place }).or_default();
            }
        }
    }

    /// The rows of the timeline, in their order, with what `pages` have settled; `lower_bound` if records of this time are missing.
    pub(super) fn into_rows(self, tasks: &Tasks, pages: &PageLedger, lower_bound: bool) -> Vec<TimelineRow> {
        let Self { start, end, cells, .. } = self;
        let labels = labels_of(tasks, &cells);
        let row = |(key, cell): (CellKey, Cell)| {
            let (region, range) = match key.place {
                Place::Region(id) => (labels.get(&id), None),
                Place::Slot(slot) => (None, Some(slot)),
                Place::Unknown => (None, None),
            };
            let residency = match region {
                Some((_, Some(died))) if *died < end => Some(Residency::default()),
                Some((label, _)) => pages.settled(label.id),
                None => None,
            };
            TimelineRow {
                start,
                end,
                process: key.process,
                comm: key.process.map(|process| tasks.name(process)).unwrap_or_default(),
                region: region.map(|(label, _)| label.clone()),
                range,
                faults: cell.faults,
                uncounted: cell.uncounted,
                maps: cell.maps,
                pages: cell.pages.map(|scan| scan.tally),
                residency,
                lower_bound,
            }
        };
        let mut rows: Vec<_> = cells.into_iter().map(row).collect();
        rows.sort_by_key(row_order);
        rows
    }

    /// Counts the faults that waited, to the regions that scans have found since.
    fn place_waiting(&mut self, tasks: &Tasks, held: &mut HeldFaults) {
        for Waiting { fault, task, row } in self.waiting.drain(..) {
            let position = tasks.position(task.space, fault.addr, fault.time);
            if let Some(row) = row.and_then(|row| held.get_mut(row)) {
                row.place = position.and_then(|position| tasks.place(task.space, fault.addr, position));
                row.module = tasks.module(Some(task.space), &fault);
            }
            let key = CellKey::of(Some(task), position);
            add_fault(&mut self.cells.entry(key).or_default().faults, &fault, None);
        }
    }

    /// Puts what a reading found where it belongs: to the region of a slot that touches no other.
    fn place_grown(&mut self, tasks: &Tasks) {
        for HeatCell { space, slot, faults } in self.grown.drain(..) {
            let process = space.and_then(|space| tasks.process_of(space));
            let space = space.unwrap_or(SpaceId::UNKNOWN);
            let place = match slot {
                None => Place::Unknown,
                Some(slot) => only_region(tasks, space, slot).map_or(Place::Slot(slot), Place::Region),
            };
            self.cells.entry(CellKey { process, space, place }).or_default().faults.completed += faults;
        }
    }
}

/// By process, then by address; what no region explains last.
fn row_order(row: &TimelineRow) -> (Option<ProcessId>, bool, Option<VirtRange>) {
    let range = row.region.as_ref().map(|region| region.range).or(row.range);
    (row.process, row.region.is_none(), range)
}

/// The labels of the regions that `cells` are about, and when those died that have.
fn labels_of(
    tasks: &Tasks,
    cells: &BTreeMap<CellKey, Cell>,
) -> BTreeMap<RegionId, (RegionLabel, Option<Timestamp>)> {
    let mut by_space: BTreeMap<SpaceId, BTreeSet<RegionId>> = BTreeMap::new();
    for key in cells.keys() {
        if let Place::Region(id) = key.place {
            by_space.entry(key.space).or_default().insert(id);
        }
    }
    let mut labels = BTreeMap::new();
    for (space, ids) in by_space {
        let Some(regions) = tasks.regions(space) else { continue };
        let live = regions.live().filter(|region| ids.contains(&region.id));
        labels.extend(live.map(|region| (region.id, (regions.label(region), None))));
        let retired = regions.retired().iter().filter(|retired| ids.contains(&retired.label.id));
        let dead = retired.map(|retired| (retired.label.id, (retired.label.clone(), Some(retired.died))));
        labels.extend(dead);
    }
    labels
}

/// The region that `slot` lies in, if it touches no other.
fn only_region(tasks: &Tasks, space: SpaceId, slot: VirtRange) -> Option<RegionId> {
    let mut overlapping = tasks.regions(space)?.overlapping(slot);
    let first = overlapping.next()?;
    overlapping.next().is_none().then_some(first.id)
}

/// Counts one fault, of a page that had been resident if it is a `refault`.
pub(super) fn add_fault(tally: &mut FaultTally, fault: &Fault, refault: Option<Refault>) {
    let Fault { access, protection, mode, kind, latency, .. } = *fault;
    let detail = tally.detail.get_or_insert_default();
    match kind {
        FaultKind::Minor => tally.completed.minor += 1,
        FaultKind::Major => tally.completed.major += 1,
        FaultKind::Failed => {
            detail.failed += 1;
            return;
        }
        FaultKind::Refused | FaultKind::Emulated | FaultKind::Retried | FaultKind::Unfinished => {
            detail.incomplete += 1;
            return;
        }
    }
    detail.access.add(access, protection);
    detail.kernel += u64::from(mode == Mode::Kernel);
    detail.refaults += u64::from(refault.is_some());
    if let Some(latency) = latency {
        detail.latency_sum += latency;
        detail.latency_max = detail.latency_max.max(Some(latency));
    }
}
