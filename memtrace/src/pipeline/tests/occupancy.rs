//! Ledgers of pages, by hand: what regions have that moved, split, merged or were copied since a scan.

use std::slice;

use super::*;
use crate::{
    event::{MapCall, MapRequest, flags::MREMAP_DONTUNMAP},
    timeline::{RegionId, RegionSummary},
};

const PAGE: u64 = 4096;
const MREMAP_MAYMOVE: u64 = 1;

/// Addresses of pages by their numbers.
fn pages((start, end): (u64, u64)) -> (u64, u64) {
    (start * PAGE, end * PAGE)
}

/// A scan of `scanned` that knows all but zero pages, and finds `present`.
fn scan(millis: u64, (tgid, space): (Tgid, SpaceId), scanned: (u64, u64), present: &[(u64, u64)]) -> Record {
    let range = |part| {
        let (start, end) = pages(part);
        super::range(start, end)
    };
    let run = |part: &(u64, u64)| StateRun::new(range(*part), PageCategories::PRESENT);
    let seen = Seen::Pages(PageScan {
        began: at(millis),
        reason: ScanReason::Heat,
        range: range(scanned),
        known: PageCategories::PRESENT | PageCategories::HUGE,
        depth: ScanDepth::Categories,
        runs: present.iter().map(run).collect(),
    });
    Record::Observation(Observation { time: at(millis), tgid, space, seen })
}

const PROCESS: (Tgid, SpaceId) = (TGID, SPACE);
const CHILD: (Tgid, SpaceId) = (Tgid(20), SpaceId(8));

fn call(millis: u64, request: MapRequest, result: u64) -> Record {
    let call = MapCall { request, result: Ok(result), may_have_resized: true, file: None, stack: None };
    map(millis, MapAction::Call { space: SPACE, call })
}

fn munmap(millis: u64, part: (u64, u64)) -> Record {
    let (start, end) = pages(part);
    call(millis, MapRequest::Munmap { addr: VirtAddr::from_raw(start), length: end - start }, 0)
}

/// Maps `part` anew, as memory like that of [`anon`].
fn mmap(millis: u64, part: (u64, u64)) -> [Record; 2] {
    let (start, end) = pages(part);
    let shown = crate::event::ReportedVma { vma: anon((start, end)), kind: None };
    let (addr, length) = (VirtAddr::from_raw(start), end - start);
    let request = MapRequest::Mmap { addr, length, prot: 3, flags: 0x32, offset: 0 };
    [map(millis, MapAction::Shown(shown)), call(millis, request, start)]
}

fn mremap(millis: u64, (old, new): ((u64, u64), (u64, u64)), flags: u64) -> Record {
    let ((old, old_end), (new, new_end)) = (pages(old), pages(new));
    let request = MapRequest::Mremap {
        old_addr: VirtAddr::from_raw(old),
        old_size: old_end - old,
        new_size: new_end - new,
        flags,
        new_addr: VirtAddr::from_raw(new),
    };
    call(millis, request, new)
}

/// Takes the leave to write to `part` away.
fn mprotect(millis: u64, part: (u64, u64)) -> [Record; 2] {
    let (start, end) = pages(part);
    let shown = crate::event::ReportedVma { vma: Vma { perms: *b"r--p", ..anon((start, end)) }, kind: None };
    let request =
        MapRequest::Mprotect { addr: VirtAddr::from_raw(start), length: end - start, prot: 1, pkey: None };
    [map(millis, MapAction::Shown(shown)), call(millis, request, 0)]
}

/// First and last page of a region, most pages present, pages present in the end with the time of their scan, and its parent.
type Line = ((u64, u64), Option<u64>, Option<(u64, u64)>, Option<RegionId>);

fn regions_of(records: &[Record]) -> Vec<RegionSummary> {
    let (rows, ..) = run_with(Options { wants: RowSet::all(), ..options(Detail::Full) }, records);
    rows.into_iter().filter_map(|row| if let Row::Region(row) = row { Some(row) } else { None }).collect()
}

/// What there is to say of each region of a process that has `mapped`, in the order of addresses.
fn ledger(mapped: &[(u64, u64)], records: &[Record]) -> Vec<Line> {
    let mapped: Vec<_> = mapped.iter().copied().map(pages).collect();
    let records = [&[join(1), maps(2, SPACE, &mapped)], records, &[exit(90), tick(600)]].concat();
    let mut regions = regions_of(&records);
    regions.sort_by_key(|region| (region.label.range.start(), region.label.id));
    let line = |region: RegionSummary| {
        let range = region.label.range;
        let (start, end) = (range.start().as_raw() / PAGE, range.end().as_raw() / PAGE);
        let last = region
            .pages
            .map(|pages| (pages.counts.present().map_or(0, PageCount::get), pages.scanned.as_nanos() / MS));
        ((start, end), region.peak_present.map(PageCount::get), last, region.parent)
    };
    regions.into_iter().map(line).collect()
}

const FIRST: Option<RegionId> = Some(RegionId(1));

#[test]
fn pages_move_with_their_region() {
    let records = [
        scan(10, PROCESS, (0x100, 0x110), &[(0x102, 0x106)]),
        mremap(20, ((0x100, 0x110), (0x5001, 0x5011)), MREMAP_MAYMOVE),
    ];

    assert_eq!(ledger(&[(0x100, 0x110)], &records), [((0x5001, 0x5011), Some(4), Some((4, 10)), None)]);
}

#[test]
fn what_is_scanned_after_a_move_is_added_to_what_moved() {
    let records = [
        scan(10, PROCESS, (0x100, 0x110), &[(0x102, 0x106)]),
        mremap(20, ((0x100, 0x110), (0x5000, 0x5018)), MREMAP_MAYMOVE),
        scan(30, PROCESS, (0x5004, 0x5018), &[(0x5010, 0x5018)]),
    ];

    // Two of those that moved, and eight where it grew.
    assert_eq!(ledger(&[(0x100, 0x110)], &records), [((0x5000, 0x5018), Some(10), Some((10, 30)), None)]);
}

#[test]
fn what_moves_out_of_a_region_takes_its_pages_along() {
    let records = [
        scan(10, PROCESS, (0x100, 0x110), &[(0x102, 0x106)]),
        mremap(20, ((0x104, 0x110), (0x5000, 0x500c)), MREMAP_MAYMOVE),
    ];

    let expected =
        [((0x100, 0x104), Some(4), Some((2, 10)), None), ((0x5000, 0x500c), Some(2), Some((2, 10)), FIRST)];
    assert_eq!(ledger(&[(0x100, 0x110)], &records), expected);
}

#[test]
fn place_that_pages_left_is_not_known_to_be_empty() {
    let records = [
        scan(10, PROCESS, (0x100, 0x110), &[(0x102, 0x106)]),
        mremap(20, ((0x100, 0x110), (0x5000, 0x5010)), MREMAP_MAYMOVE | MREMAP_DONTUNMAP),
    ];

    let expected = [((0x100, 0x110), Some(4), None, None), ((0x5000, 0x5010), Some(4), Some((4, 10)), FIRST)];
    assert_eq!(ledger(&[(0x100, 0x110)], &records), expected);
}

#[test]
fn parts_of_a_region_keep_what_was_seen_of_them() {
    let seen = scan(10, PROCESS, (0, 0x200), &[(0x102, 0x10c)]);

    let unmapped = [seen.clone(), munmap(20, (0x106, 0x108))];
    let expected =
        [((0x100, 0x106), Some(10), Some((4, 10)), None), ((0x108, 0x110), Some(4), Some((4, 10)), FIRST)];
    assert_eq!(ledger(&[(0x100, 0x110)], &unmapped), expected);

    let protected = [&[seen][..], &mprotect(20, (0x106, 0x108))].concat();
    let expected = [
        ((0x100, 0x106), Some(10), Some((4, 10)), None),
        ((0x106, 0x108), Some(2), Some((2, 10)), FIRST),
        ((0x108, 0x110), Some(4), Some((4, 10)), FIRST),
    ];
    assert_eq!(ledger(&[(0x100, 0x110)], &protected), expected);
}

#[test]
fn region_that_shrinks_has_its_peak_from_before() {
    let records = [
        scan(10, PROCESS, (0x100, 0x110), &[(0x100, 0x110)]),
        munmap(20, (0x10c, 0x110)),
        munmap(30, (0x100, 0x108)),
    ];

    assert_eq!(ledger(&[(0x100, 0x110)], &records), [((0x108, 0x10c), Some(16), Some((4, 10)), None)]);
}

#[test]
fn new_memory_in_an_old_place_has_not_been_seen() {
    let seen = scan(10, PROCESS, (0x100, 0x110), &[(0x100, 0x108)]);

    let anew = [&[seen.clone(), munmap(20, (0x100, 0x110))][..], &mmap(30, (0x100, 0x110))].concat();
    let expected = [((0x100, 0x110), Some(8), Some((8, 10)), None), ((0x100, 0x110), None, None, None)];
    assert_eq!(ledger(&[(0x100, 0x110)], &anew), expected);

    // The region goes on, and half of what it had does not.
    let over = [&[seen][..], &mmap(20, (0x104, 0x108))].concat();
    assert_eq!(ledger(&[(0x100, 0x110)], &over), [((0x100, 0x110), Some(8), Some((4, 10)), None)]);
}

#[test]
fn region_that_went_unseen_has_nothing_of_what_is_seen_in_its_place() {
    let seen = scan(40, PROCESS, (0x100, 0x110), &[(0x100, 0x108)]);

    let anew =
        [&[munmap(20, (0x100, 0x110))][..], &mmap(30, (0x100, 0x110)), slice::from_ref(&seen)].concat();
    let expected = [((0x100, 0x110), None, None, None), ((0x100, 0x110), Some(8), Some((8, 40)), None)];
    assert_eq!(ledger(&[(0x100, 0x110)], &anew), expected);

    // A part is split off, and goes before the next scan.
    let split = [&mprotect(20, (0x104, 0x110))[..], &mmap(30, (0x104, 0x110)), &[seen]].concat();
    let expected = [((0x100, 0x110), Some(8), Some((8, 40)), None), ((0x104, 0x110), None, None, FIRST)];
    assert_eq!(ledger(&[(0x100, 0x110)], &split), expected);
}

#[test]
fn region_that_a_reading_finds_in_the_place_of_another_has_not_been_seen() {
    let records = [
        scan(10, PROCESS, (0x100, 0x110), &[(0x100, 0x108)]),
        loss_of(LossCause::ControlRing, 20, 30),
        maps(40, SPACE, &[]),
        loss_of(LossCause::ControlRing, 45, 50),
        maps(60, SPACE, &[pages((0x100, 0x110))]),
    ];

    let expected = [((0x100, 0x110), Some(8), Some((8, 10)), None), ((0x100, 0x110), None, None, None)];
    assert_eq!(ledger(&[(0x100, 0x110)], &records), expected);
}

#[test]
fn copy_of_a_region_is_unknown_until_a_scan_sees_it() {
    let begin = [
        join(1),
        maps(2, SPACE, &[pages((0x100, 0x110)), pages((0x200, 0x210))]),
        scan(10, PROCESS, (0x100, 0x210), &[(0x102, 0x106), (0x200, 0x208)]),
        copied(20, CHILD.1.0),
        fork(20, CHILD.0.0, CHILD.1.0),
    ];
    let of_child = |records: &[Record]| {
        let mut copies = regions_of(&[&begin[..], records, &[tick(600)]].concat());
        copies.retain(|region| region.space == CHILD.1);
        copies.sort_by_key(|region| region.label.range.start());
        copies
            .iter()
            .map(|region| {
                let last = region
                    .pages
                    .map(|pages| (pages.counts.present().map(PageCount::get), pages.counts.huge()));
                (region.peak_present.map(PageCount::get), last)
            })
            .collect::<Vec<_>>()
    };

    assert_eq!(of_child(&[]), [(None, None), (None, None)]);
    let none = Some(PageCount::new(0));
    let scanned = scan(30, CHILD, (0x100, 0x110), &[(0x102, 0x103)]);
    assert_eq!(of_child(&[scanned]), [(Some(1), Some((Some(1), none))), (None, None)]);
}

#[test]
fn scan_of_a_part_leaves_the_rest_of_a_slot_as_it_was_seen() {
    let records = [
        scan(10, PROCESS, (0x100, 0x110), &[(0x100, 0x110)]),
        scan(20, PROCESS, (0x100, 0x104), &[(0x100, 0x101)]),
    ];

    assert_eq!(ledger(&[(0x100, 0x110)], &records), [((0x100, 0x110), Some(16), Some((13, 20)), None)]);
}
