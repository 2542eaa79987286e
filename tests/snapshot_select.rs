//! Which pages `memtrace snapshot` selects by condition, flag and bit, of memory whose every page a ledger knows.

use std::fs;

use memtrace_tests::{
    census::only,
    made,
    memory::Mapping,
    memtrace, require,
    requirement::{self, since},
    run::Finished,
    scan::{SOFT_DIRTY, first_page, has_scan, own_pagemap, word},
    turn,
    uffd::{Mode, Uffd},
};
use serde_json::Value;

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
        let json = memtrace!().census_of(&anon, &["--where", condition]);
        assert_eq!(json["present_pages"], of_anon, "{condition}");
        let json = memtrace!().census_of(&shared, &["--where", condition]);
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

    assert_eq!(found(&memtrace!().census_of(&mapping, &[])), (Some(5), Some(3)));
    if since("6.16") {
        assert_eq!(found(&memtrace!().census_of(&mapping, &["--where", "guard"])), (Some(0), Some(3)));
        assert_eq!(found(&memtrace!().census_of(&mapping, &["--where", "!guard"])), (Some(5), None));
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

    let dirty = memtrace!().census_of(&mapping, &["--where", "soft-dirty"]);
    let clean = memtrace!().census_of(&mapping, &["--where", "!soft-dirty"]);

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

    let written = memtrace!().census_of(&mapping, &["--where", "written"]);
    let unwritten = memtrace!().census_of(&mapping, &["--where", "present & !written"]);

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
        let json = memtrace!().census_of(&mapping, &filter);
        assert_eq!(json["present_pages"], pages, "{filter:?}");
    }
    let both = memtrace!().census_of(&mapping, &["-b", "anonymous", "-b", "zero_page"]);
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
        memtrace!().snapshot(&args.iter().map(String::as_str).collect::<Vec<_>>())
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
