//! What reaches a terminal: names of files and processes, arguments and paths are anybody's bytes.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::PathBuf,
};

use memtrace_tests::{directory, memtrace, require, run::Run};
use serde_json::Value;
use tempfile::TempDir;

/// Sets a title, clears the screen by a C1 control, goes back, ends the line, turns the direction, is no UTF-8 (which is shown as octal, or as U+FFFD).
const EVIL: &[u8] = b"e\x1b]0;t\x07\r\n\x7f\xc2\x9b2J\xe2\x80\xae\xe9.x";

/// A shell called [`EVIL`]: its program and its name are what is mapped, and what runs.
fn evil_shell() -> (TempDir, PathBuf) {
    let directory = directory();
    let shell = directory.path().join(OsStr::from_bytes(EVIL));
    fs::copy("/bin/sh", &shell).expect("there is a shell");
    fs::set_permissions(&shell, fs::Permissions::from_mode(0o755)).expect("our own");
    (directory, shell)
}

/// Fails if `text` could do anything to a terminal but fill its lines.
#[track_caller]
fn expect_harmless(text: &str) {
    let turns = |c| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let harms = |c: char| c != '\n' && c != '\t' && (c.is_control() || turns(c));
    assert!(!text.contains(harms), "{}", text.escape_debug());
}

#[test]
fn names_of_a_recording_do_nothing_to_a_terminal() {
    require!(root);
    require!(bpf);
    let (directory, shell) = evil_shell();
    let recording = directory.path().join(OsStr::from_bytes(b"\x1b]0;o\x07.mtrace"));
    let run = memtrace!().run(["record", "--verify", "-o"]).arg(&recording).arg("--").arg(&shell);
    let recorded = run.args(["-c", "true", "arg\x1b[2J\u{202e}"]).finish().expect_code(0);
    assert!(recorded.stderr.contains("\\033]0;o\\007.mtrace"), "{recorded:#?}");
    expect_harmless(&recorded.stderr);

    for verb in ["report", "info"] {
        let run = memtrace!().run([verb]).arg(&recording).finish().expect_code(0);
        expect_harmless(&run.stdout);
        assert!(run.stdout.contains("arg\\033[2J\\342\\200\\256"), "{run:#?}");
        assert!(run.stdout.contains("e\\033]0;t\\007\\015"), "{run:#?}");
    }

    let run = memtrace!().run(["report", "--json"]).arg(&recording).finish().expect_code(0);
    let report: Value = serde_json::from_str(&run.stdout).expect("JSON");
    let comms: Vec<_> =
        report["processes"].as_array().expect("processes").iter().map(|one| &one["comm"]).collect();
    assert!(comms.iter().any(|comm| **comm == "e\x1b]0;t\x07\r\n\x7f\u{9b}2J\u{fffd}"), "{comms:?}");
}

#[test]
fn names_of_a_snapshot_do_nothing_to_a_terminal() {
    require!(root);
    let (directory, shell) = evil_shell();
    let mut running = Run::new(&shell).args(["-c", "echo here; read line"]).with_stdin().start();
    assert_eq!(running.first_line(), "here");
    let pid = running.pid().to_string();

    let (two, files) = (format!("{pid},{}", std::process::id()), directory.path().to_str().expect("UTF-8"));

    for args in [["-p", &pid], ["-p", &two], ["--file", files]] {
        let run = memtrace!().run(["snapshot"]).args(args).env("CLICOLOR_FORCE", "1").finish().expect_code(0);
        expect_harmless(&run.stdout);
        assert!(run.stdout.contains("e\\033]0;t\\007"), "{run:#?}");
    }

    running.send("\n");
    running.finish().expect_code(0);
}

#[test]
fn errors_do_nothing_to_a_terminal() {
    let evil = "\x1b]0;t\x07\r\n\u{9b}2J\u{202e}";
    for args in [
        &["info", evil][..],
        &["report", "file", evil],
        &["export", evil, "-f", evil],
        &["record", "-o", &format!("{evil}/x"), "--", "true"],
        &["record", "--focus", &format!("0x{evil}-0x1"), "--", "true"],
        &["record", "--cgroup", evil],
        &["snapshot", "--file", evil],
        &[evil],
    ] {
        let run = memtrace!().run(args).finish();
        assert_ne!(run.code(), Some(0), "{args:?}");
        expect_harmless(&run.stderr);
        assert!(run.stderr.contains("\\033]0;t\\007"), "{run:#?}");
    }
}
