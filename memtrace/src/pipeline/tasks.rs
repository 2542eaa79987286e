//! Tasks and address spaces as they are at the time up to which events have been applied.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::{
    event::{Comm, Fault, SpaceId, TaskAction, TaskEvent, Tgid, Tid, Vma},
    region::{AddressSpace, RegionIds},
    timeline::{RegionId, RegionLabel},
    units::{Timestamp, VirtAddr, VirtRange},
};

/// Threads whose last fault is remembered.
const RECENT: usize = 16;

/// A traced task.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    /// Its thread group.
    pub(super) tgid: Tgid,
    /// Its address space.
    pub(super) space: SpaceId,
    /// Its name.
    pub(super) comm: Comm,
    /// When it ended. Faults may still come: the kernel clears its thread ID in its memory.
    ended: Option<Timestamp>,
}

/// A region, and the distance of an address from its start in bytes.
pub(super) type Position = (RegionId, u64);

/// All traced tasks and their address spaces.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    /// Looked up for each fault, never iterated.
    by_tid: HashMap<Tid, Task>,
    names: BTreeMap<Tgid, Comm>,
    spaces: BTreeMap<SpaceId, Space>,
    ids: RegionIds,
    /// Tasks that ended and are not forgotten, in order of their ends.
    ended: VecDeque<(Timestamp, Tid)>,
    /// By the low bits of the thread ID.
    recent: [Option<LastFault>; RECENT],
}

/// An address space and how many tasks live in it.
#[derive(Debug, Default)]
struct Space {
    /// The process that first came to live in it.
    tgid: Option<Tgid>,
    regions: AddressSpace,
    tasks: u64,
    /// When its last task ended.
    died: Option<Timestamp>,
}

/// A thread faults in runs: the next fault most often lies in the region of the one before.
#[derive(Clone, Copy, Debug)]
struct LastFault {
    tid: Tid,
    task: Task,
    range: VirtRange,
    region: RegionId,
}

impl Tasks {
    /// Whether an event told of this thread.
    pub(super) fn knows(&self, tid: Tid) -> bool {
        self.by_tid.contains_key(&tid)
    }

    /// Name of a process: that of its leader.
    pub(super) fn name(&self, tgid: Tgid) -> Comm {
        self.names.get(&tgid).copied().unwrap_or_default()
    }

    /// The faulting task and where it faulted, as far as known.
    pub(super) fn attribute(&mut self, fault: &Fault) -> (Option<Task>, Option<Position>) {
        let Fault { time, tid, addr, .. } = *fault;
        let recent = &mut self.recent[tid.0 as usize % RECENT];
        if let Some(last) = recent
            && last.tid == tid
            && last.range.contains(addr)
        {
            return (Some(last.task), Some((last.region, offset(addr, last.range))));
        }
        let Some(task) = self.by_tid.get(&tid).copied() else {
            return (None, None);
        };
        let Some(Space { regions, .. }) = self.spaces.get(&task.space) else {
            return (Some(task), None);
        };
        if let Some(region) = regions.find(addr) {
            let RegionLabel { id, range, .. } = region.label;
            *recent = Some(LastFault { tid, task, range, region: id });
            return (Some(task), Some((id, offset(addr, range))));
        }
        (Some(task), position(regions, addr, time))
    }

    /// The region of `space` that held `addr` at `time`.
    pub(super) fn position(&self, space: SpaceId, addr: VirtAddr, time: Timestamp) -> Option<Position> {
        position(&self.spaces.get(&space)?.regions, addr, time)
    }

    /// The process that lives in `space`.
    pub(super) fn process_of(&self, space: SpaceId) -> Option<Tgid> {
        self.spaces.get(&space)?.tgid
    }

    /// Ranges of the live regions of `space` that some access is allowed to.
    pub(super) fn accessible(&self, space: SpaceId) -> Vec<VirtRange> {
        let regions = self.regions(space).into_iter().flat_map(AddressSpace::live);
        let labels = regions.map(|region| &region.label);
        labels.filter(|label| !label.perms.starts_with(b"---")).map(|label| label.range).collect()
    }

    /// The regions of `space`.
    pub(super) fn regions(&self, space: SpaceId) -> Option<&AddressSpace> {
        self.spaces.get(&space).map(|space| &space.regions)
    }

    /// Makes the regions of `space` those that a look at its maps saw.
    pub(super) fn observe_maps(&mut self, time: Timestamp, tgid: Tgid, space: SpaceId, vmas: &[Vma]) {
        self.recent = Default::default();
        let space = self.spaces.entry(space).or_default();
        space.tgid.get_or_insert(tgid);
        space.regions.observe(time, vmas, &mut self.ids);
    }

    /// Applies a task event.
    pub(super) fn apply(&mut self, event: &TaskEvent) {
        let TaskEvent { time, tgid, tid, action } = *event;
        self.recent = Default::default();
        match action {
            TaskAction::Fork { child_tgid, child_tid, space, parent_space, comm, clone_flags: _ } => {
                if space != parent_space {
                    self.copy_space(parent_space, space);
                }
                self.enter(time, child_tid, Task { tgid: child_tgid, space, comm, ended: None });
            }
            TaskAction::Join { space, comm, parent: _ } => {
                self.enter(time, tid, Task { tgid, space, comm, ended: None });
            }
            TaskAction::Exec { space, old_tid, comm } => {
                self.leave(time, old_tid);
                self.enter(time, tid, Task { tgid, space, comm, ended: None });
            }
            TaskAction::Comm(comm) => {
                if let Some(task) = self.by_tid.get_mut(&tid) {
                    task.comm = comm;
                }
                if tid.0 == tgid.0 {
                    self.names.insert(tgid, comm);
                }
            }
            // A leader's thread ID stays the process's: a thread that executes a program takes it over, and faults
            // under it before the exec is over.
            TaskAction::Exit { group_dead: false, .. } if tid.0 == tgid.0 => {}
            TaskAction::Exit { group_dead, .. } => {
                self.leave(time, tid);
                if group_dead {
                    self.leave(time, Tid(tgid.0));
                }
            }
            TaskAction::Leave { .. } => self.leave(time, tid),
            TaskAction::Alive { .. } | TaskAction::Late { .. } => {}
        }
    }

    /// Gives a new address space the regions of the one that it was forked from, unless a look knew them first.
    fn copy_space(&mut self, parent: SpaceId, child: SpaceId) {
        if self.spaces.contains_key(&child) {
            return;
        }
        let regions = self.spaces.get(&parent).map(|parent| parent.regions.fork(&mut self.ids));
        self.spaces.insert(child, Space { regions: regions.unwrap_or_default(), ..Space::default() });
    }

    fn enter(&mut self, time: Timestamp, tid: Tid, task: Task) {
        self.leave(time, tid);
        self.by_tid.insert(tid, task);
        if tid.0 == task.tgid.0 {
            self.names.insert(task.tgid, task.comm);
        } else {
            self.names.entry(task.tgid).or_insert(task.comm);
        }
        let space = self.spaces.entry(task.space).or_default();
        space.tasks += 1;
        space.died = None;
        space.tgid.get_or_insert(task.tgid);
    }

    fn leave(&mut self, time: Timestamp, tid: Tid) {
        let Some(task) = self.by_tid.get_mut(&tid).filter(|task| task.ended.is_none()) else { return };
        task.ended = Some(time);
        self.ended.push_back((time, tid));
        if let Some(space) = self.spaces.get_mut(&task.space) {
            space.tasks = space.tasks.saturating_sub(1);
            if space.tasks == 0 {
                space.died = Some(time);
            }
        }
    }

    /// Forgets tasks, regions and address spaces that ended before `time`.
    pub(super) fn purge(&mut self, time: Timestamp) {
        while let Some((ended, tid)) = self.ended.pop_front_if(|(ended, _)| *ended < time) {
            if self.by_tid.get(&tid).is_some_and(|task| task.ended == Some(ended)) {
                self.by_tid.remove(&tid);
            }
        }
        self.recent = Default::default();
        self.spaces.retain(|_, space| space.died.is_none_or(|died| died >= time));
        self.spaces.values_mut().for_each(|space| space.regions.purge(time));
    }
}

/// Where `addr` lay at `time`.
fn position(regions: &AddressSpace, addr: VirtAddr, time: Timestamp) -> Option<Position> {
    let label = &regions.find_at(addr, time)?.label;
    Some((label.id, offset(addr, label.range)))
}

/// Bytes from the start of `range` to `addr`, which lies in it.
fn offset(addr: VirtAddr, range: VirtRange) -> u64 {
    addr.as_raw() - range.start().as_raw()
}
