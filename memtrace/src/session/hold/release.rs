//! Lets go of processes that another tracer is to have, and of those that such a tracer is made to look into.
//!
//! Layer: shell. Input: calls that tracing interferes with. Output: none; the calls end as they would have without us.
//! Source: `ptrace(2)`: a task has one tracer, and can only be let go while it stands still.
//! Keeps: a process is let go as a whole, and for good; what it makes from then on is not held. Its caller stands still until
//! then, and makes the call again that was refused.
//! Not here: how these calls are noticed (`memtrace-ebpf`, `prog/hold.rs`).

use std::{collections::BTreeSet, io};

use rustix::thread::gettid;

use super::{Exiting, Holder, status, threads};
use crate::{
    event::{Tgid, Tid},
    sys::ptrace::{
        self,
        call::{self, Call},
    },
};

/// A process that is being let go.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// Its tasks that have been asked to stop, and have not yet.
    asked: BTreeSet<Tid>,
    /// Tasks that stand still until it is let go; they may be its own.
    callers: BTreeSet<Tid>,
}

impl Leaving {
    /// Forgets a task that is held no longer.
    pub(super) fn forget(&mut self, task: Tid) {
        self.asked.remove(&task);
        self.callers.remove(&task);
    }
}

impl<F: FnMut(Exiting)> Holder<F> {
    /// `caller` stands still behind `call`: lets go of whom the call is about, if it is known, and then has it go on.
    pub(super) fn make_way(&mut self, caller: Tid, call: Option<Call>) -> io::Result<()> {
        self.know(caller);
        let own = self.tasks.process_of(caller);
        let process = match call {
            Some(Call::TraceMe | Call::Untraced) => own,
            // Of its own process it would be refused without us too.
            Some(Call::Attach(pid)) => self.find(pid, caller).filter(|process| Some(*process) != own),
            // Another signal came first, and its handler is next.
            None => None,
        };
        let Some(process) = process else { return ptrace::resume(caller, 0) };
        if call != Some(Call::Untraced) {
            call::repeat(caller)?;
        }
        self.leaving.values_mut().for_each(|leaving| leaving.forget(caller));
        self.leaving.entry(process).or_default().callers.insert(caller);
        log::debug!("process {} is let go for thread {}", process.0, caller.0);
        self.free()
    }

    /// Whether `task` is of a process that is being let go.
    pub(super) fn is_leaving(&mut self, task: Tid) -> bool {
        if self.leaving.is_empty() {
            return false;
        }
        self.know(task);
        self.tasks.process_of(task).is_some_and(|process| self.leaving.contains_key(&process))
    }

    /// Has those go on who waited for processes of which all other tasks are let go.
    pub(super) fn free(&mut self) -> io::Result<()> {
        let waited_for = |leaving: &Leaving| leaving.asked.is_empty();
        let ready: Vec<_> =
            self.leaving.iter().filter(|(_, leaving)| waited_for(leaving)).map(|(tgid, _)| *tgid).collect();
        for process in ready {
            // A task may have made another one before it stopped.
            let rest = self.rest(process);
            for task in &rest {
                self.tasks.insert(*task, process);
                ptrace::interrupt(*task)?;
            }
            if !rest.is_empty() {
                self.leaving.entry(process).or_default().asked = rest;
                continue;
            }
            let waiting = self.waiting();
            let callers = self.leaving.remove(&process).unwrap_or_default().callers;
            for task in waiting {
                if self.tasks.process_of(task) == Some(process) {
                    self.leave(task);
                    ptrace::detach(task, 0)?;
                } else if callers.contains(&task) {
                    ptrace::resume(task, 0)?;
                }
            }
        }
        Ok(())
    }

    /// The tasks of `process` that are held, other than those that stand still here.
    fn rest(&self, process: Tgid) -> BTreeSet<Tid> {
        let waiting = self.waiting();
        threads(process)
            .into_iter()
            .filter(|task| !waiting.contains(task) && process_held(*task).is_some())
            .collect()
    }

    /// All tasks that stand still until some process is let go.
    fn waiting(&self) -> BTreeSet<Tid> {
        self.leaving.values().flat_map(|leaving| leaving.callers.iter().copied()).collect()
    }

    /// The held process of the task that has the ID `pid` in the PID namespace of `caller`.
    fn find(&self, pid: i32, caller: Tid) -> Option<Tgid> {
        let level = status(caller)?.nspid.map_or(1, |ids| ids.len());
        if level == 1 {
            return process_held(Tid(u32::try_from(pid).ok()?));
        }
        let is_it =
            |task: &Tid| status(*task).and_then(|status| status.nspid)?.get(level - 1).map(|id| *id == pid);
        self.tasks.iter().find(|(task, _)| is_it(task) == Some(true)).and_then(|(task, _)| process_held(task))
    }
}

/// The process of `task`, if this thread traces it.
fn process_held(task: Tid) -> Option<Tgid> {
    let status = status(task).filter(|status| status.tracerpid == gettid().as_raw_pid())?;
    u32::try_from(status.tgid).ok().map(Tgid)
}
