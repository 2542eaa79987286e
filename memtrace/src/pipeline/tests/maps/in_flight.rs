//! Readings that show what a call has done which has not returned, where only returns are seen.

use super::*;

/// What is said of the maps of `records`, where changes are in the order in which calls return.
fn identity(records: &[Record]) -> MapIdentity {
    let options = Options { wants: RowSet::all(), sees_effects: false, ..options(Detail::Full) };
    run_with(options, records).2.maps.identity
}

/// A process with one region, which is compared once and has lost its last page by then.
fn shrunk() -> [Record; 3] {
    [join(1), maps(2, SPACE, &[(0x1000, 0x4000)]), maps(50, SPACE, &[(0x1000, 0x3000)])]
}

/// What was read is right, or not, or neither can be said.
fn compared(contradictions: u64, inconclusive: u64) -> MapIdentity {
    let checks = 1 - inconclusive;
    MapIdentity { checks, contradictions, inconclusive, resyncs: 1, unverified: None }
}

#[test]
fn call_that_returns_after_the_reading_explains_it() {
    for returns in [51, 900] {
        let end = [munmap(returns, (0x3000, 0x4000)), tick(3_000)];
        assert_eq!(identity(&[&shrunk()[..], &end].concat()), compared(0, 0), "{returns} ms");
    }
}

#[test]
fn change_that_no_call_explains_within_a_second_contradicts() {
    assert_eq!(identity(&[&shrunk()[..], &[tick(3_000)]].concat()), compared(1, 0));
    let end = [munmap(1_051, (0x3000, 0x4000)), tick(3_000)];
    assert_eq!(identity(&[&shrunk()[..], &end].concat()), compared(1, 0));
}

#[test]
fn reading_is_compared_before_its_process_ends() {
    assert_eq!(identity(&[&shrunk()[..], &[exit(60), tick(3_000)]].concat()), compared(1, 0));
}

#[test]
fn reading_at_the_end_of_a_recording_proves_what_is_right_alone() {
    assert_eq!(identity(&shrunk()), compared(0, 1));
    let [join, first, _] = shrunk();
    assert_eq!(identity(&[join, first.clone(), first]), compared(0, 0));
}
