//! What code lies where, as far as events have arrived: for those who cannot wait until they have been put in order.

use std::sync::Arc;

use super::{
    join::{maps, tasks::Tasks},
    plan::directory::Directory,
};
use crate::{
    decode::Frame,
    event::{CodeFile, Device, HostFacts, MapsReading, Record, SpaceId, Tgid},
    order::Event,
    region::{AddressSpace, Region},
    units::{Timestamp, VirtAddr, VirtRange},
};

/// Address spaces, as changed by all events that have arrived.
#[derive(Debug)]
pub struct Arrived {
    tasks: Tasks,
    directory: Directory,
}

/// Executable memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    /// The region that it is part of.
    pub range: VirtRange,
    /// Path or bracketed name of that; empty if it has none.
    pub name: Arc<[u8]>,
    /// Device and inode of the file; `None` if there is none, or it is not known which.
    pub file: Option<(Device, u64)>,
    /// Where it stands in the file, in bytes; `None` if there is none.
    pub file_offset: Option<u64>,
}

impl Code {
    /// What `region`, which is one of `regions`, has at `addr`.
    pub(super) fn of(regions: &AddressSpace, region: &Region, addr: VirtAddr) -> Self {
        Self {
            range: region.range,
            name: regions.label(region).name,
            file: region.traits.file(),
            file_offset: region.traits.file_offset(addr),
        }
    }

    /// Under what the code at `addr` of `space` has its names, in a file with this build ID.
    #[must_use]
    pub fn symbols_at(
        &self,
        space: SpaceId,
        addr: VirtAddr,
        build_id: Option<&Arc<[u8]>>,
    ) -> (CodeFile, u64) {
        match (self.file_offset, self.file, build_id) {
            (Some(offset), _, Some(id)) => (CodeFile::BuildId(Arc::clone(id)), offset),
            (Some(offset), Some((device, inode)), None) => (CodeFile::Inode(device, inode), offset),
            _ if *self.name == *b"[vdso]" => {
                (CodeFile::Vdso, addr.as_raw().wrapping_sub(self.range.start().as_raw()))
            }
            _ => (CodeFile::Memory(space), addr.as_raw()),
        }
    }
}

impl Arrived {
    /// Nothing has arrived on `host`; `follows_maps` if events report every change of an address space.
    #[must_use]
    pub fn new(host: &HostFacts, follows_maps: bool) -> Self {
        Self { tasks: Tasks::new(host, follows_maps), directory: Directory::default() }
    }

    /// Takes what a drain of the rings of changes brought.
    pub fn take(&mut self, frames: &[Frame]) {
        let mut events = Vec::new();
        for record in frames.iter().flat_map(Frame::records) {
            match record {
                Record::Task(task) => events.push(Event::Task(Box::new(task))),
                Record::Map(map) => events.push(Event::Map(map)),
                Record::Loss(loss) => self.tasks.doubt(loss.end.unwrap_or(loss.start)),
                _ => {}
            }
        }
        events.sort_by_key(Event::key);
        for event in events {
            match event {
                Event::Task(task) => {
                    let _asks = self.directory.learn(&task);
                    self.tasks.apply(&task);
                }
                Event::Map(map) => {
                    let _asks = self.directory.learn_map(&map);
                    maps::apply(&map, &mut self.tasks);
                }
                _ => {}
            }
        }
    }

    /// The executable memory of `space` that held `addr` at `time`.
    pub fn code(&mut self, space: SpaceId, addr: VirtAddr, time: Timestamp) -> Option<Code> {
        const EXECUTABLE: usize = 2;
        if let Some((regions, ids)) = self.tasks.regions_mut(space)
            && regions.is_unsettled_at(addr)
        {
            regions.settle(ids);
        }
        let held = self.tasks.region_at(space, addr, time);
        let (regions, region) = held.filter(|(_, region)| region.traits.perms()[EXECUTABLE] == b'x')?;
        Some(Code::of(regions, region, addr))
    }

    /// How often code went from `space`.
    #[must_use]
    pub fn code_changes(&self, space: SpaceId) -> u64 {
        self.tasks.regions(space).map_or(0, AddressSpace::code_changes)
    }

    /// All processes, and where they live.
    #[must_use]
    pub fn processes(&self) -> Vec<(SpaceId, Tgid)> {
        self.directory.iter().collect()
    }

    /// The process that lives in `space`.
    #[must_use]
    pub fn process_of(&self, space: SpaceId) -> Option<Tgid> {
        self.directory.process_of(space)
    }

    /// Takes a reading of the maps of `process`, which lives in `space`, that ended at `time`.
    pub fn read(&mut self, time: Timestamp, process: Tgid, space: SpaceId, maps: &MapsReading) {
        self.tasks.compare(time, (process, space), maps);
    }

    /// Forgets what ended before `time`.
    pub fn forget_before(&mut self, time: Timestamp) {
        let _forgotten = self.tasks.purge(time);
    }
}
