//! The derived rows: one per region and interval, one per fault.
//!
//! Layer: core. Input: none; the pipeline fills them. Output: [`TimelineRow`], [`FaultRow`], [`Summary`].
//! Keeps: a value that no source gave is `None`, never 0.
//! Not here: column names and text (`export`), how rows come about (`pipeline`).
#![forbid(unsafe_code)]

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    event::{
        Access, Account, Comm, Device, Fault, FaultCounts, HostFacts, Loss, ScanReason, SpaceId, Tgid,
        UncountedCause,
    },
    units::{Nanos, PageCount, Timestamp, VirtRange},
};

mod maps;
mod modules;
mod pages;
mod processes;
mod properties;
mod residency;
mod rows;
mod rss;
mod scans;
mod stacks;

pub use maps::{Advised, Churn, MapFlags, MapIdentity, MapRow, MapSummary, MapTally, MappingProcess};
pub use modules::{CodeTotals, Module};
pub use pages::{
    CopyTotals, FaultOutcome, ForkTax, OutcomeKind, OutcomeTotals, OutcomeUnknown, PageCause, PageKind,
    PageRow,
};
pub use processes::{PeakRss, ProcessSummary};
pub use properties::{Known, PAGE_PROPERTIES, PageCounts, PageProperty, PropertySet};
pub use residency::{Departure, Refault, RefaultTotals, Residency};
pub use rows::{Row, RowSet};
pub use rss::{RssCheck, RssDifference, RssRow};
pub use scans::{PageState, ScanCount, ScanSummary, UnseenRegions};
pub use stacks::{CodePlace, CodePosition, FrameRow, ResidentPages, StackTotals};

/// The number of a region, unique in a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionId(pub u64);

/// A process. The kernel uses thread-group IDs again, so its birth says which of those with the same ID is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProcessId {
    /// Its thread group.
    pub tgid: Tgid,
    /// When it was born, or first known.
    pub born: Timestamp,
}

/// What stands behind a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Backing {
    /// Private anonymous memory.
    Anon,
    /// The `brk` heap.
    Heap,
    /// The stack of the main thread.
    Stack,
    /// The stack of another thread.
    ThreadStack,
    /// A file.
    File,
    /// Shared anonymous memory, or a file on tmpfs or ramfs.
    Shmem,
    /// A `memfd_create` file.
    Memfd,
    /// A System V shared-memory segment.
    Sysv,
    /// Huge pages of hugetlbfs.
    Hugetlb,
    /// A `memfd_secret` file.
    Secretmem,
    /// A character or block device.
    Device,
    /// The vDSO.
    Vdso,
    /// The data page of the vDSO.
    Vvar,
    /// Anything else.
    Other,
}

impl Backing {
    /// Whether its pages are those of a file, or of memory that the kernel keeps like one; not of hugetlb, of which sizes differ, or
    /// of a device, which may have none.
    #[must_use]
    pub const fn is_file(self) -> bool {
        matches!(self, Self::File | Self::Shmem | Self::Memfd | Self::Sysv)
    }

    /// Whether the kernel counts such pages as resident: not those of hugetlb, of devices, and of the vDSO's data.
    #[must_use]
    pub const fn is_in_rss(self) -> bool {
        !matches!(self, Self::Hugetlb | Self::Device | Self::Vvar)
    }

    /// The word for it in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Anon => "anon",
            Self::Heap => "heap",
            Self::Stack => "stack",
            Self::ThreadStack => "thread-stack",
            Self::File => "file",
            Self::Shmem => "shmem",
            Self::Memfd => "memfd",
            Self::Sysv => "sysv",
            Self::Hugetlb => "hugetlb",
            Self::Secretmem => "secretmem",
            Self::Device => "device",
            Self::Vdso => "vdso",
            Self::Vvar => "vvar",
            Self::Other => "other",
        }
    }
}

/// A region as rows show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionLabel {
    /// Which region.
    pub id: RegionId,
    /// Where it lies at the end of the row's interval.
    pub range: VirtRange,
    /// The four characters of maps.
    pub perms: [u8; 4],
    /// What stands behind it.
    pub backing: Backing,
    /// Path or bracketed name; empty if it has none.
    pub name: Arc<[u8]>,
    /// Where it begins in the file, in bytes; `None` if there is no file.
    pub file_offset: Option<u64>,
}

/// One interval in the life of one region, or of what no region explains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineRow {
    /// Start of the interval.
    pub start: Timestamp,
    /// End of the interval, not included.
    pub end: Timestamp,
    /// Process that faulted; `None` if no task event told of the faulting thread.
    pub process: Option<ProcessId>,
    /// Its name; empty if it is unknown.
    pub comm: Comm,
    /// The region; `None` for faults at addresses that no known region holds.
    pub region: Option<RegionLabel>,
    /// Addresses that the row speaks of if it has no region: the slot, where only the heat counters know.
    pub range: Option<VirtRange>,
    /// Faults in the interval.
    pub faults: FaultTally,
    /// Faults charged without an event in the interval; they have no address, so rows without a region carry them.
    /// `None` where no such event came: there were none, or the kernel cannot tell.
    pub uncounted: Option<u64>,
    /// Successful calls that changed the region, or gave advice on it.
    pub maps: MapTally,
    /// Page state at the last scan in the interval, if there was one.
    pub pages: Option<PageTally>,
    /// How much of the whole region was resident at the end of the interval; `None` if that was not followed.
    pub residency: Option<Residency>,
    /// Whether a loss touches the interval: counts are at least these.
    pub lower_bound: bool,
}

/// What happened, counted over faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultTally {
    /// Completed minor and major faults.
    pub completed: FaultCounts,
    /// What only fault records tell; `None` where faults were counted without records.
    pub detail: Option<FaultDetail>,
}

/// What fault records tell beyond their number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultDetail {
    /// Faults that failed.
    pub failed: u64,
    /// Faults that ended otherwise without completing: refused, emulated, retried or unfinished.
    pub incomplete: u64,
    /// Completed faults by access.
    pub access: AccessCounts,
    /// Completed in kernel mode.
    pub kernel: u64,
    /// Faults at pages that are known to have been resident before.
    pub refaults: u64,
    /// Sum of the known latencies.
    pub latency_sum: Nanos,
    /// Largest known latency; `None` if none is known.
    pub latency_max: Option<Nanos>,
}

/// Completed faults by what they wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccessCounts {
    /// Loads.
    pub read: u64,
    /// Stores.
    pub write: u64,
    /// Instruction fetches.
    pub exec: u64,
    /// Stores that a present page refused.
    pub cow: u64,
    /// Faults of which it is not known.
    pub unknown: u64,
}

impl AccessCounts {
    /// Counts a fault; `protection` as in [`Fault`].
    pub fn add(&mut self, access: Option<Access>, protection: Option<bool>) {
        match access {
            Some(Access::Read) => self.read += 1,
            Some(Access::Write) => self.write += 1,
            Some(Access::Exec) => self.exec += 1,
            None => self.unknown += 1,
        }
        self.cow += u64::from(access == Some(Access::Write) && protection == Some(true));
    }

    /// The counts; `None` where there were faults and the access of none is known.
    #[must_use]
    pub const fn known(&self) -> Option<&Self> {
        if self.unknown > 0 && self.read + self.write + self.exec == 0 { None } else { Some(self) }
    }
}

impl std::ops::AddAssign for AccessCounts {
    fn add_assign(&mut self, other: Self) {
        let Self { read, write, exec, cow, unknown } = other;
        self.read += read;
        self.write += write;
        self.exec += exec;
        self.cow += cow;
        self.unknown += unknown;
    }
}

/// What was seen at a scan, in base pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageTally {
    /// When.
    pub scanned: Timestamp,
    /// Pages scanned: the slots of the region that were hot.
    pub scanned_pages: PageCount,
    /// What was seen of them.
    pub counts: PageCounts,
    /// Pages that the kernel moved to other frames since they were scanned before; `None` if none of them was.
    pub migrated: Option<PageCount>,
}

impl PageTally {
    /// Nothing seen yet, at `scanned`.
    pub(crate) fn at(scanned: Timestamp) -> Self {
        Self { scanned, scanned_pages: PageCount::default(), counts: PageCounts::default(), migrated: None }
    }
}

impl std::ops::AddAssign for PageTally {
    /// Adds what a later scan saw of other pages.
    fn add_assign(&mut self, later: Self) {
        let Self { scanned, scanned_pages, counts, migrated } = later;
        self.scanned = scanned;
        self.scanned_pages += scanned_pages;
        self.counts += counts;
        if let Some(migrated) = migrated {
            *self.migrated.get_or_insert_default() += migrated;
        }
    }
}

/// One fault with what is known around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultRow {
    /// The fault.
    pub fault: Fault,
    /// Process of the faulting thread; `None` if no task event reported it.
    pub process: Option<ProcessId>,
    /// Name of the process at that time; `None` if it is not known.
    pub process_comm: Option<Comm>,
    /// Name of the thread at that time.
    pub comm: Option<Comm>,
    /// Where the address lay.
    pub place: Option<FaultPlace>,
    /// Where the instruction lay; `None` if no known region held it.
    pub module: Option<Module>,
    /// Name of the function that the instruction is of; `None` if it is not known.
    pub function: Option<Arc<[u8]>>,
    /// Name of the system call in which the kernel faulted; `None` if it is not known.
    pub syscall: Option<&'static str>,
    /// Number of its stack; `None` if that is not known.
    pub stack: Option<u64>,
    /// What it brought; `None` if that is not known, or it did not complete.
    pub outcome: Option<FaultOutcome>,
    /// Why that is not known of one that completed; `None` where it is known, or not asked.
    pub outcome_unknown: Option<OutcomeUnknown>,
    /// That its page had been resident before, as far as is known.
    pub refault: Option<Refault>,
    /// The address space of the faulting thread; `None` if that is not known.
    pub space: Option<SpaceId>,
}

/// Where a fault was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultPlace {
    /// The region that held the address.
    pub region: RegionId,
    /// Distance of the address from the start of the region, in bytes.
    pub offset: u64,
    /// Path or bracketed name of the region.
    pub name: Arc<[u8]>,
    /// Offset of the address in the file, in bytes; `None` if there is none.
    pub file_offset: Option<u64>,
}

/// Totals of a whole session.
///
/// Where nothing was wanted, or rows of losses alone, these are the faults by how they ended, those in the heat counters, task events, losses, scans, and
/// unverified processes; the rest means nothing.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The host.
    pub host: HostFacts,
    /// Time of the last record.
    pub end: Timestamp,
    /// Processes (thread groups) that were traced, in order of their ID and birth; where not every one was to be reported, those that
    /// were there at the end and the last that ended.
    pub processes: Vec<ProcessSummary>,
    /// Completed and other faults over all fault records.
    pub faults: FaultTotals,
    /// What these say of completed ones.
    pub completed: CompletedTotals,
    /// Faults charged without an event, by what the task was doing; in order of cause.
    pub uncounted: Vec<(UncountedCause, FaultCounts)>,
    /// Sum of the accounts of all tasks that exited, left or were alive at the end; `None` if there is none.
    pub account: Option<Account>,
    /// Completed faults in the heat counters, overflow included.
    pub heat: FaultCounts,
    /// The part of `heat` that went to overflow cells.
    pub heat_overflow: FaultCounts,
    /// Every loss, in order of time.
    pub losses: Vec<Loss>,
    /// Latencies of completed faults in nanoseconds.
    pub latencies: hdrhistogram::Histogram<u64>,
    /// Task events by kind.
    pub tasks: TaskTotals,
    /// Regions with faults, hottest first; of a great many, the hottest.
    pub regions: Vec<RegionSummary>,
    /// Regions that came to be.
    pub regions_born: u64,
    /// What became of address spaces.
    pub maps: MapSummary,
    /// Completed faults at addresses that no known region held.
    pub without_region: FaultCounts,
    /// What was scanned, and what was not.
    pub scans: ScanSummary,
    /// What forks cost those who forked.
    pub fork_tax: BTreeMap<ProcessId, ForkTax>,
    /// The outcomes of faults: by kind, and by how many pages each, unless that differs from fault to fault. Empty where faults are not
    /// followed one by one.
    pub outcome: BTreeMap<(OutcomeKind, Option<PageCount>), OutcomeTotals>,
    /// Completed faults without one, by why it is not known.
    pub outcome_unknown: BTreeMap<OutcomeUnknown, u64>,
    /// Completed faults by where the instruction lay, if that is known. Empty where faults are not followed one by one.
    pub modules: BTreeMap<Option<Module>, CodeTotals>,
    /// Completed faults in kernel mode by the number of the system call on the traced architecture, if that is known.
    pub syscalls: BTreeMap<Option<u32>, CodeTotals>,
    /// Completed faults by stack.
    pub stacks: Vec<StackTotals>,
    /// Completed faults whose stack is not known.
    pub without_stack: CodeTotals,
    /// Memory that stays: pages that faults with a known stack brought.
    pub resident: Vec<ResidentPages>,
    /// Faults at pages that had been resident, by how these had gone.
    pub refaults: BTreeMap<Departure, RefaultTotals>,
    /// What regions have together, compared with the kernel's counters.
    pub rss_check: RssCheck,
    /// Whether more stays: of a process in too many pieces all that it had by then was forgotten.
    pub resident_lower_bound: bool,
}

/// Faults by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultTotals {
    /// Completed.
    pub completed: FaultCounts,
    /// Failed.
    pub failed: u64,
    /// Refused.
    pub refused: u64,
    /// Emulated.
    pub emulated: u64,
    /// Retried.
    pub retried: u64,
    /// Unfinished.
    pub unfinished: u64,
}

impl FaultTotals {
    /// Faults that did not complete.
    #[must_use]
    pub const fn incomplete(&self) -> u64 {
        let Self { completed: _, failed, refused, emulated, retried, unfinished } = self;
        *failed + *refused + *emulated + *retried + *unfinished
    }
}

/// What records of completed faults say of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompletedTotals {
    /// In user mode.
    pub user: u64,
    /// In kernel mode.
    pub kernel: u64,
    /// By access.
    pub access: AccessCounts,
    /// Without a known latency.
    pub without_latency: u64,
    /// Largest known latency; `None` if none is known.
    pub latency_max: Option<Nanos>,
}

/// Task events by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskTotals {
    /// Processes that were traced: those that were there, and those that came.
    pub processes: u64,
    /// New processes.
    pub forks: u64,
    /// New threads.
    pub threads: u64,
    /// Replaced address spaces.
    pub execs: u64,
    /// Ended tasks.
    pub exits: u64,
}

/// One region over the whole session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionSummary {
    /// Its process.
    pub process: ProcessId,
    /// Its address space.
    pub space: SpaceId,
    /// The region as last known.
    pub label: RegionLabel,
    /// Device and inode of its file; `None` if there is none, or it is not known which.
    pub file: Option<(Device, u64)>,
    /// What distinguishes the file from others of its name; `None` if it has nothing, or was not read.
    pub build_id: Option<Arc<[u8]>>,
    /// When it came to be, or was first known.
    pub born: Timestamp,
    /// When it went; `None` if it was there when recording ended.
    pub died: Option<Timestamp>,
    /// The region that it was split from, copied from at a fork, or moved out of.
    pub parent: Option<RegionId>,
    /// Completed faults.
    pub faults: FaultCounts,
    /// Sum of their known latencies.
    pub latency_sum: Nanos,
    /// Most pages that were present at one time, as far as scans saw: each counts as last seen. `None` if no scan saw any of it.
    pub peak_present: Option<PageCount>,
    /// Its pages as last seen; `None` if no scan saw any that it has, or had at its end.
    pub pages: Option<PageState>,
    /// How often it was scanned, by what asked for that.
    pub scans: BTreeMap<ScanReason, u64>,
    /// Whether a loss touches the counts.
    pub lower_bound: bool,
}

impl std::ops::AddAssign for FaultTally {
    fn add_assign(&mut self, other: Self) {
        self.completed += other.completed;
        if let Some(other) = other.detail {
            *self.detail.get_or_insert_default() += other;
        }
    }
}

impl std::ops::AddAssign for FaultDetail {
    fn add_assign(&mut self, other: Self) {
        let Self { failed, incomplete, access, kernel, refaults, latency_sum, latency_max } = other;
        self.failed += failed;
        self.incomplete += incomplete;
        self.access += access;
        self.kernel += kernel;
        self.refaults += refaults;
        self.latency_sum += latency_sum;
        self.latency_max = self.latency_max.max(latency_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_is_unknown_only_if_it_is_of_every_fault() {
        let mut counts = AccessCounts::default();
        assert_eq!(counts.known(), Some(&AccessCounts::default()), "no fault had any access");

        counts.add(None, None);
        assert_eq!(counts.known(), None);

        counts.add(Some(Access::Write), Some(true));
        let known = AccessCounts { write: 1, cow: 1, unknown: 1, ..AccessCounts::default() };
        assert_eq!(counts.known(), Some(&known));
    }
}
