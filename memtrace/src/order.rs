//! Puts events into the order of their time stamps, within a bounded window.
//!
//! Layer: core. Input: events in arrival order, ticks. Output: events in time order.
//! Source: a program reads the clock a little before or after it reserves its record, and two rings are drained one after
//! the other, so that arrival order is time order but for some milliseconds.
//! Keeps: shuffling within the window changes nothing; an event that comes too late is a loss, never an inversion.
//! Not here: what events do (`pipeline`).
#![forbid(unsafe_code)]

use crate::{
    event::{Fault, Loss, LossCause, TaskAction, TaskEvent, Tid, Uncounted},
    units::{Nanos, Timestamp},
};

/// How far an event may come behind a later one: many times the time between two drains, for a CPU may be taken
/// away from a program that has read the clock and not yet written its record. Some emulators take it for 100 ms.
pub const WINDOW: Nanos = Nanos::new(250_000_000);

/// What has a place in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A page fault ended.
    Fault(Fault),
    /// A traced task changed.
    Task(TaskEvent),
    /// The kernel charged faults without an event.
    Uncounted(Uncounted),
}

impl Event {
    /// When it happened.
    #[must_use]
    pub const fn time(&self) -> Timestamp {
        match self {
            Self::Fault(fault) => fault.time,
            Self::Task(task) => task.time,
            Self::Uncounted(uncounted) => uncounted.time,
        }
    }

    /// Place in the order: by time, and by content where times are equal. A task is born before it faults and
    /// faults before it ends.
    fn key(&self) -> (Timestamp, u8, Tid, u64) {
        let (rank, tid, detail) = match self {
            Self::Task(task) => match task.action {
                TaskAction::Fork { child_tid, .. } => (0, task.tid, child_tid.0.into()),
                TaskAction::Join { .. } => (1, task.tid, 0),
                TaskAction::Exec { .. } => (2, task.tid, 0),
                TaskAction::Comm(_) => (3, task.tid, 0),
                TaskAction::Exit { .. } => (6, task.tid, 0),
                TaskAction::Late { .. } => (7, task.tid, 0),
                TaskAction::Leave { .. } => (8, task.tid, 0),
                TaskAction::Alive { .. } => (9, task.tid, 0),
            },
            Self::Fault(fault) => (4, fault.tid, fault.addr.as_raw()),
            Self::Uncounted(uncounted) => (5, uncounted.tid, uncounted.faults.total()),
        };
        (self.time(), rank, tid, detail)
    }
}

/// Holds events back until nothing earlier can come any more.
#[derive(Debug, Default)]
pub struct Reorder {
    waiting: Vec<Event>,
    released: Timestamp,
}

impl Reorder {
    /// Takes an event; a loss if later ones have been released already.
    #[must_use]
    pub fn push(&mut self, event: Event) -> Option<Loss> {
        let time = event.time();
        if time < self.released {
            let cause = LossCause::Late;
            return Some(Loss { start: time, end: Some(self.released), cpu: None, cause, count: Some(1) });
        }
        self.waiting.push(event);
        None
    }

    /// Releases, in order, what happened before the window that ends at `tick`.
    pub fn release(&mut self, tick: Timestamp) -> std::vec::Drain<'_, Event> {
        self.released = self.released.max(tick.before(WINDOW));
        // Nearly sorted: the standard sort finds the runs.
        self.waiting.sort_by_key(Event::key);
        let ready = self.waiting.partition_point(|event| event.time() < self.released);
        self.waiting.drain(..ready)
    }

    /// Time before which everything has been released.
    #[must_use]
    pub const fn released(&self) -> Timestamp {
        self.released
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Comm, Tgid},
        units::Nanos,
    };

    const MS: u64 = 1_000_000;

    fn event(tid: u32, nanos: u64) -> Event {
        let action = TaskAction::Comm(Comm::from_text("x"));
        Event::Task(TaskEvent { time: Timestamp::from_nanos(nanos), tgid: Tgid(1), tid: Tid(tid), action })
    }

    fn times(events: impl Iterator<Item = Event>) -> Vec<(u64, u32)> {
        events
            .map(|event| match event {
                Event::Task(task) => (task.time.as_nanos(), task.tid.0),
                other => panic!("only task events here: {other:?}"),
            })
            .collect()
    }

    #[test]
    fn events_come_out_by_time_once_the_window_has_passed() {
        let mut order = Reorder::default();
        for (tid, nanos) in [(1, 30 * MS), (1, 10 * MS), (2, 10 * MS), (1, 45 * MS)] {
            assert_eq!(order.push(event(tid, nanos)), None);
        }

        let first = times(order.release(Timestamp::from_nanos(WINDOW.get() + 40 * MS)));
        let rest = times(order.release(Timestamp::from_nanos(WINDOW.get() + 70 * MS)));

        assert_eq!(first, [(10 * MS, 1), (10 * MS, 2), (30 * MS, 1)]);
        assert_eq!(rest, [(45 * MS, 1)]);
    }

    #[test]
    fn event_older_than_what_was_released_is_a_loss() {
        let mut order = Reorder::default();
        order.release(Timestamp::from_nanos(WINDOW.get() + 80 * MS)).for_each(drop);

        let loss = order.push(event(1, 79 * MS)).expect("it is late by a millisecond");

        assert_eq!((loss.cause, loss.count), (LossCause::Late, Some(1)));
        assert_eq!(loss.end.map(|end| end.since(loss.start)), Some(Nanos::new(MS)));
    }

    #[test]
    fn arrival_order_within_the_window_does_not_matter() {
        let events = [(3, 5 * MS), (1, 5 * MS), (2, 4 * MS), (1, 6 * MS)];
        let release = |indices: [usize; 4]| {
            let mut order = Reorder::default();
            for index in indices {
                let (tid, nanos) = events[index];
                assert_eq!(order.push(event(tid, nanos)), None);
            }
            times(order.release(Timestamp::from_nanos(WINDOW.get() + 100 * MS)))
        };

        assert_eq!(release([0, 1, 2, 3]), release([3, 1, 0, 2]));
        assert_eq!(release([0, 1, 2, 3]), release([2, 3, 1, 0]));
    }
}
