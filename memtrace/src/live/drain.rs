//! One thread that empties the rings and does nothing else.
//!
//! Layer: shell. Input: the rings, the loss counters. Output: [`Batch`]es over a bounded channel.
//! Source: `kernel/bpf/ringbuf.c`: a record that is reserved and not yet submitted holds back those behind it.
//! Keeps: memory is bounded; while the channel is full the records stay in their rings, and what a ring cannot
//! hold the programs count.
//! Not here: decoding, compression (`session`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, TrySendError},
    },
    thread,
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use memtrace_ebpf::{Counter, counter_index};

use super::sideband::SideBand;
use crate::{
    decode::Frame,
    event::{Cpu, Loss, LossCause},
    sys::{clock, shared::SharedWords},
    units::Timestamp,
};

/// Time between two drains; at 1.3 M faults a second 0.6 MiB come together.
const PERIOD: Duration = Duration::from_millis(10);

/// Bytes of faults that one batch holds at most, so that the channel bounds memory.
const BATCH_BYTES: usize = 1 << 20;

/// Frames in arrival order.
pub type Batch = Vec<Frame>;

/// Batches that may wait in the channel.
pub const CHANNEL_BATCHES: usize = 16;

/// Empties the rings.
pub struct Drain {
    side_band: Option<SideBand>,
    control: RingBuf<MapData>,
    events: Vec<RingBuf<MapData>>,
    /// Bytes that `events` can hold together.
    capacity: usize,
    losses: LossMeter,
    sender: SyncSender<Batch>,
}

impl Drain {
    /// Drains `side_band`, `control` and `events`, which holds `capacity` bytes, into `sender`; losses are read from `counters`.
    #[must_use]
    pub fn new(
        side_band: Option<SideBand>,
        control: RingBuf<MapData>,
        events: Vec<RingBuf<MapData>>,
        capacity: usize,
        counters: Arc<SharedWords>,
        cpus: u32,
        sender: SyncSender<Batch>,
    ) -> Self {
        Self { side_band, control, events, capacity, losses: LossMeter::new(counters, cpus), sender }
    }

    /// Drains every 10 ms until `stop` is set, then once more; ends early if nobody takes batches any more.
    pub fn run(mut self, stop: &AtomicBool) {
        loop {
            let last = stop.load(Ordering::Acquire);
            if !self.pass(last) || last {
                return;
            }
            thread::sleep(PERIOD);
        }
    }

    /// Empties all rings once; `false` if nobody takes batches any more.
    fn pass(&mut self, last: bool) -> bool {
        let began = clock::boottime();
        let mut batch = Batch::new();
        // First, and handed over last: what it tells of is of tasks that `control` tells of.
        let mut side_band = Vec::new();
        if let Some(rings) = &mut self.side_band {
            rings.drain(&mut side_band);
        }
        let control = drain_into(&mut self.control, usize::MAX);
        if !control.is_empty() {
            batch.push(Frame::Control(control));
        }
        if !side_band.is_empty() {
            batch.push(Frame::SideBand(side_band));
        }
        // What was in the ring when the pass began, and not what comes while it lasts, which may be for ever.
        let mut events = std::mem::take(&mut self.events);
        let limit = self.capacity / events.len().max(1);
        let all_sent = events.iter_mut().all(|ring| self.pass_faults(ring, limit, last, &mut batch));
        self.events = events;
        if !all_sent {
            return false;
        }
        batch.extend(self.losses.read(clock::boottime()).map(Frame::Loss));
        batch.push(Frame::Tick(began));
        self.send(batch, last)
    }

    /// Copies at most `limit` bytes and a batch out of one ring of faults; `false` if nobody takes batches any more.
    fn pass_faults(&self, ring: &mut RingBuf<MapData>, limit: usize, last: bool, batch: &mut Batch) -> bool {
        let mut drained = 0;
        loop {
            let faults = drain_into(ring, BATCH_BYTES);
            drained += faults.len();
            let more = faults.len() >= BATCH_BYTES && drained < limit;
            if !faults.is_empty() {
                batch.push(Frame::Faults(faults));
            }
            if !more {
                return true;
            }
            if !self.send(std::mem::take(batch), last) {
                return false;
            }
        }
    }

    /// Hands a batch over. A full channel holds this thread back while the ring, which is larger, takes
    /// what comes; `false` if the receiver is gone.
    fn send(&self, mut batch: Batch, last: bool) -> bool {
        loop {
            match self.sender.try_send(batch) {
                Ok(()) => return true,
                Err(TrySendError::Disconnected(_)) => return false,
                Err(TrySendError::Full(back)) if last => return self.sender.send(back).is_ok(),
                Err(TrySendError::Full(back)) => batch = back,
            }
            thread::sleep(PERIOD / 10);
        }
    }
}

/// Copies records out of `ring` until it is empty or `limit` bytes are reached.
fn drain_into(ring: &mut RingBuf<MapData>, limit: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < limit {
        let Some(record) = ring.next() else { break };
        bytes.extend_from_slice(&record);
    }
    bytes
}

/// Turns the growth of the loss counters into losses.
struct LossMeter {
    counters: Arc<SharedWords>,
    cpus: u32,
    seen: Vec<[u64; LOSSES.len()]>,
    since: Timestamp,
}

/// The counters that mean missing records.
const LOSSES: [(Counter, LossCause); 3] = [
    (Counter::LostEvents, LossCause::EventsRing),
    (Counter::LostControl, LossCause::ControlRing),
    (Counter::LostTasks, LossCause::TaskTable),
];

impl LossMeter {
    fn new(counters: Arc<SharedWords>, cpus: u32) -> Self {
        let seen = vec![[0; LOSSES.len()]; cpus as usize];
        Self { counters, cpus, seen, since: clock::boottime() }
    }

    /// What was lost since the reading before, by CPU and cause.
    fn read(&mut self, now: Timestamp) -> impl Iterator<Item = Loss> {
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
        losses.into_iter()
    }
}
