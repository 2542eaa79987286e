//! The one state machine: records in, rows and requests for scans out.
//!
//! Layer: core. Input: [`Record`]s in arrival order. Output: [`Row`]s in time order, [`ProbeRequest`]s, a [`Summary`].
//! Keeps: no clock, no I/O: the same records give the same rows, live or replayed. Events and scans act in the order
//! of their times; readings and losses act on arrival.
//! Not here: where records come from (`session`, `record`), where rows go (`export`, `report`).
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use crate::{
    event::{
        HeatReading, HostFacts, Loss, LossCause, MapAction, Observation, ProbeRequest, ProbeTarget, Record,
        Seen, TaskAction, TaskEvent, Tid,
    },
    order::{Event, Reorder},
    timeline::{Row, Summary},
    units::{Nanos, Timestamp},
};

mod join;
mod plan;
mod slots;

#[cfg(test)]
mod tests;

use join::{intervals::Intervals, maps, tasks::Tasks, totals::Totals};
pub use plan::focus::{Area, FocusOptions};
use plan::{checks::Checks, directory::Directory, focus::Focus};

/// Whether faults are recorded one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    /// Whether each fault and each change of an address space gives a row.
    pub event_rows: bool,
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
    intervals: Intervals,
    totals: Totals,
    event_rows: bool,
}

impl Pipeline {
    /// A pipeline for records of `host`.
    #[must_use]
    pub fn new(host: HostFacts, options: Options) -> Self {
        Self {
            order: Reorder::default(),
            late: None,
            directory: Directory::default(),
            checks: Checks::default(),
            tasks: Tasks::new(&host, options.follows_maps),
            intervals: Intervals::new(&host, &options),
            event_rows: options.event_rows,
            focus: Focus::new(options.focus, host.page, options.interval),
            totals: Totals::new(host, options.interval),
        }
    }

    /// Takes one record. Rows that can no longer change go to `rows`; scans that would help go to
    /// `requests`, which a replay ignores, because the answers are in the recording.
    pub fn push(&mut self, record: Record, rows: &mut Vec<Row>, requests: &mut Vec<ProbeRequest>) {
        match record {
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
            Record::Heat(reading) => self.heat(&reading, requests),
            Record::Reclaim(reading) => self.hold_back(Event::Reclaim(reading)),
            Record::Observation(observation) => self.observe(observation),
            Record::Loss(loss) => self.lose(loss, rows),
            Record::Tick(time) => {
                self.release(time, rows);
                let released = self.order.released();
                self.intervals.close_until(time, released, &mut self.tasks, &mut self.totals, rows);
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
        self.intervals.close_all(end, &mut self.tasks, &mut self.totals, rows);
        rows.extend(self.totals.purge(self.tasks.purge(END_OF_TIME)).map(Row::Region));
        rows.extend(self.totals.live(&self.tasks).into_iter().map(Row::Region));
        self.totals.summary(&self.tasks)
    }

    /// Lets a task event wait for its turn. One that reports a task which was there before acts at once:
    /// faults that precede it are of that task too.
    fn take_task(&mut self, task: TaskEvent) {
        if matches!(task.action, TaskAction::Join { .. }) && !self.tasks.knows(task.tid) {
            self.totals.see(task.time);
            let actors = self.tasks.apply(&task);
            self.totals.task(&task.action, actors);
        } else {
            self.hold_back(Event::Task(Box::new(task)));
        }
    }

    /// Lets an event wait for its turn.
    fn hold_back(&mut self, event: Event) {
        self.totals.see(event.time());
        if let Some(loss) = self.order.push(event) {
            let late = self.late.get_or_insert(Loss { count: Some(0), ..loss });
            late.start = late.start.min(loss.start);
            late.count = late.count.zip(loss.count).map(|(sum, count)| sum + count);
        }
    }

    /// Applies what happened before the window that ends at `tick`.
    fn release(&mut self, tick: Timestamp, rows: &mut Vec<Row>) {
        if let Some(late) = self.late.take() {
            self.lose(late, rows);
        }
        let Self { order, checks, tasks, intervals, totals, event_rows, .. } = self;
        let mut hidden = Vec::new();
        for event in order.release(tick) {
            match event {
                Event::Fault(fault) => {
                    totals.fault(&fault);
                    let (task, position) = tasks.attribute(&fault);
                    if let Some(task) = task {
                        totals.copied(&fault, task.process);
                    }
                    intervals.fault(&fault, task, position, tasks);
                }
                Event::Task(task) => {
                    let actors = tasks.apply(&task);
                    totals.task(&task.action, actors);
                    match task.action {
                        TaskAction::Exec { space, is_hidden, .. } => {
                            intervals.begin(space);
                            hidden.extend(is_hidden.then_some(task.time));
                        }
                        TaskAction::Fork { space, parent_space, .. } if space != parent_space => {
                            intervals.fork(task.time, parent_space, space);
                        }
                        _ => {}
                    }
                    if *event_rows && matches!(task.action, TaskAction::Exit { group_dead: true, .. }) {
                        rows.push(Row::Map(maps::exit_row(&task)));
                    }
                }
                Event::Map(map) => {
                    let done = maps::apply(&map, tasks);
                    match &map.action {
                        MapAction::Call { space, call } if call.took_effect() => {
                            if let Some(range) = done.row.as_ref().and_then(|row| row.range) {
                                intervals.called(map.time, *space, &call.request, range);
                            }
                        }
                        MapAction::Renewed { space } => intervals.begin(*space),
                        _ => {}
                    }
                    totals.map(&map, &done);
                    intervals.map(map.time, &done);
                    rows.extend(done.row.filter(|_| *event_rows).map(Row::Map));
                }
                Event::Uncounted(uncounted) => {
                    let process = tasks.process(uncounted.time, uncounted.tgid, uncounted.tid);
                    totals.uncounted(tasks.cause_of(&uncounted), uncounted.faults, process);
                    intervals.uncounted(&uncounted, process);
                }
                Event::Reclaim(reading) => intervals.reclaim(reading),
                Event::Scan(scan) => {
                    let Observation { time, tgid, space, seen } = *scan;
                    match seen {
                        Seen::Maps(scan) => {
                            let compared = tasks.compare(time, (tgid, space), &scan);
                            checks.compared(time, &scan, compared.as_ref());
                            if let Some((_, compared)) = compared {
                                rows.extend(totals.compared(time, tgid, compared).into_iter().map(Row::Map));
                            }
                        }
                        Seen::Pages(scan) => {
                            let space = tasks.settle_space(tgid, space);
                            let process = tasks.process(time, tgid, Tid(tgid.0));
                            intervals.scan(time, (process, space), &scan, tasks, totals, rows);
                        }
                        Seen::Nothing => tasks.vanish(time, (tgid, space)),
                        Seen::Resident(_) => {}
                    }
                }
            }
        }
        for start in hidden {
            let cause = LossCause::HiddenProgram;
            self.lose(Loss { start, end: None, cpu: None, cause, count: None }, rows);
        }
    }

    /// Notes how hot slots are, and asks for scans.
    fn heat(&mut self, reading: &HeatReading, requests: &mut Vec<ProbeRequest>) {
        self.totals.heat(reading, |space| self.directory.process_of(space).is_some());
        self.intervals.read(reading);
        self.focus.heat(reading);
        self.focus.plan(reading.time, &self.directory, &self.tasks, requests);
    }

    /// Lets a scan wait for its turn: the events before it are still on their way.
    fn observe(&mut self, observation: Observation) {
        match &observation.seen {
            Seen::Pages(scan) => {
                self.intervals.expect_scan(observation.time);
                self.totals.scan(observation.space, scan);
                self.focus.learn(observation.time, observation.space, scan);
            }
            Seen::Resident(pages) => self.focus.count(observation.space, *pages),
            Seen::Nothing => self.directory.forget(observation.tgid, observation.space),
            Seen::Maps(_) => {}
        }
        self.hold_back(Event::Scan(Box::new(observation)));
    }

    /// Notes that records are missing.
    fn lose(&mut self, loss: Loss, rows: &mut Vec<Row>) {
        self.totals.loss(loss);
        self.intervals.loss(loss);
        let hides_maps = match loss.cause {
            LossCause::EventsRing => false,
            LossCause::ControlRing
            | LossCause::SideBand
            | LossCause::TaskTable
            | LossCause::HiddenProgram
            | LossCause::Late
            | LossCause::TornTail
            | LossCause::UnknownKind
            | LossCause::Skipped
            | LossCause::NoEvents
            | LossCause::CpuOffline => true,
        };
        if let (LossCause::CpuOffline, Some(end)) = (loss.cause, loss.end) {
            self.tasks.miss_completions(loss.start, end);
        }
        if hides_maps {
            self.tasks.doubt(loss.end.unwrap_or(loss.start));
        }
        rows.push(Row::Loss(loss));
    }
}
