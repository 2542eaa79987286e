//! A recording replays to what was seen live, byte for byte, whatever was lost.

use memtrace_tests::{ledger::Storm, memtrace, program, recording::Recording, require, task::Usage};

/// A storm of 64 Ki faults in two threads.
const STORM: [&str; 7] = [program!("storm"), "--threads", "2", "--bytes", "16777216", "--rounds", "8"];

/// Records `command` with a CSV written live, which must be what the recording exports.
#[track_caller]
fn replayed(options: &[&str], command: &[&str]) -> Recording {
    let options = [&["--csv", "live.csv"], options].concat();
    let recording = memtrace!().record(&options, command).expect_code(0);

    let (live, replayed) = (recording.live_csv("live.csv"), recording.export("timeline"));
    assert!(live.lines().count() > 1, "{live}");
    let first = live.lines().zip(replayed.lines()).find(|(live, replayed)| live != replayed);
    assert_eq!(first, None, "the first lines that differ, live and replayed");
    assert_eq!(live.len(), replayed.len(), "bytes");
    recording
}

#[test]
fn replay_equals_the_live_csv() {
    require!(root);
    require!(bpf);
    let _equal = replayed(&["--interval", "10ms"], &["ls", "-lR", "/usr/share/doc"]);
}

#[test]
fn replay_equals_the_live_csv_of_several_processes() {
    require!(root);
    require!(bpf);
    let script = "ls -l /usr/bin | sort | wc -l; ls / | cat; wait";
    let _equal = replayed(&["--interval", "5ms"], &["sh", "-c", script]);
}

#[test]
fn replay_equals_the_live_csv_of_counts() {
    require!(root);
    require!(bpf);
    let _equal = replayed(&["--detail", "counts", "--interval", "20ms"], &STORM);
}

#[test]
fn losses_are_rows_and_the_heat_stays_exact() {
    require!(root);
    require!(bpf);
    require!(btf);
    let recording = replayed(&["--ring-size", "4K", "--interval", "20ms"], &STORM);
    let report = recording.report();
    let losses = recording.losses();
    let storm: Storm = recording.run.last_line();

    // A ring of 4 KiB holds 85 records of 40 bytes and 8 of header; even a drain that comes every millisecond meets
    // more than that from two threads that fault every few microseconds.
    assert!(!losses.is_empty(), "no ring of 4K keeps up with {storm:?}");
    assert_eq!(report.at("/complete"), false);
    for loss in &losses {
        assert!(Some(loss.start_ns) <= loss.end_ns && loss.count > Some(0), "{loss:?}");
        assert_eq!(loss.cause, "events_ring");
    }
    let lost: u64 = losses.iter().filter_map(|loss| loss.count).sum();
    assert_eq!(report.number("/losses/events"), lost);

    // The heat is not lost: with what was uncounted it is what wait4 says, less what was before.
    let (rusage, gate) = (report.usage("/rusage"), report.usage("/gate"));
    let (heat, uncounted) = (report.usage("/heat"), report.usage("/uncounted"));
    assert_eq!(heat.minor + uncounted.minor, rusage.minor - gate.minor);
    assert!(heat.minor >= storm.faults, "{heat:?} of {storm:?}");
    let recorded = report.usage("/faults");
    assert_eq!(recorded.minor + recorded.major + lost, heat.minor + heat.major);
}

#[test]
fn rows_that_a_loss_touches_are_lower_bounds() {
    require!(root);
    require!(bpf);
    let recording = replayed(&["--ring-size", "4K", "--interval", "20ms"], &STORM);
    let losses = recording.losses();
    let timeline = recording.timeline();

    assert!(timeline.iter().any(|row| row.lower_bound == 1));
    for row in timeline {
        let touched =
            losses.iter().any(|loss| loss.start_ns < row.end_ns && Some(row.start_ns) <= loss.end_ns);
        assert_eq!(row.lower_bound == 1, touched, "{row:?}");
    }
}

#[test]
fn what_is_printed_at_the_end_is_what_the_report_says() {
    require!(root);
    require!(bpf);
    for options in [&["--ring-size", "4K", "--interval", "20ms"][..], &[]] {
        let recording = memtrace!().record(options, &STORM).expect_code(0);
        recording.expect_summary();
        assert_eq!(recording.losses().is_empty(), options.is_empty(), "{:#?}", recording.run);
    }
}

#[test]
fn default_ring_loses_nothing_of_a_storm() {
    require!(root);
    require!(bpf);
    let recording = replayed(&[], &STORM);
    let report = recording.report();
    let storm: Storm = recording.run.last_line();

    assert!(recording.losses().is_empty());
    assert_eq!(report.usage("/faults"), report.usage("/heat"));
    let Usage { minor, .. } = report.usage("/faults");
    assert!(minor >= storm.faults, "{minor} of {storm:?}");
}
