//! Where `memtrace` writes, and whose that is: links, names and files of other users, plain and behind sudo.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
    path::Path,
};

use memtrace_tests::{directory, memtrace, require, run::Run};
use tempfile::TempDir;

/// Who shares the directory.
const OTHER: &str = "1234";
/// Who calls sudo.
const INVOKER: u32 = 65534;

/// `memtrace` with these arguments in `directory`, as root or behind sudo.
fn run(directory: &Path, is_sudo: bool, args: &[&str]) -> Run {
    behind(memtrace!().run(args).in_dir(directory), is_sudo)
}

/// `run` with the variables that sudo sets, if it is meant to be behind that.
fn behind(run: Run, is_sudo: bool) -> Run {
    if !is_sudo {
        return run;
    }
    run.env("SUDO_UID", "65534").env("SUDO_GID", "65534").env("SUDO_USER", "nobody")
}

/// A directory into which everybody may write.
fn shared_directory() -> TempDir {
    let directory = directory();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).expect("our own");
    directory
}

/// Runs a program in `directory` as the other user.
#[track_caller]
fn as_other(directory: &Path, command: &[&str]) {
    let run = Run::new("setpriv").args(["--reuid", OTHER, "--regid", OTHER, "--clear-groups"]);
    let _run = run.args(command).in_dir(directory).finish().expect_code(0);
}

/// Name, owner, mode and content of each file in `directory`.
fn files(directory: &Path) -> Vec<(String, u32, u32, Vec<u8>)> {
    let entries = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry"));
    let file = |entry: fs::DirEntry| {
        let metadata = entry.metadata().expect("it is there");
        let name = entry.file_name().into_string().expect("names of this test");
        (name, metadata.uid(), metadata.mode(), fs::read(entry.path()).expect("a file"))
    };
    let mut files: Vec<_> = entries.map(file).collect();
    files.sort();
    files
}

#[test]
fn link_that_another_user_planted_leads_nowhere() {
    require!(root);
    require!(bpf);
    require!(program "setpriv" of "util-linux");
    let cases: [(&str, &[&str]); 5] = [
        ("x.mtrace", &["-o", "x.mtrace"]),
        ("x.csv", &["-o", "mine.mtrace", "--csv", "x.csv"]),
        ("memtrace.mtrace", &[]),
        ("memtrace.mtrace.old", &[]),
        ("way", &["-o", "way/x.mtrace"]),
    ];
    for (name, args) in cases {
        for (is_sudo, is_dangling) in [(false, true), (false, false), (true, true), (true, false)] {
            let (shared, outside) = (shared_directory(), shared_directory());
            let victim =
                if name == "way" { outside.path().to_owned() } else { outside.path().join("victim") };
            if !is_dangling {
                // Empty, for there is nothing to refuse in such a one but the link.
                fs::write(outside.path().join("victim"), "").expect("a file");
            }
            if name == "memtrace.mtrace.old" {
                let older = shared.path().join("memtrace.mtrace");
                fs::write(&older, "").expect("a file");
                chown(older, is_sudo.then_some(INVOKER), None).expect("root may");
            }
            as_other(shared.path(), &["ln", "-s", victim.to_str().expect("UTF-8"), name]);
            let before = files(outside.path());

            let args = [&["record"], args, &["--", "touch", "started"]].concat();
            let run = run(shared.path(), is_sudo, &args).finish();

            let case = format!("{name}, sudo: {is_sudo}, dangling: {is_dangling}");
            let run = run.expect_failure(125, &[name, "1234"]);
            assert_eq!(files(outside.path()), before, "{case}: {run:#?}");
            assert!(!shared.path().join("started").exists(), "{case}");
            assert!(!shared.path().join("mine.mtrace").exists(), "{case}: a recording is left");
        }
    }
}

#[test]
fn export_follows_no_link_of_another_user() {
    require!(root);
    require!(bpf);
    require!(program "setpriv" of "util-linux");
    let (shared, outside) = (shared_directory(), shared_directory());
    let recording = memtrace!().record(&[], &["true"]).expect_code(0);
    let recording = recording.path().to_str().expect("UTF-8");
    let victim = outside.path().join("victim");
    as_other(shared.path(), &["ln", "-s", victim.to_str().expect("UTF-8"), "x.csv"]);

    let run = run(shared.path(), false, &["export", recording, "-f", "csv", "-o", "x.csv"]).finish();

    let _run = run.expect_failure(1, &["x.csv", "1234"]);
    assert!(!victim.exists());
}

#[test]
fn under_sudo_nothing_is_written_where_the_invoking_user_may_not() {
    require!(root);
    require!(bpf);
    let (shared, of_root) = (shared_directory(), directory());
    fs::set_permissions(of_root.path(), fs::Permissions::from_mode(0o755)).expect("our own");
    let file = of_root.path().join("cron.d");
    let name = file.to_str().expect("UTF-8");

    for args in [&["record", "-o", name, "--", "true"], &["record", "--csv", name, "--", "true"]] {
        let _run = run(shared.path(), true, args).finish().expect_failure(125, &[name, "nobody", "denied"]);
        assert!(!file.exists());
    }
    // An open descriptor is no way around it either.
    fs::write(&file, "").expect("a file");
    let script = format!(r#""$0" record -o /dev/fd/7 -- true 7<{name}"#);
    let run = Run::new("sh").args(["-c", &script, memtrace!().program()]).in_dir(shared.path());
    let _run = behind(run, true).finish().expect_failure(125, &["denied"]);
    assert_eq!(fs::read(&file).expect("a file"), b"");
}

#[test]
fn file_of_another_user_is_not_replaced() {
    require!(root);
    require!(bpf);
    require!(program "setpriv" of "util-linux");
    let shared = shared_directory();
    as_other(shared.path(), &["touch", "x.mtrace"]);
    as_other(shared.path(), &["mkfifo", "fifo"]);
    as_other(shared.path(), &["touch", "memtrace.mtrace"]);
    let before = fs::metadata(shared.path().join("x.mtrace")).expect("a file").mode();

    for args in [&["-o", "x.mtrace"][..], &["-o", "x.mtrace", "--force"], &["-o", "fifo"], &[]] {
        let args = [&["record"], args, &["--", "true"]].concat();
        let _run = run(shared.path(), false, &args).finish().expect_failure(125, &["1234"]);
    }

    let after = fs::metadata(shared.path().join("x.mtrace")).expect("a file");
    assert_eq!((after.len(), after.mode(), after.uid()), (0, before, 1234));
    assert!(!shared.path().join("memtrace.mtrace.old").exists());
}

#[test]
fn file_with_another_name_is_not_replaced() {
    require!(root);
    require!(bpf);
    let scratch = directory();
    fs::write(scratch.path().join("precious"), "").expect("a file");
    fs::hard_link(scratch.path().join("precious"), scratch.path().join("x.mtrace")).expect("one directory");

    let run = run(scratch.path(), false, &["record", "-o", "x.mtrace", "--", "true"]).finish();

    let _run = run.expect_failure(125, &["x.mtrace", "2 names"]);
    assert_eq!(fs::read(scratch.path().join("precious")).expect("a file"), b"");
}

#[test]
fn name_of_a_directory_is_no_output() {
    require!(root);
    require!(bpf);
    for name in ["x/", "x/.", ".", "/"] {
        let scratch = directory();
        let run = run(scratch.path(), false, &["record", "-o", name, "--", "touch", "started"]).finish();

        let _run = run.expect_failure(125, &[name, "directory", "of a file"]);
        assert!(files(scratch.path()).is_empty(), "{name}");
    }
}

#[test]
fn directory_in_which_no_file_can_be_made_is_said() {
    require!(root);
    require!(bpf);
    for args in [&["-o", "/proc/x"][..], &["--csv", "/proc/x"]] {
        let scratch = directory();
        let args = [&["record"], args, &["--", "touch", "started"]].concat();
        let run = run(scratch.path(), false, &args).finish();

        let _run = run.expect_failure(125, &["/proc/x", "in another directory"]);
        assert!(files(scratch.path()).is_empty(), "{args:?}");
    }
}

#[test]
fn recording_and_timeline_never_share_a_file() {
    require!(root);
    require!(bpf);
    let scratch = directory();
    let file = |name: &str| scratch.path().join(name);
    run(scratch.path(), false, &["record", "-o", "x.mtrace", "--", "true"]).finish().expect_code(0);
    run(scratch.path(), false, &["record", "--", "true"]).finish().expect_code(0);
    symlink("x.mtrace", file("alias")).expect("room");
    let (named, default) = (fs::read(file("x.mtrace")), fs::read(file("memtrace.mtrace")));
    let (named, default) = (named.expect("a recording"), default.expect("a recording"));

    for args in [
        &["--force", "-o", "x.mtrace", "--csv", "x.mtrace"][..],
        &["--force", "-o", "x.mtrace", "--csv", "./x.mtrace"],
        &["--force", "-o", "alias", "--csv", "x.mtrace"],
        &["-o", "new", "--csv", "./new"],
        &["--csv", "memtrace.mtrace"],
        &["--csv", "memtrace.mtrace.old"],
    ] {
        let args = [&["record"], args, &["--", "touch", "started"]].concat();
        let _run = run(scratch.path(), false, &args).finish().expect_failure(125, &[]);
    }

    assert_eq!(fs::read(file("x.mtrace")).expect("a recording"), named);
    assert_eq!(fs::read(file("memtrace.mtrace")).expect("a recording"), default);
    assert!(!file("new").exists() && !file("memtrace.mtrace.old").exists() && !file("started").exists());
}

#[test]
fn file_that_stdout_or_stderr_go_to_is_no_output() {
    require!(root);
    require!(bpf);
    for (args, streams, name) in [
        ("-o x", ">x", "x"),
        ("-o ./x", ">>x", "x"),
        ("-o alias", ">x", "alias"),
        ("-o x", "2>x", "x"),
        ("-o mine --csv x", ">x", "x"),
        ("", ">memtrace.mtrace", "memtrace.mtrace"),
        ("", ">memtrace.mtrace.old", "memtrace.mtrace.old"),
    ] {
        let scratch = directory();
        let file = |name: &str| scratch.path().join(name);
        symlink("x", file("alias")).expect("room");
        fs::write(file("memtrace.mtrace"), "").expect("room");
        // What goes to stderr is read from where that goes.
        let script = format!(
            r#""$0" record {args} -- touch started {streams}; code=$?; cat x memtrace.* >&2; exit $code"#
        );
        let run = Run::new("sh").args(["-c", &script, memtrace!().program()]).in_dir(scratch.path());

        let stream = if streams.starts_with('2') { "stderr goes to it" } else { "stdout goes to it" };
        let run = run.finish().expect_failure(125, &[name, stream]);

        let left = ["started", "mine"].map(|name| file(name).exists());
        assert_eq!(left, [false, false], "{args} {streams}: {run:#?}");
        assert!(file("memtrace.mtrace").exists(), "{args} {streams}: renamed");
    }
}

#[test]
fn own_links_pipes_and_devices_are_written_to() {
    require!(root);
    require!(bpf);
    for is_sudo in [false, true] {
        let shared = shared_directory();
        let owner = is_sudo.then_some(INVOKER);
        symlink("target.mtrace", shared.path().join("link")).expect("room");
        std::os::unix::fs::lchown(shared.path().join("link"), owner, owner).expect("root may");
        run(shared.path(), is_sudo, &["record", "-o", "link", "--", "true"]).finish().expect_code(0);
        let target = fs::metadata(shared.path().join("target.mtrace")).expect("what the link leads to");
        assert_eq!((target.uid(), target.mode() & 0o7777), (owner.unwrap_or(0), 0o600));
        memtrace!().run(["info"]).arg(shared.path().join("target.mtrace")).finish().expect_code(0);

        run(shared.path(), is_sudo, &["record", "-o", "/dev/null", "--csv", "/dev/null", "--", "true"])
            .finish()
            .expect_code(0);

        // Opened by the user's shell, as what sudo inherits is.
        let script = r#"setpriv --reuid "$1" --regid "$1" --clear-groups sh -c 'mkfifo fifo; : >piped; : >copied'
            "$0" record -q -o /dev/stdout -- true >piped && "$0" info piped >/dev/null || exit 1
            cat fifo >copied & "$0" record -q -o fifo -- true && wait && "$0" info copied >/dev/null"#;
        let user = owner.unwrap_or(0).to_string();
        let script = Run::new("sh").args(["-c", script, memtrace!().program(), &user]).in_dir(shared.path());
        behind(script, is_sudo).finish().expect_code(0);
    }
}
