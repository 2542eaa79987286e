//! The one state machine: records in, rows and requests for scans out.
//!
//! Layer: core. Input: [`Record`]s in arrival order. Output: [`Row`]s in time order, [`ProbeRequest`]s, a [`Summary`].
//! Keeps: no clock, no I/O: the same records give the same rows, live or replayed. Events and scans act in the order
//! of their times; readings and losses act on arrival.
//! Not here: where records come from (`session`, `record`), where rows go (`export`, `report`).
#![forbid(unsafe_code)]

use std::mem;

use crate::{
    decode::{FaultSums, Frame},
    event::{
        Fault, HeatReading, HostFacts, Loss, LossCause, MapAction, Observation, ProbeRequest, ProbeTarget,
        Record, RssReading, Seen, SpaceId, TaskAction, TaskEvent, Tid,
    },
    order::{Event, Reorder},
    timeline::{MapRow, Row, RowSet, RssRow, Summary},
    units::{Nanos, TimeRange, Timestamp},
};

mod arrived;
mod join;
mod plan;
mod slots;

#[cfg(test)]
mod tests;

pub use arrived::{Arrived, Code};
use join::{
    intervals::Intervals,
    maps,
    pages::{Happening, PageLedger},
    readings::{Due, Reading, Readings},
    stacks::Stacks,
    tasks::Tasks,
    totals::Totals,
};
pub use plan::focus::{Area, FocusOptions};
use plan::{checks::Checks, directory::Directory, focus::Focus};

/// Whether faults are recorded one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Each fault.
    Full,
    /// Only their numbers per slot, from the heat counters.
    Counts,
}

/// How rows are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Length of an interval; above zero.
    pub interval: Nanos,
    /// What was recorded.
    pub detail: Detail,
    /// Whether events report every change of an address space; else it is read from maps, again and again.
    pub follows_maps: bool,
    /// Whether changes of an address space are in the order in which they took effect; else in that in which calls return.
    pub sees_effects: bool,
    /// Whether each process is held at its exit, to compare its maps a last time.
    pub verify: bool,
    /// What is made of the records.
    pub wants: RowSet,
    /// Of which time the faults are whose pages are followed to its end: memory that stays.
    pub stays: TimeRange,
    /// What is scanned.
    pub focus: FocusOptions,
}

/// Later than anything.
const END_OF_TIME: Timestamp = Timestamp::from_nanos(u64::MAX);

/// Joins events, scans and losses into rows.
#[derive(Debug)]
pub struct Pipeline {
    order: Reorder,
    /// Events that came too late since the last tick.
    late: Option<Loss>,
    directory: Directory,
    checks: Checks,
    focus: Focus,
    tasks: Tasks,
    /// `None` where nothing is wanted for which events are joined.
    intervals: Option<Intervals>,
    /// Kept where events are joined.
    pages: PageLedger,
    /// Readings of maps that wait for calls in flight.
    readings: Readings,
    sees_effects: bool,
    totals: Totals,
    wants: RowSet,
    /// When last was forgotten what had ended, if no interval says when.
    purged: Timestamp,
}

/// Time between two purges, if no interval says when.
const PURGE_PERIOD: Nanos = Nanos::new(100_000_000);

impl Pipeline {
    /// A pipeline for records of `host`.
    #[must_use]
    pub fn new(host: HostFacts, options: Options) -> Self {
        let page = host.page;
        Self {
            order: Reorder::default(),
            late: None,
            directory: Directory::default(),
            checks: Checks::default(),
            tasks: Tasks::new(&host, options.follows_maps),
            // Losses are known without.
            intervals: (!(options.wants - RowSet::LOSSES).is_empty())
                .then(|| Intervals::new(&host, &options)),
            pages: PageLedger::new(&host, &options),
            readings: Readings::default(),
            sees_effects: options.sees_effects,
            wants: options.wants,
            purged: host.start,
            totals: Totals::new(host, &options),
            focus: Focus::new(options.focus, page, options.interval),
        }
    }

    /// Takes what came at once. Faults of which just the number is wanted are counted without decoding each.
    pub fn take(&mut self, frame: &Frame, rows: &mut Vec<Row>, requests: &mut Vec<ProbeRequest>) {
        if let (Frame::Faults(records), None) = (frame, &self.intervals)
            && let Some(sums) = FaultSums::of(records)
            && self.order.late(sums.first).is_none()
        {
            self.totals.see(sums.last);
            return sums.by_kind.into_iter().for_each(|(kind, faults)| self.totals.count(kind, faults));
        }
        for record in frame.records() {
            self.push(record, rows, requests);
        }
    }

    /// Takes one record. Rows that can no longer change go to `rows`; scans that would help go to
    /// `requests`, which a replay ignores, because the answers are in the recording.
    pub fn push(&mut self, record: Record, rows: &mut Vec<Row>, requests: &mut Vec<ProbeRequest>) {
        match record {
            Record::Fault(fault) if self.intervals.is_none() => self.count(&fault),
            Record::Fault(fault) => self.hold_back(Event::Fault(fault)),
            Record::Uncounted(uncounted) => self.hold_back(Event::Uncounted(uncounted)),
            Record::Task(task) => {
                if let Some((tgid, space)) = self.directory.learn(&task) {
                    self.checks.ask(task.time, tgid, space, requests);
                }
                self.take_task(task);
            }
            Record::Map(map) => {
                if let Some((tgid, space)) = self.directory.learn_map(&map) {
                    self.checks.ask(map.time, tgid, space, requests);
                }
                if let MapAction::Call { space, call } = &map.action {
                    self.focus.called(*space, call);
                }
                self.hold_back(Event::Map(map));
            }
            // Without rows and sums nobody asks for stacks.
            Record::Stack(_) | Record::BuildId(_) | Record::Symbols(_) if self.intervals.is_none() => {}
            // Where user space had to find out a stack, that may take a while; faults wait longer for their rows.
            Record::Stack(stack) if self.order.late(stack.time).is_some() => {
                self.apply(Event::Stack(stack), rows);
            }
            Record::Stack(stack) => self.hold_back(Event::Stack(stack)),
            Record::BuildId(file) => self.hold_back(Event::BuildId(file)),
            Record::Symbols(symbols) => self.tasks.learn_symbols(*symbols),
            Record::Heat(reading) => self.heat(&reading, requests),
            Record::Reclaim(reading) => self.hold_back(Event::Reclaim(reading)),
            Record::Observation(observation) => self.observe(observation),
            Record::Loss(loss) => self.lose(loss, rows),
            Record::Tick(time) => {
                self.release(time, rows);
                let released = self.order.released();
                while let Some(reading) = self.readings.due(released) {
                    self.compare(reading, rows);
                }
                if let Some(intervals) = &mut self.intervals {
                    let sums = (&mut self.totals, &mut self.pages);
                    intervals.close_until(time, released, &mut self.tasks, sums, rows);
                } else if self.purged.after(PURGE_PERIOD) <= released {
                    self.totals.forget(self.tasks.purge(released));
                    self.purged = released;
                }
                self.checks.tick(time, &self.directory, &self.tasks, requests);
            }
        }
    }

    /// Asks for `target` of every address space.
    pub fn ask_everywhere(&self, target: &ProbeTarget, requests: &mut Vec<ProbeRequest>) {
        let ask = |(space, tgid)| ProbeRequest { tgid, space, target: target.clone() };
        requests.extend(self.directory.iter().map(ask));
    }

    /// Closes what is open and returns the totals.
    #[must_use]
    pub fn finish(mut self, rows: &mut Vec<Row>) -> Summary {
        self.release(END_OF_TIME, rows);
        let end = self.totals.end();
        while let Some(reading) = self.readings.left(end) {
            self.compare(reading, rows);
        }
        let mut stacks = Stacks::default();
        if let Some(mut intervals) = self.intervals {
            intervals.close_all(end, &mut self.tasks, (&mut self.totals, &mut self.pages), rows);
            let purged = self.tasks.purge(END_OF_TIME);
            intervals.end_spaces(&purged.spaces, &self.tasks, &mut self.pages);
            let gone = self.totals.purge(purged, &mut self.pages);
            rows.extend(gone.map(|region| self.tasks.region_row(region)));
            let live = self.totals.live(&self.tasks, &mut self.pages);
            rows.extend(live.into_iter().map(|region| self.tasks.region_row(region)));
            let spaces = self.pages.resident_spaces();
            let spaces: Vec<_> =
                spaces.into_iter().map(|space| (space, self.tasks.process_of(space))).collect();
            intervals.end_spaces(&spaces, &self.tasks, &mut self.pages);
            stacks = intervals.stacks;
        }
        let resident_lower_bound = self.pages.is_resident_lower_bound();
        let summary = Summary { resident_lower_bound, ..stacks.summary(self.totals.summary(&self.tasks)) };
        if self.wants.contains(RowSet::PROCESSES) {
            rows.extend(summary.processes.iter().cloned().map(Row::Process));
        }
        summary
    }

    /// Lets a task event wait for its turn. One that reports a task which was there before acts at once:
    /// faults that precede it are of that task too.
    fn take_task(&mut self, task: TaskEvent) {
        if matches!(task.action, TaskAction::Join { .. }) && !self.tasks.knows(task.tid) {
            self.totals.see(task.time);
            let actors = self.tasks.apply(&task);
            if self.intervals.is_some() {
                self.totals.task(&task, actors);
            }
        } else {
            self.hold_back(Event::Task(Box::new(task)));
        }
    }

    /// Lets an event wait for its turn.
    fn hold_back(&mut self, event: Event) {
        self.totals.see(event.time());
        if let Some(loss) = self.order.push(event) {
            self.add_late(loss);
        }
    }

    /// Counts a fault of which nothing else is wanted.
    fn count(&mut self, fault: &Fault) {
        self.totals.see(fault.time);
        match self.order.late(fault.time) {
            Some(loss) => self.add_late(loss),
            None => self.totals.count(fault.kind, 1),
        }
    }

    /// An event came too late.
    fn add_late(&mut self, loss: Loss) {
        let late = self.late.get_or_insert(Loss { count: Some(0), ..loss });
        late.start = late.start.min(loss.start);
        late.add(loss.count);
    }

    /// Applies what happened before the window that ends at `tick`.
    fn release(&mut self, tick: Timestamp, rows: &mut Vec<Row>) {
        if let Some(late) = self.late.take() {
            self.lose(late, rows);
        }
        let mut order = mem::take(&mut self.order);
        let mut hidden = Vec::new();
        for event in order.release(tick) {
            while let Some(reading) = self.readings.due_before(&event) {
                self.compare(reading, rows);
            }
            if let Event::Task(task) = &event
                && let TaskAction::Exec { is_hidden: true, .. } = task.action
            {
                hidden.push(task.time);
            }
            self.apply(event, rows);
        }
        self.order = order;
        for start in hidden {
            let cause = LossCause::HiddenProgram;
            self.lose(Loss { start, end: None, cpu: None, cause, count: None }, rows);
        }
    }

    /// Applies an event whose turn it is.
    fn apply(&mut self, event: Event, rows: &mut Vec<Row>) {
        let Self { tasks, intervals, pages, totals, wants, .. } = self;
        pages.advance(event.time(), tasks);
        let has_map_rows = wants.contains(RowSet::MAPS);
        match event {
            Event::Fault(fault) => {
                let Some(intervals) = intervals else { return };
                totals.fault(&fault);
                let (task, position) = tasks.attribute(&fault);
                if let Some(task) = task {
                    totals.copied(&fault, task.process);
                }
                let completed = task.filter(|_| fault.kind.is_completed());
                let place = completed.map(|task| (task.space, tasks.regions(task.space)));
                let met = place.map(|place| pages.meet(&fault, place)).unwrap_or_default();
                let id = intervals.fault(&fault, (task, position), met, tasks);
                if let Some(place) = place {
                    let undecided = pages.fault(id, &fault, place, met.proof.is_some());
                    intervals.give_up(&undecided);
                }
            }
            Event::Task(task) => {
                let actors = tasks.apply(&task);
                totals.count_task(&task.action, actors);
                if let Some(intervals) = intervals {
                    totals.task(&task, actors);
                    if let Some((space, what)) = Happening::of_task(&task) {
                        let undecided = pages.happened(task.time, (space, tasks.regions(space)), what);
                        intervals.give_up(&undecided);
                    }
                }
                let row = maps::task_row(&task, actors.is_end).filter(|_| has_map_rows);
                rows.extend(row.map(Row::Map));
            }
            Event::Map(map) => {
                let done = maps::apply(&map, tasks);
                if let Some(intervals) = intervals {
                    totals.map(&map, &done);
                    if let Some((process, name)) = done.loaded() {
                        totals.loads(process, name);
                    }
                    intervals.map(&map, &done);
                    if let Some((space, what)) = done.happening(&map) {
                        let undecided = pages.happened(map.time, (space, tasks.regions(space)), what);
                        intervals.give_up(&undecided);
                    }
                    if let Some((_, space, _)) = done.place {
                        intervals.stacks.changed(space, map.time, tasks);
                    }
                    let stack = map.stack().and_then(|id| intervals.stacks.number(id, map.time));
                    let caller = stack.and_then(|stack| intervals.stacks.innermost(stack)).cloned();
                    let program = done.loaded().and_then(|(process, _)| totals.program(process)).cloned();
                    let row = done.row.filter(|_| has_map_rows);
                    let row = row.map(|row| MapRow { stack, caller, program, ..row });
                    rows.extend(row.map(Row::Map));
                }
            }
            Event::Uncounted(uncounted) => {
                let process = tasks.process(uncounted.time, uncounted.tgid, uncounted.tid);
                if let Some(intervals) = intervals {
                    let cause = tasks.cause_of(&uncounted);
                    totals.uncounted(cause, uncounted.faults, process);
                    intervals.uncounted(&uncounted, process);
                    pages.unseen((uncounted.time, uncounted.space), cause, tasks);
                }
            }
            Event::Stack(stack) => {
                let frames = intervals.as_mut().map(|intervals| intervals.stacks.add(*stack, tasks));
                let frames = frames.into_iter().flatten().filter(|_| wants.contains(RowSet::FRAMES));
                rows.extend(frames.map(Row::Frame));
            }
            Event::BuildId(file) => tasks.learn_build_id(*file),
            Event::Reclaim(reading) => pages.reclaim(reading),
            Event::Observation(observation) => self.apply_observation(*observation, rows),
        }
    }

    /// Applies an observation whose turn it is.
    fn apply_observation(&mut self, observation: Observation, rows: &mut Vec<Row>) {
        let Observation { time, tgid, space, seen } = observation;
        let Self { tasks, intervals, pages, totals, wants, .. } = self;
        match seen {
            Seen::Maps(maps) => {
                // No call is in flight at an exit, and regions that are not known contradict nothing.
                let proves_at_once = self.sees_effects
                    || maps.at_exit
                    || tasks.space_read(tgid, space).is_none_or(|space| tasks.is_doubtful(space));
                let reading = Reading { time, tgid, space, maps };
                if proves_at_once {
                    self.compare(Due { now: time, reading, is_early: false }, rows);
                } else {
                    self.readings.put_off(reading);
                }
            }
            Seen::Pages(scan) => {
                let space = tasks.settle_space(tgid, space);
                let process = tasks.process(time, tgid, Tid(tgid.0));
                if let Some(intervals) = intervals {
                    let is_of_last = intervals.is_of_last(time);
                    let found = pages.observe(time, (space, tasks.regions(space)), &scan, is_of_last);
                    intervals.observe(time, (process, space), &found);
                    totals.observe(scan.reason, &found);
                    let changes = found.changes.into_iter();
                    rows.extend(changes.map(|change| Row::Pages(change.row(scan.began, process.tgid))));
                }
            }
            Seen::Nothing => tasks.vanish(time, (tgid, space)),
            Seen::Resident(RssReading { counters, .. }) => {
                let Some(counters) = counters.filter(|_| intervals.is_some()) else { return };
                let is_at_exit = space == SpaceId::UNKNOWN;
                let Some((space, process)) = tasks.space_counted(tgid, space) else { return };
                let residency = pages.resident(space, tasks).filter(|_| !is_at_exit);
                let row = RssRow { time, space, tgid, counters, residency };
                totals.counted(process, &row, is_at_exit);
                if wants.contains(RowSet::RSS) {
                    rows.push(Row::Rss(row));
                }
            }
        }
    }

    /// Compares the regions, as they are now, with a reading of maps.
    fn compare(&mut self, due: Due, rows: &mut Vec<Row>) {
        let Due { now, reading: Reading { time, tgid, space, maps }, is_early } = due;
        let Self { checks, tasks, intervals, pages, totals, .. } = self;
        let compared = tasks.compare(now, (tgid, space), &maps);
        checks.compared(time, &maps, compared.as_ref());
        let Some((space, compared)) = compared else { return };
        let compared = if is_early { compared.without_contradictions() } else { compared };
        if let Some(intervals) = intervals {
            let undecided = pages.happened(now, (space, tasks.regions(space)), Happening::Reading);
            intervals.give_up(&undecided);
        }
        if maps.at_exit {
            totals.verified(tasks.process(now, tgid, Tid(tgid.0)));
        }
        let contradictions = totals.compared(now, tgid, compared);
        if self.wants.contains(RowSet::MAPS) {
            rows.extend(contradictions.into_iter().map(Row::Map));
        }
    }

    /// Notes how hot slots are, and asks for scans.
    fn heat(&mut self, reading: &HeatReading, requests: &mut Vec<ProbeRequest>) {
        self.totals.heat(reading, |space| self.directory.process_of(space).is_some());
        if let Some(intervals) = &mut self.intervals {
            intervals.read(reading);
        }
        self.focus.heat(reading);
        self.focus.plan(reading.time, &self.directory, &self.tasks, requests);
    }

    /// Lets a scan wait for its turn: the events before it are still on their way.
    fn observe(&mut self, mut observation: Observation) {
        match &mut observation.seen {
            Seen::Pages(scan) => {
                self.totals.scan(observation.space, scan);
                self.focus.learn(observation.time, observation.space, scan);
                match &mut self.intervals {
                    Some(intervals) => intervals.expect_scan(observation.time),
                    // Only whose pages it saw is of use.
                    None => scan.runs = Vec::new(),
                }
            }
            // Of a process that is held at its exit nobody asks.
            Seen::Resident(_) if observation.space == SpaceId::UNKNOWN => {}
            Seen::Resident(reading) => {
                self.focus.count(observation.space, reading.resident);
                // What is asked for last after each reading.
                if let Some(intervals) = &mut self.intervals {
                    intervals.answered();
                }
            }
            Seen::Nothing => self.directory.forget(observation.tgid, observation.space),
            Seen::Maps(_) => {}
        }
        self.hold_back(Event::Observation(Box::new(observation)));
    }

    /// Notes that records are missing.
    fn lose(&mut self, loss: Loss, rows: &mut Vec<Row>) {
        self.totals.loss(loss);
        if let Some(intervals) = &mut self.intervals {
            intervals.loss(loss);
            self.pages.lose(&loss);
        }
        if let (LossCause::CpuOffline, Some(end)) = (loss.cause, loss.end) {
            self.tasks.miss_completions(loss.start, end);
        }
        if loss.cause.hides_changes() {
            self.tasks.doubt(loss.end.unwrap_or(loss.start));
        }
        if self.wants.contains(RowSet::LOSSES) {
            rows.push(Row::Loss(loss));
        }
    }
}
