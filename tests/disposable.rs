//! Settings of the whole machine that take something away: lockdown, which only a reboot takes back, and
//! `perf_event_paranoid`. So only on a machine that is thrown away afterwards (feature `disposable`).

use std::fs;

use memtrace_tests::{directory, ledger::Ledger, memtrace, program, require};
use serde_json::Value;

const LOCKDOWN: &str = "/sys/kernel/security/lockdown";
const PARANOID: &str = "/proc/sys/kernel/perf_event_paranoid";

/// Records a phase of `touch`; its faults must be those of its ledger.
#[track_caller]
fn expect_recorded() {
    let recording = memtrace!().record(&[], &[program!("touch"), "write", "--pages", "64"]).expect_code(0);
    let _complete = recording.expect_complete();
    let ledger: Ledger = recording.run.last_line();
    assert_eq!(ledger.areas[0].found_in(&recording.faults()), ledger.areas[0]);
}

/// What doctor says of the events of faults to a user with the capabilities for tracing, on a machine with this setting.
#[track_caller]
fn events_of_tracer(paranoid: &str) -> Value {
    fs::write(PARANOID, paranoid).expect("a setting");
    let run = memtrace!().as_tracer(&["doctor", "--json"]).finish();
    let report: Value = serde_json::from_str(&run.stdout).expect("doctor writes JSON");
    assert_eq!(report["settings"]["kernel.perf_event_paranoid"], paranoid);
    report["features"]["fault_events"].clone()
}

/// All in one test: the steps cannot be taken back, and would change the ground under others.
#[test]
fn settings_that_take_something_away_are_named_and_what_they_leave_works() {
    require!(root);
    require!(bpf);
    // CAP_PERFMON suffices at 2. Debian's kernels refuse it at 3; others take 3 for 2.
    assert_eq!(events_of_tracer("2")["state"], "usable");
    memtrace!().as_tracer(&["record", "-q", "-o", "/dev/null", "--", "true"]).finish().expect_code(0);
    let events = events_of_tracer("3");
    if events["state"] != "usable" {
        assert_eq!(events["fix"], "sudo sysctl kernel.perf_event_paranoid=2");
        let run = memtrace!().as_tracer(&["record", "-q", "-o", "/dev/null", "--", "true"]).finish();
        run.expect_failure(125, &["kernel.perf_event_paranoid", "it is 3"]);
    }
    expect_recorded();

    if !fs::exists(LOCKDOWN).expect("a path") {
        return memtrace_tests::requirement::skip("needs lockdown (CONFIG_SECURITY_LOCKDOWN_LSM)");
    }
    fs::write(LOCKDOWN, "integrity").expect("a level that is higher");
    expect_recorded();

    fs::write(LOCKDOWN, "confidentiality").expect("a level that is higher");
    let scratch = directory();
    let run = memtrace!().run(["record", "--", "touch", "started"]).in_dir(scratch.path()).finish();
    run.expect_failure(125, &["bpf is denied", "lockdown", "lockdown=integrity"]);
    assert_eq!(fs::read_dir(scratch.path()).expect("a directory").count(), 0, "nothing is left");
    let doctor = memtrace!().run(["doctor"]).finish().expect_code(1);
    let words = |line: &str| line.split_whitespace().eq(["lockdown", "confidentiality"]);
    assert!(doctor.stdout.lines().any(words), "{doctor:#?}");
    assert!(doctor.stdout.contains("boot with lockdown=integrity"), "{doctor:#?}");
}
