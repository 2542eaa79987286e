//! Sums of sums.

use proptest::prelude::*;

use super::{
    model::{pages_of_all_kinds, runs},
    *,
};

/// All that is counted, in a form that can be compared.
fn sums(tally: &Tally) -> impl PartialEq + std::fmt::Debug + use<> {
    let Tally {
        present,
        resident,
        anon,
        unique,
        proportional,
        swapped,
        swapped_shared,
        is_swap_unknown,
        zero,
        hugetlb,
        huge,
        others,
        flags,
        mapcounts,
        cgroups,
        nodes,
        swap,
        contiguous,
        folios,
        is_of_hugetlb: _,
        stretch: _,
        slots: _,
    } = tally;
    let numbers = [present, resident, anon, unique, swapped, swapped_shared, zero, hugetlb, huge]
        .map(|pages| pages.get());
    (
        (numbers, *is_swap_unknown, *proportional, swap.clone(), folios.uses.clone(), folios.blocks.clone()),
        (pages(others), pages(flags), pages(mapcounts), pages(cgroups), pages(nodes), pages(contiguous)),
    )
}

/// A tally in which each sum is another number: 1, 2, 4 and so on, times `unit`.
fn distinct(unit: u64) -> Tally {
    let count = |power: u32| PageCount::new(unit << power);
    let mut tally = Tally {
        present: count(0),
        resident: count(1),
        anon: count(2),
        unique: count(3),
        proportional: Share { fixed: unit << 4 },
        swapped: count(5),
        swapped_shared: count(6),
        zero: count(7),
        hugetlb: count(8),
        huge: count(9),
        ..Tally::default()
    };
    tally.others.add("marker", count(10));
    tally.flags.add((ANON, EntryFlags::empty()), count(11));
    tally.mapcounts.add(3, count(12));
    tally.cgroups.add(700, count(13));
    tally.nodes.add(1, count(14));
    tally.contiguous.add(2, count(15));
    let used = SwapUse { pages: count(16), stretches: unit, first: 100 / unit, last: 100 * unit };
    tally.swap.insert(0, used);
    let folios = FolioUse { aligned: count(17), unaligned: count(18), partial: count(19), by_pmd: count(20) };
    tally.folios.uses.insert((Content::Anon, Some(4)), folios);
    let blocks = Blocks { by_pte: count(21), by_pmd: count(22) };
    tally.folios.blocks.insert((Content::File, 2), blocks);
    tally
}

#[test]
fn each_sum_is_added_to_its_own() {
    let mut merged = distinct(1);

    merged.merge(&distinct(2));

    let mut three = distinct(3);
    // Slots are no sum: the lowest and the highest of 100 to 100 and of 50 to 200.
    three.swap.insert(0, SwapUse { first: 50, last: 200, ..three.swap[&0] });
    assert_eq!(sums(&merged), sums(&three));
}

#[test]
fn what_only_one_has_is_kept() {
    let mut merged = Tally::default();

    merged.merge(&distinct(1));
    merged.merge(&Tally::default());

    assert_eq!(sums(&merged), sums(&distinct(1)));
}

proptest! {
    #[test]
    fn merged_tallies_are_one_tally_of_all(one in pages_of_all_kinds(), other in pages_of_all_kinds()) {
        // Nothing goes on over a gap between the pages.
        let (one, other) = (runs(0x1000, &one), runs(0x9000, &other));

        let mut merged = tally(&one);
        merged.merge(&tally(&other));

        prop_assert_eq!(sums(&merged), sums(&tally(&[one, other].concat())));
    }
}
