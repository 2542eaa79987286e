//! Words for scans of traced processes: what is asked for, and what was seen.

use serde::{Deserialize, Serialize};

use super::{Device, FileKind, Landmarks, SpaceId, Tgid};
use crate::{
    pagemap::{PageCategories, StateRun},
    units::{PageCount, Timestamp, VirtRange},
};

/// A scan of a traced process, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// When the scan ended.
    pub time: Timestamp,
    /// The process that was scanned.
    pub tgid: Tgid,
    /// The address space it was expected to have.
    pub space: SpaceId,
    /// What was seen.
    pub seen: Seen,
}

/// What a scan saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seen {
    /// All its VMAs.
    Maps(MapsReading),
    /// Page state of a range.
    Pages(PageScan),
    /// How many pages are resident.
    Resident(RssReading),
    /// The process has no memory any more: it has ended, or nothing but its exit is left to it.
    Nothing,
}

/// How many pages of an address space are resident, as the kernel counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RssReading {
    /// All.
    pub resident: PageCount,
    /// What else is counted; `None` in recordings that were made before this was read.
    pub counters: Option<RssCounters>,
}

/// Counters of an address space, from `/proc/PID/status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RssCounters {
    /// Resident pages that are anonymous: `RssAnon`.
    pub anon: PageCount,
    /// Those of files: `RssFile`.
    pub file: PageCount,
    /// Those of shared memory: `RssShmem`.
    pub shmem: PageCount,
    /// Anonymous pages in swap: `VmSwap`.
    pub swap: PageCount,
    /// The most that were resident at once: `VmHWM`.
    pub peak: PageCount,
}

/// A reading of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapsReading {
    /// When the reading began: what changed since may or may not show.
    pub began: Timestamp,
    /// In address order.
    pub vmas: Vec<Vma>,
    /// From `/proc/PID/stat`.
    pub landmarks: Landmarks,
    /// What lies on the devices of the VMAs, as far as the process's mounts show; disks are left out.
    pub devices: Vec<(Device, FileKind)>,
    /// Whether the process was held at its exit: it changes nothing any more.
    pub at_exit: bool,
}

impl MapsReading {
    /// What lies on `device`, if that is known.
    #[must_use]
    pub fn kind_on(&self, device: Device) -> Option<FileKind> {
        self.devices.iter().find(|(known, _)| *known == device).map(|(_, kind)| *kind)
    }
}

/// Page state of a range; pages in no run are absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageScan {
    /// When the scan began: what changed since may or may not show.
    pub began: Timestamp,
    /// Why it was taken.
    pub reason: ScanReason,
    /// What was scanned.
    pub range: VirtRange,
    /// What the scan could know: without a category here, its absence from a run means nothing.
    pub known: PageCategories,
    /// What else was read of each page.
    pub depth: ScanDepth,
    /// Runs of pages that are not absent, in address order.
    pub runs: Vec<StateRun>,
}

impl PageScan {
    /// Most bytes of a range in which a scan of each page finds any.
    pub const MAX_CLOSE_BYTES: u64 = 64 << 20;

    /// Whether a scan can have seen this: runs ascend within the range and do not overlap, and what was read of each page is of no
    /// more than [`Self::MAX_CLOSE_BYTES`].
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let Self { range, depth, runs, .. } = self;
        let is_within = |run: &StateRun| run.range.intersection(*range) == Some(run.range);
        let is_small = range.bytes() <= Self::MAX_CLOSE_BYTES;
        runs.is_sorted_by(|run, next| run.range.end() <= next.range.start())
            && runs.iter().all(is_within)
            && (*depth < ScanDepth::Words || runs.is_empty() || is_small)
    }
}

/// How much a scan reads of each page; each more than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScanDepth {
    /// Categories alone: what a scan tells in one go.
    Categories,
    /// Its word in pagemap too.
    Words,
    /// And the flags of its frame.
    Frames,
}

/// Why pages were scanned; in order of importance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScanReason {
    /// The user named them with `--focus`.
    Asked,
    /// There were faults.
    Heat,
    /// A call mapped or unmapped them, or gave advice on them.
    Call,
    /// More was resident in their address space than scans had seen.
    Population,
    /// It was their turn: what nothing points at is scanned too, now and then.
    Rotation,
    /// Everything was scanned: by signal, or because recording or the process ended.
    Full,
}

impl ScanReason {
    /// Whether each page is worth a scan of its own: something points at just these.
    #[must_use]
    pub const fn is_close(self) -> bool {
        match self {
            Self::Asked | Self::Heat | Self::Call | Self::Full => true,
            Self::Population | Self::Rotation => false,
        }
    }

    /// The word for it in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Heat => "heat",
            Self::Call => "call",
            Self::Population => "population",
            Self::Rotation => "rotation",
            Self::Full => "full",
        }
    }
}

/// One row of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vma {
    /// Addresses.
    pub range: VirtRange,
    /// The four characters of maps, such as `rw-p`.
    pub perms: [u8; 4],
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Major and minor number of the file's device.
    pub device: Device,
    /// Inode of the file; 0 if there is none, as in maps.
    pub inode: u64,
    /// Path or bracketed name as maps prints it; may be empty, may be no UTF-8.
    pub name: Vec<u8>,
}

/// A scan that the core would like the shell to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeRequest {
    /// Process to scan.
    pub tgid: Tgid,
    /// Address space it is expected to have.
    pub space: SpaceId,
    /// What to scan.
    pub target: ProbeTarget,
}

/// What a [`ProbeRequest`] asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeTarget {
    /// Its VMAs.
    Maps,
    /// Page state of these ranges, ascending and apart, and why.
    Pages(Vec<(VirtRange, ScanReason)>),
    /// How many of its pages are resident.
    Resident,
    /// Its VMAs, and the page state of all of them that some access is allowed to.
    Everything,
    /// The page state of all VMAs that some access is allowed to.
    AllPages,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::VirtAddr;

    fn range(start: u64, end: u64) -> VirtRange {
        VirtRange::new(VirtAddr::from_raw(start), VirtAddr::from_raw(end)).expect("not empty")
    }

    fn is_sound(range: VirtRange, depth: ScanDepth, runs: &[VirtRange]) -> bool {
        let run = |run: &VirtRange| StateRun::new(*run, PageCategories::PRESENT);
        let scan = PageScan {
            began: Timestamp::default(),
            reason: ScanReason::Full,
            range,
            known: PageCategories::PRESENT,
            depth,
            runs: runs.iter().map(run).collect(),
        };
        scan.is_sound()
    }

    #[test]
    fn runs_ascend_within_the_range_and_do_not_overlap() {
        let runs = |runs: &[VirtRange]| is_sound(range(0x1000, 0x9000), ScanDepth::Frames, runs);

        assert!(runs(&[range(0x1000, 0x2000), range(0x2000, 0x9000)]));
        assert!(!runs(&[range(0x1000, 0x3000), range(0x2000, 0x4000)]));
        assert!(!runs(&[range(0x3000, 0x4000), range(0x1000, 0x2000)]));
        assert!(!runs(&[range(0x8000, 0xa000)]));
        assert!(!runs(&[range(0, 0x2000)]));
    }

    #[test]
    fn a_scan_at_each_page_finds_none_beyond_64_mib() {
        let (first, large) = ([range(0, 0x1000)], range(0, (64 << 20) + 1));

        assert!(is_sound(range(0, 64 << 20), ScanDepth::Words, &first));
        assert!(!is_sound(large, ScanDepth::Words, &first));
        assert!(is_sound(large, ScanDepth::Words, &[]));
        assert!(is_sound(large, ScanDepth::Categories, &first));
    }
}
