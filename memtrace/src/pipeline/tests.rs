use super::*;
use crate::{
    event::{
        Access, Account, Comm, Cpu, Fault, FaultCounts, FaultKind, HeatCell, Landmarks, LossCause, MapAction,
        MapEvent, MapsReading, Mode, PageScan, ReclaimReading, ScanDepth, ScanReason, SpaceId, TaskAction,
        TaskEvent, Tgid, Tid, Uncounted, UncountedCause, Vma,
    },
    pagemap::{PageCategories, StateRun},
    timeline::{AccessCounts, FaultDetail, FaultTotals, ProcessId, TimelineRow},
    units::{PageCount, TimeRange, VirtAddr, VirtRange},
};

mod arrival;
mod checks;
mod maps;
mod modules;
mod occupancy;
mod outcome;
mod processes;
mod residency;
mod scans;
mod stacks;

const MS: u64 = 1_000_000;
const SPACE: SpaceId = SpaceId(7);
const TGID: Tgid = Tgid(10);

/// The process `tgid` that was born, or first known, at that time.
fn process(tgid: Tgid, millis: u64) -> ProcessId {
    ProcessId { tgid, born: at(millis) }
}

fn host() -> HostFacts {
    HostFacts::sample(Timestamp::default())
}

fn options(detail: Detail) -> Options {
    Options {
        interval: Nanos::new(100 * MS),
        detail,
        follows_maps: true,
        sees_effects: true,
        verify: false,
        wants: RowSet::TIMELINE | RowSet::REGIONS | RowSet::LOSSES,
        stays: TimeRange::default(),
        focus: FocusOptions::default(),
    }
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_nanos(millis * MS)
}

fn range(start: u64, end: u64) -> VirtRange {
    VirtRange::new(VirtAddr::from_raw(start), VirtAddr::from_raw(end)).expect("not empty")
}

fn task(millis: u64, tid: u32, action: TaskAction) -> Record {
    Record::Task(TaskEvent { time: at(millis), tgid: TGID, tid: Tid(tid), action })
}

fn join(millis: u64) -> Record {
    task(millis, TGID.0, TaskAction::Join { space: SPACE, parent: None, comm: Comm::from_text("prog") })
}

fn anon((start, end): (u64, u64)) -> Vma {
    let name = Vec::new();
    Vma { range: range(start, end), perms: *b"rw-p", offset: 0, device: (0, 0), inode: 0, name }
}

/// A reading of maps that began half a millisecond before.
fn maps(millis: u64, space: SpaceId, ranges: &[(u64, u64)]) -> Record {
    let seen = Seen::Maps(MapsReading {
        began: at(millis).before(Nanos::new(MS / 2)),
        vmas: ranges.iter().copied().map(anon).collect(),
        landmarks: Landmarks::default(),
        devices: Vec::new(),
        at_exit: false,
    });
    Record::Observation(Observation { time: at(millis), tgid: TGID, space, seen })
}

fn map(millis: u64, action: MapAction) -> Record {
    Record::Map(Box::new(MapEvent { time: at(millis), tgid: TGID, tid: Tid(TGID.0), action }))
}

/// The address space of the process is copied for a child.
fn copied(millis: u64, child: u64) -> Record {
    map(millis, MapAction::Copied { parent: SPACE, child: SpaceId(child), brk: None, total_vm: None })
}

fn fault(millis: u64, addr: u64) -> Record {
    Record::Fault(Fault {
        time: at(millis),
        tid: Tid(TGID.0),
        cpu: Cpu(0),
        addr: VirtAddr::from_raw(addr),
        ip: VirtAddr::from_raw(0x40_0000),
        access: Some(Access::Write),
        protection: Some(false),
        mode: Mode::User,
        kind: FaultKind::Minor,
        latency: Some(Nanos::new(addr / 0x1000)),
        syscall: None,
        stack: None,
    })
}

fn loss(from: u64, to: u64) -> Record {
    loss_of(LossCause::EventsRing, from, to)
}

fn loss_of(cause: LossCause, from: u64, to: u64) -> Record {
    Record::Loss(Loss { start: at(from), end: Some(at(to)), cpu: Some(Cpu(0)), cause, count: Some(5) })
}

fn heat(millis: u64, slot: (u64, u64), minor: u64) -> Record {
    let slot = Some(range(slot.0, slot.1));
    let cells = vec![HeatCell { space: Some(SPACE), slot, faults: FaultCounts { minor, major: 0 } }];
    Record::Heat(HeatReading { time: at(millis), cells })
}

fn tick(millis: u64) -> Record {
    Record::Tick(at(millis))
}

/// A fork of a process that lives in `space` then.
fn fork(millis: u64, child: u32, space: u64) -> Record {
    let action = TaskAction::Fork {
        child_tgid: Tgid(child),
        child_tid: Tid(child),
        clone_flags: 0,
        space: SpaceId(space),
        parent_space: SPACE,
        comm: Comm::from_text("child"),
    };
    task(millis, TGID.0, action)
}

fn exit(millis: u64) -> Record {
    task(
        millis,
        TGID.0,
        TaskAction::Exit {
            space: SPACE,
            group_dead: true,
            account: Some(Account::default()),
            status: None,
            max_rss: None,
        },
    )
}

/// Rows, requests and totals of `records`.
fn run(detail: Detail, records: &[Record]) -> (Vec<Row>, Vec<ProbeRequest>, Summary) {
    run_with(options(detail), records)
}

fn run_with(options: Options, records: &[Record]) -> (Vec<Row>, Vec<ProbeRequest>, Summary) {
    let mut pipeline = Pipeline::new(host(), options);
    let (mut rows, mut requests) = (Vec::new(), Vec::new());
    for record in records {
        pipeline.push(record.clone(), &mut rows, &mut requests);
    }
    let summary = pipeline.finish(&mut rows);
    (rows, requests, summary)
}

fn timeline(rows: &[Row]) -> Vec<&TimelineRow> {
    rows.iter().filter_map(|row| if let Row::Timeline(row) = row { Some(row) } else { None }).collect()
}

/// A process with two regions that faults three times in the first interval and once in the second.
fn story() -> Vec<Record> {
    vec![
        join(1),
        maps(2, SPACE, &[(0x1000, 0x9000), (0x20_0000, 0x40_0000)]),
        fault(10, 0x1000),
        fault(11, 0x2000),
        fault(12, 0x20_0000),
        tick(60),
        fault(110, 0x3000),
        tick(160),
        tick(260),
    ]
}

#[test]
fn faults_are_counted_by_region_and_interval() {
    let (rows, _, summary) = run(Detail::Full, &story());

    let counts: Vec<_> = timeline(&rows)
        .iter()
        .map(|row| {
            let region = row.region.as_ref().expect("all faults lie in regions");
            (row.start, region.range.start().as_raw(), row.faults.completed.minor)
        })
        .collect();
    assert_eq!(counts, [(at(0), 0x1000, 2), (at(0), 0x20_0000, 1), (at(100), 0x1000, 1)]);
    assert_eq!(summary.faults.completed, FaultCounts { minor: 4, major: 0 });
    assert_eq!(summary.regions[0].faults.minor, 3);
}

#[test]
fn faults_that_did_not_complete_are_counted_by_how_they_ended() {
    use FaultKind::{Emulated, Failed, Refused, Retried, Unfinished};
    let kinds = [Failed, Failed, Refused, Emulated, Emulated, Emulated, Retried, Unfinished];
    let Record::Fault(fault) = fault(20, 0x1000) else { panic!("a fault") };
    let mut records = vec![join(1), maps(2, SPACE, &[(0x1000, 0x9000)])];
    records.extend(kinds.map(|kind| Record::Fault(Fault { kind, latency: None, ..fault })));

    let (rows, _, summary) = run(Detail::Full, &records);

    let FaultTotals { completed, failed, refused, emulated, retried, unfinished, .. } = summary.faults;
    assert_eq!(completed, FaultCounts::default());
    assert_eq!([failed, refused, emulated, retried, unfinished], [2, 1, 3, 1, 1]);
    let detail = timeline(&rows)[0].faults.detail.expect("faults were recorded one by one");
    assert_eq!((detail.failed, detail.incomplete, detail.latency_max), (2, 6, None));
}

#[test]
fn latency_of_an_hour_is_told_as_it_is() {
    const HOUR: Nanos = Nanos::new(3_600_000_000_000);
    let Record::Fault(fault) = fault(20, 0x1000) else { panic!("a fault") };
    let slow = Record::Fault(Fault { latency: Some(HOUR), ..fault });

    let (rows, _, summary) = run(Detail::Full, &[join(1), maps(2, SPACE, &[(0x1000, 0x9000)]), slow]);

    assert_eq!(summary.completed.latency_max, Some(HOUR));
    assert_eq!(summary.latencies.value_at_quantile(0.5) / 10_000_000_000, 360, "three digits");
    let detail = timeline(&rows)[0].faults.detail.expect("faults were recorded one by one");
    assert_eq!((detail.latency_sum, detail.latency_max), (HOUR, Some(HOUR)));
}

#[test]
fn latencies_add_up_and_the_largest_is_kept() {
    let (rows, ..) = run(Detail::Full, &story());

    let detail = timeline(&rows)[0].faults.detail.expect("faults were recorded one by one");
    assert_eq!((detail.latency_sum, detail.latency_max), (Nanos::new(1 + 2), Some(Nanos::new(2))));
    assert_eq!(detail.access, AccessCounts { write: 2, ..AccessCounts::default() });
}

#[test]
fn fault_outside_all_regions_has_a_row_without_one() {
    let (rows, ..) = run(Detail::Full, &[join(1), fault(10, 0x5000), tick(200)]);

    let [row] = timeline(&rows)[..] else { panic!("one row: {rows:?}") };
    assert_eq!(
        (row.process, row.region.as_ref(), row.faults.completed.minor),
        (Some(process(TGID, 1)), None, 1)
    );
}

#[test]
fn fault_of_an_unknown_thread_has_no_process() {
    let (rows, ..) = run(Detail::Full, &[fault(10, 0x5000), tick(200)]);

    assert_eq!(timeline(&rows)[0].process, None);
}

#[test]
fn arrival_order_within_the_window_changes_nothing() {
    let straight = story();
    let mut shuffled = story();
    shuffled.swap(2, 4);
    shuffled.swap(1, 3);

    assert_eq!(run(Detail::Full, &straight).0, run(Detail::Full, &shuffled).0);
}

#[test]
fn prefix_of_a_stream_gives_a_prefix_of_its_rows() {
    let (whole, ..) = run(Detail::Full, &story());
    let (prefix, ..) = run(Detail::Full, &story()[..6]);

    assert_eq!(timeline(&prefix).len(), 2);
    for (row, whole) in timeline(&prefix).iter().zip(timeline(&whole)) {
        assert_eq!((row.start, row.faults), (whole.start, whole.faults));
    }
}

#[test]
fn loss_makes_the_rows_that_it_touches_lower_bounds() {
    let mut records = story();
    records.insert(6, loss(105, 115));

    let (rows, _, summary) = run(Detail::Full, &records);

    let bounds: Vec<_> = timeline(&rows).iter().map(|row| row.lower_bound).collect();
    assert_eq!(bounds, [false, false, true]);
    assert!(rows.iter().any(|row| matches!(row, Row::Loss(_))));
    assert_eq!(summary.losses.len(), 1);
}

#[test]
fn forked_process_faults_in_copies_of_the_regions() {
    let mut child_fault = fault(30, 0x1000);
    if let Record::Fault(fault) = &mut child_fault {
        fault.tid = Tid(20);
    }
    let records = [
        join(1),
        maps(2, SPACE, &[(0x1000, 0x9000)]),
        fault(10, 0x1000),
        copied(20, 8),
        fork(20, 20, 8),
        child_fault,
        tick(200),
    ];

    let (rows, ..) = run(Detail::Full, &records);

    let [parent, child] = timeline(&rows)[..] else { panic!("two rows: {rows:?}") };
    assert_eq!((parent.process, child.process), (Some(process(TGID, 1)), Some(process(Tgid(20), 20))));
    let id = |row: &TimelineRow| row.region.as_ref().map(|region| region.id);
    assert!(id(child).is_some() && id(child) != id(parent));
}

#[test]
fn uncounted_faults_stand_in_the_row_without_a_region() {
    let uncounted = Record::Uncounted(Uncounted {
        time: at(20),
        tgid: TGID,
        tid: Tid(10),
        space: SPACE,
        faults: FaultCounts { minor: 50, major: 0 },
        cause: UncountedCause::Syscall(9),
    });

    let (rows, _, summary) = run(Detail::Full, &[join(1), uncounted, tick(200)]);

    let [row] = timeline(&rows)[..] else { panic!("one row: {rows:?}") };
    assert_eq!((row.region.as_ref(), row.uncounted), (None, Some(50)));
    assert_eq!(summary.uncounted, [(UncountedCause::Syscall(9), FaultCounts { minor: 50, major: 0 })]);
}

#[test]
fn accounts_of_tasks_add_up() {
    let account = |kernel, recorded, uncounted| Account {
        kernel: FaultCounts { minor: kernel, major: 0 },
        recorded: FaultCounts { minor: recorded, major: 0 },
        uncounted: FaultCounts { minor: uncounted, major: 0 },
    };
    let exit = TaskAction::Exit {
        space: SPACE,
        group_dead: true,
        account: Some(account(100, 90, 10)),
        status: None,
        max_rss: None,
    };
    let late = TaskAction::Late { account: Some(account(2, 2, 0)) };

    let (_, _, summary) = run(Detail::Full, &[join(1), task(50, 10, exit), task(60, 10, late), tick(200)]);

    assert_eq!(summary.account, Some(account(102, 92, 10)));
    assert_eq!(summary.tasks.exits, 1);
}

#[test]
fn process_is_known_before_it_joined() {
    let (rows, ..) = run(Detail::Full, &[fault(10, 0x5000), tick(20), join(15), tick(200)]);

    let row = timeline(&rows)[0];
    assert_eq!((row.process, row.comm), (Some(process(TGID, 15)), Comm::from_text("prog")));
}

#[test]
fn join_is_not_too_late_for_anything() {
    let (rows, ..) = run(Detail::Full, &[tick(100), join(15), fault(90, 0x5000), tick(200)]);

    assert_eq!(timeline(&rows).iter().map(|row| row.process).collect::<Vec<_>>(), [Some(process(TGID, 15))]);
}

#[test]
fn fault_of_an_ending_thread_is_its_own() {
    let records = [join(1), exit(50), fault(51, 0x5000), tick(300)];

    let (rows, ..) = run(Detail::Full, &records);

    assert_eq!(timeline(&rows)[0].process, Some(process(TGID, 1)));
}

#[test]
fn late_events_are_one_loss_a_tick() {
    let records =
        [join(1), tick(330), fault(30, 0x5000), fault(20, 0x5000), fault(95, 0x5000), tick(340), tick(550)];

    let (rows, _, summary) = run(Detail::Full, &records);

    let [loss] = summary.losses[..] else { panic!("one loss: {:?}", summary.losses) };
    assert_eq!(
        (loss.start, loss.end, loss.count, loss.cause),
        (at(20), Some(at(80)), Some(2), LossCause::Late)
    );
    assert!(timeline(&rows)[0].lower_bound);
    assert_eq!(summary.faults.completed.minor, 1);
}

#[test]
fn years_without_events_take_no_memory() {
    let mut records = story();
    records.push(fault(1 << 43, 0x1000));

    let (rows, ..) = run(Detail::Full, &records);

    assert_eq!(timeline(&rows).len(), 4);
}

#[test]
fn new_process_with_an_old_number_has_its_own_name() {
    let records = [join(1), exit(10), fork(120, TGID.0, 8), fault(130, 0x5000), tick(400)];

    let (rows, ..) = run(Detail::Full, &records);

    assert_eq!(timeline(&rows)[0].comm, Comm::from_text("child"));
}

#[test]
fn region_is_a_lower_bound_if_a_loss_came_while_it_rested() {
    let mut records = story();
    records.truncate(6);
    records.extend([loss(150, 160), tick(300)]);

    let (_, _, summary) = run(Detail::Full, &records);

    assert!(summary.regions.iter().all(|region| region.lower_bound));
}
