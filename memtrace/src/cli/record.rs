//! `memtrace record`: what was typed, what it means, and what is said at the end.
//!
//! Layer: top. Input: [`RecordArgs`]. Output: a recording, a summary on stderr, the exit code.
//! Keeps: stdout belongs to the command; every line for people goes to stderr.
//! Not here: recording (`session`), the file (`output`).

use std::{collections::BTreeSet, ffi::OsString, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};

mod recording;
mod summary;

use recording::RecordingFile;

use super::output::{Output, Replacement};
use crate::{
    export::{Sink, Sinks, TIMELINE, csv::Csv},
    live::{Cgroup, Target},
    pipeline::{Area, Detail, FocusOptions},
    record::{Ending, ExitReason},
    session::{self, LaunchError, Options, SessionError, Subject, SymbolTime},
    sys::{process, signals},
    units::{ByteSize, CpuShare, Nanos},
};

/// Exit code for every failure of memtrace's own.
pub(super) const FAILURE: u8 = 125;
/// Exit code when the command cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// Exit code when there is no such command.
const NOT_FOUND: u8 = 127;
/// Exit code when `--duration --kill` ended the command.
const KILLED: u8 = 124;

/// Trace page faults, changes of address spaces and page state into a recording.
#[derive(Args, Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "flags that people can give independently")]
#[command(after_help = "\
Examples:
  memtrace record -- python3 train.py       trace a command, its threads and its children
  memtrace record -p 4242 --duration 30s    trace a running process for half a minute
  memtrace record -g -- ./server            with the stack of each fault, also without frame pointers
  memtrace record --csv live.csv -- make    write the timeline as CSV while recording
  memtrace record --verify -- make          compare regions with the kernel's at each exit too

Exit codes:
  that of the command, or death by its signal; 125 memtrace failed; 126 the command cannot be
  executed; 127 there is no such command; 124 --duration --kill ended it

Signals:
  ^C stops and writes, a second one does not wait for the command; SIGTERM and SIGHUP go to the
  command too; SIGUSR2 compares all regions with the kernel's, and scans their pages

MEMTRACE_DISABLE=fault_tracepoints,pagemap_scan treats these features as missing.")]
pub(super) struct RecordArgs {
    /// Trace these processes (PID,PID…), with all their threads and what they start
    #[arg(short, long = "pid", value_name = "PID", value_delimiter = ',', help_heading = "Target")]
    pids: Vec<u32>,

    /// Trace these threads, and what they start
    #[arg(short, long = "tid", value_name = "TID", value_delimiter = ',', help_heading = "Target")]
    tids: Vec<u32>,

    /// Trace the processes of a cgroup (version 1 or 2) and of those below it
    #[arg(long, value_name = "PATH", help_heading = "Target")]
    cgroup: Option<PathBuf>,

    /// Trace every process of the system
    #[arg(short, long = "all", help_heading = "Target")]
    all: bool,

    /// Do not trace the processes that traced ones start
    #[arg(long, help_heading = "Target")]
    no_follow_forks: bool,

    /// Command to run and trace, after `--`
    #[arg(value_name = "CMD", trailing_var_arg = true, help_heading = "Target")]
    pub(super) command: Vec<OsString>,

    /// File to record into; `-` is stdout [default: memtrace.mtrace]
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub(super) output: Option<PathBuf>,

    /// Record the stack in user mode of each fault that completed or failed, and of each call that changes an address space
    #[arg(short = 'g', long = "stacks", help_heading = "Output")]
    stacks: bool,

    /// With -g: when code gets names of functions: when recording ends (now), or by `memtrace symbolize` (later), but for
    /// those that only this machine has, of the kernel and of just-in-time compilers
    #[arg(
        long,
        value_name = "WHEN",
        value_enum,
        requires = "stacks",
        default_value = "now",
        help_heading = "Output"
    )]
    symbols: SymbolsArg,

    /// Write the timeline as CSV while recording; replaces an older timeline
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    csv: Option<PathBuf>,

    /// Replace an output file that is no recording
    #[arg(long, help_heading = "Output")]
    force: bool,

    /// Stop recording after this time, such as 30s; a command runs on, and memtrace waits for it
    #[arg(long, value_name = "TIME", help_heading = "Limits")]
    duration: Option<Nanos>,

    /// With --duration: end the command too (SIGTERM, 2 s, SIGKILL)
    #[arg(long, requires = "duration", help_heading = "Limits")]
    kill: bool,

    /// With a command or -p: trace each process by ptrace and hold it at its exit until its maps are read a last time, to
    /// compare them; one that a debugger among them wants is let go
    #[arg(long, help_heading = "Limits")]
    verify: bool,

    /// Length of a timeline interval, such as 100ms
    #[arg(long, value_name = "TIME", default_value = "100ms", help_heading = "Limits")]
    interval: Nanos,

    /// Longest time for which a scan of pages keeps the target from changing its memory map, such as 500us
    #[arg(long, value_name = "TIME", default_value = "2ms", help_heading = "Limits")]
    max_lock: Nanos,

    /// Share of one CPU that scans of pages and readings of counters may take, such as 5%
    #[arg(long, value_name = "SHARE", default_value = "5%", help_heading = "Limits")]
    max_cpu: CpuShare,

    /// Scan this after each interval, whatever happens there: `all`, addresses (START-END, START+SIZE), or regions with
    /// this in their name; without it, at what is `hot`
    #[arg(long, value_name = "AREA", help_heading = "Limits")]
    focus: Vec<String>,

    /// Size of the ring buffer of faults, such as 16M: a power of two [default: 8M per CPU, at least 16M]
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    ring_size: Option<ByteSize>,

    /// Record each fault, or only count them per 2 MiB of address space
    #[arg(long, value_enum, default_value = "full", help_heading = "Limits")]
    detail: DetailArg,
}

/// Values of `--symbols`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SymbolsArg {
    /// No names
    None,
    /// When recording ends
    Now,
    /// By `memtrace symbolize`
    Later,
}

/// Values of `--detail`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DetailArg {
    /// Each fault with address, instruction pointer, access and latency
    Full,
    /// Counts alone
    Counts,
}

/// How the CSV of a timeline begins.
const TIMELINE_HEAD: &[u8] = b"start_ns,end_ns,tgid,";

/// Shortest interval: below it scans cost more than they find.
const MIN_INTERVAL: Nanos = Nanos::new(1_000_000);

/// Shortest time under the lock of a memory map: below it calls cost more than what they read.
const MIN_LOCK: Nanos = Nanos::new(20_000);

impl RecordArgs {
    /// What was typed, as a session understands it.
    fn options(&self, verbose: bool) -> anyhow::Result<Options> {
        if self.kill && self.command.is_empty() {
            bail!("--kill ends the command, and there is none: leave it out with -p, -t, --cgroup and -a");
        }
        if self.verify && self.command.is_empty() && self.pids.is_empty() {
            bail!("--verify holds single processes at their exit: give a command or -p, or leave it out");
        }
        let duration = self.duration;
        if duration == Some(Nanos::new(0)) {
            bail!("--duration 0 records nothing: give a time above zero, such as 10s");
        }
        let interval = self.interval;
        if interval < MIN_INTERVAL {
            bail!("--interval {interval} is too short: give 1ms or more");
        }
        let max_lock = self.max_lock;
        if max_lock < MIN_LOCK {
            bail!("--max-lock {max_lock} is too short: give {MIN_LOCK} or more");
        }
        if let Some(size) = self.ring_size {
            check_ring(size)?;
        }
        Ok(Options {
            subject: self.subject()?,
            detail: match self.detail {
                DetailArg::Full => Detail::Full,
                DetailArg::Counts => Detail::Counts,
            },
            interval,
            max_lock,
            focus: FocusOptions { areas: self.areas()?, max_cpu: self.max_cpu },
            ring: self.ring_size,
            follow_forks: !self.no_follow_forks,
            duration,
            kill: self.kill,
            verify: self.verify,
            stacks: self.stacks,
            symbols: match self.symbols {
                SymbolsArg::None => SymbolTime::Never,
                SymbolsArg::Now => SymbolTime::AtEnd,
                SymbolsArg::Later => SymbolTime::Later,
            },
            verbose,
        })
    }

    /// What is scanned beside what is hot.
    fn areas(&self) -> anyhow::Result<Vec<Area>> {
        let named = self.focus.iter().filter(|area| *area != "hot");
        named.map(|area| area.parse().context("--focus")).collect()
    }

    /// Opens the file of the live timeline, which must be another than that of the recording.
    fn open_csv(&self, recording: &RecordingFile) -> anyhow::Result<Option<Output>> {
        let Some(path) = &self.csv else { return Ok(None) };
        if path == "-" {
            bail!("--csv - would mix with the output of the command: give the name of a file");
        }
        let csv = Output::open(
            path,
            recording::only(self.force, |head| head.starts_with(TIMELINE_HEAD), "timeline"),
        )?;
        if csv.is_same(&recording.output)? {
            bail!("the recording and --csv go to the same file: {}", path.display());
        }
        Ok(Some(csv))
    }

    /// The one target that was named.
    fn subject(&self) -> anyhow::Result<Subject> {
        let mut subjects = Vec::new();
        if !self.command.is_empty() {
            subjects.push(Subject::Command(self.command.clone()));
        }
        if !self.pids.is_empty() {
            subjects.push(Subject::Running(Target::Processes(distinct(&self.pids))));
        }
        if !self.tids.is_empty() {
            subjects.push(Subject::Running(Target::Threads(distinct(&self.tids))));
        }
        if let Some(path) = &self.cgroup {
            subjects.push(Subject::Running(Target::Cgroup(Cgroup::find(path)?)));
        }
        if self.all {
            subjects.push(Subject::Running(Target::System));
        }
        match (subjects.pop(), subjects.is_empty()) {
            (Some(subject), true) => Ok(subject),
            (Some(_), false) => bail!("more than one target: give a command, -p, -t, --cgroup or -a"),
            (None, _) => {
                bail!("nothing to trace: give a command after `--`, or -p PID, -t TID, --cgroup PATH, -a")
            }
        }
    }
}

/// The numbers in `ids`, each once.
fn distinct(ids: &[u32]) -> Vec<u32> {
    BTreeSet::from_iter(ids).into_iter().copied().collect()
}

/// Refuses ring sizes that the kernel would.
fn check_ring(size: ByteSize) -> anyhow::Result<()> {
    let bytes = size.get();
    let page = rustix::param::page_size() as u64;
    if bytes > 1 << 30 {
        bail!("--ring-size {size} is too large: give 1G or less");
    }
    let nearest = ByteSize::new(bytes.max(page).next_power_of_two());
    if bytes != nearest.get() {
        bail!("--ring-size {size} will not do: the kernel wants a power of two, such as {nearest}");
    }
    Ok(())
}

/// Records; prints the summary unless `quiet`.
pub(super) fn run(args: &RecordArgs, quiet: bool, verbose: bool) -> anyhow::Result<ExitCode> {
    let options = args.options(verbose)?;
    signals::unblock(&session::SIGNALS);
    let output = RecordingFile::open(args.output.as_deref(), args.force)?;
    let csv = args.open_csv(&output).inspect_err(|_| output.discard())?;
    let sinks = csv.iter().map(timeline).collect::<anyhow::Result<Sinks>>()?;
    let outcome = match session::run(&options, Replacement::of(&output.output)?, sinks) {
        Ok(outcome) => outcome,
        Err(error) => {
            output.discard();
            csv.iter().for_each(Output::discard);
            return failed(error);
        }
    };
    let (summary, end) = outcome.recorded.context("recording stopped before its time")?;
    if !quiet {
        // Whoever reads stderr may be gone; how the command ended is not changed by that.
        let _gone = summary::print(&summary, &end, options.detail, &output);
    }
    Ok(exit_code(outcome.ending, outcome.exit))
}

/// What writes the live timeline to `csv`.
fn timeline(csv: &Output) -> anyhow::Result<Box<dyn Sink + Send>> {
    Ok(Box::new(Csv::new(TIMELINE, Replacement::of(csv)?)))
}

/// The exit code after a recording that is whole; dies instead where the command, or memtrace, got a signal.
fn exit_code(ending: Ending, exit: Option<ExitReason>) -> ExitCode {
    match (ending, exit) {
        (Ending::Signal(signal), _) | (Ending::Target, Some(ExitReason::Signal(signal))) => {
            // Not an argument of the macro, which evaluates none where nothing is logged.
            let error = process::die_by(signal);
            log::warn!("cannot die by signal {signal}: {error}");
            // The shell's convention.
            ExitCode::from(u8::try_from(128 + signal).unwrap_or(FAILURE))
        }
        (Ending::Duration, Some(_)) => ExitCode::from(KILLED),
        (Ending::Failure, _) => ExitCode::from(FAILURE),
        (Ending::Target, Some(ExitReason::Code(code))) => {
            ExitCode::from(u8::try_from(code).unwrap_or(FAILURE))
        }
        (Ending::Target | Ending::Duration, None) => ExitCode::SUCCESS,
    }
}

/// The exit code of a set-up that failed; the message goes with it where the code says less than it.
fn failed(error: SessionError) -> anyhow::Result<ExitCode> {
    let code = match &error {
        SessionError::Launch(LaunchError::NotFound { .. }) => NOT_FOUND,
        SessionError::Launch(LaunchError::NotExecutable { .. }) => NOT_EXECUTABLE,
        _ => return Err(error.into()),
    };
    super::complain(&error.into());
    Ok(ExitCode::from(code))
}
