//! How faults end, and how long they take, against programs that count what became of each.

use std::fs;

use memtrace_tests::{
    ledger::{Area, Ending},
    memtrace, program,
    recording::Memtrace,
    require,
    rows::FaultRow,
};

/// Records `endings`; the faults at its place must have ended as it says, and the identity must hold.
///
/// Returns what it says, and the faults there.
#[track_caller]
fn ended(memtrace: Memtrace, way: &[&str]) -> (Ending, Vec<FaultRow>) {
    let recording = memtrace.record(&[], &[&[program!("endings")], way].concat()).expect_code(0);
    recording.expect_complete_but_for_skips();
    recording.expect_summary();
    let ending: Ending = recording.run.last_line();
    let faults = recording.faults();
    assert_eq!(ending.area.found_in(&faults), ending.area, "{way:?}");
    let report = recording.report();
    if report.has("btf") {
        let charged = report.usage("/rusage") - report.usage("/gate");
        let recorded = [report.usage("/faults"), report.usage("/uncounted")].into_iter().sum();
        assert_eq!([charged, report.usage("/kernel_counted")], [recorded; 2], "{way:?}");
    }
    let Area { failed, refused, emulated, retried, unfinished, .. } = ending.area;
    for (kind, at_least) in [
        ("failed", failed),
        ("refused", refused),
        ("emulated", emulated),
        ("retried", retried),
        ("unfinished", unfinished),
    ] {
        let total = report.number(&format!("/faults/{kind}"));
        let rows = faults.iter().filter(|row| row.kind == kind).count() as u64;
        assert!(total == rows && total >= at_least, "{way:?}: {total} {kind}, {rows} rows, {at_least} here");
    }
    let rows = ending.area.rows_of(&faults).cloned().collect();
    (ending, rows)
}

#[test]
fn each_signal_of_a_write_barrier_is_a_failed_fault() {
    require!(root);
    require!(bpf);
    let (ending, rows) = ended(memtrace!(), &["barrier", "--times", "1000"]);

    assert_eq!((ending.area.failed, ending.area.retried), (1000, 0));
    assert!(rows.iter().all(|row| row.mode == "user"));
    assert!(rows.iter().filter(|row| row.kind == "failed").all(|row| row.latency_ns.is_none()));
}

#[test]
fn each_signal_beyond_the_end_of_a_file_is_a_failed_fault() {
    require!(root);
    require!(bpf);
    let (ending, _) = ended(memtrace!(), &["bus", "--times", "100"]);

    assert_eq!((ending.area.failed, ending.area.minor + ending.area.major), (100, 100));
}

#[test]
fn calls_with_a_bad_address_are_refused_and_the_next_one_has_its_own_latency() {
    require!(root);
    require!(bpf);
    let (ending, rows) = ended(memtrace!(), &["efault", "--times", "100"]);

    assert_eq!((ending.area.refused, ending.area.minor), (100, 1));
    assert!(rows.iter().all(|row| row.mode == "kernel"));
    let latency = rows.iter().find(|row| row.kind == "minor").and_then(|row| row.latency_ns);
    assert!(latency.is_some_and(|latency| latency < ending.took_ns), "{latency:?} within {}", ending.took_ns);
}

/// Why nothing can be called in the vsyscall page; `None` if it can.
fn without_vsyscall() -> Option<String> {
    let maps = fs::read_to_string("/proc/self/maps").expect("our own");
    (!maps.contains("[vsyscall]"))
        .then(|| "needs the vsyscall page (x86-64 without vsyscall=none)".to_owned())
}

#[test]
fn calls_in_the_vsyscall_page_are_emulated_faults_in_user_mode() {
    require!(root);
    require!(bpf);
    require!(@ without_vsyscall());
    let (ending, rows) = ended(memtrace!(), &["vsyscall", "--times", "100"]);

    assert_eq!(ending.area.emulated, 100);
    let is_fetch = |row: &FaultRow| row.access.as_deref() == Some("exec") && row.mode == "user";
    assert!(rows.iter().all(is_fetch));
}

#[test]
fn fault_of_more_than_32_bits_of_nanoseconds_is_as_long_as_it_was() {
    require!(root);
    require!(bpf);
    let (ending, rows) = ended(memtrace!(), &["slow", "--pause-ms", "4500"]);

    let latency = rows[0].latency_ns.expect("it completed");
    assert!((4_500_000_000..ending.took_ns).contains(&latency), "{latency} within {}", ending.took_ns);
}

#[test]
fn fault_that_another_signal_interrupts_is_retried() {
    require!(root);
    require!(bpf);
    let (ending, _) = ended(memtrace!(), &["interrupted"]);

    assert_eq!((ending.area.failed, ending.area.retried), (0, 1));
}

#[test]
fn fault_without_an_answer_is_unfinished_when_its_thread_ends() {
    require!(root);
    require!(bpf);
    let (_, rows) = ended(memtrace!(), &["unanswered"]);

    assert_eq!((rows.len(), rows[0].latency_ns), (1, None));
}

#[test]
fn faults_end_alike_whatever_the_programs_are_attached_to() {
    require!(root);
    require!(bpf);
    require!(btf);
    for memtrace in [
        memtrace!(),
        memtrace!().without("raw_tracepoints"),
        memtrace!().without("btf"),
        memtrace!().without("fault_tracepoints"),
    ] {
        for way in ["barrier", "bus", "efault", "interrupted", "unanswered"] {
            ended(memtrace, &[way]);
        }
        if without_vsyscall().is_none() {
            ended(memtrace, &["vsyscall"]);
        }
    }
}
