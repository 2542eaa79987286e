//! Fights of many threads over the same addresses, against the kernel's own maps.

use std::{
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use memtrace_tests::{
    ledger::Stress,
    maps::successful_calls,
    memtrace, program,
    recording::{Memtrace, Recording},
    require,
    run::{Run, Running},
};
use rustix::process::Signal;

/// Time between two requests for a full scan.
const SCAN_PERIOD: Duration = Duration::from_millis(50);

/// One at a time: each takes all CPUs.
static TURN: Mutex<()> = Mutex::new(());

/// A fight, and how often it must be compared with the kernel's maps.
struct Fight {
    args: [&'static str; 8],
    checks: u64,
}

/// As much as shows what is rare.
const LONG: Fight =
    Fight { args: ["--calls", "200000", "--seconds", "6", "--forks", "20", "--execs", "20"], checks: 50 };
/// For machines on which that would take minutes.
const SHORT: Fight =
    Fight { args: ["--calls", "1000", "--seconds", "0", "--forks", "2", "--execs", "2"], checks: 1 };

fn fight() -> Fight {
    if is_slow() { SHORT } else { LONG }
}

/// Whether this machine is many times slower than any that people work on, as an emulated one is: 2,000 calls take those
/// a hundredth of a second.
fn is_slow() -> bool {
    const SLOW: Duration = Duration::from_millis(100);
    let fight = || {
        let began = Instant::now();
        let _done = Run::new(program!("mapstress")).args(["--calls", "2000"]).finish().expect_code(0);
        began.elapsed()
    };
    // The fastest of several: others may have had the CPUs.
    (0..5).map(|_| fight()).all(|took| took > SLOW)
}

/// Records a fight, of which maps are read all the while.
#[track_caller]
fn stressed(memtrace: Memtrace, options: &[&str], fight: &Fight, args: &[&str]) -> (Recording, Stress) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let options = [&["--verify"], options].concat();
    let command = [&[program!("mapstress")], &fight.args[..], args].concat();
    let mut recording = memtrace.start(&options, &command);
    recording.wait_until_armed();
    scan_until_lines(&mut recording.running, 1);
    let recording = recording.finish().expect_code(0);
    let ledger = recording.run.last_line();
    (recording, ledger)
}

/// Asks for full scans until the command has written so many lines.
#[track_caller]
fn scan_until_lines(running: &mut Running, lines: usize) {
    running.wait_for("ledger", |running| {
        running.signal(Signal::USR2);
        thread::sleep(SCAN_PERIOD);
        (running.stdout().matches('\n').count() == lines).then_some(())
    });
}

#[test]
fn fights_over_addresses_leave_the_map_equal_to_the_kernels() {
    require!(root);
    require!(bpf);
    // Without the tracepoints of the memory-map lock changes are in the order in which calls return.
    require!(kernel "5.11");
    let fight = fight();
    let (recording, _) = stressed(memtrace!(), &[], &fight, &[]);

    recording.expect_map_identity(fight.checks);
    assert!(recording.losses().is_empty());
}

/// Whoever comes finds half of each change done, and whoever leaves has seen half of the last.
#[test]
fn attachments_to_a_process_that_fights_contradict_nothing() {
    require!(root);
    require!(bpf);
    require!(kernel "5.11");
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let args = ["--threads", "2", "--calls", "600000", "--seconds", "300"];
    let fight = Run::new(program!("mapstress")).args(args).start();

    for _ in 0..5 {
        let options = ["-p", &fight.pid().to_string(), "--duration", "500ms"];
        let recording = memtrace!().record(&options, &[]).expect_code(0);

        recording.expect_map_identity(1);
    }
}

/// Programs at classic tracepoints are what later kernels need: see `raw_tracepoints` of `doctor`.
#[test]
fn fights_seen_at_classic_tracepoints_leave_the_map_equal_too() {
    require!(root);
    require!(bpf);
    require!(btf);
    require!(kernel "5.15");
    let fight = fight();
    let (recording, _) = stressed(memtrace!().without("raw_tracepoints"), &[], &fight, &[]);

    recording.expect_map_identity(fight.checks);
    assert!(recording.losses().is_empty());
}

#[test]
fn every_successful_call_of_a_fight_is_a_row() {
    require!(root);
    require!(bpf);
    require!(kernel "5.11");
    let (recording, ledger) = stressed(memtrace!(), &[], &SHORT, &[]);

    let rows = recording.maps();
    let found = successful_calls(&rows);
    for (kind, calls) in &ledger.calls {
        let found = found.get(kind.as_str()).copied().unwrap_or(0);
        assert!(found >= calls.successes, "{kind}: {found} of {calls:?}");
    }
    // The one kind that libc needs for nothing here.
    assert_eq!(found.get("mremap"), Some(&ledger.calls["mremap"].successes));
}

/// As programs at raw tracepoints are on these kernels.
#[test]
fn programs_that_the_kernel_skips_are_losses() {
    require!(root);
    require!(bpf);
    require!(kernel "7.0");
    let (recording, ledger) = stressed(memtrace!().without("tracepoint_records"), &[], &SHORT, &[]);

    recording.expect_no_contradiction();
    let known = successful_calls(&recording.maps()).get("mremap").copied().unwrap_or(0);
    let losses = recording.losses();
    let skipped: u64 =
        losses.iter().filter(|loss| loss.cause == "skipped").filter_map(|loss| loss.count).sum();
    assert!(known + skipped >= ledger.calls["mremap"].successes, "{known}: {losses:?}");
}

#[test]
fn storm_that_overflows_the_ring_of_faults_costs_no_region() {
    require!(root);
    require!(bpf);
    require!(kernel "5.11");
    let fight = fight();
    let (recording, ledger) =
        stressed(memtrace!(), &["--ring-size", "4K"], &fight, &["--storm-threads", "2"]);

    recording.expect_map_identity(fight.checks);
    assert!(ledger.storm_faults > 0);
    assert!(recording.losses().iter().any(|loss| loss.cause == "events_ring"), "the ring overflows");
}

#[test]
fn regions_are_learnt_anew_after_a_loss_of_map_events() {
    require!(root);
    require!(bpf);
    require!(kernel "5.11");
    require!(@ is_slow().then(|| "needs a machine that makes 200,000 calls in seconds".to_owned()));
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // More calls than the ring of map events holds while nobody reads it, and then more of them; at last a shell that waits.
    let script = r#"echo begun; "$0" --pairs 100000 --pages 1 && "$1" --threads 2 --calls 6000 --seconds 4; read -r _ || true"#;
    let command = ["sh", "-c", script, program!("mapping"), program!("mapstress")];
    let mut recording = memtrace!().start(&[], &command);
    let _begun = recording.running.first_line();
    recording.running.signal(Signal::STOP);
    recording.running.wait_for("ledger", |running| (running.stdout().lines().count() > 1).then_some(()));
    recording.running.signal(Signal::CONT);
    scan_until_lines(&mut recording.running, 3);
    // However busy all was before, a scan of a shell that waits for its input is conclusive.
    for _ in 0..20 {
        recording.running.signal(Signal::USR2);
        thread::sleep(SCAN_PERIOD);
    }
    let recording = recording.finish().expect_code(0);

    let losses = recording.losses();
    assert!(losses.iter().any(|loss| loss.cause == "control_ring"), "{losses:?}");
    let report = recording.report();
    assert_eq!(report.number("/map_identity/contradictions"), 0, "{}", report.at("/map_identity"));
    assert!(report.number("/map_identity/resyncs") > 0, "{}", report.at("/map_identity"));
    assert!(report.number("/map_identity/checks") > 0, "known again: {}", report.at("/map_identity"));
    assert_eq!(report.at("/complete"), &serde_json::Value::Bool(false));
}
