//! Puts events into the order of their time stamps, within a bounded window.
//!
//! Layer: core. Input: events in arrival order, ticks. Output: events in time order.
//! Source: a program reads the clock a little before or after it reserves its record, and two rings are drained one after
//! the other, so that arrival order is time order but for some milliseconds.
//! Keeps: shuffling within the window changes nothing; an event that comes too late is a loss, never an inversion. A reading that
//! comes too late has not been taken.
//! Not here: what events do (`pipeline`).
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use crate::{
    event::{
        BuildId, Fault, Loss, LossCause, MapAction, MapEvent, Observation, ReclaimReading, Stack, TaskAction,
        TaskEvent, Tid, Uncounted,
    },
    units::{Nanos, Timestamp},
};

/// How far an event may come behind a later one: many times the time between two drains, for a CPU may be taken
/// away from a program that has read the clock and not yet written its record. Some emulators take it for 100 ms.
pub const WINDOW: Nanos = Nanos::new(250_000_000);

/// Events that are put in order at once at most, and time of which they are released at once at most: after a pause of the
/// drain all that comes would take as much room again.
const MAX_RUN: usize = 16 << 10;
const SLICE: Nanos = Nanos::new(10_000_000);

/// What has a place in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A page fault ended.
    Fault(Fault),
    /// A traced task changed.
    Task(Box<TaskEvent>),
    /// An address space changed.
    Map(Box<MapEvent>),
    /// The kernel charged faults without an event.
    Uncounted(Uncounted),
    /// A stack was seen for the first time.
    Stack(Box<Stack>),
    /// A mapped file has this build ID.
    BuildId(Box<BuildId>),
    /// The kernel's counters of reclaim were read.
    Reclaim(ReclaimReading),
    /// An observation of a process; its time is when it ended.
    Observation(Box<Observation>),
}

// A quarter of a million of them wait, most of them faults: what is larger and rarer is boxed.
const _: () = assert!(size_of::<Event>() == size_of::<Fault>());

impl Event {
    /// When it happened.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        match self {
            Self::Fault(fault) => fault.time,
            Self::Task(task) => task.time,
            Self::Map(map) => map.time,
            Self::Uncounted(uncounted) => uncounted.time,
            Self::Stack(stack) => stack.time,
            Self::BuildId(file) => file.time,
            Self::Reclaim(reading) => reading.time,
            Self::Observation(seen) => seen.time,
        }
    }

    /// Place in the order: by time, and by content where times are equal. An address space is copied before the task
    /// is born that lives in it; a task is born before it faults, and faults before it ends. A stack is reported before what has it.
    #[must_use]
    pub fn key(&self) -> (Timestamp, u8, Tid, u64) {
        let (rank, tid, detail) = match self {
            Self::Map(map) => match &map.action {
                MapAction::Copied { child, .. } => (0, map.tid, child.0),
                MapAction::Renewed { space } => (3, map.tid, space.0),
                MapAction::Shown(shown) => (5, map.tid, shown.vma.range.start().as_raw()),
                MapAction::Trimmed { pages, .. } => (8, map.tid, pages.get()),
                MapAction::Call { .. } => (8, map.tid, 0),
                MapAction::Unexplained { syscall, .. } => (9, map.tid, *syscall),
            },
            Self::Task(task) => match task.action {
                TaskAction::Fork { child_tid, .. } => (1, task.tid, child_tid.0.into()),
                TaskAction::Join { .. } => (2, task.tid, 0),
                TaskAction::Exec { .. } => (4, task.tid, 0),
                TaskAction::Comm(_) => (10, task.tid, 0),
                TaskAction::Exit { .. } => (13, task.tid, 0),
                TaskAction::Late { .. } => (14, task.tid, 0),
                TaskAction::Leave { .. } => (15, task.tid, 0),
                TaskAction::Alive { .. } => (16, task.tid, 0),
            },
            Self::BuildId(file) => (6, Tid(0), file.file.1),
            Self::Stack(stack) => (7, Tid(0), stack.space.0),
            Self::Fault(fault) => (11, fault.tid, fault.addr.as_raw()),
            Self::Uncounted(uncounted) => (12, uncounted.tid, uncounted.faults.total()),
            Self::Reclaim(_) => (17, Tid(0), 0),
            Self::Observation(seen) => (18, Tid(seen.tgid.0), seen.space.0),
        };
        (self.time(), rank, tid, detail)
    }
}

/// Holds events back until nothing earlier can come any more.
#[derive(Debug, Default)]
pub struct Reorder {
    /// What came last, as it arrived.
    fresh: Vec<Event>,
    /// What came before, each in order.
    runs: Vec<VecDeque<Event>>,
    released: Timestamp,
}

impl Reorder {
    /// Takes an event; a loss if later ones have been released already, and it is no reading. Of a process that was held at its
    /// exit a reading may take any time to arrive.
    #[must_use]
    pub fn push(&mut self, event: Event) -> Option<Loss> {
        if let Some(loss) = self.late(event.time()) {
            return Some(loss).filter(|_| !matches!(event, Event::Observation(_) | Event::Reclaim(_)));
        }
        self.fresh.push(event);
        if self.fresh.len() >= MAX_RUN {
            self.end_run();
        }
        None
    }

    /// The loss that an event at `time` would be now, if it comes too late.
    #[must_use]
    pub fn late(&self, time: Timestamp) -> Option<Loss> {
        let (end, cause) = (Some(self.released), LossCause::Late);
        (time < self.released).then_some(Loss { start: time, end, cpu: None, cause, count: Some(1) })
    }

    /// Puts what came in order.
    fn end_run(&mut self) {
        let mut run = std::mem::take(&mut self.fresh);
        run.sort_by_key(Event::key);
        // It will wait for many ticks, and room that is not used would wait with it.
        run.shrink_to_fit();
        if !run.is_empty() {
            self.runs.push(run.into());
        }
    }

    /// Releases, in order, what happened before the window that ends at `tick`.
    pub fn release(&mut self, tick: Timestamp) -> impl Iterator<Item = Event> {
        self.released = self.released.max(tick.before(WINDOW));
        self.end_run();
        std::iter::from_fn(|| self.next_slice()).flatten()
    }

    /// Takes the earliest of what is to be released, in order.
    fn next_slice(&mut self) -> Option<Vec<Event>> {
        let first = self.runs.iter().filter_map(VecDeque::front).map(Event::time).min()?;
        let end = first.after(SLICE).min(self.released);
        if first >= end {
            return None;
        }
        let mut slice = Vec::new();
        self.runs.retain_mut(|run| {
            let count = run.partition_point(|event| event.time() < end);
            slice.extend(run.drain(..count));
            !run.is_empty()
        });
        // Runs one after the other: the standard sort merges them.
        slice.sort_by_key(Event::key);
        Some(slice)
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
        event::{Comm, MapCall, MapRequest, ReportedVma, Seen, SpaceId, Tgid, Vma},
        units::{Nanos, VirtAddr, VirtRange},
    };

    const MS: u64 = 1_000_000;

    fn event(tid: u32, nanos: u64) -> Event {
        let action = TaskAction::Comm(Comm::from_text("x"));
        let time = Timestamp::from_nanos(nanos);
        Event::Task(Box::new(TaskEvent { time, tgid: Tgid(1), tid: Tid(tid), action }))
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
    fn events_of_two_rings_come_out_by_time_however_many_they_are() {
        let each = MAX_RUN as u64 + 1;
        let mut order = Reorder::default();
        for (tid, late) in [(1, 0), (2, MS)] {
            for index in 0..each {
                assert_eq!(order.push(event(tid, late + index * 2_000)), None);
            }
            assert_eq!(order.release(Timestamp::default()).count(), 0);
        }

        let first = times(order.release(Timestamp::from_nanos(WINDOW.get() + 20 * MS)));
        let rest = times(order.release(Timestamp::from_nanos(WINDOW.get() + 100 * MS)));

        assert_eq!(first.len(), 10_000 + 9_500);
        assert_eq!(rest.len() as u64, 2 * each - 19_500);
        assert!(first.iter().chain(&rest).is_sorted());
    }

    #[test]
    fn reading_older_than_what_was_released_is_dropped_and_no_loss() {
        let mut order = Reorder::default();
        order.release(Timestamp::from_nanos(WINDOW.get() + 80 * MS)).for_each(drop);

        let (time, tgid, space) = (Timestamp::from_nanos(79 * MS), Tgid(1), SpaceId(1));
        let reading = Event::Observation(Box::new(Observation { time, tgid, space, seen: Seen::Nothing }));

        assert_eq!(order.push(reading), None);
        assert_eq!(order.release(Timestamp::from_nanos(WINDOW.get() + 200 * MS)).count(), 0);
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
    fn at_one_time_a_copy_comes_before_the_birth_a_vma_before_its_call_and_a_scan_after_all() {
        let (time, tgid, space) = (Timestamp::from_nanos(MS), Tgid(1), SpaceId(7));
        let map = |action| Event::Map(Box::new(MapEvent { time, tgid, tid: Tid(1), action }));
        let range =
            VirtRange::new(VirtAddr::from_raw(0x1000), VirtAddr::from_raw(0x3000)).expect("not empty");
        let (perms, offset, device, inode) = (*b"rw-p", 0, (0, 0), 0);
        let vma = Vma { range, perms, offset, device, inode, name: Vec::new() };
        let request = MapRequest::Munmap { addr: range.start(), length: range.bytes() };
        let call = MapCall { request, result: Ok(0), may_have_resized: true, file: None, stack: None };
        let fork = TaskAction::Fork {
            child_tgid: Tgid(2),
            child_tid: Tid(2),
            clone_flags: 0,
            space: SpaceId(8),
            parent_space: space,
            comm: Comm::default(),
        };
        let in_order = [
            map(MapAction::Copied { parent: space, child: SpaceId(8), brk: None, total_vm: None }),
            Event::Task(Box::new(TaskEvent { time, tgid, tid: Tid(1), action: fork })),
            map(MapAction::Shown(ReportedVma { vma, kind: None })),
            map(MapAction::Call { space, call }),
            Event::Observation(Box::new(Observation { time, tgid, space, seen: Seen::Nothing })),
        ];

        let mut order = Reorder::default();
        for event in in_order.iter().rev() {
            assert_eq!(order.push(event.clone()), None);
        }

        let released: Vec<_> = order.release(Timestamp::from_nanos(WINDOW.get() + 2 * MS)).collect();
        assert_eq!(released, in_order);
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
