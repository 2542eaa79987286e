//! The accounting identity, and what a fault record says, against programs that know what they did.
//!
//! Each workload runs below `witness`, which learns from wait4(2) what the kernel charged to it: the oracle.
//! Faults are compared with the ledger of the program that caused them.

use std::{
    collections::BTreeMap,
    os::fd::AsFd as _,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use aya::maps::loaded_maps;
use memtrace::sys::shared::SharedWords;
use memtrace_ebpf::HeatCell;
use memtrace_tests::{
    ledger::{Area, Ledger, Storm, Testimony},
    memtrace, program,
    recording::{Memtrace, Recording},
    require,
    rows::FaultRow,
    task::Usage,
};

#[path = "kernel/witnessed.rs"]
mod witnessed;

use witnessed::witnessed;

/// A phase of `touch` that was recorded.
struct Touched {
    recording: Recording,
    ledger: Ledger,
    faults: Vec<FaultRow>,
}

/// Records a phase of `touch`; its faults must be those of its ledger, and the identity must hold.
#[track_caller]
fn touched(memtrace: Memtrace, phase: &[&str]) -> Touched {
    let witnessed = witnessed(memtrace, &[], &[&[program!("touch")], phase].concat());
    witnessed.expect_identity();
    let recording = witnessed.recording;
    let ledger: Ledger = recording.run.last_line();
    let faults = recording.faults();
    expect_areas(&ledger, &faults);
    Touched { recording, ledger, faults }
}

/// Checks that each area of a ledger has exactly the faults that it lists.
#[track_caller]
fn expect_areas(ledger: &Ledger, faults: &[FaultRow]) {
    for area in &ledger.areas {
        assert_eq!(area.found_in(faults), *area, "in the table `faults`");
    }
}

impl Touched {
    /// How many faults in the area `index` have this kind, access and mode.
    fn count(&self, index: usize, kind: &str, access: &str, mode: &str) -> usize {
        self.ledger.areas[index]
            .rows_of(&self.faults)
            .filter(|row| row.kind == kind && row.access.as_deref() == Some(access) && row.mode == mode)
            .count()
    }

    /// Checks that all faults in the area `index` were taken by code of `module`, and that the report has at least them.
    #[track_caller]
    fn expect_module(&self, index: usize, module: &str) {
        let mut rows = self.ledger.areas[index].rows_of(&self.faults);
        assert!(rows.all(|row| row.ip_module.as_deref() == Some(module)), "{module}: {:?}", self.faults);
        let report = self.recording.report();
        let modules = report.at("/modules").as_array().expect("a list");
        let found = modules.iter().find(|one| one["module"] == module).expect("it faulted");
        assert!(found["minor"].as_u64() >= Some(self.ledger.areas[index].minor), "{found}");
    }
}

#[test]
fn first_writes_are_minor_write_faults_with_a_latency() {
    require!(root);
    require!(bpf);
    let touched = touched(memtrace!(), &["write", "--pages", "64"]);

    assert_eq!(touched.count(0, "minor", "write", "user"), 64);
    let mut rows = touched.ledger.areas[0].rows_of(&touched.faults);
    assert!(rows.all(|row| row.latency_ns.is_some_and(|latency| latency > 0)));
    touched.expect_module(0, program!("touch"));
}

#[test]
fn reads_give_the_zero_page_and_writes_fault_again() {
    require!(root);
    require!(bpf);
    let touched = touched(memtrace!(), &["read-write", "--pages", "64"]);

    assert_eq!(touched.count(0, "minor", "read", "user"), 64);
    assert_eq!(touched.count(0, "minor", "write", "user"), 64);
}

#[test]
fn populating_calls_are_uncounted_by_name() {
    require!(root);
    require!(bpf);
    require!(btf);
    // The tracepoint of the lock, and the helper that names the call.
    require!(kernel "5.15");
    for (phase, key) in [("populate", "populate"), ("populate-write", "populate"), ("lock", "mlock")] {
        let touched = touched(memtrace!(), &[phase, "--pages", "64"]);

        assert_eq!(touched.recording.report().uncounted_by(key), 64, "{phase}");
    }
}

#[test]
fn what_a_core_dump_populates_is_uncounted_by_name() {
    require!(root);
    require!(bpf);
    require!(btf);
    // Without the tracepoint of the lock such faults are found at the exit.
    require!(kernel "5.11");
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").expect("the kernel dumps core");
    if pattern.starts_with(['|', '/', '@']) {
        return memtrace_tests::requirement::skip(
            "needs core dumps in the working directory: sysctl kernel.core_pattern=core",
        );
    }
    // The kernel reads what it dumps, and of shared memory it makes the pages that nobody has touched.
    let dumped = [0, 64].map(|pages| {
        let script = r#""$0" core "$1" || exit 0"#;
        let witnessed =
            witnessed(memtrace!(), &[], &["sh", "-c", script, program!("exiting"), &pages.to_string()]);
        witnessed.expect_identity();
        let names = std::fs::read_dir(witnessed.recording.directory()).expect("a directory");
        let names: Vec<_> = names.map(|entry| entry.expect("an entry").file_name()).collect();
        assert!(names.iter().any(|name| name.as_encoded_bytes().starts_with(b"core")), "{names:?}");
        witnessed.recording.report().uncounted_by("core_dump")
    });

    assert_eq!(dumped[1] - dumped[0], 64, "{dumped:?}");
}

#[test]
fn read_call_into_fresh_pages_faults_in_kernel_mode() {
    require!(root);
    require!(bpf);
    let touched = touched(memtrace!(), &["kernel-write", "--pages", "64"]);

    assert_eq!(touched.count(0, "minor", "write", "kernel"), 64);
    touched.expect_module(0, "[kernel]");
}

#[test]
fn access_that_a_handler_permits_has_failed_before() {
    require!(root);
    require!(bpf);
    let touched = touched(memtrace!(), &["segv-retry", "--pages", "16"]);

    assert_eq!(touched.count(0, "failed", "write", "user"), 16);
}

#[test]
fn access_has_failed_though_its_handler_faults_elsewhere() {
    require!(root);
    require!(bpf);
    let touched = touched(memtrace!(), &["segv-elsewhere", "--pages", "16"]);

    assert_eq!(touched.count(0, "failed", "write", "user"), 16);
}

#[test]
fn system_call_with_a_bad_address_is_refused_in_kernel_mode() {
    require!(root);
    require!(bpf);
    let touched = touched(memtrace!(), &["efault", "--pages", "16"]);

    assert_eq!(touched.count(0, "refused", "write", "kernel"), 16);
}

#[test]
fn file_in_the_page_cache_faults_as_often_as_the_kernel_says() {
    require!(root);
    require!(bpf);
    let _checked = touched(memtrace!(), &["file-read", "--pages", "64"]);
    let written = touched(memtrace!(), &["file-write", "--pages", "64"]);

    assert_eq!(written.count(0, "minor", "write", "user"), 64);
}

#[test]
fn file_outside_the_page_cache_takes_major_faults() {
    require!(root);
    require!(bpf);
    let touched = touched(memtrace!(), &["file-cold", "--pages", "64"]);
    if touched.ledger.charged.major == 0 {
        return memtrace_tests::requirement::skip(
            "needs a file system that drops pages when asked (not tmpfs)",
        );
    }

    let major = usize::try_from(touched.ledger.charged.major).expect("a few");
    assert_eq!(touched.count(0, "major", "read", "user"), major);
}

#[test]
fn copies_on_write_belong_to_the_process_that_writes() {
    require!(root);
    require!(bpf);
    let touched = touched(memtrace!(), &["fork", "--pages", "64"]);

    assert_eq!(touched.count(1, "minor", "write", "user"), 64);
}

#[test]
fn threads_have_their_own_faults() {
    require!(root);
    require!(bpf);
    let touched = touched(memtrace!(), &["threads", "--threads", "4", "--pages", "64"]);

    assert_eq!(touched.ledger.areas.len(), 4);
    let tgids =
        touched.faults.iter().filter(|row| touched.ledger.areas.iter().any(|area| area.tid == row.tid));
    assert!(tgids.into_iter().all(|row| row.tgid == Some(touched.ledger.pid)));
}

#[test]
fn exec_copies_its_arguments_uncounted() {
    require!(root);
    require!(bpf);
    require!(btf);
    // Without the tracepoint of the lock they are found at a fault amid the call.
    require!(kernel "5.11");
    let touched = touched(memtrace!(), &["exec", "--argument-kib", "512", "--pages", "64"]);

    // The arguments alone take 128 pages.
    assert!(touched.recording.report().uncounted_by("exec") >= 512 * 1024 / 4096);
}

#[test]
fn thread_that_executes_takes_over_the_process() {
    require!(root);
    require!(bpf);
    let touched = touched(memtrace!(), &["thread-exec", "--pages", "64"]);

    assert_eq!(touched.ledger.areas[0].tid, touched.ledger.pid);
}

#[test]
fn spawned_process_is_followed() {
    require!(root);
    require!(bpf);
    let touched = touched(memtrace!(), &["spawn", "--pages", "64"]);

    assert_eq!(touched.count(0, "minor", "write", "user"), 64);
}

#[test]
fn spawned_process_is_left_alone_without_following() {
    require!(root);
    require!(bpf);
    let command = [program!("touch"), "spawn", "--pages", "64"];
    let recording = memtrace!().record(&["--no-follow-forks"], &command).expect_code(0);

    let ledger: Ledger = recording.run.last_line();
    let faults = recording.faults();
    assert!(faults.iter().all(|row| row.tgid != Some(ledger.pid)));
    assert!(!faults.is_empty());
}

#[test]
fn identity_holds_for_a_directory_listing() {
    require!(root);
    require!(bpf);
    witnessed(memtrace!(), &[], &["ls", "-lR", "/usr/share"]).expect_identity();
}

#[test]
fn identity_holds_for_an_interpreter_that_builds_and_drops_lists() {
    require!(root);
    require!(bpf);
    require!(program "python3" of "python3");
    let script = "for _ in range(5): [bytearray(4096) for _ in range(5000)]";
    witnessed(memtrace!(), &[], &["python3", "-c", script]).expect_identity();
}

#[test]
fn identity_holds_for_a_pipeline() {
    require!(root);
    require!(bpf);
    let script = "ls -l /usr/bin | sort -r | wc -l; for i in 1 2 3 4 5 6 7 8; do /bin/true; done";
    witnessed(memtrace!(), &[], &["sh", "-c", script]).expect_identity();
}

#[test]
fn identity_holds_for_a_database() {
    require!(root);
    require!(bpf);
    require!(program "sqlite3" of "sqlite3");
    let script = "create table t(a, b); with recursive n(i) as (select 1 union all select i + 1 from n limit 100000) \
                  insert into t select i, hex(i) from n; select count(*) from t;";
    let witnessed = witnessed(memtrace!(), &[], &["sqlite3", ":memory:", script]);

    witnessed.expect_identity();
    assert_eq!(witnessed.recording.run.stdout, "100000\n");
}

#[test]
fn identity_holds_for_a_compiler_and_its_children() {
    require!(root);
    require!(bpf);
    require!(program "gcc" of "gcc");
    let script = "echo 'int main(void) { return 0; }' >a.c && gcc -O2 -pipe a.c -o a && ./a";
    witnessed(memtrace!(), &[], &["sh", "-c", script]).expect_identity();
}

#[test]
fn identity_holds_for_a_runtime_with_threads() {
    require!(root);
    require!(bpf);
    require!(program "node" of "nodejs");
    let script = "let a = []; for (let i = 0; i < 2e5; i++) a.push({ i }); a = null;";
    witnessed(memtrace!(), &[], &["node", "-e", script]).expect_identity();
}

#[test]
fn identity_holds_for_a_runtime_that_uses_sigsegv() {
    require!(root);
    require!(bpf);
    require!(program "java" of "default-jdk-headless");
    witnessed(memtrace!(), &[], &["java", "-Xmx64m", "-version"]).expect_identity();
}

#[test]
fn identity_holds_without_fault_tracepoints_and_the_access_is_unknown() {
    require!(root);
    require!(bpf);
    let touched = touched(memtrace!().without("fault_tracepoints"), &["write", "--pages", "64"]);

    assert!(!touched.faults.is_empty());
    assert!(touched.faults.iter().all(|row| row.access.is_none()));
    let report = touched.recording.report();
    for access in ["read", "write", "exec", "cow"] {
        assert!(report.at(&format!("/faults/{access}")).is_null(), "unknown is not 0: {access}");
    }
}

#[test]
fn heat_equals_the_faults_recorded_one_by_one() {
    require!(root);
    require!(bpf);
    let witnessed = witnessed(memtrace!(), &[], &["ls", "-lR", "/usr/share/doc"]);
    let report = witnessed.recording.report();

    assert_eq!(report.usage("/heat"), report.usage("/faults"));
    assert!(report.number("/heat/minor") > 0);
}

/// Reads every heat array on this machine once a millisecond until `stop` is set; returns how often one had grown.
fn read_heat_until(stop: &AtomicBool) -> u64 {
    let mut arrays = BTreeMap::new();
    let mut growths = 0;
    for millis in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        if millis % 50 == 0 {
            for map in loaded_maps().filter_map(Result::ok).filter(|map| map.name_as_str() == Some("HEAT")) {
                let (Ok(fd), words) = (map.fd(), map.max_entries() as usize * HeatCell::LEN / 8) else {
                    continue;
                };
                let array = || SharedWords::map(fd.as_fd(), words).expect("an array that can be mapped");
                let _array = arrays.entry(map.id()).or_insert_with(|| (array(), words, 0));
            }
        }
        for (array, words, seen) in arrays.values_mut() {
            let minor = std::mem::offset_of!(HeatCell, minor) / 8;
            let faults: u64 = (minor..*words).step_by(HeatCell::LEN / 8).map(|word| array.load(word)).sum();
            growths += u64::from(faults > *seen);
            *seen = faults;
        }
        thread::sleep(Duration::from_millis(1));
    }
    growths
}

/// On preemptible kernels other ways of reading make completions vanish.
#[test]
fn identity_holds_while_the_heat_array_is_read_at_1_khz() {
    require!(root);
    require!(bpf);
    let stop = AtomicBool::new(false);
    let (witnessed, growths) = thread::scope(|scope| {
        let reader = scope.spawn(|| read_heat_until(&stop));
        let witnessed = witnessed(memtrace!(), &[], &[program!("storm"), "--threads", "2", "--rounds", "8"]);
        stop.store(true, Ordering::Relaxed);
        (witnessed, reader.join().expect("the reader ends"))
    });

    witnessed.expect_identity();
    let report = witnessed.recording.report();
    assert_eq!(report.usage("/heat"), report.usage("/faults"));
    let storm: Storm = witnessed.recording.run.last_line();
    assert!(storm.minflt >= storm.faults, "the kernel charged less than a fault per page: {storm:?}");
    let recorded = report.number("/faults/minor");
    assert!(recorded >= storm.minflt, "{recorded} of {storm:?}: {:#}", report.at(""));
    assert!(growths > 10, "{growths} readings amid the storm");
}

#[test]
fn timeline_rows_add_up_to_the_totals() {
    require!(root);
    require!(bpf);
    require!(btf);
    let witnessed = witnessed(memtrace!(), &["--interval", "10ms"], &["ls", "-lR", "/usr/share/doc"]);
    let report = witnessed.recording.report();
    let rows = witnessed.recording.timeline();

    let minor = rows.iter().map(|row| row.minor_faults).sum();
    let major = rows.iter().map(|row| row.major_faults).sum();
    assert_eq!(Usage { minor, major }, report.usage("/faults"));
    let uncounted: u64 = rows.iter().filter_map(|row| row.uncounted_faults).sum();
    let Usage { minor, major } = report.usage("/uncounted");
    assert_eq!(uncounted, minor + major);
}

#[test]
fn counts_without_records_have_the_same_totals() {
    require!(root);
    require!(bpf);
    require!(btf);
    let witnessed = witnessed(memtrace!(), &["--detail", "counts"], &["ls", "-lR", "/usr/share/doc"]);
    let report = witnessed.recording.report();

    // wait4 in memtrace, less what was charged before the probes were armed.
    let (rusage, gate) = (report.usage("/rusage"), report.usage("/gate"));
    let (heat, uncounted) = (report.usage("/heat"), report.usage("/uncounted"));
    assert_eq!(heat.minor + uncounted.minor, rusage.minor - gate.minor);
    assert_eq!(heat.major + uncounted.major, rusage.major - gate.major);
    let Testimony { pid, minflt, majflt, .. } = witnessed.testimony;
    let processes = report.processes();
    let ls = processes.iter().find(|process| process.tgid == pid).expect("ls was traced");
    assert_eq!(ls.kernel_counted, Some(Usage { minor: minflt, major: majflt }));
    assert!(witnessed.recording.faults().is_empty());
}

#[test]
fn areas_of_a_ledger_need_all_their_faults() {
    let area = Area { tid: 7, start: 0x1000, end: 0x3000, minor: 1, ..Area::default() };
    let row = |tid, addr| FaultRow {
        time_ns: 1,
        tgid: Some(7),
        tid,
        addr,
        ip: 0,
        access: None,
        mode: "user".to_owned(),
        kind: "minor".to_owned(),
        latency_ns: None,
        region: None,
        offset_bytes: None,
        outcome: None,
        outcome_pages: None,
        outcome_lag_ns: None,
        ip_module: None,
        syscall: None,
        stack: None,
        ip_function: None,
        outcome_unknown: None,
        refault_of: None,
    };

    assert_eq!(area.found_in(&[row(7, 0x1fff), row(8, 0x1000), row(7, 0x3000)]), area);
    assert_ne!(area.found_in(&[row(7, 0x0fff)]), area);
}
