//! What forks cost: faults at pages that the fork left to both, and that nobody may write to any more.

use std::collections::BTreeMap;

use crate::{
    event::{Access, Fault, TaskAction},
    timeline::{ForkTax, ProcessId},
};

/// `CLONE_VM`, as `include/uapi/linux/sched.h` has it: nothing is copied then.
const CLONE_VM: u64 = 0x100;

/// Forks, and the faults that followed.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct Forks {
    /// Children that have executed nothing yet, and who forked them.
    sharing: BTreeMap<ProcessId, ProcessId>,
    /// How many of these each has.
    children: BTreeMap<ProcessId, usize>,
    tax: BTreeMap<ProcessId, ForkTax>,
}

impl Forks {
    /// Takes note of what `process` did; `child` is the process of the task that it made, if it made one.
    pub(in crate::pipeline) fn task(
        &mut self,
        action: &TaskAction,
        process: ProcessId,
        child: Option<ProcessId>,
    ) {
        match (action, child) {
            (TaskAction::Fork { clone_flags, .. }, Some(child)) if clone_flags & CLONE_VM == 0 => {
                self.sharing.insert(child, process);
                *self.children.entry(process).or_default() += 1;
                self.tax.entry(process).or_default().forks += 1;
            }
            (TaskAction::Exec { .. } | TaskAction::Exit { group_dead: true, .. }, _) => self.part(process),
            _ => {}
        }
    }

    /// The memory of `process` is its own from now on.
    fn part(&mut self, process: ProcessId) {
        if let Some(parent) = self.sharing.remove(&process)
            && let Some(children) = self.children.get_mut(&parent)
        {
            *children -= 1;
        }
        if self.children.remove(&process).is_some_and(|children| children > 0) {
            self.sharing.retain(|_, parent| *parent != process);
        }
    }

    /// Counts a fault of `process`, if it is one at a page that may be shared since a fork.
    pub(in crate::pipeline) fn fault(&mut self, fault: &Fault, process: ProcessId) {
        let is_copy = fault.access == Some(Access::Write)
            && fault.protection == Some(true)
            && fault.kind.is_completed();
        if !is_copy {
            return;
        }
        let is_parent = self.children.get(&process).is_some_and(|children| *children > 0);
        let parent = if is_parent { Some(process) } else { self.sharing.get(&process).copied() };
        let Some(tax) = parent.and_then(|parent| self.tax.get_mut(&parent)) else { return };
        let part = if is_parent { &mut tax.by_parent } else { &mut tax.by_children };
        part.faults += 1;
        part.latency_sum += fault.latency.unwrap_or_default();
    }

    /// Forgets a process that has ended.
    pub(in crate::pipeline) fn forget(&mut self, process: ProcessId) {
        self.part(process);
        self.tax.remove(&process);
    }

    pub(in crate::pipeline) fn into_tax(self) -> BTreeMap<ProcessId, ForkTax> {
        self.tax
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Comm, Cpu, FaultKind, Mode, SpaceId, Tgid, Tid},
        units::{Nanos, Timestamp, VirtAddr},
    };

    fn process(tgid: u32) -> ProcessId {
        ProcessId { tgid: Tgid(tgid), born: Timestamp::default() }
    }

    fn fork(forks: &mut Forks, parent: u32, child: u32, clone_flags: u64) {
        let action = TaskAction::Fork {
            child_tgid: Tgid(child),
            child_tid: Tid(child),
            clone_flags,
            space: SpaceId(child.into()),
            parent_space: SpaceId(1),
            comm: Comm::default(),
        };
        forks.task(&action, process(parent), Some(process(child)));
    }

    fn exit() -> TaskAction {
        TaskAction::Exit { space: SpaceId(0), group_dead: true, account: None, status: None, max_rss: None }
    }

    fn write(forks: &mut Forks, tgid: u32, protection: bool) {
        let fault = Fault {
            time: Timestamp::default(),
            tid: Tid(tgid),
            cpu: Cpu(0),
            addr: VirtAddr::from_raw(0x1000),
            ip: VirtAddr::from_raw(0),
            access: Some(Access::Write),
            protection: Some(protection),
            mode: Mode::User,
            kind: FaultKind::Minor,
            latency: Some(Nanos::new(700)),
            syscall: None,
            stack: None,
        };
        forks.fault(&fault, process(tgid));
    }

    #[test]
    fn copies_are_of_the_parent_or_of_its_children_until_they_part() {
        let mut forks = Forks::default();
        write(&mut forks, 1, true);
        fork(&mut forks, 1, 2, 17);
        fork(&mut forks, 1, 3, 17);
        fork(&mut forks, 1, 4, CLONE_VM);
        for (tgid, protection) in [(1, true), (1, false), (2, true), (3, true), (3, true), (4, true)] {
            write(&mut forks, tgid, protection);
        }
        forks.task(&exit(), process(2), None);
        write(&mut forks, 2, true);
        write(&mut forks, 1, true);
        forks.task(&exit(), process(3), None);
        write(&mut forks, 1, true);

        let tax = forks.into_tax();

        assert_eq!(tax.len(), 1);
        let ForkTax { forks, by_parent, by_children } = tax[&process(1)];
        assert_eq!((forks, by_parent.faults, by_children.faults), (2, 2, 3));
        assert_eq!(by_children.latency_sum, Nanos::new(2_100));
    }
}
