//! The command is never harmed. Its end, its signals, its input, output and environment are its own.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, chown},
        process::ExitStatusExt as _,
    },
    path::Path,
    time::{Duration, Instant},
};

use memtrace_tests::{
    directory, memtrace, program,
    recording::Recording,
    require,
    run::{Run, Running},
};
use rustix::process::Signal;

/// Checks that the recording is whole and holds something.
#[track_caller]
fn expect_complete(recording: &Recording) {
    assert!(recording.expect_complete().number("/faults/minor") > 0);
}

/// Checks that `command` prints the same with and without memtrace.
#[track_caller]
fn expect_same_output(command: &[&str]) {
    let alone = Run::new(command[0]).args(&command[1..]).finish().expect_code(0);
    let recording = memtrace!().record(&[], command).expect_code(0);
    assert_eq!(recording.run.stdout, alone.stdout);
}

/// Waits until the command, or what is left of it, has printed `line`.
#[track_caller]
fn wait_for_line(running: &mut Running, line: &str) {
    running.wait_for(line, |running| running.stdout().lines().any(|it| it == line).then_some(()));
}

#[test]
fn exit_code_of_the_command_is_passed_on() {
    require!(root);
    require!(bpf);
    let recording = memtrace!().record(&[], &[program!("exiting"), "code", "7"]).expect_code(7);

    expect_complete(&recording);
}

#[test]
fn memtrace_dies_of_the_signal_that_the_command_died_of() {
    require!(root);
    require!(bpf);
    let recording = memtrace!().record(&[], &[program!("exiting"), "segv"]);

    assert_eq!(recording.run.signal(), Some(Signal::SEGV), "{:#?}", recording.run);
    assert!(!recording.directory().join("core").exists());
    expect_complete(&recording);
    let failed = recording.faults().into_iter().filter(|row| row.kind == "failed" && row.mode == "user");
    assert_eq!(failed.count(), 1, "the access that it died of");
}

#[test]
fn shell_sees_139_after_a_segmentation_fault() {
    require!(root);
    require!(bpf);
    let scratch = directory();
    let script = r#""$0" record -q -- "$1" segv; echo $?"#;
    let run = Run::new("sh").args(["-c", script, memtrace!().program(), program!("exiting")]);
    let run = run.in_dir(scratch.path()).finish();

    assert_eq!(run.stdout.trim(), "139", "{run:#?}");
}

#[test]
fn sigterm_is_passed_on_once_and_ends_memtrace() {
    require!(root);
    require!(bpf);
    let mut recording = memtrace!().start(&[], &[program!("exiting"), "terminations"]);
    wait_for_line(&mut recording.running, "ready");

    recording.running.signal(Signal::TERM);
    let status = recording.running.wait();
    wait_for_line(&mut recording.running, "terminations: 1");

    assert_eq!(status.signal(), Some(Signal::TERM.as_raw()));
    expect_complete(&recording.finish());
}

#[test]
fn interrupt_finishes_the_file_and_ends_memtrace() {
    require!(root);
    require!(bpf);
    let command = [program!("exiting"), "code", "0", "--after-ms", "20000"];
    let mut recording = memtrace!().start(&[], &command);
    wait_for_line(&mut recording.running, "ready");

    recording.running.signal_group(Signal::INT);
    let recording = recording.finish();

    assert_eq!(recording.run.signal(), Some(Signal::INT), "{:#?}", recording.run);
    expect_complete(&recording);
}

#[test]
fn command_that_ignores_the_interrupt_goes_on_untraced() {
    require!(root);
    require!(bpf);
    let script = r#"trap "" INT; echo ready; until [ -e gate ]; do sleep 0.01; done; echo survived"#;
    let mut recording = memtrace!().start(&[], &["sh", "-c", script]);
    wait_for_line(&mut recording.running, "ready");

    recording.running.signal_group(Signal::INT);
    let status = recording.running.wait();
    // memtrace did not wait for it.
    fs::write(recording.directory().join("gate"), "").expect("the directory is there");
    wait_for_line(&mut recording.running, "survived");

    assert_eq!(status.signal(), Some(Signal::INT.as_raw()));
    expect_complete(&recording.finish());
}

/// Whether memtrace, the process `pid`, has events of perf.
fn is_armed(pid: u32) -> bool {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.filter_map(|fd| fs::read_link(fd.path()).ok())
        .any(|file| file == Path::new("anon_inode:[perf_event]"))
}

/// How long memtrace takes to end when it is interrupted so often, while the command ignores it.
#[track_caller]
fn end_after_interrupts(interrupts: usize) -> Duration {
    let mut recording = memtrace!().start(&[], &["sh", "-c", r#"trap "" INT; echo ready; sleep 60"#]);
    wait_for_line(&mut recording.running, "ready");

    let first = Instant::now();
    recording.running.signal(Signal::INT);
    for _ in 1..interrupts {
        // Two that wait to be heard are one.
        recording.running.wait_for("end of tracing", |running| (!is_armed(running.pid())).then_some(()));
        recording.running.signal(Signal::INT);
    }
    let status = recording.running.wait();
    let took = first.elapsed();

    assert_eq!(status.signal(), Some(Signal::INT.as_raw()));
    expect_complete(&recording.finish());
    took
}

#[test]
fn second_interrupt_ends_memtrace_at_once() {
    require!(root);
    require!(bpf);
    let patient = end_after_interrupts(1);
    let hurried = end_after_interrupts(2);

    assert!(patient >= Duration::from_secs(2), "it waits for the command: {patient:?}");
    assert!(hurried < patient, "{hurried:?} is not below {patient:?}");
}

#[test]
fn killing_memtrace_costs_the_end_of_the_recording_and_nothing_of_the_command() {
    require!(root);
    require!(bpf);
    let scratch = directory();
    // The shell outlives memtrace, ends the storm, and prints what a command ended with.
    let script = r#""$0" --seconds 1000 & read -r _; kill $! && wait; "$1" code 5; echo "storm, then $?""#;
    let command = ["sh", "-c", script, program!("storm"), program!("exiting")];
    let mut recorder = memtrace!()
        .run(["record", "-o", "torn.mtrace", "--"])
        .args(command)
        .in_dir(scratch.path())
        .with_stdin()
        .start();
    let path = scratch.path().join("torn.mtrace");
    // Some thousand faults, beside the head.
    recorder.wait_for("recorded faults", |_| {
        fs::metadata(&path).ok().filter(|file| file.len() > 64 << 10).map(drop)
    });

    recorder.signal(Signal::KILL);
    let status = recorder.wait();
    wait_for_line(&mut recorder, "storm, then 5");

    assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
    let report = memtrace!().run(["report", "--json"]).arg(&path).finish().expect_code(0);
    let report: serde_json::Value = serde_json::from_str(&report.stdout).expect("JSON");
    assert_eq!(report["complete"], false);
    assert!(report["losses"]["events"].is_null(), "unknown after a torn tail");
    assert!(report["faults"]["minor"].as_u64() > Some(0));
    let info = memtrace!().run(["info"]).arg(&path).finish().expect_code(0);
    assert!(info.stdout.contains("recovery"), "{info:#?}");
}

#[test]
fn duration_ends_the_recording_and_the_command_goes_on() {
    require!(root);
    require!(bpf);
    let mut recording = memtrace!().start(&["--duration", "300ms"], &["sh", "-c", "read -r _; exit 3"]);
    recording.wait_for_end_mark();
    recording.running.send("\n");
    let recording = recording.finish().expect_code(3);

    // It ended while the command waited for its line; on a machine that is held up, it may take as long as that lasts.
    let duration = recording.report().number("/duration_ns");
    assert!(duration > 200_000_000, "{duration} ns");
}

#[test]
fn duration_with_kill_ends_the_command() {
    require!(root);
    require!(bpf);
    let command = [program!("exiting"), "code", "3", "--after-ms", "20000"];
    let recording = memtrace!().record(&["--duration", "300ms", "--kill"], &command).expect_code(124);

    expect_complete(&recording);
}

#[test]
fn duration_with_kill_ends_a_command_that_ignores_sigterm() {
    require!(root);
    require!(bpf);
    let script = r#"trap "" TERM; sleep 20 & wait; wait"#;
    let recording = memtrace!().record(&["--duration", "200ms", "--kill"], &["sh", "-c", script]);

    expect_complete(&recording.expect_code(124));
}

#[test]
fn signal_of_the_command_is_memtraces_under_quiet_too() {
    require!(root);
    require!(bpf);
    let scratch = directory();
    let run = memtrace!().run(["record", "-q", "--", "sh", "-c", "kill -TERM $$"]).in_dir(scratch.path());

    let _ended = run.finish().expect_signal(Signal::TERM);
}

#[test]
fn output_of_the_command_is_untouched() {
    require!(root);
    require!(bpf);
    let recording = memtrace!().record(&[], &["printf", r"a\0b\n\n"]).expect_code(0);

    assert_eq!(recording.run.stdout, "a\0b\n\n");
}

#[test]
fn input_of_the_command_is_untouched() {
    require!(root);
    require!(bpf);
    let mut recording = memtrace!().start(&[], &["cat"]);
    recording.running.send("first\nlast");

    assert_eq!(recording.finish().expect_code(0).run.stdout, "first\nlast");
}

#[test]
fn environment_of_the_command_is_untouched() {
    require!(root);
    require!(bpf);
    let scratch = directory();
    let env = |run: Run| {
        let run = run.env("UNUSUAL", "value with spaces").in_dir(scratch.path()).finish();
        let mut lines: Vec<_> = run.expect_code(0).stdout.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };

    let traced = env(memtrace!().run(["record", "-q", "--", "env"]));
    assert_eq!(traced, env(Run::new("env")));
    assert!(traced.contains(&"UNUSUAL=value with spaces".to_owned()));
}

#[test]
fn signal_dispositions_and_limits_of_the_command_are_untouched() {
    require!(root);
    require!(bpf);
    expect_same_output(&[
        "grep",
        "-E",
        "^(Sig|Shd)...:|^Cap|^NoNewPrivs|^Seccomp|^Threads",
        "/proc/self/status",
    ]);
    expect_same_output(&["sh", "-c", "umask; ulimit -a; nice; cat /proc/self/oom_score_adj"]);
}

#[test]
fn ignored_signal_stays_ignored() {
    require!(root);
    require!(bpf);
    let scratch = directory();
    let script = r#"trap "" PIPE; exec "$0" record -q -- grep SigIgn /proc/self/status"#;
    let run = Run::new("sh").args(["-c", script, memtrace!().program()]);
    let run = run.in_dir(scratch.path()).finish().expect_code(0);

    let mask = run.stdout.split_whitespace().last().and_then(|mask| u64::from_str_radix(mask, 16).ok());
    // SIGPIPE is 13; the mask begins with signal 1.
    assert_eq!(mask.expect("a mask") & 1 << 12, 1 << 12, "{run:#?}");
}

#[test]
fn under_sudo_the_command_runs_as_the_invoking_user_who_gets_the_file() {
    require!(root);
    require!(bpf);
    let scratch = directory();
    chown(scratch.path(), Some(65534), Some(65534)).expect("root may");
    let run = memtrace!()
        .run(["record", "--", "sh", "-c", "id -u; id -g; id -G"])
        .env("SUDO_UID", "65534")
        .env("SUDO_GID", "65534")
        .env("SUDO_USER", "nobody")
        .in_dir(scratch.path())
        .finish()
        .expect_code(0);

    assert_eq!(run.stdout, "65534\n65534\n65534\n");
    let file = fs::metadata(scratch.path().join("memtrace.mtrace")).expect("a recording");
    assert_eq!((file.uid(), file.gid()), (65534, 65534));
}

#[test]
fn command_inherits_no_descriptor_of_memtrace() {
    require!(root);
    require!(bpf);
    expect_same_output(&["ls", "/proc/self/fd"]);
}

#[test]
fn command_has_its_own_name_and_arguments() {
    require!(root);
    require!(bpf);
    let recording = memtrace!().record(&[], &["cat", "/proc/self/comm", "/proc/self/cmdline"]).expect_code(0);

    assert_eq!(recording.run.stdout, "cat\ncat\0/proc/self/comm\0/proc/self/cmdline\0");
}
