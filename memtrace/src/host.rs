//! What this machine is, and what its kernel lets this process do.
//!
//! Layer: shell. Input: the running kernel. Output: [`HostFacts`], [`Cpus`], [`Features`].
//! Source: `uname(2)`, `/sys/devices/system/cpu`; each facility names its own.
//! Keeps: a facility is probed by trying it, never by the user's ID, and by the kernel's release only where nothing else tells; once
//! per session.
//! Not here: using the facilities (`live`, `probe`), telling of them (`cli::doctor`).

mod attempt;
mod btf;
mod era;
mod facility;
mod namespaces;
mod tracepoint;

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use memtrace_ebpf::Config;
use rustix::{param::page_size, system::uname};

pub use self::{
    btf::BtfError,
    era::{page_era, page_era_but_for_swap, swap_layout},
    facility::{Description, Facility},
    namespaces::{Namespaces, Reach, Refusal},
    tracepoint::RecordError,
};
use crate::{
    event::{HostFacts, LargeFolios},
    probe::{devices::Devices, files::Root, thp::Thp},
    record::{Availability, Feature},
    sys::{clock, memlock},
    units::PageSize,
};

/// Facts about this machine; the session starts now.
pub fn facts() -> Result<HostFacts, CpusError> {
    let uname = uname();
    Ok(HostFacts {
        page: own_page_size(),
        arch: uname.machine().to_string_lossy().into_owned(),
        kernel_release: uname.release().to_string_lossy().into_owned(),
        cpus: u32::try_from(cpus()?.online.len()).unwrap_or(u32::MAX),
        start: clock::boottime(),
        realtime_offset_ns: clock::realtime_offset_ns(),
        devices: Devices::new().all(),
        large_folios: Thp::read(&Root::system())
            .ok()
            .map(|thp| thp.map_or(LargeFolios::Never, |thp| thp.largest_use())),
    })
}

/// Base page size of this machine.
fn own_page_size() -> PageSize {
    PageSize::from_bytes(page_size() as u64).expect("page sizes are powers of two")
}

/// Settings of this machine that allow or forbid tracing, by name; `None` where the kernel has no such setting.
#[must_use]
pub fn settings() -> [(&'static str, Option<String>); 3] {
    let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned());
    [
        ("kernel.perf_event_paranoid", read(PARANOID)),
        ("kernel.unprivileged_bpf_disabled", read("/proc/sys/kernel/unprivileged_bpf_disabled")),
        ("lockdown", lockdown()),
    ]
}

/// The setting of perf that `CAP_PERFMON` overrides, or not.
const PARANOID: &str = "/proc/sys/kernel/perf_event_paranoid";

/// The level of lockdown in force: the word in brackets.
fn lockdown() -> Option<String> {
    let levels = fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    let (level, _) = levels.split_once('[')?.1.split_once(']')?;
    Some(level.to_owned())
}

/// The CPUs of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpus {
    /// One more than the highest number that a CPU may ever have.
    pub possible: u32,
    /// Numbers of those online, ascending.
    pub online: Vec<u32>,
    /// Numbers of those that may come yet, ascending.
    pub away: Vec<u32>,
}

/// The kernel does not list the CPUs of this machine.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: needs sysfs: mount -t sysfs sysfs /sys", path.display())]
pub struct CpusError {
    path: PathBuf,
    source: io::Error,
}

/// The CPUs of this machine.
pub fn cpus() -> Result<Cpus, CpusError> {
    let list = |name: &str| {
        let path = Path::new("/sys/devices/system/cpu").join(name);
        fs::read_to_string(&path)
            .and_then(|text| cpu_list(text.trim_end()).ok_or_else(|| io::ErrorKind::InvalidData.into()))
            .map_err(|source| CpusError { path, source })
    };
    let (online, mut away) = (list("online")?, list("possible")?);
    let possible = away.last().map_or(1, |last| last + 1);
    away.retain(|cpu| !online.contains(cpu));
    Ok(Cpus { possible, online, away })
}

/// The numbers in a list such as `0-3,8`.
fn cpu_list(text: &str) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        numbers.extend(first.parse().ok()?..=last.parse::<u32>().ok()?);
    }
    Some(numbers)
}

/// Names a comma-separated list of facilities that are to be treated as missing, to try the fall-backs.
const DISABLE: &str = "MEMTRACE_DISABLE";

/// How much of memtrace works with the privileges of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Page tables of one's own processes.
    OwnProcess,
    /// Everything but frame numbers.
    NoFrames,
    /// Everything.
    Full,
}

impl Level {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OwnProcess => "own-process",
            Self::NoFrames => "no-frames",
            Self::Full => "full",
        }
    }
}

/// State of every facility of this host.
#[derive(Debug)]
pub struct Features {
    states: Vec<(Facility, Availability)>,
    found: Found,
}

/// What was learnt of the kernel by trying.
#[derive(Debug, Default)]
struct Found {
    /// From BTF, or else from the records of tracepoints.
    offsets: Option<Config>,
    lock: Option<LockArguments>,
}

/// What the tracepoints of the lock of memory maps tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockArguments {
    /// The memory map, then how it is locked.
    Plain,
    /// The memory map, the path of its memory cgroup, then how it is locked (before Linux 6.14).
    WithPath,
}

impl Features {
    /// Tries every facility.
    #[must_use]
    pub fn probe() -> Self {
        Self::of(&Facility::ALL)
    }

    /// Tries these facilities; others are not usable.
    #[must_use]
    pub fn of(facilities: &[Facility]) -> Self {
        let _lifted = memlock::lift();
        let disabled = env::var(DISABLE).unwrap_or_default();
        let disabled: Vec<_> = disabled.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        let is_known = |name: &&&str| Facility::ALL.iter().any(|facility| facility.name() == **name);
        if let Some(unknown) = disabled.iter().find(|name| !is_known(name)) {
            log::warn!("{DISABLE}: there is no feature {unknown}; `memtrace doctor` names them");
        }
        let mut found = Found::default();
        let mut attempt = |facility: Facility| {
            if disabled.contains(&facility.name()) {
                Availability::Missing { since: format!("disabled by {DISABLE}") }
            } else {
                facility.attempt(&mut found)
            }
        };
        Self { states: facilities.iter().map(|facility| (*facility, attempt(*facility))).collect(), found }
    }

    /// Every facility and its state.
    pub fn states(&self) -> impl Iterator<Item = (Facility, &Availability)> {
        self.states.iter().map(|(facility, state)| (*facility, state))
    }

    /// Whether `facility` can be used.
    #[must_use]
    pub fn is_usable(&self, facility: Facility) -> bool {
        self.state(facility) == Some(&Availability::Usable)
    }

    /// The state of `facility`.
    fn state(&self, facility: Facility) -> Option<&Availability> {
        self.states().find_map(|(this, state)| (this == facility).then_some(state))
    }

    /// Offsets by which the programs follow tasks, other fields of [`Config`] being 0; else what recording cannot
    /// do without and this host does not give, each with the remedy.
    pub fn offsets(&self) -> Result<Config, String> {
        let reasons: Vec<_> = self
            .blockers()
            .filter_map(|facility| Some(format!("{} is {}", facility.name(), self.state(facility)?)))
            .collect();
        match self.found.offsets {
            Some(offsets) if reasons.is_empty() => Ok(offsets),
            _ => Err(reasons.join("; ")),
        }
    }

    /// What the tracepoints of the lock of memory maps tell; `None` if they cannot be used.
    #[must_use]
    pub fn lock_arguments(&self) -> Option<LockArguments> {
        self.found.lock.filter(|_| self.is_usable(Facility::LockTracepoint))
    }

    /// `config` with the offsets by which programs at classic tracepoints see what those at raw ones do; `None` where that is
    /// needless, or impossible.
    #[must_use]
    pub fn with_event_offsets(&self, config: &Config) -> Option<Config> {
        if self.is_usable(Facility::RawTracepoints) || !self.is_usable(Facility::TracepointRecords) {
            return None;
        }
        tracepoint::with_event_offsets(config).ok()
    }

    /// How much works with the privileges of this process.
    #[must_use]
    pub fn level(&self) -> Level {
        let seen = [Facility::Bpf, Facility::FaultEvents, Facility::ForeignPagemap];
        if !seen.into_iter().all(|facility| self.is_usable(facility)) {
            Level::OwnProcess
        } else if self.is_usable(Facility::FrameNumbers) {
            Level::Full
        } else {
            Level::NoFrames
        }
    }

    /// What recording cannot do without and this host does not give.
    pub fn blockers(&self) -> impl Iterator<Item = Facility> {
        let required = [Facility::Bpf, Facility::RingBuffer, Facility::FaultEvents];
        // One of these tells how tasks are born and end.
        let either = [Facility::Btf, Facility::TracepointRecords];
        let is_blind = !either.into_iter().any(|facility| self.is_usable(facility));
        let needed = required.into_iter().chain(either.into_iter().filter(move |_| is_blind));
        needed.filter(|facility| !self.is_usable(*facility))
    }

    /// The states, for a recording.
    #[must_use]
    pub fn to_list(&self) -> Vec<Feature> {
        self.states()
            .map(|(facility, state)| Feature { name: facility.name().to_owned(), state: state.clone() })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_list_has_ranges_and_single_numbers() {
        assert_eq!(cpu_list("0"), Some(vec![0]));
        assert_eq!(cpu_list("0-2,5,7-8"), Some(vec![0, 1, 2, 5, 7, 8]));
        assert_eq!(cpu_list(""), None);
    }

    #[test]
    fn facts_agree_with_proc() {
        let facts = facts().expect("sysfs is mounted");

        let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("proc is mounted");
        assert_eq!(facts.kernel_release, release.trim_end());
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").expect("proc is mounted");
        let cpus = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
        assert_eq!(facts.cpus as usize, cpus);
    }

    #[test]
    fn facility_with_a_name_appears_once() {
        let mut names = Facility::ALL.map(Facility::name);
        names.sort_unstable();

        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }
}
