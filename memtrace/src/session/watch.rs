//! Waits for whatever ends a session: the target, the clock, a signal, a failure.
//!
//! Layer: shell. Input: signals, `pidfd`s, a timer. Output: [`Ended`].
//! Source: `pidfd_open(2)`: readable when the process has ended; `signal(7)`.
//! Keeps: the terminal already sent ^C to the command, so it is never forwarded; SIGTERM and SIGHUP are, once.
//! Not here: finishing the file (`session`).

use std::{
    collections::BTreeSet,
    future::pending,
    io,
    os::fd::OwnedFd,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use aya_log::EbpfLogger;
use log::Log;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal as SentSignal, pidfd_open, pidfd_send_signal},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    time::{Instant, interval, sleep, sleep_until},
};

use crate::{
    event::{FaultCounts, Tgid},
    record::{Ending, ExitReason},
    sys::{
        process::{self, Ended as Reaped, Exit},
        signals,
    },
    units::Nanos,
};

/// What ended the recording, and the command if it did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    /// What ended the recording.
    pub(super) ending: Ending,
    /// How the command ended, and what the kernel charged to it and the children that it waited for.
    pub(super) exit: Option<(ExitReason, FaultCounts)>,
}

/// Time that a command has to end by itself after ^C, or after SIGTERM under `--kill`.
const GRACE: Duration = Duration::from_secs(2);

/// Time that the last scans of pages may take after a signal that asks for the end.
const LAST_SCANS: Duration = Duration::from_secs(1);

/// Time between two reads of what the programs log.
const LOG_PERIOD: Duration = Duration::from_millis(100);

/// The signals that a session waits for; whoever runs one lets them come.
pub const SIGNALS: [i32; 5] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGCHLD, libc::SIGUSR2];

/// The sources of an ending; signals are caught from the moment it is made.
pub(super) struct Watch {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hangup: Option<Signal>,
    child: Signal,
    scan: Signal,
    deadline: Option<Instant>,
    /// A second signal came while the recording was finished: nobody wants to wait for the command.
    is_hurried: bool,
    log: Option<EbpfLogger<&'static dyn Log>>,
}

impl Watch {
    /// Catches signals from now on; passes on what the programs write to `log`.
    pub(super) fn new(log: Option<EbpfLogger<&'static dyn Log>>) -> io::Result<Self> {
        Ok(Self {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
            hangup: catch(SignalKind::hangup())?,
            child: signal(SignalKind::child())?,
            scan: signal(SignalKind::user_defined2())?,
            deadline: None,
            is_hurried: false,
            log,
        })
    }

    /// Starts the clock.
    pub(super) fn limit(&mut self, duration: Option<Nanos>) {
        self.deadline = duration.map(|time| Instant::now() + Duration::from_nanos(time.get()));
    }

    /// Waits for the end of `command`, or of all `processes` if there is no command; `scan` is called on SIGUSR2.
    pub(super) async fn wait(
        &mut self,
        command: Option<Tgid>,
        processes: &BTreeSet<Tgid>,
        mut failure: oneshot::Receiver<()>,
        scan: impl Fn(),
    ) -> io::Result<Ended> {
        let end = |ending| Ok(Ended { ending, exit: None });
        let deadline = self.deadline;
        let mut time_over = std::pin::pin!(async move {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => pending().await,
            }
        });
        let watched = command.is_none() && !processes.is_empty();
        let last = if watched { Some(gone(pidfds(processes)?)?) } else { None };
        let mut all_gone = std::pin::pin!(async move {
            // An error would say that the waiting thread is gone, and nobody could tell any more.
            match last {
                Some(last) => drop(last.await),
                None => pending().await,
            }
        });
        let mut log_timer = interval(LOG_PERIOD);
        loop {
            tokio::select! {
                () = &mut time_over => return end(Ending::Duration),
                // Its sender is dropped unsent if the recorder panics.
                _ = &mut failure => return end(Ending::Failure),
                () = &mut all_gone => return end(Ending::Target),
                _ = self.child.recv() => {
                    if let Some(exit) = command.map(process::try_wait).transpose()?.flatten() {
                        return Ok(Ended { ending: Ending::Target, exit: Some(reason(exit)) });
                    }
                }
                () = received(&mut self.interrupt) => return end(Ending::Signal(libc::SIGINT)),
                () = received(&mut self.terminate) => return Ok(Self::forward(command, libc::SIGTERM)),
                () = received(&mut self.hangup) => return Ok(Self::forward(command, libc::SIGHUP)),
                _ = self.scan.recv() => scan(),
                _ = log_timer.tick(), if self.log.is_some() => {
                    self.flush_log();
                }
            }
        }
    }

    /// Waits until the recording, or the search for names, is `finished`. `stop_scans` cuts the last scans of pages, or that, short: a second after the signal that
    /// ended the recording, or at the next signal.
    pub(super) async fn finish<T>(
        &mut self,
        finished: impl Future<Output = T>,
        ended: Ended,
        command: Option<Tgid>,
        stop_scans: &AtomicBool,
    ) -> (T, Ended) {
        let mut finished = std::pin::pin!(finished);
        let is_asked = matches!(ended.ending, Ending::Signal(_));
        let time_over = async { if is_asked { sleep(LAST_SCANS).await } else { pending().await } };
        let signal = tokio::select! {
            finished = &mut finished => return (finished, ended),
            () = time_over => None,
            () = received(&mut self.interrupt) => Some(libc::SIGINT),
            () = received(&mut self.terminate) => Some(libc::SIGTERM),
            () = received(&mut self.hangup) => Some(libc::SIGHUP),
        };
        stop_scans.store(true, Ordering::Relaxed);
        self.is_hurried |= is_asked && signal.is_some();
        let ended = match signal {
            Some(libc::SIGINT) if !is_asked && ended.exit.is_none() => {
                Ended { ending: Ending::Signal(libc::SIGINT), exit: None }
            }
            Some(signal) if !is_asked && ended.exit.is_none() => Self::forward(command, signal),
            _ => ended,
        };
        (finished.await, ended)
    }

    /// Passes on what the programs have logged.
    pub(super) fn flush_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }

    /// Passes a signal that only memtrace got on to the command.
    fn forward(command: Option<Tgid>, signal: i32) -> Ended {
        if let Some(Err(error)) = command.map(|pid| process::kill(pid, signal)) {
            log::warn!("cannot pass signal {signal} to the command: {error}");
        }
        Ended { ending: Ending::Signal(signal), exit: None }
    }

    /// After ^C: waits until the command has ended, at most two seconds or until the next ^C.
    pub(super) async fn wait_briefly(&mut self, command: Tgid) -> io::Result<Option<ExitReason>> {
        let grace = if self.is_hurried { Duration::ZERO } else { GRACE };
        let ended = tokio::select! {
            ended = wait_for(&mut self.child, command) => Some(ended?),
            () = sleep(grace) => None,
            () = received(&mut self.interrupt) => None,
        };
        Ok(ended.map(|exit| exit.0))
    }

    /// Waits until the command has ended by itself; a signal that would end memtrace ends the wait.
    pub(super) async fn wait_untraced(&mut self, command: Tgid) -> io::Result<Ended> {
        tokio::select! {
            exit = wait_for(&mut self.child, command) => {
                Ok(Ended { ending: Ending::Target, exit: Some(exit?) })
            }
            () = received(&mut self.interrupt) => {
                Ok(Ended { ending: Ending::Signal(libc::SIGINT), exit: None })
            }
            () = received(&mut self.terminate) => Ok(Self::forward(Some(command), libc::SIGTERM)),
            () = received(&mut self.hangup) => Ok(Self::forward(Some(command), libc::SIGHUP)),
        }
    }

    /// Ends the command and the processes that it made: SIGTERM, two seconds, SIGKILL.
    pub(super) async fn kill(&mut self, command: Tgid, processes: &BTreeSet<Tgid>) -> io::Result<ExitReason> {
        // Who ends now may leave its ID to somebody else before the time is over.
        let processes = pidfds(processes)?;
        for process in &processes {
            // Gone meanwhile: that is what we want.
            let _gone = pidfd_send_signal(process, SentSignal::TERM);
        }
        let ended = tokio::time::timeout(GRACE, wait_for(&mut self.child, command)).await;
        for process in &processes {
            let _gone = pidfd_send_signal(process, SentSignal::KILL);
        }
        match ended {
            Ok(exit) => Ok(exit?.0),
            Err(_) => Ok(wait_for(&mut self.child, command).await?.0),
        }
    }
}

/// Catches a signal, unless memtrace was started to ignore it, as under `nohup`.
fn catch(kind: SignalKind) -> io::Result<Option<Signal>> {
    if signals::is_ignored(kind.as_raw_value()) { Ok(None) } else { signal(kind).map(Some) }
}

/// Waits for a signal that may not be caught.
async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => pending().await,
    }
}

/// Waits for the end of the child `pid`.
async fn wait_for(child: &mut Signal, pid: Tgid) -> io::Result<(ExitReason, FaultCounts)> {
    loop {
        if let Some(exit) = process::try_wait(pid)? {
            return Ok(reason(exit));
        }
        child.recv().await;
    }
}

/// How a reaped process ended, in the words of the recording.
fn reason(reaped: Reaped) -> (ExitReason, FaultCounts) {
    let reason = match reaped.exit {
        Exit::Code(code) => ExitReason::Code(code.into()),
        Exit::Signal(signal) => ExitReason::Signal(signal),
    };
    (reason, reaped.faults)
}

/// A descriptor for each process that still runs.
fn pidfds(processes: &BTreeSet<Tgid>) -> io::Result<Vec<OwnedFd>> {
    let mut open = Vec::new();
    for process in processes {
        let pid = i32::try_from(process.0).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH);
        match pid.and_then(|pid| pidfd_open(pid, PidfdFlags::NONBLOCK)) {
            Ok(fd) => open.push(fd),
            Err(Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(open)
}

/// Tells when all processes have ended, from a thread that waits for one after the other.
fn gone(processes: Vec<OwnedFd>) -> io::Result<oneshot::Receiver<()>> {
    let (ended, end) = oneshot::channel();
    thread::Builder::new().name("mt-wait".to_owned()).spawn(move || {
        for process in processes {
            let mut fds = [PollFd::new(&process, PollFlags::IN)];
            while let Err(Errno::INTR) = poll(&mut fds, None) {}
        }
        // Nobody listens if the session ended first.
        let _ended = ended.send(());
    })?;
    Ok(end)
}
