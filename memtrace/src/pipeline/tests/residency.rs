//! Ledgers of resident pages, by hand: what regions have at the ends of intervals, what faults bring, and what comes back.

use std::slice;

use super::*;
use crate::{
    event::{
        MapCall, MapRequest,
        flags::{MADV_DONTNEED, MADV_NOHUGEPAGE, MAP_POPULATE},
    },
    timeline::{Departure, FaultRow, OutcomeKind, OutcomeUnknown, Refault, Residency},
};

const PAGE: u64 = 4096;
const PROCESS: (Tgid, SpaceId) = (TGID, SPACE);

fn pages((start, end): (u64, u64)) -> VirtRange {
    range(start * PAGE, end * PAGE)
}

/// A scan of `scanned` that began a millisecond before, and finds `present`.
fn scan(millis: u64, (tgid, space): (Tgid, SpaceId), scanned: (u64, u64), present: &[(u64, u64)]) -> Record {
    let run = |part: &(u64, u64)| StateRun::new(pages(*part), PageCategories::PRESENT);
    let seen = Seen::Pages(PageScan {
        began: at(millis - 1),
        reason: ScanReason::Heat,
        range: pages(scanned),
        known: PageCategories::PRESENT | PageCategories::PFNZERO,
        depth: ScanDepth::Categories,
        runs: present.iter().map(run).collect(),
    });
    Record::Observation(Observation { time: at(millis), tgid, space, seen })
}

fn call(millis: u64, request: MapRequest, result: u64) -> Record {
    let call = MapCall { request, result: Ok(result), may_have_resized: true, file: None, stack: None };
    map(millis, MapAction::Call { space: SPACE, call })
}

fn mmap(millis: u64, part: (u64, u64), more_flags: u64) -> [Record; 2] {
    let (range, flags) = (pages(part), 0x32 | more_flags);
    let vma = anon((range.start().as_raw(), range.end().as_raw()));
    let shown = crate::event::ReportedVma { vma, kind: None };
    let request = MapRequest::Mmap { addr: range.start(), length: range.bytes(), prot: 3, flags, offset: 0 };
    [map(millis, MapAction::Shown(shown)), call(millis, request, range.start().as_raw())]
}

fn munmap(millis: u64, part: (u64, u64)) -> Record {
    let range = pages(part);
    call(millis, MapRequest::Munmap { addr: range.start(), length: range.bytes() }, 0)
}

fn dont_need(millis: u64, part: (u64, u64)) -> Record {
    advise(millis, part, MADV_DONTNEED)
}

fn advise(millis: u64, part: (u64, u64), advice: u64) -> Record {
    let range = pages(part);
    call(millis, MapRequest::Madvise { addr: range.start(), length: range.bytes(), advice }, 0)
}

fn uncounted(millis: u64, cause: UncountedCause) -> Record {
    let faults = FaultCounts { minor: 3, major: 0 };
    Record::Uncounted(Uncounted {
        time: at(millis),
        tgid: TGID,
        tid: Tid(TGID.0),
        space: SPACE,
        faults,
        cause,
    })
}

/// A store to a page that is not there.
fn store(millis: u64, page: u64) -> Record {
    let Record::Fault(fault) = fault(millis, page * PAGE) else { panic!("a fault") };
    Record::Fault(Fault { latency: Some(Nanos::new(700)), ..fault })
}

fn load(millis: u64, page: u64) -> Record {
    let Record::Fault(fault) = store(millis, page) else { panic!("a fault") };
    Record::Fault(Fault { access: Some(Access::Read), ..fault })
}

fn rows_of(records: &[Record]) -> Vec<Row> {
    let all = [&[join(1)], records, &[exit(990), tick(1_500)]].concat();
    run_with(Options { wants: RowSet::all(), ..options(Detail::Full) }, &all).0
}

/// End of the interval, first page of the region, resident pages and those of which nothing is known; of each row.
fn levels(records: &[Record]) -> Vec<(u64, u64, u64, u64)> {
    let rows = rows_of(records);
    let row = |row: &&TimelineRow| {
        let (range, residency) = (row.region.as_ref()?.range, row.residency?);
        let end = row.end.as_nanos() / MS;
        Some((end, range.start().as_raw() / PAGE, residency.pages.get(), residency.unknown.get()))
    };
    timeline(&rows).iter().filter_map(row).collect()
}

fn faults(records: &[Record]) -> Vec<FaultRow> {
    let rows = rows_of(records).into_iter();
    rows.filter_map(|row| if let Row::Fault(row) = row { Some(row) } else { None }).collect()
}

fn outcomes(records: &[Record]) -> Vec<Result<OutcomeKind, Option<OutcomeUnknown>>> {
    let kind = |row: FaultRow| row.outcome.map(|outcome| outcome.kind).ok_or(row.outcome_unknown);
    faults(records).into_iter().map(kind).collect()
}

fn refaults(records: &[Record]) -> Vec<Option<Refault>> {
    faults(records).into_iter().map(|row| row.refault).collect()
}

#[test]
fn what_is_mapped_anew_has_what_faults_brought() {
    let mapped = mmap(10, (0x400, 0x410), 0);
    let records = [&mapped[..], &[store(20, 0x402), store(21, 0x403), store(110, 0x404)]].concat();

    // A fault may have brought more: the other pages are not known until a scan.
    assert_eq!(levels(&records), [(100, 0x400, 2, 14), (200, 0x400, 3, 13)]);
}

#[test]
fn scan_behind_the_end_says_what_was_there_at_it() {
    let mapped = mmap(10, (0x400, 0x410), 0);
    let faults = [store(20, 0x402), store(21, 0x403), tick(50), store(110, 0x404)];
    let scanned = scan(115, PROCESS, (0x400, 0x410), &[(0x402, 0x405), (0x408, 0x40a)]);
    let records = [&mapped[..], &faults, &[scanned]].concat();

    // Of the page of the fault at 110 the scan does not say what was there at 100.
    assert_eq!(levels(&records), [(100, 0x400, 4, 1), (200, 0x400, 5, 0)]);
}

#[test]
fn fault_during_a_scan_stays_as_it_is_known() {
    let mapped = mmap(10, (0x400, 0x402), 0);
    let scanned = scan(21, PROCESS, (0x400, 0x402), &[]);
    let records = [&mapped[..], &[store(20, 0x400), store(21, 0x401), scanned]].concat();

    // The scan began at 20: it says what came before, not what came at 21.
    assert_eq!(levels(&records), [(100, 0x400, 1, 0)]);
}

#[test]
fn advice_and_unmapping_take_pages_away() {
    let mapped = mmap(10, (0x400, 0x410), 0);
    let seen = scan(20, PROCESS, (0x400, 0x410), &[(0x400, 0x410)]);
    let records = [
        &mapped[..],
        &[seen, dont_need(110, (0x400, 0x404)), munmap(210, (0x40c, 0x410)), munmap(310, (0x400, 0x40c))],
    ]
    .concat();

    let expected = [(100, 0x400, 16, 0), (200, 0x400, 12, 0), (300, 0x400, 8, 0), (400, 0x400, 0, 0)];
    assert_eq!(levels(&records), expected);
}

#[test]
fn populating_call_leaves_open_what_is_there() {
    assert_eq!(levels(&mmap(10, (0x400, 0x410), 0)), [(100, 0x400, 0, 0)]);
    assert_eq!(levels(&mmap(10, (0x400, 0x410), MAP_POPULATE)), []);
}

#[test]
fn what_a_call_populates_may_come_after_a_scan() {
    let seen = |millis, present| scan(millis, PROCESS, (0x400, 0x410), present);
    let rows = |first: &[Record]| {
        let scans = [seen(120, &[(0x400, 0x404)]), seen(220, &[(0x400, 0x410)])];
        levels(&[first, &[tick(50)], &scans, &[tick(700)]].concat())
    };
    let populated = [(200, 0x400, 4, 12), (300, 0x400, 16, 0)];

    assert_eq!(rows(&mmap(10, (0x400, 0x410), MAP_POPULATE)), populated);
    let mlockall = call(5, MapRequest::Mlockall { flags: 2 }, 0);
    let locked = [&[mlockall.clone()][..], &mmap(10, (0x400, 0x410), 0)].concat();
    assert_eq!(rows(&locked), populated);
    let known = [(100, 0x400, 4, 0), (200, 0x400, 16, 0)];
    let unlocked =
        [&[mlockall, call(6, MapRequest::Munlockall, 0)][..], &mmap(10, (0x400, 0x410), 0)].concat();
    assert_eq!(rows(&unlocked), known);
}

#[test]
fn records_that_are_missing_leave_open_what_came_meanwhile() {
    let mapped = mmap(10, (0x400, 0x410), 0);
    let records = [&mapped[..], &[store(20, 0x402)], &[loss(30, 40), tick(300), store(320, 0x403)]].concat();

    assert_eq!(levels(&records).last(), Some(&(400, 0x400, 2, 14)));
}

#[test]
fn calls_that_are_missing_leave_nothing_known() {
    let mapped = mmap(10, (0x400, 0x410), 0);
    let lost = loss_of(LossCause::ControlRing, 110, 120);
    let records = [&mapped[..], &[store(20, 0x402), tick(105), lost, tick(360), store(380, 0x404)]].concat();

    assert_eq!(levels(&records)[1..], [(200, 0x400, 0, 16), (400, 0x400, 1, 15)]);
}

#[test]
fn child_has_the_memory_of_its_parent() {
    let mapped = mmap(10, (0x400, 0x410), 0);
    let seen = scan(20, PROCESS, (0x400, 0x410), &[(0x402, 0x406)]);
    let child = [copied(30, 8), fork(30, 20, 8)];
    let records = [&mapped[..], &[seen], &child, &[store(40, 0x408)]].concat();

    let rows = levels(&records);
    assert_eq!(rows, [(100, 0x400, 5, 11), (100, 0x400, 4, 0)]);
}

#[test]
fn store_to_fresh_memory_needs_no_scan() {
    let mapped = mmap(10, (0x400, 0x410), 0);
    let alone = advise(11, (0x400, 0x410), MADV_NOHUGEPAGE);
    let faults = [store(20, 0x402), store(21, 0x404), load(22, 0x405)];
    let records = [&mapped[..], slice::from_ref(&alone), &faults].concat();
    let unknown = Err(Some(OutcomeUnknown::NotScanned));
    let fresh = Ok(OutcomeKind::Anon);

    // Who serves loads by userfaultfd in a process that was there before is not known.
    assert_eq!(outcomes(&records), [fresh, fresh, unknown]);
    // A huge page may have come with the first.
    let with_huge = [&mapped[..], &faults].concat();
    assert_eq!(outcomes(&with_huge), [unknown; 3]);
    let emptied = [&records[..], &[dont_need(30, (0x400, 0x410)), store(40, 0x402)]].concat();
    assert_eq!(outcomes(&emptied)[3], fresh);
    // What came unseen may be there, whatever the kernel lets a fault look like.
    for (number, expected) in [(0, unknown), (9, fresh)] {
        let uncounted = uncounted(25, UncountedCause::Syscall(number));
        let unseen = [&records[..], &[uncounted, store(40, 0x406)]].concat();
        assert_eq!(outcomes(&unseen)[3], expected, "call {number}");
    }
}

#[test]
fn of_two_that_were_under_way_at_once_neither_is_known_to_have_brought_the_page() {
    let mapped = mmap(10, (0x400, 0x410), 0);
    let alone = advise(11, (0x400, 0x410), MADV_NOHUGEPAGE);
    let Record::Fault(second) = store(20, 0x402) else { panic!("a fault") };
    let second = |later| Record::Fault(Fault { time: second.time.after(Nanos::new(later)), ..second });
    let given = |later| outcomes(&[&mapped[..], &[alone.clone(), store(20, 0x402), second(later)]].concat());

    let not_scanned = Err(Some(OutcomeUnknown::NotScanned));
    assert_eq!(given(500), [Err(Some(OutcomeUnknown::Raced)), not_scanned]);
    // The second began when the first was over.
    assert_eq!(given(1_000), [Ok(OutcomeKind::Anon), not_scanned]);
}

#[test]
fn pages_that_come_unseen_leave_open_what_is_there() {
    let mapped = mmap(10, (0x400, 0x410), 0);
    let records = [&mapped[..], &[uncounted(110, UncountedCause::Syscall(0))]].concat();

    assert_eq!(levels(&records), [(100, 0x400, 0, 0), (200, 0x400, 0, 16)]);
}

#[test]
fn interval_that_the_end_cuts_says_what_was_there_then() {
    let mapped = mmap(10, (0x400, 0x410), 0);
    let records = [&[join(1)], &mapped[..], &[store(120, 0x402), tick(130)]].concat();
    let (rows, ..) = run_with(Options { wants: RowSet::all(), ..options(Detail::Full) }, &records);

    let rows = timeline(&rows);
    let last = rows.last().expect("a row");
    let residency = Residency { pages: PageCount::new(1), unknown: PageCount::new(15) };
    assert_eq!((last.end, last.residency), (at(120), Some(residency)));
}

#[test]
fn call_that_fails_in_the_middle_leaves_open_what_is_there() {
    let mapped = mmap(10, (0x400, 0x410), 0);
    let seen = scan(20, PROCESS, (0x400, 0x410), &[(0x400, 0x410)]);
    let request = MapRequest::Madvise {
        addr: VirtAddr::from_raw(0x400 * PAGE),
        length: 4 * PAGE,
        advice: MADV_DONTNEED,
    };
    let call = MapCall { request, result: Err(22), may_have_resized: false, file: None, stack: None };
    let failed = map(110, MapAction::Call { space: SPACE, call });
    let records = [&mapped[..], &[seen, failed]].concat();

    assert_eq!(levels(&records), [(100, 0x400, 16, 0), (200, 0x400, 12, 4)]);
}

#[test]
fn page_that_may_be_the_zero_page_is_not_known_to_be_resident() {
    let mapped = mmap(10, (0x400, 0x410), 0);
    let Record::Observation(mut seen) = scan(30, PROCESS, (0x400, 0x410), &[(0x400, 0x408)]) else {
        panic!("an observation")
    };
    let Seen::Pages(pages) = &mut seen.seen else { panic!("a scan") };
    pages.known = PageCategories::PRESENT;
    let records = [&mapped[..], &[store(20, 0x402), Record::Observation(seen)]].concat();

    assert_eq!(levels(&records), [(100, 0x400, 1, 7)]);
}

#[test]
fn scan_after_a_loss_says_nothing_of_what_was_before_it() {
    let mapped = mmap(10, (0x400, 0x410), 0);
    let seen = |millis| scan(millis, PROCESS, (0x400, 0x410), &[(0x400, 0x408)]);
    let records =
        [&mapped[..], &[seen(20), tick(50), loss_of(LossCause::ControlRing, 110, 120), seen(130)]].concat();

    assert_eq!(levels(&records)[0], (100, 0x400, 8, 0));
}

#[test]
fn page_that_was_given_back_comes_back() {
    let mapped = mmap(10, (0x400, 0x410), 0);
    let first = [store(20, 0x402), store(20, 0x403), dont_need(30, (0x402, 0x403)), store(50, 0x402)];
    let again = [munmap(60, (0x400, 0x410)), store(80, 0x403), store(81, 0x404)];
    let anew = mmap(70, (0x400, 0x410), 0);
    let records = [&mapped[..], &first, &again[..1], &anew, &again[1..]].concat();

    let refault = |of, millis| Some(Refault { of, age: Nanos::new(millis * MS) });
    let advice = refault(Departure::Advice, 20);
    assert_eq!(refaults(&records), [None, None, advice, refault(Departure::Unmap, 20), None]);
}

#[test]
fn page_that_a_scan_finds_gone_comes_back_from_an_unknown_place() {
    let mapped = mmap(10, (0x400, 0x402), 0);
    let gone = scan(40, PROCESS, (0x400, 0x402), &[]);
    let records = [&mapped[..], &[store(20, 0x400), gone, store(50, 0x400), store(51, 0x401)]].concat();

    let refault = Refault { of: Departure::Unknown, age: Nanos::new(10 * MS) };
    assert_eq!(refaults(&records), [None, Some(refault), None]);
    // It may have been in swap.
    assert_eq!(outcomes(&records)[1], Err(Some(OutcomeUnknown::NotScanned)));
}
