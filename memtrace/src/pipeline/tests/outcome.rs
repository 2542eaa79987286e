//! The outcomes of faults and what changed pages, as far as scans know them.

use std::slice;

use super::*;
use crate::{
    pagemap::{EntryFlags, PageFlags, PageWords, PagemapEntry},
    timeline::{OutcomeKind, PageCause, PageKind, PageRow},
};

const PAGE: u64 = 4096;
const PRESENT: u64 = EntryFlags::PRESENT.bits();
const CHILD: (Tgid, SpaceId) = (Tgid(20), SpaceId(8));

/// Pages of one kind from the page with this index on; what pagemap has of the first.
fn run_of(index: u64, pages: u64, entry: u64, flags: Option<PageFlags>) -> StateRun {
    let range = range(index * PAGE, (index + pages) * PAGE);
    let words = Some(PageWords { entry: PagemapEntry::from_raw(entry), flags });
    StateRun { range, categories: PageCategories::from_word(entry), words }
}

/// Pages in the frames from `pfn` on.
fn there(index: u64, pages: u64, pfn: u64) -> StateRun {
    run_of(index, pages, PRESENT | pfn, Some(PageFlags::ANON))
}

/// A scan of each page of the first 2 MiB, which took no time.
fn scan(millis: u64, (tgid, space): (Tgid, SpaceId), runs: Vec<StateRun>) -> Record {
    let seen = Seen::Pages(PageScan {
        began: at(millis),
        reason: ScanReason::Heat,
        range: range(0, 0x20_0000),
        known: PageCategories::all(),
        depth: ScanDepth::Frames,
        runs,
    });
    Record::Observation(Observation { time: at(millis), tgid, space, seen })
}

/// A write to the page with this index, which is there and may not be written to.
fn write(millis: u64, tid: u32, index: u64) -> Record {
    let Record::Fault(fault) = fault(millis, index * PAGE) else { panic!("a fault") };
    Record::Fault(Fault { tid: Tid(tid), protection: Some(true), ..fault })
}

fn rows_of(records: &[Record]) -> Vec<Row> {
    let begin = [join(1), maps(2, SPACE, &[(0, 0x20_0000)])];
    let records = [&begin[..], records].concat();
    run_with(Options { wants: RowSet::all(), ..options(Detail::Full) }, &records).0
}

/// The outcomes of the faults in `records`, in their order.
fn given(records: &[Record]) -> Vec<Option<OutcomeKind>> {
    let rows = rows_of(records).into_iter();
    rows.filter_map(|row| {
        if let Row::Fault(row) = row { Some(row.outcome.map(|outcome| outcome.kind)) } else { None }
    })
    .collect()
}

/// Pages of `records` that changed.
fn changed(records: &[Record]) -> Vec<PageRow> {
    rows_of(records)
        .into_iter()
        .filter_map(|row| if let Row::Pages(row) = row { Some(row) } else { None })
        .collect()
}

const PROCESS: (Tgid, SpaceId) = (TGID, SPACE);

#[test]
fn copy_is_distinguished_from_reuse_by_the_frame_before() {
    let faults = [write(20, TGID.0, 1), write(21, TGID.0, 2)];
    let before = scan(10, PROCESS, vec![there(1, 2, 100)]);
    let after = scan(30, PROCESS, vec![there(1, 1, 500), there(2, 1, 101)]);

    let known = [&[before][..], &faults, slice::from_ref(&after)].concat();
    assert_eq!(given(&known), [Some(OutcomeKind::Copy), Some(OutcomeKind::Reuse)]);
    let unknown = [&faults[..], &[after]].concat();
    assert_eq!(given(&unknown), [Some(OutcomeKind::WriteProtect); 2]);
}

/// The huge page of hugetlb at the beginning, in the frames from `pfn` on; `more` bits of its words.
fn huge(pfn: u64, more: EntryFlags) -> StateRun {
    run_of(0, 512, PRESENT | more.bits() | pfn, Some(PageFlags::HUGE))
}

#[test]
fn page_of_hugetlb_is_fresh_only_if_it_is_private_and_was_not_there() {
    let given = |before: &[StateRun], at: u64, after: StateRun| {
        let records =
            [scan(10, PROCESS, before.to_vec()), write(20, TGID.0, at), scan(30, PROCESS, vec![after])];
        given(&records)
    };
    let private = |pfn| huge(pfn, EntryFlags::empty());

    assert_eq!(given(&[], 1, private(512)), [Some(OutcomeKind::Hugetlb)]);
    assert_eq!(given(&[private(512)], 1, private(512)), [Some(OutcomeKind::Reuse)]);
    assert_eq!(given(&[private(512)], 1, private(1024)), [Some(OutcomeKind::Copy)]);
    // That of a file may have been in its page cache.
    assert_eq!(given(&[], 1, huge(512, EntryFlags::FILE)), [Some(OutcomeKind::File)]);
    let unknown = [write(20, TGID.0, 1), scan(30, PROCESS, vec![private(512)])];
    assert_eq!(super::outcome::given(&unknown), [Some(OutcomeKind::WriteProtect)]);
}

#[test]
fn folio_is_given_to_one_of_the_faults_at_it() {
    let folio = StateRun {
        categories: PageCategories::PRESENT | PageCategories::HUGE,
        ..run_of(0, 512, PRESENT | 512, Some(PageFlags::ANON | PageFlags::THP | PageFlags::COMPOUND_TAIL))
    };
    let records =
        [scan(10, PROCESS, vec![]), fault(20, 7 * PAGE), fault(20, 9 * PAGE), scan(30, PROCESS, vec![folio])];
    let rows = rows_of(&records).into_iter();
    let pages = rows.filter_map(|row| if let Row::Fault(row) = row { row.outcome } else { None });

    assert_eq!(pages.map(|outcome| outcome.pages).collect::<Vec<_>>(), [Some(PageCount::new(512))]);
}

#[test]
fn child_copies_what_it_had_of_its_parent() {
    let records = [
        scan(10, PROCESS, vec![there(1, 3, 100)]),
        write(12, TGID.0, 3),
        copied(15, CHILD.1.0),
        fork(15, CHILD.0.0, CHILD.1.0),
        write(20, CHILD.0.0, 1),
        write(21, CHILD.0.0, 2),
        write(22, CHILD.0.0, 3),
        scan(30, CHILD, vec![there(1, 1, 500), there(2, 1, 101), there(3, 1, 600)]),
    ];

    // Where the third was when the parent forked, no scan saw.
    assert_eq!(
        given(&records)[1..],
        [Some(OutcomeKind::Copy), Some(OutcomeKind::Reuse), Some(OutcomeKind::WriteProtect)]
    );
}

#[test]
fn what_a_page_was_between_two_faults_is_not_known() {
    let records = [
        scan(10, PROCESS, vec![there(1, 1, 100)]),
        write(20, TGID.0, 1),
        write(21, TGID.0, 1),
        scan(30, PROCESS, vec![there(1, 1, 500)]),
    ];

    assert_eq!(given(&records), [Some(OutcomeKind::WriteProtect); 2]);
}

#[test]
fn major_fault_brought_what_was_in_swap_if_that_is_known() {
    let major = |millis, index: u64| {
        let Record::Fault(fault) = fault(millis, index * PAGE) else { panic!("a fault") };
        Record::Fault(Fault { kind: FaultKind::Major, ..fault })
    };
    let swapped = run_of(1, 1, EntryFlags::SWAPPED.bits() | 7 << 5, None);
    let faults = [major(20, 1), major(21, 2)];
    let after = scan(30, PROCESS, vec![there(1, 2, 500)]);

    let known = [&[scan(10, PROCESS, vec![swapped])][..], &faults, slice::from_ref(&after)].concat();
    assert_eq!(given(&known), [Some(OutcomeKind::Swap), Some(OutcomeKind::Anon)]);
    let unknown = [&faults[..], &[after]].concat();
    assert_eq!(given(&unknown), [None, None], "others serve faults too, as userfaultfd does");
}

#[test]
fn fault_that_ended_amid_a_scan_waits_for_the_next() {
    let mut racing = scan(25, PROCESS, vec![there(1, 1, 100)]);
    let Record::Observation(Observation { seen: Seen::Pages(pages), .. }) = &mut racing else {
        panic!("a scan of pages")
    };
    pages.began = at(15);
    let records = [
        scan(10, PROCESS, vec![there(1, 1, 100)]),
        write(20, TGID.0, 1),
        racing,
        scan(30, PROCESS, vec![there(1, 1, 500)]),
    ];

    assert_eq!(given(&records), [Some(OutcomeKind::Copy)], "the racing scan saw the page before the copy");
}

#[test]
fn outcomes_of_faults_in_all_is_known_if_it_is_of_each() {
    let of_file = |index| StateRun {
        categories: PageCategories::PRESENT | PageCategories::FILE,
        ..there(index, 1, 100 + index)
    };
    let read = |millis, index: u64| {
        let Record::Fault(fault) = fault(millis, index * PAGE) else { panic!("a fault") };
        Record::Fault(Fault { access: Some(Access::Read), ..fault })
    };
    let begin = [join(1), maps(2, SPACE, &[(0, 0x20_0000)])];
    let [first, second] = [1, 2].map(|index| of_file(index * 100));
    // Of the first nobody knows what was there before.
    let before = [read(10, 100), scan(20, PROCESS, vec![first])];
    let after = [read(30, 200), scan(40, PROCESS, vec![first, second])];
    let total = |records: &[Record]| {
        let records = [&begin[..], records].concat();
        let summary = run_with(Options { wants: RowSet::all(), ..options(Detail::Full) }, &records).2;
        let totals = summary.outcome[&(OutcomeKind::File, None)];
        (totals.faults, totals.pages())
    };

    let known = [&[scan(5, PROCESS, vec![])], &before[..], &after].concat();
    assert_eq!(total(&known), (2, Some(PageCount::new(2))));
    let unknown = [before, after].concat();
    assert_eq!(total(&unknown), (2, None));
}

/// So many pages of shared memory and of files have been reclaimed.
fn reclaimed(millis: u64, swap_backed: u64, file: u64) -> Record {
    Record::Reclaim(ReclaimReading { time: at(millis), swap_backed, file })
}

/// What took a page away that was like `was` and is like `is`, with these readings and events between the scans of 10 and 30 ms.
fn cause_of_absence(was: StateRun, is: &[StateRun], meanwhile: &[Record]) -> PageCause {
    let scans = [scan(10, PROCESS, vec![was]), scan(30, PROCESS, is.to_vec())];
    let changes = changed(&[&scans[..1], meanwhile, &scans[1..]].concat());
    let [PageRow { ref prev_state, cause, .. }] = changes[..] else { panic!("one row: {changes:?}") };
    assert_ne!(*prev_state, PageKind::Absent);
    cause
}

#[test]
fn page_that_went_is_reclaimed_if_pages_of_its_kind_were() {
    let of_file = run_of(1, 1, PRESENT | EntryFlags::FILE.bits() | 0x64, Some(PageFlags::LRU));
    let shared =
        run_of(1, 1, PRESENT | EntryFlags::FILE.bits() | 0x64, Some(PageFlags::LRU | PageFlags::SWAPBACKED));
    let files_only = [reclaimed(5, 1, 1), reclaimed(25, 1, 2)];

    assert_eq!(cause_of_absence(of_file, &[], &files_only), PageCause::Reclaim);
    assert_eq!(cause_of_absence(shared, &[], &files_only), PageCause::Unknown);
    assert_eq!(
        cause_of_absence(of_file, &[], &[reclaimed(5, 1, 1), reclaimed(25, 2, 1)]),
        PageCause::Unknown
    );
}

#[test]
fn page_that_went_while_nothing_was_reclaimed_went_for_an_unknown_reason() {
    let page = there(1, 1, 100);

    assert_eq!(cause_of_absence(page, &[], &[]), PageCause::Unknown, "no counters");
    assert_eq!(cause_of_absence(page, &[], &[reclaimed(5, 7, 7), reclaimed(25, 7, 7)]), PageCause::Unknown);
    // What was reclaimed before the first scan, and after the second.
    let before_and_after = [reclaimed(4, 6, 6), reclaimed(5, 7, 7), reclaimed(25, 7, 7), reclaimed(35, 8, 8)];
    assert_eq!(cause_of_absence(page, &[], &before_and_after), PageCause::Unknown);
}

#[test]
fn page_in_swap_is_reclaimed_whatever_the_counters_say() {
    let entry = |kind: u64| run_of(1, 1, EntryFlags::SWAPPED.bits() | 7 << 5 | kind, None);
    let page = there(1, 1, 100);

    assert_eq!(cause_of_absence(page, &[entry(0)], &[]), PageCause::Reclaim);
    // Of such a type there may be no swap area: it may be on its way to another frame.
    assert_eq!(cause_of_absence(page, &[entry(29)], &[]), PageCause::Unknown);
}

#[test]
fn zero_page_is_never_reclaimed() {
    let zero = StateRun {
        categories: PageCategories::PRESENT | PageCategories::PFNZERO,
        ..run_of(1, 1, PRESENT | 1, Some(PageFlags::ZERO_PAGE))
    };

    assert_eq!(cause_of_absence(zero, &[], &[reclaimed(5, 1, 1), reclaimed(25, 2, 2)]), PageCause::Unknown);
}

#[test]
fn advice_that_fails_since_not_all_is_mapped_takes_away_what_is() {
    let gone_after = |advice, result| {
        let request =
            crate::event::MapRequest::Madvise { addr: VirtAddr::from_raw(PAGE), length: 1000 * PAGE, advice };
        let call = crate::event::MapCall {
            request,
            result: Err(result),
            may_have_resized: false,
            file: None,
            stack: None,
        };
        let call = map(20, MapAction::Call { space: SPACE, call });
        let changes = changed(&[scan(10, PROCESS, vec![there(1, 1, 100)]), call, scan(30, PROCESS, vec![])]);
        changes.iter().map(|row| row.cause).collect::<Vec<_>>()
    };
    let (dontneed, cold) = (4, 20);

    // The call said it already.
    assert_eq!(gone_after(dontneed, crate::event::OUT_OF_MEMORY), []);
    assert_eq!(gone_after(cold, crate::event::OUT_OF_MEMORY), [PageCause::Call]);
    let einval = 22;
    assert_eq!(gone_after(dontneed, einval), [PageCause::Unknown]);
}

#[test]
fn page_that_went_did_not_go_by_faults_near_it() {
    let changes = changed(&[
        scan(10, PROCESS, vec![there(1, 2, 100)]),
        fault(20, PAGE),
        scan(30, PROCESS, vec![there(2, 1, 101)]),
    ]);

    let [PageRow { state, prev_state, cause, .. }] = changes[..] else { panic!("one row: {changes:?}") };
    assert_eq!((prev_state, state, cause), (PageKind::Small, PageKind::Absent, PageCause::Unknown));
}

#[test]
fn guard_is_not_in_swap() {
    let guard = run_of(1, 1, EntryFlags::SWAPPED.bits() | EntryFlags::GUARD.bits(), None);
    let advice =
        crate::event::MapRequest::Madvise { addr: VirtAddr::from_raw(PAGE), length: PAGE, advice: 102 };
    let call = crate::event::MapCall {
        request: advice,
        result: Ok(0),
        may_have_resized: false,
        file: None,
        stack: None,
    };
    let changes = changed(&[
        scan(10, PROCESS, vec![there(1, 1, 100)]),
        map(20, MapAction::Call { space: SPACE, call }),
        scan(30, PROCESS, vec![guard]),
    ]);

    let [PageRow { state, cause, .. }] = changes[..] else { panic!("one row: {changes:?}") };
    assert_eq!((state, cause), (PageKind::Guard, PageCause::Call));
}

#[test]
fn pages_that_huge_ones_took_the_place_of_have_not_migrated() {
    let huge = |index, flags| StateRun {
        categories: PageCategories::PRESENT | PageCategories::HUGE,
        ..run_of(index, 1, PRESENT | (0x1000 + index), Some(PageFlags::ANON | PageFlags::THP | flags))
    };
    let records = [
        heat(105, (0, 0x20_0000), 1),
        scan(110, PROCESS, vec![there(0, 2, 100), there(8, 2, 300)]),
        scan(
            120,
            PROCESS,
            vec![
                huge(0, PageFlags::COMPOUND_HEAD),
                huge(1, PageFlags::COMPOUND_TAIL),
                there(8, 1, 300),
                there(9, 1, 900),
            ],
        ),
        tick(500),
    ];

    let rows = rows_of(&records);

    let causes: Vec<_> = rows
        .iter()
        .filter_map(|row| if let Row::Pages(row) = row { Some((row.pages.get(), row.cause)) } else { None })
        .collect();
    assert_eq!(causes, [(1, PageCause::Collapse), (1, PageCause::Collapse), (1, PageCause::Migration)]);
    let migrated: Vec<_> = timeline(&rows).iter().filter_map(|row| row.pages?.migrated).collect();
    assert_eq!(migrated, [PageCount::new(1)]);
}
