//! Which process has, or had last, each thread-group ID, and what processes are called.
//!
//! The kernel gives an ID away again as soon as its process has been reaped (`alloc_pid` of `kernel/pid.c`). The new process is
//! born after all that the old one did, so in order of time its birth parts the two.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    event::{Comm, Tgid},
    timeline::ProcessId,
    units::Timestamp,
};

/// Processes that went and are remembered, for what the kernel charges to them after their end: as many as there is room for in the
/// table of tasks, where those stay that nobody has reaped.
const REMEMBERED: usize = 1 << 15;

/// The processes that are there, and the last that went.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct Processes {
    latest: BTreeMap<Tgid, Latest>,
    names: BTreeMap<ProcessId, Comm>,
    /// Those that ended, or are no longer traced, in order of that time.
    gone: VecDeque<(Timestamp, ProcessId)>,
    count: u64,
}

/// The last process that is known to have an ID.
#[derive(Clone, Copy, Debug)]
struct Latest {
    id: ProcessId,
    /// Whether it ended, has no memory any more, or is no longer traced.
    is_gone: bool,
    /// Whether its end is known.
    has_ended: bool,
}

impl Processes {
    /// The last process with the ID `tgid`; if none is known, one that is first known at `time`.
    pub(in crate::pipeline) fn last(&mut self, time: Timestamp, tgid: Tgid) -> ProcessId {
        let count = &mut self.count;
        let new = || {
            *count += 1;
            Latest { id: ProcessId { tgid, born: time }, is_gone: false, has_ended: false }
        };
        self.latest.entry(tgid).or_insert_with(new).id
    }

    /// A process was born at `time` with the ID `tgid`.
    pub(in crate::pipeline) fn born(&mut self, time: Timestamp, tgid: Tgid) -> ProcessId {
        // One that was listed while tracing began is known from then on, and its birth may be recorded too.
        if let Some(latest) = self.latest.get(&tgid).copied().filter(|latest| latest.id.born < time) {
            // Its end is not known if its record is missing.
            self.gone(time, latest.id);
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

    /// `process` is no longer traced, or has no memory any more, at `time`.
    pub(in crate::pipeline) fn gone(&mut self, time: Timestamp, process: ProcessId) {
        let is_it = |latest: &&mut Latest| latest.id == process && !latest.is_gone;
        if let Some(latest) = self.latest.get_mut(&process.tgid).filter(is_it) {
            latest.is_gone = true;
            self.gone.push_back((time, process));
        }
    }

    /// `process` ended at `time`; false if that is known already.
    pub(in crate::pipeline) fn ended(&mut self, time: Timestamp, process: ProcessId) -> bool {
        self.gone(time, process);
        let is_it = |latest: &&mut Latest| latest.id == process && !latest.has_ended;
        let Some(latest) = self.latest.get_mut(&process.tgid).filter(is_it) else { return false };
        latest.has_ended = true;
        true
    }

    /// `process` executes a program. Without the layout of tasks the end of a leader passes for that of its process, which another
    /// thread that executes a program goes on with.
    pub(in crate::pipeline) fn goes_on(&mut self, process: ProcessId) {
        let is_it = |latest: &&mut Latest| latest.id == process && latest.is_gone;
        if let Some(latest) = self.latest.get_mut(&process.tgid).filter(is_it) {
            (latest.is_gone, latest.has_ended) = (false, false);
            self.gone.retain(|(_, gone)| *gone != process);
        }
    }

    /// Forgets processes that went before `time`, all but the last [`REMEMBERED`], and hands them over with their names.
    pub(in crate::pipeline) fn forget(&mut self, time: Timestamp) -> Vec<(ProcessId, Comm)> {
        let mut forgotten = Vec::new();
        while self.gone.len() > REMEMBERED
            && let Some((_, process)) = self.gone.pop_front_if(|(gone, _)| *gone < time)
        {
            if self.latest.get(&process.tgid).is_some_and(|latest| latest.id == process) {
                self.latest.remove(&process.tgid);
            }
            forgotten.push((process, self.names.remove(&process).unwrap_or_default()));
        }
        forgotten
    }

    /// How many there have been.
    pub(in crate::pipeline) const fn count(&self) -> u64 {
        self.count
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
        processes.gone(at(15), first);
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
    fn process_whose_memory_was_found_gone_ends_afterwards() {
        let mut processes = Processes::default();

        let process = processes.born(at(10), TGID);
        processes.gone(at(15), process);

        assert!(processes.ended(at(20), process));
        assert_eq!(processes.gone, [(at(15), process)]);
    }

    #[test]
    fn process_that_executes_a_program_after_its_leader_ended_ends_once_more() {
        let mut processes = Processes::default();

        let process = processes.born(at(10), TGID);
        assert!(processes.ended(at(15), process));
        assert!(!processes.ended(at(16), process), "another thread that finds itself the last");
        processes.goes_on(process);

        assert!(processes.gone.is_empty());
        assert!(processes.ended(at(20), process));
        assert_eq!(processes.gone, [(at(20), process)]);
    }

    #[test]
    fn process_that_joins_after_another_has_gone_is_not_taken_for_it() {
        let mut processes = Processes::default();

        let first = processes.joined(at(10), TGID);
        processes.gone(at(15), first);
        let second = processes.joined(at(20), TGID);
        processes.gone(at(20), first);

        assert_ne!(first, second);
        assert_eq!(processes.joined(at(21), TGID), second, "the first going again says nothing of it");
    }

    #[test]
    fn processes_that_went_are_forgotten_but_for_the_last() {
        let mut processes = Processes::default();
        let count = u32::try_from(REMEMBERED).expect("some thousands") + 3;

        for tgid in 1..=count {
            let process = processes.born(at(u64::from(tgid) * 10), Tgid(tgid));
            processes.rename(process, Comm::from_text("brief"));
            processes.gone(at(u64::from(tgid) * 10 + 5), process);
        }
        let lives = processes.born(at(5), Tgid(count + 1));

        assert!(processes.forget(at(15)).is_empty(), "rows of that time are still to come");
        let forgotten = processes.forget(at(1_000_000));
        let expected = [1, 2, 3].map(|tgid| ProcessId { tgid: Tgid(tgid), born: at(u64::from(tgid) * 10) });
        assert_eq!(forgotten.iter().map(|(process, _)| *process).collect::<Vec<_>>(), expected);
        assert!(forgotten.iter().all(|(_, comm)| *comm == Comm::from_text("brief")));
        assert_eq!(processes.last(at(2_000_000), Tgid(count + 1)), lives);
        assert_eq!(processes.count(), u64::from(count) + 1);
    }

    #[test]
    fn process_whose_end_is_missing_went_when_its_id_was_given_away() {
        let mut processes = Processes::default();

        let first = processes.born(at(10), TGID);
        processes.rename(first, Comm::from_text("first"));
        processes.born(at(20), TGID);

        assert_eq!(processes.gone, [(at(20), first)]);
    }
}
