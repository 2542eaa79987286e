//! Faults among tasks: whose they are, in which region they lie, and what uncounted ones are due to.

use std::sync::Arc;

use super::{Space, Task, Tasks};
use crate::{
    event::{CodeFile, Fault, Mode, SpaceId, StackFrame, Tid, Uncounted, UncountedCause},
    pipeline::Code,
    region::{AddressSpace, Region},
    timeline::{CodePlace, CodePosition, FaultPlace, Module, RegionId},
    units::{Timestamp, VirtAddr, VirtRange},
};

/// Threads whose last fault is remembered.
pub(super) const RECENT: usize = 16;

/// A region, and the distance of an address from its start in bytes.
pub(in crate::pipeline) type Position = (RegionId, u64);

/// A thread faults in runs: the next fault most often lies in the region of the one before.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastFault {
    tid: Tid,
    task: Task,
    range: VirtRange,
    region: RegionId,
}

impl Tasks {
    /// The faulting task and where it faulted, as far as known.
    pub(in crate::pipeline) fn attribute(&mut self, fault: &Fault) -> (Option<Task>, Option<Position>) {
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
        let Some(Space { regions, .. }) = self.spaces.get_mut(&task.space) else {
            return (Some(task), None);
        };
        if regions.is_unsettled_at(addr) {
            regions.settle(&mut self.ids);
        }
        if let Some(region) = regions.find(addr) {
            let (id, range) = (region.id, region.range);
            *recent = Some(LastFault { tid, task, range, region: id });
            return (Some(task), Some((id, offset(addr, range))));
        }
        (Some(task), position(regions, addr, time))
    }

    /// The region of `space` that held `addr` at `time`.
    pub(in crate::pipeline) fn position(
        &self,
        space: SpaceId,
        addr: VirtAddr,
        time: Timestamp,
    ) -> Option<Position> {
        position(&self.spaces.get(&space)?.regions, addr, time)
    }

    /// What rows say of `addr` in `space`, which lies at `position`.
    pub(in crate::pipeline) fn place(
        &self,
        space: SpaceId,
        addr: VirtAddr,
        position: Position,
    ) -> Option<FaultPlace> {
        let (region, offset) = position;
        let regions = self.regions(space)?;
        let held = held(regions, addr, region)?;
        let file_offset = held.traits.file_offset(addr);
        Some(FaultPlace { region, offset, name: regions.label(held).name, file_offset })
    }

    /// Where the instruction lies that took `fault` in `space`.
    pub(in crate::pipeline) fn module(&self, space: Option<SpaceId>, fault: &Fault) -> Option<Module> {
        if fault.mode == Mode::Kernel {
            return Some(Module::Kernel);
        }
        let space = space?;
        let FaultPlace { name, .. } =
            self.place(space, fault.ip, self.position(space, fault.ip, fault.time)?)?;
        Some(Module::of(name))
    }

    /// Where `frame` of a stack in `space` lay at `time`.
    pub(in crate::pipeline) fn code(&self, space: SpaceId, frame: StackFrame, time: Timestamp) -> CodePlace {
        let addr = frame.instruction();
        let Some((regions, held)) = self.region_at(space, addr, time) else {
            let functions = self.symbols.of(&CodeFile::Memory(space), addr.as_raw(), time);
            return CodePlace { module: None, position: CodePosition::At(addr), build_id: None, functions };
        };
        let code = Code::of(regions, held, addr);
        let build_id = code.file.and_then(|file| self.build_id(file));
        let (file, offset) = code.symbols_at(space, addr, build_id.as_ref());
        CodePlace {
            module: Some(Module::of(code.name)),
            position: code.file_offset.map_or(CodePosition::At(addr), CodePosition::InFile),
            build_id,
            functions: self.symbols.of(&file, offset, time),
        }
    }

    /// Name of the function of the kernel at `addr`.
    pub(in crate::pipeline) fn kernel_function(&self, addr: VirtAddr) -> Option<Arc<[u8]>> {
        self.symbols.of(&CodeFile::Kernel, addr.as_raw(), Timestamp::default()).last()?.name.clone()
    }

    /// The region of `space` that held `addr` at `time`; if none is known to have, the one that holds it now, or held it at the end.
    pub(in crate::pipeline) fn region_at(
        &self,
        space: SpaceId,
        addr: VirtAddr,
        time: Timestamp,
    ) -> Option<(&AddressSpace, &Region)> {
        let regions = self.regions(space)?;
        let lived = |region: &Region| region.born <= time && region.range.contains(addr);
        let gone = || {
            let then = regions.retired().iter().rev().filter(|retired| time <= retired.died);
            then.map(|retired| &retired.region).find(|region| lived(region))
        };
        let region = regions.find(addr).filter(|region| lived(region)).or_else(gone).or_else(|| {
            let (id, _) = position(regions, addr, time)?;
            held(regions, addr, id)
        })?;
        Some((regions, region))
    }

    /// Completions on some CPU were not seen from `start` to `end`.
    pub(in crate::pipeline) fn miss_completions(&mut self, start: Timestamp, end: Timestamp) {
        self.unseen.push((start, end));
    }

    /// What uncounted faults are due to: as the program noticed it, unless the task may have completed faults unseen since its
    /// uncounted ones were reported before.
    pub(in crate::pipeline) fn cause_of(&mut self, uncounted: &Uncounted) -> UncountedCause {
        let Uncounted { time, tid, cause, .. } = *uncounted;
        let before = self.by_tid.get_mut(&tid).map(|task| std::mem::replace(&mut task.settled, time));
        let before = before.unwrap_or_default();
        let is_unseen = self.unseen.iter().any(|(start, end)| before < *end && *start <= time);
        if is_unseen { UncountedCause::Unseen } else { cause }
    }
}

/// The region `id`, which holds or held `addr`.
fn held(regions: &AddressSpace, addr: VirtAddr, id: RegionId) -> Option<&Region> {
    let retired = || regions.retired().iter().rev().map(|retired| &retired.region);
    regions.find(addr).into_iter().chain(retired()).find(|held| held.id == id)
}

/// Where `addr` lay at `time`: a thread that ends still faults after its address space has passed for dead.
fn position(regions: &AddressSpace, addr: VirtAddr, time: Timestamp) -> Option<Position> {
    let retired = || {
        let mut latest_first = regions.retired().iter().rev();
        let is_dead = regions.live().next().is_none();
        let held = latest_first
            .find(|retired| (is_dead || retired.died >= time) && retired.region.range.contains(addr));
        held.map(|retired| &retired.region)
    };
    let region = regions.find(addr).or_else(retired)?;
    Some((region.id, offset(addr, region.range)))
}

/// Bytes from the start of `range` to `addr`, which lies in it.
fn offset(addr: VirtAddr, range: VirtRange) -> u64 {
    addr.as_raw() - range.start().as_raw()
}
