//! Turns the programs' own counts of what they lost into losses.
//!
//! Layer: shell. Input: the counters, a [`SkipMeter`]. Output: [`Loss`]es with the period in which they happened.
//! Keeps: what was counted once is told once.
//! Not here: losses that the kernel tells in records of its own (`decode`).

use std::sync::Arc;

use memtrace_ebpf::{Counter, counter_index};

use super::skips::SkipMeter;
use crate::{
    event::{Cpu, Loss, LossCause},
    sys::{clock, shared::SharedWords},
    units::Timestamp,
};

/// The counters that mean missing records.
const LOSSES: [(Counter, LossCause); 3] = [
    (Counter::LostEvents, LossCause::EventsRing),
    (Counter::LostControl, LossCause::ControlRing),
    (Counter::LostTasks, LossCause::TaskTable),
];

/// Turns the growth of the loss counters into losses.
#[derive(Debug)]
pub struct LossMeter {
    counters: Arc<SharedWords>,
    cpus: u32,
    seen: Vec<[u64; LOSSES.len()]>,
    since: Timestamp,
    skips: SkipMeter,
}

impl LossMeter {
    /// Begins to count what is lost, by the `counters` of `cpus` and by `skips`.
    #[must_use]
    pub fn new(counters: Arc<SharedWords>, cpus: u32, skips: SkipMeter) -> Self {
        let seen = vec![[0; LOSSES.len()]; cpus as usize];
        Self { counters, cpus, seen, since: clock::boottime(), skips }
    }

    /// What was lost since the reading before, by CPU and cause; all of it if this is the `last` one.
    pub fn read(&mut self, now: Timestamp, last: bool) -> Vec<Loss> {
        let mut losses = Vec::new();
        for (cpu, seen) in (0..self.cpus).zip(&mut self.seen) {
            for ((counter, cause), seen) in LOSSES.iter().zip(seen) {
                let value = self.counters.load(counter_index(cpu, *counter) as usize);
                if value != *seen {
                    losses.push(Loss {
                        start: self.since,
                        end: Some(now),
                        cpu: Some(Cpu(cpu)),
                        cause: *cause,
                        count: Some(value - *seen),
                    });
                    *seen = value;
                }
            }
        }
        self.since = now;
        losses.extend(self.skips.read(now, last));
        losses
    }
}
