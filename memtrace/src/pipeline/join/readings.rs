//! Readings of maps, until they can be compared with the regions.
//!
//! Keeps: where changes are in the order in which their calls return, maps may show what a call has done that has not returned
//! yet. A reading waits there for such calls: what changes before it is compared proves nothing. It is compared before
//! its process ends or executes a program, for no call is in flight then.
//! Not here: comparing (`region`).

use std::collections::VecDeque;

use crate::{
    event::{MapAction, MapsReading, Seen, SpaceId, TaskAction, Tgid},
    order::Event,
    units::{Nanos, Timestamp},
};

/// How long a call may take to return once it has changed the address space: it frees the pages meanwhile.
const PATIENCE: Nanos = Nanos::new(1_000_000_000);

/// A reading of the maps of a process.
#[derive(Debug)]
pub(in crate::pipeline) struct Reading {
    /// When it ended.
    pub(in crate::pipeline) time: Timestamp,
    pub(in crate::pipeline) tgid: Tgid,
    /// The address space that the process had when it was asked for.
    pub(in crate::pipeline) space: SpaceId,
    pub(in crate::pipeline) maps: MapsReading,
}

/// A reading that is to be compared with the regions as they are `now`.
#[derive(Debug)]
pub(in crate::pipeline) struct Due {
    pub(in crate::pipeline) now: Timestamp,
    pub(in crate::pipeline) reading: Reading,
    /// Whether what it contradicts may be due to calls that had not returned when the recording ended.
    pub(in crate::pipeline) is_early: bool,
}

/// The readings that wait, the earliest first.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct Readings(VecDeque<Reading>);

impl Readings {
    /// Lets `reading` wait for calls in flight.
    pub(in crate::pipeline) fn put_off(&mut self, reading: Reading) {
        self.0.push_back(reading);
    }

    /// One that has waited long enough at `now`.
    pub(in crate::pipeline) fn due(&mut self, now: Timestamp) -> Option<Due> {
        let due = self.0.front()?.time.after(PATIENCE);
        let reading = self.0.pop_front_if(|_| due <= now)?;
        Some(Due { now: due, reading, is_early: false })
    }

    /// One that is to be compared before `event` takes effect.
    pub(in crate::pipeline) fn due_before(&mut self, event: &Event) -> Option<Due> {
        if self.0.is_empty() {
            return None;
        }
        let now = event.time();
        self.due(now).or_else(|| {
            let ending = ending(event)?;
            let place = self.0.iter().position(|reading| reading.tgid == ending)?;
            Some(Due { now, reading: self.0.remove(place)?, is_early: false })
        })
    }

    /// One that still waits at the end of the recording.
    pub(in crate::pipeline) fn left(&mut self, now: Timestamp) -> Option<Due> {
        Some(Due { now, reading: self.0.pop_front()?, is_early: true })
    }
}

/// The process whose address space ends with `event`.
fn ending(event: &Event) -> Option<Tgid> {
    match event {
        Event::Task(task) => {
            let is_end =
                matches!(task.action, TaskAction::Exec { .. } | TaskAction::Exit { group_dead: true, .. });
            is_end.then_some(task.tgid)
        }
        Event::Map(map) => matches!(map.action, MapAction::Renewed { .. }).then_some(map.tgid),
        Event::Observation(seen) => matches!(seen.seen, Seen::Nothing).then_some(seen.tgid),
        Event::Fault(_) | Event::Uncounted(_) | Event::Reclaim(_) | Event::Stack(_) | Event::BuildId(_) => {
            None
        }
    }
}
