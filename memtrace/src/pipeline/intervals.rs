//! Open intervals: what happened in them and what was seen, until their rows can no longer change.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rangemap::RangeSet;

use super::{
    Detail, END_OF_TIME, Options,
    gave::{SlotLook, Unresolved},
    maps::Done,
    pages::{Counting, slot_of, slots},
    places::{self, Places, around},
    tasks::{Position, Task, Tasks},
    totals::Totals,
};
use crate::{
    event::{
        Fault, FaultKind, HeatCell, HeatReading, HostFacts, LookDepth, Loss, MapRequest, Mode, PageLook,
        SpaceId, Tgid, Uncounted,
    },
    timeline::{
        FaultRow, FaultTally, MapTally, PageCause, PageTally, RegionId, RegionLabel, Row, TimelineRow,
    },
    units::{Nanos, PageCount, PageSize, Timestamp, VirtAddr, VirtRange},
};

/// What one row is about. In the order of rows: by process, what no region explains last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CellKey {
    tgid: Option<Tgid>,
    space: SpaceId,
    place: Place,
}

/// Where faults of one row lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Region(RegionId),
    Slot(VirtRange),
    Unknown,
}

/// Faults of one interval that may wait for a look to tell their region; 20 MiB. Those beyond have none.
const MAX_WAITING: usize = 1 << 18;

impl CellKey {
    /// The row for faults of `task` in `region`.
    fn of(task: Option<Task>, position: Option<Position>) -> Self {
        Self {
            tgid: task.map(|task| task.tgid),
            space: task.map_or(SpaceId::UNKNOWN, |task| task.space),
            place: position.map_or(Place::Unknown, |(region, _)| Place::Region(region)),
        }
    }
}

/// What a row will say.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    faults: FaultTally,
    uncounted: Option<u64>,
    maps: MapTally,
    pages: Option<Look>,
}

/// What the looks that follow one reading saw.
#[derive(Clone, Copy, Debug)]
struct Look {
    reading: Timestamp,
    tally: PageTally,
}

/// A fault in no known region: a look before its interval closes may tell of one.
#[derive(Debug)]
struct Waiting {
    fault: Fault,
    task: Task,
    /// Its place among the fault rows, if there are any.
    row: usize,
}

/// One interval.
#[derive(Debug)]
struct Interval {
    start: Timestamp,
    end: Timestamp,
    cells: BTreeMap<CellKey, Cell>,
    waiting: Vec<Waiting>,
    fault_rows: Vec<FaultRow>,
    /// With counts alone: the growth that the reading at its end found.
    grown: Vec<HeatCell>,
}

impl Interval {
    fn new(start: Timestamp, end: Timestamp) -> Self {
        let cells = BTreeMap::new();
        Self { start, end, cells, waiting: Vec::new(), fault_rows: Vec::new(), grown: Vec::new() }
    }
}

/// The intervals that are not closed.
#[derive(Debug)]
pub(super) struct Intervals {
    detail: Detail,
    event_rows: bool,
    page: PageSize,
    counting: Counting,
    places: Places,
    unresolved: Unresolved,
    origin: Timestamp,
    length: Nanos,
    /// In order. With full detail they lie on a grid of `length`, and those in which nothing happened are
    /// left out; with counts alone they lie between readings, and the last one has no end.
    open: VecDeque<Interval>,
    /// End of the last one that was closed.
    closed: Timestamp,
    /// All events before have been counted.
    watermark: Timestamp,
    /// Readings of the heat counters whose looks may not all have been counted.
    readings: VecDeque<Reading>,
    /// The last reading of which all looks have been counted.
    looked: Timestamp,
    /// Faults of the cell that the last one went to: they come in runs.
    run: Option<Run>,
    losses: Vec<Loss>,
}

/// A reading of the heat counters.
#[derive(Debug)]
struct Reading {
    time: Timestamp,
    /// Time of the last look that it gave rise to; of the reading if there was none yet.
    last_look: Timestamp,
    /// The first tick after it: by then its looks have arrived. A recorder that lags behind looks later than its ticks say.
    tick: Option<Timestamp>,
}

impl Reading {
    /// Whether all its looks have been counted, if that is true of all events before `released`.
    fn is_done(&self, released: Timestamp) -> bool {
        self.tick.is_some_and(|tick| tick <= released) && self.last_look < released
    }
}

/// Faults in one cell, one after the other.
#[derive(Debug)]
struct Run {
    start: Timestamp,
    end: Timestamp,
    key: CellKey,
    tally: FaultTally,
}

impl Intervals {
    pub(super) fn new(host: &HostFacts, options: &Options) -> Self {
        let Options { interval, detail, event_rows, .. } = *options;
        let origin = host.start;
        let open = match detail {
            Detail::Full => VecDeque::new(),
            Detail::Counts => VecDeque::from([Interval::new(origin, END_OF_TIME)]),
        };
        Self {
            detail,
            event_rows,
            page: host.page,
            counting: Counting::new(host),
            places: Places::new(host.page),
            unresolved: Unresolved::default(),
            origin,
            length: interval.max(Nanos::new(1)),
            open,
            closed: origin,
            watermark: origin,
            readings: VecDeque::new(),
            looked: origin,
            run: None,
            losses: Vec::new(),
        }
    }

    /// Counts a fault of `task` at `position`, as far as these are known.
    pub(super) fn fault(
        &mut self,
        fault: &Fault,
        task: Option<Task>,
        position: Option<Position>,
        tasks: &Tasks,
    ) {
        let (event_rows, page) = (self.event_rows, self.page);
        let row = self.at(fault.time).fault_rows.len();
        if let Some(Task { space, .. }) = task
            && matches!(fault.kind, FaultKind::Minor | FaultKind::Major)
        {
            let is_first = self.places.fault(space, fault);
            if event_rows {
                self.unresolved.add(space, page, row, fault, is_first);
            }
        }
        if event_rows || position.is_none() {
            let interval = self.at(fault.time);
            if event_rows {
                let (tgid, comm) = task.map(|task| (task.tgid, task.comm)).unzip();
                let place = task.and_then(|task| tasks.place(task.space, fault.addr, position?));
                interval.fault_rows.push(FaultRow { fault: *fault, tgid, comm, place, gave: None });
            }
            if let (Some(task), None) = (task, position)
                && interval.waiting.len() < MAX_WAITING
            {
                interval.waiting.push(Waiting { fault: *fault, task, row });
                return;
            }
        }
        let key = CellKey::of(task, position);
        match &mut self.run {
            Some(run) if run.key == key && run.start <= fault.time && fault.time < run.end => {
                add_fault(&mut run.tally, fault);
            }
            _ => {
                self.end_run();
                let Interval { start, end, .. } = *self.at(fault.time);
                let mut tally = FaultTally::default();
                add_fault(&mut tally, fault);
                self.run = Some(Run { start, end, key, tally });
            }
        }
    }

    /// Puts the faults of a run where they belong.
    fn end_run(&mut self) {
        if let Some(Run { start, key, tally, .. }) = self.run.take() {
            self.at(start).cells.entry(key).or_default().faults += tally;
        }
    }

    /// Counts a call.
    pub(super) fn map(&mut self, time: Timestamp, done: &Done) {
        let (Some((tgid, space, region)), Some(kind)) = (done.place, done.succeeded) else { return };
        let place = region.map_or(Place::Unknown, Place::Region);
        let key = CellKey { tgid: Some(tgid), space, place };
        self.at(time).cells.entry(key).or_default().maps.add(kind);
    }

    /// `space` is new: a program is loaded into it.
    pub(super) fn begin(&mut self, space: SpaceId) {
        self.places.begin(space);
    }

    /// `child` is a copy of `parent`.
    pub(super) fn fork(&mut self, time: Timestamp, parent: SpaceId, child: SpaceId) {
        self.places.fork(time, parent, child);
    }

    /// Notes what a call about `range` may have done to pages.
    pub(super) fn called(&mut self, time: Timestamp, space: SpaceId, request: &MapRequest, range: VirtRange) {
        if self.places.call(time, space, request, range) {
            self.unresolved.forget(space, range, self.page);
        }
    }

    /// Counts faults without an event.
    pub(super) fn uncounted(&mut self, uncounted: &Uncounted) {
        let Uncounted { time, tgid, space, faults, .. } = *uncounted;
        let key = CellKey { tgid: Some(tgid), space, place: Place::Unknown };
        let cell = self.at(time).cells.entry(key).or_default();
        *cell.uncounted.get_or_insert_default() += faults.total();
    }

    /// Notes that records are missing.
    pub(super) fn loss(&mut self, loss: Loss) {
        self.losses.push(loss);
    }

    /// The open interval that `time` belongs to; the oldest if it lies behind.
    fn at(&mut self, time: Timestamp) -> &mut Interval {
        let time = time.max(self.closed);
        let index = self.open.partition_point(|interval| interval.end <= time);
        let is_open = self.open.get(index).is_some_and(|interval| interval.start <= time);
        if !is_open && self.detail == Detail::Full {
            let past = time.since(self.origin).get();
            let start = self.origin.after(Nanos::new(past - past % self.length.get()));
            self.open.insert(index, Interval::new(start, start.after(self.length)));
        }
        let index = index.min(self.open.len() - 1);
        &mut self.open[index]
    }

    /// The interval that a look at `time` is for: the one that had just ended, while its rows can change.
    fn looked_at(&mut self, time: Timestamp) -> &mut Interval {
        let start = self.at(time).start;
        let is_open = self.watermark < start || self.open.iter().any(|interval| interval.end == start);
        self.at(if is_open { start.before(Nanos::new(1)) } else { time })
    }

    /// Time of the reading that a look at `time` followed.
    fn reading_before(&self, time: Timestamp) -> Timestamp {
        let readings = self.readings.iter().map(|reading| reading.time);
        readings.rev().find(|reading| *reading <= time).unwrap_or(self.looked)
    }

    /// Notes page state.
    pub(super) fn look(
        &mut self,
        time: Timestamp,
        (tgid, space): (Tgid, SpaceId),
        look: &PageLook,
        tasks: &Tasks,
        totals: &mut Totals,
        rows: &mut Vec<Row>,
    ) {
        let range = look.range;
        let (page, reading, counting) = (self.page, self.reading_before(time), self.counting);
        let interval = self.looked_at(time);
        let regions = tasks.regions(space).into_iter().flat_map(|regions| regions.overlapping(range));
        for region in regions {
            let (id, whole) = (region.id, region.range);
            let Some(looked) = whole.intersection(range) else { continue };
            let key = CellKey { tgid: Some(tgid), space, place: Place::Region(id) };
            let cell = interval.cells.entry(key).or_default();
            let nothing = Look { reading, tally: PageTally::at(time) };
            let seen = cell.pages.get_or_insert(nothing);
            if seen.reading != reading {
                *seen = nothing;
            }
            let tally = &mut seen.tally;
            tally.looked = time;
            tally.looked_pages += looked.pages(page);
            totals.looked_at(id, look.reason);
            for part in slots(looked) {
                let state = counting.count(look, part, |range| range.pages(page));
                tally.counts += &state;
                totals.seen(id).see(time, slot_of(part.start()), state);
            }
        }
        if look.depth >= LookDepth::Words && self.detail == Detail::Full {
            let touched = self.places.touched_since(look.began, space, range);
            for slot in slots(range) {
                self.look_closely(time, (tgid, space), look, (slot, &touched), tasks, rows);
            }
        }
    }

    /// Notes what changed in a slot since it was looked at before, and what faults gave; not of what was touched amid the look.
    fn look_closely(
        &mut self,
        time: Timestamp,
        (tgid, space): (Tgid, SpaceId),
        look: &PageLook,
        (slot, touched): (VirtRange, &RangeSet<VirtAddr>),
        tasks: &Tasks,
        rows: &mut Vec<Row>,
    ) {
        let page = self.page;
        let first = look.runs.partition_point(|run| run.range.end() <= slot.start());
        let runs: Vec<_> = look.runs[first..].iter().map_while(|run| run.part(slot, page)).collect();
        let region_at = |addr| tasks.regions(space)?.find(addr).map(|region| region.range);
        let faults = self.unresolved.take(space, slot, page, look.began, touched);
        let amid = if touched.overlaps(&slot.addrs()) {
            let came = faults.iter().filter_map(|(addr, _)| around(*addr, region_at(*addr)?));
            places::amid(slot, &runs, touched, &came.map(VirtRange::addrs).collect())
        } else {
            RangeSet::new()
        };
        let before = self.places.replace(time, space, slot, &runs, amid);
        let told = self.counting.told_by(look);
        let seen = SlotLook { began: look.began, runs: &runs, before: &before, page, told };
        for region in tasks.regions(space).into_iter().flat_map(|regions| regions.overlapping(slot)) {
            let Some(part) = region.range.intersection(slot).filter(|part| before.knows_of(*part)) else {
                continue;
            };
            let changes = before.changes(part, &runs, page);
            let migrated = changes.iter().filter(|change| seen.cause_of(change) == PageCause::Migration);
            let migrated = PageCount::new(migrated.map(|change| change.range.pages(page).get()).sum());
            let key = CellKey { tgid: Some(tgid), space, place: Place::Region(region.id) };
            if look.depth >= LookDepth::Frames
                && let Some(cell) = self.looked_at(time).cells.get_mut(&key)
                && let Some(look) = &mut cell.pages
            {
                *look.tally.migrated.get_or_insert_default() += migrated;
            }
            if self.event_rows {
                rows.extend(
                    changes.iter().filter_map(|change| seen.row(change, tgid, region.id)).map(Row::Pages),
                );
            }
        }
        let mut counted = slot.start();
        for (addr, fault) in faults {
            if let Some(row) = self.at(fault.time).fault_rows.get_mut(fault.row) {
                row.gave = seen.gave(row, region_at(addr), &fault, &mut counted);
            }
        }
    }

    /// Notes that the heat counters were read. With counts alone that ends the interval in progress.
    pub(super) fn read(&mut self, reading: &HeatReading) {
        let time = reading.time;
        self.readings.push_back(Reading { time, last_look: time, tick: None });
        if self.detail == Detail::Counts
            && let Some(current) = self.open.back_mut()
        {
            current.end = reading.time.max(current.start);
            current.grown.clone_from(&reading.cells);
            let next = Interval::new(current.end, END_OF_TIME);
            self.open.push_back(next);
        }
    }

    /// Notes that a look at `time` has arrived, which is counted when all events before it have been.
    pub(super) fn expect_look(&mut self, time: Timestamp) {
        if let Some(reading) = self.readings.back_mut() {
            reading.last_look = reading.last_look.max(time);
        }
    }

    /// Closes every interval that ended before `released` and was looked at after its end, now that `tick` has come.
    ///
    /// The tick that passes the end of an interval comes before the reading that it gives rise to, and the looks come before
    /// the next tick; if there is no reading, one more interval is time enough.
    pub(super) fn close_until(
        &mut self,
        tick: Timestamp,
        released: Timestamp,
        tasks: &mut Tasks,
        totals: &mut Totals,
        rows: &mut Vec<Row>,
    ) {
        self.watermark = self.watermark.max(released);
        for reading in &mut self.readings {
            reading.tick.get_or_insert(tick);
        }
        while let Some(reading) = self.readings.pop_front_if(|reading| reading.is_done(released)) {
            self.looked = self.looked.max(reading.time);
        }
        let (looked, length) = (self.looked, self.length);
        let last_reading = self.readings.back().map(|reading| reading.time);
        let is_over = |interval: &mut Interval| {
            let waits = last_reading.is_some_and(|reading| reading >= interval.end);
            interval.end <= released
                && (interval.end <= looked || !waits && interval.end.after(length) <= released)
        };
        while self.open.front_mut().is_some_and(is_over) {
            self.close_front(tasks, totals, rows);
        }
    }

    /// Closes all intervals; the last one at `end`.
    pub(super) fn close_all(
        &mut self,
        end: Timestamp,
        tasks: &mut Tasks,
        totals: &mut Totals,
        rows: &mut Vec<Row>,
    ) {
        if let Some(last) = self.open.back_mut() {
            last.end = last.end.min(end).max(last.start);
        }
        while !self.open.is_empty() {
            self.close_front(tasks, totals, rows);
        }
    }

    /// Turns the oldest interval into rows.
    fn close_front(&mut self, tasks: &mut Tasks, totals: &mut Totals, rows: &mut Vec<Row>) {
        self.end_run();
        let Some(mut interval) = self.open.pop_front() else { return };
        interval.place_waiting(tasks);
        interval.place_grown(tasks);
        let Interval { start, end, cells, fault_rows, .. } = interval;
        self.unresolved.forget_before(end);
        for row in &fault_rows {
            totals.gave(row);
        }
        rows.extend(fault_rows.into_iter().map(Row::Fault));

        let lower_bound = self.losses.iter().any(|loss| loss.touches(start, end));
        let from = rows.len();
        let labels = labels_of(tasks, &cells);
        for (CellKey { tgid, space: _, place }, Cell { mut faults, uncounted, maps, pages }) in cells {
            if self.detail == Detail::Full {
                faults.detail.get_or_insert_default();
            }
            let (region, range) = match place {
                Place::Region(id) => (labels.get(&id).cloned(), None),
                Place::Slot(slot) => (None, Some(slot)),
                Place::Unknown => (None, None),
            };
            let comm = tgid.map(|tgid| tasks.name(tgid)).unwrap_or_default();
            let pages = pages.map(|look| look.tally);
            let row = TimelineRow {
                start,
                end,
                tgid,
                comm,
                region,
                range,
                faults,
                uncounted,
                maps,
                pages,
                lower_bound,
            };
            totals.row(&row);
            rows.push(Row::Timeline(row));
        }
        rows[from..].sort_by_key(row_order);
        rows.extend(totals.purge(tasks.purge(start)).map(Row::Region));
        self.places.retain(|space| tasks.regions(space).is_some());
        self.closed = end;
        self.losses.retain(|loss| loss.end.is_none_or(|until| until >= end));
    }
}

impl Interval {
    /// Counts the faults that waited, where the looks since then tell that they belong.
    fn place_waiting(&mut self, tasks: &Tasks) {
        for Waiting { fault, task, row } in self.waiting.drain(..) {
            let position = tasks.position(task.space, fault.addr, fault.time);
            if let Some(row) = self.fault_rows.get_mut(row) {
                row.place = position.and_then(|position| tasks.place(task.space, fault.addr, position));
            }
            let key = CellKey::of(Some(task), position);
            add_fault(&mut self.cells.entry(key).or_default().faults, &fault);
        }
    }

    /// Puts what a reading found where it belongs: to the region of a slot that touches no other.
    fn place_grown(&mut self, tasks: &Tasks) {
        for HeatCell { space, slot, faults } in self.grown.drain(..) {
            let tgid = space.and_then(|space| tasks.process_of(space));
            let space = space.unwrap_or(SpaceId::UNKNOWN);
            let place = match slot {
                None => Place::Unknown,
                Some(slot) => only_region(tasks, space, slot).map_or(Place::Slot(slot), Place::Region),
            };
            self.cells.entry(CellKey { tgid, space, place }).or_default().faults.completed += faults;
        }
    }
}

/// By process, then by address; what no region explains last.
fn row_order(row: &Row) -> (Option<Tgid>, bool, Option<VirtRange>) {
    let Row::Timeline(row) = row else { return (None, false, None) };
    let range = row.region.as_ref().map(|region| region.range).or(row.range);
    (row.tgid, row.region.is_none(), range)
}

/// The labels of the regions that `cells` are about.
fn labels_of(tasks: &Tasks, cells: &BTreeMap<CellKey, Cell>) -> BTreeMap<RegionId, RegionLabel> {
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
        labels.extend(live.map(|region| (region.id, regions.label(region))));
        let retired = regions.retired().iter().filter(|retired| ids.contains(&retired.label.id));
        labels.extend(retired.map(|retired| (retired.label.id, retired.label.clone())));
    }
    labels
}

/// The region that `slot` lies in, if it touches no other.
fn only_region(tasks: &Tasks, space: SpaceId, slot: VirtRange) -> Option<RegionId> {
    let mut touched = tasks.regions(space)?.overlapping(slot);
    let first = touched.next()?;
    touched.next().is_none().then_some(first.id)
}

/// Counts one fault.
fn add_fault(tally: &mut FaultTally, fault: &Fault) {
    let Fault { access, protection, mode, kind, latency, .. } = *fault;
    let detail = tally.detail.get_or_insert_default();
    match kind {
        FaultKind::Minor => tally.completed.minor += 1,
        FaultKind::Major => tally.completed.major += 1,
        FaultKind::Failed | FaultKind::Retried | FaultKind::Unfinished => {
            detail.failed += 1;
            return;
        }
    }
    detail.access.add(access, protection);
    detail.kernel += u64::from(mode == Mode::Kernel);
    if let Some(latency) = latency {
        detail.latency_sum = Nanos::new(detail.latency_sum.get() + latency.get());
        detail.latency_max = detail.latency_max.max(latency);
    }
}
