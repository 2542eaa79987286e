//! The ledgers of the workloads against the kernel's own counters, without memtrace: the truth has to be true.

use memtrace_tests::{
    ledger::{Ledger, Storm},
    memory::page_bytes,
    program,
    run::Run,
};

/// Faults that a ledger lists, and pages that it says were populated, must be what getrusage(2) counted, but for
/// code of the program that runs for the first time.
#[track_caller]
fn ledger_equals_rusage(phase: &str) {
    let run = Run::new(program!("touch")).args([phase, "--pages", "100"]).finish().expect_code(0);
    let ledger: Ledger = run.last_line();

    let listed: u64 = ledger.areas.iter().map(|area| area.minor + area.major).sum();
    let listed = listed + ledger.uncounted;
    let charged = ledger.charged.minor + ledger.charged.major;
    assert!((listed..=listed + 2).contains(&charged), "{ledger:?}");
}

#[test]
fn write_faults_once_per_page() {
    ledger_equals_rusage("write");
}

#[test]
fn read_then_write_faults_twice_per_page() {
    ledger_equals_rusage("read-write");
}

#[test]
fn populating_calls_charge_one_fault_per_page() {
    ledger_equals_rusage("populate");
    ledger_equals_rusage("populate-write");
    ledger_equals_rusage("lock");
}

#[test]
fn read_call_faults_once_per_fresh_page() {
    ledger_equals_rusage("kernel-write");
}

#[test]
fn refused_accesses_are_not_charged() {
    ledger_equals_rusage("segv-retry");
    ledger_equals_rusage("segv-elsewhere");
    ledger_equals_rusage("efault");
}

#[test]
fn private_file_write_faults_once_per_page() {
    ledger_equals_rusage("file-write");
}

#[test]
fn storm_is_charged_one_fault_per_page() {
    let bytes = (1024 * page_bytes()).to_string();
    let args = ["--threads", "2", "--bytes", &bytes, "--rounds", "4"];
    let run = Run::new(program!("storm")).args(args).finish().expect_code(0);
    let storm: Storm = run.last_line();

    // 2 threads, 4 rounds, 1024 pages; threads and their stacks cost a few more.
    assert_eq!((storm.rounds, storm.faults), (8, 8 * 1024));
    assert!((storm.faults..storm.faults + 64).contains(&storm.minflt), "{storm:?}");
}

#[test]
fn witness_passes_the_exit_code_on() {
    let witness =
        |end: &[&str]| Run::new(program!("witness")).args(["--", program!("exiting")]).args(end).finish();

    assert_eq!(witness(&["code", "7"]).code(), Some(7));
    // SIGTERM is 15.
    assert_eq!(witness(&["signal", "15"]).code(), Some(128 + 15));
}
