//! A process of its own that holds the traced ones, so that nothing waits for memtrace.
//!
//! Layer: shell. Input: processes to hold. Output: what they were when they were about to exit.
//! Source: `ptrace(2)`: the kernel lets go of what a process held when that ends.
//! Keeps: an exit is held while its maps are read, and pages of what is small. Whether memtrace is stopped, has no time or was
//! killed makes no difference for the target: what nobody takes is dropped, and its process counts as unverified.
//! Not here: holding (`hold`), when an exit is recorded (`exits`), comparing (`pipeline`).

use std::{
    collections::BTreeSet,
    error::Error,
    io::{self, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{net::UnixStream, process::CommandExt as _},
    },
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::{Builder, JoinHandle},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    exits::{Announcer, Exit, Exits},
    hold::{Exiting, Hold},
};
use crate::{
    event::{ScanDepth, Tgid},
    pagemap::PageCategories,
    probe::{Prober, reclaim::ReclaimReader},
    record::Cost,
    sys::clock,
    units::{Nanos, PageSize},
};

/// The hidden verb by which memtrace runs itself as the keeper; the level of its log follows.
pub const VERB: &str = "__keep";

/// Exits that wait to be written to memtrace; what comes when there are as many is dropped.
const QUEUE: usize = 256;

/// Why processes cannot be held.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeeperError {
    /// As it says itself.
    #[error("{0}")]
    Refused(String),
    /// It could not be started, or ended early.
    #[error("cannot start the process that holds others at their exit")]
    Io(#[from] io::Error),
}

/// What to hold, and how to observe it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Task {
    /// These, and all that they make from now on.
    pub(super) processes: BTreeSet<Tgid>,
    /// As [`Prober::new`] has it.
    pub(super) page: PageSize,
    /// As [`Prober::new`] has it.
    pub(super) scan: PageCategories,
    /// As [`Prober::new`] has it.
    pub(super) max_lock: Nanos,
    /// As [`Prober::new`] has it.
    pub(super) depth: ScanDepth,
}

/// What the keeper says.
#[derive(Debug, Serialize, Deserialize)]
enum Message {
    /// Whether all is held.
    Held(Result<(), String>),
    /// A process was about to exit.
    Exit(Exit),
    /// What all scans cost, at the end.
    Cost(Cost),
}

/// The process that holds, until this is dropped; then all runs on as if never held.
#[derive(Debug)]
pub(super) struct Keeper {
    child: Child,
    /// Its end ends the keeper.
    orders: UnixStream,
    reports: Option<ChildStdout>,
    exits: SyncSender<Exit>,
    reader: Option<JoinHandle<Cost>>,
}

impl Keeper {
    /// Starts a keeper that holds nothing yet, and says where to take what exits.
    pub(super) fn spawn() -> io::Result<(Self, Exits)> {
        let (orders, ordered) = UnixStream::pair()?;
        let (sender, exits) = Exits::new(orders.try_clone()?);
        let mut keeper = Command::new("/proc/self/exe");
        // Its log is ours.
        keeper
            .arg0("memtrace")
            .arg(VERB)
            .arg(log::max_level().as_str())
            .stdin(OwnedFd::from(ordered))
            .stdout(Stdio::piped());
        // Signals of the terminal are not for it.
        let mut child = keeper.process_group(0).spawn()?;
        let reports = child.stdout.take();
        Ok((Self { child, orders, reports, exits: sender, reader: None }, exits))
    }

    /// By whom processes are held.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has it hold; whatever exits from now on goes to where [`Keeper::spawn`] said.
    pub(super) fn hold(&mut self, task: &Task) -> Result<(), KeeperError> {
        let Some(mut reports) = self.reports.take() else {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        };
        write(&mut self.orders, task)?;
        match read(&mut reports)? {
            Some(Message::Held(held)) => held.map_err(KeeperError::Refused)?,
            _ => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
        let exits = self.exits.clone();
        let take = move || loop {
            match read(&mut reports) {
                // A recorder that failed takes nothing any more.
                Ok(Some(Message::Exit(exit))) => drop(exits.send(exit)),
                Ok(Some(Message::Cost(cost))) => return cost,
                Ok(Some(Message::Held(_))) => {}
                Ok(None) | Err(_) => {
                    log::warn!("processes are held at their exit no longer");
                    return Cost::default();
                }
            }
        };
        self.reader = Some(Builder::new().name("mt-exits".to_owned()).spawn(take)?);
        Ok(())
    }

    /// Lets everything go; all exits are handed over when it returns. Returns what scans cost.
    pub(super) fn release(mut self) -> Cost {
        self.end();
        self.reader.take().and_then(|reader| reader.join().ok()).unwrap_or_default()
    }

    fn end(&self) {
        // One that is gone has nothing to be ended.
        let _gone = self.orders.shutdown(Shutdown::Write);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.end();
        let _reaped = self.child.wait();
    }
}

/// What the keeper does.
///
/// # Errors
///
/// If memtrace is gone.
pub fn keep() -> io::Result<()> {
    let (mut orders, mut reports) = (io::stdin().lock(), io::stdout().lock());
    let Some(task) = read::<Task>(&mut orders)? else { return Ok(()) };
    let (exits, queue) = sync_channel(QUEUE);
    let result = hold(task, exits);
    let answer = result.as_ref().map(drop).map_err(|error| words(&**error));
    write(&mut reports, &Message::Held(answer))?;
    let Ok((hold, costs)) = result else { return Ok(()) };
    drop(orders);
    Builder::new().spawn(move || {
        // Nothing more is ever sent; it ends when the other end is closed.
        let _end = io::stdin().lock().read(&mut [0]);
        drop(hold);
    })?;
    while let Ok(exit) = queue.recv() {
        write(&mut reports, &Message::Exit(exit))?;
    }
    let cost = costs.recv().unwrap_or_default();
    write(&mut reports, &Message::Cost(Cost { cpu_ns: clock::own_cpu_time().get(), ..cost }))
}

/// Holds; what exits goes to `exits`, and in the end what scans cost to the receiver.
fn hold(task: Task, exits: SyncSender<Exit>) -> Result<(Hold, Receiver<Cost>), Box<dyn Error>> {
    let Task { processes, page, scan, max_lock, depth } = task;
    let (cost, costs) = sync_channel(1);
    let mut scans = Scans { prober: Prober::new(page, scan, max_lock, depth)?, cost };
    let mut reclaim = ReclaimReader::open().ok();
    let announcer = Announcer::new(io::stdin().as_fd().try_clone_to_owned()?);
    let on_exit = move |Exiting { process, thread, is_alone }| {
        announcer.announce();
        let reclaim = reclaim.as_mut().filter(|_| is_alone).and_then(ReclaimReader::read);
        let observations = scans.prober.exit_scan(process, thread, is_alone);
        // Where the queue is full, memtrace does not take what it gets.
        if exits.try_send(Exit { reclaim, observations }).is_err() {
            announcer.take_back();
        }
    };
    Ok((Hold::seize(processes, on_exit)?, costs))
}

/// Scans of which the cost is said when there are no more.
struct Scans {
    prober: Prober,
    cost: SyncSender<Cost>,
}

impl Drop for Scans {
    fn drop(&mut self) {
        let _full = self.cost.try_send(self.prober.cost(Nanos::default()));
    }
}

/// An error with its causes.
fn words(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

/// Writes a value with its length before it.
fn write(mut to: impl Write, value: &impl Serialize) -> io::Result<()> {
    let bytes = postcard::to_stdvec(value).map_err(io::Error::other)?;
    let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    to.write_all(&len.to_ne_bytes())?;
    to.write_all(&bytes)?;
    to.flush()
}

/// Reads what [`write()`] wrote; `None` at the end.
fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut len = [0; 4];
    match from.read_exact(&mut len) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let mut bytes = vec![0; u32::from_ne_bytes(len) as usize];
    from.read_exact(&mut bytes)?;
    postcard::from_bytes(&bytes).map(Some).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_until_the_end() {
        let cost = Cost { cpu_ns: 7, ..Cost::default() };
        let mut bytes = Vec::new();
        write(&mut bytes, &Message::Held(Err("no".to_owned()))).expect("memory has room");
        write(&mut bytes, &Message::Cost(cost)).expect("memory has room");
        let mut rest = &bytes[..];

        let refused: Option<Message> = read(&mut rest).expect("whole");
        assert!(matches!(refused, Some(Message::Held(Err(words))) if words == "no"));
        let last: Option<Message> = read(&mut rest).expect("whole");
        assert!(matches!(last, Some(Message::Cost(read)) if read == cost));
        assert!(read::<Message>(&mut rest).expect("the end").is_none());
        let mut cut = &bytes[..bytes.len() - 1];
        let _whole: Option<Message> = read(&mut cut).expect("whole");
        read::<Message>(&mut cut).expect_err("the keeper was killed");
    }

    #[test]
    fn error_is_said_with_its_causes() {
        let error = KeeperError::Io(io::Error::other("no room"));

        assert_eq!(words(&error), "cannot start the process that holds others at their exit: no room");
    }
}
