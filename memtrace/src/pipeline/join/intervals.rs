//! Open intervals: what happened in them and what was seen, until their rows can no longer change.

mod interval;

use std::collections::VecDeque;

use interval::{CellKey, Interval, Place, Scan, add_fault};
use rangemap::RangeSet;

use super::{
    maps::Done,
    pages::{
        counts::Counting,
        history::{self, PageHistory, around},
        outcome::{SlotScan, Unresolved},
    },
    reclaims::Reclaims,
    tasks::{Position, Task, Tasks},
    totals::Totals,
};
use crate::{
    event::{
        Fault, HeatReading, HostFacts, Loss, MapRequest, PageScan, ReclaimReading, ScanDepth, SpaceId,
        Uncounted,
    },
    pipeline::{
        Detail, END_OF_TIME, Options,
        slots::{slot_of, slots},
    },
    timeline::{FaultRow, FaultTally, PageCause, PageTally, ProcessId, Row},
    units::{Nanos, PageCount, PageSize, Timestamp, VirtAddr, VirtRange},
};

/// The intervals that are not closed.
#[derive(Debug)]
pub(in crate::pipeline) struct Intervals {
    detail: Detail,
    event_rows: bool,
    page: PageSize,
    counting: Counting,
    places: PageHistory,
    reclaims: Reclaims,
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
    /// Readings of the heat counters whose scans may not all have been counted.
    readings: VecDeque<Reading>,
    /// The last reading of which all scans have been counted.
    scanned: Timestamp,
    /// Faults of the cell that the last one went to: they come in runs.
    run: Option<Run>,
    losses: Vec<Loss>,
}

/// A reading of the heat counters.
#[derive(Debug)]
struct Reading {
    time: Timestamp,
    /// Time of the last scan that followed it; of the reading if there was none yet.
    last_scan: Timestamp,
    /// The first tick after it: by then its scans have arrived. A recorder that lags behind scans later than its ticks say.
    tick: Option<Timestamp>,
}

impl Reading {
    /// Whether all its scans have been counted, if that is true of all events before `released`.
    fn is_done(&self, released: Timestamp) -> bool {
        self.tick.is_some_and(|tick| tick <= released) && self.last_scan < released
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
    pub(in crate::pipeline) fn new(host: &HostFacts, options: &Options) -> Self {
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
            places: PageHistory::new(host.page),
            reclaims: Reclaims::default(),
            unresolved: Unresolved::default(),
            origin,
            length: interval.max(Nanos::new(1)),
            open,
            closed: origin,
            watermark: origin,
            readings: VecDeque::new(),
            scanned: origin,
            run: None,
            losses: Vec::new(),
        }
    }

    /// Counts a fault of `task` at `position`, as far as these are known.
    pub(in crate::pipeline) fn fault(
        &mut self,
        fault: &Fault,
        task: Option<Task>,
        position: Option<Position>,
        tasks: &Tasks,
    ) {
        let (event_rows, page) = (self.event_rows, self.page);
        let row = self.at(fault.time).fault_rows.len();
        if let Some(Task { space, .. }) = task
            && fault.kind.is_completed()
        {
            let is_first = self.places.fault(space, fault);
            if event_rows {
                self.unresolved.add(space, page, row, fault, is_first);
            }
        }
        if event_rows || position.is_none() {
            let interval = self.at(fault.time);
            if event_rows {
                let (tgid, comm) = task.map(|task| (task.process.tgid, task.comm)).unzip();
                let place = task.and_then(|task| tasks.place(task.space, fault.addr, position?));
                interval.fault_rows.push(FaultRow { fault: *fault, tgid, comm, place, outcome: None });
            }
            if let (Some(task), None) = (task, position)
                && interval.keep_waiting(fault, task, row)
            {
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
    pub(in crate::pipeline) fn map(&mut self, time: Timestamp, done: &Done) {
        let (Some((process, space, region)), Some(kind)) = (done.place, done.succeeded) else { return };
        let place = region.map_or(Place::Unknown, Place::Region);
        let key = CellKey { process: Some(process), space, place };
        self.at(time).cells.entry(key).or_default().maps.add(kind);
    }

    /// `space` is new: a program is loaded into it.
    pub(in crate::pipeline) fn begin(&mut self, space: SpaceId) {
        self.places.begin(space);
    }

    /// `child` is a copy of `parent`.
    pub(in crate::pipeline) fn fork(&mut self, time: Timestamp, parent: SpaceId, child: SpaceId) {
        self.places.fork(time, parent, child);
    }

    /// Notes what a call about `range` may have done to pages.
    pub(in crate::pipeline) fn called(
        &mut self,
        time: Timestamp,
        space: SpaceId,
        request: &MapRequest,
        range: VirtRange,
    ) {
        if self.places.call(time, space, request, range) {
            self.unresolved.forget(space, range, self.page);
        }
    }

    /// Counts faults of `process` without an event.
    pub(in crate::pipeline) fn uncounted(&mut self, uncounted: &Uncounted, process: ProcessId) {
        let Uncounted { time, space, faults, .. } = *uncounted;
        let key = CellKey { process: Some(process), space, place: Place::Unknown };
        let cell = self.at(time).cells.entry(key).or_default();
        *cell.uncounted.get_or_insert_default() += faults.total();
    }

    /// Notes that records are missing.
    pub(in crate::pipeline) fn loss(&mut self, loss: Loss) {
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

    /// The interval that a scan at `time` is for: the one that had just ended, while its rows can change.
    fn scanned(&mut self, time: Timestamp) -> &mut Interval {
        let start = self.at(time).start;
        let is_open = self.watermark < start || self.open.iter().any(|interval| interval.end == start);
        self.at(if is_open { start.before(Nanos::new(1)) } else { time })
    }

    /// Time of the reading that a scan at `time` followed.
    fn reading_before(&self, time: Timestamp) -> Timestamp {
        let readings = self.readings.iter().map(|reading| reading.time);
        readings.rev().find(|reading| *reading <= time).unwrap_or(self.scanned)
    }

    /// Notes how much the kernel has reclaimed.
    pub(in crate::pipeline) fn reclaim(&mut self, reading: ReclaimReading) {
        self.reclaims.read(reading);
    }

    /// Notes page state.
    pub(in crate::pipeline) fn scan(
        &mut self,
        time: Timestamp,
        (process, space): (ProcessId, SpaceId),
        scan: &PageScan,
        tasks: &Tasks,
        totals: &mut Totals,
        rows: &mut Vec<Row>,
    ) {
        let range = scan.range;
        let (page, reading, counting) = (self.page, self.reading_before(time), self.counting);
        let interval = self.scanned(time);
        let regions = tasks.regions(space).into_iter().flat_map(|regions| regions.overlapping(range));
        for region in regions {
            let (id, whole) = (region.id, region.range);
            let Some(scanned) = whole.intersection(range) else { continue };
            let key = CellKey { process: Some(process), space, place: Place::Region(id) };
            let cell = interval.cells.entry(key).or_default();
            let nothing = Scan { reading, tally: PageTally::at(time) };
            let seen = cell.pages.get_or_insert(nothing);
            if seen.reading != reading {
                *seen = nothing;
            }
            let tally = &mut seen.tally;
            tally.scanned = time;
            tally.scanned_pages += scanned.pages(page);
            totals.scanned(id, scan.reason);
            for part in slots(scanned) {
                let state = counting.count(scan, part, |range| range.pages(page));
                tally.counts += &state;
                totals.seen(id).see(time, slot_of(part.start()), state);
            }
        }
        if scan.depth >= ScanDepth::Words && self.detail == Detail::Full {
            let touched = self.places.touched_since(scan.began, space, range);
            for slot in slots(range) {
                self.scan_closely(time, (process, space), scan, (slot, &touched), tasks, rows);
            }
        }
    }

    /// Notes what changed in a slot since it was scanned before, and what faults gave; not of what was touched amid the scan.
    fn scan_closely(
        &mut self,
        time: Timestamp,
        (process, space): (ProcessId, SpaceId),
        scan: &PageScan,
        (slot, touched): (VirtRange, &RangeSet<VirtAddr>),
        tasks: &Tasks,
        rows: &mut Vec<Row>,
    ) {
        let page = self.page;
        let first = scan.runs.partition_point(|run| run.range.end() <= slot.start());
        let runs: Vec<_> = scan.runs[first..].iter().map_while(|run| run.part(slot, page)).collect();
        let region_at = |addr| tasks.regions(space)?.find(addr).map(|region| region.range);
        let faults = self.unresolved.take(space, slot, page, scan.began, touched);
        let amid = if touched.overlaps(&slot.addrs()) {
            let came = faults.iter().filter_map(|(addr, _)| around(*addr, region_at(*addr)?));
            history::amid(slot, &runs, touched, &came.map(VirtRange::addrs).collect())
        } else {
            RangeSet::new()
        };
        let before = self.places.replace(time, space, slot, &runs, amid);
        let known = self.counting.told_by(scan);
        let reclaims = self.reclaims;
        let seen = SlotScan { began: scan.began, runs: &runs, before: &before, page, known, reclaims };
        for region in tasks.regions(space).into_iter().flat_map(|regions| regions.overlapping(slot)) {
            let Some(part) = region.range.intersection(slot).filter(|part| before.knows_of(*part)) else {
                continue;
            };
            let changes = before.changes(part, &runs, page);
            let migrated = changes.iter().filter(|change| seen.cause_of(change) == PageCause::Migration);
            let migrated = PageCount::new(migrated.map(|change| change.range.pages(page).get()).sum());
            let key = CellKey { process: Some(process), space, place: Place::Region(region.id) };
            if scan.depth >= ScanDepth::Frames
                && let Some(cell) = self.scanned(time).cells.get_mut(&key)
                && let Some(scan) = &mut cell.pages
            {
                *scan.tally.migrated.get_or_insert_default() += migrated;
            }
            if self.event_rows {
                rows.extend(
                    changes
                        .iter()
                        .filter_map(|change| seen.row(change, process.tgid, region.id))
                        .map(Row::Pages),
                );
            }
        }
        let mut counted = slot.start();
        for (addr, fault) in faults {
            if let Some(row) = self.at(fault.time).fault_rows.get_mut(fault.row) {
                row.outcome = seen.outcome(row, region_at(addr), &fault, &mut counted);
            }
        }
    }

    /// Notes that the heat counters were read. With counts alone that ends the interval in progress.
    pub(in crate::pipeline) fn read(&mut self, reading: &HeatReading) {
        let time = reading.time;
        self.readings.push_back(Reading { time, last_scan: time, tick: None });
        if self.detail == Detail::Counts
            && let Some(current) = self.open.back_mut()
        {
            current.end = reading.time.max(current.start);
            current.grown.clone_from(&reading.cells);
            let next = Interval::new(current.end, END_OF_TIME);
            self.open.push_back(next);
        }
    }

    /// Notes that a scan at `time` has arrived, which is counted when all events before it have been.
    pub(in crate::pipeline) fn expect_scan(&mut self, time: Timestamp) {
        if let Some(reading) = self.readings.back_mut() {
            reading.last_scan = reading.last_scan.max(time);
        }
    }

    /// Closes every interval that ended before `released` and was scanned after its end, now that `tick` has come.
    ///
    /// The tick that passes the end of an interval comes before the reading that follows it, and the scans come before
    /// the next tick; if there is no reading, one more interval is time enough.
    pub(in crate::pipeline) fn close_until(
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
            self.scanned = self.scanned.max(reading.time);
        }
        let (scanned, length) = (self.scanned, self.length);
        let last_reading = self.readings.back().map(|reading| reading.time);
        let is_over = |interval: &mut Interval| {
            let waits = last_reading.is_some_and(|reading| reading >= interval.end);
            interval.end <= released
                && (interval.end <= scanned || !waits && interval.end.after(length) <= released)
        };
        while self.open.front_mut().is_some_and(is_over) {
            self.close_front(tasks, totals, rows);
        }
    }

    /// Closes all intervals; the last one at `end`.
    pub(in crate::pipeline) fn close_all(
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
        interval.place_all(tasks);
        let (start, end) = (interval.start, interval.end);
        self.unresolved.forget_before(end);
        for row in &interval.fault_rows {
            totals.outcome(row);
        }
        rows.extend(interval.fault_rows.drain(..).map(Row::Fault));

        let lower_bound = self.losses.iter().any(|loss| loss.touches(start, end));
        for mut row in interval.into_rows(tasks, lower_bound) {
            if self.detail == Detail::Full {
                row.faults.detail.get_or_insert_default();
            }
            totals.row(&row);
            rows.push(Row::Timeline(row));
        }
        rows.extend(totals.purge(tasks.purge(start)).map(Row::Region));
        self.places.retain(|space| tasks.regions(space).is_some());
        self.closed = end;
        self.losses.retain(|loss| loss.end.is_none_or(|until| until >= end));
    }
}
