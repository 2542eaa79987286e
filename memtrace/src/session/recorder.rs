//! Takes frames in arrival order: into the file, then through the pipeline, then into the CSV.
//!
//! Layer: shell. Input: [`Batch`]es from the drain. Output: the recording, CSV rows, [`Recorded`].
//! Keeps: a frame is in the writer before the core sees it; looks are taken here, between batches.
//! Not here: when to stop (`session`), what to look at (`pipeline`).

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
    event::{HostFacts, ProbeRequest, SpaceId, Tgid, Tid},
    export::{ExportError, csv::CsvTimeline},
    live::{Batch, HeatReader},
    pipeline::{Options, Pipeline},
    probe::Prober,
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
    /// The CSV could not be written.
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
    /// What looks cost.
    pub(super) prober: Prober,
}

/// A process that stands still until its maps have been read.
#[derive(Debug)]
struct Still {
    tgid: Tgid,
    /// The thread that stands still.
    tid: Tid,
    /// Dropped when it may go.
    _gate: SyncSender<()>,
}

/// By which others have the maps of a process read while it stands still.
#[derive(Clone, Debug)]
pub(super) struct StillLooks(Sender<Still>);

impl StillLooks {
    /// Waits until the maps of `process` have been read by its thread `thread`.
    pub(super) fn take(&self, process: Tgid, thread: Tid) {
        let (gate, taken) = sync_channel(0);
        if self.0.send(Still { tgid: process, tid: thread, _gate: gate }).is_ok() {
            // Nothing is ever sent; it ends when the other end is dropped.
            let _taken = taken.recv();
        }
    }
}

/// Where frames go.
pub(super) struct Recorder<W: Write, C: Write> {
    writer: Writer<W>,
    csv: Option<CsvTimeline<C>>,
    pipeline: Pipeline,
    prober: Prober,
    heat: HeatReader,
    interval: Nanos,
    next_reading: Timestamp,
    flushed: Instant,
    look_now: Arc<AtomicBool>,
    still: (Sender<Still>, Receiver<Still>),
    rows: Vec<Row>,
    requests: Vec<ProbeRequest>,
}

impl<W: Write, C: Write> Recorder<W, C> {
    /// Records into `writer`, and the timeline into `csv`.
    pub(super) fn new(
        writer: Writer<W>,
        csv: Option<CsvTimeline<C>>,
        host: &HostFacts,
        options: Options,
        prober: Prober,
        heat: HeatReader,
    ) -> Self {
        let interval = options.interval;
        Self {
            writer,
            csv,
            pipeline: Pipeline::new(host.clone(), options),
            prober,
            heat,
            interval,
            next_reading: host.start.after(interval),
            flushed: Instant::now(),
            look_now: Arc::default(),
            still: channel(),
            rows: Vec::new(),
            requests: Vec::new(),
        }
    }

    /// Set to true, it makes the recorder look at all regions once.
    pub(super) fn look_switch(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.look_now)
    }

    /// By which processes that stand still have their maps read.
    pub(super) fn still_looks(&self) -> StillLooks {
        StillLooks(self.still.0.clone())
    }

    /// Takes batches until their sender is gone, then closes the timeline.
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
                if self.look_now.swap(false, Ordering::Relaxed) {
                    self.pipeline.look_everywhere(&mut self.requests);
                    self.answer()?;
                }
            }
            self.read_still()?;
            if self.flushed.elapsed() >= FLUSH_PERIOD {
                self.writer.flush()?;
                self.flushed = Instant::now();
            }
        }
        self.read_heat()?;
        // What is still there is seen in its last state.
        self.pipeline.look_everywhere(&mut self.requests);
        self.answer()?;
        let summary = self.pipeline.finish(&mut self.rows);
        write_rows(&mut self.csv, &mut self.rows)?;
        if let Some(csv) = self.csv {
            csv.finish()?;
        }
        Ok(Recorded { writer: self.writer, summary, prober: self.prober })
    }

    /// Reads the maps of processes that stand still, and lets them go on.
    fn read_still(&mut self) -> Result<(), RecorderError> {
        while let Ok(Still { tgid, tid, _gate }) = self.still.1.try_recv() {
            // Which address space it is, the pipeline knows when it has come to that time.
            for observation in self.prober.still_look(tgid, tid, SpaceId::UNKNOWN) {
                self.take(&Frame::Observation(observation))?;
            }
        }
        Ok(())
    }

    /// Reads the heat counters, and looks at what they make interesting.
    fn read_heat(&mut self) -> Result<(), RecorderError> {
        let reading = self.heat.read(clock::boottime());
        self.take(&Frame::Heat(reading))
    }

    /// Takes one frame, and the answers to whatever it makes the core ask.
    fn take(&mut self, frame: &Frame) -> Result<(), RecorderError> {
        self.writer.append(frame)?;
        for record in frame.records() {
            self.pipeline.push(record, &mut self.rows, &mut self.requests);
        }
        write_rows(&mut self.csv, &mut self.rows)?;
        self.answer()
    }

    /// Takes the looks that were asked for.
    fn answer(&mut self) -> Result<(), RecorderError> {
        for request in std::mem::take(&mut self.requests) {
            for observation in self.prober.answer(&request) {
                self.take(&Frame::Observation(observation))?;
            }
        }
        Ok(())
    }
}

/// Writes finished rows to the CSV, if there is one.
fn write_rows<C: Write>(csv: &mut Option<CsvTimeline<C>>, rows: &mut Vec<Row>) -> Result<(), RecorderError> {
    for row in rows.drain(..) {
        if let Some(csv) = csv {
            csv.row(&row)?;
        }
    }
    Ok(())
}
