//! What is recorded from within namespaces: the same as from outside, or nothing, and then it is said before anything starts.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
    time::{SystemTime, UNIX_EPOCH},
};

use memtrace_tests::{
    cgroup::hierarchy,
    directory,
    ledger::{Ledger, Ready},
    memtrace, program,
    recording::Recording,
    require,
    requirement::skip,
    run::Run,
};
use serde_json::Value;

/// Ways into namespaces: by name, and what starts memtrace there.
const PID: &[&str] = &["unshare", "--pid", "--fork", "--mount-proc"];
const TIME: &[&str] = &["unshare", "--time", "--boottime", "1000000", "--fork"];
const CGROUP: &[&str] = &["unshare", "--cgroup"];
const MOUNT: &[&str] = &["unshare", "--mount"];
/// A container: namespaces of all kinds but of users, and a root directory and processes of its own.
const CONTAINER: &[&str] = &[
    "unshare",
    "--mount",
    "--uts",
    "--ipc",
    "--net",
    "--pid",
    "--cgroup",
    "--time",
    "--boottime",
    "-1",
    "--fork",
    "sh",
    "-c",
    r#"mkdir root && mount --rbind / root && mount -t proc proc root/proc && exec chroot root "$@""#,
    "sh",
];

/// Ends the test unless the kernel has namespaces of the kind `name`, and there is what makes them.
macro_rules! require_namespaces {
    ($name:literal) => {
        require!(root);
        require!(bpf);
        require!(btf);
        require!(program "unshare" of "util-linux");
        if !Path::new(concat!("/proc/self/ns/", $name)).exists() {
            return skip(concat!("needs namespaces of the kind ", $name));
        }
    };
}

/// Checks that all areas of the ledger were recorded.
#[track_caller]
fn expect_recorded(recording: &Recording, ledger: &Ledger) {
    let faults = recording.faults();
    for area in &ledger.areas {
        assert_eq!(area.found_in(&faults), *area, "{:#?}", recording.run);
    }
}

/// Checks that recorded and uncounted faults are what the kernel counted, and regions what maps showed, at the exit of each process that
/// does not count as unverified.
#[track_caller]
fn expect_identities(recording: &Recording) {
    let report = recording.expect_complete();
    let (faults, uncounted, kernel) =
        (report.usage("/faults"), report.usage("/uncounted"), report.usage("/kernel_counted"));
    assert_eq!(faults.minor + uncounted.minor, kernel.minor);
    assert_eq!(faults.major + uncounted.major, kernel.major);
    assert_eq!(report.number("/map_identity/contradictions"), 0, "{}", recording.export("maps"));
    let identity = |key| report.number(&format!("/map_identity/{key}"));
    let accounted: u64 = ["checks", "resyncs", "inconclusive", "unverified"].map(identity).iter().sum();
    assert!(accounted >= report.processes().len() as u64, "{}", report.at("/map_identity"));
    // The first reading of a map after something was skipped is no check.
    let (skips, _) = recording.skips_and_other_losses();
    assert!(
        identity("checks") > 0 || skips > 0,
        "{}: {}",
        report.at("/map_identity"),
        recording.export("maps")
    );
}

/// Records phases of `touch` in the namespaces that `prefix` makes; ledger, wait4(2) and the wall clock are the judges.
#[track_caller]
fn records_as_outside(prefix: &'static [&'static str]) {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos();
    for phase in ["write", "populate", "fork", "threads", "spawn", "exec", "thread-exec"] {
        let before = now();
        let command = [program!("touch"), phase, "--pages", "300"];
        let recording = memtrace!().within(prefix).record(&["--verify"], &command).expect_code(0);
        let after = now();

        expect_identities(&recording);
        let ledger: Ledger = recording.run.last_line();
        expect_recorded(&recording, &ledger);
        let report = recording.report();
        assert_eq!(
            report.usage("/kernel_counted"),
            report.usage("/rusage") - report.usage("/gate"),
            "{phase}"
        );
        let pids: Vec<_> = report.processes().iter().map(|process| process.tgid).collect();
        assert!(pids.contains(&ledger.pid), "{phase}: {} in {pids:?}", ledger.pid);
        assert!(recording.faults().iter().all(|fault| fault.region.is_some()), "{phase}");
        let info = memtrace!().run(["info", "--json"]).arg(recording.path()).finish().expect_code(0);
        let info: Value = serde_json::from_str(&info.stdout).expect("info writes JSON");
        let start: u128 = info["start_realtime_ns"].as_u64().expect("a time").into();
        assert!((before..after).contains(&start), "{before} {start} {after}");
    }
}

#[test]
fn command_in_a_pid_namespace_is_recorded_as_outside() {
    require_namespaces!("pid");
    records_as_outside(PID);
}

#[test]
fn command_in_a_time_namespace_is_recorded_as_outside() {
    require_namespaces!("time");
    records_as_outside(TIME);
}

#[test]
fn command_in_a_cgroup_namespace_is_recorded_as_outside() {
    require_namespaces!("cgroup");
    records_as_outside(CGROUP);
}

#[test]
fn command_in_a_mount_namespace_is_recorded_as_outside() {
    require_namespaces!("mnt");
    records_as_outside(MOUNT);
}

#[test]
fn command_in_a_container_of_namespaces_is_recorded_as_outside() {
    require_namespaces!("time");
    records_as_outside(CONTAINER);
}

/// Starts a `touch` that waits, hands its process ID to memtrace, and lets it go on when memtrace is armed. The first
/// argument is `touch`; the shell's own `$@` is memtrace.
macro_rules! attached {
    ($end:literal) => {
        concat!(
            "mkfifo gate && exec 9<>gate || exit\n",
            r#""$0" threads --threads 3 --pages 300 --wait <gate >said & touch=$!"#,
            "\nuntil [ -s said ]; do sleep 0.01; done\n",
            r#""$@" -p $touch & memtrace=$!"#,
            "\nuntil [ -s recording.mtrace ]; do sleep 0.01; done\n",
            $end,
        )
    };
}

const BUSY: &[&str] = &[
    "unshare",
    "--pid",
    "--fork",
    "--mount-proc",
    "sh",
    "-c",
    // Only what is known from a reading of maps can be compared with the one at the exit.
    attached!(
        "until \"$1\" report --json recording.mtrace | grep -q '\"resyncs\": *[1-9]'; do sleep 0.1; done\n\
         echo >gate; wait $memtrace"
    ),
    program!("touch"),
];
const IDLE: &[&str] = &[
    "unshare",
    "--pid",
    "--fork",
    "--mount-proc",
    "sh",
    "-c",
    attached!("wait $memtrace; code=$?; echo >gate; wait $touch; exit $code"),
    program!("touch"),
];

#[test]
fn running_process_in_a_pid_namespace_is_recorded_with_the_ids_that_it_has_there() {
    require_namespaces!("pid");
    let recording = memtrace!().within(BUSY).record(&["--verify"], &[]).expect_code(0);

    expect_identities(&recording);
    let said = fs::read_to_string(recording.directory().join("said")).expect("it speaks");
    let lines: Vec<_> = said.lines().collect();
    let ready: Ready = serde_json::from_str(lines[0]).expect("it waits");
    let ledger: Ledger = serde_json::from_str(lines[1]).expect("it ends");
    assert_eq!(ready.tids.len(), 3);
    expect_recorded(&recording, &ledger);
}

#[test]
fn idle_process_in_a_pid_namespace_makes_a_complete_recording_without_faults() {
    require_namespaces!("pid");
    let recording = memtrace!().within(IDLE).record(&["--duration", "500ms"], &[]).expect_code(0);

    let report = recording.expect_complete();
    assert_eq!(report.number("/faults/minor"), 0);
}

/// The command makes a PID namespace within: its processes have IDs in memtrace's too, and these are in the recording.
#[test]
fn namespace_within_the_namespace_is_recorded_with_ids_of_the_outer_one() {
    require_namespaces!("pid");
    let inner = ["unshare", "--pid", "--fork", program!("touch"), "fork", "--pages", "300"];
    for prefix in [&[][..], PID] {
        let recording = memtrace!().within(prefix).record(&["--verify"], &inner).expect_code(0);

        expect_identities(&recording);
        let ledger: Ledger = recording.run.last_line();
        assert_eq!(ledger.pid, 1, "the ID that it sees itself");
        let faults = recording.faults();
        let process = recording.report().processes();
        let touch = process.iter().find(|process| process.comm == "touch").expect("it was traced");
        let area = &ledger.areas[0];
        let seen =
            faults.iter().filter(|row| row.tid == touch.tgid && (area.start..area.end).contains(&row.addr));
        assert_eq!(seen.filter(|row| row.kind == "minor").count() as u64, area.minor, "{process:?}");
    }
}

/// Situations in which nothing can be recorded exactly: what starts memtrace there, what it records, and words of what it says.
const REFUSED: [(&[&str], &[&str], [&str; 2]); 5] = [
    (&["unshare", "--pid", "--fork"], &[], ["pid_namespace", "--mount-proc"]),
    (&["unshare", "--pid"], &[], ["pid_namespace", "--fork"]),
    (PID, &["-a"], ["pid_namespace", "--pid=host"]),
    (&["unshare", "--user", "--map-root-user"], &[], ["user_namespace", "--userns=host"]),
    (
        &["env", "MEMTRACE_DISABLE=btf", "unshare", "--pid", "--fork", "--mount-proc"],
        &[],
        ["pid_namespace", "--pid=host"],
    ),
];

#[test]
fn what_namespaces_keep_from_being_recorded_is_refused_by_name_before_anything_starts() {
    require_namespaces!("user");
    for (prefix, options, words) in REFUSED {
        let command: &[&str] = if options.is_empty() { &["sh", "-c", "echo >started"] } else { &[] };
        let recording = memtrace!().within(prefix).record(options, command);

        assert!(!recording.directory().join("started").exists(), "{prefix:?}");
        assert!(
            !recording.path().exists() || fs::metadata(recording.path()).is_ok_and(|file| file.len() == 0)
        );
        recording.run.expect_failure(125, &words);
    }
}

#[test]
fn without_proc_nothing_is_recorded_in_any_namespace_and_the_mend_is_named() {
    require_namespaces!("mnt");
    // Before, the C runtime's facts about a process are in /proc alone, and the library that reads them panics.
    require!(kernel "6.4");
    let prefix = &["unshare", "--mount", "sh", "-c", r#"umount -l /proc; exec "$@""#, "sh"];
    let recording = memtrace!().within(prefix).record(&[], &["sh", "-c", "echo >started"]);

    assert!(!recording.directory().join("started").exists());
    recording.run.expect_failure(125, &["pid_namespace", "mount -t proc"]);
}

/// What `doctor --json` says where `prefix` starts it, and its exit code.
#[track_caller]
fn doctor(prefix: &'static [&'static str]) -> (Value, Option<i32>) {
    let run = memtrace!().within(prefix).run(["doctor", "--json"]).finish();
    (serde_json::from_str(&run.stdout).expect("doctor writes JSON"), run.code())
}

#[test]
fn doctor_says_in_which_namespaces_it_is_and_what_is_refused_there() {
    require_namespaces!("time");
    let kinds = ["pid", "time", "cgroup", "user"];
    let (outside, code) = doctor(&[]);
    assert_eq!(code, Some(0));
    for kind in kinds {
        assert_eq!(outside["namespaces"][kind], serde_json::json!({ "initial": true, "refused": {} }));
    }

    for (prefix, own) in [(PID, "pid"), (TIME, "time"), (CGROUP, "cgroup")] {
        let (inside, code) = doctor(prefix);

        assert_eq!((code, &inside["can_record"]), (Some(0), &Value::Bool(true)), "{own}");
        for kind in kinds {
            assert_eq!(inside["namespaces"][kind]["initial"], kind != own, "{kind} in {own}");
        }
        let refused = inside["namespaces"][own]["refused"].as_object().expect("an object");
        let options: Vec<_> = refused.keys().collect();
        assert_eq!(options, if own == "pid" { vec!["--cgroup", "-a"] } else { Vec::new() });
    }

    let (inside, code) = doctor(&["unshare", "--pid", "--fork"]);
    assert_eq!((code, &inside["can_record"]), (Some(1), &Value::Bool(false)));
    assert_eq!(inside["blockers"], serde_json::json!(["pid_namespace"]));
}

/// A cgroup of its own below one in which memtrace's cgroup namespace begins; both are gone at the end.
struct Cgroups {
    top: PathBuf,
    traced: PathBuf,
}

impl Cgroups {
    fn below(root: &Path) -> Self {
        let top = root.join(format!("memtrace-namespaces-{}", process::id()));
        let traced = top.join("traced");
        fs::create_dir_all(traced.join("below")).expect("cgroups can be made");
        Self { top, traced }
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for cgroup in [self.traced.join("below"), self.traced.clone(), self.top.clone()] {
            // Busy if a process is left, which the failed test says.
            let _busy = fs::remove_dir(cgroup);
        }
    }
}

/// Moves the shell into the cgroup `$0/..`, begins a cgroup namespace there, and records.
const IN_CGROUP: &str = r#"echo $$ >"$0"/../cgroup.procs && exec unshare --cgroup "$@""#;

/// In a cgroup namespace that begins above the traced cgroup, what moves into it and below it is recorded, and nothing else.
#[track_caller]
fn moves_are_seen(root: Option<PathBuf>, version: &str) {
    let Some(root) = root else {
        return skip(&format!("needs a cgroup hierarchy of version {version}"));
    };
    let cgroups = Cgroups::below(&root);
    let directory = directory();
    let path = directory.path().join("recording.mtrace");
    let record = |memtrace: Run| {
        memtrace.args(["record", "--duration", "60s", "--cgroup"]).arg(&cgroups.traced).arg("-o").arg(&path)
    };
    let within = || Run::new("sh").args(["-c", IN_CGROUP]).arg(&cgroups.traced);
    let without_types = within().args(["env", "MEMTRACE_DISABLE=btf", memtrace!().program()]);
    let _refused =
        record(without_types).finish().expect_failure(125, &["cgroup_namespace", "--cgroupns=host"]);

    let mut attached = record(within().arg(memtrace!().program())).start();
    attached.wait_for_content(&path);
    let move_in = r#"echo $$ >"$0"/cgroup.procs; exec "$@""#;
    let touch = |cgroup: &Path| {
        let run = Run::new("sh").args(["-c", move_in]).arg(cgroup).args([
            program!("touch"),
            "write",
            "--pages",
            "300",
        ]);
        run.finish().expect_code(0).last_line::<Ledger>()
    };
    let inside = [touch(&cgroups.traced), touch(&cgroups.traced.join("below"))];
    let outside = touch(&cgroups.top);
    attached.signal(rustix::process::Signal::INT);
    let run = attached.finish();

    let csv = memtrace!()
        .run(["export", "-f", "csv", "--table", "faults"])
        .arg(&path)
        .finish()
        .expect_code(0)
        .stdout;
    let faults: Vec<_> =
        csv::Reader::from_reader(csv.as_bytes()).into_deserialize().collect::<Result<_, _>>().expect("rows");
    for area in inside.iter().flat_map(|ledger| &ledger.areas) {
        assert_eq!(area.found_in(&faults), *area, "{run:#?}");
    }
    for area in &outside.areas {
        assert_eq!(area.rows_of(&faults).count(), 0, "{area:?}");
    }
}

#[test]
fn what_moves_into_a_cgroup_of_version_2_is_seen_from_a_cgroup_namespace() {
    require_namespaces!("cgroup");
    moves_are_seen(hierarchy(|kind, _| kind == "cgroup2"), "2");
}

#[test]
fn what_moves_into_a_cgroup_of_version_1_is_seen_from_a_cgroup_namespace() {
    require_namespaces!("cgroup");
    moves_are_seen(hierarchy(|kind, options| kind == "cgroup" && options.contains("pids")), "1");
}
