//! One thread that empties the rings and does nothing else.
//!
//! Layer: shell. Input: the rings, a [`LossMeter`]. Output: [`Batch`]es.
//! Source: `kernel/bpf/ringbuf.c`: a record that is reserved and not yet submitted holds back those behind it.
//! Keeps: memory is bounded; while the recorder lags behind records stay in their rings, those of faults first, and what a ring
//! cannot hold the programs count. A tick comes when all that was in the rings at its time has been handed over.
//! Not here: decoding, compression (`session`).

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use aya::maps::{MapData, RingBuf};

use super::{
    batches::{Batch, BatchSender},
    cpus::CpuWatch,
    losses::LossMeter,
    probes::CONTROL_BYTES,
    sideband::SideBand,
    stacks::{SeenCode, Stacks},
};
use crate::{
    decode::Frame,
    order::WINDOW,
    sys::clock,
    units::{Nanos, Timestamp},
};

/// Time between two drains; at 1.3 M faults a second 0.6 MiB come together.
const PERIOD: Duration = Duration::from_millis(10);

/// Time between the begins of two drains from which on something kept this thread from running: others too, perhaps,
/// amid a record.
const STALL: Nanos = Nanos::new(50_000_000);

/// Bytes that one frame holds at most, but for those of perf: some milliseconds of the recorder's time.
const FRAME_BYTES: usize = 512 << 10;

/// The rings of a session.
pub struct Rings {
    /// Of perf; `None` if changes of address spaces are not followed.
    pub side_band: Option<SideBand>,
    /// Of tasks and changes of address spaces.
    pub control: RingBuf<MapData>,
    /// Of faults.
    pub events: Vec<RingBuf<MapData>>,
    /// Bytes that those of faults hold together.
    pub event_bytes: usize,
    /// `None` if no stacks are recorded.
    pub stacks: Option<Stacks>,
}

/// Empties the rings.
pub struct Drain {
    side_band: Option<SideBand>,
    control: RingBuf<MapData>,
    events: Vec<RingBuf<MapData>>,
    stacks: Option<Stacks>,
    /// Bytes that each of `events` can hold.
    capacity: usize,
    losses: LossMeter,
    cpus: CpuWatch,
    sender: BatchSender,
    stalls: Stalls,
}

impl Drain {
    /// Drains `rings` into `sender`, and what `losses` and `cpus` say is missing.
    #[must_use]
    pub fn new(rings: Rings, losses: LossMeter, cpus: CpuWatch, sender: BatchSender) -> Self {
        let Rings { side_band, control, events, event_bytes, stacks } = rings;
        let capacity = event_bytes / events.len().max(1);
        let stalls = Stalls::new(clock::boottime());
        Self { side_band, control, events, stacks, capacity, losses, cpus, sender, stalls }
    }

    /// Drains every 10 ms, or as long as stacks lack rules each millisecond, until `stop` is set, then once more; ends early if
    /// nobody takes batches any more. Returns the code of which names are wanted.
    pub fn run(mut self, stop: &AtomicBool) -> Option<SeenCode> {
        loop {
            let last = stop.load(Ordering::Acquire);
            if !self.pass(last) || last {
                return self.stacks.and_then(Stacks::into_code);
            }
            // The sooner there are rules, the fewer stacks need any.
            let is_learning = self.stacks.as_ref().is_some_and(Stacks::is_learning);
            thread::sleep(if is_learning { PERIOD / 10 } else { PERIOD });
        }
    }

    /// Empties all rings once; `false` if nobody takes batches any more.
    fn pass(&mut self, last: bool) -> bool {
        while self.sender.is_full() {
            thread::sleep(PERIOD / 10);
        }
        let began = clock::boottime();
        let mut batch = self.drain_changes();
        let mut events = std::mem::take(&mut self.events);
        let all_sent = events.iter_mut().all(|ring| self.pass_faults(ring, &mut batch));
        self.events = events;
        if !all_sent {
            return false;
        }
        batch.extend(self.losses.read(clock::boottime(), last).into_iter().map(Frame::Loss));
        if let Some(rings) = &mut self.side_band {
            // After the last drain no record will come that announces it.
            let until = if last { clock::boottime() } else { began };
            batch.extend(rings.unannounced(until).map(Frame::Loss));
        }
        let missed = self.cpus.read(began, last, self.side_band.as_mut());
        batch.extend(missed.into_iter().map(Frame::Loss));
        batch.push(Frame::Tick(self.stalls.tick(began)));
        self.sender.send(batch)
    }

    /// What happened to tasks and address spaces.
    fn drain_changes(&mut self) -> Batch {
        let mut batch = Batch::new();
        // Before what may report the code that they are of.
        let stacks = self.stacks.as_mut().map(Stacks::drain);
        // Then, and handed over last: its records are of tasks whose birth is in `control`.
        let mut side_band = Vec::new();
        if let Some(rings) = &mut self.side_band {
            rings.drain(&mut side_band);
        }
        // What was in the ring, and not what comes meanwhile, which may be for ever.
        let mut left = CONTROL_BYTES as usize;
        while left > 0 {
            let control = drain_into(&mut self.control, FRAME_BYTES);
            left = if control.len() < FRAME_BYTES { 0 } else { left.saturating_sub(control.len()) };
            if !control.is_empty() {
                batch.push(Frame::Control(control));
            }
        }
        if !side_band.is_empty() {
            batch.push(Frame::SideBand(side_band));
        }
        if let Some((stacks, drained)) = self.stacks.as_mut().zip(stacks) {
            batch.extend(stacks.unwind(&drained, &batch));
        }
        batch
    }

    /// Copies out of one ring of faults what was in it into `batch`, handing over full ones; `false` if nobody takes batches any
    /// more. While the recorder lags behind, the rest stays in the ring; changes do not, for the rings of perf have little room.
    fn pass_faults(&mut self, ring: &mut RingBuf<MapData>, batch: &mut Batch) -> bool {
        let mut left = self.capacity;
        loop {
            let faults = drain_into(ring, FRAME_BYTES);
            let is_over = faults.len() < FRAME_BYTES || faults.len() >= left;
            left = left.saturating_sub(faults.len());
            if !faults.is_empty() {
                if let Some(stacks) = &mut self.stacks {
                    stacks.see_faults(&faults);
                }
                batch.push(Frame::Faults(faults));
            }
            if is_over {
                return true;
            }
            if !self.sender.send(std::mem::take(batch)) {
                return false;
            }
            // Once it is full the recorder is to catch up, or no pass would end while changes come faster than it takes them.
            let mut has_been_full = false;
            while self.sender.is_behind() {
                thread::sleep(PERIOD / 10);
                has_been_full |= self.sender.is_full();
                let changes = if has_been_full { Batch::new() } else { self.drain_changes() };
                if !changes.is_empty() && !self.sender.send(changes) {
                    return false;
                }
            }
        }
    }
}

/// What a clock would show that stands while this machine stands, and is right again when what was held up has come.
///
/// A hypervisor may take the CPUs away for a second from programs that have read the clock and not yet written their
/// records. [`WINDOW`] is to be the time in which they could have written them.
#[derive(Debug)]
struct Stalls {
    last: Timestamp,
    /// When each ended, and how much longer than [`STALL`] it was; those of the last [`WINDOW`].
    recent: VecDeque<(Timestamp, Nanos)>,
}

impl Stalls {
    fn new(now: Timestamp) -> Self {
        Self { last: now, recent: VecDeque::new() }
    }

    /// The tick of a drain that began at `now`: never before an earlier one.
    fn tick(&mut self, now: Timestamp) -> Timestamp {
        let excess = now.since(self.last.after(STALL));
        self.last = now;
        self.recent.retain(|(end, _)| now.since(*end) < WINDOW);
        if excess > Nanos::default() {
            self.recent.push_back((now, excess));
        }
        self.recent.iter().fold(now, |tick, (_, excess)| tick.before(*excess))
    }
}

/// Copies records out of `ring` until it is empty or `limit` bytes are reached.
fn drain_into(ring: &mut RingBuf<MapData>, limit: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < limit {
        let Some(record) = ring.next() else { break };
        bytes.extend_from_slice(&record);
    }
    // Batches wait, and room that is not used waits with them.
    bytes.shrink_to_fit();
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// The ticks of drains that begin at `times`, in milliseconds.
    fn ticks<const N: usize>(times: [u64; N]) -> [u64; N] {
        let mut stalls = Stalls::new(Timestamp::from_nanos(times[0] * MS));
        times.map(|time| stalls.tick(Timestamp::from_nanos(time * MS)).as_nanos() / MS)
    }

    #[test]
    fn tick_is_the_time_of_the_drain() {
        assert_eq!(ticks([1000, 1010, 1040, 1090]), [1000, 1010, 1040, 1090]);
    }

    #[test]
    fn tick_stands_in_a_stall_and_for_the_window_after_it() {
        let ticks = ticks([1000, 1800, 1850, 1900, 1950, 2000, 2049, 2050]);

        assert_eq!(ticks, [1000, 1050, 1100, 1150, 1200, 1250, 1299, 2050]);
    }

    #[test]
    fn ticks_of_slow_drains_lag_by_what_the_window_holds() {
        assert_eq!(ticks([1000, 1100, 1200, 1300, 1400, 1500]), [1000, 1050, 1100, 1150, 1250, 1350]);
        assert_eq!(ticks([1000, 4000, 7000]), [1000, 1050, 4050]);
    }
}
