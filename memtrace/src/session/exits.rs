//! What was seen of processes at their exit, on its way from the process that holds them to the recorder.
//!
//! Layer: shell. Input: what the keeper read. Output: the same, before the recorder writes anything that is later.
//! Source: the merge (`order`) takes no reading that comes after the window that its time is in.
//! Keeps: the keeper announces what it is about to read, while the process still stands before its exit; so the recorder knows what to wait
//! for, and on a busy machine no reading comes too late. The keeper waits for nobody.
//! Not here: holding and reading (`keeper`), the recording (`recorder`).

use std::{
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    time::{Duration, Instant},
};

use rustix::net::{RecvFlags, SendFlags, recv, send};
use serde::{Deserialize, Serialize};

use crate::{
    decode::Frame,
    event::{Observation, ReclaimReading},
};

/// Exits that wait to be taken, for the time between two batches; while there are as many, the others wait where they come from.
const WAITING: usize = 256;

/// How long the recorder waits for what has been announced: nobody can say for how long maps are locked.
const PATIENCE: Duration = Duration::from_secs(2);

/// A process is about to be read.
const ANNOUNCED: u8 = b'+';
/// What was announced will not come.
const TAKEN_BACK: u8 = b'-';

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
        self.say(ANNOUNCED);
    }

    /// What was announced will not come.
    pub(super) fn take_back(&self) {
        self.say(TAKEN_BACK);
    }

    fn say(&self, word: u8) {
        // Where there is no room, or nobody any more, the recorder does not wait.
        let _unsaid = send(&self.0, &[word], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}

/// Where the recorder takes exits.
#[derive(Debug)]
pub(super) struct Exits {
    announced: UnixStream,
    /// How many were announced and have not come.
    owed: usize,
    queue: Receiver<Exit>,
}

impl Exits {
    /// Exits that are announced by `announced`, and where they are handed in.
    pub(super) fn new(announced: UnixStream) -> (SyncSender<Exit>, Self) {
        let (sender, queue) = sync_channel(WAITING);
        (sender, Self { announced, owed: 0, queue })
    }

    /// Takes all that has been announced by now.
    pub(super) fn take(&mut self) -> Vec<Exit> {
        let mut exits = Vec::new();
        let until = Instant::now() + PATIENCE;
        loop {
            self.listen();
            let next = match self.owed {
                0 => self.queue.try_recv().ok(),
                _ => self.queue.recv_timeout(until.saturating_duration_since(Instant::now())).ok(),
            };
            self.owed = self.owed.saturating_sub(1);
            let Some(exit) = next else {
                self.owed = 0;
                return exits;
            };
            exits.push(exit);
        }
    }

    /// Hears what has been said.
    fn listen(&mut self) {
        let mut words = [0; WAITING];
        while let Ok((said @ 1.., _)) = recv(&self.announced, &mut words[..], RecvFlags::DONTWAIT) {
            for word in &words[..said] {
                match *word {
                    TAKEN_BACK => self.owed = self.owed.saturating_sub(1),
                    _ => self.owed += 1,
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

    #[test]
    fn what_is_announced_is_waited_for() {
        let (announcer, sender, mut exits) = way();
        announcer.announce();
        announcer.announce();
        let later = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            (0..2).for_each(|_| sender.send(exit()).expect("it waits"));
        });

        assert_eq!(exits.take().len(), 2);

        later.join().expect("no panic");
    }

    #[test]
    fn what_is_taken_back_or_has_come_is_not_waited_for() {
        let (announcer, sender, mut exits) = way();
        announcer.announce();
        announcer.announce();
        announcer.take_back();
        exits.listen();
        assert_eq!(exits.owed, 1);
        sender.send(exit()).expect("there is room");

        assert_eq!(exits.take().len(), 1);

        assert_eq!(exits.owed, 0);
    }

    #[test]
    fn what_never_comes_is_not_waited_for_again() {
        let (announcer, sender, mut exits) = way();
        announcer.announce();

        assert!(exits.take().is_empty());

        assert_eq!(exits.owed, 0);
        sender.send(exit()).expect("there is room");
        assert_eq!(exits.take().len(), 1, "late, and not lost");
    }
}
