//! Targets of which no event came although the kernel counted faults for them: a loss, whatever the reason.
//!
//! Layer: shell. Input: the tasks that were entered, `/proc`, the table of traced tasks. Output: at most one [`Loss`].
//! Source: `proc(5)`: `minflt` and `majflt` of `/proc/PID/stat`, which no probe of ours has a part in.
//! Keeps: a task that did nothing is no loss.
//! Not here: losses that the programs or the kernel count themselves (`live::losses`).

use memtrace_ebpf::TaskState;

use crate::{
    event::{FaultCounts, Loss, LossCause},
    live::tasks::Task,
    units::Timestamp,
};

/// The tasks that user space entered, and what the kernel had charged to them once all probes were attached.
#[derive(Debug)]
pub(super) struct Entered {
    tasks: Vec<(u32, TaskState)>,
    charged: Charges,
    since: Timestamp,
}

/// What the kernel has charged to each task; `None` for one that ended.
type Charges = Vec<Option<FaultCounts>>;

impl Entered {
    /// `tasks` by their keys as they were entered; the probes were attached before `now`.
    pub(super) fn new(tasks: Vec<(u32, TaskState)>, now: Timestamp) -> Self {
        let charged = charges(&tasks);
        Self { tasks, charged, since: now }
    }

    /// What the kernel has charged to each now: to be read while the probes are attached.
    pub(super) fn charges(&self) -> Charges {
        charges(&self.tasks)
    }

    /// The loss of all events of those tasks that no program has touched, by the table `states` at `end`, although `charged`
    /// differs from what it was at the beginning, or they ended.
    pub(super) fn loss(
        &self,
        charged: &Charges,
        states: &[(u32, TaskState)],
        end: Timestamp,
    ) -> Option<Loss> {
        let untouched = |task: &(u32, TaskState)| {
            states.binary_search_by_key(&task.0, |(key, _)| *key).is_ok_and(|at| states[at].1 == task.1)
        };
        let tasks = self.tasks.iter().zip(&self.charged).zip(charged);
        let unseen =
            tasks.filter(|((task, before), now)| untouched(task) && (now.is_none() || before != now));
        let counts: Vec<_> = unseen
            .map(|((_, before), now)| now.as_ref()?.total().checked_sub(before.as_ref()?.total()))
            .collect();
        (!counts.is_empty()).then(|| Loss {
            start: self.since,
            end: Some(end),
            cpu: None,
            cause: LossCause::NoEvents,
            count: counts.into_iter().sum(),
        })
    }
}

fn charges(tasks: &[(u32, TaskState)]) -> Charges {
    tasks.iter().map(|(_, state)| Task::find(state.tid).map(|task| task.charged)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A task that is thread 7 here and 507 for the programs, with ten faults when recording began.
    fn entered() -> Entered {
        let tasks = vec![(507, TaskState { tid: 7, tgid: 7, ..TaskState::default() })];
        Entered { tasks, charged: vec![Some(faults(10))], since: Timestamp::from_nanos(100) }
    }

    const fn faults(minor: u64) -> FaultCounts {
        FaultCounts { minor, major: 0 }
    }

    /// Causes and counts of what is lost if the kernel counts `charged` at the end.
    fn lost(charged: Option<FaultCounts>, states: &[(u32, TaskState)]) -> Option<(LossCause, Option<u64>)> {
        let loss = entered().loss(&vec![charged], states, Timestamp::from_nanos(900))?;
        assert_eq!((loss.start.as_nanos(), loss.end.map(Timestamp::as_nanos)), (100, Some(900)));
        Some((loss.cause, loss.count))
    }

    #[test]
    fn task_without_an_event_whose_counters_moved_is_a_loss() {
        let untouched = entered().tasks;

        assert_eq!(lost(Some(faults(13)), &untouched), Some((LossCause::NoEvents, Some(3))));
    }

    #[test]
    fn task_without_an_event_that_ended_is_a_loss_of_unknown_size() {
        let untouched = entered().tasks;

        assert_eq!(lost(None, &untouched), Some((LossCause::NoEvents, None)));
    }

    #[test]
    fn idle_task_is_no_loss() {
        let untouched = entered().tasks;

        assert_eq!(lost(Some(faults(10)), &untouched), None);
    }

    #[test]
    fn task_that_a_program_saw_is_no_loss() {
        let mut touched = entered().tasks;
        touched[0].1.task = 0xffff_8000_0000_1000;

        assert_eq!(lost(Some(faults(13)), &touched), None);
        assert_eq!(lost(None, &touched), None);
        assert_eq!(lost(None, &[]), None, "taken out at its end");
    }
}
