//! Entries where no page is.

use super::*;

/// The word of a slot of a swap area, or of another entry of this type: `include/linux/swap.h`.
const fn slot(kind: u64, offset: u64) -> u64 {
    SWAPPED | offset << 5 | kind
}

fn uses(tally: &Tally) -> Vec<(u8, SwapUse)> {
    tally.swap.iter().map(|(area, used)| (*area, *used)).collect()
}

const fn used(pages: u64, stretches: u64, first: u64, last: u64) -> SwapUse {
    SwapUse { pages: PageCount::new(pages), stretches, first, last }
}

#[test]
fn swapped_pages_are_counted_by_area_with_their_slots() {
    let runs = [run(0x10, 4, slot(0, 100)), run(0x20, 1, slot(1, 7)), run(0x30, 2, slot(0, 50))];

    let tally = tally(&runs);

    assert_eq!(tally.swapped, PageCount::new(7));
    assert_eq!(uses(&tally), [(0, used(6, 2, 50, 103)), (1, used(1, 1, 7, 7))]);
    assert_eq!((tally.present, tally.resident), (PageCount::new(0), PageCount::new(0)));
}

#[test]
fn slots_go_on_over_runs_if_their_pages_do() {
    let runs = [
        run(0x10, 4, slot(0, 100)),
        run(0x14, 2, SOFT_DIRTY | slot(0, 104)),
        // Neither the next page, nor the next slot, nor the same area.
        run(0x17, 1, slot(0, 106)),
        run(0x18, 1, slot(0, 108)),
        run(0x19, 1, slot(1, 109)),
    ];

    assert_eq!(uses(&tally(&runs)), [(0, used(8, 3, 100, 108)), (1, used(1, 1, 109, 109))]);
}

#[test]
fn swap_without_rights_has_no_slots() {
    let tally = tally(&[run(0x10, 4, SWAPPED)]);

    assert_eq!(tally.swapped, PageCount::new(4));
    assert_eq!(uses(&tally), []);
}

#[test]
fn shared_memory_in_swap_is_in_no_page_table() {
    let mut tally = tally(&[run(0x10, 4, slot(0, 100))]);

    tally.swapped_shared = PageCount::new(3);

    assert_eq!(tally.swapped, PageCount::new(4));
    assert_eq!(tally.all_swapped(), PageCount::new(7));
}

#[test]
fn entries_that_are_no_swap_are_apart() {
    let runs = [
        run(0x10, 2, slot(23, 0x1000)),
        run(0x20, 3, slot(24, 0x1000)),
        run(0x30, 5, slot(26, 0x1000)),
        run(0x40, 7, slot(27, 0x1000)),
        run(0x50, 11, slot(31, 1)),
    ];

    let tally = tally(&runs);

    assert_eq!(pages(&tally.others), [("device", 7), ("hwpoison", 2), ("marker", 11), ("migration", 8)]);
    assert_eq!(tally.all_swapped(), PageCount::new(0));
    assert_eq!(uses(&tally), []);
    assert_eq!(tally.resident, PageCount::new(0));
}

#[test]
fn type_that_may_be_of_an_area_or_not_is_unknown() {
    let mut rules = rules();
    rules.era.swap = None;

    // With as many other types as there ever were, areas are 0 to 21.
    let tally = tally_by(&rules, &[run(0x10, 2, slot(21, 9)), run(0x20, 3, slot(22, 9))]);

    assert_eq!(tally.swapped, PageCount::new(2));
    assert_eq!(pages(&tally.others), [("unknown", 3)]);
}

#[test]
fn entries_have_no_flags_but_those_of_their_words() {
    // Bit 57 is of userfaultfd: page-types does not show it.
    let runs = [run(0x10, 4, SOFT_DIRTY | 1 << 57 | slot(0, 100)), run(0x20, 1, slot(31, 1))];

    let none = PageFlags::empty();
    assert_eq!(
        pages(&tally(&runs).flags),
        [((none, EntryFlags::SWAPPED), 1), ((none, EntryFlags::SWAPPED | EntryFlags::SOFT_DIRTY), 4)]
    );
}
