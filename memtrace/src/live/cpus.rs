//! Follows CPUs that go and come while events of perf are bound to them.
//!
//! Layer: shell. Input: CPUs, [`CpuCompletions`], a [`SideBand`]. Output: a [`Loss`] for each time in which a CPU had no events.
//! Source: `perf_event_exit_cpu` of `kernel/events/core.c`: the events of a CPU that goes end for good, also when the machine is
//! suspended; for one that is not there `perf_event_open(2)` fails with ENODEV. Events of threads go on.
//! Keeps: attaching a program to an event is no call of bpf(2) on a map element, so that it may be done while probes are armed.
//! Not here: attaching at the start (`target`).

use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
};

use super::{probes::Scope, sideband::SideBand};
use crate::{
    event::{Cpu, Loss, LossCause},
    host::Cpus,
    sys::{
        clock,
        perf::{self, Presence},
    },
    units::{Nanos, Timestamp},
};

/// Time between two readings, well below that for which events wait for their order. Each interrupts all CPUs for a moment.
const PERIOD: Nanos = Nanos::new(100_000_000);

/// The programs for completions of faults, and the events of CPUs at which they run. Clones share them.
#[derive(Clone, Debug)]
pub struct CpuCompletions(Arc<Mutex<Attached>>);

#[derive(Debug)]
struct Attached {
    /// With the number of the software event that each is for.
    programs: Vec<(OwnedFd, u64)>,
    by_cpu: BTreeMap<u32, Vec<perf::Event>>,
}

impl CpuCompletions {
    /// Nothing attached yet of `programs`.
    pub(super) fn new(programs: Vec<(OwnedFd, u64)>) -> Self {
        Self(Arc::new(Mutex::new(Attached { programs, by_cpu: BTreeMap::new() })))
    }

    /// Runs the programs at the completions of whatever runs on `cpu`, in place of events that it had before.
    pub(super) fn attach(&self, cpu: u32) -> io::Result<()> {
        let mut attached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = |(program, event): &(OwnedFd, u64)| perf::run_on_cpu(program, *event, cpu);
        let events = attached.programs.iter().map(open).collect::<io::Result<_>>()?;
        attached.by_cpu.insert(cpu, events);
        Ok(())
    }

    /// Ends all, for good.
    pub(super) fn end(&self) {
        let mut attached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        attached.programs.clear();
        attached.by_cpu.clear();
    }
}

/// What a session has bound to CPUs.
#[derive(Debug, Default)]
enum Bound {
    /// Completions and new VMAs of all that runs there.
    Everything(CpuCompletions),
    /// Rings for the new VMAs of threads, on those CPUs that were there at the start.
    #[default]
    Rings,
}

/// Notices CPUs that went and came, and follows them.
#[derive(Debug, Default)]
pub struct CpuWatch {
    bound: Bound,
    cpus: Vec<Watched>,
    read: Timestamp,
}

/// A CPU, and what is known of it.
#[derive(Debug)]
struct Watched {
    cpu: u32,
    /// As long as it goes on, so do all other events of the CPU.
    presence: Option<Presence>,
    /// When it was last known to be followed, or not to be there.
    known: Timestamp,
}

impl CpuWatch {
    /// Watches `cpus` for a session in `scope`, before anything is attached to them.
    pub(super) fn new(scope: &Scope, completions: CpuCompletions, cpus: &Cpus) -> Self {
        let known = clock::boottime();
        let watched = |cpu: &u32, presence| Watched { cpu: *cpu, presence, known };
        let away = cpus.away.iter().map(|cpu| watched(cpu, None));
        match scope {
            Scope::Threads(_) => Self { bound: Bound::Rings, cpus: away.collect(), read: known },
            Scope::Cpus(online) => {
                let online = online.iter().map(|cpu| watched(cpu, Presence::open(*cpu).ok()));
                let bound = Bound::Everything(completions);
                Self { bound, cpus: online.chain(away).collect(), read: known }
            }
        }
    }

    /// Follows the CPUs that came since the reading before, if it is time for another one, or the `last`; returns what was
    /// missed of those that came or went.
    pub fn read(&mut self, now: Timestamp, last: bool, mut side_band: Option<&mut SideBand>) -> Vec<Loss> {
        if !last && now.since(self.read) < PERIOD {
            return Vec::new();
        }
        self.read = now;
        let bound = &self.bound;
        let loss = |watched: &mut Watched| watched.read(now, bound, side_band.as_deref_mut());
        self.cpus.iter_mut().filter_map(loss).collect()
    }
}

impl Watched {
    fn read(&mut self, now: Timestamp, bound: &Bound, side_band: Option<&mut SideBand>) -> Option<Loss> {
        if self.presence.as_mut().is_some_and(Presence::goes_on) {
            self.known = now;
            return None;
        }
        let was_followed = self.presence.take().is_some();
        let is_there = match Presence::open(self.cpu) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => false,
            presence => {
                match presence.and_then(|presence| bound.follow(self.cpu, side_band).map(|()| presence)) {
                    Ok(presence) => self.presence = Some(presence),
                    Err(error) => log::warn!("cannot follow CPU {}: {error}", self.cpu),
                }
                true
            }
        };
        let start = self.known;
        self.known = clock::boottime();
        let (cause, end) = match bound {
            Bound::Everything(_) => (LossCause::CpuOffline, Some(self.known)),
            Bound::Rings => (LossCause::SideBand, None),
        };
        // Where a CPU is not there, nothing runs.
        (was_followed || is_there).then_some(Loss {
            start,
            end,
            cpu: Some(Cpu(self.cpu)),
            cause,
            count: None,
        })
    }
}

impl Bound {
    /// Follows what runs on `cpu`, which has come.
    fn follow(&self, cpu: u32, side_band: Option<&mut SideBand>) -> io::Result<()> {
        match self {
            Self::Everything(completions) => {
                side_band.map_or(Ok(()), |side_band| side_band.follow_cpu(cpu))?;
                completions.attach(cpu)
            }
            // Who has been born by now is not known, and would have to be followed one by one.
            Self::Rings => Ok(()),
        }
    }
}
