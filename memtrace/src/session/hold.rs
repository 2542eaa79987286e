//! Holds each traced process at its exit, so that its maps can be read a last time.
//!
//! Layer: shell. Input: processes that run. Output: a call for each of them and of those that they make, as its
//! last thread is about to exit.
//! Source: `ptrace(2)`, `PTRACE_EVENT_EXIT`: the address space is whole there, and gone in a zombie. What
//! `/proc/TGID` shows is that of the leader, which may be a zombie while another thread is the last.
//! Keeps: signals, stops, exit codes and parents of a held process are its own. One thread does all of it, and its
//! end lets everything go, since the kernel detaches what a thread has seized. A task leaves the hold as it exits,
//! so whoever waits for a process reaps it as ever.
//! A process killed in the microseconds between another stop and its answer may end without a call: `PTRACE_CONT`
//! does not say which stop it ends.
//! Not here: reading and comparing maps (`probe`, `pipeline`), waiting for the command (`watch`).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs, io,
    sync::mpsc,
    thread::{Builder, JoinHandle},
};

use procfs::process::{Process, Status};
use rustix::thread::gettid;
use tokio::{
    select,
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot::{self, error::TryRecvError},
};

use release::Leaving;
use tasks::Tasks;

use crate::{
    event::{Tgid, Tid},
    sys::{
        process,
        ptrace::{self, Report, call},
    },
};

mod release;
mod tasks;

/// Why processes cannot be held.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HoldError {
    /// Another tracer has it; a task can only have one.
    #[error("cannot hold process {} at its exit: task {tracer} traces it already; end that, or leave out --verify", tgid.0)]
    Traced {
        /// The process.
        tgid: Tgid,
        /// Thread ID of its tracer.
        tracer: i32,
    },
    /// The kernel refuses.
    #[error("cannot hold process {} at its exit: needs CAP_SYS_PTRACE{}; run as root, or leave out --verify", tgid.0, scope(*yama))]
    Refused {
        /// The process.
        tgid: Tgid,
        /// `kernel.yama.ptrace_scope`; `None` without that security module.
        yama: Option<u8>,
    },
    /// The thread that holds could not be set up, or a system call failed.
    #[error("cannot hold processes at their exit")]
    Io(#[from] io::Error),
}

/// What `kernel.yama.ptrace_scope` adds to the need for the capability.
fn scope(yama: Option<u8>) -> String {
    match yama {
        None | Some(0) => String::new(),
        Some(3) => " and kernel.yama.ptrace_scope is 3: nobody may, until the next boot".to_owned(),
        Some(scope) => format!(" while kernel.yama.ptrace_scope is {scope}"),
    }
}

/// Exits that wait for their turn; one more, and the one that waited longest goes on without a call.
const WAITING: usize = 8;

/// Reports that are answered before an exit has its turn.
const ROUND: usize = 64;

/// A process stands still before its exit.
#[derive(Clone, Copy, Debug)]
pub struct Exiting {
    /// The process.
    pub process: Tgid,
    /// Its last thread.
    pub thread: Tid,
    /// Whether no other task stands still meanwhile, as far as is known.
    pub is_alone: bool,
}

/// Processes held at their exit, until this is dropped; then they run on as if never held.
#[derive(Debug)]
pub struct Hold {
    release: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Hold {
    /// Holds `processes`, which are not stopped for it, and all that they make from now on.
    ///
    /// `on_exit` is called while the last thread of a process stands still before its exit: `/proc/TID/maps` of that
    /// thread is whole until it returns. Where more come to their exits than calls return, some exit without a call. A process
    /// that makes a thread just then may be reported more than once. No call comes once this is dropped.
    pub fn seize(
        processes: BTreeSet<Tgid>,
        on_exit: impl FnMut(Exiting) + Send + 'static,
    ) -> Result<Self, HoldError> {
        let (release, released) = oneshot::channel();
        let (seized, result) = mpsc::channel();
        let thread = Builder::new().name("mt-hold".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
            let result = runtime.map_err(HoldError::from).and_then(|runtime| {
                // Caught before anything can stop.
                let child = runtime.block_on(async { signal(SignalKind::child()) })?;
                let mut holder = Holder::new(on_exit);
                processes.into_iter().try_for_each(|tgid| holder.seize(tgid))?;
                Ok((runtime, child, holder))
            });
            match result {
                // Its receiver waits below.
                Err(error) => drop(seized.send(Err(error))),
                Ok((runtime, child, holder)) => {
                    drop(seized.send(Ok(())));
                    if let Err(error) = runtime.block_on(holder.run(child, released)) {
                        log::warn!("processes are held at their exit no longer: {error}");
                    }
                }
            }
        })?;
        let hold = Self { release: Some(release), thread: Some(thread) };
        result.recv().map_err(|_| io::Error::other("the thread mt-hold died"))??;
        Ok(hold)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        drop(self.release.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed, and its end let everything go.
            let _panicked = thread.join();
        }
    }
}

/// The state of the thread that holds.
struct Holder<F> {
    tasks: Tasks,
    /// Last threads of processes that stand still before their exit, in the order in which they will go on.
    exits: VecDeque<Tid>,
    /// The process of the task that reported last.
    last: Option<Tgid>,
    /// Processes that are being let go.
    leaving: BTreeMap<Tgid, Leaving>,
    on_exit: F,
}

impl<F: FnMut(Exiting)> Holder<F> {
    fn new(on_exit: F) -> Self {
        let (tasks, exits, leaving) = (Tasks::default(), VecDeque::new(), BTreeMap::new());
        Self { tasks, exits, last: None, leaving, on_exit }
    }

    /// Seizes all threads of a process; of one that has ended there are none.
    fn seize(&mut self, tgid: Tgid) -> Result<(), HoldError> {
        let mut seen = BTreeSet::new();
        loop {
            // A thread that is not seized yet may make another: until nobody is new.
            let new: Vec<_> = threads(tgid).into_iter().filter(|tid| seen.insert(*tid)).collect();
            if new.is_empty() {
                return Ok(());
            }
            for tid in new {
                if seize_task(tgid, tid)? {
                    self.tasks.insert(tid, tgid);
                }
            }
        }
    }

    /// Answers reports until released, or until nothing is left to hold.
    async fn run(mut self, mut child: Signal, mut released: oneshot::Receiver<()>) -> io::Result<()> {
        let mut answered = 0;
        while released.try_recv() == Err(TryRecvError::Empty) {
            let report = if answered < ROUND { ptrace::report() } else { Ok(None) };
            match report {
                // The session ends with its command, and reaps it.
                Ok(Some((tid, Report::Dead))) if is_own_child(tid) => return Ok(()),
                Ok(Some((tid, report))) => {
                    self.answer(tid, report)?;
                    answered += 1;
                }
                Ok(None) if !self.exits.is_empty() => {
                    self.see_off(answered < ROUND)?;
                    answered = 0;
                }
                Ok(None) if answered < ROUND => select! {
                    _ = child.recv() => {}
                    _ = &mut released => return Ok(()),
                },
                Ok(None) => answered = 0,
                Err(error) if error.raw_os_error() == Some(libc::ECHILD) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reports the exit that has waited longest, and lets it go on; `is_quiet` if nobody else has anything to report.
    fn see_off(&mut self, is_quiet: bool) -> io::Result<()> {
        let Some(thread) = self.exits.pop_front() else { return Ok(()) };
        // Where as many wait behind it, it has waited long enough.
        if let Some(process) = self.leave(thread)
            && self.exits.len() < WAITING
        {
            let is_alone = is_quiet && self.exits.is_empty();
            (self.on_exit)(Exiting { process, thread, is_alone });
        }
        ptrace::detach(thread, 0)?;
        self.free()
    }

    /// Lets a task that stands still go on as it would have without us.
    ///
    /// At once: should it be killed in between, it stands before its exit when it is told to go on, and does so unheard.
    fn answer(&mut self, tid: Tid, report: Report) -> io::Result<()> {
        match report {
            Report::Exiting => {
                self.know(tid);
                if self.tasks.is_last(tid) {
                    self.exits.push_back(tid);
                    return if self.exits.len() > WAITING { self.see_off(false) } else { Ok(()) };
                }
                self.leave(tid);
                ptrace::detach(tid, 0)?;
                return self.free();
            }
            Report::Dead => {
                self.exits.retain(|exiting| *exiting != tid);
                self.leave(tid);
                ptrace::reap(tid)?;
                return self.free();
            }
            Report::Execed | Report::Passing | Report::GroupStop | Report::Signal(_) => {}
        }
        if report == Report::Execed {
            // The thread that called exec reports under the ID of the leader, and its own is gone.
            let gone = self.tasks.iter().filter(|(task, tgid)| tgid.0 == tid.0 && *task != tid);
            for task in gone.map(|(task, _)| task).collect::<Vec<_>>() {
                self.leave(task);
            }
        }
        if let Report::Signal(signal @ (libc::SIGURG | libc::SIGSTOP)) = report
            && ptrace::is_from_kernel(tid)?
        {
            let call = call::last(tid)?;
            // Sockets send SIGURG too; nobody but the programs sends SIGSTOP.
            if call.is_some() || signal == libc::SIGSTOP {
                return self.make_way(tid, call);
            }
        }
        if self.is_leaving(tid) {
            self.leave(tid);
            let signal = if let Report::Signal(signal) = report { signal } else { 0 };
            ptrace::detach(tid, signal)?;
            return self.free();
        }
        match report {
            Report::GroupStop => ptrace::listen(tid)?,
            Report::Signal(signal) => ptrace::resume(tid, signal)?,
            _ => ptrace::resume(tid, 0)?,
        }
        self.know(tid);
        Ok(())
    }

    /// Notes which process a task is of, if that is new: a new one, or that of who reported before, most often.
    fn know(&mut self, tid: Tid) {
        let known = self.tasks.process_of(tid).or_else(|| {
            let guesses = [Some(Tgid(tid.0)), self.last].into_iter().flatten();
            let process = { guesses }.find(|process| process::has_thread(*process, tid));
            let process = process.or_else(|| u32::try_from(status(tid)?.tgid).ok().map(Tgid))?;
            self.tasks.insert(tid, process);
            Some(process)
        });
        self.last = known.or(self.last);
    }

    /// Forgets a task; its process if no other task of it is held.
    fn leave(&mut self, tid: Tid) -> Option<Tgid> {
        self.leaving.values_mut().for_each(|leaving| leaving.forget(tid));
        self.tasks.remove(tid)
    }
}

/// Seizes one thread of a process; false if it has ended.
fn seize_task(tgid: Tgid, task: Tid) -> Result<bool, HoldError> {
    let Err(error) = ptrace::seize(task) else { return Ok(true) };
    match error.raw_os_error() {
        Some(libc::ESRCH) => Ok(false),
        Some(libc::EPERM) => match status(task) {
            None => Ok(false),
            Some(status) if status.state.starts_with(['Z', 'X']) => Ok(false),
            // Made by a thread that was seized a moment ago.
            Some(status) if status.tracerpid == gettid().as_raw_pid() => Ok(true),
            Some(Status { tracerpid: 0, .. }) => Err(HoldError::Refused { tgid, yama: yama_scope() }),
            Some(Status { tracerpid, .. }) => Err(HoldError::Traced { tgid, tracer: tracerpid }),
        },
        _ => Err(error.into()),
    }
}

/// `kernel.yama.ptrace_scope`, if the kernel has it.
fn yama_scope() -> Option<u8> {
    fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok()?.trim().parse().ok()
}

/// The threads of a process; none if it has ended.
fn threads(tgid: Tgid) -> Vec<Tid> {
    let names = fs::read_dir(format!("/proc/{}/task", tgid.0)).into_iter().flatten().flatten();
    names.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Tid)).collect()
}

/// What the kernel says of a task; `None` once it has left.
fn status(tid: Tid) -> Option<Status> {
    Process::new(i32::try_from(tid.0).ok()?).ok()?.status().ok()
}

/// Whether the task is a process that this one started.
fn is_own_child(tid: Tid) -> bool {
    let own = rustix::process::getpid().as_raw_pid();
    status(tid).is_some_and(|status| status.ppid == own && status.pid == status.tgid)
}

#[cfg(test)]
mod tests;
