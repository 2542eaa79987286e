//! Changes of address spaces: what they do to faults, rows and totals.

use super::*;
use crate::{
    event::{CallKind, MapCall, MapRequest, ReportedVma, flags::MAP_FIXED},
    timeline::{
        Advised, Backing, Churn, FaultRow, MapIdentity, MapRow, MapTally, MappingProcess, RegionSummary,
    },
};

mod in_flight;
mod turnover;

const CHILD: Tgid = Tgid(20);
const EINVAL: i32 = 22;

fn addr(addr: u64) -> VirtAddr {
    VirtAddr::from_raw(addr)
}

fn shown(millis: u64, vma: Vma) -> Record {
    map(millis, MapAction::Shown(ReportedVma { vma, kind: None }))
}

fn call(millis: u64, request: MapRequest, result: Result<u64, i32>) -> Record {
    let call = MapCall { request, result, may_have_resized: true, file: None, stack: None };
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
        max_rss: None,
        landmarks: Landmarks { start_brk: None, start_stack: Some(addr(0x7_7ff0)) },
    }
}

/// All rows and totals of `records`.
fn run_all(records: &[Record]) -> (Vec<Row>, Summary) {
    let (rows, _, summary) = run_with(Options { wants: RowSet::all(), ..options(Detail::Full) }, records);
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
    assert_eq!((parent.process, parent.born, parent.died), (process(TGID, 1), at(2), Some(at(22))));
    assert_eq!((child.process, child.born, child.died), (process(CHILD, 25), at(20), None));
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

    let identity =
        MapIdentity { checks: 2, contradictions: 1, inconclusive: 0, resyncs: 1, unverified: None };
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
        MapIdentity { checks: 1, contradictions: 0, inconclusive: 0, resyncs: 2, unverified: None }
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
        MapIdentity { checks: 1, contradictions: 0, inconclusive: 0, resyncs: 1, unverified: None }
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
        MapIdentity { checks: 0, contradictions: 0, inconclusive: 0, resyncs: 2, unverified: None }
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
    // A child of vfork, whose new space is reported when its program has been loaded.
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
        MapIdentity { checks: 1, contradictions: 0, inconclusive: 0, resyncs: 2, unverified: None }
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
        MapIdentity { checks: 1, contradictions: 0, inconclusive: 0, resyncs: 1, unverified: None }
    );
}

#[test]
fn without_events_every_reading_teaches() {
    let records = [join(1), maps(2, SPACE, &[(0x1000, 0x9000)]), maps(50, SPACE, &[(0x2_0000, 0x3_0000)])];
    let options = Options { follows_maps: false, ..options(Detail::Full) };

    let (rows, _, summary) = run_with(options, &records);

    assert_eq!(
        summary.maps.identity,
        MapIdentity { checks: 0, contradictions: 0, inconclusive: 0, resyncs: 2, unverified: None }
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
    assert_eq!(summary.maps.advice, [((process(TGID, 1), 4), advised)].into());
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
        task(
            30,
            TGID.0,
            TaskAction::Exit { space: SPACE, group_dead: true, account: None, status: None, max_rss: None },
        ),
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
