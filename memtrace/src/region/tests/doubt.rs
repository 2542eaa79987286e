//! Facts about what is known of regions while records may be missing.

use super::facts::{PAGE, Space, addr, anon, at, file, mmap, mremap, munmap, range};
use crate::{
    event::MapRequest,
    region::{AddressSpace, Comparison, RegionIds},
    units::PageSize,
};

/// A space that was there before it was traced, which is from 5 ns on.
fn attached() -> Space {
    let page = PageSize::from_bytes(PAGE).expect("a power of two");
    Space { space: AddressSpace::new(page, at(5), true), ids: RegionIds::default() }
}

#[test]
fn unmapping_of_unknown_memory_is_not_undone_by_a_reading_that_began_before() {
    let mut space = attached();
    space.call(20, munmap(18, 2), Ok(0));

    assert_eq!(space.compare(20, vec![anon(16, 4)]), Comparison::Resynchronised);

    assert_eq!((space.id_at(18), space.id_at(16).is_some()), (None, true));
    assert!(!space.space.is_doubtful(), "the call said all of these pages");
}

#[test]
fn change_of_unknown_memory_during_a_reading_is_known_by_the_next() {
    let mut space = attached();
    // Moved from where no region is known yet.
    space.compare(10, vec![anon(16, 4)]);
    space.space.doubt(at(11));
    space.call(20, mremap(16, 4, 40), Ok(40 * PAGE));
    assert_eq!(space.compare(20, vec![anon(16, 4), anon(32, 4)]), Comparison::Resynchronised);
    assert!(space.space.is_doubtful());

    // There it differs from what the event made of it; elsewhere that would contradict.
    let seen = vec![anon(32, 4), file(40, 4, 0)];
    assert_eq!(space.compare(30, seen.clone()), Comparison::Conclusive(Vec::new()));

    assert!(!space.space.is_doubtful());
    assert_eq!(space.compare(40, seen), Comparison::Conclusive(Vec::new()));
}

#[test]
fn difference_outside_of_what_is_unknown_contradicts() {
    let mut space = attached();
    space.compare(10, vec![anon(16, 4)]);
    space.space.doubt(at(11));
    space.call(20, mremap(16, 4, 40), Ok(40 * PAGE));
    space.compare(20, vec![anon(32, 4)]);
    assert!(space.space.is_doubtful());

    let comparison = space.compare(30, vec![anon(32, 2), anon(40, 4)]);

    let Comparison::Conclusive(contradictions) = comparison else { panic!("{comparison:?}") };
    assert_eq!(contradictions.iter().map(|found| found.range).collect::<Vec<_>>(), [range(34, 2)]);
}

#[test]
fn new_mapping_makes_known_what_was_unknown() {
    let mut space = attached();
    space.compare(10, vec![anon(16, 4)]);
    space.space.doubt(at(11));
    space.call(20, mremap(16, 4, 40), Ok(40 * PAGE));
    space.compare(20, Vec::new());
    assert!(space.space.is_doubtful());

    space.show(30, file(40, 4, 0));
    space.call(30, mmap(40, 4, 0), Ok(40 * PAGE));

    assert!(!space.space.is_doubtful());
}

#[test]
fn heap_that_shrinks_from_nobody_knows_where_leaves_unknown_what_lies_above() {
    let mut space = attached();
    space.call(20, MapRequest::Brk { addr: addr(18) }, Ok(18 * PAGE));

    // The reading saw the heap before it shrank.
    assert_eq!(space.compare(20, vec![anon(16, 4)]), Comparison::Resynchronised);

    assert!(space.space.is_doubtful());
    assert_eq!(space.compare(30, vec![anon(16, 2)]), Comparison::Conclusive(Vec::new()));
    assert!(!space.space.is_doubtful());
}
