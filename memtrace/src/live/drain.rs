//! One thread that empties the rings and does nothing else.
//!
//! Layer: shell. Input: the rings, a [`LossMeter`]. Output: [`Batch`]es.
//! Source: `kernel/bpf/ringbuf.c`: a record that is reserved and not yet submitted holds back those behind it.
//! Keeps: memory is bounded; while the channel is full the records stay in their rings, and what a ring cannot
//! hold the programs count.
//! Not here: decoding, compression (`session`).

use std::{
    collections::VecDeque,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, TrySendError},
    },
    thread,
    time::Duration,
};

use aya::maps::{MapData, RingBuf};

use super::{cpus::CpuWatch, losses::LossMeter, sideband::SideBand};
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

/// Bytes of faults that one batch holds at most, so that the channel bounds memory: a recorder that lags behind has 8 MiB
/// waiting, and the rest in the rings.
const BATCH_BYTES: usize = 512 << 10;

/// Frames in arrival order.
pub type Batch = Vec<Frame>;

/// Batches that may wait in the channel.
pub const CHANNEL_BATCHES: usize = 16;

/// Empties the rings.
pub struct Drain {
    side_band: Option<SideBand>,
    control: RingBuf<MapData>,
    events: Vec<RingBuf<MapData>>,
    /// Bytes that each of `events` can hold.
    capacity: usize,
    losses: LossMeter,
    cpus: CpuWatch,
    sender: SyncSender<Batch>,
    stalls: Stalls,
}

impl Drain {
    /// Drains `side_band`, `control` and `events`, which holds `capacity` bytes, into `sender`, and what `losses` and `cpus`
    /// say is missing.
    #[must_use]
    pub fn new(
        side_band: Option<SideBand>,
        control: RingBuf<MapData>,
        events: Vec<RingBuf<MapData>>,
        capacity: usize,
        losses: LossMeter,
        cpus: CpuWatch,
        sender: SyncSender<Batch>,
    ) -> Self {
        Self {
            side_band,
            control,
            events,
            capacity,
            losses,
            cpus,
            sender,
            stalls: Stalls::new(clock::boottime()),
        }
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
        let mut room = BATCH_BYTES;
        let all_sent =
            events.iter_mut().all(|ring| self.pass_faults(ring, limit, last, &mut batch, &mut room));
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
        self.send(batch, last)
    }

    /// Copies at most `limit` bytes and a batch out of one ring of faults into `batch`, which has `room` for so many bytes
    /// more; `false` if nobody takes batches any more.
    fn pass_faults(
        &self,
        ring: &mut RingBuf<MapData>,
        limit: usize,
        last: bool,
        batch: &mut Batch,
        room: &mut usize,
    ) -> bool {
        let mut drained = 0;
        while drained < limit {
            let faults = drain_into(ring, *room);
            drained += faults.len();
            let is_full = faults.len() >= *room;
            *room = room.saturating_sub(faults.len());
            if !faults.is_empty() {
                batch.push(Frame::Faults(faults));
            }
            if !is_full {
                return true;
            }
            if !self.send(std::mem::take(batch), last) {
                return false;
            }
            *room = BATCH_BYTES;
        }
        true
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
