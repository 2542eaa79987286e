//! Which process has, or had last, each thread-group ID, and what processes are called.
//!
//! The kernel gives an ID away again as soon as its process has been reaped (`alloc_pid` of `kernel/pid.c`). The new process is
//! born after all that the old one did, so in order of time its birth parts the two.

use std::collections::BTreeMap;

use crate::{
    event::{Comm, Tgid},
    timeline::ProcessId,
    units::Timestamp,
};

/// All processes of the session. Those that ended keep their names, which the report needs.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct Processes {
    latest: BTreeMap<Tgid, Latest>,
    names: BTreeMap<ProcessId, Comm>,
}

/// The last process that is known to have an ID.
#[derive(Clone, Copy, Debug)]
struct Latest {
    id: ProcessId,
    /// Whether it ended, or is no longer traced.
    is_gone: bool,
}

impl Processes {
    /// The last process with the ID `tgid`; if none is known, one that is first known at `time`.
    pub(in crate::pipeline) fn last(&mut self, time: Timestamp, tgid: Tgid) -> ProcessId {
        self.latest.entry(tgid).or_insert(Latest { id: ProcessId { tgid, born: time }, is_gone: false }).id
    }

    /// A process was born at `time` with the ID `tgid`.
    pub(in crate::pipeline) fn born(&mut self, time: Timestamp, tgid: Tgid) -> ProcessId {
        // One that was listed while tracing began is known from then on, and its birth may be recorded too.
        if self.latest.get(&tgid).is_some_and(|latest| latest.id.born < time) {
            self.latest.remove(&tgid);
        }
        self.last(time, tgid)
    }

    /// The process `tgid` is traced from `time` on. If the last one with that ID has gone, nothing says that it is the same.
    pub(in crate::pipeline) fn joined(&mut self, time: Timestamp, tgid: Tgid) -> ProcessId {
        if self.latest.get(&tgid).is_some_and(|latest| latest.is_gone) {
            self.latest.remove(&tgid);
        }
        self.last(time, tgid)
    }

    /// `process` ended, or is no longer traced.
    pub(in crate::pipeline) fn gone(&mut self, process: ProcessId) {
        if let Some(latest) = self.latest.get_mut(&process.tgid).filter(|latest| latest.id == process) {
            latest.is_gone = true;
        }
    }

    /// `process` is called `comm` from now on.
    pub(in crate::pipeline) fn rename(&mut self, process: ProcessId, comm: Comm) {
        self.names.insert(process, comm);
    }

    /// `process` is called `comm`, unless it has a name.
    pub(in crate::pipeline) fn suggest(&mut self, process: ProcessId, comm: Comm) {
        self.names.entry(process).or_insert(comm);
    }

    /// The last known name of `process`: that of its leader.
    pub(in crate::pipeline) fn name(&self, process: ProcessId) -> Comm {
        self.names.get(&process).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TGID: Tgid = Tgid(7);

    fn at(nanos: u64) -> Timestamp {
        Timestamp::from_nanos(nanos)
    }

    #[test]
    fn birth_parts_processes_with_the_same_id() {
        let mut processes = Processes::default();

        let first = processes.born(at(10), TGID);
        processes.rename(first, Comm::from_text("first"));
        assert_eq!(processes.last(at(15), TGID), first);
        processes.gone(first);
        assert_eq!(processes.last(at(16), TGID), first, "what is charged after its end is still its own");
        let second = processes.born(at(20), TGID);

        assert_ne!(first, second);
        assert_eq!(processes.last(at(25), TGID), second);
        assert_eq!(processes.name(first), Comm::from_text("first"));
        assert_eq!(processes.name(second), Comm::default());
    }

    #[test]
    fn process_listed_before_its_birth_is_read_is_one() {
        let mut processes = Processes::default();

        let listed = processes.joined(at(10), TGID);

        assert_eq!(processes.born(at(9), TGID), listed);
        assert_eq!(processes.joined(at(11), TGID), listed, "its second thread");
    }

    #[test]
    fn process_that_joins_after_another_has_gone_is_not_taken_for_it() {
        let mut processes = Processes::default();

        let first = processes.joined(at(10), TGID);
        processes.gone(first);
        let second = processes.joined(at(20), TGID);
        processes.gone(first);

        assert_ne!(first, second);
        assert_eq!(processes.joined(at(21), TGID), second, "the first going again says nothing of it");
    }
}
