//! Takes frames in one order: into the file as they come, then through the pipeline, whose rows go to the sinks.
//!
//! Layer: shell. Input: [`Batches`] from the drain. Output: the recording, rows, [`Recorded`].
//! Keeps: a frame is in the writer before the core sees it, however far the core lags behind; scans are taken here, between
//! frames, and what they see goes behind all that has been written.
//! Not here: when to stop (`session`), what to scan (`pipeline`).

use std::{
    collections::VecDeque,
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    time::{Duration, Instant},
};

use super::exits::Exits;
use crate::{
    decode::Frame,
    event::{HostFacts, ProbeRequest, ProbeTarget, Tgid, Tid},
    export::{ExportError, Sink as _, Sinks},
    live::{Batch, Batches, HeatReader},
    pipeline::{Options, Pipeline},
    probe::{Prober, reclaim::ReclaimReader},
    record::{RecordError, Writer},
    sys::clock,
    timeline::{Row, Summary},
    units::{Nanos, Timestamp},
};

/// Time after which what is buffered goes to the file: the most that a killed recorder takes with it.
const FLUSH_PERIOD: Duration = Duration::from_millis(250);

/// Why recording stopped before its time.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecorderError {
    /// The recording could not be written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A sink could not take a row.
    #[error(transparent)]
    Export(#[from] ExportError),
}

/// What is left when all batches are taken.
#[derive(Debug)]
pub(super) struct Recorded<W: Write> {
    /// The recording, without its end mark.
    pub(super) writer: Writer<W>,
    /// Totals.
    pub(super) summary: Summary,
    /// What scans cost.
    pub(super) prober: Prober,
}

/// What somebody waits to be read.
#[derive(Clone, Copy, Debug)]
enum Awaited {
    /// Pages and maps of a process that stands still, by its thread.
    Still(Tgid, Tid),
    /// The maps of all that is traced.
    AllMaps,
}

/// Somebody waits for a reading; the gate is dropped when it has been taken.
type Waiting = (Awaited, SyncSender<()>);

/// By which others have readings taken, and wait for them.
#[derive(Clone, Debug)]
pub(super) struct StoppedProbe(Sender<Waiting>);

impl StoppedProbe {
    /// Waits until the maps of `process` have been read by its thread `thread`.
    pub(super) fn take(&self, process: Tgid, thread: Tid) {
        self.await_reading(Awaited::Still(process, thread));
    }

    /// Waits until the maps of all that is traced have been read, for the last time.
    pub(super) fn take_all_maps(&self) {
        self.await_reading(Awaited::AllMaps);
    }

    fn await_reading(&self, awaited: Awaited) {
        let (gate, taken) = sync_channel(0);
        if self.0.send((awaited, gate)).is_ok() {
            // Nothing is ever sent; it ends when the other end is dropped.
            let _taken = taken.recv();
        }
    }
}

/// Where frames go.
pub(super) struct Recorder<W: Write> {
    writer: Writer<W>,
    sinks: Sinks,
    pipeline: Pipeline,
    prober: Prober,
    heat: HeatReader,
    batches: Batches,
    /// `None` where the kernel does not let it be read.
    reclaim: Option<ReclaimReader>,
    interval: Nanos,
    next_reading: Timestamp,
    /// A reading of the heat counters waits for its turn: which scans it asks for is not known yet.
    is_reading_waiting: bool,
    flushed: Instant,
    scan_now: Arc<AtomicBool>,
    still: (Sender<Waiting>, Receiver<Waiting>),
    /// `None` if no process is held at its exit.
    exits: Option<Exits>,
    /// Written, and yet to go through the pipeline.
    waiting: VecDeque<Frame>,
    /// The last comparison has been taken: what changes from now on may not be seen.
    is_compared: bool,
    rows: Vec<Row>,
    requests: Vec<ProbeRequest>,
}

impl<W: Write> Recorder<W> {
    /// Records `batches` into `writer`; what `options` say is wanted goes to `sinks`.
    pub(super) fn new(
        writer: Writer<W>,
        sinks: Sinks,
        host: &HostFacts,
        options: Options,
        prober: Prober,
        heat: HeatReader,
        batches: Batches,
    ) -> Self {
        let interval = options.interval;
        Self {
            writer,
            sinks,
            pipeline: Pipeline::new(host.clone(), options),
            prober,
            heat,
            batches,
            reclaim: ReclaimReader::open().ok(),
            interval,
            next_reading: host.start.after(interval),
            is_reading_waiting: false,
            flushed: Instant::now(),
            scan_now: Arc::default(),
            still: channel(),
            exits: None,
            waiting: VecDeque::new(),
            is_compared: false,
            rows: Vec::new(),
            requests: Vec::new(),
        }
    }

    /// Set to true, it makes the recorder scan all regions once.
    pub(super) fn scan_switch(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.scan_now)
    }

    /// By which others have readings taken.
    pub(super) fn stopped_probe(&self) -> StoppedProbe {
        StoppedProbe(self.still.0.clone())
    }

    /// Records what is seen of processes that are held at their exit, too.
    pub(super) fn with_exits(self, exits: Option<Exits>) -> Self {
        Self { exits, ..self }
    }

    /// Takes batches until their sender is gone, then ends the rows.
    pub(super) fn run(mut self) -> Result<Recorded<W>, RecorderError> {
        loop {
            self.write_all_here()?;
            self.read_awaited()?;
            if self.process_one()? {
                continue;
            }
            let Some(batch) = self.batches.next() else { break };
            self.write_batch(batch)?;
        }
        self.read_heat()?;
        while self.process_one()? {}
        // What is still there is seen in its last state. Changes of its maps are no longer seen.
        self.read_everywhere(&ProbeTarget::AllPages)?;
        self.read_everywhere(&ProbeTarget::Resident)?;
        while self.process_one()? {}
        if self.prober.is_cut() {
            log::warn!(
                "scans of pages were cut short by the signal: some pages are as they were seen before it"
            );
        }
        let summary = self.pipeline.finish(&mut self.rows);
        self.rows.iter().try_for_each(|row| self.sinks.row(row))?;
        self.sinks.end(&summary)?;
        Ok(Recorded { writer: self.writer, summary, prober: self.prober })
    }

    /// Writes all batches that are here: what takes time may not hold up what came.
    fn write_all_here(&mut self) -> Result<(), RecorderError> {
        while let Some(batch) = self.batches.next_here() {
            self.write_batch(batch)?;
        }
        Ok(())
    }

    /// Writes a batch behind what was seen at exits by now, which would come too late behind its tick.
    fn write_batch(&mut self, batch: Batch) -> Result<(), RecorderError> {
        let tick = |frame: &Frame| if let Frame::Tick(time) = frame { Some(*time) } else { None };
        self.write_exits(batch.iter().filter_map(tick).max())?;
        batch.into_iter().try_for_each(|frame| self.write(frame))
    }

    /// Writes what was seen of processes that were held at their exit; not where there is no room for more.
    fn write_exits(&mut self, tick: Option<Timestamp>) -> Result<(), RecorderError> {
        for exit in self.exits.as_mut().map(|exits| exits.take(tick)).unwrap_or_default() {
            if !self.batches.is_full() {
                exit.into_frames().try_for_each(|frame| self.write_own(frame))?;
            }
        }
        Ok(())
    }

    /// Takes the readings that somebody waits for.
    fn read_awaited(&mut self) -> Result<(), RecorderError> {
        while let Ok((awaited, _gate)) = self.still.1.try_recv() {
            match awaited {
                Awaited::Still(process, thread) => {
                    self.read_reclaim()?;
                    for observation in self.prober.stopped_scan(process, thread) {
                        self.write_own(Frame::Observation(observation))?;
                    }
                }
                Awaited::AllMaps => {
                    self.read_everywhere(&ProbeTarget::Maps)?;
                    self.is_compared = true;
                }
            }
        }
        Ok(())
    }

    /// Reads `target` of all that is traced.
    fn read_everywhere(&mut self, target: &ProbeTarget) -> Result<(), RecorderError> {
        self.pipeline.ask_everywhere(target, &mut self.requests);
        self.answer()
    }

    /// Reads the heat counters; what they make interesting is scanned when the pipeline has come to that.
    fn read_heat(&mut self) -> Result<(), RecorderError> {
        self.read_reclaim()?;
        let reading = self.heat.read(clock::boottime());
        self.is_reading_waiting = true;
        self.write_own(Frame::Heat(reading))
    }

    /// Reads how much the kernel has reclaimed: what scans find from now on may have gone so.
    fn read_reclaim(&mut self) -> Result<(), RecorderError> {
        let reading = self.reclaim.as_mut().and_then(ReclaimReader::read);
        reading.map_or(Ok(()), |reading| self.write_own(Frame::Reclaim(reading)))
    }

    /// Writes a frame that was made here.
    fn write_own(&mut self, frame: Frame) -> Result<(), RecorderError> {
        self.batches.add(&frame);
        self.write(frame)
    }

    /// Writes one frame; the pipeline takes it when its turn comes.
    fn write(&mut self, frame: Frame) -> Result<(), RecorderError> {
        self.writer.append(&frame)?;
        if self.flushed.elapsed() >= FLUSH_PERIOD {
            self.writer.flush()?;
            self.flushed = Instant::now();
        }
        self.waiting.push_back(frame);
        Ok(())
    }

    /// Puts the first frame that waits through the pipeline, and takes the scans that this makes it ask for; `false` if none waits.
    fn process_one(&mut self) -> Result<bool, RecorderError> {
        let Some(frame) = self.waiting.pop_front() else { return Ok(false) };
        self.pipeline.take(&frame, &mut self.rows, &mut self.requests);
        self.batches.done(&frame);
        self.rows.drain(..).try_for_each(|row| self.sinks.row(&row))?;
        self.answer()?;
        match frame {
            Frame::Tick(time) => self.tick(time)?,
            Frame::Heat(_) => self.is_reading_waiting = false,
            _ => {}
        }
        Ok(true)
    }

    /// Takes what is due at `time`. A reading is taken when all scans have been that the one before asked for: they pass for those of
    /// the last reading.
    fn tick(&mut self, time: Timestamp) -> Result<(), RecorderError> {
        if time >= self.next_reading && !self.is_reading_waiting {
            self.read_heat()?;
            while self.next_reading <= time {
                self.next_reading = self.next_reading.after(self.interval);
            }
        }
        if self.scan_now.swap(false, Ordering::Relaxed) {
            self.read_reclaim()?;
            self.read_everywhere(&ProbeTarget::Everything)?;
        }
        Ok(())
    }

    /// Takes the scans that were asked for.
    fn answer(&mut self) -> Result<(), RecorderError> {
        let mut requests = std::mem::take(&mut self.requests);
        if self.is_compared {
            requests.retain(|request| !matches!(request.target, ProbeTarget::Maps | ProbeTarget::Everything));
        }
        for request in requests {
            for observation in self.prober.answer(&request) {
                self.write_own(Frame::Observation(observation))?;
            }
            self.write_all_here()?;
        }
        Ok(())
    }
}
