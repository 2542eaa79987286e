//! The outcomes of faults: each kind of memory that the workload touches has just what its ledger says.

use std::collections::BTreeMap;

use memtrace_tests::{
    file_on_disk,
    follow::Place,
    ledger::{Comeback, Comebacks, Gift, Gifts},
    made, memtrace, program,
    recording::{Memtrace, Recording},
    require,
    rows::{FaultRow, PageRow},
    scan::has_scan,
    setting::{HugePages, Setting, transparent_huge_pages},
    turn,
};

/// Where huge pages of shared memory are allowed, `advise` to those that ask for them.
const SHMEM_ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// Runs the workload with `args` under `memtrace`; what it did, and what was recorded. Memory changes again only when what was
/// touched before has been scanned.
fn recorded(memtrace: Memtrace, args: &[&str]) -> (BTreeMap<String, Gift>, Recording) {
    let options = ["--interval", "100ms", "--max-cpu", "100%"];
    let target = [&[program!("outcome")], args].concat();
    let mut recording = memtrace.start(&options, &target);
    let mut all = BTreeMap::new();
    for line in 0.. {
        let Gifts { gifts, are_all } = serde_json::from_str(&recording.running.line(line)).expect("a ledger");
        let place =
            |gift: &Gift| Place { pid: gift.pid, range: gift.start..gift.end, until_ns: gift.time_ns };
        recording.wait_for_scans(&gifts.values().map(place).collect::<Vec<_>>());
        all.extend(gifts);
        if are_all {
            break;
        }
        recording.running.send("\n");
    }
    (all, recording.finish().expect_code(0))
}

/// Faults in `gift` by their outcome, and how many pages these were.
fn given(faults: &[FaultRow], gift: &Gift) -> BTreeMap<String, (u64, u64)> {
    let mut given: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let here = |row: &&FaultRow| row.tgid == Some(gift.pid) && (gift.start..gift.end).contains(&row.addr);
    for row in faults.iter().filter(here) {
        let (faults, pages) = given.entry(row.outcome.clone().unwrap_or_default()).or_default();
        *faults += 1;
        *pages += row.outcome_pages.unwrap_or_default();
    }
    given
}

/// Pages in `gift` that changed, by state before, state after and cause; those that were gone for a moment are left out.
fn changed(rows: &[PageRow], gift: &Gift) -> BTreeMap<(String, String, String), u64> {
    let mut changed = BTreeMap::new();
    let here = |row: &&PageRow| {
        row.tgid == gift.pid && (gift.start..gift.end).contains(&row.addr) && row.state != "absent"
    };
    for row in rows.iter().filter(here) {
        let key = (row.prev_state.clone(), row.state.clone(), row.cause.clone());
        *changed.entry(key).or_default() += row.pages;
    }
    changed
}

#[test]
fn faults_brought_the_memory_that_the_workload_was_given() {
    require!(root);
    require!(bpf);
    let _turn = turn();
    let _huge = made!(transparent_huge_pages("enabled"));
    let _shared = made!(Setting::change(SHMEM_ENABLED, "advise"));
    let (gifts, recording) = recorded(memtrace!(), &[]);

    let (faults, pages) = (recording.faults(), recording.pages());
    let expect = |name: &str, expected: &[(&str, u64, u64)]| {
        let expected: BTreeMap<_, _> =
            expected.iter().map(|(kind, faults, pages)| ((*kind).to_owned(), (*faults, *pages))).collect();
        assert_eq!(given(&faults, &gifts[name]), expected, "{name}");
    };
    expect("small", &[("anon", 300, 300)]);
    expect("huge", &[("anon", 3, 3 * 512)]);
    expect("huge_of_file", &[("file", 2, 2 * 512)]);
    expect("zero", &[("zero", 200, 200)]);
    // What the reads brought was gone at the next scan, unless a scan came just in between.
    let mut upgraded = given(&faults, &gifts["upgraded"]);
    assert_eq!(upgraded.remove("anon"), Some((100, 100)), "{upgraded:?}");
    let gone = upgraded.get("").map_or(0, |(faults, _)| *faults);
    let zero = upgraded.get("zero").map_or(0, |(faults, _)| *faults);
    assert_eq!((gone + zero, upgraded.len()), (100, usize::from(gone > 0) + usize::from(zero > 0)));
    expect("refaulted", &[("anon", 300, 300)]);
    expect("populated", &[]);
    expect("filled", &[("anon", 64, 64)]);
    expect("own", &[("copy", 40, 40)]);
    expect("shared", &[("anon", 100, 100), ("copy", 50, 50), ("reuse", 50, 50)]);
    expect("copied", &[("copy", 50, 50)]);

    let expect = |name: &str, expected: &[(&str, &str, &str, u64)]| {
        let expected: BTreeMap<_, _> = expected
            .iter()
            .map(|(before, after, cause, pages)| {
                (((*before).to_owned(), (*after).to_owned(), (*cause).to_owned()), *pages)
            })
            .collect();
        assert_eq!(changed(&pages, &gifts[name]), expected, "{name}");
    };
    expect("small", &[("absent", "small", "fault", 300)]);
    // Words do not tell how a page of a large folio is mapped.
    let of_huge = if has_scan() { "huge" } else { "thp" };
    expect("huge", &[("absent", of_huge, "fault", 3 * 512)]);
    expect("zero", &[("absent", "zero", "fault", 200)]);
    expect("refaulted", &[("absent", "small", "fault", 300)]);
    expect("populated", &[("absent", "small", "call", 400)]);
    expect("shared", &[("absent", "small", "fault", 100), ("small", "small", "fault", 50)]);
}

#[test]
fn faults_brought_no_more_pages_of_hugetlb_than_the_pool_lost() {
    require!(root);
    require!(bpf);
    let _turn = turn();
    let _pool = made!(HugePages::add(5));
    let (gifts, recording) = recorded(memtrace!(), &["--hugetlb"]);

    let faults = recording.faults();
    let given = |name: &str| given(&faults, &gifts[name]);
    // Two for private memory, three for the file: the second mapping of that took none.
    assert_eq!(given("hugetlb"), BTreeMap::from([("hugetlb".to_owned(), (2, 2 * 512))]));
    for name in ["hugetlb_made", "hugetlb_mapped"] {
        assert_eq!(given(name), BTreeMap::from([("file".to_owned(), (3, 3 * 512))]), "{name}");
    }
    let report = recording.report();
    let totals = report.at("/outcome").as_array().expect("a list").clone();
    let fresh = |kind: &str| {
        let totals = totals.iter().filter(|totals| totals["kind"] == kind);
        totals.map(|totals| totals["fresh_pages"].as_u64()).sum::<Option<u64>>()
    };
    assert_eq!(fresh("hugetlb"), Some(2 * 512));
    assert_eq!(fresh("file"), None, "the kernel does not say whether they were there");
}

#[test]
fn faults_brought_the_pages_of_files_that_the_workload_was_given() {
    require!(root);
    require!(bpf);
    let _disk = made!(file_on_disk());
    let _turn = turn();
    let (gifts, recording) = recorded(memtrace!(), &["--dir", "/var/tmp"]);

    let faults = recording.faults();
    for name in ["warm", "cold"] {
        let given = given(&faults, &gifts[name]);
        let kinds: Vec<_> = given.keys().map(String::as_str).collect();
        let pages: u64 = given.values().map(|(_, pages)| pages).sum();
        assert_eq!((kinds, pages), (vec!["file"], gifts[name].touched), "{name}");
    }
}

#[test]
fn outcomes_of_faults_is_told_as_far_as_that_goes_without_frame_numbers() {
    require!(root);
    require!(bpf);
    require!(program "setpriv" of "util-linux");
    require!(@ (!has_scan()).then(|| "needs Linux 6.7 (PAGEMAP_SCAN)".to_owned()));
    let _turn = turn();
    let _huge = made!(transparent_huge_pages("enabled"));
    let _shared = made!(Setting::change(SHMEM_ENABLED, "advise"));
    // At the level 3 of Debian's kernels none but those who see frame numbers may have events.
    let _level = made!(Setting::change("/proc/sys/kernel/perf_event_paranoid", "2"));
    let (gifts, recording) = recorded(memtrace!().without_frame_numbers(), &[]);

    let (faults, pages) = (recording.faults(), recording.pages());
    let expect = |name: &str, expected: (&str, u64, u64)| {
        let (kind, faults_of_kind, pages) = expected;
        let expected = BTreeMap::from([(kind.to_owned(), (faults_of_kind, pages))]);
        assert_eq!(given(&faults, &gifts[name]), expected, "{name}");
    };
    expect("small", ("anon", 300, 0));
    expect("huge", ("anon", 3, 3 * 512));
    expect("huge_of_file", ("file", 2, 2 * 512));
    expect("zero", ("zero", 200, 0));
    expect("own", ("copy", 40, 0));
    assert!(pages.iter().all(|row| row.pfn.is_none() && row.prev_pfn.is_none()));
    let key = ("absent".to_owned(), "present".to_owned(), "call".to_owned());
    assert_eq!(changed(&pages, &gifts["populated"]), BTreeMap::from([(key, 400)]));
}

/// How many of `rows` have each word that `word` finds.
fn tally<'a>(
    rows: impl Iterator<Item = &'a FaultRow>,
    word: impl Fn(&FaultRow) -> Option<&String>,
) -> BTreeMap<String, u64> {
    rows.filter_map(|row| word(row).cloned()).fold(BTreeMap::new(), |mut tally, word| {
        *tally.entry(word).or_default() += 1;
        tally
    })
}

#[test]
fn pages_that_were_given_back_come_back_and_no_scan_is_needed_to_know_what_faults_brought() {
    require!(root);
    require!(bpf);
    // No scan comes before the end.
    let recording = memtrace!().record(&["--interval", "60s"], &[program!("comebacks")]);

    let Comebacks { pid, stretches } = recording.run.last_line();
    let faults = recording.faults();
    let mut all = 0;
    for (name, Comeback { stretch, refaults, outcomes }) in stretches {
        let range = stretch.start..stretch.end;
        let here = || faults.iter().filter(|row| row.tgid == Some(pid) && range.contains(&row.addr));
        assert_eq!(tally(here(), |row| row.refault_of.as_ref()), refaults, "{name}");
        assert_eq!(tally(here(), |row| row.outcome.as_ref()), outcomes, "{name}");
        all += refaults.values().sum::<u64>();
    }
    let by_all = recording.report().at("/refaults").as_object().expect("by how they went").clone();
    let by_all: u64 = by_all.values().map(|totals| totals["faults"].as_u64().expect("a number")).sum();
    assert!(by_all >= all, "{by_all} of the whole session, {all} of the ledger");
}
