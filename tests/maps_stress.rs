//! Fights of many threads over the same addresses, against the kernel's own maps.

use std::{
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use memtrace_tests::{
    ledger::Stress, maps::successful_calls, memtrace, program, recording::Recording, require,
};
use rustix::process::Signal;

/// Time between two requests for a full look.
const LOOK_PERIOD: Duration = Duration::from_millis(50);

/// One at a time: each takes all CPUs.
static TURN: Mutex<()> = Mutex::new(());

/// Records `mapstress` with `args`, and asks for full looks all the while.
#[track_caller]
fn stressed(options: &[&str], args: &[&str]) -> (Recording, Stress) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let options = [&["--verify"], options].concat();
    let command =
        [&[program!("mapstress"), "--seconds", "6", "--forks", "20", "--execs", "20"], args].concat();
    let mut recording = memtrace!().start(&options, &command);
    recording.wait_until_armed();
    recording.running.wait_for("ledger", |running| {
        running.signal(Signal::USR2);
        thread::sleep(LOOK_PERIOD);
        running.stdout().ends_with('\n').then_some(())
    });
    let recording = recording.finish().expect_code(0);
    let ledger = recording.run.last_line();
    (recording, ledger)
}

#[test]
fn fights_over_addresses_leave_the_map_equal_to_the_kernels() {
    require!(root);
    require!(bpf);
    let (recording, _) = stressed(&[], &[]);

    recording.expect_map_identity(50);
    assert!(recording.losses().is_empty());
}

#[test]
fn every_successful_call_of_a_fight_is_a_row() {
    require!(root);
    require!(bpf);
    let (recording, ledger) = stressed(&[], &["--calls", "20000"]);

    let rows = recording.maps();
    let found = successful_calls(&rows);
    for (kind, calls) in &ledger.calls {
        let found = found.get(kind.as_str()).copied().unwrap_or(0);
        assert!(found >= calls.successes, "{kind}: {found} of {calls:?}");
    }
    // The one kind that libc needs for nothing here.
    assert_eq!(found.get("mremap"), Some(&ledger.calls["mremap"].successes));
}

#[test]
fn storm_that_overflows_the_ring_of_faults_costs_no_region() {
    require!(root);
    require!(bpf);
    let (recording, ledger) = stressed(&["--ring-size", "64K"], &["--storm-threads", "2"]);

    recording.expect_map_identity(50);
    assert!(ledger.storm_faults > 0);
    assert!(recording.losses().iter().any(|loss| loss.cause == "events_ring"), "the ring overflows");
}
