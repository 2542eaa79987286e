//! `memtrace snapshot` beside `/proc/PID/smaps`: the same numbers, also where page tables do not say them.

use std::{collections::BTreeMap, fs::File};

use memtrace_tests::{
    census::{expect_sums, only},
    ledger::Area,
    made,
    memory::{Mapping, Sharing, drain_batches, has_cachestat, page_bytes},
    memtrace,
    mounted::Mounted,
    program, require,
    run::{Run, Running},
    scan::smaps_pages,
    setting::HugePages,
    swap::Swap,
    task::tid,
    turn,
};
use rustix::mm::Advice;
use serde_json::Value;

/// The region that is `mapping` in a census of this process.
#[track_caller]
fn region_of(mapping: &Mapping) -> Value {
    let json = memtrace!().census(&["-p", &std::process::id().to_string()]);
    region_at(&json, mapping.area(0).start)
}

/// The region in `json` that begins at `start`.
#[track_caller]
fn region_at(json: &Value, start: u64) -> Value {
    let regions = json["regions"].as_array().expect("a list");
    let start = format!("{start:#x}");
    regions.iter().find(|region| region["start"] == start).expect("a region").clone()
}

/// `Swap:` of smaps in pages.
#[track_caller]
fn swap_of(mapping: &Mapping) -> u64 {
    smaps_pages(tid(), mapping.area(0).start, "Swap")
}

/// Swaps out these pages of `mapping`.
#[track_caller]
fn page_out(mapping: &Mapping, pages: impl IntoIterator<Item = usize>) {
    drain_batches();
    for page in pages {
        assert!(mapping.page_out(page).expect("Linux 5.4"), "page {page} stays");
    }
}

#[test]
fn swapped_shared_memory_is_counted() {
    require!(root);
    let _swap = made!(Swap::on(16 << 20));
    let mapping = Mapping::shared(64).expect("room");
    mapping.write_all();
    page_out(&mapping, 0..24);

    let region = region_of(&mapping);

    assert_eq!(swap_of(&mapping), 24);
    expect_sums(&region, &[("swap_pages", 24), ("swap_shared_pages", 24), ("rss_pages", 40)]);
}

#[test]
fn swapped_shared_memory_is_unknown_and_not_0_where_pages_are_selected() {
    require!(root);
    let _swap = made!(Swap::on(16 << 20));
    let mapping = Mapping::shared(64).expect("room");
    mapping.write_all();
    page_out(&mapping, 0..24);
    let only = only(&mapping);
    let printed = |how: &str| {
        let args: Vec<_> = only.iter().map(String::as_str).chain([how]).collect();
        memtrace!().snapshot(&args).finish().expect_code(0).stdout
    };

    let (text, table) = (printed("--rollup"), printed("--csv"));

    assert_eq!(swap_of(&mapping), 24);
    assert!(text.lines().any(|line| line.split_whitespace().eq(["Swap:", "-", "kB"])), "{text}");
    let rows: Result<Vec<BTreeMap<String, String>>, _> =
        csv::Reader::from_reader(table.as_bytes()).into_deserialize().collect();
    let start = format!("{:#x}", mapping.area(0).start);
    let rows = rows.expect("RFC 4180");
    let row = rows.iter().find(|row| row["start_addr"] == start).expect("a region");
    assert_eq!([&row["rss_pages"], &row["swapped_pages"]], ["40", ""]);
}

#[test]
fn shared_memory_in_the_swap_cache_is_counted_as_swapped() {
    require!(root);
    require!(@ (!has_cachestat()).then(|| "needs Linux 6.5 (cachestat)".to_owned()));
    let _swap = made!(Swap::on(16 << 20));
    let mapping = Mapping::shared(64).expect("room");
    mapping.write_all();
    page_out(&mapping, 0..24);
    // They are read into the swap cache, and stay there until they are touched (`shmem_swapin_range` of `mm/madvise.c`).
    mapping.advise_part(8..20, Advice::WillNeed).expect("it is mapped");
    assert_eq!(mapping.resident().expect("it is mapped")[8..20], [true; 12]);

    let region = region_of(&mapping);

    assert_eq!(swap_of(&mapping), 24);
    expect_sums(&region, &[("swap_pages", 24), ("swap_shared_pages", 24), ("rss_pages", 40)]);
}

#[test]
fn private_mapping_counts_what_it_has_no_copy_of() {
    require!(root);
    let _swap = made!(Swap::on(16 << 20));
    let tmpfs = made!(Mounted::new("tmpfs", "").map_err(|error| format!("needs tmpfs: {error}")));
    let file = File::options().read(true).write(true).create_new(true).open(tmpfs.path().join("data"));
    let file = file.expect("it is empty");
    file.set_len(64 * page_bytes() as u64).expect("holes take no room");
    let shared = Mapping::of_file(&file, 64, Sharing::Shared).expect("room");
    let private = Mapping::of_file(&file, 64, Sharing::Private).expect("room");
    shared.write_all();
    (0..16).for_each(|page| private.write(page));
    page_out(&private, 0..4);
    page_out(&shared, 8..32);

    let (of_shared, of_private) = (region_of(&shared), region_of(&private));

    // Four copies, and 16 to 31; of 8 to 15 it has copies in memory.
    assert_eq!((swap_of(&shared), swap_of(&private)), (24, 20));
    expect_sums(&of_shared, &[("swap_pages", 24), ("swap_shared_pages", 24), ("rss_pages", 40)]);
    expect_sums(&of_private, &[("swap_pages", 20), ("swap_shared_pages", 16), ("rss_pages", 12)]);
}

#[test]
fn hugetlb_is_apart_without_frame_numbers_too() {
    require!(root);
    require!(program "setpriv" of "util-linux");
    let _turn = turn();
    let _pool = made!(HugePages::add(2));
    let mapping = Mapping::hugetlb(2).expect("they are in the pool");
    mapping.write_all();

    let pid = std::process::id().to_string();
    let run = memtrace!().without_frame_numbers().snapshot(&["-p", &pid, "--json"]).finish().expect_code(0);

    let start = mapping.area(0).start;
    let region = region_at(&serde_json::from_str(&run.stdout).expect("JSON"), start);
    let huge = smaps_pages(tid(), start, "Private_Hugetlb");
    assert_eq!(usize::try_from(huge), Ok(mapping.pages()));
    expect_sums(&region, &[("hugetlb_pages", mapping.pages()), ("rss_pages", 0), ("uss_pages", 0)]);
}

/// A process whose leader has ended, with memory of 50 written pages; its other thread waits.
fn without_leader() -> (Running, Area) {
    let mut process = Run::new(program!("exiting")).args(["leader", "50"]).with_stdin().start();
    let area = serde_json::from_str(&process.first_line()).expect("a ledger");
    (process, area)
}

#[test]
fn process_whose_leader_has_ended_is_seen_by_another_thread() {
    require!(root);
    let (process, area) = without_leader();

    let json = memtrace!().census(&["-p", &process.pid().to_string()]);

    let region = region_at(&json, area.start);
    expect_sums(&region, &[("rss_pages", 50), ("anon_pages", 50), ("swap_pages", 0)]);
    assert_eq!(smaps_pages(area.tid, area.start, "Rss"), 50);
}

#[test]
fn recording_of_a_process_whose_leader_has_ended_has_its_pages() {
    require!(root);
    require!(bpf);
    let (process, area) = without_leader();
    let pid = process.pid().to_string();

    let recording = memtrace!().record(&["-p", &pid, "--duration", "1s"], &[]).expect_code(0);

    let report = recording.report();
    let resident = report.processes()[0].pages.as_ref().expect("it was scanned").present;
    assert!(resident >= 50, "{resident} of 50 and more, {area:?}");
}
