//! The two threads of a session: one drains the rings, one records what was drained.
//!
//! Layer: shell. Input: a [`Drain`] and a [`Recorder`]. Output: [`Recorded`] when that has ended, then the names of code.
//! Keeps: the way of batches between them is the only thing they share.
//! Not here: signals and the target (`watch`).

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Sender, channel},
    },
    thread::{Builder, JoinHandle},
};

use tokio::sync::oneshot;

use super::recorder::{Recorded, Recorder, RecorderError};
use crate::{
    event::Symbols,
    live::{Batch, BatchSender, Drain, SeenCode},
};

/// The running threads.
#[derive(Debug)]
pub(super) struct Threads<W: Write> {
    /// What is to be recorded behind all that was drained.
    last: Sender<Batch>,
    stop: Stop,
    draining: JoinHandle<Vec<Symbols>>,
    recording: JoinHandle<Result<Recorded<W>, RecorderError>>,
    /// Closed when recording ends, whatever it came to.
    ended: oneshot::Receiver<()>,
    drain_ended: oneshot::Receiver<()>,
}

/// The thread that has drained, and finds the names of code now.
#[derive(Debug)]
pub(super) struct Naming {
    thread: JoinHandle<Vec<Symbols>>,
    /// Closed when it ends.
    ended: oneshot::Receiver<()>,
}

impl Naming {
    /// The names.
    pub(super) async fn finish(self) -> Vec<Symbols> {
        let _closed = self.ended.await;
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Tells the drain to end, at the latest when the session is given up.
#[derive(Debug)]
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl<W: Write + Send + 'static> Threads<W> {
    /// Starts both, `first` ahead of whatever `drain` sends by `sender`; the receiver gets word when recording has failed. When all is
    /// drained `name` finds the names of code.
    pub(super) fn start(
        recorder: Recorder<W>,
        drain: Drain,
        sender: BatchSender,
        first: Batch,
        name: impl FnOnce(SeenCode) -> Vec<Symbols> + Send + 'static,
    ) -> io::Result<(Self, oneshot::Receiver<()>)> {
        let (failed, failure) = oneshot::channel();
        let (end, record_ended) = oneshot::channel();
        let (drain_end, drain_ended) = oneshot::channel();
        // Its receiver is here.
        let _received = sender.send(first);
        let recording = Builder::new().name("mt-record".to_owned()).spawn(move || {
            let _end = end;
            let result = recorder.run();
            if result.is_err() {
                // Nobody listens once the session is ending anyway.
                let _ending = failed.send(());
            }
            result
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let (last, behind) = channel();
        let draining = Builder::new().name("mt-drain".to_owned()).spawn({
            let stop = Arc::clone(&stop);
            move || {
                let _end: oneshot::Sender<()> = drain_end;
                let code = drain.run(&stop);
                // A session that is given up has nothing more to record, and nobody takes what a recorder that failed gets.
                let is_taken = behind.recv().is_ok_and(|last| sender.send(last));
                drop(sender);
                code.filter(|_| is_taken).map(name).unwrap_or_default()
            }
        })?;
        let stop = Stop(stop);
        Ok((Self { last, stop, draining, recording, ended: record_ended, drain_ended }, failure))
    }

    /// Drains what is left, records `last` behind it, and ends recording. Names take no third thread, for which there may be no memory
    /// by now.
    pub(super) async fn finish(self, last: Batch) -> (Result<Recorded<W>, RecorderError>, Naming) {
        let _panicked = self.last.send(last);
        drop(self.stop);
        let _closed = self.ended.await;
        let recorded = self.recording.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (recorded, Naming { thread: self.draining, ended: self.drain_ended })
    }
}
