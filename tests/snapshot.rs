//! `memtrace snapshot` of memory whose every page a ledger knows: what is counted, selected, shared, charged and printed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use memtrace::pagemap::PageFlags;
use memtrace_tests::{
    cgroup::{hierarchy, of_memory},
    directory,
    ledger::Layout,
    look::{SOFT_DIRTY, first_page, has_scan, look, own_pagemap, word},
    made,
    memory::{Mapping, Sharing, drain_batches, page_bytes},
    memtrace, program, require,
    requirement::{self, since},
    run::{Finished, Run, Running},
    setting::{HugePages, transparent_huge_pages},
    swap::Swap,
    task::{Sleeper, tid},
    turn,
    uffd::{Mode, Uffd},
    wait_until,
};
use serde_json::{Value, json};

/// Base pages in a huge page of 2 MiB.
fn pages_per_huge() -> usize {
    (2 << 20) / page_bytes()
}

/// `memtrace snapshot` with these arguments.
fn snapshot(args: &[&str]) -> Run {
    memtrace!().run(["snapshot"]).args(args)
}

/// The JSON of a snapshot about which there is nothing to say.
#[track_caller]
fn census(args: &[&str]) -> Value {
    let run = snapshot(&[args, &["--json"]].concat()).finish().expect_code(0);
    assert_eq!(run.stderr, "", "{args:?}");
    serde_json::from_str(&run.stdout).expect("JSON")
}

/// This process, and the pages of `mapping` alone: the kernel may make one VMA of it and its neighbours.
fn only(mapping: &Mapping) -> [String; 4] {
    let pages = format!("{}+{}", first_page(mapping), mapping.pages());
    ["-p".to_owned(), std::process::id().to_string(), "-a".to_owned(), pages]
}

/// The JSON of the pages of `mapping` in this process.
#[track_caller]
fn census_of(mapping: &Mapping, more: &[&str]) -> Value {
    let only = only(mapping);
    let args: Vec<_> = only.iter().map(String::as_str).chain(more.iter().copied()).collect();
    census(&args)
}

/// Checks these sums, which `json` has by name.
#[track_caller]
fn expect_sums(json: &Value, sums: &[(&str, usize)]) {
    let found: Vec<_> = sums.iter().map(|(name, _)| (*name, &json[name])).collect();
    let expected: Vec<_> = sums.iter().map(|(name, pages)| (*name, json!(pages))).collect();
    assert!(
        found.iter().map(|(_, value)| *value).eq(expected.iter().map(|(_, value)| value)),
        "{found:?}, not {expected:?}"
    );
}

#[test]
fn written_pages_are_anonymous_and_read_ones_are_of_zeros() {
    require!(root);
    let _turn = turn();
    let mapping = Mapping::anonymous(64).expect("room");
    (0..40).for_each(|page| mapping.write(page));
    (40..48).for_each(|page| mapping.read(page));

    let json = census_of(&mapping, &[]);

    expect_sums(
        &json,
        &[
            ("present_pages", 48),
            ("rss_pages", 40),
            ("uss_pages", 40),
            ("anon_pages", 40),
            ("file_pages", 0),
            ("swap_pages", 0),
            ("zero_pages", 8),
            ("hugetlb_pages", 0),
            ("pss_bytes", 40 * page_bytes()),
        ],
    );
}

#[test]
fn shared_memory_is_a_region_of_file_pages() {
    require!(root);
    let _turn = turn();
    // Each has an object of its own, so that the kernel merges them with nothing.
    let mapping = Mapping::shared(32).expect("room");
    (0..20).for_each(|page| mapping.write(page));

    let json = census(&["-p", &std::process::id().to_string()]);

    let area = mapping.area(0);
    let starts_there = |region: &&Value| region["start"] == format!("{:#x}", area.start);
    let region = json["regions"].as_array().expect("a list").iter().find(starts_there).expect("a region");
    assert_eq!(region["end"], format!("{:#x}", area.end));
    assert_eq!(region["perms"], "rw-s");
    assert_eq!(region["backing"], "shmem");
    assert_eq!(region["pid"], std::process::id());
    expect_sums(
        region,
        &[("present_pages", 20), ("rss_pages", 20), ("uss_pages", 20), ("file_pages", 20), ("anon_pages", 0)],
    );
}

#[test]
fn pages_of_a_file_are_anonymous_once_they_are_copied() {
    require!(root);
    let _turn = turn();
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(&vec![1; 32 * page_bytes()]).expect("room");
    let private = Mapping::of_file(&file, 32, Sharing::Private).expect("room");
    let shared = Mapping::of_file(&file, 32, Sharing::Shared).expect("room");
    // A write that copies maps one page; another may map the folio around it, and a read still more.
    (0..10).for_each(|page| private.write(page));
    shared.write_all();

    let copied = census_of(&private, &[]);
    let written = census_of(&shared, &[]);

    expect_sums(&copied, &[("rss_pages", 10), ("anon_pages", 10), ("file_pages", 0), ("uss_pages", 10)]);
    expect_sums(&written, &[("rss_pages", 32), ("anon_pages", 0), ("file_pages", 32), ("uss_pages", 32)]);
}

#[test]
fn hugetlb_pages_are_not_resident() {
    require!(root);
    let _turn = turn();
    let _pool = made!(HugePages::add(2));
    let mapping = Mapping::hugetlb(2).expect("they are in the pool");
    mapping.write(pages_per_huge());

    let json = census_of(&mapping, &[]);

    let each = pages_per_huge();
    expect_sums(&json, &[("hugetlb_pages", each), ("present_pages", each), ("rss_pages", 0)]);
}

#[test]
fn transparent_huge_page_is_one_folio_mapped_by_one_entry() {
    require!(root);
    let _turn = turn();
    let _enabled = made!(transparent_huge_pages("enabled"));
    let mapping = Mapping::huge(1).expect("room");
    mapping.write(0);
    if !look(&mapping).iter().all(|page| page.has(PageFlags::THP)) {
        return requirement::skip("needs 2 MiB of memory in one piece");
    }

    let json = census_of(&mapping, &["--cont", "64K"]);

    let each = pages_per_huge();
    expect_sums(&json, &[("rss_pages", each), ("anon_pages", each), ("uss_pages", each)]);
    // Words of pagemap do not tell of it.
    let told = if since("6.7") { json!(each) } else { Value::Null };
    assert_eq!(json["huge_pages"], told, "{json:#}");
    let folios = json["folios"]["anon"].as_object().expect("folios of anonymous memory");
    let order = each.ilog2().to_string();
    assert_eq!(folios.keys().collect::<Vec<_>>(), [&order]);
    let pages = &folios[&order];
    // How it is mapped is told by a scan alone.
    let all = ["aligned", "unaligned", "partial", "pmd"].map(|how| pages[how].as_u64().unwrap_or(0));
    assert_eq!(pages["pmd"].is_null(), !since("6.7"), "{pages}");
    assert_eq!(all.iter().sum::<u64>(), each as u64, "{pages}");
    assert_eq!(all[1..3], [0, 0], "{pages}");
    let blocks = &json["cont"]["anon"]["65536"];
    let pages = ["pte", "pmd"].map(|how| blocks[how].as_u64().unwrap_or(0));
    assert_eq!(pages.iter().sum::<u64>(), each as u64, "{blocks}");
}

#[test]
fn swapped_pages_are_counted_and_selected() {
    require!(root);
    let _turn = turn();
    let _swap = made!(Swap::on(16 << 20));
    let mapping = Mapping::anonymous(64).expect("room");
    (0..48).for_each(|page| mapping.write(page));
    drain_batches();
    for page in 0..16 {
        assert!(mapping.page_out(page).expect("Linux 5.4"), "page {page} stays");
    }

    let json = census_of(&mapping, &[]);

    expect_sums(&json, &[("swap_pages", 16), ("rss_pages", 32), ("anon_pages", 32), ("uss_pages", 32)]);
    let areas = json["swap"].as_array().expect("a list");
    assert_eq!(areas.len(), 1, "{areas:?}");
    assert_eq!(areas[0]["pages"], 16);
    let slots: Vec<_> = areas[0]["slots"].as_array().expect("two").iter().filter_map(Value::as_u64).collect();
    assert!(slots[1] - slots[0] >= 15, "{slots:?}");
    let flags = json["flags"].as_array().expect("a list");
    let flagged: u64 = flags.iter().filter_map(|row| row["pages"].as_u64()).sum();
    assert_eq!(flagged, 32, "flags are those of present pages: {flags:?}");

    if !has_scan() {
        return requirement::skip("needs Linux 6.7 (PAGEMAP_SCAN): the kernel selects");
    }
    for (condition, swapped, present) in
        [("swapped", 16, 0), ("!swapped", 0, 32), ("swapped | present", 16, 32), ("swapped & present", 0, 0)]
    {
        let json = census_of(&mapping, &["--where", condition]);
        expect_sums(&json, &[("swap_pages", swapped), ("present_pages", present)]);
    }
}

#[test]
fn swapped_shared_memory_is_counted() {
    require!(root);
    let _turn = turn();
    let _swap = made!(Swap::on(16 << 20));
    let mapping = Mapping::shared(64).expect("room");
    mapping.write_all();
    drain_batches();
    for page in 0..24 {
        assert!(mapping.page_out(page).expect("Linux 5.4"), "page {page} stays");
    }

    let json = census(&["-p", &std::process::id().to_string()]);

    let start = format!("{:#x}", mapping.area(0).start);
    let regions = json["regions"].as_array().expect("a list");
    let region = regions.iter().find(|region| region["start"] == start).expect("a region");
    expect_sums(region, &[("swap_pages", 24), ("swap_shared_pages", 24), ("rss_pages", 40)]);
    assert!(json["swap_pages"].as_u64() >= Some(24));
}

#[test]
fn condition_selects_the_pages_of_the_ledger() {
    require!(root);
    let _turn = turn();
    if !has_scan() {
        return requirement::skip("needs Linux 6.7 (PAGEMAP_SCAN): the kernel selects");
    }
    let anon = Mapping::anonymous(64).expect("room");
    (0..20).for_each(|page| anon.write(page));
    (20..30).for_each(|page| anon.read(page));
    let shared = Mapping::shared(16).expect("room");
    shared.write_all();

    for (condition, of_anon, of_shared) in [
        ("present", 30, 16),
        ("zero", 10, 0),
        ("present & !zero", 20, 16),
        ("file", 0, 16),
        ("!file", 30, 0),
        ("file | zero", 10, 16),
        ("file & zero", 0, 0),
        ("!(file | zero)", 20, 0),
        ("huge", 0, 0),
        ("!present", 0, 0),
    ] {
        let json = census_of(&anon, &["--where", condition]);
        assert_eq!(json["present_pages"], of_anon, "{condition}");
        let json = census_of(&shared, &["--where", condition]);
        assert_eq!(json["present_pages"], of_shared, "{condition}");
    }
}

#[test]
fn condition_selects_guards() {
    require!(root);
    let _turn = turn();
    let mapping = Mapping::anonymous(8).expect("room");
    mapping.write_all();
    made!(mapping.guard(2..5).map_err(|_| "needs Linux 6.13 (MADV_GUARD_INSTALL)"));
    // Pages in memory, and entries that are something else.
    let found = |json: &Value| (json["present_pages"].as_u64(), json["entries"]["marker"].as_u64());

    assert_eq!(found(&census_of(&mapping, &[])), (Some(5), Some(3)));
    if since("6.16") {
        assert_eq!(found(&census_of(&mapping, &["--where", "guard"])), (Some(0), Some(3)));
        assert_eq!(found(&census_of(&mapping, &["--where", "!guard"])), (Some(5), None));
    } else {
        requirement::skip("needs Linux 6.16 (PAGE_IS_GUARD)");
    }
}

#[test]
fn condition_selects_soft_dirty_pages() {
    require!(root);
    let _turn = turn();
    let mapping = Mapping::anonymous(16).expect("room");
    // A younger neighbour that it merged with would make it soft-dirty as a whole.
    mapping.advise(rustix::mm::Advice::LinuxDontFork).expect("room");
    mapping.write_all();
    fs::write("/proc/self/clear_refs", "4").expect("own process");
    (3..8).for_each(|page| mapping.write(page));
    let bit = |page| word(&own_pagemap(), first_page(&mapping) + page).expect("own memory") & SOFT_DIRTY;
    if !since("6.8") || bit(4) == 0 || bit(0) != 0 {
        return requirement::skip("needs Linux 6.8 with CONFIG_MEM_SOFT_DIRTY (PAGE_IS_SOFT_DIRTY)");
    }

    let dirty = census_of(&mapping, &["--where", "soft-dirty"]);
    let clean = census_of(&mapping, &["--where", "!soft-dirty"]);

    let bits: Vec<_> = (0..16).map(|page| u64::from(bit(page) != 0)).collect();
    assert_eq!(bits.iter().sum::<u64>(), 5, "{bits:?}");
    assert_eq!(dirty["present_pages"], 5);
    assert_eq!(clean["present_pages"], 11);
}

#[test]
fn condition_selects_pages_that_are_not_write_protected() {
    require!(root);
    let _turn = turn();
    if !has_scan() {
        return requirement::skip("needs Linux 6.7 (PAGEMAP_SCAN): the kernel selects");
    }
    let mapping = Mapping::anonymous(16).expect("room");
    mapping.write_all();
    let uffd =
        made!(Uffd::open(0).map_err(|error| format!("needs userfaultfd (CONFIG_USERFAULTFD): {error}")));
    made!(
        uffd.register(&mapping, Mode::WriteProtect)
            .map_err(|_| "needs write-protection by userfaultfd (CONFIG_HAVE_ARCH_USERFAULTFD_WP)")
    );
    uffd.protect(&mapping, 4..10).expect("they are registered");

    let written = census_of(&mapping, &["--where", "written"]);
    let unwritten = census_of(&mapping, &["--where", "present & !written"]);

    assert_eq!(written["present_pages"], 10);
    assert_eq!(unwritten["present_pages"], 6);
}

#[test]
fn flags_and_bits_select_the_pages_of_the_ledger() {
    require!(root);
    let _turn = turn();
    let mapping = Mapping::anonymous(32).expect("room");
    (0..20).for_each(|page| mapping.write(page));
    (20..30).for_each(|page| mapping.read(page));

    for (filter, pages) in [
        (["-b", "anonymous"], 20),
        (["-b", "zero_page"], 10),
        (["-b", "anonymous,zero_page"], 30),
        (["-b", "anonymous,zero_page=zero_page"], 10),
        (["-b", "zero_page,~anonymous"], 10),
        (["-b", "huge"], 0),
    ] {
        let json = census_of(&mapping, &filter);
        assert_eq!(json["present_pages"], pages, "{filter:?}");
    }
    let both = census_of(&mapping, &["-b", "anonymous", "-b", "zero_page"]);
    assert_eq!(both["present_pages"], 0);
}

#[test]
fn what_the_kernel_does_not_select_is_said() {
    require!(root);
    let _turn = turn();
    let mapping = Mapping::anonymous(32).expect("room");
    (0..20).for_each(|page| mapping.write(page));
    (20..30).for_each(|page| mapping.read(page));
    let run = |condition: &str| {
        let args = [&only(&mapping)[..], &["--json", "--where", condition].map(str::to_owned)].concat();
        snapshot(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let present =
        |run: &Finished| serde_json::from_str::<Value>(&run.stdout).expect("JSON")["present_pages"].clone();

    let by_flag = run("kpf:anonymous").finish().expect_code(0);
    assert_eq!(present(&by_flag), 20);
    assert!(by_flag.stderr.contains("kpf:anonymous"), "{by_flag:#?}");

    // As on kernels before 6.7: words of pagemap tell of some categories, and nothing of others.
    let without = |condition: &str| run(condition).env("MEMTRACE_DISABLE", "pagemap_scan").finish();
    let by_word = without("present").expect_code(0);
    assert_eq!(present(&by_word), 30);
    assert!(by_word.stderr.contains("present"), "{by_word:#?}");
    for unknown in ["huge", "written", "zero", "present & !huge"] {
        let word = unknown.rsplit(['!', ' ']).next().expect("a word");
        let refused = without(unknown).expect_failure(1, &["--where", word, "Linux 6.7"]);
        assert_eq!(refused.stdout, "");
    }
}

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
    let look = |pids: &[u32]| {
        let pids: Vec<_> = pids.iter().map(u32::to_string).collect();
        census(&["-p", &own, "-p", &pids.join(","), "-a", &pages])
    };
    let this = u64::from(std::process::id());
    let set = |children: &[&Sleeper]| -> BTreeSet<u64> {
        children.iter().map(|child| u64::from(child.pid())).chain([this]).collect()
    };

    let two = look(&[first.pid()]);

    assert_eq!(shared_sets(&two), BTreeMap::from([((set(&[&first]), false), 64)]));
    // Each of the shared ones counts half, twice.
    let each = page_bytes();
    expect_sums(&two, &[("rss_pages", 192), ("uss_pages", 64), ("pss_bytes", (64 + 64) * each)]);
    assert_eq!(two["pid"], Value::Null);

    let second = Sleeper::fork_that_writes(&mapping, 32..48).expect("a child");
    let three = look(&[first.pid(), second.pid()]);
    let without_the_second = look(&[first.pid()]);

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

/// A cgroup of a test's own, gone at the end; its members must end before.
struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    fn below(dir: &Path, name: &str) -> Self {
        let dir = dir.join(format!("memtrace-snapshot-{name}-{}", std::process::id()));
        fs::create_dir(&dir).expect("root may");
        Self { dir }
    }

    fn adopt(&self, pid: u32) {
        fs::write(self.dir.join("cgroup.procs"), pid.to_string()).expect("a process can be moved");
    }

    fn path(&self) -> &str {
        self.dir.to_str().expect("UTF-8")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Busy until the kernel is done with its members.
        let is_gone = (0..100).any(|_| {
            fs::remove_dir(&self.dir).is_ok() || {
                thread::sleep(Duration::from_millis(20));
                false
            }
        });
        if !is_gone {
            eprintln!("{} stays", self.path());
        }
    }
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
    let json = census(&[&of_it[..], &["-C"]].concat());

    let inode = |cgroup: &Cgroup| fs::metadata(&cgroup.dir).expect("it is there").ino();
    let name = |cgroup: &Cgroup| format!("/{}", cgroup.dir.strip_prefix(&top).expect("below").display());
    let row = json!({ "inode": inode(&before), "path": name(&before), "pages": layout.touched_pages });
    assert_eq!(json["cgroups"], json!([row]));
    assert_eq!(json["processes"][0]["cgroup"], name(&after));
    let inode_of_before = format!("@{}", inode(&before));
    for (cgroup, pages) in
        [(before.path(), layout.touched_pages), (&inode_of_before, layout.touched_pages), (after.path(), 0)]
    {
        let json = census(&[&of_it[..], &["-c", cgroup]].concat());
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
    let json = census(&["--cgroup", cgroup.path(), "--rollup"]);
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
fn member_that_may_not_be_looked_at_is_told_and_passed_over() {
    // Without these even root may not look at what has a capability more.
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
    let look = |target: &[&str]| {
        lesser().arg(memtrace!().program()).args(["snapshot", "--rollup", "--json"]).args(target).finish()
    };

    let found = look(&["--cgroup", cgroup.path()]).expect_code(0);
    let named = look(&["-p", &closed.pid().to_string()]);

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
    let run = snapshot(&["--cgroup", "/", "--rollup", "--json"]).finish().expect_code(0);

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

#[test]
fn csv_has_a_row_for_each_row_of_maps() {
    require!(root);
    let _turn = turn();
    let mut running = Run::new(program!("layout")).args(["small", "--mib", "1"]).with_stdin().start();
    let _ready = running.first_line();
    let pid = running.pid().to_string();
    let look = || {
        let run = snapshot(&["-p", &pid, "--csv"]).finish().expect_code(0);
        assert_eq!(run.stderr, "");
        let rows: Result<Vec<BTreeMap<String, String>>, _> =
            csv::Reader::from_reader(run.stdout.as_bytes()).into_deserialize().collect();
        rows.expect("RFC 4180")
    };
    let seen = fs::read_to_string(format!("/proc/{pid}/maps")).expect("it lives");

    let rows = look();

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
        assert_eq!((row["pid"].as_str(), row["comm"].as_str()), (pid.as_str(), "layout"));
        let pages = ["rss_pages", "anon_pages", "file_pages"]
            .map(|name| row[name].parse::<u64>().unwrap_or_else(|_| panic!("{name} of {row:?}")));
        assert_eq!(pages[0], pages[1] + pages[2], "{row:?}");
    }
    let of_program = rows.iter().find(|row| row["name"] == program!("layout")).expect("it runs");
    assert_eq!(of_program["backing"], "file");
}

#[test]
fn json_has_the_keys_of_the_contract() {
    require!(root);
    let _turn = turn();
    let mapping = Mapping::anonymous(8).expect("room");
    mapping.write_all();
    let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");

    let json = census_of(&mapping, &["--cont", "64K"]);

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

    let run = snapshot(&args).env("MEMTRACE_DISABLE", "frame_numbers").finish().expect_code(0);

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
        "hugetlb_pages",
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
        let run = snapshot(args).env("MEMTRACE_DISABLE", "frame_numbers").finish();
        assert_eq!(run.expect_failure(1, &["frame numbers", "CAP_SYS_ADMIN"]).stdout, "", "{args:?}");
    }
}

#[test]
fn census_of_all_memory_has_no_sums_of_processes() {
    require!(root);
    let _turn = turn();

    let json = census(&["--system", "-C"]);

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

    let run = snapshot(&["-p", &own, "--interval", "50ms", "--count", "3", "--json", "--rollup"]).finish();

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
    let sleeper = sleeper();
    let pid = sleeper.pid().to_string();

    let run = snapshot(&["-p", &pid, "--interval", "10ms", "--count", "3", "--csv"]).finish().expect_code(0);

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
fn process_that_ends_between_two_looks_is_a_failure() {
    require!(root);
    let sleeper = Run::new("sleep").arg("1000").start();
    let pid = sleeper.pid().to_string();
    let mut watch = snapshot(&["-p", &pid, "--interval", "20ms", "--json", "--rollup"]).start();
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
        assert_eq!(snapshot(args).finish().expect_failure(1, words).stdout, "", "{args:?}");
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
            let run = snapshot(&["-p", &pids]).finish();
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

    let json = census(&["--file", path, "--file", path, "--file", link]);

    expect_sums(&json, &[("present_pages", 3)]);
}

#[test]
fn process_that_is_named_twice_is_counted_once() {
    require!(root);
    let _turn = turn();
    let mapping = Mapping::anonymous(8).expect("room");
    mapping.write_all();
    let [_, own, _, pages] = only(&mapping);

    let json = census(&["-p", &format!("{own},{own}"), "-p", &own, "-a", &pages]);

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
        let run = snapshot(&["--file", &path(name)]).finish();
        assert_eq!(run.expect_failure(1, &[name]).stdout, "");
    }
    // What is found and has no pages is passed over.
    let json = census(&["--file", scratch.path().to_str().expect("UTF-8")]);
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

    let json = census(&["--file", path.to_str().expect("UTF-8")]);

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
        expect_sums(&census_of(&mapping, &limits), &[("rss_pages", 8)]);
    }
}
