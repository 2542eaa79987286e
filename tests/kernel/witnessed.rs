//! Recordings of a command below `witness`, which learns from wait4(2) what the kernel charged to it: the oracle of the accounting
//! identity.

use memtrace_tests::{
    ledger::Testimony,
    program,
    recording::{Memtrace, Process, Recording, Report},
    task::Usage,
};

/// What populates memory without an event: execve(2) copying arguments, `MAP_POPULATE` and its like, mlock(2), a core dump.
const POPULATING: [&str; 4] = ["exec", "populate", "mlock", "core_dump"];

/// Most pages of arguments and environment that the programs of these tests are started with: of most, and of the
/// one that `touch` executes with 256 KiB.
const PAGES_OF_ARGUMENTS: (u64, u64) = (4, 64);

/// A recording of `witness`, and what that says about the command below it.
pub(crate) struct Witnessed {
    pub(crate) recording: Recording,
    pub(crate) testimony: Testimony,
}

/// Records `command` below a witness.
#[track_caller]
pub(crate) fn witnessed(memtrace: Memtrace, options: &[&str], command: &[&str]) -> Witnessed {
    let witness = [program!("witness"), "--out", "testimony.json", "--"];
    let recording = memtrace.record(options, &[&witness, command].concat()).expect_code(0);
    let path = recording.directory().join("testimony.json");
    let text = std::fs::read_to_string(path).expect("the witness has written");
    let testimony = serde_json::from_str(&text).expect("the witness writes JSON");
    Witnessed { recording, testimony }
}

impl Witnessed {
    /// Checks that what memtrace has of all processes but the witness is what the kernel charged to them.
    #[track_caller]
    pub(crate) fn expect_identity(&self) {
        let report = self.recording.expect_complete();
        let processes = report.processes();
        let others: Vec<_> = processes.iter().filter(|process| process.comm != "witness").collect();
        let Testimony { pid, minflt, majflt, .. } = self.testimony;
        assert!(others.iter().any(|process| process.tgid == pid), "{pid} in {processes:#?}");
        let charged = Usage { minor: minflt, major: majflt };
        let recorded: Usage = others.iter().map(|process| process.faults).sum();
        if !report.has("btf") {
            return expect_only_populating_missed(&report, charged, recorded);
        }
        let counted = |process: &&Process| process.kernel_counted.expect("the account of a process");
        let uncounted = |process: &&Process| process.uncounted.expect("the account of a process");
        let counted_here = [recorded, others.iter().map(uncounted).sum()].into_iter().sum::<Usage>();
        assert_eq!(counted_here, charged, "recorded + uncounted = the kernel's count: {processes:#?}");
        assert_eq!(others.iter().map(counted).sum::<Usage>(), charged);
        if report.has("mmap_lock_tracepoint") && report.has("syscall_names") {
            let by = report.at("/uncounted/by").as_object().expect("causes by name");
            let unexplained: Vec<_> = by.keys().filter(|it| !POPULATING.contains(&it.as_str())).collect();
            assert!(unexplained.is_empty(), "uncounted though nothing populates: {by:?}");
        }
    }
}

/// Checks what can be known where the kernel's counters cannot be read: that all recorded faults were charged, and
/// that of the others there are no more than execve(2) populates for short arguments.
#[track_caller]
fn expect_only_populating_missed(report: &Report, charged: Usage, recorded: Usage) {
    assert!(report.at("/uncounted").is_null() && report.at("/kernel_counted").is_null());
    let missed = charged.minor.checked_sub(recorded.minor).expect("no fault is recorded twice");
    let execs = report.number("/tasks/execs");
    let most = PAGES_OF_ARGUMENTS.0 * execs + PAGES_OF_ARGUMENTS.1;
    assert!(missed <= most, "{missed} of {charged:?} not recorded, {execs} execs");
    assert_eq!(recorded.major, charged.major);
}
