//! The verbs that read a recording: what they print, and how they fail. Needs no privileges.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use memtrace_tests::{fixture, memtrace, run::Run};
use tempfile::TempDir;

/// A directory with the file `name` in it.
fn file(name: &str, content: &[u8]) -> (TempDir, PathBuf) {
    let directory = memtrace_tests::directory();
    let path = directory.path().join(name);
    fs::write(&path, content).expect("a file");
    (directory, path)
}

/// What the verb prints of a recording.
#[track_caller]
fn output(args: &[&str], recording: &Path) -> String {
    let run = memtrace!().run(args).arg(recording).finish().expect_code(0);
    assert_eq!(run.stderr, "");
    run.stdout
}

/// A table of the small fixture, by column name.
#[track_caller]
fn table(name: &str) -> Vec<BTreeMap<String, String>> {
    let (_directory, path) = file("small.mtrace", &fixture::small());
    let text = output(&["export", "-f", "csv", "--table", name], &path);
    let rows: Result<_, _> = csv::Reader::from_reader(text.as_bytes()).into_deserialize().collect();
    rows.expect("RFC 4180")
}

/// The values of these columns in each row.
fn columns<'a>(rows: &'a [BTreeMap<String, String>], names: &[&str]) -> Vec<Vec<&'a str>> {
    rows.iter().map(|row| names.iter().map(|name| row[*name].as_str()).collect()).collect()
}

#[test]
fn help_of_export_has_every_column() {
    let help = memtrace!().run(["export", "--help"]).finish().expect_code(0).stdout;
    let (_directory, path) = file("small.mtrace", &fixture::small());
    for table in ["timeline", "faults", "maps", "regions", "pages", "losses"] {
        let text = output(&["export", "-f", "csv", "--table", table], &path);
        let written: Vec<_> = text.lines().next().expect("a header row").split(',').collect();

        let (_, section) = help.split_once(&format!("Columns of {table}:\n")).expect("a table of export");
        let lines = section.lines().take_while(|line| !line.is_empty());
        // What is too long for a line goes on in the next, which begins with another word.
        let words = lines.filter_map(|line| line.split_whitespace().next());
        let explained: Vec<_> = words.filter(|word| written.contains(word)).collect();

        assert_eq!(explained, written, "{table}");
    }
}

#[test]
fn what_is_no_recording_is_refused_with_the_reason() {
    let mut foreign_format = fixture::small();
    // The format version follows the eight bytes of the magic.
    foreign_format[8..12].copy_from_slice(&99_u32.to_le_bytes());
    let torn_header = &fixture::small()[..40];
    for (content, reason) in [
        (&b""[..], "empty"),
        (b"just a text file, nothing else\n", "not a recording"),
        (b"memtr", "header"),
        (&[0xff; 4096], "not a recording"),
        (torn_header, "header"),
        (&foreign_format, "format 99"),
    ] {
        let (_directory, path) = file("broken.mtrace", content);
        for verb in [&["report"][..], &["report", "--json"], &["info"], &["export", "-f", "csv"]] {
            let run = memtrace!().run(verb).arg(&path).finish();
            assert_eq!(run.expect_failure(1, &[reason, "broken.mtrace"]).stdout, "");
        }
    }
}

#[test]
fn missing_file_and_directory_are_failures() {
    for verb in [&["report"][..], &["info"], &["export", "-f", "csv"]] {
        memtrace!().run(verb).arg("/no/such/file").finish().expect_failure(1, &["/no/such/file"]);
        memtrace!().run(verb).arg("/").finish().expect_failure(1, &["/"]);
    }
}

#[test]
fn torn_recording_gives_what_is_left_and_says_so() {
    let whole = fixture::small();
    // The end mark alone is longer than this.
    let (_directory, path) = file("torn.mtrace", &whole[..whole.len() - 8]);

    let report: serde_json::Value =
        serde_json::from_str(&output(&["report", "--json"], &path)).expect("JSON");
    assert_eq!(report["complete"], false);
    assert!(report["losses"]["events"].is_null(), "{report:#}");
    assert_eq!(report["faults"]["minor"], 3);
    assert!(output(&["info"], &path).contains("recovery"));
    let losses = output(&["export", "-f", "csv", "--table", "losses"], &path);
    assert_eq!(losses.lines().filter(|line| line.contains("torn_tail")).count(), 1, "{losses}");
    memtrace!().run(["report", "--strict"]).arg(&path).finish().expect_code(3);
}

#[test]
fn losses_are_exit_code_3_under_strict() {
    let (_directory, path) = file("small.mtrace", &fixture::small());
    let (_other, lossless) = file("storm.mtrace", &fixture::storm(1));

    memtrace!().run(["report", "--strict"]).arg(&path).finish().expect_code(3);
    memtrace!().run(["report", "--strict"]).arg(&lossless).finish().expect_code(0);
}

#[test]
fn table_of_faults_has_a_row_per_fault() {
    let names = [
        "time_ns",
        "tgid",
        "tid",
        "comm",
        "addr",
        "access",
        "mode",
        "kind",
        "latency_ns",
        "offset_bytes",
        "name",
        "file_offset_bytes",
    ];

    assert_eq!(
        columns(&table("faults"), &names),
        [
            ["1000000", "10", "10", "demo", "0x10008", "write", "user", "minor", "1500", "8", "", ""],
            ["2000000", "10", "10", "demo", "0x11000", "write", "user", "minor", "500", "4096", "", ""],
            [
                "3000000",
                "10",
                "10",
                "demo",
                "0x20010",
                "exec",
                "user",
                "major",
                "90000",
                "16",
                "/bin/demo",
                "16"
            ],
            ["103000000", "10", "10", "demo", "0x12000", "read", "kernel", "minor", "700", "8192", "", ""],
        ]
    );
}

#[test]
fn table_of_losses_has_times_and_counts() {
    let names = ["start_ns", "end_ns", "cpu", "cause", "count"];

    assert_eq!(columns(&table("losses"), &names), [["150000000", "160000000", "1", "events_ring", "3"]]);
}

#[test]
fn table_of_maps_has_a_row_per_call_and_end() {
    let names = ["time_ns", "tid", "action", "start_addr", "end_addr", "backing", "region", "result"];

    assert_eq!(
        columns(&table("maps"), &names),
        [
            ["200000000", "10", "munmap", "0x13000", "0x14000", "anon", "1", "0"],
            ["250000000", "10", "exit", "", "", "", "", ""],
        ]
    );
}

#[test]
fn table_of_regions_has_their_lives() {
    let names = [
        "region",
        "birth_ns",
        "death_ns",
        "start_addr",
        "end_addr",
        "name",
        "parent_region",
        "minor_faults",
        "major_faults",
        "latency_sum_ns",
        "lower_bound",
    ];

    // They are known from the reading that ended 2 ns after the start.
    assert_eq!(
        columns(&table("regions"), &names),
        [
            ["1", "2", "250000000", "0x10000", "0x13000", "", "", "3", "0", "2700", "1"],
            ["2", "2", "250000000", "0x20000", "0x22000", "/bin/demo", "", "0", "1", "90000", "1"],
        ]
    );
}

#[test]
fn timeline_has_a_row_per_region_and_interval() {
    let rows = table("timeline");
    let names = [
        "start_ns",
        "start_addr",
        "backing",
        "name",
        "minor_faults",
        "major_faults",
        "latency_sum_ns",
        "lower_bound",
    ];
    let with_region: Vec<_> = rows.iter().filter(|row| !row["region"].is_empty()).cloned().collect();
    let without: Vec<_> = rows.iter().filter(|row| row["region"].is_empty()).cloned().collect();

    assert_eq!(
        columns(&with_region, &names),
        [
            ["0", "0x10000", "anon", "", "2", "0", "2000", "0"],
            ["0", "0x20000", "file", "/bin/demo", "0", "1", "90000", "0"],
            ["100000000", "0x10000", "anon", "", "1", "0", "700", "1"],
            ["200000000", "0x10000", "anon", "", "0", "0", "0", "0"],
        ]
    );
    assert_eq!(
        columns(&without, &["start_ns", "uncounted_faults", "lower_bound"]),
        [["100000000", "4", "1"]]
    );
}

#[test]
fn report_has_the_accounting_identity() {
    let (_directory, path) = file("small.mtrace", &fixture::small());
    let report: serde_json::Value =
        serde_json::from_str(&output(&["report", "--json"], &path)).expect("JSON");

    assert_eq!(report["faults"]["minor"], 3);
    assert_eq!(report["faults"]["major"], 1);
    assert_eq!(report["uncounted"]["minor"], 4);
    assert_eq!(report["uncounted"]["by"]["populate"], 4);
    assert_eq!(report["kernel_counted"], serde_json::json!({"minor": 7, "major": 1}));
    assert_eq!(report["maps"], serde_json::json!({"munmap": 1}));
    assert_eq!(report["map_identity"]["contradictions"], 0);
    assert_eq!(report["losses"]["events"], 3);
    assert_eq!(report["complete"], false);
    assert_eq!(report["latency_ns"]["max"].as_u64().map(|max| max / 1000), Some(90));
}

#[test]
fn groups_have_the_sums_of_the_faults_selected() {
    let (_directory, path) = file("small.mtrace", &fixture::small());
    let groups = |args: &[&str]| -> serde_json::Value {
        let text = output(&[&["report", "--json", "--by"], args].concat(), &path);
        serde_json::from_str(&text).expect("JSON")
    };
    let values = |json: &serde_json::Value, keys: &[&str]| -> Vec<Vec<serde_json::Value>> {
        let groups = json["groups"].as_array().expect("groups");
        groups.iter().map(|group| keys.iter().map(|key| group[*key].clone()).collect()).collect()
    };

    let by_file = groups(&["file,syscall"]);
    // The fault in the kernel took 700 ns, two others 1500 and 500; of none is known in which call it was.
    let expected = serde_json::json!([
        ["/bin/demo", "-", 1, 1, 90_000],
        ["[anon]", "-", 2, 0, 2_000],
        ["[anon]", null, 1, 0, 700],
    ]);
    let columns = ["file", "syscall", "faults", "major", "stall_ns"];
    assert_eq!(serde_json::json!(values(&by_file, &columns)), expected);
    assert_eq!(by_file["total"]["stall_ns"], 92_700);

    // They completed after 1, 2, 3 and 103 ms.
    for (args, faults) in [
        (&["file", "--from", "2ms"][..], 3),
        (&["file", "--to", "3ms"], 2),
        (&["file", "--from", "2ms", "--to", "103ms"], 2),
        (&["file", "--pid", "10"], 4),
        (&["file", "--pid", "11,12"], 0),
    ] {
        assert_eq!(groups(args)["total"]["faults"], faults, "{args:?}");
    }
    for (args, faults) in [(&["--from", "2ms"][..], 3), (&["--from", "2ms", "--to", "103ms"], 2)] {
        let folded = output(&[&["export", "-f", "folded", "--weight", "faults"], args].concat(), &path);
        let weights = folded.lines().filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        assert_eq!(weights.sum::<u64>(), faults, "{args:?}: {folded}");
    }
    let by_process = groups(&["process", "--top", "1"]);
    assert_eq!(
        serde_json::json!(values(&by_process, &["process", "of", "faults"])),
        serde_json::json!([["demo", 1, 4]])
    );
}

#[test]
fn functions_have_the_names_that_stand_at_the_end_of_the_recording() {
    let (_directory, path) = file("named.mtrace", &fixture::named());
    let json =
        |args: &[&str]| -> serde_json::Value { serde_json::from_str(&output(args, &path)).expect("JSON") };

    let groups = json(&["report", "--json", "--by", "function,syscall"])["groups"].clone();
    let names: Vec<_> = groups
        .as_array()
        .expect("groups")
        .iter()
        .map(|group| {
            let function = &group["function"];
            serde_json::json!([function["name"], function["module"], group["syscall"], group["stall_ns"]])
        })
        .collect();
    let expected =
        serde_json::json!([["grow", "/bin/demo", "-", 1_500], ["clear_page", "[kernel]", "read", 500],]);
    assert_eq!(serde_json::json!(names), expected);

    let report = json(&["report", "--json"]);
    assert_eq!(report["functions"][0]["function"], "grow");
    let main = &report["call_tree"][0];
    // Both faults are of that path: in kernel mode the stack is that of the caller.
    let push = &main["children"][0]["children"][0];
    assert_eq!((&main["function"], &push["function"]), (&"main".into(), &"push".into()));
    assert_eq!((&push["minor"], &push["stall_ns"]), (&2.into(), &2_000.into()));
    let text = output(&["report"], &path);
    assert!(text.contains("By function") && text.contains("clear_page ([kernel])"), "{text}");
    assert!(text.contains("Call paths"), "{text}");
}

#[test]
fn text_of_groups_ends_with_what_is_not_shown() {
    let (_directory, path) = file("small.mtrace", &fixture::small());
    let text = output(&["report", "--by", "file", "--sort", "faults", "--top", "1"], &path);

    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<_> = text.lines().rev().take(3).map(words).collect();
    let expected = [
        "… 1 more 1 1 90.0 µs 97.1% 90.0 µs 90.0 µs",
        "[anon] 3 0 2700 ns 2.9% 900 ns 1500 ns",
        "By file faults major stall share mean max bytes",
    ];
    assert_eq!(lines, expected, "{text}");
    assert!(text.contains("Losses: counts below are at least these"), "{text}");
}

#[test]
fn text_report_and_info_are_for_people() {
    let (_directory, path) = file("small.mtrace", &fixture::small());

    assert!(output(&["report"], &path).contains("/bin/demo"));
    assert!(output(&["info"], &path).contains("6.18.0"));
    let json: serde_json::Value = serde_json::from_str(&output(&["info", "--json"], &path)).expect("JSON");
    assert_eq!(json["capture"]["command"], serde_json::json!(["demo"]));
    assert_eq!(json["host"]["kernel_release"], "6.18.0");
}

#[test]
fn export_writes_files_and_stdout_alike() {
    let (directory, path) = file("small.mtrace", &fixture::small());
    let out = directory.path().join("out.csv");

    let run = memtrace!().run(["export", "-f", "csv", "-o"]).arg(&out).arg(&path).finish().expect_code(0);
    assert_eq!(run.stdout, "");
    let written = fs::read_to_string(&out).expect("a file");
    assert_eq!(written, output(&["export", "-f", "csv"], &path));
    assert_eq!(written, output(&["export", "-f", "csv", "-o", "-"], &path));
}

#[test]
fn stdin_is_read_as_the_file_is_with_its_names() {
    let (directory, path) = file("named.mtrace", &fixture::named());
    for verb in ["report", "report --json --by function", "info --json", "export -f csv --table faults"] {
        let args: Vec<_> = verb.split(' ').collect();
        let expected = output(&args, &path);
        for input in ["cat named.mtrace |", "<named.mtrace", "exec 3< <(cat named.mtrace); 0<&3"] {
            let script = format!(r#"{input} "$0" {verb} -"#);
            let run = Run::new("bash").args(["-c", &script, memtrace!().program()]).in_dir(directory.path());

            let run = run.finish().expect_code(0);

            assert_eq!((&run.stdout, &run.stderr[..]), (&expected, ""), "{script}");
        }
    }
    let script = r#""$0" report --by function <(cat named.mtrace)"#;
    let run = Run::new("bash").args(["-c", script, memtrace!().program()]).in_dir(directory.path()).finish();
    assert!(run.stdout.contains("grow (demo)"), "{run:#?}");
}

#[test]
fn device_that_never_ends_is_refused() {
    let run = memtrace!().run(["report", "/dev/zero"]).finish();

    run.expect_failure(1, &["/dev/zero", "not a recording"]);
}

#[test]
fn stdin_that_is_no_recording_is_refused() {
    let (directory, _path) = file("small.mtrace", &fixture::small());
    for (script, words) in [
        ("\"$0\" report - </dev/null", "cannot read stdin: the file is empty"),
        ("echo hello, recording | \"$0\" info -", "cannot read stdin: the file is not a recording"),
        // Of what never ends no more is read than shows what it is.
        ("\"$0\" report - < <(cat /dev/zero)", "cannot read stdin: the file is not a recording"),
        ("\"$0\" export -f csv - <small.mtrace >>small.mtrace", "cannot read stdin: stdout goes to it"),
    ] {
        let run = Run::new("bash").args(["-c", script, memtrace!().program()]).in_dir(directory.path());

        run.finish().expect_failure(1, &[words]);
    }
}

#[test]
fn recording_that_is_read_is_not_printed_to() {
    for verb in ["report", "info", "export -f csv"] {
        for stream in [">>", "1<>", "2>>"] {
            let (directory, path) = file("small.mtrace", &fixture::small());
            let script = format!(r#""$0" {verb} small.mtrace {stream}small.mtrace"#);
            let run = Run::new("sh").args(["-c", &script, memtrace!().program()]).in_dir(directory.path());

            let run = run.finish().expect_code(1);

            let mut content = fs::read(&path).expect("a recording");
            // The message has nowhere else to go if it is stderr.
            let message = if stream == "2>>" {
                String::from_utf8(content.split_off(fixture::small().len())).expect("a message")
            } else {
                run.stderr
            };
            assert!(message.contains("small.mtrace: std") && message.contains("goes to it"), "{message}");
            assert_eq!(content, fixture::small(), "{verb} {stream}");
        }
    }
}

#[test]
fn export_does_not_mix_with_stdout() {
    let (directory, _path) = file("small.mtrace", &fixture::small());
    let script = r#""$0" export -f csv small.mtrace -o out.csv >out.csv"#;

    let run = Run::new("sh").args(["-c", script, memtrace!().program()]).in_dir(directory.path()).finish();

    run.expect_failure(1, &["out.csv", "stdout goes to it"]);
}

#[test]
fn reader_that_has_seen_enough_is_no_failure() {
    // 20,000 rows are far more than a pipe holds.
    let (_directory, path) = file("storm.mtrace", &fixture::storm(20_000));
    let script = r#"set -o pipefail; "$0" export -f csv --table faults "$1" | head -n 1"#;

    let run = Run::new("bash").args(["-c", script, memtrace!().program()]).arg(&path).finish().expect_code(0);
    assert!(run.stdout.starts_with("time_ns,"), "{run:#?}");
    assert_eq!(run.stderr, "");
}

#[test]
fn full_disk_is_a_failure_of_an_export() {
    let (_directory, path) = file("storm.mtrace", &fixture::storm(20_000));

    let run = memtrace!().run(["export", "-f", "csv", "-o", "/dev/full"]).arg(&path).finish();
    run.expect_failure(1, &["No space left"]);
}

#[test]
fn export_that_fails_leaves_no_part_of_a_table() {
    let (directory, path) = file("storm.mtrace", &fixture::storm(20_000));
    let script = r#"ulimit -f 8; "$0" export -f csv --table faults "$1" -o out.csv 2>&1 | cat >&2; exit "${PIPESTATUS[0]}""#;

    let run = Run::new("bash").args(["-c", script, memtrace!().program()]).arg(&path);

    run.in_dir(directory.path()).finish().expect_failure(1, &["File too large"]);
    assert!(!directory.path().join("out.csv").exists());
}
