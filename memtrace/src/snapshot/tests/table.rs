//! The table of flags, byte for byte as `show_summary` of page-types prints it.

use super::*;

/// Clear flags, as many letters as page-types has names before and after some that are set.
fn letters(before: usize, set: &str, after: usize) -> String {
    format!("{}{set}{}", "_".repeat(before), "_".repeat(after))
}

fn counted(runs: &[(EntryRun, Frame)], is_raw: bool) -> String {
    table(&tally(runs), is_raw, FlagsEra::V6_12, page_size())
}

#[test]
fn table_of_nothing_is_a_header_and_a_total() {
    assert_eq!(
        table(&Tally::default(), false, FlagsEra::V6_12, page_size()),
        "             flags\tpage-count       MB  symbolic-flags\t\t\tlong-symbolic-flags\n\
         \x20            total\t         0        0\n"
    );
}

#[test]
fn rows_are_those_of_page_types() {
    // 1000 pages of 4 KiB are 3 whole MiB.
    let runs = [
        (entries(0x1000, 1000, PRESENT | EXCLUSIVE | 0x8000), frame(ANON, 1)),
        (entries(0x2000, 1, SWAPPED | 0x50 << 5), Frame::default()),
    ];

    assert_eq!(
        counted(&runs, false),
        format!(
            "             flags\tpage-count       MB  symbolic-flags\t\t\tlong-symbolic-flags\n\
             0x0000000000000000\t         1        0  {}\t\n\
             0x0000000000001800\t      1000        3  {}\tmmap,anonymous\n\
             \x20            total\t      1001        3\n",
            letters(0, "", 43),
            letters(11, "Ma", 30),
        )
    );
}

#[test]
fn raw_flags_have_those_of_pagemap_and_tell_two_meanings_apart() {
    let exclusive = ANON | PageFlags::OWNER_2;
    let runs = [
        (entries(0x1000, 2, PRESENT | EXCLUSIVE | SOFT_DIRTY | 0x8000), frame(exclusive, 1)),
        (entries(0x2000, 1, SWAPPED | 0x50 << 5), Frame::default()),
    ];

    let table = counted(&runs, true);

    // Bits 11, 12, 40, 47 and 63; bit 62.
    let rows: Vec<_> =
        table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!(rows[0][0], "0x4000000000000000");
    assert_eq!(rows[0][4], "swap");
    assert_eq!(rows[1][0], "0x8000810000001800");
    assert_eq!(rows[1][4], "mmap,anonymous,softdirty,anon_exclusive,mmap_exclusive");
    assert_eq!(rows[2], ["total", "3", "0"]);
}

#[test]
fn words_that_look_alike_are_one_row() {
    // Reserved is for developers of the kernel, and only hugetlb shows what is compound.
    let runs = [
        (entries(0x1000, 1, PRESENT | 0x8000), frame(ANON | PageFlags::COMPOUND_HEAD, 1)),
        (entries(0x1001, 3, PRESENT | 0x8001), frame(ANON | PageFlags::COMPOUND_TAIL, 1)),
        (entries(0x1004, 5, PRESENT | EXCLUSIVE | 0x8004), frame(ANON | PageFlags::MLOCKED, 1)),
    ];

    let rows = |is_raw| counted(&runs, is_raw).lines().count() - 2;

    assert_eq!(rows(false), 1);
    assert_eq!(rows(true), 3);
}

#[test]
fn description_is_the_line_of_page_types() {
    // page-types -d locked,mmap
    let flags = PageFlags::LOCKED | PageFlags::MMAP;

    assert_eq!(
        describe(flags, FlagsEra::V6_12),
        format!("0x0000000000000801\tL{}\tlocked,mmap\n", letters(10, "M", 31))
    );
}

#[test]
fn flags_that_no_build_knows_are_in_the_number_alone() {
    let flags = PageFlags::from_bits_retain(1 << 31 | 1);

    assert_eq!(
        describe(flags, FlagsEra::V6_12),
        format!("0x0000000080000001\tL{}\tlocked\n", letters(0, "", 42))
    );
}
