//! Takes the looks at traced processes that the core asks for.
//!
//! Layer: shell. Input: [`ProbeRequest`]s. Output: [`Observation`]s, and what taking them cost.
//! Source: `proc(5)` for maps, `Documentation/admin-guide/mm/pagemap.rst` for page state.
//! Keeps: a process that died is an answer, not an error; nothing is written to the target; no smaps.
//! Not here: what to look at and when (`pipeline`).

pub mod maps;
pub mod pages;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io,
    time::Instant,
};

use rustix::io::Errno;

use self::{maps::MapsError, pages::PageReader};
use crate::{
    event::{Observation, PageLook, ProbeRequest, ProbeTarget, Seen, SpaceId, Tgid},
    record::Cost,
    sys::clock,
    units::{Nanos, PageSize, VirtRange},
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
    known: KnownMaps,
    cost: Cost,
}

impl Prober {
    /// A prober on a host with base pages of size `page`; `scan` if the host has `PAGEMAP_SCAN`.
    #[must_use]
    pub fn new(page: PageSize, scan: bool) -> Self {
        Self { page, reader: PageReader::new(page, scan), known: KnownMaps::default(), cost: Cost::default() }
    }

    /// What recording cost, if its CPU time is `cpu`.
    #[must_use]
    pub const fn cost(&self, cpu: Nanos) -> Cost {
        Cost { cpu_ns: cpu.get(), ..self.cost }
    }

    /// Takes the looks that `request` asks for.
    ///
    /// Maps that are as they were at the look before give no observation: the core has them.
    pub fn answer(&mut self, request: &ProbeRequest) -> Vec<Observation> {
        let ProbeRequest { tgid, space, target } = request;
        let mut observations = Vec::new();
        let observe = |seen| {
            observations.push(Observation { time: clock::boottime(), tgid: *tgid, space: *space, seen });
        };
        let result = match target {
            ProbeTarget::Maps => self.look_at_maps(*tgid, *space, observe),
            ProbeTarget::Pages(ranges) => self.look_at_pages(*tgid, ranges, observe),
        };
        if let Err(error) = result {
            if !matches!(error, ProbeError::Gone) {
                log::warn!("cannot look at process {}: {error}", tgid.0);
            }
            self.known.forget(*space);
            observations.push(Observation {
                time: clock::boottime(),
                tgid: *tgid,
                space: *space,
                seen: Seen::Nothing,
            });
        }
        observations
    }

    fn look_at_maps(
        &mut self,
        tgid: Tgid,
        space: SpaceId,
        mut observe: impl FnMut(Seen),
    ) -> Result<(), ProbeError> {
        let text = self.timed(|_| fs::read(format!("/proc/{}/maps", tgid.0)))?;
        // A zombie's, or a kernel thread's.
        if text.is_empty() {
            return Err(ProbeError::Gone);
        }
        if self.known.replace(space, &text) {
            observe(Seen::Maps(maps::parse(&text)?));
        }
        Ok(())
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

/// Fingerprints of the maps that were seen last, by address space.
#[derive(Debug, Default)]
struct KnownMaps(BTreeMap<SpaceId, u64>);

impl KnownMaps {
    /// Address spaces that are remembered; forgetting one costs an observation that repeats.
    const BOUND: usize = 4096;

    /// Remembers `text` for `space`; `false` if it is the text remembered already.
    fn replace(&mut self, space: SpaceId, text: &[u8]) -> bool {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let print = hasher.finish();
        let changed = self.0.insert(space, print) != Some(print);
        if self.0.len() > Self::BOUND {
            self.0.pop_first();
        }
        changed
    }

    fn forget(&mut self, space: SpaceId) {
        self.0.remove(&space);
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
    fn maps_of_a_still_process_are_told_once() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("there is sleep");
        // Until it has executed, its maps change.
        while !fs::read(format!("/proc/{}/comm", child.id())).is_ok_and(|comm| comm == b"sleep\n") {
            std::thread::yield_now();
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
        let mut prober = prober();
        let request = ask(child.id(), ProbeTarget::Maps);

        let first = prober.answer(&request);
        let second = prober.answer(&request);
        let other_space = prober.answer(&ProbeRequest { space: SpaceId(2), ..request });

        child.kill().expect("it runs");
        child.wait().expect("it is ours");
        let [Observation { seen: Seen::Maps(vmas), .. }] = &first[..] else {
            panic!("{first:?}");
        };
        assert!(vmas.iter().any(|vma| vma.name == b"[stack]"), "{vmas:?}");
        assert!(second.is_empty(), "{second:?}");
        assert_eq!(other_space.len(), 1);
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
