//! Where limits, signals and pipes are not as usual: memtrace says what stands in its way, and the command has what it would have
//! without memtrace.

use std::{
    fs::{self, File},
    io::Read as _,
    path::Path,
    thread,
};

use memtrace_tests::{
    directory, memtrace, program, require,
    run::{Finished, Run, Running},
};
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::Signal,
};
use tempfile::TempDir;

/// A line of a shell in which `$@` is memtrace with `args`, in a directory of its own.
fn behind(directory: &TempDir, script: &str, args: &[&str]) -> Run {
    Run::new("sh").args(["-c", script, "sh", memtrace!().program()]).args(args).in_dir(directory.path())
}

/// A FIFO called `fifo`.
fn make_fifo(directory: &TempDir) {
    let path = directory.path().join("fifo");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");
}

/// Reads a byte of `fifo`, then leaves.
fn read_a_byte(fifo: &Path) -> thread::JoinHandle<()> {
    let fifo = fifo.to_owned();
    thread::spawn(move || {
        let mut reader = File::open(fifo).expect("somebody writes");
        reader.read_exact(&mut [0]).expect("a byte");
    })
}

/// Waits until memtrace, whose stderr goes to stdout, says that the recording has failed; then sees the command to its end, which is
/// that of `cat`.
#[track_caller]
fn expect_command_to_outlive_the_recording(mut running: Running) -> Finished {
    running.wait_for("failure", |this| this.stdout().contains("recording has failed").then_some(()));
    running.send("a command that lives\n");
    running.wait_for("echo", |this| this.stdout().contains("a command that lives").then_some(()));
    running.finish().expect_code(125)
}

#[test]
fn soft_limit_of_open_files_is_raised_for_memtrace_alone() {
    require!(root);
    require!(bpf);
    let scratch = directory();
    let run =
        behind(&scratch, r#"ulimit -S -n 20; exec "$@""#, &["record", "-q", "--", "sh", "-c", "ulimit -n"]);

    assert_eq!(run.finish().expect_code(0).stdout, "20\n");
}

#[test]
fn too_few_open_files_are_named() {
    require!(root);
    require!(bpf);
    let scratch = directory();
    // From what lets memtrace start to what is a few short of enough: some steps cannot say what they lack.
    for most in [6, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 72, 76, 80] {
        let script = format!(r#"ulimit -n {most}; exec "$@""#);
        let run = behind(&scratch, &script, &["record", "-q", "--", "true"]).finish();
        run.expect_failure(125, &[&format!("{most} open files"), "--nofile="]);
    }
    for args in [&["doctor"][..], &["snapshot", "-p", "1"]] {
        let run = behind(&scratch, r#"ulimit -n 8; exec "$@""#, args).finish();
        run.expect_failure(1, &["8 open files", "--nofile="]);
    }
}

#[test]
fn too_little_address_space_is_named() {
    require!(root);
    require!(bpf);
    let scratch = directory();
    let mut failed = 0;
    // In KiB: from what lets memtrace start, about, to what is plenty.
    for most in [40_000, 50_000, 60_000, 70_000, 80_000, 90_000, 100_000, 110_000, 120_000, 400_000] {
        let script = format!(r#"ulimit -v {most}; exec "$@""#);
        let run = behind(&scratch, &script, &["record", "-q", "--", "echo", "done"]).finish();
        if run.code() == Some(0) {
            assert_eq!(run.stdout, "done\n");
        } else {
            run.expect_failure(125, &["bytes of address space", "--as="]);
            failed += 1;
        }
    }
    assert!((1..10).contains(&failed), "{failed} of 10");
}

#[test]
fn command_has_all_that_it_would_have_without_memtrace() {
    require!(root);
    require!(bpf);
    require!(program "setpriv" of "util-linux");
    require!(program "prlimit" of "util-linux");
    let scratch = directory();
    let script = r#"
        command=$1; shift
        start() {
            env --block-signal=INT,TERM,CHLD,USR1 --ignore-signal=HUP,XFSZ,WINCH nice -n 5 \
                prlimit --nofile=60:4000 --as=8000000000:9000000000 --fsize=100000000 --core=0 \
                setpriv --pdeathsig TERM --no-new-privs "$@"
        }
        umask 027
        exec 5</dev/null
        start "$command" a 'b c'
        start "$@" "$command" a 'b c'"#;
    let run = Run::new("sh")
        .args(["-c", script, "sh", program!("inherited"), memtrace!().program(), "record", "-q", "--"])
        .in_dir(scratch.path())
        .finish()
        .expect_code(0);

    let half = run.stdout.len() / 2;
    let (alone, traced) = run.stdout.split_at(half);
    assert!(alone.starts_with("arguments:") && alone.contains("death of the parent: Some("), "{run:#?}");
    assert_eq!(traced, alone);
}

#[test]
fn blocked_signals_do_not_keep_memtrace_running() {
    require!(root);
    require!(bpf);
    let scratch = directory();
    let script = r#"exec env --block-signal=INT,TERM,HUP,CHLD "$@""#;

    let args = ["record", "-q", "--", program!("exiting"), "code", "3"];
    let _ended = behind(&scratch, script, &args).finish().expect_code(3);
    let args = ["record", "-q", "--", "sh", "-c", "echo ready; exec sleep 60"];
    let mut running = behind(&scratch, script, &args).start();
    assert_eq!(running.first_line(), "ready");
    running.signal(Signal::TERM);
    let _ended = running.finish().expect_signal(Signal::TERM);
}

#[test]
fn alarm_that_was_set_before_is_the_commands() {
    require!(root);
    require!(bpf);
    require!(program "perl" of "perl-base");
    let scratch = directory();
    let script = r#"exec perl -e 'alarm 1000; exec @ARGV' "$@""#;
    // It prints the seconds that were left.
    let args = ["record", "-q", "--", "perl", "-e", "print alarm 0"];
    let run = behind(&scratch, script, &args).finish().expect_code(0);

    let left: u32 = run.stdout.parse().expect("seconds");
    assert!((1..=1000).contains(&left), "{left} s");
}

#[test]
fn fifo_that_nobody_reads_is_named_and_left_by_ctrl_c() {
    require!(root);
    require!(bpf);
    for option in ["-o", "--csv"] {
        let scratch = directory();
        make_fifo(&scratch);
        let mut running =
            behind(&scratch, r#"exec "$@" 2>&1"#, &["record", option, "fifo", "--", "echo", "started"])
                .start();

        let line = running.first_line();
        running.signal(Signal::INT);

        let run = running.finish().expect_signal(Signal::INT);
        assert!(line.contains("fifo is a FIFO that nobody reads"), "{run:#?}");
        assert!(!run.stdout.contains("started"), "{run:#?}");
    }
}

#[test]
fn reader_that_leaves_ends_the_recording_and_not_the_command() {
    require!(root);
    require!(bpf);
    for args in [&["record", "-o", "fifo", "--", "cat"][..], &["record", "--csv", "fifo", "--", "cat"]] {
        let scratch = directory();
        make_fifo(&scratch);
        let reader = read_a_byte(&scratch.path().join("fifo"));
        let running = behind(&scratch, r#"exec "$@" 2>&1"#, args).with_stdin().start();

        let run = expect_command_to_outlive_the_recording(running);

        reader.join().expect("it read a byte");
        assert!(run.stdout.contains("Broken pipe"), "{run:#?}");
    }
}

#[test]
fn exit_code_is_the_commands_when_nobody_reads_what_memtrace_says() {
    require!(root);
    require!(bpf);
    let scratch = directory();
    let script = r#"{ "$@"; echo $? >code; } 2>&1 | true"#;
    let _gone = behind(&scratch, script, &["record", "--", "sh", "-c", "exit 5"]).finish();

    assert_eq!(fs::read_to_string(scratch.path().join("code")).expect("a code"), "5\n");
}

#[test]
fn largest_size_of_files_ends_the_recording_and_not_the_command() {
    require!(root);
    require!(bpf);
    let scratch = directory();
    // More than a header, and less than thousands of faults: 8 or 16 KiB, as shells differ.
    let script = r#"ulimit -f 16; exec "$@" 2>&1"#;
    let command = "dd if=/dev/zero of=/dev/null bs=64M count=2 2>/dev/null; exec cat";
    let running = behind(&scratch, script, &["record", "--", "sh", "-c", command]).with_stdin().start();

    let run = expect_command_to_outlive_the_recording(running);

    assert!(run.stdout.contains("File too large") && run.stdout.contains("--fsize="), "{run:#?}");
}

#[test]
fn rings_of_perf_shrink_where_locked_memory_is_short() {
    require!(root);
    require!(bpf);
    require!(program "setpriv" of "util-linux");
    // Before, programs and maps of eBPF are charged to the same limit.
    require!(kernel "5.11");
    let scratch = directory();
    // Enough for small rings even while other sessions have all that is free of charge, and not for one large ring.
    let script = r#"ulimit -l 1024
        exec setpriv --bounding-set=-ipc_lock,-sys_resource --inh-caps=-ipc_lock,-sys_resource "$@""#;
    let run = behind(&scratch, script, &["record", "--verify", "--", "echo", "done"]).finish().expect_code(0);

    assert_eq!(run.stdout, "done\n");
    assert!(run.stderr.contains("for want of locked memory"), "{run:#?}");
}

#[test]
fn sysfs_that_is_not_there_is_named() {
    require!(root);
    require!(bpf);
    require!(program "unshare" of "util-linux");
    let scratch = directory();
    let script = r#"exec unshare -m sh -c 'mount -t tmpfs none /sys; exec "$@"' sh "$@""#;

    for (args, code) in
        [(&["record", "--", "true"][..], 125), (&["doctor"], 1), (&["snapshot", "-p", "1"], 1)]
    {
        behind(&scratch, script, args).finish().expect_failure(code, &["/sys/", "mount -t sysfs"]);
    }
}
