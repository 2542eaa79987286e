//! Fights of many threads over the same addresses, against the kernel's own maps.

use std::sync::{Mutex, PoisonError};

use memtrace_tests::{
    ledger::{Ready, Stress},
    maps::successful_calls,
    memtrace, program,
    recording::{InProgress, Memtrace, Recording},
    require,
    requirement::{btf, processor, skip},
    run::Run,
};
use rustix::process::Signal;

/// One at a time: each takes all CPUs.
static TURN: Mutex<()> = Mutex::new(());

/// A fight: rounds of so many calls, in each of which maps are read, and children that are held at their exit.
struct Fight {
    rounds: u64,
    calls: u64,
    /// Children that only fork. What they have of their parent is doubtful: it makes calls that fail half way.
    forks: u64,
    /// Children that execute the program, which fights alone and does not make its regions doubtful.
    execs: u64,
}

/// As much as shows what is rare.
const LONG: Fight = Fight { rounds: 10, calls: 4000, forks: 10, execs: 50 };
/// For machines on which that would take minutes.
const SHORT: Fight = Fight { rounds: 2, calls: 500, forks: 2, execs: 2 };

/// As much as this machine can make within a minute; one that is short is counted as a test that was skipped.
fn fight() -> Fight {
    let Some(reason) = processor() else { return LONG };
    skip(&format!("a short fight alone: {reason}"));
    SHORT
}

impl Fight {
    /// The arguments of the workload.
    fn args(&self) -> [String; 8] {
        let Self { rounds, calls, forks, execs } = *self;
        let options =
            [("--calls", rounds * calls), ("--rounds", rounds), ("--forks", forks), ("--execs", execs)];
        let words = options.map(|(option, number)| [option.to_owned(), number.to_string()]);
        words.concat().try_into().expect("two for each option")
    }

    /// Checks that maps were read in each round and at each exit, that memtrace's map was the kernel's whenever it was known, at
    /// the exit of each program at least, and that nothing was lost but faults.
    #[track_caller]
    fn expect_map_identity(&self, recording: &Recording) {
        recording.expect_map_identity(self.execs);
        let report = recording.report();
        let readings =
            ["checks", "resyncs", "inconclusive"].map(|key| report.number(&format!("/map_identity/{key}")));
        let exits = self.forks + self.execs + 1;
        assert!(readings.iter().sum::<u64>() >= self.rounds + exits, "{}", report.at("/map_identity"));
    }

    /// Goes through the rounds of a fight that is recorded, before which `lines` lines were written, and ends it. In each round maps
    /// are read, and the next one waits until all of it is recorded: what rings hold meanwhile is bounded, however slow all is.
    #[track_caller]
    fn conduct(&self, recording: &mut InProgress, lines: usize) {
        let ready: Ready = serde_json::from_str(&recording.running.line(lines)).expect("a ledger");
        for round in 1..=self.rounds {
            recording.running.send("\n");
            recording.read_maps(ready.pid);
            let line = lines + usize::try_from(round).expect("few");
            assert_eq!(recording.running.line(line), "round");
            recording.catch_up();
        }
        recording.running.send("\n");
    }
}

/// Records a fight, of which maps are read all the while.
#[track_caller]
fn stressed(memtrace: Memtrace, options: &[&str], fight: &Fight, args: &[&str]) -> (Recording, Stress) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let options = [&["--verify"], options].concat();
    let of_fight = fight.args();
    let of_fight: Vec<_> = of_fight.iter().map(String::as_str).collect();
    let command = [&[program!("mapstress")], &of_fight[..], args].concat();
    let mut recording = memtrace.start(&options, &command);
    fight.conduct(&mut recording, 0);
    let recording = recording.finish().expect_code(0);
    let ledger = recording.run.last_line();
    (recording, ledger)
}

#[test]
fn fights_over_addresses_leave_the_map_equal_to_the_kernels() {
    require!(root);
    require!(bpf);
    // Without the tracepoints of the memory-map lock changes are in the order in which calls return.
    require!(kernel "5.11");
    let fight = fight();
    let (recording, _) = stressed(memtrace!(), &[], &fight, &[]);

    fight.expect_map_identity(&recording);
    assert!(recording.losses().is_empty());
}

/// Whoever comes finds half of each change done, and whoever leaves has seen half of the last.
#[test]
fn attachments_to_a_process_that_fights_contradict_nothing() {
    require!(root);
    require!(bpf);
    require!(kernel "5.11");
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // It never comes to its first round, and goes on until it is killed.
    let fight =
        Run::new(program!("mapstress")).args(["--threads", "2", "--rounds", "1"]).with_stdin().start();

    for _ in 0..5 {
        let options = ["-p", &fight.pid().to_string(), "--duration", "500ms"];
        let recording = memtrace!().record(&options, &[]).expect_code(0);

        // A call with MAP_FIXED that fails may have unmapped, which is known by type information alone: without it some readings find
        // the regions in doubt, and are no checks.
        recording.expect_map_identity(u64::from(btf().is_none()));
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

    fight.expect_map_identity(&recording);
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

    fight.expect_map_identity(&recording);
    assert!(ledger.storm_faults > 0);
    assert!(recording.losses().iter().any(|loss| loss.cause == "events_ring"), "the ring overflows");
}

#[test]
fn regions_are_learnt_anew_after_a_loss_of_map_events() {
    require!(root);
    require!(bpf);
    require!(kernel "5.11");
    require!(@ processor());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // More calls than the ring of map events holds while nobody reads it, and then more of them; at last a shell that waits.
    let script = r#"echo $$; "$0" --pairs 100000 --pages 1 && "$1" --threads 2 --calls 6000 --rounds 3; echo waits; read -r _"#;
    let command = ["sh", "-c", script, program!("mapping"), program!("mapstress")];
    let mut recording = memtrace!().start(&[], &command);
    let shell = recording.running.first_line().parse().expect("its process ID");
    recording.running.signal(Signal::STOP);
    let _pairs = recording.running.line(1);
    recording.running.signal(Signal::CONT);
    Fight { rounds: 3, calls: 2000, forks: 0, execs: 0 }.conduct(&mut recording, 2);
    assert_eq!(recording.running.line(7), "waits");
    // However busy all was before, a reading of a shell that waits for its input shows all of it, and the next one finds it so.
    for _ in 0..2 {
        recording.read_maps(shell);
    }
    recording.running.send("\n");
    let recording = recording.finish().expect_code(0);

    let losses = recording.losses();
    assert!(losses.iter().any(|loss| loss.cause == "control_ring"), "{losses:?}");
    let report = recording.report();
    assert_eq!(report.number("/map_identity/contradictions"), 0, "{}", report.at("/map_identity"));
    assert!(report.number("/map_identity/resyncs") > 0, "{}", report.at("/map_identity"));
    assert!(report.number("/map_identity/checks") > 0, "known again: {}", report.at("/map_identity"));
    assert_eq!(report.at("/complete"), &serde_json::Value::Bool(false));
}
