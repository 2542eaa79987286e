//! `memtrace snapshot` of memory whose every page a ledger knows: what is counted, and as what.

use std::io::Write as _;

use memtrace::pagemap::PageFlags;
use memtrace_tests::{
    census::expect_sums,
    made,
    memory::{Mapping, Sharing, drain_batches, page_bytes},
    memtrace, require,
    requirement::{self, since},
    scan::{has_scan, scan},
    setting::{HugePages, transparent_huge_pages},
    swap::Swap,
    turn,
};
use serde_json::{Value, json};

/// Base pages in a huge page of 2 MiB.
fn pages_per_huge() -> usize {
    (2 << 20) / page_bytes()
}

#[test]
fn written_pages_are_anonymous_and_read_ones_are_of_zeros() {
    require!(root);
    let _turn = turn();
    let mapping = Mapping::anonymous(64).expect("room");
    (0..40).for_each(|page| mapping.write(page));
    (40..48).for_each(|page| mapping.read(page));

    let json = memtrace!().census_of(&mapping, &[]);

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

    let json = memtrace!().census(&["-p", &std::process::id().to_string()]);

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

    let copied = memtrace!().census_of(&private, &[]);
    let written = memtrace!().census_of(&shared, &[]);

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

    let json = memtrace!().census_of(&mapping, &[]);

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
    if !scan(&mapping).iter().all(|page| page.has(PageFlags::THP)) {
        return requirement::skip("needs 2 MiB of memory in one piece");
    }

    let json = memtrace!().census_of(&mapping, &["--cont", "64K"]);

    let each = pages_per_huge();
    expect_sums(&json, &[("rss_pages", each), ("anon_pages", each), ("uss_pages", each)]);
    // Words of pagemap do not tell of it.
    let known = if since("6.7") { json!(each) } else { Value::Null };
    assert_eq!(json["huge_pages"], known, "{json:#}");
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

    let json = memtrace!().census_of(&mapping, &[]);

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
        let json = memtrace!().census_of(&mapping, &["--where", condition]);
        expect_sums(&json, &[("swap_pages", swapped), ("present_pages", present)]);
    }
}
