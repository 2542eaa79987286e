//! Whom pages belong to in `memtrace snapshot`: processes that share them, cgroups that are charged for them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

use memtrace_tests::{
    census::{expect_sums, only},
    cgroup::{Cgroup, hierarchy, of_memory},
    ledger::Layout,
    made,
    memory::{Mapping, page_bytes},
    memtrace, program, require, requirement,
    run::{Run, Running},
    task::Sleeper,
    turn, wait_until,
};
use serde_json::{Value, json};

/// Pages by the processes that share them, and whether others do too; those of one process are left out.
fn shared_sets(json: &Value) -> BTreeMap<(BTreeSet<u64>, bool), u64> {
    let mut sets = BTreeMap::new();
    for row in json["sharing"].as_array().expect("a list") {
        let pids: BTreeSet<_> =
            row["pids"].as_array().expect("a list").iter().filter_map(Value::as_u64).collect();
        let others = row["others"].as_bool().expect("yes or no");
        if pids.len() > 1 {
            *sets.entry((pids, others)).or_default() += row["pages"].as_u64().expect("a number");
        }
    }
    sets
}

#[test]
fn processes_share_the_pages_that_none_wrote_to_after_the_fork() {
    require!(root);
    let _turn = turn();
    let mapping = Mapping::anonymous(96).expect("room");
    mapping.write_all();
    let first = Sleeper::fork_that_writes(&mapping, 0..32).expect("a child");
    let [_, own, _, pages] = only(&mapping);
    let scan = |pids: &[u32]| {
        let pids: Vec<_> = pids.iter().map(u32::to_string).collect();
        memtrace!().census(&["-p", &own, "-p", &pids.join(","), "-a", &pages])
    };
    let this = u64::from(std::process::id());
    let set = |children: &[&Sleeper]| -> BTreeSet<u64> {
        children.iter().map(|child| u64::from(child.pid())).chain([this]).collect()
    };

    let two = scan(&[first.pid()]);

    assert_eq!(shared_sets(&two), BTreeMap::from([((set(&[&first]), false), 64)]));
    // Each of the shared ones counts half, twice.
    let each = page_bytes();
    expect_sums(&two, &[("rss_pages", 192), ("uss_pages", 64), ("pss_bytes", (64 + 64) * each)]);
    assert_eq!(two["pid"], Value::Null);

    let second = Sleeper::fork_that_writes(&mapping, 32..48).expect("a child");
    let three = scan(&[first.pid(), second.pid()]);
    let without_the_second = scan(&[first.pid()]);

    let expected = [
        // What the first wrote to.
        ((set(&[&second]), false), 32),
        // What the second wrote to.
        ((set(&[&first]), false), 16),
        ((set(&[&first, &second]), false), 48),
    ];
    assert_eq!(shared_sets(&three), BTreeMap::from(expected));
    let expected = [((set(&[&first]), false), 16), ((set(&[&first]), true), 48)];
    assert_eq!(shared_sets(&without_the_second), BTreeMap::from(expected));
}

#[test]
fn pages_stay_charged_to_the_cgroup_that_their_process_has_left() {
    require!(root);
    let _turn = turn();
    let (top, own) = made!(of_memory());
    let home = top.join(own.strip_prefix('/').expect("absolute"));
    let (before, after) = (Cgroup::below(&home, "before"), Cgroup::below(&home, "after"));
    let counts = |name: &str| before.dir.join(name).exists();
    if !counts("memory.usage_in_bytes") && !counts("memory.current") {
        return requirement::skip("needs the controller memory for cgroups below the own one");
    }
    // It is in its cgroup before it touches memory.
    let script = r#"echo $$ >"$1/cgroup.procs" && exec "$0" small --mib 4"#;
    let mut running =
        Run::new("sh").args(["-c", script, program!("layout"), before.path()]).with_stdin().start();
    let layout: Layout = serde_json::from_str(&running.first_line()).expect("a ledger");
    after.adopt(layout.pid);

    let stretch = layout.stretches[0];
    let pages = stretch.start / page_bytes() as u64;
    let pages = format!("{pages}+{}", (stretch.end - stretch.start) / page_bytes() as u64);
    let of_it = ["-p", &layout.pid.to_string(), "-a", &pages];
    let json = memtrace!().census(&[&of_it[..], &["-C"]].concat());

    let inode = |cgroup: &Cgroup| fs::metadata(&cgroup.dir).expect("it is there").ino();
    let name = |cgroup: &Cgroup| format!("/{}", cgroup.dir.strip_prefix(&top).expect("below").display());
    let row = json!({ "inode": inode(&before), "path": name(&before), "pages": layout.touched_pages });
    assert_eq!(json["cgroups"], json!([row]));
    assert_eq!(json["processes"][0]["cgroup"], name(&after));
    let inode_of_before = format!("@{}", inode(&before));
    for (cgroup, pages) in
        [(before.path(), layout.touched_pages), (&inode_of_before, layout.touched_pages), (after.path(), 0)]
    {
        let json = memtrace!().census(&[&of_it[..], &["-c", cgroup]].concat());
        assert_eq!(json["present_pages"], pages, "{cgroup}");
    }

    drop(running);
}

/// A program that does nothing.
fn sleeper() -> Running {
    Run::new("sleep").arg("1000").start()
}

/// Where cgroups can be made, whatever they count.
fn any_hierarchy() -> Result<PathBuf, String> {
    hierarchy(|kind, options| kind == "cgroup2" || kind == "cgroup" && options.contains("pids"))
        .ok_or_else(|| "needs a mount of cgroups".to_owned())
}

/// The processes that the census of a cgroup has.
#[track_caller]
fn members(cgroup: &Cgroup) -> BTreeSet<u64> {
    let json = memtrace!().census(&["--cgroup", cgroup.path(), "--rollup"]);
    let processes = json["processes"].as_array().expect("a list");
    processes.iter().map(|process| process["pid"].as_u64().expect("a number")).collect()
}

#[test]
fn cgroup_is_all_processes_below_it_that_live() {
    require!(root);
    let _turn = turn();
    let top = made!(any_hierarchy());
    let outer = Cgroup::below(&top, "outer");
    let inner = Cgroup::below(&outer.dir, "inner");
    let (upper, lower, _outside) = (sleeper(), sleeper(), sleeper());
    outer.adopt(upper.pid());
    inner.adopt(lower.pid());
    let pid = |running: &Running| u64::from(running.pid());

    assert_eq!(members(&outer), BTreeSet::from([pid(&upper), pid(&lower)]));
    assert_eq!(members(&inner), BTreeSet::from([pid(&lower)]));

    // Nobody has waited for it, so it is a zombie.
    upper.signal(rustix::process::Signal::KILL);
    let status = format!("/proc/{}/status", upper.pid());
    let is_zombie = || fs::read_to_string(&status).is_ok_and(|status| status.contains("State:\tZ"));
    assert!(wait_until(is_zombie), "{status}");
    assert_eq!(members(&outer), BTreeSet::from([pid(&lower)]));

    drop((upper, lower));
    assert!(wait_until(|| members(&outer).is_empty()));
    drop(inner);
    assert_eq!(members(&outer), BTreeSet::new());
}

#[test]
fn member_that_may_not_be_scanned_is_told_and_passed_over() {
    // Without these even root may not read what has a capability more.
    const TAKEN: &str = "-sys_ptrace,-perfmon,-sys_admin";
    require!(root);
    require!(program "setpriv" of "util-linux");
    let _turn = turn();
    let top = made!(any_hierarchy());
    let cgroup = Cgroup::below(&top, "denied");
    let lesser = || Run::new("setpriv").args(["--bounding-set", TAKEN, "--inh-caps", TAKEN]);
    let (open, closed) = (lesser().args(["sleep", "1000"]).start(), sleeper());
    cgroup.adopt(open.pid());
    cgroup.adopt(closed.pid());
    let comm =
        |running: &Running| fs::read_to_string(format!("/proc/{}/comm", running.pid())).expect("it lives");
    assert!(wait_until(|| comm(&open) == "sleep\n" && comm(&closed) == "sleep\n"));
    let scan = |target: &[&str]| {
        lesser().arg(memtrace!().program()).args(["snapshot", "--rollup", "--json"]).args(target).finish()
    };

    let found = scan(&["--cgroup", cgroup.path()]).expect_code(0);
    let named = scan(&["-p", &closed.pid().to_string()]);

    let json: Value = serde_json::from_str(&found.stdout).expect("JSON");
    assert_eq!(json["pid"], open.pid());
    assert!(found.stderr.contains(&format!("process {}", closed.pid())), "{found:#?}");
    // The other is that there are no frame numbers.
    assert_eq!(found.stderr.lines().count(), 2, "{found:#?}");
    assert_eq!(named.expect_failure(1, &["CAP_SYS_PTRACE"]).stdout, "");

    drop((open, closed));
}

#[test]
fn root_of_all_cgroups_is_every_process() {
    require!(root);
    let _turn = turn();
    let (one, other) = (sleeper(), sleeper());

    // Some may be kept from root, which is told.
    let run = memtrace!().snapshot(&["--cgroup", "/", "--rollup", "--json"]).finish().expect_code(0);

    let json: Value = serde_json::from_str(&run.stdout).expect("JSON");
    let pids: BTreeSet<_> = json["processes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| &one["pid"])
        .map(Value::as_u64)
        .collect();
    for pid in [one.pid(), other.pid(), std::process::id()] {
        assert!(pids.contains(&Some(u64::from(pid))), "{pid} of {pids:?}");
    }
}
