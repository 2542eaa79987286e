//! What `memtrace snapshot` prints: formats and their keys, scans one after the other, targets that it refuses or takes once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use memtrace_tests::{
    backing_of_files,
    census::{expect_sums, only},
    directory,
    memory::{Mapping, page_bytes},
    memtrace, program, require,
    run::Run,
    task::tid,
    turn, wait_until,
};
use serde_json::{Value, json};

#[test]
fn csv_has_a_row_for_each_row_of_maps() {
    require!(root);
    let _turn = turn();
    let mut running = Run::new(program!("layout")).args(["small", "--mib", "1"]).with_stdin().start();
    let _ready = running.first_line();
    let pid = running.pid().to_string();
    let scan = || {
        let run = memtrace!().snapshot(&["-p", &pid, "--csv"]).finish().expect_code(0);
        assert_eq!(run.stderr, "");
        let rows: Result<Vec<BTreeMap<String, String>>, _> =
            csv::Reader::from_reader(run.stdout.as_bytes()).into_deserialize().collect();
        rows.expect("RFC 4180")
    };
    let seen = fs::read_to_string(format!("/proc/{pid}/maps")).expect("it lives");

    let rows = scan();

    let place = |line: &str| {
        let mut words = line.split_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let hex = |text: &str| u64::from_str_radix(text, 16).map(|addr| format!("{addr:#x}")).ok();
        Some([hex(start)?, hex(end)?, words.next()?.to_owned()])
    };
    let expected: Vec<_> = seen.lines().filter_map(place).collect();
    let column = |row: &BTreeMap<String, String>, name: &str| row[name].clone();
    let found: Vec<_> =
        rows.iter().map(|row| ["start_addr", "end_addr", "perms"].map(|name| column(row, name))).collect();
    assert_eq!(found, expected);
    for row in &rows {
        assert_eq!((row["tgid"].as_str(), row["comm"].as_str()), (pid.as_str(), "layout"));
        let pages = ["rss_pages", "anon_pages", "file_pages"]
            .map(|name| row[name].parse::<u64>().unwrap_or_else(|_| panic!("{name} of {row:?}")));
        assert_eq!(pages[0], pages[1] + pages[2], "{row:?}");
    }
    let of_program = rows.iter().find(|row| row["name"] == program!("layout")).expect("it runs");
    assert_eq!(of_program["backing"], backing_of_files(Path::new(program!("layout"))));
}

#[test]
fn json_has_the_keys_of_the_contract() {
    require!(root);
    let _turn = turn();
    let mapping = Mapping::anonymous(8).expect("room");
    mapping.write_all();
    let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");

    let json = memtrace!().census_of(&mapping, &["--cont", "64K"]);

    let number = |json: &Value, key: &str| json[key].as_u64().unwrap_or_else(|| panic!("{key}: {json:#}"));
    for key in
        ["schema", "pid", "rss_pages", "pss_bytes", "uss_pages", "anon_pages", "file_pages", "swap_pages"]
    {
        number(&json, key);
    }
    assert!(json["comm"].is_string(), "{json:#}");
    assert_eq!(json["cgroups"], Value::Null, "they were not asked for");
    for key in ["folios", "cont"] {
        assert!(json[key].is_object(), "{key}: {json:#}");
    }
    for key in ["flags", "mapcounts", "nodes", "swap", "contiguous", "regions", "processes", "sharing"] {
        assert!(json[key].is_array(), "{key}: {json:#}");
    }
    // The clock may be set meanwhile, but not by a day.
    let time = Duration::from_nanos(number(&json, "time_ns"));
    assert!(time.abs_diff(before) < Duration::from_hours(24), "{time:?}, {before:?}");
    for row in json["flags"].as_array().expect("a list") {
        let word = row["flags"].as_str().expect("a word");
        assert!(word.len() == 18 && word.starts_with("0x"), "{word}");
        let word = u64::from_str_radix(&word[2..], 16).expect("hexadecimal");
        // `KPF_ANON` is bit 12.
        assert_eq!(word >> 12 & 1, 1, "{row}");
        let names = row["names"].as_array().expect("names");
        assert!(names.contains(&json!("anonymous")), "{row}");
        assert_eq!(row["pages"].as_u64().map(|pages| (1..=8).contains(&pages)), Some(true), "{row}");
    }
    assert_eq!(json["mapcounts"], json!([{ "mapcount": 1, "pages": 8 }]));
    let contiguous = json["contiguous"].as_array().expect("a list");
    assert_eq!(contiguous.iter().map(|row| number(row, "pages")).sum::<u64>(), 8);
    let nodes = json["nodes"].as_array().expect("a list");
    assert_eq!(nodes.iter().map(|row| number(row, "pages")).sum::<u64>(), 8);
    for row in json["regions"].as_array().expect("a list").iter().take(1) {
        for key in ["start", "end", "perms", "backing", "name"] {
            assert!(row[key].is_string(), "{key}: {row:#}");
        }
        number(row, "rss_pages");
    }
}

#[test]
fn what_frame_numbers_tell_is_null_without_them() {
    require!(root);
    let _turn = turn();
    let mapping = Mapping::anonymous(16).expect("room");
    (0..12).for_each(|page| mapping.write(page));
    let args = only(&mapping);
    let args: Vec<_> = args.iter().map(String::as_str).chain(["--json"]).collect();

    let run = memtrace!().snapshot(&args).env("MEMTRACE_DISABLE", "frame_numbers").finish().expect_code(0);

    assert!(run.stderr.contains("frame numbers"), "{run:#?}");
    let json: Value = serde_json::from_str(&run.stdout).expect("JSON");
    for key in [
        "pss_bytes",
        "flags",
        "folios",
        "cont",
        "mapcounts",
        "nodes",
        "contiguous",
        "sharing",
        "cgroups",
        "swap",
    ] {
        assert_eq!(json[key], Value::Null, "{key}");
    }
    // The words tell these all the same.
    expect_sums(&json, &[("rss_pages", 12), ("uss_pages", 12), ("anon_pages", 12), ("swap_pages", 0)]);
}

#[test]
fn options_that_take_frame_numbers_fail_without_them() {
    require!(root);
    let own = std::process::id().to_string();
    for args in [
        &["-p", &own, "-l"][..],
        &["-p", &own, "-b", "lru"],
        &["-p", &own, "--cont", "64K"],
        &["-p", &own, "--where", "kpf:lru"],
        &["-p", &own, "-M"],
        &["--system"],
        &["--system", "--json"],
    ] {
        let run = memtrace!().snapshot(args).env("MEMTRACE_DISABLE", "frame_numbers").finish();
        assert_eq!(run.expect_failure(1, &["frame numbers", "CAP_SYS_ADMIN"]).stdout, "", "{args:?}");
    }
}

#[test]
fn census_of_all_memory_has_no_sums_of_processes() {
    require!(root);
    let _turn = turn();

    let json = memtrace!().census(&["--system", "-C"]);

    let total = json["total_pages"].as_u64().expect("a number");
    let flags = json["flags"].as_array().expect("a list");
    let pages = |rows: &[Value]| rows.iter().map(|row| row["pages"].as_u64().expect("a number")).sum::<u64>();
    assert_eq!(pages(flags), total);
    let meminfo = fs::read_to_string("/proc/meminfo").expect("always there");
    let row = meminfo.lines().find_map(|row| row.strip_prefix("MemTotal:")).expect("the first");
    let kib: u64 = row.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(total * page_bytes() as u64 >= kib << 10, "{total} pages, {kib} KiB");
    assert!(json["mapcounts"].is_array(), "{json:#}");
    for of_process in ["rss_pages", "pss_bytes", "uss_pages", "swap_pages", "regions", "processes"] {
        assert_eq!(json.get(of_process), None, "{of_process}");
    }
}

#[test]
fn intervals_are_lines_with_growing_times() {
    require!(root);
    let _turn = turn();
    let own = std::process::id().to_string();
    let began = Instant::now();

    let run = memtrace!()
        .snapshot(&["-p", &own, "--interval", "50ms", "--count", "3", "--json", "--rollup"])
        .finish();

    let run = run.expect_code(0);
    assert!(began.elapsed() >= Duration::from_millis(100), "{:?}", began.elapsed());
    assert_eq!(run.stderr, "");
    let lines: Vec<Value> =
        run.stdout.lines().map(|line| serde_json::from_str(line).expect("an object per line")).collect();
    assert_eq!(lines.len(), 3, "{run:#?}");
    let times: Vec<_> = lines.iter().map(|line| line["time_ns"].as_u64().expect("a number")).collect();
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
    assert!(lines.iter().all(|line| line["pid"] == std::process::id()), "{run:#?}");
}

#[test]
fn header_of_csv_comes_once() {
    require!(root);
    let _turn = turn();
    let sleeper = Run::new("sleep").arg("1000").start();
    let pid = sleeper.pid().to_string();

    let run = memtrace!()
        .snapshot(&["-p", &pid, "--interval", "10ms", "--count", "3", "--csv"])
        .finish()
        .expect_code(0);

    assert_eq!(run.stdout.lines().filter(|line| line.starts_with("time_ns,")).count(), 1, "{run:#?}");
    let times: BTreeSet<_> = run.stdout.lines().skip(1).filter_map(|line| line.split(',').next()).collect();
    assert_eq!(times.len(), 3, "{run:#?}");
}

#[test]
fn reader_that_has_seen_enough_ends_the_intervals() {
    require!(root);
    require!(program "bash" of "bash");
    let script = r#"set -o pipefail; "$0" snapshot -p $$ --interval 10ms --json --rollup | head -n 2"#;

    let run = Run::new("bash").args(["-c", script, memtrace!().program()]).finish().expect_code(0);

    assert_eq!(run.stdout.lines().count(), 2, "{run:#?}");
    assert_eq!(run.stderr, "");
}

#[test]
fn process_that_ends_between_two_scans_is_a_failure() {
    require!(root);
    let sleeper = Run::new("sleep").arg("1000").start();
    let pid = sleeper.pid().to_string();
    let mut watch = memtrace!().snapshot(&["-p", &pid, "--interval", "20ms", "--json", "--rollup"]).start();
    let _first = watch.first_line();

    drop(sleeper);

    let run = watch.finish().expect_failure(1, &[&pid]);
    for line in run.stdout.lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "{line:?} is cut");
    }
}

#[test]
fn processes_that_were_named_must_be_there() {
    require!(root);
    let own = std::process::id().to_string();
    let mut child = Command::new("true").spawn().expect("true starts");
    let pid = child.id().to_string();
    let status = format!("/proc/{pid}/status");
    let is_zombie = || fs::read_to_string(&status).is_ok_and(|status| status.contains("State:\tZ"));
    assert!(wait_until(is_zombie), "{status}");
    let expect_refusal = |args: &[&str], words: &[&str]| {
        assert_eq!(memtrace!().snapshot(args).finish().expect_failure(1, words).stdout, "", "{args:?}");
    };

    expect_refusal(&["-p", &pid], &[&pid, "zombie"]);
    child.wait().expect("a child");
    for format in [&["--json"][..], &["--csv"], &[]] {
        expect_refusal(&[&["-p", &pid][..], format].concat(), &[&pid]);
        expect_refusal(&[&["-p", &own, "-p", &pid][..], format].concat(), &[&pid]);
    }
    let kernel_thread = fs::read_to_string("/proc/2/comm").is_ok_and(|comm| comm == "kthreadd\n");
    if kernel_thread {
        expect_refusal(&["-p", "2"], &["kernel thread"]);
    }
}

#[test]
fn thread_is_no_process() {
    require!(root);
    let _turn = turn();
    let expect_refusal = || {
        let (own, tid) = (std::process::id(), tid());
        for pids in [tid.to_string(), format!("{own},{tid}")] {
            let run = memtrace!().snapshot(&["-p", &pids]).finish();
            assert_eq!(run.expect_failure(1, &[&format!("-p {own}"), &tid.to_string()]).stdout, "");
        }
    };

    thread::scope(|scope| scope.spawn(expect_refusal).join().expect("it is refused"));
}

#[test]
fn file_that_is_named_twice_is_counted_once() {
    require!(root);
    let _turn = turn();
    let scratch = directory();
    let [path, link] = ["notes", "link"].map(|name| scratch.path().join(name));
    fs::write(&path, vec![1; 3 * page_bytes()]).expect("room");
    std::os::unix::fs::symlink(&path, &link).expect("room");
    let [path, link] = [&path, &link].map(|path| path.to_str().expect("UTF-8"));

    let json = memtrace!().census(&["--file", path, "--file", path, "--file", link]);

    expect_sums(&json, &[("present_pages", 3)]);
}

#[test]
fn process_that_is_named_twice_is_counted_once() {
    require!(root);
    let _turn = turn();
    let mapping = Mapping::anonymous(8).expect("room");
    mapping.write_all();
    let [_, own, _, pages] = only(&mapping);

    let json = memtrace!().census(&["-p", &format!("{own},{own}"), "-p", &own, "-a", &pages]);

    expect_sums(&json, &[("rss_pages", 8)]);
    assert_eq!(json["pid"], std::process::id());
}

#[test]
fn files_that_were_named_must_be_there_and_have_pages() {
    require!(root);
    let scratch = directory();
    let path = |name: &str| scratch.path().join(name).to_str().expect("UTF-8").to_owned();
    rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), 0o600.into()).expect("room");
    std::os::unix::fs::symlink("nowhere", path("dangling")).expect("room");
    fs::create_dir(path("empty")).expect("room");

    for name in ["nowhere", "dangling", "fifo"] {
        let run = memtrace!().snapshot(&["--file", &path(name)]).finish();
        assert_eq!(run.expect_failure(1, &[name]).stdout, "");
    }
    // What is found and has no pages is passed over.
    let json = memtrace!().census(&["--file", scratch.path().to_str().expect("UTF-8")]);
    assert_eq!(json["files"], json!([]));
    assert_eq!(json["present_pages"], 0);
}

#[test]
fn file_has_the_pages_that_were_written_to_it() {
    require!(root);
    let _turn = turn();
    let scratch = directory();
    let path = scratch.path().join("notes");
    // The last page is not full.
    fs::write(&path, vec![1; 9 * page_bytes() + 1]).expect("room");

    let json = memtrace!().census(&["--file", path.to_str().expect("UTF-8")]);

    expect_sums(&json, &[("present_pages", 10)]);
    let file = &json["files"][0];
    assert_eq!(file["path"], path.to_str().expect("UTF-8"));
    assert_eq!(file["bytes"], 9 * page_bytes() + 1);
    assert_eq!(file["cached_pages"], 10);
    assert_eq!(file["inode"], fs::metadata(&path).expect("a file").ino());
    for of_process in ["pss_bytes", "uss_pages"] {
        assert_eq!(json[of_process], Value::Null, "{of_process}");
    }
}

#[test]
fn share_of_a_cpu_may_be_any() {
    require!(root);
    let _turn = turn();
    let mapping = Mapping::anonymous(8).expect("room");
    mapping.write_all();

    for limits in
        [["--max-cpu", "1"], ["--max-cpu", "300%"], ["--max-cpu", "4000000000"], ["--max-lock", "20us"]]
    {
        expect_sums(&memtrace!().census_of(&mapping, &limits), &[("rss_pages", 8)]);
    }
}
