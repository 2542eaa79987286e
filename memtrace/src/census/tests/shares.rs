//! PSS and USS, as `smaps_account` and `smaps_page_accumulate` of `fs/proc/task_mmu.c` reckon them.

use super::*;

/// A run of anonymous pages that are each mapped so often.
fn shared(pages: u64, mapcount: u64) -> PageRun {
    mapped(mapcount, flagged(0x1000, pages, PRESENT | 0x8000, ANON))
}

#[test]
fn pages_of_two_count_half() {
    // The kernel's own example: 1000 pages to itself and 1000 shared with another process.
    let tally = tally(&[shared(1000, 1), shared(1000, 2)]);

    assert_eq!(tally.proportional.bytes(), 1500 * 4096);
}

#[test]
fn share_of_each_page_is_cut_to_a_4096th_of_a_byte() {
    // 4096 * 4096 / 3 is 5,592,405 and a third; three of these are 1 short of 4096 bytes.
    let tally = tally(&[shared(3, 3)]);

    assert_eq!(tally.proportional.fixed, 16_777_215);
    assert_eq!(tally.proportional.bytes(), 4095);
}

#[test]
fn shares_are_summed_before_they_are_cut_to_bytes() {
    // 682 bytes and two thirds.
    let one = tally(&[shared(1, 6)]);
    let mut two = one.clone();

    two.merge(&one);

    assert_eq!(one.proportional.bytes(), 682);
    assert_eq!(two.proportional.bytes(), 1365);
}

#[test]
fn page_that_nobody_maps_any_more_counts_in_full() {
    let tally = tally(&[shared(1, 0)]);

    assert_eq!(tally.proportional.bytes(), 4096);
    assert_eq!(tally.unique, PageCount::new(1));
}

#[test]
fn pages_that_are_not_resident_have_no_share() {
    let zero = mapped(40, flagged(0x10, 1, PRESENT | 0x1000, PageFlags::ZERO_PAGE));
    let hugetlb = mapped(1, flagged(0x200, 512, PRESENT | FILE | 0x2000, PageFlags::HUGE));

    let tally = tally(&[zero, hugetlb]);

    assert_eq!(tally.proportional.bytes(), 0);
    assert_eq!(tally.unique, PageCount::new(0));
}

#[test]
fn pages_that_are_mapped_once_are_unique_whatever_their_word_says() {
    let exclusive = |mapcount| mapped(mapcount, flagged(0x10, 1, PRESENT | EXCLUSIVE | 0x1000, ANON));
    let plain = |mapcount| mapped(mapcount, flagged(0x10, 1, PRESENT | 0x1000, ANON));

    assert_eq!(tally(&[exclusive(1)]).unique, PageCount::new(1));
    assert_eq!(tally(&[plain(1)]).unique, PageCount::new(1));
    assert_eq!(tally(&[exclusive(2)]).unique, PageCount::new(0));
    assert_eq!(tally(&[plain(2)]).unique, PageCount::new(0));
}

#[test]
fn without_mapcounts_bit_56_tells_what_is_unique() {
    let tally = tally(&[run(0x10, 5, PRESENT | EXCLUSIVE), run(0x15, 3, PRESENT | FILE)]);

    assert_eq!(tally.resident, PageCount::new(8));
    assert_eq!(tally.unique, PageCount::new(5));
}

#[test]
fn pages_of_64_kib_have_shares_of_their_size() {
    let mut rules = rules();
    rules.page = PageSize::from_bytes(65536).expect("a power of two");

    let tally = tally_by(&rules, &[shared(2, 4)]);

    assert_eq!(tally.proportional.bytes(), 32768);
}
