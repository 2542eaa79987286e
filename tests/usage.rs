//! What is typed: usage errors of every verb, and help. Needs no privileges.

use memtrace_tests::{fixture, memtrace, run::Run};

#[test]
fn reading_verbs_say_usage_errors_with_2() {
    for args in [
        &["no-such-verb"][..],
        &["report", "--no-such-option", "file"],
        &["report", "--by", "no-such-key", "file"],
        &["report", "--by", "", "file"],
        &["report", "--by", "library", "--top", "0", "file"],
        &["report", "--by", "library", "--top", "3", "--all", "file"],
        &["report", "--by", "library", "--sort", "name", "file"],
        &["report", "--by", "library", "--from", "soon", "file"],
        &["report", "--by", "library", "--pid", "one", "file"],
        &["export", "file"],
        &["export", "-f", "parquet", "file"],
        &["export", "-f", "csv", "--table", "no-such-table", "file"],
        &["export", "-f", "folded", "--weight", "no-such-weight", "file"],
        &["info", "--table", "file"],
        &["snapshot"],
        &["--color", "sometimes", "info", "file"],
    ] {
        let run = memtrace!().run(args).finish().expect_code(2);
        assert!(run.stdout.is_empty() && !run.stderr.is_empty(), "{run:#?}");
    }
}

#[test]
fn export_refuses_what_a_format_has_no_use_for() {
    for (args, words) in [
        (&["-f", "folded", "--table", "faults"][..], ["--table", "stacks"]),
        (&["-f", "pprof", "--table", "timeline"], ["--table", "stacks"]),
        (&["-f", "csv", "--weight", "stall"], ["--weight", "table"]),
        (&["-f", "csv", "--to", "3s"], ["--to", "table"]),
        (&["-f", "folded", "--from", "3s", "--to", "2s"], ["--to 2s", "must be later"]),
    ] {
        // Before the file is opened: there is none.
        let run = memtrace!().run(["export"]).args(args).arg("/no/such/file").finish();
        assert_eq!(run.expect_failure(2, &words).stdout, "");
    }
}

#[test]
fn profile_is_not_printed_to_a_terminal() {
    let command = format!("{} export -f pprof /no/such/file", memtrace!().program());

    let run = Run::new("script").args(["--quiet", "--return", "--command", &command, "/dev/null"]).finish();

    assert!(run.expect_code(2).stdout.contains("stdout is a terminal"));
}

#[test]
fn what_selects_groups_is_refused_without_keys() {
    for option in [
        &["--top", "3"][..],
        &["--all"],
        &["--sort", "stall"],
        &["-p", "1"],
        &["--from", "1"],
        &["--to", "1"],
    ] {
        let run = memtrace!().run(["report", "file"]).args(option).finish().expect_code(2);
        assert!(run.stderr.contains("--by <KEY>"), "{option:?}: {run:#?}");
    }
}

#[test]
fn groups_that_make_no_sense_are_refused_with_the_reason() {
    for (options, words) in [
        (&["--by", "library,file,library"][..], "--by library is there twice"),
        (&["--by", "file", "--by", "file"], "--by file is there twice"),
        (&["--by", "file", "--from", "2s", "--to", "2000ms"], "--from 2s and --to 2s: --to must be later"),
    ] {
        let run = memtrace!().run(["report", "file"]).args(options).finish().expect_code(2);
        assert!(run.stderr.contains(words), "{options:?}: {run:#?}");
    }
}

/// What `memtrace snapshot` says of arguments that make no sense.
#[track_caller]
fn refusal_of_snapshot(args: &[&str]) -> String {
    let run = memtrace!().run(["snapshot"]).args(args).finish().expect_code(2);
    assert_eq!(run.stdout, "", "{args:?}");
    assert!(!run.stderr.contains("panicked"), "{run:#?}");
    run.stderr
}

#[test]
fn snapshot_takes_one_target() {
    const TARGETS: [[&str; 2]; 5] =
        [["-p", "1"], ["--cgroup", "/"], ["--file", "/etc"], ["--system", "-r"], ["-d", "anon"]];

    assert!(refusal_of_snapshot(&[]).contains("--pid"));
    assert!(refusal_of_snapshot(&["--json"]).contains("--pid"));
    for (index, one) in TARGETS.iter().enumerate() {
        for other in &TARGETS[index + 1..] {
            let text = refusal_of_snapshot(&[&one[..], &other[..]].concat());
            assert!(text.contains("cannot be used with"), "{one:?} {other:?}: {text}");
        }
    }
}

#[test]
fn snapshot_refuses_options_that_contradict_one_another() {
    for (options, word) in [
        (&["--json", "--csv"][..], "--csv"),
        (&["--json", "-l"], "--list"),
        (&["--csv", "-L"], "--list-each"),
        (&["--csv", "--rollup"], "--rollup"),
        (&["--json", "-N"], "--no-summary"),
        (&["--count", "3"], "--interval"),
        (&["-F", "copy"], "--system"),
    ] {
        let text = refusal_of_snapshot(&[&["-p", "1"], options].concat());
        assert!(text.contains(word), "{options:?}: {text}");
    }
}

#[test]
fn snapshot_refuses_values_that_make_no_sense() {
    for (options, words) in [
        (&["-p", "one"][..], "--pid"),
        (&["-p", "1,"], "--pid"),
        (&["-p", "-1"], "-1"),
        (&["-p", "4294967296"], "--pid"),
        (&["-p", "1", "--interval", "0"], "100ms"),
        (&["-p", "1", "--interval", "0ms"], "above zero"),
        (&["-p", "1", "--interval", "soon"], "--interval"),
        (&["-p", "1", "--interval", "1s", "--count", "0"], "--count"),
        (&["-p", "1", "--max-cpu", "0"], "above 0"),
        (&["-p", "1", "--max-cpu", "much"], "5%"),
        (&["-p", "1", "--max-lock", "1us"], "20us or more"),
        (&["-p", "1", "--cont", "big"], "--cont"),
        (&["-p", "1", "-X"], "page-types"),
        (&["-p", "1", "-x"], "page-types"),
        (&["-p", "1", "--no-such-option"], "--no-such-option"),
    ] {
        let text = refusal_of_snapshot(options);
        assert!(text.contains(words), "{options:?}: {text}");
    }
}

/// The byte of `text` that the caret stands under, which is in the line below it.
#[track_caller]
fn place_of_caret(message: &str, text: &str) -> usize {
    let lines: Vec<_> = message.lines().collect();
    let shown = format!("  {text}");
    let below = lines.windows(2).find(|pair| pair[0] == shown).unwrap_or_else(|| panic!("{message}"))[1];
    assert_eq!(below.trim(), "^", "{message}");
    below.len() - 3
}

#[test]
fn snapshot_shows_where_a_selection_is_wrong() {
    for (option, text, place) in [
        ("--where", "present & nonsense", 10),
        ("--where", "(present | file", 15),
        ("--where", "present file", 8),
        ("--where", "& present", 0),
        ("--bits", "lru,bananas", 4),
        ("--addr", "5+", 2),
    ] {
        let message = refusal_of_snapshot(&["-p", "1", option, text]);
        assert_eq!(place_of_caret(&message, text), place, "{message}");
    }
    let message = refusal_of_snapshot(&["-d", "lru,bananas"]);
    assert_eq!(place_of_caret(&message, "lru,bananas"), 4, "{message}");
}

#[test]
fn recording_that_is_not_there_is_named_with_what_makes_it() {
    for verb in [&["report"][..], &["info"], &["export", "-f", "csv"]] {
        let run = memtrace!().run(verb).arg("no-such.mtrace").finish();

        run.expect_failure(1, &["no-such.mtrace", "memtrace record -o no-such.mtrace -- CMD"]);
    }
}

#[test]
fn recording_that_nobody_names_is_that_which_record_makes() {
    let directory = memtrace_tests::directory();
    for verb in [&["report"][..], &["info"], &["export", "-f", "csv"]] {
        let run = memtrace!().run(verb).in_dir(directory.path()).finish();

        run.expect_failure(1, &["no memtrace.mtrace", "memtrace record -o memtrace.mtrace -- CMD"]);
    }
    std::fs::write(directory.path().join("memtrace.mtrace"), fixture::small()).expect("a file");
    for verb in [&["report"][..], &["info"], &["export", "-f", "csv"]] {
        let run = memtrace!().run(verb).in_dir(directory.path()).finish().expect_code(0);

        let named = memtrace!().run(verb).arg(directory.path().join("memtrace.mtrace")).finish();
        assert_eq!(run.stdout, named.stdout, "{verb:?}");
    }
}

#[test]
fn process_and_cgroup_that_are_not_there_are_named_with_where_to_scan() {
    // More than the kernel ever gives (`PID_MAX_LIMIT`).
    for (args, words) in [
        (["-p", "4194305"], ["no process 4194305", "ps -e"]),
        (["--cgroup", "/no/such"], ["/no/such is no cgroup", "/sys/fs/cgroup"]),
    ] {
        memtrace!().run(["snapshot"]).args(args).finish().expect_failure(1, &words);
    }
}

#[test]
fn option_of_recording_without_the_verb_is_shown_its_place() {
    let run = memtrace!().run(["--csv", "x.csv", "--", "true"]).finish().expect_code(125);
    assert!(run.stderr.contains("memtrace record --csv x.csv -- true"), "{run:#?}");

    let run = memtrace!().run(["report", "--csv", "x.csv"]).finish().expect_code(2);
    assert!(!run.stderr.contains("memtrace record"), "{run:#?}");
}

#[test]
fn help_of_what_is_no_verb_does_not_advise_to_record_help() {
    let run = memtrace!().run(["help", "no-such-verb"]).finish().expect_code(2);
    assert!(run.stderr.contains("no-such-verb") && !run.stderr.contains("-- help"), "{run:#?}");

    assert!(memtrace!().run(["help", "report"]).finish().expect_code(0).stdout.contains("--json"));
}

#[test]
fn feature_that_is_not_there_is_not_disabled_in_silence() {
    let run = memtrace!().run(["doctor"]).env("MEMTRACE_DISABLE", "btf, page_map").finish();

    assert!(run.stderr.contains("MEMTRACE_DISABLE") && run.stderr.contains("page_map"), "{run:#?}");
    let run = memtrace!().run(["doctor"]).env("MEMTRACE_DISABLE", "btf, pagemap,").finish();
    assert_eq!(run.stderr, "");
}

#[test]
fn words_of_conditions_are_in_the_help() {
    let help = memtrace!().run(["snapshot", "--help"]).finish().expect_code(0).stdout;

    for word in ["wpallowed", "written", "file", "present", "swapped", "zero", "huge", "soft-dirty", "guard"]
    {
        assert!(help.contains(&format!("{word}, ")), "{word} is missing: {help}");
        let run = memtrace!().run(["snapshot", "-p", "0", "--where", word]).finish();
        assert_ne!(run.code(), Some(2), "{run:#?}");
    }
}

#[test]
fn flags_are_described_without_privileges() {
    // `KPF_ANON` is bit 12, `KPF_LRU` bit 5.
    let run = memtrace!().run(["snapshot", "-d", "lru,0x1000"]).finish().expect_code(0);

    assert_eq!(run.stderr, "");
    assert!(run.stdout.starts_with("0x0000000000001020\t"), "{run:#?}");
    assert!(run.stdout.ends_with("\tlru,anonymous\n"), "{run:#?}");
}

#[test]
fn record_says_usage_errors_with_125() {
    for args in
        [&["record", "--no-such-option"][..], &["record", "--interval"], &["record", "--kill", "--", "true"]]
    {
        let run = memtrace!().run(args).finish().expect_code(125);
        assert!(run.stdout.is_empty() && !run.stderr.is_empty(), "{run:#?}");
    }
}

#[test]
fn help_is_data_and_names_every_verb() {
    let help = memtrace!().run(["--help"]).finish().expect_code(0).stdout;

    for verb in ["record", "report", "export", "info", "doctor"] {
        assert!(help.contains(verb), "{verb} is missing: {help}");
        let own = memtrace!().run([verb, "--help"]).finish().expect_code(0).stdout;
        assert!(own.contains("Examples:"), "{own}");
    }
    assert!(!help.contains("__launch"), "{help}");
    let version = memtrace!().run(["--version"]).finish().expect_code(0).stdout;
    assert!(version.starts_with("memtrace 0."), "{version}");
}
