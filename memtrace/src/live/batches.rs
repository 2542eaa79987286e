//! The way from the thread that drains to the one that records, which knows how much is on it.
//!
//! Layer: shell. Input: [`Batch`]es. Output: the same, in order.
//! Keeps: what is on the way is counted in bytes until the recorder is done with it, so that whoever sends can bound it.
//! Not here: when to hold back (`drain`).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
    mpsc::{self, Receiver},
};

use crate::decode::Frame;

/// Frames in arrival order.
pub type Batch = Vec<Frame>;

/// From how many bytes on a recorder lags behind: it has them done in about a tenth of a second.
const BEHIND: usize = 8 << 20;

/// Bytes that wait for the recorder at most, but for what is drained at once: some seconds of its time.
const FULL: usize = 64 << 20;

/// How many bytes wait for the recorder.
#[derive(Clone, Debug, Default)]
struct Backlog(Arc<AtomicUsize>);

impl Backlog {
    /// Returns how many bytes that were.
    fn add(&self, batch: &[Frame]) -> usize {
        let bytes = batch.iter().map(Frame::size).sum();
        self.0.fetch_add(bytes, Ordering::Relaxed);
        bytes
    }

    fn subtract(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn is_at_least(&self, bytes: usize) -> bool {
        self.0.load(Ordering::Relaxed) >= bytes
    }
}

/// Where batches come in.
#[derive(Clone, Debug)]
pub struct BatchSender {
    sender: mpsc::Sender<Batch>,
    backlog: Backlog,
}

/// Where batches come out.
#[derive(Debug)]
pub struct Batches {
    receiver: Receiver<Batch>,
    backlog: Backlog,
}

/// Both ends of a way with nothing on it.
#[must_use]
pub fn batches() -> (BatchSender, Batches) {
    let (sender, receiver) = mpsc::channel();
    let backlog = Backlog::default();
    (BatchSender { sender, backlog: backlog.clone() }, Batches { receiver, backlog })
}

impl BatchSender {
    /// Hands a batch over; `false` if nobody takes any more.
    #[must_use]
    pub fn send(&self, batch: Batch) -> bool {
        let bytes = self.backlog.add(&batch);
        let is_sent = self.sender.send(batch).is_ok();
        if !is_sent {
            self.backlog.subtract(bytes);
        }
        is_sent
    }

    /// Whether what can wait in a ring should.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.backlog.is_at_least(BEHIND)
    }

    /// Whether nothing more is to be sent now.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.backlog.is_at_least(FULL)
    }
}

impl Batches {
    /// The next batch, without waiting for it.
    #[must_use]
    pub fn next_here(&self) -> Option<Batch> {
        self.receiver.try_recv().ok()
    }

    /// Waits for the next batch; `None` if there will be none.
    #[must_use]
    pub fn next(&self) -> Option<Batch> {
        self.receiver.recv().ok()
    }

    /// A frame waits besides that was not sent.
    pub fn add(&self, frame: &Frame) {
        self.backlog.add(std::slice::from_ref(frame));
    }

    /// A frame waits no longer.
    pub fn done(&self, frame: &Frame) {
        self.backlog.subtract(frame.size());
    }

    /// Whether nothing more is to be added now.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.backlog.is_at_least(FULL)
    }
}

/// What waited is gone, and whoever held back finds out that nobody takes any more.
impl Drop for Batches {
    fn drop(&mut self) {
        // First, so that nothing is added any more that stays.
        drop(std::mem::replace(&mut self.receiver, mpsc::channel().1));
        self.backlog.0.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_waits_until_it_is_done() {
        let (sender, batches) = batches();
        for _ in 0..FULL / BEHIND {
            assert!(!sender.is_full() && sender.send(vec![Frame::Control(vec![0; BEHIND])]));
        }
        assert!(sender.is_full() && batches.is_full());

        let taken: Batch = std::iter::from_fn(|| batches.next_here()).flatten().collect();
        assert!(sender.is_full(), "it was taken, and is not done");
        for frame in &taken {
            batches.done(frame);
        }

        assert!(!sender.is_behind() && !batches.is_full());
    }

    #[test]
    fn recorder_that_is_gone_holds_nobody_back() {
        let (sender, batches) = batches();
        assert!(sender.send(vec![Frame::Control(vec![0; FULL])]));

        drop(batches);

        assert!(!sender.is_full());
        assert!(!sender.send(Batch::new()));
    }
}
