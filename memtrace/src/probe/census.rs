//! Takes a census of processes: every page of every VMA, counted.
//!
//! Layer: shell. Input: processes, a [`Selection`] of pages. Output: a [`ProcessCensus`] of each, and who shares what.
//! Source: `/proc/PID/maps`, and what `walk` reads.
//! Keeps: a process that ends meanwhile gives what was seen, marked; no smaps.
//! Not here: counting (`census`), reading pages (`walk`), which processes (`cli`).

mod files;
mod frames;
mod notes;
mod swapped;

use std::{
    fs::{self, File},
    io,
};

use rustix::io::Errno;

pub use self::{
    files::{FileCensusError, FileCensusTaker},
    frames::FrameCensusTaker,
};
use self::{
    notes::Notes,
    swapped::{SharedVma, SwappedShared},
};
use super::{
    ProbeError,
    budget::Budget,
    devices::Devices,
    files::FileError,
    idle::IdleMarker,
    maps::{self, MapsError},
    residency::SwappedPages,
    thread,
    walk::{PageWalker, Wanted},
};
use crate::{
    census::{ProcessCensus, RegionCensus, Rules, Share, Sharers, Sharing, Tally},
    event::{Tgid, Tid},
    host,
    pagemap::{NotPresent, PageCategories, PageRun, Residence},
    select::Selection,
    units::{PageCount, VirtRange, Vpn},
};

/// Why there is no census of a process.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CensusError {
    /// Nobody has this number, or no more.
    #[error("no process {}: it may have exited; `ps -e` lists those that run", .0.0)]
    Gone(Tgid),
    /// It has no memory of its own.
    #[error("process {} has no memory: it is a kernel thread or a zombie", .0.0)]
    Bare(Tgid),
    /// The kernel lets its owner and root alone read its pages.
    #[error("cannot scan process {}: needs its owner, or CAP_SYS_PTRACE", tgid.0)]
    Denied {
        /// The process.
        tgid: Tgid,
        /// What the kernel said.
        source: io::Error,
    },
    /// Its maps make no sense.
    #[error("cannot understand the maps of process {}", tgid.0)]
    Maps {
        /// The process.
        tgid: Tgid,
        /// The line that is none.
        source: MapsError,
    },
    /// A file of the kernel that tells of frames cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Anything else the kernel said.
    #[error("cannot scan process {}", tgid.0)]
    Io {
        /// The process.
        tgid: Tgid,
        /// What the kernel said.
        source: io::Error,
    },
}

impl CensusError {
    fn of(tgid: Tgid, error: ProbeError) -> Self {
        match error {
            ProbeError::Gone => Self::Gone(tgid),
            ProbeError::Maps(source) => Self::Maps { tgid, source },
            ProbeError::File(source) => Self::File(source),
            ProbeError::Io(source) if is_refusal(&source) => Self::Denied { tgid, source },
            ProbeError::Io(source) => Self::Io { tgid, source },
        }
    }

    /// Whether the process ended or never had pages: no failure unless somebody asked for just this one.
    #[must_use]
    pub const fn is_absence(&self) -> bool {
        matches!(self, Self::Gone(_) | Self::Bare(_))
    }
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::ACCESS | Errno::PERM))
}

/// Takes censuses.
#[derive(Debug)]
pub struct CensusTaker {
    rules: Rules,
    selection: Selection,
    /// Categories that are known of each page.
    known: PageCategories,
    is_layout_known: bool,
    walker: PageWalker,
    devices: Devices,
    notes: Notes,
    keeps_regions: bool,
    sharing: Option<Sharing>,
    slots: Option<Sharing>,
    processes: u32,
    swapped: SwappedShared,
}

impl CensusTaker {
    /// A taker that has all that is `wanted` told of the pages in `selection`, and marks them idle if `idle` is there.
    pub fn new(
        rules: Rules,
        selection: Selection,
        wanted: Wanted,
        budget: Budget,
        idle: Option<IdleMarker>,
    ) -> Result<Self, FileError> {
        let page = rules.page;
        let scan = rules.era.scan;
        let can_scan = scan.contains(PageCategories::HUGE | PageCategories::PFNZERO);
        let mut walker = PageWalker::new(page, can_scan, wanted, budget)?;
        let mut known = if can_scan { PageWalker::TELLS } else { PageCategories::OF_WORDS };
        if let Some(condition) = selection.condition.as_ref().filter(|_| can_scan) {
            let asked = condition.categories() & scan;
            walker = walker.narrowed(selection.scan_masks(scan), asked);
            known |= asked;
        }
        Ok(Self {
            notes: Notes::new(page, wanted.flags, idle)?,
            rules,
            selection,
            known,
            is_layout_known: false,
            walker,
            swapped: SwappedShared::new(page),
            devices: Devices::new(),
            keeps_regions: true,
            sharing: None,
            slots: None,
            processes: 0,
        })
    }

    /// A taker that forgets single regions once they are added up.
    #[must_use]
    pub fn without_regions(self) -> Self {
        Self { keeps_regions: false, ..self }
    }

    /// A taker that remembers which frames and slots of swap several processes have.
    #[must_use]
    pub fn with_sharing(self) -> Self {
        Self { sharing: Some(Sharing::default()), slots: Some(Sharing::default()), ..self }
    }

    /// Counts the pages of `tgid`, and hands each run of them to `list`.
    ///
    /// If the process ends meanwhile, what was seen until then is there, and marked.
    pub fn take(&mut self, tgid: Tgid, mut list: impl FnMut(&PageRun)) -> Result<ProcessCensus, CensusError> {
        let failure = |error: ProbeError| CensusError::of(tgid, error);
        let read = thread::with_memory(tgid).and_then(|tid| {
            // It stays with this address space: if the process executes a program, or its number is another's, there is nothing in it.
            let pagemap = File::open(format!("/proc/{}/pagemap", tid.0))?;
            Ok((tid, pagemap, thread::read_maps(tid)?))
        });
        let (thread, pagemap, text) = read.map_err(|error| match error {
            ProbeError::Gone if is_there(tgid) => CensusError::Bare(tgid),
            error => failure(error),
        })?;
        let vmas = maps::parse(&text).map_err(|source| CensusError::Maps { tgid, source })?;
        let kinds = self.devices.kinds(thread, &vmas);
        // A header, and a line for each area.
        let has_swap = !fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() < 2);
        let mut census = ProcessCensus {
            tgid,
            comm: comm(tgid),
            cgroup: cgroup(thread),
            regions: Vec::new(),
            total: Tally::default(),
            swap_share: Share::default(),
            is_complete: true,
        };
        for vma in vmas {
            let kind = kinds.get(&vma.device).copied();
            let mut tally = Tally::of(kind);
            let mut shared = SharedVma::of(&vma, kind).filter(|_| has_swap);
            for range in self.selected(vma.range) {
                let result = self.walk(&pagemap, range, &mut tally, |run| {
                    if let Some(shared) = &mut shared {
                        shared.add(&run.entries);
                    }
                    list(run);
                });
                match result {
                    Err(ProbeError::Gone) => census.is_complete = false,
                    result => result.map_err(failure)?,
                }
            }
            if let Some(shared) = shared.filter(|_| census.is_complete) {
                let SwappedPages { pages, is_lower_bound } = if self.selection.is_all() {
                    self.swapped.count(thread, &shared)
                } else {
                    SwappedPages::UNKNOWN
                };
                tally.swapped_shared = pages;
                tally.is_swap_unknown = is_lower_bound;
            }
            tally.finish(&self.rules);
            self.notes.settle(&mut tally);
            census.total.merge(&tally);
            if self.keeps_regions {
                census.regions.push(RegionCensus { vma, kind, tally, is_complete: census.is_complete });
            }
            if !census.is_complete {
                break;
            }
        }
        self.processes += 1;
        self.notes.finish()?;
        Ok(census)
    }

    /// How words were read.
    #[must_use]
    pub const fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Which pages were counted.
    #[must_use]
    pub const fn selection(&self) -> &Selection {
        &self.selection
    }

    /// The frames of each set of processes that share them, most first; processes by their number in the order in which they were
    /// taken. Forgets them all. There are none if they were not remembered; `None` if they are too many.
    pub fn take_sharing(&mut self) -> Option<Vec<(Sharers, PageCount)>> {
        self.processes = 0;
        self.sharing.as_mut().map_or_else(|| Some(Vec::new()), |sharing| std::mem::take(sharing).into_sets())
    }

    /// Gives `processes`, which were taken in this order since the last call of [`Self::take_sharing`], their shares in swap.
    pub fn share_swap(&mut self, processes: &mut [ProcessCensus]) {
        let Some(sets) = self.slots.as_mut().and_then(|slots| std::mem::take(slots).into_sets()) else {
            return;
        };
        let shares = Share::of_swap(processes.len(), &sets, self.rules.page);
        for (process, share) in processes.iter_mut().zip(shares) {
            process.swap_share = share;
        }
    }

    /// The parts of `range` that are to be counted.
    fn selected(&self, range: VirtRange) -> Vec<VirtRange> {
        let page = self.rules.page;
        let addr = |number| Vpn::from_raw(number).start(page);
        let parts = self.selection.parts(range.vpns(page)).into_iter();
        parts.filter_map(|part| VirtRange::new(addr(part.start), addr(part.end))).collect()
    }

    fn walk(
        &mut self,
        pagemap: &File,
        range: VirtRange,
        tally: &mut Tally,
        mut list: impl FnMut(&PageRun),
    ) -> Result<(), ProbeError> {
        let Self {
            rules,
            selection,
            known,
            is_layout_known,
            walker,
            notes,
            sharing,
            slots,
            processes,
            devices: _,
            keeps_regions: _,
            swapped: _,
        } = self;
        walker.walk(pagemap, range, |run| {
            let entry = run.entries.entry;
            if !*is_layout_known && matches!(rules.era.residence(entry), Some(Residence::NotPresent(_))) {
                // It takes long to find, and few processes have such entries.
                rules.era.swap = host::swap_layout();
                *is_layout_known = true;
            }
            if !selection.takes(&run, *known, rules.era.flags) {
                return;
            }
            tally.add(&run, rules);
            if let Some(sharing) = &mut *sharing {
                sharing.add(*processes, &run);
            }
            if let (Some(slots), Some(Residence::NotPresent(NotPresent::Swap(slot)))) =
                (&mut *slots, rules.era.residence(entry))
            {
                slots.add_slots(*processes, slot, run.entries.pages);
            }
            if let Some(frame) = entry.pfn() {
                notes.add(tally, frame, run.entries.pages);
            }
            list(&run);
        })
    }
}

fn is_there(tgid: Tgid) -> bool {
    fs::exists(format!("/proc/{}", tgid.0)).is_ok_and(|is_there| is_there)
}

/// The name of a process, empty once it is gone.
fn comm(tgid: Tgid) -> String {
    let comm = fs::read(format!("/proc/{}/comm", tgid.0)).unwrap_or_default();
    String::from_utf8_lossy(comm.trim_ascii_end()).into_owned()
}

/// The memory cgroup of a thread: that of the controller in version 1, or else that of version 2.
fn cgroup(tid: Tid) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{}/cgroup", tid.0)).ok()?;
    let lines: Vec<_> = text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':')).collect();
    let of_version_1 =
        lines.iter().find(|(controllers, _)| controllers.split(',').any(|one| one == "memory"));
    let (_, path) = of_version_1.or_else(|| lines.iter().find(|(controllers, _)| controllers.is_empty()))?;
    Some((*path).to_owned())
}
