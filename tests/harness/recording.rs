//! Runs memtrace, and reads what it recorded through the verbs that users have.
//!
//! Input: a command to trace. Output: [`Recording`]: exported tables, and the report.
//! Keeps: everything lies in a directory of its own that goes with the recording.
//! Not here: tables (`tables`), ground truth (`ledger`), running programs (`run`).

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    follow::Frames,
    ledger::{Area, Ready},
    memory::page_bytes,
    rows::{FaultRow, LossRow},
    run::{Finished, Run, Running},
    task::Usage,
};

/// The program under test; made by [`memtrace!`](crate::memtrace).
#[derive(Clone, Copy, Debug)]
pub struct Memtrace {
    program: &'static str,
    disabled: &'static str,
    /// What starts it: a program and its arguments; nothing if it is started as it is.
    prefix: &'static [&'static str],
}

/// The program under test.
#[macro_export]
macro_rules! memtrace {
    () => {
        $crate::recording::Memtrace::new($crate::program!("memtrace-under-test"))
    };
}

impl Memtrace {
    /// The program at this path.
    #[must_use]
    pub const fn new(program: &'static str) -> Self {
        Self { program, disabled: "", prefix: &[] }
    }

    /// Its path.
    #[must_use]
    pub const fn program(self) -> &'static str {
        self.program
    }

    /// The same program on a kernel that lacks `features`.
    #[must_use]
    pub const fn without(self, features: &'static str) -> Self {
        Self { disabled: features, ..self }
    }

    /// The same program without the capability to see frame numbers; takes `setpriv`.
    #[must_use]
    pub const fn without_frame_numbers(self) -> Self {
        self.within(&["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"])
    }

    /// The same program where `prefix`, a program and its arguments, starts it. What it records is read as from outside.
    #[must_use]
    pub const fn within(self, prefix: &'static [&'static str]) -> Self {
        Self { prefix, ..self }
    }

    /// A command line of it.
    #[must_use]
    pub fn run<I: IntoIterator<Item: AsRef<std::ffi::OsStr>>>(self, args: I) -> Run {
        let run = match self.prefix {
            [] => Run::new(self.program),
            [starter, arguments @ ..] => Run::new(starter).args(arguments).arg(self.program),
        };
        let run = run.args(args);
        if self.disabled.is_empty() { run } else { run.env("MEMTRACE_DISABLE", self.disabled) }
    }

    /// A command line of it as nobody, with the four capabilities for tracing as a file would give them; and with all
    /// the locked memory that kernels before 5.11 charge eBPF to.
    #[must_use]
    pub fn as_tracer(self, args: &[&str]) -> Run {
        const CAPABILITIES: &str = "+bpf,+perfmon,+sys_ptrace,+dac_read_search";
        // Where the limit matters, in guests, root may lift it.
        let script = r#"ulimit -l unlimited 2>/dev/null; exec setpriv "$@""#;
        Run::new("sh")
            .args(["-c", script, "sh", "--reuid=65534", "--regid=65534", "--clear-groups"])
            .args([format!("--inh-caps={CAPABILITIES}"), format!("--ambient-caps={CAPABILITIES}")])
            .arg(self.program)
            .args(args)
    }

    /// Starts to record into a directory of its own.
    #[must_use]
    #[track_caller]
    pub fn start(self, options: &[&str], command: &[&str]) -> InProgress {
        let directory = crate::directory();
        let path = directory.path().join("recording.mtrace");
        let separator: &[&str] = if command.is_empty() { &[] } else { &["--"] };
        let running = self
            .run(["record", "-o"])
            .arg(&path)
            .args(options)
            .args(separator)
            .args(command)
            .with_stdin()
            .in_dir(directory.path())
            .start();
        InProgress { memtrace: self, directory, path, running, frames: Frames::default() }
    }

    /// Records `command` to its end.
    #[must_use]
    #[track_caller]
    pub fn record(self, options: &[&str], command: &[&str]) -> Recording {
        self.start(options, command).finish()
    }
}

/// A recording that is being made.
#[derive(Debug)]
pub struct InProgress {
    pub(crate) memtrace: Memtrace,
    directory: TempDir,
    pub(crate) path: PathBuf,
    /// memtrace.
    pub running: Running,
    /// What is in the file and was not shown yet.
    pub(crate) frames: Frames,
}

impl InProgress {
    /// The directory that memtrace and the command run in.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Waits until the probes are armed: the head of the file is written after that.
    #[track_caller]
    pub fn wait_until_armed(&mut self) {
        self.running.wait_for_content(&self.path);
    }

    /// Waits until the report of what is in the file by now has `least` at the JSON pointer `pointer`.
    #[track_caller]
    pub fn wait_for_report(&mut self, pointer: &str, least: u64) {
        let Self { memtrace, path, running, .. } = self;
        running.wait_for(&format!("{least} at {pointer}"), |_| {
            let report = memtrace.run(["report", "--json"]).arg(&*path).finish();
            let report: Value = serde_json::from_str(&report.stdout).ok()?;
            report.pointer(pointer)?.as_u64().filter(|number| *number >= least)
        });
    }

    /// Waits for the end of memtrace.
    #[must_use]
    #[track_caller]
    pub fn finish(self) -> Recording {
        let Self { memtrace, directory, path, running, frames: _ } = self;
        let (memtrace, run) = (memtrace.within(&[]), running.finish());
        Recording { memtrace, directory, path, run, texts: RefCell::default() }
    }
}

/// Most programs that a preemptible kernel may skip while a short command is recorded: they are skipped for all tasks of the machine,
/// and others change maps meanwhile.
pub const MOST_SKIPPED: u64 = 100;

/// A recording, and how memtrace ended that made it.
#[derive(Debug)]
pub struct Recording {
    pub(crate) memtrace: Memtrace,
    directory: TempDir,
    path: PathBuf,
    /// The end of `memtrace record`, with what the command wrote.
    pub run: Finished,
    /// The report and the tables that were asked for: a replay of a long recording takes seconds.
    texts: RefCell<BTreeMap<String, String>>,
}

impl Recording {
    /// Checks the exit code of `memtrace record`.
    #[must_use]
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        Self { run: self.run.expect_code(code), ..self }
    }

    /// Checks that nothing was lost but little that the kernel says that it skipped, and returns the report.
    #[must_use]
    #[track_caller]
    pub fn expect_complete(&self) -> Report {
        let skips = self.expect_complete_but_for_skips();
        assert!(skips <= MOST_SKIPPED, "{skips}");
        let report = self.report();
        assert_eq!(report.at("/complete"), skips == 0, "{}", self.export("losses"));
        report
    }

    /// Checks that nothing was lost but what the kernel says that it skipped, and returns how much that is: at most.
    #[track_caller]
    pub fn expect_complete_but_for_skips(&self) -> u64 {
        let (skips, others) = self.skips_and_other_losses();
        assert!(others.is_empty(), "{others:?}");
        skips
    }

    /// How much the kernel says that it skipped, and what else was lost. It skips nothing at raw tracepoints before Linux 7.0;
    /// later ones do while they have preempted the same program, for any task. At classic ones it does while it has preempted a
    /// bpf(2) call, anybody's, that reads or changes a map.
    #[must_use]
    #[track_caller]
    pub fn skips_and_other_losses(&self) -> (u64, Vec<LossRow>) {
        let may_skip = !self.report().has("raw_tracepoints");
        let is_skip = |loss: &LossRow| may_skip && loss.cause == "skipped";
        let (skips, others): (Vec<_>, Vec<_>) = self.losses().into_iter().partition(is_skip);
        (skips.iter().filter_map(|loss| loss.count).sum(), others)
    }

    /// Checks that what was printed at the end is what the report says.
    #[track_caller]
    pub fn expect_summary(&self) {
        let report = self.report();
        let number = |pointer: &str| report.number(pointer);
        let incomplete = ["failed", "refused", "emulated", "retried", "unfinished"];
        let incomplete: u64 = incomplete.iter().map(|kind| number(&format!("/faults/{kind}"))).sum();
        let (minor, major) = (number("/faults/minor"), number("/faults/major"));
        let millis = number("/duration_ns") / 1_000_000;
        let processes = match report.processes().len() {
            1 => "1 process".to_owned(),
            count => format!("{count} processes"),
        };
        let faults = format!(
            "memtrace: {minor} minor and {major} major faults, {incomplete} that did not complete, in {}.{:03} s of {processes}",
            millis / 1000,
            millis % 1000,
        );
        let losses = match (number("/losses/gaps"), self.losses()) {
            (0, _) => "memtrace: lost nothing".to_owned(),
            (gaps, rows) => {
                let known: u64 = rows.iter().filter_map(|loss| loss.count).sum();
                let at_least = if rows.iter().all(|loss| loss.count.is_some()) { "" } else { "at least " };
                format!("memtrace: lost {at_least}{known} records in {gaps} gaps")
            }
        };
        for line in [faults, losses] {
            assert!(self.run.stderr.lines().any(|said| said.starts_with(&line)), "{line}: {:#?}", self.run);
        }
    }

    /// The directory that memtrace and the command ran in.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What `memtrace report --json` says.
    #[must_use]
    #[track_caller]
    pub fn report(&self) -> Report {
        let report =
            || self.memtrace.run(["report", "--json"]).arg(&self.path).finish().expect_code(0).stdout;
        Report(serde_json::from_str(&self.once("report", report)).expect("the report is JSON"))
    }

    /// What `make` makes, which does so only the first time that `what` is asked for.
    pub(crate) fn once(&self, what: &str, make: impl FnOnce() -> String) -> String {
        self.texts.borrow_mut().entry(what.to_owned()).or_insert_with(make).clone()
    }

    /// The CSV that was written while recording, in the file `name`.
    #[must_use]
    #[track_caller]
    pub fn live_csv(&self, name: &str) -> String {
        fs::read_to_string(self.directory().join(name)).expect("the CSV was written")
    }
}

impl Area {
    /// What `faults` has of this area: as many of each kind as there are rows of its thread in its addresses.
    #[must_use]
    pub fn found_in(&self, faults: &[FaultRow]) -> Self {
        let mut found = Self { tid: self.tid, start: self.start, end: self.end, ..Self::default() };
        for row in self.rows_of(faults) {
            match row.kind.as_str() {
                "minor" => found.minor += 1,
                "major" => found.major += 1,
                "failed" => found.failed += 1,
                "refused" => found.refused += 1,
                "emulated" => found.emulated += 1,
                "retried" => found.retried += 1,
                "unfinished" => found.unfinished += 1,
                kind => panic!("a fault of kind {kind}: {row:?}"),
            }
        }
        found
    }

    /// The rows of its thread in its addresses.
    pub fn rows_of<'a>(&'a self, faults: &'a [FaultRow]) -> impl Iterator<Item = &'a FaultRow> {
        let is_here = |row: &&FaultRow| row.tid == self.tid && (self.start..self.end).contains(&row.addr);
        faults.iter().filter(is_here)
    }
}

impl Ready {
    /// What a workload that waits has printed.
    #[must_use]
    #[track_caller]
    pub fn of(running: &mut Running) -> Self {
        serde_json::from_str(&running.first_line()).expect("the workload says that it is ready")
    }
}

/// What `memtrace report --json` says.
#[derive(Clone, Debug)]
pub struct Report(Value);

impl Report {
    /// The value at a JSON pointer, such as `/faults/minor`.
    #[must_use]
    #[track_caller]
    pub fn at(&self, pointer: &str) -> &Value {
        self.0.pointer(pointer).unwrap_or_else(|| panic!("no {pointer} in {:#}", self.0))
    }

    /// The number at a JSON pointer.
    #[must_use]
    #[track_caller]
    pub fn number(&self, pointer: &str) -> u64 {
        self.at(pointer).as_u64().unwrap_or_else(|| panic!("no number at {pointer} in {:#}", self.0))
    }

    /// The members `minor` and `major` of the object at a JSON pointer.
    #[must_use]
    #[track_caller]
    pub fn usage(&self, pointer: &str) -> Usage {
        usage(self.at(pointer))
    }

    /// Whether the facility called `name` could be used.
    #[must_use]
    #[track_caller]
    pub fn has(&self, name: &str) -> bool {
        self.at(&format!("/features/{name}")) == "usable"
    }

    /// The processes.
    #[must_use]
    #[track_caller]
    pub fn processes(&self) -> Vec<Process> {
        serde_json::from_value(self.at("/processes").clone()).expect("processes have the promised members")
    }

    /// How many faults lie under `/uncounted/by/KEY`; 0 if there is no such key.
    #[must_use]
    #[track_caller]
    pub fn uncounted_by(&self, key: &str) -> u64 {
        match self.at("/uncounted/by").get(key) {
            None => 0,
            Some(count) => count.as_u64().unwrap_or_else(|| panic!("uncounted by {key}: {count}")),
        }
    }
}

#[track_caller]
fn usage(value: &Value) -> Usage {
    Usage::deserialize(value).unwrap_or_else(|cause| panic!("{cause}: {value:#}"))
}

/// One process of a [`Report`].
#[derive(Clone, Debug, Deserialize)]
pub struct Process {
    /// Its process ID.
    pub tgid: u32,
    /// When it was born, or first known.
    pub birth_ns: u64,
    /// Its last name.
    pub comm: String,
    /// Completed faults in fault records.
    pub faults: Usage,
    /// Faults charged without an event; `None` where the kernel's counters could not be read.
    pub uncounted: Option<Usage>,
    /// What the kernel charged to it while it was traced, if any of its tasks told.
    pub kernel_counted: Option<Usage>,
    /// Its pages as last seen, if it was scanned.
    pub pages: Option<Pages>,
}

/// Numbers of pages.
#[derive(Clone, Debug, Deserialize)]
pub struct Pages {
    /// In memory.
    pub present: u64,
    /// Those of them that are the page of zeros, where scans could know.
    pub zero: Option<u64>,
}

impl Pages {
    /// Those that the kernel counts as resident, in KiB; `None` where scans could not know.
    #[must_use]
    pub fn resident_kib(&self) -> Option<u64> {
        Some((self.present - self.zero?) * page_bytes() as u64 / 1024)
    }
}
