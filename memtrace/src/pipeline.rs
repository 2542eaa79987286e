//! The one state machine: records in, rows and requests for looks out.
//!
//! Layer: core. Input: [`Record`]s in arrival order. Output: [`Row`]s in time order, [`ProbeRequest`]s, a [`Summary`].
//! Keeps: no clock, no I/O: the same records give the same rows, live or replayed. Events act in the order of
//! their times; readings, looks and losses act on arrival.
//! Not here: where records come from (`session`, `record`), where rows go (`export`, `report`).
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use crate::{
    event::{
        HeatReading, HostFacts, Loss, Observation, ProbeRequest, ProbeTarget, Record, Seen, SpaceId,
        TaskAction, TaskEvent,
    },
    order::{Event, Reorder},
    timeline::{Row, Summary},
    units::{Nanos, Timestamp, VirtRange},
};

mod directory;
mod intervals;
mod tasks;
mod totals;

#[cfg(test)]
mod tests;

use directory::Directory;
use intervals::Intervals;
use tasks::Tasks;
use totals::Totals;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Length of an interval; above zero.
    pub interval: Nanos,
    /// What was recorded.
    pub detail: Detail,
    /// Whether each fault gives a row.
    pub fault_rows: bool,
}

/// Later than anything.
const END_OF_TIME: Timestamp = Timestamp::from_nanos(u64::MAX);

/// Joins events, looks and losses into rows.
#[derive(Debug)]
pub struct Pipeline {
    order: Reorder,
    /// Events that came too late since the last tick.
    late: Option<Loss>,
    directory: Directory,
    tasks: Tasks,
    intervals: Intervals,
    totals: Totals,
}

impl Pipeline {
    /// A pipeline for records of `host`.
    #[must_use]
    pub fn new(host: HostFacts, options: Options) -> Self {
        Self {
            order: Reorder::default(),
            late: None,
            directory: Directory::default(),
            tasks: Tasks::default(),
            intervals: Intervals::new(&host, options),
            totals: Totals::new(host),
        }
    }

    /// Takes one record. Rows that can no longer change go to `rows`; looks that would help go to
    /// `requests`, which a replay ignores, because the answers are in the recording.
    pub fn push(&mut self, record: Record, rows: &mut Vec<Row>, requests: &mut Vec<ProbeRequest>) {
        match record {
            Record::Fault(fault) => self.hold_back(Event::Fault(fault)),
            Record::Uncounted(uncounted) => self.hold_back(Event::Uncounted(uncounted)),
            Record::Task(task) => {
                if let Some((tgid, space)) = self.directory.learn(&task) {
                    requests.push(ProbeRequest { tgid, space, target: ProbeTarget::Maps });
                }
                self.take_task(task);
            }
            Record::Heat(reading) => self.heat(&reading, requests),
            Record::Observation(observation) => self.observe(&observation),
            Record::Loss(loss) => self.lose(loss, rows),
            Record::Tick(time) => {
                self.release(time, rows);
                self.intervals.close_until(self.order.released(), &mut self.tasks, &mut self.totals, rows);
            }
        }
    }

    /// Asks for a look at every region that can hold pages.
    pub fn look_everywhere(&self, requests: &mut Vec<ProbeRequest>) {
        for (space, tgid) in self.directory.iter() {
            let ranges = self.tasks.accessible(space);
            requests.push(ProbeRequest { tgid, space, target: ProbeTarget::Maps });
            requests.push(ProbeRequest { tgid, space, target: ProbeTarget::Pages(ranges) });
        }
    }

    /// Closes what is open and returns the totals.
    #[must_use]
    pub fn finish(mut self, rows: &mut Vec<Row>) -> Summary {
        self.release(END_OF_TIME, rows);
        let end = self.totals.end();
        self.intervals.close_all(end, &mut self.tasks, &mut self.totals, rows);
        self.totals.summary(&self.tasks)
    }

    /// Lets a task event wait for its turn. One that tells of a task which was there before acts at once:
    /// faults that precede it are of that task too.
    fn take_task(&mut self, task: TaskEvent) {
        if matches!(task.action, TaskAction::Join { .. }) && !self.tasks.knows(task.tid) {
            self.totals.see(task.time);
            self.totals.task(&task);
            self.tasks.apply(&task);
        } else {
            self.hold_back(Event::Task(task));
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
        let Self { order, tasks, intervals, totals, .. } = self;
        for event in order.release(tick) {
            match event {
                Event::Fault(fault) => {
                    totals.fault(&fault);
                    let (task, position) = tasks.attribute(&fault);
                    intervals.fault(&fault, task, position);
                }
                Event::Task(task) => {
                    totals.task(&task);
                    tasks.apply(&task);
                }
                Event::Uncounted(uncounted) => {
                    totals.uncounted(&uncounted);
                    intervals.uncounted(&uncounted);
                }
            }
        }
    }

    /// Notes how hot slots are, and asks for looks at those that grew.
    fn heat(&mut self, reading: &HeatReading, requests: &mut Vec<ProbeRequest>) {
        self.totals.heat(reading);
        self.intervals.read(reading);
        for (space, ranges) in hot_ranges(reading) {
            if let Some(tgid) = self.directory.process_of(space) {
                requests.push(ProbeRequest { tgid, space, target: ProbeTarget::Maps });
                requests.push(ProbeRequest { tgid, space, target: ProbeTarget::Pages(ranges) });
            }
        }
    }

    /// Notes what a look saw.
    fn observe(&mut self, observation: &Observation) {
        let Observation { time, tgid, space, seen } = observation;
        self.totals.see(*time);
        match seen {
            Seen::Maps(vmas) => self.tasks.observe_maps(*time, *tgid, *space, vmas),
            Seen::Pages(look) => {
                self.intervals.look(*time, (*tgid, *space), look, &self.tasks, &mut self.totals);
            }
            Seen::Nothing => {}
        }
    }

    /// Notes that records are missing.
    fn lose(&mut self, loss: Loss, rows: &mut Vec<Row>) {
        self.totals.loss(loss);
        self.intervals.loss(loss);
        rows.push(Row::Loss(loss));
    }
}

/// The slots of a reading by address space, neighbours merged.
fn hot_ranges(reading: &HeatReading) -> Vec<(SpaceId, Vec<VirtRange>)> {
    let mut spaces: Vec<(SpaceId, Vec<VirtRange>)> = Vec::new();
    for cell in &reading.cells {
        let (Some(space), Some(slot)) = (cell.space, cell.slot) else { continue };
        if spaces.last().is_none_or(|(last, _)| *last != space) {
            spaces.push((space, Vec::new()));
        }
        let Some((_, ranges)) = spaces.last_mut() else { continue };
        match ranges.last_mut() {
            Some(last) if last.end() == slot.start() => {
                *last = VirtRange::new(last.start(), slot.end()).unwrap_or(slot);
            }
            _ => ranges.push(slot),
        }
    }
    spaces
}
