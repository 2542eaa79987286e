//! One recording session: arms, records, waits for the end, disarms, and closes the file.
//!
//! Layer: shell. Input: [`Options`]. Output: a recording, and [`Outcome`].
//! Keeps: a failed set-up never starts the command; the target ends as it would have without memtrace; what
//! was armed is disarmed on every path.
//! Not here: what people type (`cli`), what frames mean (`pipeline`).

use std::{
    collections::BTreeSet,
    ffi::OsString,
    io::{self, BufWriter, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use memtrace_ebpf::{Config, TaskState};

use crate::{
    decode::Frame,
    event::{FaultCounts, ScanDepth, Symbols, Tgid, Tid},
    export::{ExportError, Sink as _, Sinks},
    host::{self, CpusError, Facility, Namespaces, Reach},
    live::{
        self, ArmError, AttachError, Batch, Drain, Entry, HeatReader, LossMeter, Plan, Probes, Rings,
        SeenCode, Stacks, Target,
    },
    pagemap::{PageCategories, PageEra},
    pipeline::{Detail, FocusOptions},
    probe::{Prober, files::FileError},
    record::{Capture, Cost, End, Ending, ExitReason, Header, RecordError, Totals, Writer, add_symbols},
    symbolize::{self, Unnamed},
    sys::{clock, heap, limits, ptrace::call},
    timeline::Summary,
    units::{ByteSize, Nanos},
};

mod exits;
pub mod hold;
mod invoker;
pub mod keeper;
pub mod launch;
mod recorder;
mod remains;
mod threads;
mod unseen;
mod watch;

pub use invoker::Invoker;
pub use launch::{Gated, LaunchError};
pub use recorder::RecorderError;

use keeper::{Keeper, KeeperError, Task};
use recorder::{Recorded, Recorder};
use threads::Threads;
use unseen::Entered;
pub use watch::SIGNALS;
use watch::{Ended, Watch};

/// What to record.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "flags that people can give independently")]
pub struct Options {
    /// What to trace.
    pub subject: Subject,
    /// Whether faults are recorded one by one or only counted.
    pub detail: Detail,
    /// Length of a timeline interval.
    pub interval: Nanos,
    /// What is scanned.
    pub focus: FocusOptions,
    /// Longest time for which a scan of pages holds the lock of a memory map; about, as the kernel does not promise any.
    pub max_lock: Nanos,
    /// Size of the ring of faults; `None` for a size that fits the number of CPUs.
    pub ring: Option<ByteSize>,
    /// Whether new processes of traced ones are traced.
    pub follow_forks: bool,
    /// Time after which recording stops.
    pub duration: Option<Nanos>,
    /// Whether the command is ended when the duration is over.
    pub kill: bool,
    /// Whether processes are held at their exit, to compare their maps a last time.
    pub verify: bool,
    /// Whether stacks are recorded.
    pub stacks: bool,
    /// When the code in them gets its names.
    pub symbols: SymbolTime,
    /// Whether the programs log.
    pub verbose: bool,
}

/// When code gets its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SymbolTime {
    /// Never.
    Never,
    /// When recording ends.
    AtEnd,
    /// When recording ends, if only this machine knows them, and only as long as it runs: those of the kernel and of just-in-time
    /// compilers.
    Later,
}

/// What to trace, before it exists.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A command that is started for it.
    Command(Vec<OsString>),
    /// What runs already.
    Running(Target),
}

/// How a session went.
#[derive(Debug)]
pub struct Outcome {
    /// What ended it.
    pub ending: Ending,
    /// How the command ended; `None` if there was none, or it runs on.
    pub exit: Option<ExitReason>,
    /// Totals and the end mark; the error if recording stopped before its time.
    pub recorded: Result<(Summary, End), RecorderError>,
}

/// Why a session could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The host lacks something that recording cannot do without.
    #[error("this host cannot record: {0}; `memtrace doctor` shows all that it can and cannot do")]
    Unsupported(String),
    /// The ring is larger than the kernel makes one.
    #[error("a ring of {0} is too large: at most 2G")]
    Ring(ByteSize),
    /// The probes could not be loaded or attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The target could not be armed.
    #[error(transparent)]
    Arm(#[from] ArmError),
    /// The command did not start.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// Processes could not be held at their exit.
    #[error(transparent)]
    Hold(#[from] KeeperError),
    /// The recording could not be written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A sink of rows could not begin.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The CPUs are not known.
    #[error(transparent)]
    Cpus(#[from] CpusError),
    /// A file of the kernel that tells of frames cannot be read.
    #[error(transparent)]
    Frames(#[from] FileError),
    /// A thread or a signal handler could not be set up.
    #[error("cannot set up the session")]
    Io(#[from] io::Error),
}

/// Size of the ring of faults per CPU unless asked for, and its bounds, in bytes.
const RING_PER_CPU: u64 = 8 << 20;
const RING_MIN: u64 = 16 << 20;
const RING_MAX: u64 = 256 << 20;

/// Size of the ring of faults for this many CPUs: twenty times what they can fault between two drains.
fn default_ring(cpus: u32) -> ByteSize {
    let bytes = (RING_PER_CPU * u64::from(cpus)).next_power_of_two();
    ByteSize::new(bytes.clamp(RING_MIN, RING_MAX))
}

/// Files that the recorder may open while it runs.
const RECORDER_FILES: usize = 16;

/// Records until the target ends, the time is over, or a signal asks to stop.
///
/// `file` gets the recording, and `sinks` the rows while it runs.
pub fn run(
    options: &Options,
    file: impl Write + Send + 'static,
    sinks: Sinks,
) -> Result<Outcome, SessionError> {
    // Some of what follows cannot say that there is no room for a file; tokio panics.
    limits::check_files(live::SESSION_FILES)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(record(options, file, sinks))
}

async fn record(
    options: &Options,
    file: impl Write + Send + 'static,
    mut sinks: Sinks,
) -> Result<Outcome, SessionError> {
    heap::give_back_large();
    let features = host::Features::probe();
    let cpus = host::cpus()?;
    let ring = options.ring.unwrap_or_else(|| default_ring(cpus.possible));
    let (mut keeper, exits) = options.verify.then(Keeper::spawn).transpose()?.unzip();
    let plan = plan(options, &features, cpus.possible, ring, keeper.as_ref().map(Keeper::pid))?;
    let mut probes = Probes::load(&plan)?;
    // The kernel's own types take three times their size while they are parsed.
    heap::trim();
    let counters = probes.counters(cpus.possible)?;
    let heat = HeatReader::new(probes.heat(cpus.possible)?, cpus.possible);
    let (control, events) = (probes.control_ring()?, probes.fault_rings()?);
    let stacks = probes.stacks(&plan)?;
    let log = options.verbose.then(|| probes.logger()).transpose()?;

    // Signals first: one that comes during set-up must not leave the command behind.
    let mut watch = Watch::new(log)?;
    let (target, gated) = match &options.subject {
        Subject::Command(command) => {
            let gated = Gated::spawn(command)?;
            (Target::Gated(gated.pid().0), Some(gated))
        }
        Subject::Running(target) => (target.clone(), None),
    };
    let page_era = host::page_era();
    // Set-up takes a tenth of a second; the session starts here.
    let facts = host::facts()?;
    // Before anything is attached, so that nothing is skipped unseen.
    let losses = LossMeter::new(Arc::clone(&counters), cpus.possible, probes.skips()?);
    let armed = live::arm(&mut probes, &target, &cpus);
    // First, for where no file can be opened tasks pass for ended.
    limits::check_files(RECORDER_FILES)?;
    let armed = armed?;
    let entered = Entered::new(armed.entered, clock::boottime());
    let header = Header {
        memtrace_version: env!("CARGO_PKG_VERSION").to_owned(),
        host: facts.clone(),
        capture: capture(options, &plan, armed.gate),
        features: features.to_list(),
        page_era: Some(page_era),
    };
    let (scan, depth) = scope_of_scans(&features, &page_era);
    let scans = Prober::new(facts.page, scan, options.max_lock, depth)?;
    let stop_scans = scans.stop_switch();
    let (sender, batches) = live::batches();
    let writer = Writer::new(BufWriter::new(file), &header)?;
    sinks.begin(&facts)?;
    let wants = sinks.wants();
    let taker =
        Recorder::new(writer, sinks, &facts, header.options(wants), scans, heat, batches).with_exits(exits);
    let (scan_now, stopped_probe) = (taker.scan_switch(), taker.stopped_probe());
    let first = vec![Frame::Control(armed.joins)];
    let scope = (plan.follows_maps, options.symbols != SymbolTime::Never);
    let stacks = stacks.map(|(ring, table)| Stacks::new(ring, table, &facts, scope, &first));
    let rings =
        Rings { side_band: armed.side_band, control, events, event_bytes: plan.ring_bytes as usize, stacks };
    let drain = Drain::new(rings, losses, armed.cpus, sender.clone());
    let name = names(options.symbols, Arc::clone(&stop_scans));
    let (threads, failure) = Threads::start(taker, drain, sender, first, name)?;
    let command = gated.as_ref().map(Gated::pid);
    if let Some(command) = command {
        // So that its first faults have regions.
        stopped_probe.take(command, Tid(command.0));
    }
    if let Some(keeper) = &mut keeper {
        let (processes, max_lock) = (armed.tgids.clone(), options.max_lock);
        keeper.hold(&Task { processes, page: facts.page, scan, max_lock, depth })?;
    }

    if let Some(gated) = gated {
        gated.release()?;
    }
    watch.limit(options.duration);
    let ended =
        watch.wait(command, &armed.tgids, failure, || scan_now.store(true, Ordering::Relaxed)).await?;

    let charges = entered.charges();
    let exit_cost = keeper.map(Keeper::release).unwrap_or_default();
    // A last comparison, while changes are still seen.
    stopped_probe.take_all_maps();
    probes.disarm();
    watch.flush_log();
    let states = probes.states()?;
    let now = clock::boottime();
    let mut last: Batch = entered.loss(&charges, &states, now).map(Frame::Loss).into_iter().collect();
    last.extend(remains::batch(&states, plan.config.has_task_layout, now));
    let ((recorded, naming), ended) = watch.finish(threads.finish(last), ended, command, &stop_scans).await;
    if recorded.is_err() && command.is_some() && ended.exit.is_none() {
        // Why is the last word of memtrace; the command may take days until then.
        log::warn!("recording has failed; the command runs on");
    }
    let totals = live::heat::totals(&counters, cpus.possible);
    let recorded = recorded.and_then(|recorded| mark_end(recorded, &ended, totals, exit_cost));
    drop(probes);
    let (symbols, ended) = watch.finish(naming.finish(), ended, command, &stop_scans).await;
    let recorded = recorded.map(|(summary, end, sink)| {
        if let Err(error) = add_symbols(sink, &symbols) {
            log::warn!("cannot add names of functions: {error}");
        }
        (summary, end)
    });
    let alive = states.iter().filter(|(_, state)| state.flags & TaskState::EXITED == 0);
    let alive = alive.map(|(_, state)| Tgid(state.tgid)).chain(command).collect();
    let (ending, exit) = see_off(options, &mut watch, ended, command, &alive).await?;
    Ok(Outcome { ending, exit, recorded })
}

/// Writes the end mark: from here on the recording is whole, whatever is added to it. Returns what it is added to.
fn mark_end<W: Write>(
    recorded: Recorded<W>,
    ended: &Ended,
    totals: Totals,
    exit_cost: Cost,
) -> Result<(Summary, End, W), RecorderError> {
    let end = End {
        time: clock::boottime(),
        ending: ended.ending,
        exit: ended.exit.map(|(reason, _)| reason),
        rusage: ended.exit.map(|(_, faults)| faults),
        totals,
        cost: recorded.prober.cost(clock::own_cpu_time()) + exit_cost,
    };
    let sink = recorded.writer.finish(&end)?;
    Ok((recorded.summary, end, sink))
}

/// What finds the names of code at this time, until the switch is set.
fn names(time: SymbolTime, stop: Arc<AtomicBool>) -> impl FnOnce(SeenCode) -> Vec<Symbols> + Send + 'static {
    move |code| {
        let (mut symbols, mut unnamed) = code.into_parts();
        if time == SymbolTime::Later {
            unnamed.retain(Unnamed::is_of_machine);
        }
        symbols.extend(symbolize::name(unnamed, &symbolize::debug_dirs(), &stop));
        symbols
    }
}

/// By which categories the kernel can be asked for pages, and how much can be read of each.
fn scope_of_scans(features: &host::Features, page_era: &PageEra) -> (PageCategories, ScanDepth) {
    let scan =
        if features.is_usable(Facility::PagemapScan) { page_era.scan } else { PageCategories::empty() };
    let has_frames = [Facility::FrameNumbers, Facility::PageFlags].iter().all(|one| features.is_usable(*one));
    (scan, if has_frames { ScanDepth::Frames } else { ScanDepth::Words })
}

/// Stays with a command that outlives the recording, as long as its user expects.
async fn see_off(
    options: &Options,
    watch: &mut Watch,
    ended: Ended,
    command: Option<Tgid>,
    alive: &BTreeSet<Tgid>,
) -> io::Result<(Ending, Option<ExitReason>)> {
    let exit = ended.exit.map(|(reason, _)| reason);
    let Some(command) = command.filter(|_| exit.is_none()) else {
        return Ok((ended.ending, exit));
    };
    match ended.ending {
        Ending::Target => Ok((Ending::Target, exit)),
        Ending::Duration if options.kill => Ok((Ending::Duration, Some(watch.kill(command, alive).await?))),
        Ending::Duration => match watch.wait_untraced(command).await? {
            Ended { ending: Ending::Target, exit } => Ok((Ending::Target, exit.map(|(reason, _)| reason))),
            Ended { ending, .. } => Ok((ending, None)),
        },
        Ending::Failure => {
            let exit = watch.wait_untraced(command).await?.exit;
            Ok((Ending::Failure, exit.map(|(reason, _)| reason)))
        }
        Ending::Signal(libc::SIGINT) => Ok((ended.ending, watch.wait_briefly(command).await?)),
        Ending::Signal(_) => Ok((ended.ending, None)),
    }
}

/// Which tasks `subject` concerns.
fn reach(subject: &Subject) -> Reach {
    match subject {
        Subject::Command(_)
        | Subject::Running(Target::Gated(_) | Target::Processes(_) | Target::Threads(_)) => Reach::Named,
        Subject::Running(Target::Cgroup(_)) => Reach::Cgroup,
        Subject::Running(Target::System) => Reach::System,
    }
}

/// Decides how to load the programs from what this host can do.
fn plan(
    options: &Options,
    features: &host::Features,
    possible_cpus: u32,
    ring: ByteSize,
    keeper: Option<u32>,
) -> Result<Plan, SessionError> {
    let namespaces = Namespaces::find(features);
    if let Some(obstacle) = namespaces.obstacle(reach(&options.subject)) {
        return Err(SessionError::Unsupported(obstacle));
    }
    let offsets = features.offsets().map_err(SessionError::Unsupported)?;
    let from_records = features.with_event_offsets(&offsets);
    let cgroup = match &options.subject {
        Subject::Running(Target::Cgroup(cgroup)) => Some(cgroup),
        Subject::Command(_) | Subject::Running(_) => None,
    };
    let whole_system = matches!(options.subject, Subject::Running(Target::System));
    let config = Config {
        follow_forks: options.follow_forks.into(),
        full_detail: (options.detail == Detail::Full).into(),
        join_groups: cgroup.is_some().into(),
        whole_system: whole_system.into(),
        cgroup_hierarchy: cgroup.map_or(0, |cgroup| cgroup.hierarchy.into()),
        cgroup_id: cgroup.map_or(0, |cgroup| cgroup.id),
        cgroup_path_len: cgroup.map_or(0, |cgroup| cgroup.path.len() as u64),
        // The helper takes a typed pointer, which the verifier knows from BTF.
        has_task_pt_regs: (offsets.has_task_layout != 0 && features.is_usable(Facility::SyscallNames)).into(),
        has_requests: features.is_usable(Facility::IoUring).into(),
        pid_namespace: namespaces.pid_inode().unwrap_or(0),
        // Without the layout of tasks nobody could say who is held.
        holder: keeper.filter(|_| call::IS_KNOWN && offsets.has_task_layout != 0).map_or(0, u64::from),
        ..from_records.unwrap_or(offsets)
    };
    Ok(Plan {
        from_records: from_records.is_some(),
        config,
        cgroup_path: cgroup.map(|cgroup| cgroup.path.clone()).unwrap_or_default(),
        entry: if features.is_usable(Facility::FaultTracepoints) {
            Entry::Tracepoints
        } else {
            Entry::Software
        },
        lock: features.lock_arguments(),
        follows_maps: features.is_usable(Facility::CallTracepoint)
            && features.is_usable(Facility::SideBand)
            // What the other threads of the process do is not seen.
            && !matches!(options.subject, Subject::Running(Target::Threads(_))),
        ring_bytes: u32::try_from(ring.get()).map_err(|_| SessionError::Ring(ring))?,
        possible_cpus,
        stacks: options.stacks,
        verbose: options.verbose,
    })
}

/// What the recording says of how it was made.
fn capture(options: &Options, plan: &Plan, gate: Option<FaultCounts>) -> Capture {
    let (command, targets) = match &options.subject {
        Subject::Command(command) => {
            let words = command.iter().map(|word| word.to_string_lossy().into_owned());
            (words.collect(), "command".to_owned())
        }
        Subject::Running(target) => (Vec::new(), target.to_string()),
    };
    Capture {
        command,
        targets,
        detail: options.detail,
        interval: options.interval,
        ring_bytes: plan.ring_bytes.into(),
        follow_forks: options.follow_forks,
        follows_maps: plan.follows_maps,
        verify: options.verify,
        focus: options.focus.clone(),
        gate,
        stacks: options.stacks,
    }
}
