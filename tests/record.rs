//! How `memtrace record` treats its own files, and whatever goes wrong before the command starts.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

use memtrace_tests::{
    directory, ledger::Ledger, memtrace, program, require, requirement::skip, run::Run, wait_until,
};

/// `memtrace record` with these arguments in `directory`.
fn record(directory: &Path, args: &[&str]) -> Run {
    memtrace!().run(["record"]).args(args).in_dir(directory)
}

#[test]
fn command_that_is_not_there_is_127() {
    require!(root);
    require!(bpf);
    let scratch = directory();
    let run = record(scratch.path(), &["--", "no-such-program"]).finish();

    run.expect_failure(127, &["no-such-program"]);
    assert_eq!(fs::read_dir(scratch.path()).expect("a directory").count(), 0, "nothing is left");
}

#[test]
fn command_that_is_not_executable_is_126() {
    require!(root);
    require!(bpf);
    let scratch = directory();
    fs::write(scratch.path().join("notes"), "text").expect("a file");
    let run = record(scratch.path(), &["--", "./notes"]).finish();

    run.expect_failure(126, &["./notes", "chmod +x"]);
}

#[test]
fn command_that_the_kernel_does_not_run_is_126_and_says_what_it_lacks() {
    require!(root);
    require!(bpf);
    let scratch = directory();
    let script = scratch.path().join("orphan");
    fs::write(&script, "#!/no/such/interpreter\n").expect("a file");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("our own");
    for (command, need) in [("./orphan", "interpreter"), ("/etc", "is a directory")] {
        record(scratch.path(), &["--", command]).finish().expect_failure(126, &[command, need]);
    }
}

#[test]
fn usage_errors_are_125_and_start_nothing() {
    require!(root);
    require!(bpf);
    for (options, word) in [
        (&["--duration", "0"][..], "--duration"),
        (&["--ring-size", "100K"], "128K"),
        (&["--ring-size", "3"], "--ring-size"),
        (&["--interval", "0"], "--interval"),
        (&["--max-lock", "1us"], "--max-lock"),
        (&["--interval", "soon"], "--interval"),
        (&["--max-cpu", "0"], "above 0"),
        (&["--focus", "0x2000-0x1000"], "0x2000-0x1000"),
        (&["--focus", "0x2000+"], "0x7f0000000000+2M"),
        (&["--detail", "some"], "--detail"),
        (&["--no-such-option"], "--no-such-option"),
        (&["-p", "1"], "target"),
    ] {
        let scratch = directory();
        let args = [options, &["--", "touch", "started"]].concat();
        let run = record(scratch.path(), &args).finish().expect_code(125);

        assert!(run.stderr.contains(word), "{word} is missing: {run:#?}");
        assert!(!scratch.path().join("started").exists(), "{options:?}");
    }
}

#[test]
fn recording_needs_a_target() {
    let scratch = directory();

    record(scratch.path(), &[]).finish().expect_code(125);
    record(scratch.path(), &["--"]).finish().expect_code(125);
}

#[test]
fn processes_that_are_not_there_are_named() {
    require!(root);
    require!(bpf);
    let scratch = directory();
    let mut child = Command::new("true").stdout(Stdio::null()).spawn().expect("true starts");
    let pid = child.id().to_string();
    // Dead and not waited for.
    let is_zombie = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it is not waited for");
        stat.contains(") Z ")
    };
    assert!(wait_until(is_zombie));
    record(scratch.path(), &["-p", &pid]).finish().expect_failure(125, &[&pid]);
    child.wait().expect("a child");

    record(scratch.path(), &["-p", &pid]).finish().expect_failure(125, &[&pid]);
    record(scratch.path(), &["-t", &pid]).finish().expect_failure(125, &[&pid]);
    record(scratch.path(), &["--cgroup", "/no/such/group"]).finish().expect_failure(125, &["/no/such/group"]);
    assert_eq!(fs::read_dir(scratch.path()).expect("a directory").count(), 0, "nothing is left");
}

#[test]
fn thread_of_the_kernel_has_nothing_to_record() {
    require!(root);
    require!(bpf);
    if fs::read_to_string("/proc/2/comm").ok().as_deref() != Some("kthreadd\n") {
        skip("needs the initial PID namespace");
        return;
    }
    let scratch = directory();

    for option in ["-p", "-t"] {
        let run = record(scratch.path(), &[option, "2", "--duration", "10ms"]).finish();
        let _run = run.expect_failure(125, &["2 is a thread of the kernel", "nothing to record"]);
    }
    assert_eq!(fs::read_dir(scratch.path()).expect("a directory").count(), 0, "nothing is left");
}

#[test]
fn what_keeps_a_process_from_being_seen_is_said_once() {
    require!(root);
    require!(bpf);
    require!(program "unshare" of "util-linux");
    let scratch = directory();
    let mut target = Run::new("sh").args(["-c", "echo here; read line"]).with_stdin().start();
    assert_eq!(target.first_line(), "here");
    let pid = target.pid().to_string();

    // Nothing is mapped at the address 0, so to read there is an error.
    let script = r#"mount --bind "/proc/$1/mem" "/proc/$1/maps" && "$0" record -p "$1" --duration 500ms"#;
    let run = Run::new("unshare").args(["--mount", "sh", "-c", script, memtrace!().program(), &pid]);
    let run = run.in_dir(scratch.path()).finish().expect_code(0);

    target.send("\n");
    target.finish().expect_code(0);
    let said = run.stderr.lines().filter(|line| line.contains(&format!("cannot scan process {pid}")));
    let said: Vec<_> = said.collect();
    assert!(!said.is_empty() && said.iter().collect::<BTreeSet<_>>().len() == said.len(), "{said:#?}");
}

#[test]
fn missing_directory_of_the_output_is_named_before_the_command_starts() {
    require!(root);
    require!(bpf);
    let scratch = directory();
    let run = record(scratch.path(), &["-o", "no/file.mtrace", "--", "touch", "started"]).finish();

    run.expect_failure(125, &["no/file.mtrace", "mkdir"]);
    assert!(!scratch.path().join("started").exists());
}

/// Runs memtrace in a mount namespace of its own in which `directory/full` is a tmpfs with `options`.
fn with_tmpfs(directory: &Path, options: &str, script: &str) -> Run {
    fs::create_dir(directory.join("full")).expect("a directory");
    let script = format!("mount -t tmpfs -o {options} none full && {script}");
    Run::new("unshare")
        .args(["--mount", "sh", "-c", &script, memtrace!().program(), program!("storm")])
        .in_dir(directory)
}

#[test]
fn read_only_directory_of_the_output_is_named_before_the_command_starts() {
    require!(root);
    require!(bpf);
    require!(program "unshare" of "util-linux");
    let scratch = directory();
    let script = r#""$0" record -o full/file.mtrace -- touch started"#;
    let run = with_tmpfs(scratch.path(), "ro", script).finish();

    run.expect_failure(125, &["full/file.mtrace", "ead-only"]);
    assert!(!scratch.path().join("started").exists());
}

#[test]
fn full_disk_is_said_before_the_command_starts() {
    require!(root);
    require!(bpf);
    require!(program "unshare" of "util-linux");
    let scratch = directory();
    let script = r#"{ head -c 1M /dev/zero >full/zeroes 2>/dev/null
        "$0" record -o full/file.mtrace -- touch started; }"#;
    let run = with_tmpfs(scratch.path(), "size=64k", script).finish();

    run.expect_failure(125, &["No space left"]);
    assert!(!scratch.path().join("started").exists());
}

#[test]
fn disk_that_fills_up_leaves_the_command_alone() {
    require!(root);
    require!(bpf);
    require!(program "unshare" of "util-linux");
    let scratch = directory();
    // The shell ends after the storm, and writes what that ended with.
    let script =
        r#""$0" record -o full/file.mtrace -- sh -c '"$0" --threads 2 --rounds 16; echo "storm: $?"' "$1""#;
    let run = with_tmpfs(scratch.path(), "size=128k", script).finish();

    let run = run.expect_failure(125, &["No space left"]);
    assert!(run.stdout.contains("storm: 0\n"), "{run:#?}");
}

#[test]
fn second_recording_keeps_the_first_as_old() {
    require!(root);
    require!(bpf);
    let scratch = directory();
    let file = |name| fs::read(scratch.path().join(name));

    record(scratch.path(), &["--", "true"]).finish().expect_code(0);
    let first = file("memtrace.mtrace").expect("a recording");
    let run = record(scratch.path(), &["--", "true"]).finish().expect_code(0);

    assert_eq!(file("memtrace.mtrace.old").expect("the first recording"), first);
    assert_ne!(file("memtrace.mtrace").expect("the second recording"), first);
    assert_eq!(run.stdout, "");
}

#[test]
fn recording_is_replaced_and_something_else_is_not() {
    require!(root);
    require!(bpf);
    let scratch = directory();
    let run = |args: &[&str]| record(scratch.path(), args).finish();
    fs::write(scratch.path().join("notes"), "precious").expect("a file");

    run(&["-o", "a.mtrace", "--", "true"]).expect_code(0);
    run(&["-o", "a.mtrace", "--", "true"]).expect_code(0);
    run(&["-o", "notes", "--", "touch", "started"]).expect_failure(125, &["notes", "--force"]);
    assert_eq!(fs::read(scratch.path().join("notes")).expect("a file"), b"precious");
    assert!(!scratch.path().join("started").exists());
    run(&["-o", "notes", "--force", "--", "true"]).expect_code(0);
    memtrace!().run(["info"]).arg(scratch.path().join("notes")).finish().expect_code(0);
}

#[test]
fn recording_goes_to_stdout_when_asked() {
    require!(root);
    require!(bpf);
    let scratch = directory();
    let script = r#""$0" record -q -o - -- true >piped.mtrace && "$0" info piped.mtrace"#;
    let run = Run::new("sh").args(["-c", script, memtrace!().program()]);

    let _read = run.in_dir(scratch.path()).finish().expect_code(0);
}

#[test]
fn recording_can_be_read_by_its_owner_alone() {
    require!(root);
    require!(bpf);
    let recording = memtrace!().record(&[], &["true"]).expect_code(0);

    let mode = fs::metadata(recording.path()).expect("a file").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn quiet_says_nothing() {
    require!(root);
    require!(bpf);
    let recording = memtrace!().record(&["-q"], &["true"]).expect_code(0);

    assert_eq!(recording.run.stderr, "");
}

#[test]
fn verb_may_be_left_out() {
    require!(root);
    require!(bpf);
    let scratch = directory();
    let run =
        memtrace!().run(["--", program!("touch"), "write"]).in_dir(scratch.path()).finish().expect_code(0);

    assert_eq!(run.last_line::<Ledger>().areas.len(), 1);
    assert!(scratch.path().join("memtrace.mtrace").exists());
}

#[test]
fn missing_privileges_are_named_and_the_command_does_not_start() {
    require!(root);
    require!(program "setpriv" of "util-linux");
    let scratch = directory();
    // Root without any capability: what is asked for is privileges, not the user.
    let run = Run::new("setpriv")
        .args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"])
        .args([memtrace!().program(), "record", "--", "touch", "started"])
        .in_dir(scratch.path())
        .finish();

    run.expect_failure(125, &["CAP_BPF", "CAP_PERFMON"]);
    assert_eq!(fs::read_dir(scratch.path()).expect("a directory").count(), 0, "nothing is left");
}

#[test]
fn failed_set_up_leaves_older_recordings_as_they_were() {
    require!(root);
    require!(bpf);
    let scratch = directory();
    let run = |args: &[&str]| record(scratch.path(), args).finish();
    let file = |name| fs::read(scratch.path().join(name)).expect("a file");
    run(&["--", "true"]).expect_code(0);
    run(&["-o", "named.mtrace", "--", "true"]).expect_code(0);
    let before = (file("memtrace.mtrace"), file("named.mtrace"));

    run(&["--", "/no/such/program"]).expect_code(127);
    run(&["-p", "4000000000"]).expect_code(125);
    run(&["-o", "named.mtrace", "-p", "4000000000"]).expect_code(125);

    assert_eq!((file("memtrace.mtrace"), file("named.mtrace")), before);
    assert!(!scratch.path().join("memtrace.mtrace.old").exists());
}

#[test]
fn timeline_is_replaced_and_something_else_is_not() {
    require!(root);
    require!(bpf);
    let scratch = directory();
    let run = |args: &[&str]| record(scratch.path(), args).finish();
    fs::write(scratch.path().join("notes"), "precious").expect("a file");

    run(&["--csv", "a.csv", "--", "true"]).expect_code(0);
    run(&["--csv", "a.csv", "--", "true"]).expect_code(0);
    run(&["--csv", "notes", "--", "touch", "started"]).expect_failure(125, &["notes", "--force"]);
    run(&["--csv", "same", "-o", "same", "--", "touch", "started"]).expect_failure(125, &["same"]);
    run(&["--csv", "-", "--", "touch", "started"]).expect_failure(125, &["--csv"]);

    assert_eq!(fs::read(scratch.path().join("notes")).expect("a file"), b"precious");
    assert!(!scratch.path().join("started").exists());
    let mode = fs::metadata(scratch.path().join("a.csv")).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn command_without_its_dashes_is_explained() {
    let scratch = directory();

    let run = memtrace!().run(["ls", "-l"]).in_dir(scratch.path()).finish().expect_code(2);

    assert!(run.stderr.contains("memtrace -- ls -l"), "{run:#?}");
}
