//! Bytes that calls map and unmap, and mappings that go as they came.

use std::collections::BTreeMap;

use super::*;
use crate::event::flags::{MREMAP_DONTUNMAP, MREMAP_FIXED};

/// `mmap` of anonymous memory, and the VMA that the kernel reports of it.
fn anonymous(millis: u64, place: (u64, u64)) -> [Record; 2] {
    [shown(millis, anon(place)), mmap(millis, place)]
}

fn fixed(millis: u64, (start, end): (u64, u64)) -> [Record; 2] {
    let request = MapRequest::Mmap {
        addr: addr(start),
        length: end - start,
        prot: 3,
        flags: 0x22 | MAP_FIXED,
        offset: 0,
    };
    [shown(millis, anon((start, end))), call(millis, request, Ok(start))]
}

fn mremap(millis: u64, (start, end): (u64, u64), to: (u64, u64), flags: u64) -> Record {
    let request = MapRequest::Mremap {
        old_addr: addr(start),
        old_size: end - start,
        new_size: to.1 - to.0,
        flags,
        new_addr: addr(to.0),
    };
    call(millis, request, Ok(to.0))
}

/// What the process is said to have mapped, after it was known to have 0x1000..0x9000.
fn mapping_of(calls: Vec<Record>) -> MappingProcess {
    let records = [vec![join(1), maps(2, SPACE, &[(0x1000, 0x9000)])], calls];
    let (_, summary) = run_all(&records.concat());
    summary.maps.processes[&process(TGID, 1)]
}

fn exactly(calls: u64, mapped: u64, unmapped: u64) -> MappingProcess {
    MappingProcess { calls, mapped, unmapped, lower_bound: false }
}

#[test]
fn mappings_that_come_and_go_are_churn() {
    let (twelve, four) = ((0x2_0000, 0x2_3000), (0x3_0000, 0x3_1000));
    let records = [
        vec![join(1), maps(2, SPACE, &[(0x1000, 0x9000)])],
        anonymous(10, twelve).into(),
        vec![munmap(14, twelve)],
        anonymous(20, twelve).into(),
        vec![munmap(26, twelve)],
        // It stays.
        anonymous(30, four).into(),
        // Only a part of what came goes.
        anonymous(40, twelve).into(),
        vec![munmap(41, (0x2_0000, 0x2_1000)), munmap(42, (0x2_1000, 0x2_3000))],
    ];

    let (_, summary) = run_all(&records.concat());

    let churn = Churn {
        count: 2,
        lifetime_sum: Nanos::new(10 * MS),
        shortest: Nanos::new(4 * MS),
        longest: Nanos::new(6 * MS),
    };
    assert_eq!(summary.maps.churn, [((process(TGID, 1), 0x3000), churn)].into());
    // Three times 12 KiB and once 4 KiB; three times 12 KiB.
    assert_eq!(summary.maps.processes, [(process(TGID, 1), exactly(8, 0xa000, 0x9000))].into());
}

#[test]
fn munmap_of_several_mappings_is_churn_of_each_that_goes_whole() {
    let records = [
        vec![join(1), maps(2, SPACE, &[(0x1000, 0x9000)])],
        anonymous(10, (0x2_0000, 0x2_1000)).into(),
        anonymous(10, (0x3_0000, 0x3_2000)).into(),
        anonymous(10, (0x4_0000, 0x4_2000)).into(),
        // Of the last one a page stays.
        vec![munmap(20, (0x1_0000, 0x4_1000)), munmap(30, (0x4_1000, 0x4_2000))],
    ];

    let (_, summary) = run_all(&records.concat());

    let counts: Vec<_> = summary.maps.churn.iter().map(|((_, bytes), churn)| (*bytes, churn.count)).collect();
    assert_eq!(counts, [(0x1000, 1), (0x2000, 1)]);
}

#[test]
fn mapping_that_was_replaced_or_moved_is_no_churn() {
    let (place, elsewhere) = ((0x2_0000, 0x2_2000), (0x5_0000, 0x5_2000));
    let records = [
        vec![join(1), maps(2, SPACE, &[(0x1000, 0x9000)])],
        anonymous(10, place).into(),
        // A page of it is replaced, and what is left of it goes with that.
        fixed(20, (0x2_0000, 0x2_1000)).into(),
        vec![munmap(30, (0x2_1000, 0x2_2000))],
        anonymous(40, elsewhere).into(),
        vec![mremap(50, elsewhere, (0x6_0000, 0x6_2000), MREMAP_FIXED), munmap(60, elsewhere)],
    ];

    let (_, summary) = run_all(&records.concat());

    assert_eq!(summary.maps.churn, BTreeMap::new());
}

#[test]
fn munmap_unmaps_what_is_mapped_there_and_not_what_is_asked_for() {
    let terabyte = (0x1_0000, 0x1_0000 + (1 << 40));
    let calls = [&anonymous(10, (0x2_0000, 0x2_4000))[..], &[munmap(20, terabyte), munmap(30, terabyte)]];

    assert_eq!(mapping_of(calls.concat()), exactly(3, 0x4000, 0x4000));
}

#[test]
fn what_a_fixed_mapping_replaces_is_unmapped() {
    // The second one lies half on the region that was there before, and the third replaces its part of that.
    let calls =
        [fixed(10, (0x2_0000, 0x2_4000)), fixed(20, (0x2_2000, 0x2_6000)), fixed(30, (0x8000, 0xa000))];

    assert_eq!(mapping_of(calls.concat()), exactly(3, 0xa000, 0x2000 + 0x1000));
}

#[test]
fn what_mremap_moves_is_neither_mapped_nor_unmapped() {
    let (from, to) = ((0x2_0000, 0x2_4000), (0x5_0000, 0x5_4000));
    let mapped = |calls: &[Record]| mapping_of([&anonymous(10, from), calls].concat());

    let moved = mapped(&[mremap(20, from, to, MREMAP_FIXED)]);
    assert_eq!(moved, exactly(2, 0x4000, 0));
    // It grows by two pages on the way.
    let grown = mapped(&[mremap(20, from, (0x5_0000, 0x5_6000), MREMAP_FIXED)]);
    assert_eq!(grown, exactly(2, 0x6000, 0));
    // It shrinks by one.
    let shrunk = mapped(&[mremap(20, from, (0x5_0000, 0x5_3000), MREMAP_FIXED)]);
    assert_eq!(shrunk, exactly(2, 0x4000, 0x1000));
    // Three pages of what was known before have to go.
    let replacing = mapped(&[mremap(20, from, (0x6000, 0xa000), MREMAP_FIXED)]);
    assert_eq!(replacing, exactly(2, 0x4000, 0x3000));
    // The old addresses stay mapped.
    let doubled = mapped(&[mremap(20, from, to, MREMAP_FIXED | MREMAP_DONTUNMAP)]);
    assert_eq!(doubled, exactly(2, 0x8000, 0));
    // In place, by a page less.
    let less = mapped(&[mremap(20, from, (0x2_0000, 0x2_3000), 0)]);
    assert_eq!(less, exactly(2, 0x4000, 0x1000));
}

#[test]
fn growth_of_the_heap_counts_as_mapped() {
    let brk = |millis, end| call(millis, MapRequest::Brk { addr: addr(0) }, Ok(end));
    let heap = |millis, end| shown(millis, anon((0x2_0000, end)));
    let calls = vec![
        brk(10, 0x2_0000),
        heap(20, 0x2_4000),
        brk(20, 0x2_4000),
        // The kernel counts by pages.
        brk(30, 0x2_2800),
        heap(40, 0x2_4000),
        brk(40, 0x2_3800),
    ];

    assert_eq!(mapping_of(calls), exactly(4, 0x5000, 0x1000));
}

#[test]
fn what_no_call_mapped_is_not_counted() {
    let grown = Vma { name: b"[stack]".to_vec(), ..anon((0x6_0000, 0x7_8000)) };
    let protect = MapRequest::Mprotect { addr: addr(0x6_0000), length: 0x1000, prot: 1, pkey: None };
    let records = [vec![join(1)], exec(), vec![shown(20, grown), call(30, protect, Ok(0))]];

    let (_, summary) = run_all(&records.concat());

    assert_eq!(summary.maps.processes[&process(TGID, 1)], exactly(1, 0, 0));
}

#[test]
fn what_calls_do_to_unknown_regions_is_a_lower_bound() {
    let advice = MapRequest::Madvise { addr: addr(0x2_0000), length: 0x4000, advice: 4 };
    let place = (0x2_0000, 0x2_4000);
    // What was mapped at the attachment is known from the reading on.
    let unknown = vec![join(1), call(2, advice.clone(), Ok(0)), munmap(2, place)];
    let known = vec![maps(3, SPACE, &[(0x1000, 0x9000), (0x2_1000, 0x2_2000)]), call(10, advice, Ok(0))];
    let records = [unknown, known, vec![munmap(20, place)]];

    let (_, summary) = run_all(&records.concat());

    let sums = MappingProcess { calls: 4, mapped: 0, unmapped: 0x1000, lower_bound: true };
    assert_eq!(summary.maps.processes[&process(TGID, 1)], sums);
    let advised = Advised { calls: 2, bytes: 0x1000, lower_bound: true };
    assert_eq!(summary.maps.advice, [((process(TGID, 1), 4), advised)].into());
}

#[test]
fn what_a_reading_corrects_is_not_counted() {
    let place = (0x2_0000, 0x2_4000);
    let calls = [&anonymous(10, place)[..], &[maps(20, SPACE, &[(0x1000, 0x3000)]), munmap(30, place)]];

    assert_eq!(mapping_of(calls.concat()), exactly(2, 0x4000, 0));
}
