//! What a kernel lacks costs one feature, and is said; what recording cannot do without is said before anything starts.
//!
//! `MEMTRACE_DISABLE` makes this kernel one that lacks it; `cargo xtask test --vm` runs all of it on kernels that do.

use memtrace_tests::{
    directory,
    ledger::Ledger,
    memtrace, program,
    recording::{MOST_SKIPPED, Memtrace, Recording},
    require, requirement,
};
use serde_json::Value;

/// Records a phase of `touch` on a kernel that lacks something; its faults must be those of its ledger, but for as many as the
/// kernel says that it skipped programs.
#[track_caller]
fn touched(memtrace: Memtrace, phase: &[&str]) -> (Recording, Ledger) {
    let (recording, ledger, _) = touched_but_for_skips(memtrace, phase);
    (recording, ledger)
}

/// The same, and how often the kernel skipped a program.
#[track_caller]
fn touched_but_for_skips(memtrace: Memtrace, phase: &[&str]) -> (Recording, Ledger, u64) {
    let command = [&[program!("touch")], phase].concat();
    let recording = memtrace.record(&[], &command).expect_code(0);
    let skipped = recording.expect_complete_but_for_skips();
    assert!(skipped <= MOST_SKIPPED, "{phase:?}: {skipped}");
    let ledger: Ledger = recording.run.last_line();
    let faults = recording.faults();
    for area in &ledger.areas {
        let found = area.found_in(&faults);
        assert!(area.apart_from(&found) <= skipped, "{phase:?}: {found:?}, {area:?}, {skipped} skipped");
    }
    (recording, ledger, skipped)
}

/// What `doctor --json` says, and its exit code.
#[track_caller]
fn doctor(memtrace: Memtrace) -> (Value, Option<i32>) {
    let run = memtrace.run(["doctor", "--json"]).finish();
    (serde_json::from_str(&run.stdout).expect("doctor writes JSON"), run.code())
}

#[test]
fn without_type_information_every_fault_is_recorded_and_uncounted_ones_are_unknown() {
    require!(root);
    require!(bpf);
    for phase in ["write", "read-write", "kernel-write", "segv-retry", "efault"] {
        let (recording, ledger) = touched(memtrace!().without("btf"), &[phase, "--pages", "16"]);
        let report = recording.report();

        assert!(report.at("/uncounted").is_null() && report.at("/kernel_counted").is_null());
        assert!(report.processes().iter().all(|process| process.uncounted.is_none()));
        let (rusage, gate) = (report.usage("/rusage"), report.usage("/gate"));
        let recorded = report.usage("/faults");
        assert!(recorded.minor >= ledger.areas.iter().map(|area| area.minor).sum());
        assert!(recorded.minor <= rusage.minor - gate.minor, "{recorded:?} of {rusage:?}");
    }
}

#[test]
fn without_type_information_tasks_are_followed_all_the_same() {
    require!(root);
    require!(bpf);
    for phase in ["fork", "threads", "spawn", "exec", "thread-exec"] {
        let with = memtrace!().record(&[], &[program!("touch"), phase, "--pages", "16"]).expect_code(0);
        let (without, ledger) = touched(memtrace!().without("btf"), &[phase, "--pages", "16"]);

        let tasks = |recording: &Recording| recording.report().at("/tasks").clone();
        assert_eq!(tasks(&without), tasks(&with), "{phase}");
        let processes = without.report().processes();
        assert!(processes.iter().any(|process| process.tgid == ledger.pid && process.comm == "touch"));
    }
}

#[test]
fn without_type_information_the_command_by_wait4_stands_in_the_report() {
    require!(root);
    require!(bpf);
    let (recording, _) = touched(memtrace!().without("btf"), &["write", "--pages", "16"]);

    let text = memtrace!().run(["report"]).arg(recording.path()).finish().expect_code(0).stdout;
    let report = recording.report();
    let minor = report.usage("/rusage").minor - report.usage("/gate").minor;
    let line = text.lines().find(|line| line.contains("command, by wait4")).expect("a line for it");
    assert!(line.split_whitespace().any(|word| word == minor.to_string()), "{minor} in {line:?}");
    assert!(text.contains("btf is missing"), "{text}");
}

/// The jump of the counters is seen at the next fault or at the exit: as large, but later.
#[test]
fn without_the_lock_tracepoint_as_many_faults_are_uncounted() {
    require!(root);
    require!(bpf);
    require!(btf);
    for phase in ["populate", "lock"] {
        let command = [program!("touch"), phase, "--pages", "64"];
        let with = memtrace!().record(&[], &command).expect_code(0).report();
        let without = memtrace!().without("mmap_lock_tracepoint").record(&[], &command).expect_code(0);
        let without = without.expect_complete();

        assert_eq!(without.usage("/uncounted"), with.usage("/uncounted"), "{phase}");
        assert!(without.number("/uncounted/minor") >= 64);
        let (rusage, gate) = (without.usage("/rusage"), without.usage("/gate"));
        assert_eq!(without.usage("/kernel_counted"), rusage - gate);
    }
}

#[test]
fn without_names_of_calls_as_many_faults_are_uncounted() {
    require!(root);
    require!(bpf);
    require!(btf);
    let (recording, _) = touched(memtrace!().without("syscall_names"), &["populate", "--pages", "64"]);
    let report = recording.report();

    assert!(report.number("/uncounted/minor") >= 64);
    assert_eq!(report.uncounted_by("populate"), 0);
    let (rusage, gate) = (report.usage("/rusage"), report.usage("/gate"));
    assert_eq!(report.usage("/kernel_counted"), rusage - gate);
}

#[test]
fn at_classic_tracepoints_the_same_is_seen_as_at_raw_ones() {
    require!(root);
    require!(bpf);
    require!(btf);
    require!(kernel "5.15");
    for phase in [
        "write",
        "read-write",
        "kernel-write",
        "segv-retry",
        "efault",
        "populate",
        "lock",
        "fork",
        "threads",
        "exec",
    ] {
        let command = [program!("touch"), phase, "--pages", "16"];
        let with = memtrace!().record(&[], &command).expect_code(0).expect_complete();
        let (without, _, skipped) =
            touched_but_for_skips(memtrace!().without("raw_tracepoints"), &command[1..]);
        let without = without.report();

        assert!(!without.has("raw_tracepoints"));
        if skipped > 0 {
            requirement::skip("needs a kernel that skips no program at a classic tracepoint meanwhile");
            continue;
        }
        assert_eq!(without.at("/complete"), true, "{phase}");
        for exact in ["/uncounted/by", "/tasks"] {
            assert_eq!(without.at(exact), with.at(exact), "{phase}: {exact}");
        }
        for known in ["/faults/without_latency", "/faults/failed", "/faults/refused"] {
            assert_eq!(without.number(known), with.number(known), "{phase}: {known}");
        }
        let (rusage, gate) = (without.usage("/rusage"), without.usage("/gate"));
        assert_eq!(without.usage("/kernel_counted"), rusage - gate, "{phase}");
    }
}

#[test]
fn what_recording_cannot_do_without_is_named_with_the_remedy_and_nothing_starts() {
    require!(root);
    require!(bpf);
    for (disabled, named) in [
        ("bpf", &["bpf"][..]),
        ("ring_buffer", &["ring_buffer"]),
        ("fault_events", &["fault_events"]),
        ("btf,tracepoint_records", &["btf", "tracepoint_records"]),
    ] {
        let scratch = directory();
        let memtrace = memtrace!().without(disabled);
        let run = memtrace.run(["record", "--", "touch", "started"]).in_dir(scratch.path()).finish();

        run.expect_failure(125, &[named, &["MEMTRACE_DISABLE", "memtrace doctor"]].concat());
        let left = std::fs::read_dir(scratch.path()).expect("a directory").count();
        assert_eq!(left, 0, "{disabled}: nothing is left");
        let (doctor, code) = doctor(memtrace);
        assert_eq!((code, &doctor["can_record"]), (Some(1), &Value::Bool(false)), "{disabled}");
        assert_eq!(doctor["blockers"], serde_json::json!(named));
    }
}

#[test]
fn recording_says_of_the_kernel_what_doctor_says() {
    require!(root);
    require!(bpf);
    let recording = memtrace!().record(&[], &["true"]).expect_code(0);
    let report = recording.report();

    let (doctor, code) = doctor(memtrace!());
    assert_eq!(code, Some(0));
    let features = doctor["features"].as_object().expect("features by name");
    assert_eq!(features.len(), report.at("/features").as_object().expect("features by name").len());
    for (name, feature) in features {
        assert_eq!(report.has(name), feature["state"] == "usable", "{name}: {feature}");
    }
}

/// Debian's kernels know a level 3, at which only `CAP_SYS_ADMIN` helps; others take it for 2.
#[test]
fn four_capabilities_suffice_or_the_setting_that_forbids_it_is_named() {
    require!(root);
    require!(bpf);
    require!(program "setpriv" of "util-linux");
    let report = memtrace!().as_tracer(&["doctor", "--json"]).finish();
    let report: Value = serde_json::from_str(&report.stdout).expect("doctor writes JSON");
    let events = &report["features"]["fault_events"];
    let run = memtrace!().as_tracer(&["record", "-q", "-o", "-", "--", "true"]).finish();

    if events["state"] == "usable" {
        assert_eq!((report["level"].as_str(), run.code()), (Some("no-frames"), Some(0)), "{run:#?}");
        assert_eq!(report["features"]["frame_numbers"]["state"], "denied");
    } else {
        let setting = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").expect("a number");
        let setting: i32 = setting.trim_end().parse().expect("a number");
        assert!(setting > 2, "{events}");
        assert_eq!(events["fix"], "sudo sysctl kernel.perf_event_paranoid=2");
        run.expect_failure(125, &["kernel.perf_event_paranoid", &format!("it is {setting}")]);
    }
}
