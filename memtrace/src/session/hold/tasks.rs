//! Which tasks are held, and of which process each is.
//!
//! Layer: shell. Input: tasks that come and go. Output: whether a process has others.
//! Keeps: what it takes does not grow with the number of threads.
//! Not here: stopping and letting go (`hold`).

use std::collections::BTreeMap;

use crate::event::{Tgid, Tid};

/// The held tasks.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    processes: BTreeMap<Tid, Tgid>,
    /// How many tasks of each process are held.
    counts: BTreeMap<Tgid, usize>,
}

impl Tasks {
    /// `task` of `process` is held from now on.
    pub(super) fn insert(&mut self, task: Tid, process: Tgid) {
        self.remove(task);
        self.processes.insert(task, process);
        *self.counts.entry(process).or_default() += 1;
    }

    /// `task` is held no longer; returns its process if no other task of it is.
    pub(super) fn remove(&mut self, task: Tid) -> Option<Tgid> {
        let process = self.processes.remove(&task)?;
        let count = self.counts.get_mut(&process)?;
        *count -= 1;
        if *count > 0 {
            return None;
        }
        self.counts.remove(&process);
        Some(process)
    }

    /// The process of a held task.
    pub(super) fn process_of(&self, task: Tid) -> Option<Tgid> {
        self.processes.get(&task).copied()
    }

    /// Whether `task` is held, and no other one of its process.
    pub(super) fn is_last(&self, task: Tid) -> bool {
        self.process_of(task).is_some_and(|process| self.counts.get(&process) == Some(&1))
    }

    /// All held tasks with their processes.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Tid, Tgid)> {
        self.processes.iter().map(|(task, process)| (*task, *process))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_goes_with_its_last_task() {
        let mut tasks = Tasks::default();
        for task in [7, 8, 8, 9] {
            tasks.insert(Tid(task), Tgid(7));
        }
        tasks.insert(Tid(10), Tgid(10));

        assert_eq!(tasks.remove(Tid(7)), None);
        assert_eq!(tasks.remove(Tid(7)), None, "it is not held");
        assert_eq!(tasks.remove(Tid(9)), None);
        assert!(tasks.is_last(Tid(8)) && !tasks.is_last(Tid(9)));
        assert_eq!(tasks.remove(Tid(8)), Some(Tgid(7)));
        assert_eq!(tasks.iter().collect::<Vec<_>>(), [(Tid(10), Tgid(10))]);
    }
}
