//! Arms the probes for a target, so that no task of it is missed and none is traced half.
//!
//! Layer: shell. Input: [`Target`], loaded [`Probes`]. Output: armed probes, and [`Armed`].
//! Source: `perf_event_open(2)`: an inherited event covers tasks that are made after it was opened.
//! Keeps: what changes address spaces is armed before their maps are read; task events are armed before the list of tasks
//! is read, and the list is read again until it is stable; no task is counted by two events. Completions are armed before
//! entries: a fault in between is recorded without a latency, rather than taken for one that never completed.
//! Not here: launching a command (`session::launch`).

use std::{collections::BTreeSet, fmt, io};

use memtrace_ebpf::TaskState;
use rustix::process::{Resource, getrlimit};

use super::{
    attach::AttachError,
    cgroup::Cgroup,
    cpus::CpuWatch,
    probes::{Probes, Scope},
    programs::Step,
    sideband::{SideBand, ring_bytes},
    tasks::{Spaces, Task},
};
use crate::{
    event::{FaultCounts, Tgid},
    host::Cpus,
    sys::clock,
};

/// Files that a session has open at once, beside the events of threads and CPUs; some it opens where a failure would pass for a
/// process that has ended.
pub const SESSION_FILES: usize = 96;

/// Threads above which completions are attached per CPU: events of a thread cost file descriptors, and time
/// at each context switch.
fn max_thread_events(cpus: usize) -> usize {
    const FAULT_EVENTS: u64 = 3;
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let affordable = files.saturating_sub(SESSION_FILES as u64) / (FAULT_EVENTS + cpus as u64);
    usize::try_from(affordable).unwrap_or(usize::MAX).min(1_000)
}

/// What to trace.
#[derive(Clone, Debug)]
pub enum Target {
    /// The only thread of a process that waits to be released.
    Gated(u32),
    /// Processes with all their threads.
    Processes(Vec<u32>),
    /// Single threads.
    Threads(Vec<u32>),
    /// The members of a cgroup and of those below it.
    Cgroup(Cgroup),
    /// Every task.
    System,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |ids: &[u32]| ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        match self {
            Self::Gated(pid) => write!(f, "process {pid}"),
            Self::Processes(pids) => write!(f, "processes {}", list(pids)),
            Self::Threads(tids) => write!(f, "threads {}", list(tids)),
            Self::Cgroup(cgroup) => write!(f, "cgroup {}", cgroup.dir.display()),
            Self::System => f.write_str("whole system"),
        }
    }
}

/// What was armed.
#[derive(Debug, Default)]
pub struct Armed {
    /// Join records of the tasks that were there, as the programs would have written them.
    pub joins: Vec<u8>,
    /// Processes of the target, to be watched for their end; none for a cgroup and the whole system.
    pub tgids: BTreeSet<Tgid>,
    /// The tasks that were entered into the table of traced ones, by their keys there.
    pub entered: Vec<(u32, TaskState)>,
    /// Faults of a gated process before tracing.
    pub gate: Option<FaultCounts>,
    /// What tells of new VMAs, if that is followed.
    pub side_band: Option<SideBand>,
    /// What notices CPUs that go and come.
    pub cpus: CpuWatch,
}

/// Why a target could not be armed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArmError {
    /// There is no such process.
    #[error("no process {pid}: it may have exited; `ps -e` lists those that run")]
    NoProcess {
        /// As given.
        pid: u32,
    },
    /// There is no such thread.
    #[error("no thread {tid}: it may have exited; `ps -eL` lists those that run")]
    NoThread {
        /// As given.
        tid: u32,
    },
    /// It is one of the kernel's own.
    #[error("{id} is a thread of the kernel: it has no memory of its own, so there is nothing to record")]
    KernelThread {
        /// As given.
        id: u32,
    },
    /// Every thread of the target ended while it was being attached.
    #[error("{target} exited while being attached")]
    Exited {
        /// The target in words.
        target: String,
    },
    /// The members of the cgroup cannot be listed.
    #[error("cannot list the processes of the cgroup")]
    Members(#[source] io::Error),
    /// The probes could not be attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
}

/// Arms `probes` for `target`; events that are bound to CPUs are attached to those of `cpus` that are online.
pub fn arm(probes: &mut Probes, target: &Target, cpus: &Cpus) -> Result<Armed, ArmError> {
    let mut armed = Armed::default();
    probes.attach(Step::Tasks)?;
    probes.attach(Step::Cgroup)?;
    let tids = enter(probes, &mut armed, target)?;
    let by_cpu = match target {
        // It has one thread, which makes no other before it is released.
        Target::Gated(_) => false,
        // A thread that is made meanwhile may be covered twice: by an inherited event, and by its own.
        Target::Processes(_) | Target::Threads(_) => {
            tids.len() > max_thread_events(cpus.online.len()) || !probes.tells_duplicates()
        }
        Target::Cgroup(_) | Target::System => true,
    };
    let scope = if by_cpu { Scope::Cpus(cpus.online.clone()) } else { Scope::Threads(Vec::new()) };
    armed.cpus = CpuWatch::new(&scope, probes.completions_of_cpus(), cpus);
    if probes.follows_maps() {
        let online = &cpus.online;
        armed.side_band = Some(SideBand::open(&scope, online, ring_bytes(online.len()))?.0);
    }
    probes.attach(Step::Maps)?;
    match scope {
        Scope::Cpus(_) => {
            probes.attach_completions(&scope)?;
        }
        Scope::Threads(_) => follow_threads(probes, &mut armed, target, tids)?,
    }
    probes.attach(Step::Entries)?;
    Ok(armed)
}

/// Enters what there is of `target` into the tables of what is traced, and lists it again and again until nothing of it is new.
/// Returns the threads that were entered one by one.
fn enter(probes: &mut Probes, armed: &mut Armed, target: &Target) -> Result<BTreeSet<u32>, ArmError> {
    let mut spaces = Spaces::default();
    let mut seen = BTreeSet::new();
    if let Target::Cgroup(cgroup) = target {
        loop {
            let mut new = cgroup.members().map_err(ArmError::Members)?;
            new.retain(|tgid| seen.insert(*tgid));
            if new.is_empty() {
                return Ok(BTreeSet::new());
            }
            for tgid in new {
                probes.track_group(tgid, spaces.of(tgid))?;
            }
        }
    }
    loop {
        let new: Vec<_> = threads_of(target)?.into_iter().filter(|task| seen.insert(task.tid)).collect();
        if new.is_empty() {
            return Ok(seen);
        }
        let initial = probes.initial_tids()?;
        for (key, task) in new.iter().filter_map(|task| Some((initial.of(task.tid)?, task))) {
            track(probes, armed, &mut spaces, target, (key, task))?;
            if Task::find(task.tid).is_none() {
                // Whoever gets this thread ID next is somebody else.
                probes.forget(key)?;
            }
        }
    }
}

/// The threads of `target` that there are now; none of targets whose tasks join when they are first seen.
fn threads_of(target: &Target) -> Result<Vec<Task>, ArmError> {
    let mut tasks = Vec::new();
    match target {
        Target::Gated(tid) => tasks.push(Task::find(*tid).ok_or_else(|| exited(target))?),
        Target::Processes(pids) => {
            for &pid in pids {
                let threads = Task::threads_of(pid).unwrap_or_default();
                if threads.is_empty() {
                    return Err(ArmError::NoProcess { pid });
                }
                if threads.iter().any(|task| task.is_kernel_thread) {
                    return Err(ArmError::KernelThread { id: pid });
                }
                tasks.extend(threads);
            }
        }
        Target::Threads(tids) => {
            for &tid in tids {
                let task = Task::find(tid).ok_or(ArmError::NoThread { tid })?;
                if task.is_kernel_thread {
                    return Err(ArmError::KernelThread { id: tid });
                }
                tasks.push(task);
            }
        }
        Target::Cgroup(_) | Target::System => {}
    }
    Ok(tasks)
}

/// The error for a target of which nothing is left.
fn exited(target: &Target) -> ArmError {
    ArmError::Exited { target: target.to_string() }
}

/// Starts to see new VMAs and completions of the threads `tids`, and of those of `target` that are made meanwhile.
fn follow_threads(
    probes: &mut Probes,
    armed: &mut Armed,
    target: &Target,
    tids: BTreeSet<u32>,
) -> Result<(), ArmError> {
    let mut attached: BTreeSet<u32> = BTreeSet::new();
    let mut gone = 0;
    let mut new = tids;
    while !new.is_empty() {
        let tids: Vec<u32> = new.iter().copied().collect();
        if let Some(side_band) = &mut armed.side_band {
            side_band.add_threads(&tids)?;
        }
        gone += probes.attach_completions(&Scope::Threads(tids))?.len();
        attached.append(&mut new);
        // The list may fail here only because the whole target is gone; the session notices that itself.
        let now = threads_of(target).unwrap_or_default();
        new = now.iter().map(|task| task.tid).filter(|tid| !attached.contains(tid)).collect();
    }
    if gone == attached.len() { Err(exited(target)) } else { Ok(()) }
}

/// Enters a task of `target`, which the programs find by `key`, into the table of traced ones and notes that it joined.
fn track(
    probes: &mut Probes,
    armed: &mut Armed,
    spaces: &mut Spaces,
    target: &Target,
    (key, task): (u32, &Task),
) -> Result<(), AttachError> {
    let is_gated = matches!(target, Target::Gated(_));
    let space = spaces.of(task.tgid);
    let state = task.state(space, is_gated);
    probes.track(key, &state)?;
    armed.entered.push((key, state));
    armed.joins.extend(task.join(clock::boottime(), space));
    armed.tgids.insert(Tgid(task.tgid));
    if is_gated {
        armed.gate = Some(task.charged);
    }
    Ok(())
}
