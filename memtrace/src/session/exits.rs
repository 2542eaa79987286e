//! What was seen of processes at their exit, on its way from the process that holds them to the recorder.
//!
//! Layer: shell. Input: what the keeper read. Output: the same, before the recorder writes anything that is later.
//! Source: the merge (`order`) takes no reading that comes after the window that its time is in.
//! Keeps: the keeper announces what it is about to read, while the process still stands before its exit; so the recorder knows what to wait
//! for, and on a busy machine no reading comes too late. The keeper waits for nobody.
//! Not here: holding and reading (`keeper`), the recording (`recorder`).

use std::{
    collections::VecDeque,
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    time::{Duration, Instant},
};

use rustix::net::{RecvFlags, SendFlags, recv, send};
use serde::{Deserialize, Serialize};

use crate::{
    decode::Frame,
    event::{Observation, ReclaimReading},
    order::WINDOW,
    sys::clock,
    units::Timestamp,
};

/// Exits that wait to be taken, for the time between two batches; while there are as many, the others wait where they come from.
const WAITING: usize = 256;

/// How long the recorder waits for what has been announced: nobody can say for how long maps are locked.
const PATIENCE: Duration = Duration::from_secs(1);

/// Bytes of a word: a time at which a process is about to be read, or [`TAKEN_BACK`]. The kernel takes one as a whole, or not at all.
const WORD: usize = size_of::<u64>();
/// The last that was announced will not come.
const TAKEN_BACK: u64 = 0;

/// What a process was when it was about to exit.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Exit {
    /// What the kernel had reclaimed before, if it tells.
    pub(super) reclaim: Option<ReclaimReading>,
    /// Its maps, then its pages.
    pub(super) observations: Vec<Observation>,
}

impl Exit {
    /// As the recording has it.
    pub(super) fn into_frames(self) -> impl Iterator<Item = Frame> {
        let observations = self.observations.into_iter().map(Frame::Observation);
        self.reclaim.map(Frame::Reclaim).into_iter().chain(observations)
    }
}

/// By which the keeper announces what it is about to read.
#[derive(Debug)]
pub(super) struct Announcer(OwnedFd);

impl Announcer {
    /// Announces by a socket.
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// A process is about to be read.
    pub(super) fn announce(&self) {
        self.say(clock::boottime().as_nanos());
    }

    /// What was announced last will not come.
    pub(super) fn take_back(&self) {
        self.say(TAKEN_BACK);
    }

    fn say(&self, word: u64) {
        // Where there is no room, or nobody any more, the recorder does not wait.
        let _unsaid = send(&self.0, &word.to_ne_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}

/// Where the recorder takes exits.
#[derive(Debug)]
pub(super) struct Exits {
    announced: UnixStream,
    /// When those were announced that have not come.
    owed: VecDeque<Timestamp>,
    queue: Receiver<Exit>,
}

impl Exits {
    /// Exits that are announced by `announced`, and where they are handed in.
    pub(super) fn new(announced: UnixStream) -> (SyncSender<Exit>, Self) {
        let (sender, queue) = sync_channel(WAITING);
        (sender, Self { announced, owed: VecDeque::new(), queue })
    }

    /// Takes what is there, and waits for what would come too late behind `tick`: what was announced before the window that ends there.
    pub(super) fn take(&mut self, tick: Option<Timestamp>) -> Vec<Exit> {
        let mut exits: Vec<_> = self.queue.try_iter().take(WAITING).collect();
        // The announcement of each has come before it.
        self.listen();
        self.owed.drain(..exits.len().min(self.owed.len()));
        let Some(released) = tick.map(|tick| tick.before(WINDOW)) else { return exits };
        let until = Instant::now() + PATIENCE;
        while self.owed.front().is_some_and(|announced| *announced < released) {
            let Ok(exit) = self.queue.recv_timeout(until.saturating_duration_since(Instant::now())) else {
                self.owed.retain(|announced| *announced >= released);
                break;
            };
            exits.push(exit);
            self.listen();
            self.owed.pop_front();
        }
        exits
    }

    /// Hears what has been said.
    fn listen(&mut self) {
        let mut words = [0; WORD * WAITING];
        while let Ok((said @ 1.., _)) = recv(&self.announced, &mut words[..], RecvFlags::DONTWAIT) {
            let (words, _) = words[..said].as_chunks::<WORD>();
            for word in words.iter().map(|word| u64::from_ne_bytes(*word)) {
                match word {
                    TAKEN_BACK => drop(self.owed.pop_back()),
                    time => self.owed.push_back(Timestamp::from_nanos(time)),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn exit() -> Exit {
        Exit { reclaim: None, observations: Vec::new() }
    }

    /// The three ends of the way.
    fn way() -> (Announcer, SyncSender<Exit>, Exits) {
        let (here, there) = UnixStream::pair().expect("the kernel has sockets");
        let (sender, exits) = Exits::new(here);
        (Announcer::new(there.into()), sender, exits)
    }

    /// A tick behind which it is too late for what was announced by now.
    fn late() -> Timestamp {
        clock::boottime().after(WINDOW).after(WINDOW)
    }

    #[test]
    fn what_would_come_too_late_is_waited_for() {
        let (announcer, sender, mut exits) = way();
        announcer.announce();
        announcer.announce();
        let later = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            (0..2).for_each(|_| sender.send(exit()).expect("it waits"));
        });

        assert_eq!(exits.take(Some(late())).len(), 2);

        later.join().expect("no panic");
        assert!(exits.owed.is_empty());
    }

    #[test]
    fn what_has_time_is_not_waited_for() {
        let (announcer, sender, mut exits) = way();
        announcer.announce();
        for tick in [None, Some(clock::boottime())] {
            assert_eq!(exits.take(tick).len(), 0);
            assert_eq!(exits.owed.len(), 1, "it is still owed");
        }
        sender.send(exit()).expect("there is room");

        assert_eq!(exits.take(None).len(), 1);

        assert!(exits.owed.is_empty());
    }

    #[test]
    fn what_is_taken_back_or_has_come_is_not_owed() {
        let (announcer, sender, mut exits) = way();
        announcer.announce();
        announcer.announce();
        announcer.take_back();
        exits.listen();
        assert_eq!(exits.owed.len(), 1);
        sender.send(exit()).expect("there is room");

        assert_eq!(exits.take(Some(late())).len(), 1);

        assert!(exits.owed.is_empty());
    }

    #[test]
    fn what_never_comes_is_not_waited_for_again() {
        let (announcer, sender, mut exits) = way();
        announcer.announce();

        assert!(exits.take(Some(late())).is_empty());

        assert!(exits.owed.is_empty());
        sender.send(exit()).expect("there is room");
        assert_eq!(exits.take(None).len(), 1, "late, and not lost");
    }
}
