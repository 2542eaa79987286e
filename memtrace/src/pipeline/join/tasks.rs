//! Tasks and address spaces as they are at the time up to which events have been applied.

mod faults;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

pub(in crate::pipeline) use self::faults::Position;
use self::faults::{LastFault, RECENT};
use super::{processes::Processes, symbols::KnownSymbols};
use crate::{
    event::{
        BuildId, Comm, Device, FileKind, HostFacts, MapsReading, SpaceId, Symbols, TaskAction, TaskEvent,
        Tgid, Tid,
    },
    pipeline::END_OF_TIME,
    region::{AddressSpace, Comparison, RegionIds, Retired},
    timeline::{ProcessId, RegionSummary, Row},
    units::{PageCount, PageSize, Timestamp, VirtAddr},
};

/// `CLONE_THREAD`, as `include/uapi/linux/sched.h` has it.
const CLONE_THREAD: u64 = 0x1_0000;

/// A traced task.
#[derive(Clone, Copy, Debug)]
pub(in crate::pipeline) struct Task {
    /// Its process.
    pub(in crate::pipeline) process: ProcessId,
    /// Its address space.
    pub(in crate::pipeline) space: SpaceId,
    /// Its name.
    pub(in crate::pipeline) comm: Comm,
    /// When its uncounted faults were last reported, or since when it has been traced.
    settled: Timestamp,
    /// When it ended. Faults may still come: the kernel clears its thread ID in its memory.
    ended: Option<Timestamp>,
}

/// Who takes part in a task event.
#[derive(Clone, Copy, Debug)]
pub(in crate::pipeline) struct Actors {
    /// The process of the task.
    pub(in crate::pipeline) process: ProcessId,
    /// The process that it made.
    pub(in crate::pipeline) child: Option<ProcessId>,
    /// Whether the process ended with it. Threads that exit at once on several CPUs may each find themselves the last of their group.
    pub(in crate::pipeline) is_end: bool,
}

/// All traced tasks and their address spaces.
#[derive(Debug)]
pub(in crate::pipeline) struct Tasks {
    page: PageSize,
    follows_maps: bool,
    /// What lies on devices, as they were seen last.
    devices: BTreeMap<Device, FileKind>,
    /// Build IDs of files, as they were read.
    build_ids: HashMap<(Device, u64), Arc<[u8]>>,
    symbols: KnownSymbols,
    /// Looked up for each fault, never iterated.
    by_tid: HashMap<Tid, Task>,
    processes: Processes,
    spaces: BTreeMap<SpaceId, Space>,
    /// Records of the time before are missing.
    lost_until: Timestamp,
    /// Times in which completions on some CPU were not seen, from start to end.
    unseen: Vec<(Timestamp, Timestamp)>,
    pub(in crate::pipeline) ids: RegionIds,
    /// Tasks that ended and are not forgotten, in order of their ends.
    ended: VecDeque<(Timestamp, Tid)>,
    /// By the low bits of the thread ID.
    recent: [Option<LastFault>; RECENT],
}

/// An address space and how many tasks live in it.
#[derive(Debug)]
struct Space {
    /// The process that first came to live in it.
    process: Option<ProcessId>,
    regions: AddressSpace,
    tasks: u64,
    /// When its last task ended.
    died: Option<Timestamp>,
}

impl Space {
    fn of(regions: AddressSpace) -> Self {
        Self { process: None, regions, tasks: 0, died: None }
    }
}

/// A retired region, with its process and its address space.
pub(in crate::pipeline) type RetiredIn = (Option<ProcessId>, SpaceId, Retired);

/// What is forgotten.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct Purged {
    /// Regions.
    pub(in crate::pipeline) regions: Vec<RetiredIn>,
    /// Address spaces, with their processes.
    pub(in crate::pipeline) spaces: Vec<(SpaceId, Option<ProcessId>)>,
    /// Processes, with their names.
    pub(in crate::pipeline) processes: Vec<(ProcessId, Comm)>,
}

impl Tasks {
    /// No tasks on `host`; `follows_maps` if events report every change of an address space.
    pub(in crate::pipeline) fn new(host: &HostFacts, follows_maps: bool) -> Self {
        Self {
            page: host.page,
            follows_maps,
            devices: host.devices.iter().copied().collect(),
            build_ids: HashMap::new(),
            symbols: KnownSymbols::default(),
            by_tid: HashMap::new(),
            processes: Processes::default(),
            spaces: BTreeMap::new(),
            lost_until: Timestamp::default(),
            unseen: Vec::new(),
            ids: RegionIds::default(),
            ended: VecDeque::new(),
            recent: [None; RECENT],
        }
    }

    /// Whether an event reported this thread.
    pub(in crate::pipeline) fn knows(&self, tid: Tid) -> bool {
        self.by_tid.contains_key(&tid)
    }

    /// Name of a process: that of its leader.
    pub(in crate::pipeline) fn name(&self, process: ProcessId) -> Comm {
        self.processes.name(process)
    }

    /// How many processes have been traced.
    pub(in crate::pipeline) const fn count_processes(&self) -> u64 {
        self.processes.count()
    }

    /// The process that an event at `time` is about: that of `thread`, or else the last one known with the ID `tgid`.
    pub(in crate::pipeline) fn process(&mut self, time: Timestamp, tgid: Tgid, thread: Tid) -> ProcessId {
        let task = self.by_tid.get(&thread).filter(|task| task.process.tgid == tgid);
        task.map_or_else(|| self.processes.last(time, tgid), |task| task.process)
    }

    /// The process that lives in `space`.
    pub(in crate::pipeline) fn process_of(&self, space: SpaceId) -> Option<ProcessId> {
        self.spaces.get(&space)?.process
    }

    /// What lies on `device`, as it was seen last.
    pub(in crate::pipeline) fn kind_on(&self, device: Device) -> Option<FileKind> {
        self.devices.get(&device).copied()
    }

    /// A file has a build ID.
    pub(in crate::pipeline) fn learn_build_id(&mut self, file: BuildId) {
        let _before = self.build_ids.insert(file.file, file.id.into());
    }

    /// The build ID of a file, if one was read.
    pub(in crate::pipeline) fn build_id(&self, file: (Device, u64)) -> Option<Arc<[u8]>> {
        self.build_ids.get(&file).cloned()
    }

    /// Code has these names.
    pub(in crate::pipeline) fn learn_symbols(&mut self, symbols: Symbols) {
        self.symbols.learn(symbols);
    }

    /// The row of a region, with the build ID of its file.
    pub(in crate::pipeline) fn region_row(&self, region: RegionSummary) -> Row {
        let build_id = region.file.and_then(|file| self.build_id(file));
        Row::Region(RegionSummary { build_id, ..region })
    }

    /// The regions of `space`.
    pub(in crate::pipeline) fn regions(&self, space: SpaceId) -> Option<&AddressSpace> {
        self.spaces.get(&space).map(|space| &space.regions)
    }

    /// The regions of `space`, to be changed; `None` if it is not known.
    pub(in crate::pipeline) fn regions_mut(
        &mut self,
        space: SpaceId,
    ) -> Option<(&mut AddressSpace, &mut RegionIds)> {
        self.recent = Default::default();
        let Self { spaces, ids, .. } = self;
        spaces.get_mut(&space).map(|space| (&mut space.regions, ids))
    }

    /// The address space of `thread`, or else of `process`.
    pub(in crate::pipeline) fn space_of(&self, process: Tgid, thread: Tid) -> Option<SpaceId> {
        let task = self.by_tid.get(&thread).or_else(|| self.by_tid.get(&Tid(process.0)))?;
        Some(task.space)
    }

    /// `space`; or if that is not known, the address space of `process`.
    pub(in crate::pipeline) fn settle_space(&self, process: Tgid, space: SpaceId) -> SpaceId {
        match space {
            SpaceId::UNKNOWN => self.space_of(process, Tid(process.0)).unwrap_or(space),
            known => known,
        }
    }

    /// An event says that `thread` of `process` lives in `space`. If that is news, the record of its birth or of its exec is
    /// missing; all threads of a process live in one address space.
    pub(in crate::pipeline) fn witness(&mut self, time: Timestamp, tgid: Tgid, thread: Tid, space: SpaceId) {
        let lives_here = |task: &Task| task.space == space && task.ended.is_none();
        if self.by_tid.get(&thread).is_some_and(lives_here) {
            return;
        }
        let process = self.process(time, tgid, thread);
        let others = self.by_tid.iter().filter(|(_, task)| task.process == process && task.ended.is_none());
        let mut threads: Vec<Tid> = others.map(|(tid, _)| *tid).chain([thread, Tid(tgid.0)]).collect();
        threads.sort_unstable();
        threads.dedup();
        let comm = self.name(process);
        for tid in threads {
            self.enter(time, tid, Task { process, space, comm, settled: time, ended: None });
        }
    }

    /// Compares the regions of the process `tgid` with a reading of its maps that ended at `time`; returns of which
    /// address space it is. When it was asked for, that was `asked_for`.
    pub(in crate::pipeline) fn compare(
        &mut self,
        time: Timestamp,
        (tgid, asked_for): (Tgid, SpaceId),
        maps: &MapsReading,
    ) -> Option<(SpaceId, Comparison)> {
        let id = self.space_read(tgid, asked_for)?;
        self.spaces.get(&id).filter(|space| space.died.is_none())?;
        let (regions, ids) = self.regions_mut(id)?;
        let comparison = regions.compare(time, maps, ids);
        self.devices.extend(maps.devices.iter().copied());
        if !self.follows_maps {
            self.doubt(time);
        }
        Some((id, comparison))
    }

    /// The address space that a reading of the process `tgid` shows, of which `asked_for` was expected.
    pub(in crate::pipeline) fn space_read(&self, tgid: Tgid, asked_for: SpaceId) -> Option<SpaceId> {
        // Of single threads that are traced, none may lead its process.
        let asked_for = self.spaces.contains_key(&asked_for).then_some(asked_for);
        self.space_of(tgid, Tid(tgid.0)).or(asked_for)
    }

    /// The address space, and its process, of which the counters were read when `tgid` was asked, of which `asked_for` was expected. `None`
    /// if that is not sure: it is gone, or was replaced.
    pub(in crate::pipeline) fn space_counted(
        &self,
        tgid: Tgid,
        asked_for: SpaceId,
    ) -> Option<(SpaceId, ProcessId)> {
        let id = self.space_of(tgid, Tid(tgid.0))?;
        let space = self.spaces.get(&id).filter(|space| space.died.is_none())?;
        (asked_for == SpaceId::UNKNOWN || asked_for == id).then_some((id, space.process?))
    }

    /// Regions may have changed unseen: records of the time up to `time` are missing.
    pub(in crate::pipeline) fn doubt(&mut self, time: Timestamp) {
        self.lost_until = self.lost_until.max(time);
        self.spaces.values_mut().for_each(|space| space.regions.doubt(time));
    }

    /// Whether the regions of `space` have to be read.
    pub(in crate::pipeline) fn is_doubtful(&self, space: SpaceId) -> bool {
        self.regions(space).is_some_and(AddressSpace::is_doubtful)
    }

    /// Whether `space` is that of another process, in which `process` lives for a time, as after vfork.
    pub(in crate::pipeline) fn is_guest(&self, process: ProcessId, space: SpaceId) -> bool {
        self.process_of(space).is_some_and(|host| host != process)
    }

    /// The address space `child` is a copy of `parent` from now on, with its heap ending at `brk` and `total_vm` pages mapped.
    pub(in crate::pipeline) fn copy(
        &mut self,
        time: Timestamp,
        (parent, child): (SpaceId, SpaceId),
        brk: Option<VirtAddr>,
        total_vm: Option<PageCount>,
    ) {
        let mut copy = match self.spaces.get_mut(&parent) {
            Some(parent) => parent.regions.fork(time, brk, &mut self.ids),
            None => AddressSpace::new(self.page, time, true),
        };
        copy.expect_pages(time, total_vm);
        self.add_space(time, child, copy);
    }

    /// There is a new address space; what happened in it may be among what is missing.
    fn add_space(&mut self, time: Timestamp, id: SpaceId, mut regions: AddressSpace) {
        if time <= self.lost_until {
            regions.doubt(self.lost_until);
        }
        self.spaces.insert(id, Space::of(regions));
    }

    /// The thread `tid` lives in `space` from now on, which is empty.
    pub(in crate::pipeline) fn renew(&mut self, time: Timestamp, tid: Tid, space: SpaceId) {
        self.add_space(time, space, AddressSpace::loading(self.page, time));
        if let Some(task) = self.by_tid.get(&tid).copied() {
            self.enter(time, tid, Task { space, ended: None, ..task });
        }
    }

    /// Applies a task event.
    pub(in crate::pipeline) fn apply(&mut self, event: &TaskEvent) -> Actors {
        let TaskEvent { time, tgid, tid, action } = *event;
        let follows_maps = self.follows_maps;
        self.recent = Default::default();
        let process = match action {
            TaskAction::Join { .. } => self.processes.joined(time, tgid),
            _ => self.process(time, tgid, tid),
        };
        let (mut child, mut is_end) = (None, false);
        match action {
            TaskAction::Fork { child_tgid, child_tid, space, parent_space: _, comm, clone_flags } => {
                let is_thread = clone_flags & CLONE_THREAD != 0;
                let process = if is_thread { process } else { self.processes.born(time, child_tgid) };
                child = (!is_thread).then_some(process);
                self.enter(time, child_tid, Task { process, space, comm, settled: time, ended: None });
            }
            TaskAction::Join { space, comm, parent: _ } => {
                self.enter(time, tid, Task { process, space, comm, settled: time, ended: None });
            }
            TaskAction::Exec {
                space,
                old_tid,
                comm,
                is_space_told,
                landmarks,
                is_hidden,
                total_vm,
                max_rss: _,
            } => {
                if old_tid != tid {
                    self.leave(time, old_tid);
                }
                self.processes.goes_on(process);
                self.enter(time, tid, Task { process, space, comm, settled: time, ended: None });
                if let Some((regions, ids)) = self.regions_mut(space) {
                    regions.settle(ids);
                    regions.complete(time, landmarks);
                    regions.expect_pages(time, total_vm);
                    if !is_space_told || !follows_maps {
                        regions.doubt(time);
                    }
                    if is_hidden {
                        regions.doubt(END_OF_TIME);
                    }
                }
            }
            TaskAction::Comm(comm) => {
                if let Some(task) = self.by_tid.get_mut(&tid) {
                    task.comm = comm;
                }
                if tid.0 == tgid.0 {
                    self.processes.rename(process, comm);
                }
            }
            // A leader's thread ID stays the process's: a thread that executes a program takes it over, and faults
            // under it before the exec is over.
            TaskAction::Exit { group_dead: false, .. } if tid.0 == tgid.0 => {}
            TaskAction::Exit { group_dead, .. } => {
                self.leave(time, tid);
                if group_dead {
                    self.leave(time, Tid(tgid.0));
                    is_end = self.processes.ended(time, process);
                }
            }
            TaskAction::Leave { .. } => {
                self.leave(time, tid);
                self.processes.gone(time, process);
            }
            TaskAction::Alive { .. } | TaskAction::Late { .. } => {}
        }
        Actors { process, child, is_end }
    }

    fn enter(&mut self, time: Timestamp, tid: Tid, task: Task) {
        if tid.0 == task.process.tgid.0 {
            self.processes.rename(task.process, task.comm);
        } else {
            self.processes.suggest(task.process, task.comm);
        }
        let page = self.page;
        let unknown = || Space::of(AddressSpace::new(page, time, true));
        let space = self.spaces.entry(task.space).or_insert_with(unknown);
        space.tasks += 1;
        space.died = None;
        space.process.get_or_insert(task.process);
        // Last, for it may have been in the same.
        let before = self.by_tid.insert(tid, task).filter(|before| before.ended.is_none());
        if let Some(before) = before {
            self.vacate(time, before.space);
        }
    }

    fn leave(&mut self, time: Timestamp, tid: Tid) {
        let Some(task) = self.by_tid.get_mut(&tid).filter(|task| task.ended.is_none()) else { return };
        task.ended = Some(time);
        let space = task.space;
        self.ended.push_back((time, tid));
        self.vacate(time, space);
    }

    /// The process `tgid` had no memory any more at `time`. If it is still taken to live in `space`, the record of its end is missing.
    pub(in crate::pipeline) fn vanish(&mut self, time: Timestamp, (tgid, space): (Tgid, SpaceId)) {
        if self.spaces.get(&space).is_none_or(|space| space.died.is_some()) {
            return;
        }
        let is_there = |task: &Task| task.process.tgid == tgid && task.space == space && task.ended.is_none();
        let mut left: Vec<_> = self.by_tid.iter().filter(|(_, task)| is_there(task)).collect();
        left.sort_unstable_by_key(|(tid, _)| **tid);
        let left: Vec<_> = left.into_iter().map(|(tid, task)| (*tid, task.process)).collect();
        for (tid, process) in left {
            self.leave(time, tid);
            self.processes.gone(time, process);
        }
    }

    /// A task no longer lives in `space`.
    fn vacate(&mut self, time: Timestamp, space: SpaceId) {
        let Some(space) = self.spaces.get_mut(&space) else { return };
        space.tasks = space.tasks.saturating_sub(1);
        if space.tasks == 0 {
            space.died = Some(time);
            space.regions.die(time, &mut self.ids);
        }
    }

    /// Forgets tasks, regions, address spaces and processes that ended before `time`; of processes not the last ones.
    pub(in crate::pipeline) fn purge(&mut self, time: Timestamp) -> Purged {
        while let Some((ended, tid)) = self.ended.pop_front_if(|(ended, _)| *ended < time) {
            if self.by_tid.get(&tid).is_some_and(|task| task.ended == Some(ended)) {
                self.by_tid.remove(&tid);
            }
        }
        self.recent = Default::default();
        let mut purged = Purged { processes: self.processes.forget(time), ..Purged::default() };
        for (id, space) in &mut self.spaces {
            let process = space.process;
            purged.regions.extend(space.regions.take_retired(time).map(|region| (process, *id, region)));
        }
        let dead = self.spaces.extract_if(.., |_, space| space.died.is_some_and(|died| died < time));
        purged.spaces.extend(dead.map(|(id, space)| (id, space.process)));
        purged
    }

    /// All address spaces with their processes.
    pub(in crate::pipeline) fn spaces(
        &self,
    ) -> impl Iterator<Item = (SpaceId, Option<ProcessId>, &AddressSpace)> {
        self.spaces.iter().map(|(id, space)| (*id, space.process, &space.regions))
    }
}
