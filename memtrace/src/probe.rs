//! Takes the looks at traced processes that the core asks for.
//!
//! Layer: shell. Input: [`ProbeRequest`]s. Output: [`Observation`]s, and what taking them cost.
//! Source: `proc(5)` for maps, `Documentation/admin-guide/mm/pagemap.rst` for page state.
//! Keeps: a process that died is an answer, not an error; a reading of maps is whole, or there is none; nothing is written
//! to the target; no smaps.
//! Not here: what to look at and when (`pipeline`).

pub mod frames;
pub mod maps;
pub mod pages;
pub mod walk;

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    time::Instant,
};

use rustix::io::Errno;

use self::{maps::MapsError, pages::PageReader};
use crate::{
    event::{
        Landmarks, MapsLook, Observation, PageLook, ProbeRequest, ProbeTarget, Seen, SpaceId, Tgid, Tid,
    },
    record::Cost,
    sys::{clock, scan::ScanError},
    units::{Nanos, PageSize, VirtAddr, VirtRange},
};

/// Why a look was not possible.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The process is gone. Expected; the session goes on.
    #[error("the process exited while being looked at")]
    Gone,
    /// Its maps make no sense.
    #[error("cannot understand its maps")]
    Maps(#[from] MapsError),
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
    reader: PageReader,
    cost: Cost,
}

impl Prober {
    /// A prober on a host with base pages of size `page`; `scan` if the host has `PAGEMAP_SCAN`.
    #[must_use]
    pub fn new(page: PageSize, scan: bool) -> Self {
        Self { page, reader: PageReader::new(page, scan), cost: Cost::default() }
    }

    /// What recording cost, if its CPU time is `cpu`.
    #[must_use]
    pub const fn cost(&self, cpu: Nanos) -> Cost {
        Cost { cpu_ns: cpu.get(), ..self.cost }
    }

    /// Takes the looks that `request` asks for.
    pub fn answer(&mut self, request: &ProbeRequest) -> Vec<Observation> {
        let ProbeRequest { tgid, space, target } = request;
        let mut observations = Vec::new();
        let mut observe = |seen| {
            observations.push(Observation { time: clock::boottime(), tgid: *tgid, space: *space, seen });
        };
        let result = match target {
            ProbeTarget::Maps => self.look_at_maps_of(*tgid).map(|look| observe(Seen::Maps(look))),
            ProbeTarget::Pages(ranges) => self.look_at_pages(*tgid, ranges, observe),
            ProbeTarget::Everything => self.look_at_everything(*tgid, observe),
        };
        if let Err(error) = result {
            if !matches!(error, ProbeError::Gone) {
                log::warn!("cannot look at process {}: {error}", tgid.0);
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

    /// Reads the maps of `process` by its thread `thread`.
    ///
    /// By the process they would be those of its leader, which may have gone before.
    pub fn still_look(&mut self, process: Tgid, thread: Tid, space: SpaceId) -> Option<Observation> {
        match self.look_at_maps(thread) {
            Ok(look) => {
                let seen = Seen::Maps(look);
                Some(Observation { time: clock::boottime(), tgid: process, space, seen })
            }
            Err(error) => {
                log::debug!("cannot read the maps of process {}: {error}", process.0);
                None
            }
        }
    }

    /// The maps of a process by its leader, or by another thread if that has ended before.
    fn look_at_maps_of(&mut self, tgid: Tgid) -> Result<MapsLook, ProbeError> {
        let by_leader = self.look_at_maps(Tid(tgid.0));
        if !matches!(by_leader, Err(ProbeError::Gone)) {
            return by_leader;
        }
        let threads = fs::read_dir(format!("/proc/{}/task", tgid.0))?;
        let mut tids = threads.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        tids.find_map(|tid| self.look_at_maps(Tid(tid)).ok()).ok_or(ProbeError::Gone)
    }

    fn look_at_maps(&mut self, tid: Tid) -> Result<MapsLook, ProbeError> {
        let began = clock::boottime();
        let text = self.timed(|_| read_maps(tid))?;
        Ok(MapsLook { began, vmas: maps::parse(&text)?, landmarks: landmarks(tid) })
    }

    fn look_at_everything(&mut self, tgid: Tgid, mut observe: impl FnMut(Seen)) -> Result<(), ProbeError> {
        let look = self.look_at_maps_of(tgid)?;
        let open = look.vmas.iter().filter(|vma| !vma.perms.starts_with(b"---") && vma.name != b"[vsyscall]");
        let ranges: Vec<VirtRange> = open.map(|vma| vma.range).collect();
        observe(Seen::Maps(look));
        self.look_at_pages(tgid, &ranges, observe)
    }

    fn look_at_pages(
        &mut self,
        tgid: Tgid,
        ranges: &[VirtRange],
        mut observe: impl FnMut(Seen),
    ) -> Result<(), ProbeError> {
        let pagemap = self.timed(|_| File::open(format!("/proc/{}/pagemap", tgid.0)))?;
        let told = self.reader.tells();
        for &range in ranges {
            let runs = self.timed(|reader| reader.read(&pagemap, range))?;
            self.cost.looks += 1;
            self.cost.looked_pages += range.pages(self.page).get();
            observe(Seen::Pages(PageLook { range, told, runs }));
        }
        Ok(())
    }

    /// Adds the time that `look` takes to the cost.
    fn timed<T>(&mut self, look: impl FnOnce(&mut PageReader) -> T) -> T {
        let began = Instant::now();
        let result = look(&mut self.reader);
        let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.cost.lock_ns = self.cost.lock_ns.saturating_add(nanos);
        result
    }
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

/// Bytes of the maps of most processes.
const TYPICAL_MAPS: usize = 64 << 10;

/// Where the heap begins and the stack is, as far as the kernel tells.
fn landmarks(tid: Tid) -> Landmarks {
    let process = i32::try_from(tid.0).ok().and_then(|tid| procfs::process::Process::new(tid).ok());
    let stat = process.and_then(|process| process.stat().ok());
    let known = |addr: u64| (addr != 0).then_some(VirtAddr::from_raw(addr));
    Landmarks {
        start_brk: stat.as_ref().and_then(|stat| known(stat.start_brk?)),
        start_stack: stat.as_ref().and_then(|stat| known(stat.startstack)),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::units::VirtAddr;

    fn prober() -> Prober {
        let page = rustix::param::page_size() as u64;
        Prober::new(PageSize::from_bytes(page).expect("a power of two"), true)
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
        let [Observation { time, seen: Seen::Maps(look), .. }] = &seen[..] else {
            panic!("{seen:?}");
        };
        assert_eq!(look.vmas.len(), rows);
        assert!(before <= look.began && look.began < *time);
        let stack = look.landmarks.start_stack.expect("one's own child tells");
        let stack = look.vmas.iter().find(|vma| vma.range.contains(stack)).expect("it lies in a VMA");
        assert_eq!(stack.name, b"[stack]");
    }

    #[test]
    fn dead_process_shows_nothing() {
        let mut child = Command::new("true").spawn().expect("there is true");
        child.wait().expect("it is ours");
        let range = VirtRange::new(VirtAddr::from_raw(0x1000), VirtAddr::from_raw(0x2000));
        let mut prober = prober();

        for target in [ProbeTarget::Maps, ProbeTarget::Pages(vec![range.expect("not empty")])] {
            let seen = prober.answer(&ask(child.id(), target));

            assert_eq!(seen.len(), 1);
            assert_eq!(seen[0].seen, Seen::Nothing);
        }
        assert_eq!(prober.cost(Nanos::new(0)).looks, 0);
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
        assert_eq!(seen.iter().map(|look| &look.seen).collect::<Vec<_>>(), [&Seen::Nothing]);
    }

    #[test]
    fn looked_pages_are_counted() {
        let mut prober = prober();
        let here = std::ptr::from_ref(&prober).addr() as u64 & !0xffff;
        let range =
            VirtRange::new(VirtAddr::from_raw(here), VirtAddr::from_raw(here + 0x10000)).expect("not empty");

        prober.answer(&ask(std::process::id(), ProbeTarget::Pages(vec![range])));

        let cost = prober.cost(Nanos::new(5));
        assert_eq!((cost.cpu_ns, cost.looks), (5, 1));
        assert_eq!(cost.looked_pages, range.pages(prober.page).get());
        assert!(cost.lock_ns > 0);
    }
}
