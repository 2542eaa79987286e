//! Open intervals: what happened in them and what was seen, until their rows can no longer change.

mod held;
mod interval;

use std::collections::VecDeque;

use held::HeldFaults;
use interval::{CellKey, Interval, Place, Scan, add_fault};

use super::{
    maps::Done,
    pages::{FaultId, Findings, Met, PageLedger},
    stacks::Stacks,
    tasks::{Position, Task, Tasks},
    totals::Totals,
};
use crate::{
    event::{Fault, HeatReading, HostFacts, Loss, MapEvent, Mode, SpaceId, Uncounted, syscall_name},
    pipeline::{Detail, END_OF_TIME, Options},
    timeline::{FaultRow, FaultTally, OutcomeUnknown, PageTally, ProcessId, Row, RowSet},
    units::{Nanos, Timestamp},
};

/// The intervals that are not closed.
#[derive(Debug)]
pub(in crate::pipeline) struct Intervals {
    detail: Detail,
    /// Architecture of the host, by which system calls have their names.
    arch: String,
    wants: RowSet,
    /// Whether each fault is followed until its outcome is known.
    follows_faults: bool,
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
    /// Rows of the faults in open intervals, if each gives one.
    held: HeldFaults,
    losses: Vec<Loss>,
    pub(in crate::pipeline) stacks: Stacks,
}

/// A reading of the heat counters.
#[derive(Debug)]
struct Reading {
    time: Timestamp,
    /// Time of the last scan that followed it; of the reading if there was none yet.
    last_scan: Timestamp,
    /// The first tick after it.
    tick: Option<Timestamp>,
    /// Whether all its scans have arrived. Those of a recorder that lags behind come later than its ticks say.
    is_answered: bool,
}

impl Reading {
    /// Whether all its scans have been counted, if that is true of all events before `released`.
    fn is_done(&self, released: Timestamp) -> bool {
        self.is_answered && self.tick.is_some_and(|tick| tick <= released) && self.last_scan < released
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

/// How far behind its ticks a recorder may take a reading, and still have the intervals before it wait for that. What they hold grows with
/// it.
const LAG: Nanos = Nanos::new(2_000_000_000);

impl Intervals {
    pub(in crate::pipeline) fn new(host: &HostFacts, options: &Options) -> Self {
        let Options { interval, detail, wants, .. } = *options;
        let origin = host.start;
        let open = match detail {
            Detail::Full => VecDeque::new(),
            Detail::Counts => VecDeque::from([Interval::new(origin, END_OF_TIME)]),
        };
        Self {
            detail,
            arch: host.arch.clone(),
            wants,
            follows_faults: wants.intersects(RowSet::FAULTS | RowSet::SUMS),
            origin,
            length: interval.max(Nanos::new(1)),
            open,
            closed: origin,
            watermark: origin,
            readings: VecDeque::new(),
            scanned: origin,
            run: None,
            held: HeldFaults::new(),
            losses: Vec::new(),
            stacks: Stacks::default(),
        }
    }

    /// Counts a fault of `task` at `position`, as far as these are known. The number of its row, if it gives one.
    pub(in crate::pipeline) fn fault(
        &mut self,
        fault: &Fault,
        (task, position): (Option<Task>, Option<Position>),
        met: Met,
        tasks: &Tasks,
    ) -> Option<FaultId> {
        let id = self.follows_faults.then(|| self.hold(fault, (task, position), met, tasks));
        if let (Some(task), None) = (task, position)
            && self.at(fault.time).keep_waiting(fault, task, id)
        {
            return id;
        }
        let key = CellKey::of(task, position);
        match &mut self.run {
            Some(run) if run.key == key && run.start <= fault.time && fault.time < run.end => {
                add_fault(&mut run.tally, fault, met.refault);
            }
            _ => {
                self.end_run();
                let Interval { start, end, .. } = *self.at(fault.time);
                let mut tally = FaultTally::default();
                add_fault(&mut tally, fault, met.refault);
                self.run = Some(Run { start, end, key, tally });
            }
        }
        id
    }

    /// Makes the row of a fault, to be held until its interval closes.
    fn hold(
        &mut self,
        fault: &Fault,
        (task, position): (Option<Task>, Option<Position>),
        met: Met,
        tasks: &Tasks,
    ) -> FaultId {
        let (process, comm) = task.map(|task| (task.process, task.comm)).unzip();
        let process_comm = task.map(|task| {
            let leads = fault.tid.0 == task.process.tgid.0;
            if leads { task.comm } else { tasks.name(task.process) }
        });
        let place = task.and_then(|task| tasks.place(task.space, fault.addr, position?));
        let module = tasks.module(task.map(|task| task.space), fault);
        let in_kernel = fault.mode == Mode::Kernel;
        let function = in_kernel.then(|| tasks.kernel_function(fault.ip)).flatten();
        self.at(fault.time).fault_rows += 1;
        let syscall = fault.syscall.and_then(|number| syscall_name(number, &self.arch));
        let row = FaultRow {
            fault: *fault,
            process,
            process_comm: process_comm.filter(|comm| !comm.as_bytes().is_empty()),
            comm,
            place,
            module,
            function,
            syscall,
            stack: None,
            outcome: None,
            outcome_unknown: None,
            refault: met.refault,
            space: task.map(|task| task.space),
        };
        self.held.push(row, met.proof)
    }

    /// The outcomes of these faults cannot be known any more.
    pub(in crate::pipeline) fn give_up(&mut self, faults: &[(FaultId, OutcomeUnknown)]) {
        for (fault, why) in faults {
            self.held.give_up(*fault, *why);
        }
    }

    /// Puts the faults of a run where they belong.
    fn end_run(&mut self) {
        if let Some(Run { start, key, tally, .. }) = self.run.take() {
            self.at(start).cells.entry(key).or_default().faults += tally;
        }
    }

    /// Counts a map event, of which `done` came, if it is a call.
    pub(in crate::pipeline) fn map(&mut self, event: &MapEvent, done: &Done) {
        let (Some((process, space, region)), Some(kind)) = (done.place, done.succeeded) else { return };
        let place = region.map_or(Place::Unknown, Place::Region);
        let key = CellKey { process: Some(process), space, place };
        self.at(event.time).cells.entry(key).or_default().maps.add(kind);
    }

    /// Counts faults of `process` without an event.
    pub(in crate::pipeline) fn uncounted(&mut self, uncounted: &Uncounted, process: ProcessId) {
        let Uncounted { time, space, faults, .. } = *uncounted;
        let key = CellKey { process: Some(process), space, place: Place::Unknown };
        let cell = self.at(time).cells.entry(key).or_default();
        let sum = cell.uncounted.get_or_insert_default();
        *sum = sum.saturating_add(faults.total());
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

    /// Whether a scan at `time` is for the interval that had just ended: while its rows can change.
    pub(in crate::pipeline) fn is_of_last(&mut self, time: Timestamp) -> bool {
        let start = self.at(time).start;
        self.watermark < start || self.open.iter().any(|interval| interval.end == start)
    }

    /// The interval that a scan at `time` is for.
    fn scanned(&mut self, time: Timestamp) -> &mut Interval {
        let is_of_last = self.is_of_last(time);
        let start = self.at(time).start;
        self.at(if is_of_last { start.before(Nanos::new(1)) } else { time })
    }

    /// Time of the reading that a scan at `time` followed.
    fn reading_before(&self, time: Timestamp) -> Timestamp {
        let readings = self.readings.iter().map(|reading| reading.time);
        readings.rev().find(|reading| *reading <= time).unwrap_or(self.scanned)
    }

    /// Notes what a scan at `time` found.
    pub(in crate::pipeline) fn observe(
        &mut self,
        time: Timestamp,
        (process, space): (ProcessId, SpaceId),
        findings: &Findings,
    ) {
        let reading = self.reading_before(time);
        let interval = self.scanned(time);
        for (region, found) in &findings.tallies {
            let key = CellKey { process: Some(process), space, place: Place::Region(*region) };
            let cell = interval.cells.entry(key).or_default();
            let nothing = Scan { reading, tally: PageTally::at(time) };
            let seen = cell.pages.get_or_insert(nothing);
            if seen.reading != reading {
                *seen = nothing;
            }
            seen.tally += *found;
        }
        for (fault, outcome) in &findings.outcomes {
            if let Some(row) = self.held.get_mut(*fault) {
                row.outcome = Some(*outcome);
            }
        }
        self.give_up(&findings.undecided);
    }

    /// Notes that the heat counters were read. With counts alone that ends the interval in progress.
    pub(in crate::pipeline) fn read(&mut self, reading: &HeatReading) {
        let time = reading.time;
        self.answered();
        self.readings.push_back(Reading { time, last_scan: time, tick: None, is_answered: false });
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

    /// Notes that all scans have arrived which the readings until now asked for.
    pub(in crate::pipeline) fn answered(&mut self) {
        for reading in self.readings.iter_mut().rev().take_while(|reading| !reading.is_answered) {
            reading.is_answered = true;
        }
    }

    /// Closes every interval that ended before `released` and was scanned after its end, now that `tick` has come.
    ///
    /// The tick that passes the end of an interval comes before the reading that follows it. Its scans come before the next tick, or
    /// later if the recorder lags behind. So does the reading; if there is none, one more interval and [`LAG`] are time enough.
    pub(in crate::pipeline) fn close_until(
        &mut self,
        tick: Timestamp,
        released: Timestamp,
        tasks: &mut Tasks,
        (totals, pages): (&mut Totals, &mut PageLedger),
        rows: &mut Vec<Row>,
    ) {
        self.watermark = self.watermark.max(released);
        pages.advance(released, tasks);
        self.open_changed(released, pages);
        for reading in &mut self.readings {
            reading.tick.get_or_insert(tick);
        }
        while let Some(reading) = self.readings.pop_front_if(|reading| reading.is_done(released)) {
            self.scanned = self.scanned.max(reading.time);
        }
        let (scanned, length) = (self.scanned, self.length);
        let last_reading = self.readings.back().map(|reading| (reading.time, reading.is_answered));
        let is_over = |interval: &mut Interval| {
            // No reading is taken while one is not answered.
            let waits =
                last_reading.is_some_and(|(reading, is_answered)| !is_answered || reading >= interval.end);
            interval.end <= released
                && (interval.end <= scanned || !waits && interval.end.after(length).after(LAG) <= released)
        };
        while self.open.front_mut().is_some_and(is_over) {
            self.close_front(tasks, (totals, pages), rows);
        }
    }

    /// Closes all intervals; the last one at `end`.
    pub(in crate::pipeline) fn close_all(
        &mut self,
        end: Timestamp,
        tasks: &mut Tasks,
        (totals, pages): (&mut Totals, &mut PageLedger),
        rows: &mut Vec<Row>,
    ) {
        pages.end(end, tasks);
        self.open_changed(end, pages);
        if let Some(last) = self.open.back_mut() {
            last.end = last.end.min(end).max(last.start);
        }
        while !self.open.is_empty() {
            self.close_front(tasks, (totals, pages), rows);
        }
    }

    /// Opens the intervals until `time` in which regions came to have other pages, if only by what a scan found.
    fn open_changed(&mut self, time: Timestamp, pages: &PageLedger) {
        for end in pages.changed_until(time) {
            self.at(end.before(Nanos::new(1)));
        }
    }

    /// Address spaces are gone, or the recording ends: what faults brought to them is there still.
    pub(in crate::pipeline) fn end_spaces(
        &mut self,
        spaces: &[(SpaceId, Option<ProcessId>)],
        tasks: &Tasks,
        pages: &mut PageLedger,
    ) {
        for (space, process) in spaces {
            let name = process.map(|process| tasks.name(process)).filter(|comm| !comm.as_bytes().is_empty());
            for (origin, pages) in pages.take_resident(*space) {
                self.stacks.add_resident(name, origin, pages);
            }
            self.stacks.forget(*space);
        }
    }

    /// Turns the oldest interval into rows.
    fn close_front(
        &mut self,
        tasks: &mut Tasks,
        (totals, pages): (&mut Totals, &mut PageLedger),
        rows: &mut Vec<Row>,
    ) {
        self.end_run();
        let Some(mut interval) = self.open.pop_front() else { return };
        interval.place_all(tasks, &mut self.held);
        let (start, end) = (interval.start, interval.end);
        interval.add_rows(pages.settle(end), tasks);
        let stacks = &mut self.stacks;
        let frames = stacks.settle(tasks);
        rows.extend(frames.into_iter().filter(|_| self.wants.contains(RowSet::FRAMES)).map(Row::Frame));
        let faults = self.held.take(interval.fault_rows).map(|mut row| {
            stacks.count(&mut row);
            totals.fault_row(&row);
            row
        });
        let has_rows = self.wants.contains(RowSet::FAULTS);
        rows.extend(faults.filter(|_| has_rows).map(Row::Fault));
        pages.forget_before(self.held.first());

        let lower_bound = self.losses.iter().any(|loss| loss.touches(start, end));
        for mut row in interval.into_rows(tasks, pages, lower_bound) {
            if self.detail == Detail::Full {
                row.faults.detail.get_or_insert_default();
            }
            totals.row(&row);
            if self.wants.contains(RowSet::TIMELINE) {
                rows.push(Row::Timeline(row));
            }
        }
        let purged = tasks.purge(start);
        self.end_spaces(&purged.spaces, tasks, pages);
        rows.extend(totals.purge(purged, pages).map(|region| tasks.region_row(region)));
        pages.retain(|space| tasks.regions(space).is_some());
        self.closed = end;
        self.losses.retain(|loss| loss.end.is_none_or(|until| until >= end));
    }
}
