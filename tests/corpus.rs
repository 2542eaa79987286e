//! The corpus: recordings that `cargo xtask same` lets two builds read. Each test makes one, which has its name.
//!
//! Output: recordings in the directory that `MEMTRACE_CORPUS` names.
//! Keeps: each is small, and is kept only if it holds what it is there for.
//! Not here: what a recording must say (the other targets), comparing what builds say of it (`xtask::same`).

use std::{env, fs, os::unix::fs::PermissionsExt as _, path::Path};

use memtrace_tests::{
    frozen::Frozen,
    ledger::{Layout, Storm},
    made, memtrace, program,
    recording::{Memtrace, Recording},
    require,
    scan::has_scan,
    setting::{Setting, transparent_huge_pages},
    swap::Swap,
    turn, wait_until,
};
use rustix::process::Signal;

/// Lets scans see what happens in a second or two.
const SHARP: [&str; 4] = ["--interval", "50ms", "--max-cpu", "100%"];

/// Processes that fork and execute, and faults of every kind in them.
const LIVES: [&str; 4] = [
    "sh",
    "-c",
    r#"for phase in fork spawn exec thread-exec threads populate segv-retry efault file-read file-write; do
        "$0" "$phase" || exit
    done"#,
    program!("touch"),
];

/// Keeps `recording` under `name`, for everyone to read.
#[track_caller]
fn keep(name: &str, recording: &Recording) {
    let Some(directory) = env::var_os("MEMTRACE_CORPUS") else { return };
    let path = Path::new(&directory).join(name).with_extension("mtrace");
    fs::copy(recording.path(), &path).expect("a directory with room");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("it is ours");
}

/// Records `LIVES`.
#[track_caller]
fn lives(memtrace: Memtrace, options: &[&str]) -> Recording {
    memtrace.record(&[&SHARP, options].concat(), &LIVES).expect_code(0)
}

#[test]
#[ignore = "made by `cargo xtask corpus`"]
fn storm() {
    require!(root);
    require!(bpf);
    let _turn = turn();
    let command = [program!("storm"), "--threads", "2", "--bytes", "1048576", "--rounds", "8"];
    let recording = memtrace!().record(&SHARP, &command).expect_code(0);

    let storm: Storm = recording.run.last_line();
    assert!(recording.expect_complete().usage("/faults").minor >= storm.faults, "{storm:?}");
    keep("storm", &recording);
}

#[test]
#[ignore = "made by `cargo xtask corpus`"]
fn fork() {
    require!(root);
    require!(bpf);
    let _turn = turn();
    let recording = lives(memtrace!(), &[]);

    // The shell, one for each of ten phases, and a child of two.
    assert_eq!(recording.report().processes().len(), 13, "{:?}", recording.report().processes());
    keep("fork", &recording);
}

#[test]
#[ignore = "made by `cargo xtask corpus`"]
fn stacks() {
    require!(root);
    require!(bpf);
    let _turn = turn();
    let recording = memtrace!().record(&["-g"], &["sh", "-c", "ls /"]).expect_code(0);

    let _complete = recording.expect_complete();
    assert!(recording.faults().iter().any(|fault| fault.ip_function.is_some()), "some code has names");
    keep("stacks", &recording);
}

#[test]
#[ignore = "made by `cargo xtask corpus`"]
fn thp() {
    require!(root);
    require!(bpf);
    let _turn = turn();
    let _huge = made!(transparent_huge_pages("enabled"));
    let command = [program!("outcome"), "--dir", "."];
    let mut recording = memtrace!().start(&SHARP, &command);
    let _gifts = recording.running.first_line();
    let of_huge = if has_scan() { "huge" } else { "thp" };
    assert!(wait_until(|| recording.pages_so_far().iter().any(|row| row.state == of_huge)));
    keep("thp", &recording.finish().expect_code(0));
}

#[test]
#[ignore = "made by `cargo xtask corpus`"]
fn ksm() {
    require!(root);
    require!(bpf);
    let _turn = turn();
    let change = |name: &str, value: &str| {
        Setting::change(&format!("/sys/kernel/mm/ksm/{name}"), value)
            .map_err(|error| format!("needs KSM (CONFIG_KSM): {error}"))
    };
    let _speed = (made!(change("pages_to_scan", "1000")), made!(change("sleep_millisecs", "10")));
    let frozen = Frozen::start(program!("layout"), "ksm", 1);
    let areas = frozen
        .layout
        .stretches
        .iter()
        .map(|stretch| format!("--focus={:#x}-{:#x}", stretch.start, stretch.end));
    let areas: Vec<_> = areas.collect();
    let options: Vec<_> = areas.iter().map(String::as_str).collect();
    let pid = frozen.layout.pid.to_string();
    let mut recording =
        memtrace!().start(&[&["-p", &pid, "--interval", "500ms"], &options[..]].concat(), &[]);
    // Seen as they were, and then merged.
    recording.wait_for_report("/scans/by/asked/scans", 1);
    let _run = made!(change("run", "1"));
    assert!(wait_until(|| recording.pages_so_far().iter().any(|row| row.cause == "merge")));
    recording.running.signal(Signal::INT);
    keep("ksm", &recording.finish());
}

#[test]
#[ignore = "made by `cargo xtask corpus`"]
fn swap() {
    require!(root);
    require!(bpf);
    let _turn = turn();
    let _swap = made!(Swap::on(16 << 20));
    let mut recording = memtrace!().start(&SHARP, &[program!("layout"), "swapped", "--mib", "1"]);
    let _layout = recording.running.first_line();
    assert!(wait_until(|| recording.pages_so_far().iter().any(|row| row.state == "swapped")));
    recording.running.send("\n");
    assert!(wait_until(|| recording.pages_so_far().iter().any(|row| row.prev_state == "swapped")));
    let recording = recording.finish().expect_code(0);

    assert!(recording.faults().iter().any(|row| row.outcome.as_deref() == Some("swap")));
    keep("swap", &recording);
}

#[test]
#[ignore = "made by `cargo xtask corpus`"]
fn mremap() {
    require!(root);
    require!(bpf);
    let _turn = turn();
    let calls = ["--threads", "2", "--calls", "2000", "--forks", "2", "--execs", "2"];
    let command = [&[program!("mapstress")], &calls[..]].concat();
    let recording = memtrace!().record(&["--verify"], &command).expect_code(0);

    assert!(recording.maps().iter().filter(|row| row.action == "mremap").count() > 100);
    keep("mremap", &recording);
}

/// Pages that nobody scans any more once they have moved.
#[test]
#[ignore = "made by `cargo xtask corpus`"]
fn moved() {
    require!(root);
    require!(bpf);
    let _turn = turn();
    let mut recording = memtrace!().start(&SHARP, &[program!("layout"), "moved", "--mib", "1"]);
    let layout: Layout = serde_json::from_str(&recording.running.first_line()).expect("a ledger");
    let start = Some(layout.stretches[0].start);
    assert!(wait_until(|| {
        let rows = recording.timeline_so_far();
        rows.iter().any(|row| row.start_addr == start && row.present_pages == Some(layout.touched_pages))
    }));
    recording.running.send("\n");
    let recording = recording.finish().expect_code(0);

    assert_eq!(recording.maps().iter().filter(|row| row.action == "mremap").count(), 2);
    keep("moved", &recording);
}

#[test]
#[ignore = "made by `cargo xtask corpus`"]
fn loss() {
    require!(root);
    require!(bpf);
    let _turn = turn();
    let command = [program!("storm"), "--threads", "2", "--bytes", "1048576", "--rounds", "16"];
    let options = [&SHARP[..], &["--ring-size", "4K"]].concat();
    let recording = memtrace!().record(&options, &command).expect_code(0);

    assert!(recording.losses().iter().any(|loss| loss.cause == "events_ring"));
    keep("loss", &recording);
}

/// Regions are not known for a while.
#[test]
#[ignore = "made by `cargo xtask corpus`"]
fn loss_of_maps() {
    require!(root);
    require!(bpf);
    let _turn = turn();
    // While nobody reads them, more mappings than perf's ring of one CPU holds, which is 2 MiB.
    let script = r#"echo begun; read -r _; taskset 1 "$0" --pairs 26000 --pages 1; read -r _; "$1" fork"#;
    let command = ["sh", "-c", script, program!("mapping"), program!("touch")];
    let mut recording = memtrace!().start(&SHARP, &command);
    let _begun = recording.running.first_line();
    recording.running.stop();
    recording.running.send("\n");
    recording.running.wait_for("ledger", |running| (running.stdout().lines().count() > 1).then_some(()));
    recording.running.signal(Signal::CONT);
    recording.running.send("\n");
    let recording = recording.finish().expect_code(0);

    assert!(recording.losses().iter().any(|loss| loss.cause == "side_band"));
    keep("loss_of_maps", &recording);
}

#[test]
#[ignore = "made by `cargo xtask corpus`"]
fn kill() {
    require!(root);
    require!(bpf);
    let _turn = turn();
    let mut recording = memtrace!().start(&SHARP, &[program!("demo")]);
    recording.wait_for_report("/faults/minor", 4000);
    recording.running.signal(Signal::KILL);
    let recording = recording.finish();

    assert_eq!(recording.run.signal(), Some(Signal::KILL));
    assert!(recording.report().at("/losses/events").is_null(), "unknown after a torn tail");
    keep("kill", &recording);
}

#[test]
#[ignore = "made by `cargo xtask corpus`"]
fn counts() {
    require!(root);
    require!(bpf);
    let _turn = turn();
    let recording = lives(memtrace!(), &["--detail", "counts"]);

    assert!(recording.faults().is_empty() && recording.report().usage("/heat").minor > 0);
    keep("counts", &recording);
}

#[test]
#[ignore = "made by `cargo xtask corpus`"]
fn no_btf() {
    require!(root);
    require!(bpf);
    let _turn = turn();
    let recording = lives(memtrace!().without("btf"), &[]);

    assert!(!recording.report().has("btf"));
    keep("no_btf", &recording);
}

/// Regions are read, not followed.
#[test]
#[ignore = "made by `cargo xtask corpus`"]
fn attached() {
    require!(root);
    require!(bpf);
    let _turn = turn();
    let frozen = Frozen::start(program!("layout"), "cow", 2);
    let pids: Vec<_> = frozen.pids().map(|pid| pid.to_string()).collect();
    let recording = memtrace!().record(&["-p", &pids.join(","), "--duration", "300ms"], &[]).expect_code(0);

    assert!(recording.report().number("/map_identity/resyncs") > 0);
    keep("attached", &recording);
}
