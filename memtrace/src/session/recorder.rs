//! Takes frames in arrival order: into the file, then through the pipeline, then into the CSV.
//!
//! Layer: shell. Input: [`Batch`]es from the drain. Output: the recording, CSV rows, [`Recorded`].
//! Keeps: a frame is in the writer before the core sees it; scans are taken here, between batches.
//! Not here: when to stop (`session`), what to scan (`pipeline`).

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    time::{Duration, Instant},
};

use crate::{
    decode::Frame,
    event::{HostFacts, ProbeRequest, ProbeTarget, Tgid, Tid},
    export::{ExportError, Sink as _, Sinks},
    live::{Batch, HeatReader},
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
    /// `None` where the kernel does not let it be read.
    reclaim: Option<ReclaimReader>,
    interval: Nanos,
    next_reading: Timestamp,
    flushed: Instant,
    scan_now: Arc<AtomicBool>,
    still: (Sender<Waiting>, Receiver<Waiting>),
    /// The last comparison has been taken: what changes from now on may not be seen.
    is_compared: bool,
    rows: Vec<Row>,
    requests: Vec<ProbeRequest>,
}

impl<W: Write> Recorder<W> {
    /// Records into `writer`, and the timeline into `csv`.
    pub(super) fn new(
        writer: Writer<W>,
        sinks: Sinks,
        host: &HostFacts,
        options: Options,
        prober: Prober,
        heat: HeatReader,
    ) -> Self {
        let interval = options.interval;
        Self {
            writer,
            sinks,
            pipeline: Pipeline::new(host.clone(), options),
            prober,
            heat,
            reclaim: ReclaimReader::open().ok(),
            interval,
            next_reading: host.start.after(interval),
            flushed: Instant::now(),
            scan_now: Arc::default(),
            still: channel(),
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

    /// Takes batches until their sender is gone, then ends the rows.
    pub(super) fn run(mut self, batches: &Receiver<Batch>) -> Result<Recorded<W>, RecorderError> {
        while let Ok(batch) = batches.recv() {
            for frame in batch {
                self.take(&frame)?;
                let Frame::Tick(time) = frame else { continue };
                if time >= self.next_reading {
                    self.read_heat()?;
                    while self.next_reading <= time {
                        self.next_reading = self.next_reading.after(self.interval);
                    }
                }
                if self.scan_now.swap(false, Ordering::Relaxed) {
                    self.read_reclaim()?;
                    self.read_everywhere(&ProbeTarget::Everything)?;
                }
            }
            self.read_awaited()?;
            if self.flushed.elapsed() >= FLUSH_PERIOD {
                self.writer.flush()?;
                self.flushed = Instant::now();
            }
        }
        self.read_heat()?;
        // What is still there is seen in its last state. Changes of its maps are no longer seen.
        self.read_everywhere(&ProbeTarget::AllPages)?;
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

    /// Takes the readings that somebody waits for.
    fn read_awaited(&mut self) -> Result<(), RecorderError> {
        while let Ok((awaited, _gate)) = self.still.1.try_recv() {
            match awaited {
                Awaited::Still(process, thread) => {
                    self.read_reclaim()?;
                    for observation in self.prober.stopped_scan(process, thread) {
                        self.take(&Frame::Observation(observation))?;
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

    /// Reads the heat counters, and scans of what they make interesting.
    fn read_heat(&mut self) -> Result<(), RecorderError> {
        self.read_reclaim()?;
        let reading = self.heat.read(clock::boottime());
        self.take(&Frame::Heat(reading))
    }

    /// Reads how much the kernel has reclaimed: what scans find from now on may have gone so.
    fn read_reclaim(&mut self) -> Result<(), RecorderError> {
        let reading = self.reclaim.as_mut().and_then(ReclaimReader::read);
        reading.map_or(Ok(()), |reading| self.take(&Frame::Reclaim(reading)))
    }

    /// Takes one frame, and the answers to whatever it makes the core ask.
    fn take(&mut self, frame: &Frame) -> Result<(), RecorderError> {
        self.writer.append(frame)?;
        self.pipeline.take(frame, &mut self.rows, &mut self.requests);
        self.rows.drain(..).try_for_each(|row| self.sinks.row(&row))?;
        self.answer()
    }

    /// Takes the scans that were asked for.
    fn answer(&mut self) -> Result<(), RecorderError> {
        let mut requests = std::mem::take(&mut self.requests);
        if self.is_compared {
            requests.retain(|request| !matches!(request.target, ProbeTarget::Maps | ProbeTarget::Everything));
        }
        for request in requests {
            for observation in self.prober.answer(&request) {
                self.take(&Frame::Observation(observation))?;
            }
        }
        Ok(())
    }
}
