//! Takes the scans of traced processes that the core asks for.
//!
//! Layer: shell. Input: [`ProbeRequest`]s. Output: [`Observation`]s, and what taking them cost.
//! Source: `proc(5)` for maps, `Documentation/admin-guide/mm/pagemap.rst` for page state.
//! Keeps: a process that died is an answer, not an error; a reading of maps is whole, or there is none; nothing is written
//! to the target; no smaps.
//! Not here: what to scan and when (`pipeline`).

pub mod budget;
pub mod cached;
pub mod census;
pub mod cgroups;
pub mod devices;
pub mod files;
mod folios;
mod frames;
pub mod hugetlb;
pub mod idle;
pub mod ksm;
pub mod maps;
mod mounts;
pub mod nodes;
pub mod object;
pub mod pages;
pub mod physical;
pub mod reclaim;
pub mod residency;
pub mod thp;
pub mod tree;
pub mod walk;

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    time::{Duration, Instant},
};

use memtrace_ebpf::HEAT_SLOT_SHIFT;
use rustix::io::Errno;

use self::{
    budget::Budget,
    devices::Devices,
    files::FileError,
    maps::MapsError,
    pages::PageReader,
    walk::{PageWalker, Wanted},
};
use crate::{
    event::{
        Landmarks, MapsReading, Observation, PageScan, ProbeRequest, ProbeTarget, ScanDepth, ScanReason,
        Seen, SpaceId, Tgid, Tid,
    },
    pagemap::PageCategories,
    record::Cost,
    sys::{clock, scan::ScanError},
    units::{Nanos, PageCount, PageSize, VirtAddr, VirtRange},
};

/// Why a scan was not possible.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The process is gone. Expected; the session goes on.
    #[error("the process exited while being scanned")]
    Gone,
    /// Its maps make no sense.
    #[error("cannot understand its maps")]
    Maps(#[from] MapsError),
    /// A file that tells of frames.
    #[error(transparent)]
    File(#[from] FileError),
    /// Anything else the kernel said.
    #[error("the kernel refused: {0}")]
    Io(io::Error),
}

impl From<ScanError> for ProbeError {
    fn from(error: ScanError) -> Self {
        match error {
            ScanError::Gone => Self::Gone,
            ScanError::Missing => Self::Io(io::ErrorKind::Unsupported.into()),
            ScanError::Io(error) => error.into(),
        }
    }
}

impl From<io::Error> for ProbeError {
    fn from(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::SRCH) => Self::Gone,
            _ => Self::Io(error),
        }
    }
}

/// Answers [`ProbeRequest`]s.
#[derive(Debug)]
pub struct Prober {
    page: PageSize,
    /// Reads what is told of many pages in one go.
    reader: PageReader,
    /// Reads each page, and how much of it.
    walker: PageWalker,
    depth: ScanDepth,
    devices: Devices,
    cost: Cost,
}

impl Prober {
    /// A prober on a host with base pages of size `page`, whose scans hold the lock of a memory map for about `max_lock` at most;
    /// `scan` is what the host's `PAGEMAP_SCAN` can tell, nothing where there is none, and `depth` how much can be read of a page.
    ///
    /// Fails if `depth` asks for the flags of frames and they cannot be read.
    pub fn new(
        page: PageSize,
        scan: PageCategories,
        max_lock: Nanos,
        depth: ScanDepth,
    ) -> Result<Self, FileError> {
        let max_lock = Duration::from_nanos(max_lock.get());
        let wanted = Wanted { flags: depth >= ScanDepth::Frames, ..Wanted::default() };
        let can_scan = scan.contains(PageWalker::TELLS);
        let walker = PageWalker::new(page, can_scan, wanted, Budget { max_lock, ..Budget::default() })?;
        Ok(Self {
            page,
            reader: PageReader::new(page, scan, max_lock),
            walker,
            depth: depth.max(ScanDepth::Words),
            devices: Devices::new(),
            cost: Cost::default(),
        })
    }

    /// What recording cost, if its CPU time is `cpu`.
    #[must_use]
    pub const fn cost(&self, cpu: Nanos) -> Cost {
        Cost { cpu_ns: cpu.get(), ..self.cost }
    }

    /// Takes the scans that `request` asks for.
    pub fn answer(&mut self, request: &ProbeRequest) -> Vec<Observation> {
        let ProbeRequest { tgid, space, target } = request;
        let mut observations = Vec::new();
        let mut observe = |seen| {
            observations.push(Observation { time: clock::boottime(), tgid: *tgid, space: *space, seen });
        };
        let result = match target {
            ProbeTarget::Maps => self.read_maps_of(*tgid).map(|scan| observe(Seen::Maps(scan))),
            ProbeTarget::Pages(ranges) => self.scan_pages(Tid(tgid.0), ranges, observe),
            ProbeTarget::Resident => resident_pages(*tgid).map(|pages| observe(Seen::Resident(pages))),
            ProbeTarget::Everything => {
                self.read_maps_of(*tgid).and_then(|maps| self.scan_all(Tid(tgid.0), maps, observe))
            }
            ProbeTarget::AllPages => self
                .read_maps_of(*tgid)
                .and_then(|maps| self.scan_pages(Tid(tgid.0), &accessible(&maps), observe)),
        };
        if let Err(error) = result {
            if !matches!(error, ProbeError::Gone) {
                log::warn!("cannot scan process {}: {error}", tgid.0);
            }
            observations.push(Observation {
                time: clock::boottime(),
                tgid: *tgid,
                space: *space,
                seen: Seen::Nothing,
            });
        }
        observations
    }

    /// Scans at all of `process` by its thread `thread`.
    ///
    /// By the process it would be what its leader has, which may have gone before.
    pub fn stopped_scan(&mut self, process: Tgid, thread: Tid, space: SpaceId) -> Vec<Observation> {
        let mut observations = Vec::new();
        let observe = |seen| {
            observations.push(Observation { time: clock::boottime(), tgid: process, space, seen });
        };
        if let Err(error) = self.read_maps(thread).and_then(|maps| self.scan_all(thread, maps, observe)) {
            log::debug!("cannot scan process {}: {error}", process.0);
        }
        observations
    }

    /// The maps of a process by its leader, or by another thread if that has ended before.
    fn read_maps_of(&mut self, tgid: Tgid) -> Result<MapsReading, ProbeError> {
        let by_leader = self.read_maps(Tid(tgid.0));
        if !matches!(by_leader, Err(ProbeError::Gone)) {
            return by_leader;
        }
        let threads = fs::read_dir(format!("/proc/{}/task", tgid.0))?;
        let mut tids = threads.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        tids.find_map(|tid| self.read_maps(Tid(tid)).ok()).ok_or(ProbeError::Gone)
    }

    fn read_maps(&mut self, tid: Tid) -> Result<MapsReading, ProbeError> {
        let began = clock::boottime();
        let text = timed(&mut self.cost, || read_maps(tid))?;
        let landmarks = landmarks(tid).ok_or(ProbeError::Gone)?;
        let vmas = maps::parse(&text)?;
        let devices = self.devices.kinds(tid, &vmas).into_iter().collect();
        Ok(MapsReading { began, vmas, landmarks, devices })
    }

    /// The VMAs in `scan`, and the pages of those that some access is allowed to.
    fn scan_all(
        &mut self,
        tid: Tid,
        scan: MapsReading,
        mut observe: impl FnMut(Seen),
    ) -> Result<(), ProbeError> {
        let ranges = accessible(&scan);
        observe(Seen::Maps(scan));
        self.scan_pages(tid, &ranges, observe)
    }

    fn scan_pages(
        &mut self,
        tid: Tid,
        ranges: &[(VirtRange, ScanReason)],
        mut observe: impl FnMut(Seen),
    ) -> Result<(), ProbeError> {
        let Self { page, reader, walker, depth, devices: _, cost } = self;
        let pagemap = timed(cost, || File::open(format!("/proc/{}/pagemap", tid.0)))?;
        let mut close_runs = 0;
        for (range, reason) in ranges.iter().flat_map(|(range, reason)| pieces(*range, *reason)) {
            let began = clock::boottime();
            let (runs, known, depth) = if reason.is_close() && close_runs < MAX_CLOSE_RUNS {
                let mut runs = Vec::new();
                timed(cost, || walker.walk(&pagemap, range, |run| runs.extend(run.to_state(*page))))?;
                close_runs += runs.len();
                (runs, walker.tells(), *depth)
            } else {
                (timed(cost, || reader.read(&pagemap, range))?, reader.tells(), ScanDepth::Categories)
            };
            cost.scans += 1;
            cost.scanned_pages += range.pages(*page).get();
            observe(Seen::Pages(PageScan { began, reason, range, known, depth, runs }));
        }
        Ok(())
    }
}

/// Adds the time that `scan` takes to the cost.
fn timed<T>(cost: &mut Cost, scan: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let result = scan();
    let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
    cost.lock_ns = cost.lock_ns.saturating_add(nanos);
    result
}

/// The text of the maps of the thread `tid`.
fn read_maps(tid: Tid) -> Result<Vec<u8>, ProbeError> {
    let mut file = File::open(format!("/proc/{}/maps", tid.0))?;
    let mut text = Vec::with_capacity(TYPICAL_MAPS);
    file.read_to_end(&mut text)?;
    // The address space may have gone amid the reading, which then ends early. It cannot come back: if there is
    // something to read now, there was all the time. A zombie and a kernel thread have none.
    if file.read_at(&mut [0], 0)? == 0 {
        return Err(ProbeError::Gone);
    }
    Ok(text)
}

/// How many pages of a process are resident, as the kernel counts: that takes no lock.
fn resident_pages(tgid: Tgid) -> Result<PageCount, ProbeError> {
    let statm = fs::read_to_string(format!("/proc/{}/statm", tgid.0))?;
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok());
    pages.map(PageCount::new).ok_or(ProbeError::Gone)
}

/// Whole slots around the VMAs in `scan` that some access is allowed to.
fn accessible(scan: &MapsReading) -> Vec<(VirtRange, ScanReason)> {
    let open = scan.vmas.iter().filter(|vma| !vma.perms.starts_with(b"---") && vma.name != b"[vsyscall]");
    whole_slots(open.map(|vma| vma.range)).map(|range| (range, ScanReason::Full)).collect()
}

/// Whole slots around `ranges`, which ascend: scans of the same memory begin and end at the same places.
fn whole_slots(ranges: impl Iterator<Item = VirtRange>) -> impl Iterator<Item = VirtRange> {
    let mut end = VirtAddr::from_raw(0);
    ranges.filter_map(move |range| {
        let slots = range.widened(HEAT_SLOT_SHIFT);
        let slots = VirtRange::new(slots.start().max(end), slots.end())?;
        end = slots.end();
        Some(slots)
    })
}

/// `range`, scanned for `reason`; in pieces if each page is scanned.
fn pieces(range: VirtRange, reason: ScanReason) -> impl Iterator<Item = (VirtRange, ScanReason)> {
    let mut next = range.start();
    std::iter::from_fn(move || {
        let border = VirtAddr::from_raw((next.as_raw() / CLOSE_BYTES + 1).saturating_mul(CLOSE_BYTES));
        let end = if reason.is_close() { border.min(range.end()) } else { range.end() };
        let piece = VirtRange::new(next, end)?;
        next = end;
        Some((piece, reason))
    })
}

/// Address space of one scan each page; less than the file takes in one go, wherever the frames of the pages are.
const CLOSE_BYTES: u64 = 64 << 20;

/// Runs that the scans of one answer may find in all before they no longer scan each page: they are kept until all are taken.
const MAX_CLOSE_RUNS: usize = 1 << 17;

/// Bytes of the maps of most processes.
const TYPICAL_MAPS: usize = 64 << 10;

/// Where the heap begins and the stack is, as far as the kernel tells; `None` amid an exec, when the old address space is gone
/// and the new one has no heap yet.
fn landmarks(tid: Tid) -> Option<Landmarks> {
    /// What the kernel shows for the start of the code to those who may not know places.
    const HIDDEN: u64 = 1;
    let process = i32::try_from(tid.0).ok().and_then(|tid| procfs::process::Process::new(tid).ok());
    let Some(stat) = process.and_then(|process| process.stat().ok()) else {
        return Some(Landmarks::default());
    };
    let known = |addr: u64| (addr != 0).then_some(VirtAddr::from_raw(addr));
    let start_brk = known(stat.start_brk?);
    let is_told = start_brk.is_some() || stat.startcode == HIDDEN;
    is_told.then(|| Landmarks { start_brk, start_stack: known(stat.startstack) })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::units::VirtAddr;

    fn prober() -> Prober {
        let page = rustix::param::page_size() as u64;
        Prober::new(
            PageSize::from_bytes(page).expect("a power of two"),
            PageCategories::all(),
            Nanos::new(2_000_000),
            ScanDepth::Words,
        )
        .expect("words need no file but pagemap")
    }

    fn ask(tgid: u32, target: ProbeTarget) -> ProbeRequest {
        ProbeRequest { tgid: Tgid(tgid), space: SpaceId(1), target }
    }

    #[test]
    fn maps_of_a_process_are_read_whole() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("there is sleep");
        // Until it has executed, its maps change.
        while !fs::read(format!("/proc/{}/comm", child.id())).is_ok_and(|comm| comm == b"sleep\n") {
            std::thread::yield_now();
        }
        std::thread::sleep(std::time::Duration::from_millis(100));

        let before = clock::boottime();
        let seen = prober().answer(&ask(child.id(), ProbeTarget::Maps));

        let rows = fs::read_to_string(format!("/proc/{}/maps", child.id())).expect("it runs").lines().count();
        child.kill().expect("it runs");
        child.wait().expect("it is ours");
        let [Observation { time, seen: Seen::Maps(scan), .. }] = &seen[..] else {
            panic!("{seen:?}");
        };
        assert_eq!(scan.vmas.len(), rows);
        assert!(before <= scan.began && scan.began < *time);
        let stack = scan.landmarks.start_stack.expect("one's own child tells");
        let stack = scan.vmas.iter().find(|vma| vma.range.contains(stack)).expect("it lies in a VMA");
        assert_eq!(stack.name, b"[stack]");
    }

    #[test]
    fn dead_process_shows_nothing() {
        let mut child = Command::new("true").spawn().expect("there is true");
        child.wait().expect("it is ours");
        let range = VirtRange::new(VirtAddr::from_raw(0x1000), VirtAddr::from_raw(0x2000));
        let mut prober = prober();

        for target in
            [ProbeTarget::Maps, ProbeTarget::Pages(vec![(range.expect("not empty"), ScanReason::Heat)])]
        {
            let seen = prober.answer(&ask(child.id(), target));

            assert_eq!(seen.len(), 1);
            assert_eq!(seen[0].seen, Seen::Nothing);
        }
        assert_eq!(prober.cost(Nanos::new(0)).scans, 0);
    }

    #[test]
    fn zombie_shows_nothing() {
        let mut child = Command::new("true").spawn().expect("there is true");
        let stat = format!("/proc/{}/stat", child.id());
        while !fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z ")) {
            std::thread::yield_now();
        }

        let seen = prober().answer(&ask(child.id(), ProbeTarget::Maps));

        child.wait().expect("it is ours");
        assert_eq!(seen.iter().map(|scan| &scan.seen).collect::<Vec<_>>(), [&Seen::Nothing]);
    }

    #[test]
    fn scanned_pages_are_counted() {
        let mut prober = prober();
        let here = std::ptr::from_ref(&prober).addr() as u64 & !0xffff;
        let range =
            VirtRange::new(VirtAddr::from_raw(here), VirtAddr::from_raw(here + 0x10000)).expect("not empty");

        prober.answer(&ask(std::process::id(), ProbeTarget::Pages(vec![(range, ScanReason::Heat)])));

        let cost = prober.cost(Nanos::new(5));
        assert_eq!((cost.cpu_ns, cost.scans), (5, 1));
        assert_eq!(cost.scanned_pages, range.pages(prober.page).get());
        assert!(cost.lock_ns > 0);
    }
}
