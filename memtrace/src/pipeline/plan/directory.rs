//! Which process stands for an address space, known as soon as a task event arrives.
//!
//! Scans cannot wait until events have been put in order: by then a short process is gone.

use std::collections::BTreeMap;

use crate::event::{MapAction, MapEvent, SpaceId, TaskAction, TaskEvent, Tgid};

/// Processes and the address spaces that they live in, in arrival order of their events.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct Directory {
    processes: BTreeMap<SpaceId, Tgid>,
    spaces: BTreeMap<Tgid, SpaceId>,
}

impl Directory {
    /// The process to scan for `space`.
    pub(in crate::pipeline) fn process_of(&self, space: SpaceId) -> Option<Tgid> {
        self.processes.get(&space).copied()
    }

    /// All address spaces and the processes to scan for them.
    pub(in crate::pipeline) fn iter(&self) -> impl Iterator<Item = (SpaceId, Tgid)> {
        self.processes.iter().map(|(space, tgid)| (*space, *tgid))
    }

    /// Takes note of a task event; returns the address space whose maps are worth reading at once.
    pub(in crate::pipeline) fn learn(&mut self, task: &TaskEvent) -> Option<(Tgid, SpaceId)> {
        match task.action {
            TaskAction::Fork { child_tgid, space, parent_space, .. } => {
                // A child that shares the address space goes before its parent.
                let tgid = if space == parent_space { task.tgid } else { child_tgid };
                if self.process_of(space).is_none() {
                    self.settle(tgid, space);
                }
                None
            }
            TaskAction::Exec { space, .. } => {
                self.settle(task.tgid, space);
                Some((task.tgid, space))
            }
            TaskAction::Join { space, .. } => {
                let is_new = self.process_of(space).is_none();
                self.settle(task.tgid, space);
                is_new.then_some((task.tgid, space))
            }
            TaskAction::Exit { group_dead: true, .. } => {
                self.unsettle(task.tgid);
                None
            }
            TaskAction::Exit { .. }
            | TaskAction::Alive { .. }
            | TaskAction::Late { .. }
            | TaskAction::Leave { .. }
            | TaskAction::Comm(_) => None,
        }
    }

    /// Takes note of a map event; returns the address space whose maps are worth reading at once.
    pub(in crate::pipeline) fn learn_map(&mut self, map: &MapEvent) -> Option<(Tgid, SpaceId)> {
        match map.action {
            MapAction::Renewed { space } => {
                self.settle(map.tgid, space);
                None
            }
            // The record of its birth or its exec is missing.
            MapAction::Call { space, .. } if self.process_of(space).is_none() => {
                self.settle(map.tgid, space);
                Some((map.tgid, space))
            }
            _ => None,
        }
    }

    /// `tgid` lives in `space`, and no longer where it lived before: a scan there would see the new one.
    fn settle(&mut self, tgid: Tgid, space: SpaceId) {
        self.unsettle(tgid);
        self.processes.insert(space, tgid);
        self.spaces.insert(tgid, space);
    }

    /// `tgid` no longer lives in `space`, though there may be no event of that.
    pub(in crate::pipeline) fn forget(&mut self, tgid: Tgid, space: SpaceId) {
        if self.spaces.get(&tgid) == Some(&space) {
            self.unsettle(tgid);
        }
    }

    fn unsettle(&mut self, tgid: Tgid) {
        if let Some(space) = self.spaces.remove(&tgid)
            && self.process_of(space) == Some(tgid)
        {
            self.processes.remove(&space);
        }
    }
}
