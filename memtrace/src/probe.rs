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
mod thread;
pub mod tree;
pub mod walk;

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
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
        MapsReading, Observation, PageScan, ProbeRequest, ProbeTarget, ScanDepth, ScanReason, Seen, SpaceId,
        Tgid, Tid,
    },
    pagemap::{PageCategories, PageRun},
    record::Cost,
    sys::{clock, scan::ScanError},
    units::{Nanos, PageSize, VirtAddr, VirtRange},
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
    #[error("the kernel refused")]
    Io(#[source] io::Error),
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
    stop: Arc<AtomicBool>,
    /// Whether pages were not scanned because of `stop`.
    is_cut: bool,
    cost: Cost,
    /// Processes that could not be scanned and why, as was said of them already.
    said: BTreeSet<(Tgid, String)>,
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
            stop: Arc::default(),
            is_cut: false,
            cost: Cost::default(),
            said: BTreeSet::new(),
        })
    }

    /// While it is true, no scan of pages begins, and one under way ends within some milliseconds.
    #[must_use]
    pub fn stop_switch(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Whether a scan of pages was cut short, or did not begin, because it was to stop.
    #[must_use]
    pub const fn is_cut(&self) -> bool {
        self.is_cut
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
        let mut observe_at =
            |time, seen| observations.push(Observation { time, tgid: *tgid, space: *space, seen });
        let mut observe = |seen| observe_at(clock::boottime(), seen);
        let result = match (thread::with_memory(*tgid), target) {
            (Err(ProbeError::Gone), _) => {
                observe(Seen::Nothing);
                Ok(())
            }
            (Err(error), _) => Err(error),
            (Ok(tid), ProbeTarget::Maps) => self.read_maps(tid).map(|maps| observe(Seen::Maps(maps))),
            (Ok(tid), ProbeTarget::Pages(ranges)) => self.scan_pages(tid, ranges, observe),
            (Ok(tid), ProbeTarget::Resident) => {
                // What it had before it executes a program is not to pass for what it has then.
                let began = clock::boottime();
                thread::rss(tid, self.page).map(|reading| observe_at(began, Seen::Resident(reading)))
            }
            (Ok(tid), ProbeTarget::Everything) => {
                self.read_maps(tid).and_then(|maps| self.scan_all(tid, maps, observe))
            }
            (Ok(tid), ProbeTarget::AllPages) => {
                self.read_maps(tid).and_then(|maps| self.scan_pages(tid, &accessible(&maps), observe))
            }
        };
        // One that goes meanwhile, or executes a program, is not seen.
        if let Err(error) = result
            && !matches!(error, ProbeError::Gone)
            && self.said.insert((*tgid, error.to_string()))
        {
            log::warn!("cannot scan process {}: {error}", tgid.0);
        }
        observations
    }

    /// Observes all of `process`, which stands still, by its thread `thread`.
    pub fn stopped_scan(&mut self, process: Tgid, thread: Tid) -> Vec<Observation> {
        self.scan_by(process, thread, |_| true, false)
    }

    /// Observes `process`, which is held at its exit, by its last thread: at its maps, and if `has_time` and it is small at its
    /// pages.
    pub fn exit_scan(&mut self, process: Tgid, thread: Tid, has_time: bool) -> Vec<Observation> {
        self.scan_by(process, thread, |ranges| has_time && is_small(thread, ranges), true)
    }

    /// Reads maps, and scans pages if `has_time` says so of where they are. By the process it would be what its leader has, which
    /// may have gone before.
    fn scan_by(
        &mut self,
        process: Tgid,
        thread: Tid,
        has_time: impl FnOnce(&[(VirtRange, ScanReason)]) -> bool,
        at_exit: bool,
    ) -> Vec<Observation> {
        // Which address space it is, the pipeline knows when it has come to that time.
        let space = SpaceId::UNKNOWN;
        let mut observations = Vec::new();
        let mut observe = |seen| {
            observations.push(Observation { time: clock::boottime(), tgid: process, space, seen });
        };
        let result = self.read_maps(thread).and_then(|maps| {
            let ranges = accessible(&maps);
            observe(Seen::Maps(MapsReading { at_exit, ..maps }));
            if at_exit && let Ok(reading) = thread::rss(thread, self.page) {
                observe(Seen::Resident(reading));
            }
            if has_time(&ranges) { self.scan_pages(thread, &ranges, observe) } else { Ok(()) }
        });
        if let Err(error) = result {
            log::debug!("cannot scan process {}: {error}", process.0);
        }
        observations
    }

    fn read_maps(&mut self, tid: Tid) -> Result<MapsReading, ProbeError> {
        let began = clock::boottime();
        let text = timed(&mut self.cost, || thread::read_maps(tid))?;
        let landmarks = thread::landmarks(tid).ok_or(ProbeError::Gone)?;
        let vmas = maps::parse(&text)?;
        let devices = self.devices.kinds(tid, &vmas).into_iter().collect();
        Ok(MapsReading { began, vmas, landmarks, devices, at_exit: false })
    }

    /// The VMAs in `maps`, and the pages of those that some access is allowed to.
    fn scan_all(
        &mut self,
        tid: Tid,
        maps: MapsReading,
        mut observe: impl FnMut(Seen),
    ) -> Result<(), ProbeError> {
        let ranges = accessible(&maps);
        observe(Seen::Maps(maps));
        self.scan_pages(tid, &ranges, observe)
    }

    fn scan_pages(
        &mut self,
        tid: Tid,
        ranges: &[(VirtRange, ScanReason)],
        mut observe: impl FnMut(Seen),
    ) -> Result<(), ProbeError> {
        let Self { page, reader, walker, depth, devices: _, stop, is_cut, cost, said: _ } = self;
        let pagemap = timed(cost, || File::open(format!("/proc/{}/pagemap", tid.0)))?;
        let mut close_runs = 0;
        for (range, reason) in ranges {
            let mut rest = Some(*range);
            while let Some(left) = rest {
                if stop.load(Ordering::Relaxed) {
                    *is_cut = true;
                    return Ok(());
                }
                let began = clock::boottime();
                let mut runs = Vec::new();
                let (range, known, depth) = if reason.is_close() && close_runs < MAX_CLOSE_RUNS {
                    let first = timed(cost, || reader.absent_until(&pagemap, left, stop))?;
                    let absent = absent_slots(left, first);
                    let piece = absent.unwrap_or_else(|| first_piece(left));
                    if absent.is_none() {
                        let keep = |run: PageRun| runs.extend(run.to_state(*page));
                        timed(cost, || walker.walk(&pagemap, piece, keep))?;
                    }
                    close_runs += runs.len();
                    (piece, walker.tells(), *depth)
                } else {
                    runs = timed(cost, || reader.read(&pagemap, left))?;
                    (left, reader.tells(), ScanDepth::Categories)
                };
                cost.scans += 1;
                cost.scanned_pages += range.pages(*page).get();
                rest = VirtRange::new(range.end(), left.end());
                observe(Seen::Pages(PageScan { began, reason: *reason, range, known, depth, runs }));
            }
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

/// The maps of `process`; `None` if it has none any more. What lies on its devices is left out.
#[must_use]
pub fn maps_of(process: Tgid) -> Option<MapsReading> {
    let began = clock::boottime();
    let thread = thread::with_memory(process).ok()?;
    let vmas = maps::parse(&thread::read_maps(thread).ok()?).ok()?;
    let landmarks = thread::landmarks(thread)?;
    Some(MapsReading { began, vmas, landmarks, devices: Vec::new(), at_exit: false })
}

/// Whole slots around the VMAs in `maps` that some access is allowed to.
fn accessible(maps: &MapsReading) -> Vec<(VirtRange, ScanReason)> {
    let open = maps.vmas.iter().filter(|vma| !vma.perms.starts_with(b"---") && vma.name != b"[vsyscall]");
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

/// The slots at the beginning of `range` that have no page, if its first one is at `first`.
fn absent_slots(range: VirtRange, first: VirtAddr) -> Option<VirtRange> {
    VirtRange::new(range.start(), VirtAddr::from_raw(first.as_raw() >> HEAT_SLOT_SHIFT << HEAT_SLOT_SHIFT))
}

/// As much of the beginning of `range` as one close scan takes.
fn first_piece(range: VirtRange) -> VirtRange {
    let border = VirtAddr::from_raw((range.start().as_raw() / CLOSE_BYTES + 1).saturating_mul(CLOSE_BYTES));
    VirtRange::new(range.start(), border.min(range.end())).unwrap_or(range)
}

/// Whether the pages in `ranges`, of the process that `thread` is of, can be scanned in about a millisecond.
fn is_small(thread: Tid, ranges: &[(VirtRange, ScanReason)]) -> bool {
    let fits = |statm: thread::Statm| statm.resident.get() <= EXIT_PAGES && statm.mapped.get() <= EXIT_MAPPED;
    ranges.len() <= EXIT_RANGES && thread::statm(thread).is_ok_and(fits)
}

/// For how many ranges, pages that are there, and pages that may be there, an exit is held.
const EXIT_RANGES: usize = 128;
const EXIT_PAGES: u64 = 4_096;
const EXIT_MAPPED: u64 = 1 << 28;

/// Address space of one scan of each page; less than the file takes in one go, wherever the frames of the pages are.
const CLOSE_BYTES: u64 = PageScan::MAX_CLOSE_BYTES;

/// Runs that the scans of one answer may find in all before they no longer scan each page: they are kept until all are taken.
const MAX_CLOSE_RUNS: usize = 1 << 17;

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

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
    fn exit_of_a_large_process_is_scanned_by_its_maps_alone() {
        let memory = vec![1_u8; 5_000 * rustix::param::page_size()];
        let own = std::process::id();

        let seen = prober().exit_scan(Tgid(own), Tid(own), true);

        drop(memory);
        let [maps, rss] = &seen[..] else { panic!("{} scans", seen.len()) };
        let (Seen::Maps(maps), Seen::Resident(rss)) = (&maps.seen, &rss.seen) else { panic!("{seen:?}") };
        assert!(maps.at_exit && !maps.vmas.is_empty() && rss.resident.get() > 0);
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
        let [Observation { time, seen: Seen::Maps(maps), .. }] = &seen[..] else {
            panic!("{seen:?}");
        };
        assert_eq!(maps.vmas.len(), rows);
        assert!(before <= maps.began && maps.began < *time);
        let stack = maps.landmarks.start_stack.expect("one's own child tells");
        let stack = maps.vmas.iter().find(|vma| vma.range.contains(stack)).expect("it lies in a VMA");
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
    fn no_page_is_scanned_once_scans_are_to_stop() {
        let mut prober = prober();
        let here = std::ptr::from_ref(&prober).addr() as u64 & !0xffff;
        let range =
            VirtRange::new(VirtAddr::from_raw(here), VirtAddr::from_raw(here + 0x10000)).expect("not empty");
        let pages = ask(std::process::id(), ProbeTarget::Pages(vec![(range, ScanReason::Full)]));
        assert!(!prober.answer(&pages).is_empty() && !prober.is_cut());
        prober.stop_switch().store(true, Ordering::Relaxed);

        let seen = prober.answer(&pages);

        assert!(seen.is_empty() && prober.is_cut(), "{seen:?}");
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
