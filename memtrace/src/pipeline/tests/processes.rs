//! Processes that had the same ID one after the other.

use super::*;
use crate::{
    event::{Landmarks, MapCall, MapRequest, RssCounters, RssReading},
    timeline::{PeakRss, ProcessSummary},
    units::PageCount,
};

const CHILD: Tgid = Tgid(20);

/// `record`, done by the only thread of the child.
fn by_child(mut record: Record) -> Record {
    match &mut record {
        Record::Fault(fault) => fault.tid = Tid(CHILD.0),
        Record::Task(TaskEvent { tgid, tid, .. }) | Record::Uncounted(Uncounted { tgid, tid, .. }) => {
            (*tgid, *tid) = (CHILD, Tid(CHILD.0));
        }
        Record::Map(map) => (map.tgid, map.tid) = (CHILD, Tid(CHILD.0)),
        other => panic!("nobody does {other:?}"),
    }
    record
}

fn named(millis: u64, name: &str) -> Record {
    by_child(task(millis, CHILD.0, TaskAction::Comm(Comm::from_text(name))))
}

fn mapped(millis: u64, space: u64, length: u64) -> Record {
    let request = MapRequest::Mmap { addr: VirtAddr::from_raw(0), length, prot: 3, flags: 0x22, offset: 0 };
    let call = MapCall { request, result: Ok(0x10_0000), may_have_resized: true, file: None, stack: None };
    by_child(map(millis, MapAction::Call { space: SpaceId(space), call }))
}

fn uncounted(millis: u64, space: u64, minor: u64) -> Record {
    by_child(Record::Uncounted(Uncounted {
        time: at(millis),
        tgid: CHILD,
        tid: Tid(CHILD.0),
        space: SpaceId(space),
        faults: FaultCounts { minor, major: 0 },
        cause: UncountedCause::Exit,
    }))
}

/// The kernel charged `minor` faults to the child by its end.
fn ended(millis: u64, space: u64, minor: u64) -> Record {
    let kernel = FaultCounts { minor, major: 0 };
    let account = Some(Account { kernel, ..Account::default() });
    by_child(task(
        millis,
        CHILD.0,
        TaskAction::Exit { space: SpaceId(space), group_dead: true, account, status: None, max_rss: None },
    ))
}

/// One child with three faults, and within the same interval another one with the same ID and two.
fn story() -> Vec<Record> {
    vec![
        join(1),
        fork(10, CHILD.0, 8),
        named(11, "first"),
        mapped(12, 8, 0x3000),
        mapped(12, 8, 0x4000),
        by_child(fault(13, 0x1000)),
        by_child(fault(14, 0x2000)),
        by_child(fault(15, 0x3000)),
        uncounted(19, 8, 4),
        ended(20, 8, 7),
        fork(30, CHILD.0, 9),
        named(31, "second"),
        mapped(32, 9, 0x5000),
        by_child(fault(33, 0x1000)),
        by_child(fault(34, 0x2000)),
        ended(40, 9, 2),
        tick(500),
    ]
}

#[test]
fn each_has_its_own_totals_and_name() {
    let (_, _, summary) = run(Detail::Full, &story());

    let told = |one: &ProcessSummary| {
        let minor = |faults: FaultCounts| faults.minor;
        let kernel = one.account.map(|account| minor(account.kernel));
        (one.id, one.comm.to_string(), minor(one.faults), one.uncounted.map(minor), kernel)
    };
    let told: Vec<_> = summary.processes.iter().map(told).collect();
    let expected = [
        (process(TGID, 1), "prog".to_owned(), 0, None, None),
        (process(CHILD, 10), "first".to_owned(), 3, Some(4), Some(7)),
        (process(CHILD, 30), "second".to_owned(), 2, Some(0), Some(2)),
    ];
    assert_eq!(told, expected);
    let calls = summary.maps.processes.iter().map(|(process, sums)| (*process, sums.calls));
    assert_eq!(calls.collect::<Vec<_>>(), [(process(CHILD, 10), 2), (process(CHILD, 30), 1)]);
}

#[test]
fn each_has_its_own_rows_in_an_interval_that_both_lived_in() {
    let (rows, ..) = run(Detail::Full, &story());

    let told = |row: &&TimelineRow| (row.process, row.comm.to_string(), row.faults.completed.minor);
    let faulted: Vec<_> = timeline(&rows).iter().map(told).filter(|(_, _, minor)| *minor > 0).collect();
    let expected = [
        (Some(process(CHILD, 10)), "first".to_owned(), 3),
        (Some(process(CHILD, 30)), "second".to_owned(), 2),
    ];
    assert_eq!(faulted, expected);
}

#[test]
fn what_is_charged_after_the_end_is_of_the_process_that_ended() {
    let mut records = story();
    let late = Account { kernel: FaultCounts { minor: 1, major: 0 }, ..Account::default() };
    records.insert(9, by_child(task(25, CHILD.0, TaskAction::Late { account: Some(late) })));

    let (_, _, summary) = run(Detail::Full, &records);

    let kernel: Vec<_> = summary.processes.iter().filter_map(|one| Some(one.account?.kernel.minor)).collect();
    assert_eq!(kernel, [8, 2]);
}

#[test]
fn process_that_was_listed_while_it_was_born_is_one() {
    let records = [join(1), fork(30, CHILD.0, 9), by_child(fault(33, 0x1000)), tick(500)];
    let listed = TaskAction::Join { space: SpaceId(9), parent: Some(TGID), comm: Comm::from_text("child") };
    let listed = by_child(task(31, CHILD.0, listed));

    let (_, _, summary) = run(Detail::Full, &[&[listed], &records[..]].concat());

    let ids: Vec<_> = summary.processes.iter().map(|one| (one.id, one.faults.minor)).collect();
    assert_eq!(ids, [(process(TGID, 1), 0), (process(CHILD, 31), 1)]);
}

#[test]
fn uncounted_faults_are_no_calls_where_a_cpu_was_not_followed() {
    let by_mmap = |millis| {
        let mut record = uncounted(millis, 8, 4);
        if let Record::Uncounted(uncounted) = &mut record {
            uncounted.cause = UncountedCause::Syscall(9);
        }
        record
    };
    let records = [
        join(1),
        fork(10, CHILD.0, 8),
        by_mmap(20),
        // The faults of the time from 50 on may be found long after.
        loss_of(LossCause::CpuOffline, 50, 60),
        by_mmap(90),
        by_mmap(91),
        tick(500),
    ];

    let (_, _, summary) = run(Detail::Full, &records);

    let minor = |minor| FaultCounts { minor, major: 0 };
    let expected = [(UncountedCause::Syscall(9), minor(8)), (UncountedCause::Unseen, minor(4))];
    assert_eq!(summary.uncounted, expected);
}

#[test]
fn process_that_ends_without_a_last_comparison_is_unverified() {
    let mut records = story();
    let held = |record: Record| match record {
        Record::Observation(Observation { time, space, seen: Seen::Maps(maps), .. }) => {
            let seen = Seen::Maps(MapsReading { at_exit: true, ..maps });
            Record::Observation(Observation { time, tgid: CHILD, space, seen })
        }
        other => panic!("a reading of maps: {other:?}"),
    };
    // The second child alone, which has the ID of the first.
    records.insert(15, held(maps(38, SpaceId::UNKNOWN, &[])));

    for (verify, unverified) in [(true, Some(1)), (false, None)] {
        let options = Options { verify, ..options(Detail::Full) };
        let (_, _, summary) = run_with(options, &records);
        assert_eq!(summary.maps.identity.unverified, unverified);
    }
}

#[test]
fn process_of_which_two_threads_are_the_last_ends_once() {
    let thread = |record: Record| match by_child(record) {
        Record::Task(event) => Record::Task(TaskEvent { tid: Tid(CHILD.0 + 1), ..event }),
        other => panic!("of a task: {other:?}"),
    };
    let records = [join(1), fork(10, CHILD.0, 8), thread(ended(20, 8, 3)), ended(20, 8, 32)];

    let options = Options { verify: true, wants: RowSet::all(), ..options(Detail::Full) };
    let (rows, _, summary) = run_with(options, &records);

    assert_eq!(summary.maps.identity.unverified, Some(1));
    let is_exit = |row: &&Row| matches!(row, Row::Map(map) if map.action == "exit");
    assert_eq!(rows.iter().filter(is_exit).count(), 1);
}

fn seen(millis: u64, space: u64, seen: Seen) -> Record {
    Record::Observation(Observation { time: at(millis), tgid: CHILD, space: SpaceId(space), seen })
}

#[test]
fn process_whose_memory_is_gone_before_its_end_has_that_too() {
    // Until Linux 6.15 the memory goes before sched_process_exit.
    let records = [join(1), fork(10, CHILD.0, 8), seen(15, 8, Seen::Nothing), ended(20, 8, 3)];

    let (rows, _, summary) = run_with(Options { wants: RowSet::all(), ..options(Detail::Full) }, &records);

    let is_exit = |row: &&Row| matches!(row, Row::Map(map) if map.action == "exit");
    assert_eq!(rows.iter().filter(is_exit).count(), 1);
    let child = summary.processes.iter().find(|one| one.id.tgid == CHILD).expect("it was born");
    assert_eq!((child.died, child.parent), (Some(at(20)), Some(TGID)));
}

#[test]
fn counters_are_a_row_where_the_address_space_is_the_one_that_was_meant() {
    let pages = PageCount::new;
    let counters =
        RssCounters { anon: pages(5), file: pages(3), shmem: pages(1), swap: pages(2), peak: pages(20) };
    let reading = || Seen::Resident(RssReading { resident: pages(9), counters: Some(counters) });
    let exec = by_child(task(
        40,
        CHILD.0,
        TaskAction::Exec {
            space: SpaceId(9),
            old_tid: Tid(CHILD.0),
            comm: Comm::from_text("next"),
            is_space_told: false,
            landmarks: Landmarks::default(),
            is_hidden: false,
            total_vm: None,
            max_rss: Some(pages(30)),
        },
    ));
    let records = [
        join(1),
        fork(10, CHILD.0, 8),
        seen(20, 8, reading()),
        exec,
        seen(50, 8, reading()),
        seen(60, 9, reading()),
        ended(70, 9, 3),
        seen(80, 9, reading()),
    ];

    let (rows, _, summary) = run_with(Options { wants: RowSet::all(), ..options(Detail::Full) }, &records);

    let counted = rows.iter().filter_map(|row| if let Row::Rss(row) = row { Some(*row) } else { None });
    let counted: Vec<_> = counted.map(|row| (row.time, row.space.0, row.counters)).collect();
    assert_eq!(counted, [(at(20), 8, counters), (at(60), 9, counters)]);
    let child = summary.processes.iter().find(|one| one.id.tgid == CHILD).expect("it was born");
    assert_eq!(child.peak, PeakRss { exact: None, seen: Some(pages(20)) }, "its end does not say more");
}

#[test]
fn sums_are_the_same_whichever_rows_are_made() {
    let sums = |wants| {
        let (rows, _, summary) = run_with(Options { wants, ..options(Detail::Full) }, &story());
        let Summary { end, faults, tasks, losses, .. } = summary;
        (rows.len(), (end, faults, tasks, losses))
    };

    let (none, of_losses) = sums(RowSet::LOSSES);
    let (some, of_timeline) = sums(RowSet::TIMELINE);
    let (most, of_events) = sums(RowSet::all());

    assert!(none == 0 && 0 < some && some < most, "{none}, {some} and {most} rows");
    assert_eq!((&of_losses, &of_timeline), (&of_events, &of_events));
    assert_eq!((of_events.1.completed.minor, of_events.2.processes), (5, 3));
}

#[test]
fn event_that_comes_too_late_is_a_loss_whichever_rows_are_made() {
    let records = [join(1), tick(500), fault(100, 0x1000), tick(600)];

    for wants in [RowSet::empty(), RowSet::all()] {
        let (_, _, summary) = run_with(Options { wants, ..options(Detail::Full) }, &records);

        assert_eq!(
            summary.losses.iter().map(|loss| (loss.cause, loss.count)).collect::<Vec<_>>(),
            [(LossCause::Late, Some(1))]
        );
    }
}

#[test]
fn processes_that_ended_are_sums_unless_every_one_is_wanted() {
    const COUNT: u32 = 40_000;
    let lives = |index: u32| {
        let (tgid, space, millis) = (1_000 + index, u64::from(100 + index), u64::from(10 + index));
        let mut end = ended(millis, space, 2);
        if let Record::Task(task) = &mut end {
            (task.tgid, task.tid) = (Tgid(tgid), Tid(tgid));
        }
        [fork(millis, tgid, space), end, tick(millis)]
    };
    let records: Vec<_> = [join(1)].into_iter().chain((0..COUNT).flat_map(lives)).collect();

    for (wants, is_every_one) in [(RowSet::TIMELINE, false), (RowSet::SUMS, true)] {
        let (_, _, summary) = run_with(Options { wants, ..options(Detail::Full) }, &records);

        let told = summary.processes.len();
        assert_eq!(told > COUNT as usize, is_every_one, "{told} for {wants:?}");
        assert_eq!(summary.tasks.processes, u64::from(COUNT) + 1);
        assert_eq!(summary.account.map(|account| account.kernel.minor), Some(2 * u64::from(COUNT)));
    }
}

#[test]
fn fault_has_the_name_of_its_process_at_that_time_beside_that_of_its_thread() {
    const THREAD: u32 = 21;
    const CLONE_THREAD: u64 = 0x1_0000;
    let thread = TaskAction::Fork {
        child_tgid: CHILD,
        child_tid: Tid(THREAD),
        clone_flags: CLONE_THREAD,
        space: SpaceId(8),
        parent_space: SpaceId(8),
        comm: Comm::from_text("worker"),
    };
    let by_thread = |millis| {
        let Record::Fault(fault) = fault(millis, 0x1000) else { panic!("a fault") };
        Record::Fault(Fault { tid: Tid(THREAD), ..fault })
    };
    let records = [
        join(1),
        fork(10, CHILD.0, 8),
        by_child(fault(11, 0x1000)),
        named(12, "server"),
        by_child(task(13, CHILD.0, thread)),
        by_thread(14),
        tick(1_000),
    ];

    let (rows, ..) = run_with(Options { wants: RowSet::FAULTS, ..options(Detail::Full) }, &records);

    let name = |comm: Option<Comm>| comm.map(|comm| comm.to_string()).unwrap_or_default();
    let names: Vec<_> = rows
        .into_iter()
        .filter_map(|row| match row {
            Row::Fault(row) => {
                Some((row.process.map(|one| one.tgid), name(row.process_comm), name(row.comm)))
            }
            _ => None,
        })
        .collect();
    let pair = |process: &str, thread: &str| (Some(CHILD), process.to_owned(), thread.to_owned());
    assert_eq!(names, [pair("child", "child"), pair("server", "worker")]);
}
