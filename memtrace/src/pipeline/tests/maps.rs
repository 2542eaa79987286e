//! Changes of address spaces: what they do to faults, rows and totals.

use std::collections::BTreeMap;

use super::*;
use crate::{
    event::{
        CallKind, MapCall, MapRequest, ShownVma,
        flags::{MAP_FIXED, MREMAP_DONTUNMAP, MREMAP_FIXED},
    },
    timeline::{
        Advised, Backing, Churn, FaultRow, MapIdentity, MapRow, MapTally, MappingProcess, RegionSummary,
    },
};

const CHILD: Tgid = Tgid(20);
const EINVAL: i32 = 22;

fn addr(addr: u64) -> VirtAddr {
    VirtAddr::from_raw(addr)
}

fn shown(millis: u64, vma: Vma) -> Record {
    map(millis, MapAction::Shown(ShownVma { vma, is_hugetlb: false }))
}

fn call(millis: u64, request: MapRequest, result: Result<u64, i32>) -> Record {
    let call = MapCall { request, result, may_have_resized: true };
    map(millis, MapAction::Call { space: SPACE, call })
}

fn mmap(millis: u64, (start, end): (u64, u64)) -> Record {
    let request = MapRequest::Mmap { addr: addr(0), length: end - start, prot: 3, flags: 0x22, offset: 0 };
    call(millis, request, Ok(start))
}

fn munmap(millis: u64, (start, end): (u64, u64)) -> Record {
    call(millis, MapRequest::Munmap { addr: addr(start), length: end - start }, Ok(0))
}

fn file((start, end): (u64, u64), offset: u64) -> Vma {
    let name = b"/lib/x.so".to_vec();
    Vma { perms: *b"r-xp", offset, device: (8, 1), inode: 77, name, ..anon((start, end)) }
}

/// A program is loaded into the space 9: a file and a stack.
fn exec() -> Vec<Record> {
    let stack = Vma { name: b"[stack]".to_vec(), ..anon((0x7_0000, 0x7_8000)) };
    vec![
        map(10, MapAction::Renewed { space: SpaceId(9) }),
        shown(11, file((0x40_0000, 0x40_8000), 0)),
        shown(12, stack),
        task(15, TGID.0, exec_action()),
    ]
}

fn exec_action() -> TaskAction {
    TaskAction::Exec {
        space: SpaceId(9),
        old_tid: Tid(TGID.0),
        comm: Comm::from_text("next"),
        is_space_told: true,
        is_hidden: false,
        total_vm: None,
        landmarks: Landmarks { start_brk: None, start_stack: Some(addr(0x7_7ff0)) },
    }
}

/// All rows and totals of `records`.
fn run_all(records: &[Record]) -> (Vec<Row>, Summary) {
    let (rows, _, summary) = run_with(Options { event_rows: true, ..options(Detail::Full) }, records);
    (rows, summary)
}

fn map_rows(rows: &[Row]) -> Vec<&MapRow> {
    rows.iter().filter_map(|row| if let Row::Map(row) = row { Some(row) } else { None }).collect()
}

fn fault_rows(rows: &[Row]) -> Vec<&FaultRow> {
    rows.iter().filter_map(|row| if let Row::Fault(row) = row { Some(row) } else { None }).collect()
}

fn regions(rows: &[Row]) -> Vec<&RegionSummary> {
    rows.iter().filter_map(|row| if let Row::Region(row) = row { Some(row) } else { None }).collect()
}

#[test]
fn fault_after_a_mmap_carries_the_new_region_and_its_offset() {
    let records = [
        join(1),
        maps(2, SPACE, &[(0x1000, 0x9000)]),
        shown(10, file((0x2_0000, 0x2_4000), 0x2000)),
        mmap(10, (0x2_0000, 0x2_4000)),
        fault(11, 0x2_1010),
    ];

    let (rows, _) = run_all(&records);

    let [mapped] = map_rows(&rows)[..] else { panic!("one call: {rows:?}") };
    let [fault] = fault_rows(&rows)[..] else { panic!("one fault: {rows:?}") };
    let place = fault.place.as_ref().expect("the file had been mapped");
    assert_eq!((mapped.action, mapped.region), ("mmap", Some(place.region)));
    assert_eq!((place.offset, place.file_offset, &*place.name), (0x1010, Some(0x3010), &b"/lib/x.so"[..]));
}

#[test]
fn fault_in_a_vma_whose_call_has_not_returned_carries_its_region() {
    let records = [
        join(1),
        maps(2, SPACE, &[(0x1000, 0x9000)]),
        shown(10, anon((0x2_0000, 0x2_4000))),
        fault(11, 0x2_1000),
        mmap(12, (0x2_0000, 0x2_4000)),
        fault(13, 0x2_2000),
    ];

    let (rows, _) = run_all(&records);

    let offset = |row: &&FaultRow| row.place.as_ref().map(|place| place.offset);
    assert_eq!(fault_rows(&rows).iter().map(offset).collect::<Vec<_>>(), [Some(0x1000), Some(0x2000)]);
}

#[test]
fn place_that_is_unmapped_and_mapped_anew_is_two_regions() {
    let place = (0x2_0000, 0x2_4000);
    let records = [
        join(1),
        maps(2, SPACE, &[(0x1000, 0x9000), place]),
        fault(10, 0x2_1000),
        munmap(20, place),
        shown(30, anon(place)),
        mmap(30, place),
        fault(40, 0x2_1000),
    ];

    let (rows, _) = run_all(&records);

    let [before, after] = timeline(&rows)[..] else { panic!("two rows: {rows:?}") };
    let id = |row: &TimelineRow| row.region.as_ref().map(|region| region.id);
    assert!(id(before).is_some() && id(after).is_some() && id(before) != id(after));
    assert_eq!((before.faults.completed.minor, after.faults.completed.minor), (1, 1));
}

#[test]
fn fork_copies_what_was_mapped_when_it_copied() {
    let records = [
        join(1),
        maps(2, SPACE, &[(0x1000, 0x9000)]),
        copied(20, 8),
        // Another thread of the parent, before the child is born.
        munmap(22, (0x1000, 0x9000)),
        fork(25, CHILD.0, 8),
    ];

    let (rows, _) = run_all(&records);

    let [parent, child] = regions(&rows)[..] else { panic!("two regions: {rows:?}") };
    assert_eq!((parent.tgid, parent.born, parent.died), (TGID, at(2), Some(at(22))));
    assert_eq!((child.tgid, child.born, child.died), (CHILD, at(20), None));
    assert_eq!((child.label.range, child.parent), (range(0x1000, 0x9000), Some(parent.label.id)));
}

#[test]
fn exec_keeps_what_was_shown_while_the_program_was_loaded() {
    let records = [
        vec![join(1), maps(2, SPACE, &[(0x1000, 0x9000)])],
        exec(),
        vec![fault(20, 0x40_1000), fault(21, 0x7_1000)],
    ];

    let (rows, _) = run_all(&records.concat());

    let names: Vec<_> = fault_rows(&rows)
        .iter()
        .map(|row| row.place.as_ref().map(|place| String::from_utf8_lossy(&place.name).into_owned()))
        .collect();
    assert_eq!(names, [Some("/lib/x.so".to_owned()), Some("[stack]".to_owned())]);
    let actions: Vec<_> = map_rows(&rows).iter().map(|row| (row.action, row.backing)).collect();
    assert_eq!(actions, [("exec", Some(Backing::File)), ("exec", Some(Backing::Stack))]);
    let lives: Vec<_> = regions(&rows).iter().map(|region| (region.born, region.died)).collect();
    // What lives comes in order of address: the stack is below the file.
    assert_eq!(lives, [(at(2), Some(at(10))), (at(12), None), (at(11), None)]);
}

#[test]
fn stack_that_grows_by_a_fault_is_the_same_region_and_has_a_row() {
    let grown = Vma { name: b"[stack]".to_vec(), ..anon((0x6_0000, 0x7_8000)) };
    let records = [vec![join(1)], exec(), vec![shown(20, grown), fault(21, 0x6_0000), fault(22, 0x7_7000)]];

    let (rows, _) = run_all(&records.concat());

    let growth = map_rows(&rows)[2];
    assert_eq!((growth.action, growth.range), ("stack", Some(range(0x6_0000, 0x7_8000))));
    let [row] = timeline(&rows)[..] else { panic!("one region: {rows:?}") };
    assert_eq!(row.faults.completed.minor, 2);
    assert_eq!(row.region.as_ref().map(|region| region.id), growth.region);
}

#[test]
fn contradiction_has_a_row_is_counted_and_corrected() {
    let seen = [(0x1000, 0x9000), (0x2_0000, 0x3_0000)];
    let records = [
        join(1),
        maps(2, SPACE, &[(0x1000, 0x9000)]),
        maps(50, SPACE, &seen),
        fault(60, 0x2_1000),
        maps(70, SPACE, &seen),
    ];

    let (rows, summary) = run_all(&records);

    let identity = MapIdentity { checks: 2, contradictions: 1, inconclusive: 0, learnt: 1 };
    assert_eq!(summary.maps.identity, identity);
    let [row] = map_rows(&rows)[..] else { panic!("one contradiction: {rows:?}") };
    assert_eq!((row.action, row.time, row.range), ("contradiction", at(50), Some(range(0x2_0000, 0x3_0000))));
    assert_eq!((row.region, row.perms, row.backing), (None, Some(*b"rw-p"), Some(Backing::Anon)));
    let place = fault_rows(&rows)[0].place.as_ref().expect("the reading told of the region");
    assert_eq!(place.offset, 0x1000);
}

#[test]
fn contradiction_of_a_region_that_is_not_there_names_it() {
    let records = [join(1), maps(2, SPACE, &[(0x1000, 0x9000)]), maps(50, SPACE, &[])];

    let (rows, _) = run_all(&records);

    let [row] = map_rows(&rows)[..] else { panic!("one contradiction: {rows:?}") };
    let [region] = regions(&rows)[..] else { panic!("one region: {rows:?}") };
    assert_eq!((row.region, row.perms, &row.name), (Some(region.label.id), None, &None));
    assert_eq!(region.died, Some(at(50)));
}

#[test]
fn reading_after_a_loss_in_control_teaches_and_the_next_one_compares() {
    let seen = [(0x1000, 0x9000), (0x2_0000, 0x3_0000)];
    let records = [
        join(1),
        maps(2, SPACE, &[(0x1000, 0x9000)]),
        tick(300),
        loss_of(LossCause::ControlRing, 290, 310),
        maps(320, SPACE, &seen),
        maps(330, SPACE, &seen),
    ];

    let (rows, summary) = run_all(&records);

    assert_eq!(
        summary.maps.identity,
        MapIdentity { checks: 1, contradictions: 0, inconclusive: 0, learnt: 2 }
    );
    assert_eq!(map_rows(&rows), Vec::<&MapRow>::new());
}

#[test]
fn loss_of_faults_leaves_no_doubt_about_regions() {
    let records = [
        join(1),
        maps(2, SPACE, &[(0x1000, 0x9000)]),
        tick(300),
        loss(290, 310),
        maps(320, SPACE, &[(0x1000, 0x9000)]),
    ];

    let (_, summary) = run_all(&records);

    assert_eq!(
        summary.maps.identity,
        MapIdentity { checks: 1, contradictions: 0, inconclusive: 0, learnt: 1 }
    );
}

#[test]
fn change_that_nothing_explains_has_a_row_and_makes_the_next_reading_teach() {
    let records = [
        join(1),
        maps(2, SPACE, &[(0x1000, 0x9000)]),
        map(20, MapAction::Unexplained { space: SPACE, syscall: 9 }),
        maps(30, SPACE, &[(0x1000, 0xa000)]),
    ];

    let (rows, summary) = run_all(&records);

    assert_eq!(
        summary.maps.identity,
        MapIdentity { checks: 0, contradictions: 0, inconclusive: 0, learnt: 2 }
    );
    assert_eq!(map_rows(&rows).iter().map(|row| row.action).collect::<Vec<_>>(), ["unexplained"]);
}

#[test]
fn reading_that_began_before_the_program_was_loaded_is_not_compared() {
    // One within the exec, and one that began within it and ended after: from 14.5 to 15 ms is before its end.
    let within = maps(13, SPACE, &[(0x1000, 0x9000)]);
    let across = maps(15, SPACE, &[(0x1000, 0x9000)]);
    let records = [vec![join(1)], exec(), vec![within, across]];

    let (rows, summary) = run_all(&records.concat());

    assert_eq!(summary.maps.identity, MapIdentity { inconclusive: 2, ..MapIdentity::default() });
    assert!(map_rows(&rows).iter().all(|row| row.action == "exec"));
}

#[test]
fn program_that_a_guest_executes_is_not_the_hosts() {
    // A child of vfork, whose new space is told when its program has been loaded.
    let mut guest_shown = shown(30, anon((0x2_0000, 0x2_4000)));
    if let Record::Map(event) = &mut guest_shown {
        (event.tgid, event.tid) = (CHILD, Tid(CHILD.0));
    }
    let host = [(0x1000, 0x9000)];
    let records = [
        join(1),
        maps(2, SPACE, &host),
        fork(20, CHILD.0, SPACE.0),
        guest_shown,
        maps(40, SPACE, &host),
        maps(50, SPACE, &host),
    ];

    let (_, summary) = run_all(&records);

    assert_eq!(
        summary.maps.identity,
        MapIdentity { checks: 1, contradictions: 0, inconclusive: 0, learnt: 2 }
    );
}

#[test]
fn reading_of_what_is_in_flight_proves_nothing() {
    // The reading lasts from 19.5 to 20 ms and misses what was mapped meanwhile.
    let place = (0x2_0000, 0x2_4000);
    let mut mapped = mmap(0, place);
    if let Record::Map(event) = &mut mapped {
        event.time = Timestamp::from_nanos(19_700_000);
    }
    let mut vma = shown(0, anon(place));
    if let Record::Map(event) = &mut vma {
        event.time = Timestamp::from_nanos(19_700_000);
    }
    let seen = [(0x1000, 0x9000)];
    let records = [join(1), maps(2, SPACE, &seen), vma, mapped, maps(20, SPACE, &seen)];

    let (_, summary) = run_all(&records);

    assert_eq!(
        summary.maps.identity,
        MapIdentity { checks: 1, contradictions: 0, inconclusive: 0, learnt: 1 }
    );
}

#[test]
fn without_events_every_reading_teaches() {
    let records = [join(1), maps(2, SPACE, &[(0x1000, 0x9000)]), maps(50, SPACE, &[(0x2_0000, 0x3_0000)])];
    let options = Options { follows_maps: false, ..options(Detail::Full) };

    let (rows, _, summary) = run_with(options, &records);

    assert_eq!(
        summary.maps.identity,
        MapIdentity { checks: 0, contradictions: 0, inconclusive: 0, learnt: 2 }
    );
    let lives: Vec<_> = regions(&rows).iter().map(|region| (region.born, region.died)).collect();
    assert_eq!(lives, [(at(2), Some(at(50))), (at(50), None)]);
}

#[test]
fn timeline_counts_the_calls_of_each_region_by_kind() {
    let place = (0x2_0000, 0x2_4000);
    let (addr, length) = (addr(0x2_0000), 0x4000);
    let madvise = MapRequest::Madvise { addr, length, advice: 4 };
    let records = [
        join(1),
        maps(2, SPACE, &[(0x1000, 0x9000)]),
        shown(10, anon(place)),
        mmap(10, place),
        call(20, madvise.clone(), Ok(0)),
        call(21, madvise.clone(), Ok(0)),
        call(22, MapRequest::Mlock { addr, length, flags: 0 }, Ok(0)),
        call(23, madvise, Err(EINVAL)),
        munmap(30, place),
    ];

    let (rows, summary) = run_all(&records);

    let [row] = timeline(&rows)[..] else { panic!("one row: {rows:?}") };
    assert_eq!(row.region.as_ref().map(|region| region.range), Some(range(0x2_0000, 0x2_4000)));
    let maps = MapTally { mmap: 1, munmap: 1, madvise: 2, other: 1, ..MapTally::default() };
    assert_eq!(row.maps, maps);
    let calls = [(CallKind::Mmap, 1), (CallKind::Munmap, 1), (CallKind::Madvise, 2), (CallKind::Mlock, 1)];
    assert_eq!(summary.maps.calls, calls.into());
    assert_eq!(summary.maps.failed, [(CallKind::Madvise, 1)].into());
    let advised = Advised { calls: 2, bytes: 0x8000, lower_bound: false };
    assert_eq!(summary.maps.advice, [((TGID, 4), advised)].into());
}

#[test]
fn failed_call_has_a_row_with_its_error() {
    let request = MapRequest::Munmap { addr: addr(0x1001), length: 0x1000 };
    let records = [join(1), maps(2, SPACE, &[(0x1000, 0x9000)]), call(10, request, Err(EINVAL))];

    let (rows, _) = run_all(&records);

    let [row] = map_rows(&rows)[..] else { panic!("one row: {rows:?}") };
    assert_eq!((row.action, row.result, row.region), ("munmap", Some(Err(EINVAL)), None));
}

#[test]
fn split_region_is_the_parent_of_its_upper_part() {
    let records = [
        join(1),
        maps(2, SPACE, &[(0x1000, 0x9000)]),
        munmap(10, (0x3000, 0x5000)),
        munmap(20, (0x1000, 0x3000)),
        task(30, TGID.0, TaskAction::Exit { space: SPACE, group_dead: true, account: None }),
    ];

    let (rows, summary) = run_all(&records);

    let [lower, upper] = regions(&rows)[..] else { panic!("two regions: {rows:?}") };
    assert_eq!((lower.label.range, lower.born, lower.died), (range(0x1000, 0x3000), at(2), Some(at(20))));
    assert_eq!((upper.label.range, upper.born, upper.died), (range(0x5000, 0x9000), at(10), Some(at(30))));
    assert_eq!((lower.parent, upper.parent), (None, Some(lower.label.id)));
    assert_eq!(summary.regions_born, 2);
}

#[test]
fn end_of_a_process_has_a_row() {
    let (rows, _) = run_all(&[join(1), exit(30)]);

    let [row] = map_rows(&rows)[..] else { panic!("one row: {rows:?}") };
    assert_eq!((row.action, row.time, row.tgid), ("exit", at(30), TGID));
}

/// `mmap` of anonymous memory, and the VMA that the kernel shows of it.
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
    summary.maps.processes[&TGID]
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
    assert_eq!(summary.maps.churn, [((TGID, 0x3000), churn)].into());
    // Three times 12 KiB and once 4 KiB; three times 12 KiB.
    assert_eq!(summary.maps.processes, [(TGID, exactly(8, 0xa000, 0x9000))].into());
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

    assert_eq!(summary.maps.processes[&TGID], exactly(1, 0, 0));
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

    let process = MappingProcess { calls: 4, mapped: 0, unmapped: 0x1000, lower_bound: true };
    assert_eq!(summary.maps.processes[&TGID], process);
    let advised = Advised { calls: 2, bytes: 0x1000, lower_bound: true };
    assert_eq!(summary.maps.advice, [((TGID, 4), advised)].into());
}

#[test]
fn what_a_reading_corrects_is_not_counted() {
    let place = (0x2_0000, 0x2_4000);
    let calls = [&anonymous(10, place)[..], &[maps(20, SPACE, &[(0x1000, 0x3000)]), munmap(30, place)]];

    assert_eq!(mapping_of(calls.concat()), exactly(2, 0x4000, 0));
}

#[test]
fn fixed_mapping_ends_the_region_that_it_covers() {
    let place = (0x1000, 0x9000);
    let request =
        MapRequest::Mmap { addr: addr(0x1000), length: 0x8000, prot: 5, flags: 2 | MAP_FIXED, offset: 0 };
    let records =
        [join(1), maps(2, SPACE, &[place]), shown(10, file(place, 0)), call(10, request, Ok(0x1000))];

    let (rows, _) = run_all(&records);

    let lives: Vec<_> =
        regions(&rows).iter().map(|region| (region.label.backing, region.born, region.died)).collect();
    assert_eq!(lives, [(Backing::Anon, at(2), Some(at(10))), (Backing::File, at(10), None)]);
}
