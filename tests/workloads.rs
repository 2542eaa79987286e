//! The ledgers of the workloads against the kernel's own counters, without memtrace: the truth has to be true.

use std::fs;

use memtrace_tests::{
    directory,
    ledger::{Ledger, Storm, Stress, Zoo},
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

#[test]
fn stress_makes_as_many_calls_as_asked_for() {
    let args = ["--threads", "4", "--calls", "10000", "--forks", "3", "--execs", "2", "--storm-threads", "1"];
    let run = Run::new(program!("mapstress")).args(args).finish().expect_code(0);
    let stress: Stress = run.last_line();

    assert_eq!((stress.forks, stress.execs), (3, 2));
    let attempts: u64 = stress.calls.values().map(|calls| calls.attempts).sum();
    assert!(attempts > 10_000, "those of children come on top: {stress:?}");
    for (kind, calls) in &stress.calls {
        assert!((1..=calls.attempts).contains(&calls.successes), "{kind}: {stress:?}");
    }
}

#[test]
fn stress_fails_no_call_that_libc_relies_on() {
    // A process that broke its own memory would not reach its ledger.
    for seed in ["1", "2", "3"] {
        let args = ["--calls", "40000", "--forks", "8", "--execs", "8", "--seed", seed];
        let run = Run::new(program!("mapstress")).args(args).finish().expect_code(0);

        assert_eq!(run.last_line::<Stress>().execs, 8);
    }
}

#[test]
fn zoo_holds_what_maps_says() {
    let scratch = directory();
    let run = Run::new(program!("mapzoo")).with_stdin().in_dir(scratch.path());
    let mut running = run.start();
    let zoo: Zoo = serde_json::from_str(&running.first_line()).expect("a ledger");
    let maps = fs::read(format!("/proc/{}/maps", zoo.pid)).expect("the zoo waits");
    let maps = String::from_utf8_lossy(&maps);
    let _end = running.finish().expect_code(0);

    for (what, name) in [
        ("stack", "[stack]"),
        ("heap", "[heap]"),
        ("memfd", "/memfd:zoo-memfd (deleted)"),
        ("sysv", "/SYSV00000000 (deleted)"),
        ("file", "/zoo-file"),
        ("deleted_file", "/zoo-deleted (deleted)"),
        ("odd_name", "/zoo\\012odd\u{fffd}"),
    ] {
        let place = zoo.things[what];
        let holds = |line: &&str| {
            let (start, end) =
                line.split_once(' ').and_then(|(range, _)| range.split_once('-')).expect("a range");
            let address = |text| u64::from_str_radix(text, 16).expect("an address");
            address(start) <= place.start && place.end <= address(end)
        };
        let line = maps.lines().find(holds).unwrap_or_else(|| panic!("{what} in {maps}"));
        assert!(line.ends_with(name), "{what}: {line}");
    }
    let child = zoo.child.expect("the zoo forks");
    assert_eq!((child.has_dontfork, child.wipeonfork_byte), (false, 0), "madvise(2)");
}
