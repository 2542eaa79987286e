//! Rows depend on what happened, not on how it arrived.

use proptest::prelude::*;

use super::*;
use crate::event::{MapCall, MapRequest, ReportedVma, flags::MREMAP_FIXED};

/// One thing that a thread does: which, how long after the thing before, and how much later it arrives.
#[derive(Clone, Debug)]
struct Step {
    kind: u8,
    gap: u64,
    delay: u64,
    tid: u32,
    page: u64,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..16u8, 1..8 * MS, 0..20 * MS, 10..14u32, 0..64u64);
    let step = step.prop_map(|(kind, gap, delay, tid, page)| Step { kind, gap, delay, tid, page });
    prop::collection::vec(step, 1..60)
}

/// What the steps are, with the times of their arrival if each comes as late as it says, or at once.
fn records(steps: &[Step], with_delay: bool) -> Vec<Record> {
    let mut now = 10 * MS;
    let mut arrivals = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        now += step.gap;
        let time = Timestamp::from_nanos(now);
        let arrival = if with_delay { now + step.delay } else { now };
        let events = events(time, u64::try_from(number).expect("few"), step);
        arrivals.extend(events.into_iter().map(|event| (arrival, event)));
    }
    let ticks = (0..now / (10 * MS) + 5).map(|tick| (tick * 10 * MS, Record::Tick(at(tick * 10))));
    let scans = (1..=now / (100 * MS)).map(|scan| {
        let end = 0x1000 * (20 + scan * 4);
        let delay = if with_delay { 15 * MS } else { 0 };
        (scan * 100 * MS + delay, maps(scan * 100, SPACE, &[(0x1000, end), (0x30_000, 0x40_000)]))
    });
    // Ticks come when they come.
    let mut records: Vec<_> = ticks.chain(scans).chain(arrivals).collect();
    records.sort_by_key(|(arrival, _)| *arrival);
    let start = [join(1), maps(2, SPACE, &[(0x1000, 0x20_000)])];
    start.into_iter().chain(records.into_iter().map(|(_, record)| record)).collect()
}

/// What a step raises, all at `time`.
fn events(time: Timestamp, number: u64, step: &Step) -> Vec<Record> {
    let Step { kind, tid: thread, page, .. } = *step;
    let tid = Tid(thread);
    let task = |action| Record::Task(TaskEvent { time, tgid: Tgid(thread), tid, action });
    let map = |action| Record::Map(Box::new(MapEvent { time, tgid: Tgid(thread), tid, action }));
    let call = |request, result| {
        map(MapAction::Call {
            space: SPACE,
            call: MapCall { request, result, may_have_resized: true, file: None, stack: None },
        })
    };
    let (space, parent_space) = (SpaceId(100 + number), SPACE);
    let comm = Comm::from_text(if page.is_multiple_of(2) { "even" } else { "odd" });
    let (addr, length) = (VirtAddr::from_raw(0x1000 * page), 0x4000);
    let shown = || {
        let vma = anon((addr.as_raw(), addr.as_raw() + length));
        map(MapAction::Shown(ReportedVma { vma, kind: None }))
    };
    match kind {
        0 => {
            let fork = TaskAction::Fork {
                child_tgid: Tgid(thread + 1),
                child_tid: Tid(thread + 1),
                clone_flags: 0,
                space,
                parent_space,
                comm,
            };
            vec![
                map(MapAction::Copied { parent: SPACE, child: space, brk: None, total_vm: None }),
                task(fork),
            ]
        }
        1 => {
            let (is_space_told, landmarks) = (true, Landmarks::default());
            vec![
                map(MapAction::Renewed { space }),
                task(TaskAction::Exec {
                    space,
                    old_tid: tid,
                    comm,
                    is_space_told,
                    landmarks,
                    is_hidden: false,
                    total_vm: None,
                    max_rss: None,
                }),
                shown(),
            ]
        }
        2 => {
            let account = Some(Account::default());
            vec![task(TaskAction::Exit {
                space: SPACE,
                group_dead: true,
                account,
                status: None,
                max_rss: None,
            })]
        }
        3 => vec![task(TaskAction::Comm(comm))],
        4 => vec![call(MapRequest::Munmap { addr, length }, Ok(0))],
        5 => {
            let request = MapRequest::Mmap { addr, length, prot: 3, flags: 0x32, offset: 0 };
            vec![shown(), call(request, Ok(addr.as_raw()))]
        }
        6 => {
            let old_addr = VirtAddr::from_raw(0x1000);
            let (old_size, new_size, flags) = (length, length, MREMAP_FIXED);
            let new_addr = VirtAddr::from_raw(addr.as_raw() + 0x10_0000);
            let request = MapRequest::Mremap { old_addr, old_size, new_size, flags, new_addr };
            vec![call(request, Ok(new_addr.as_raw()))]
        }
        7 => vec![map(MapAction::Unexplained { space: SPACE, syscall: 9 })],
        _ => {
            let Record::Fault(fault) = fault(0, 0x1000 * page) else { unreachable!("it makes faults") };
            vec![Record::Fault(Fault { time, tid, ..fault })]
        }
    }
}

/// Rows of every table, and totals, of `records`.
fn run_all(records: &[Record]) -> (Vec<Row>, Summary) {
    let (rows, _, summary) = run_with(Options { wants: RowSet::all(), ..options(Detail::Full) }, records);
    (rows, summary)
}

proptest! {
    #[test]
    fn arrival_within_the_window_changes_nothing(steps in steps()) {
        let (rows, summary) = run_all(&records(&steps, false));
        let (delayed_rows, delayed) = run_all(&records(&steps, true));

        prop_assert_eq!(delayed.losses, []);
        prop_assert_eq!(rows, delayed_rows);
        prop_assert_eq!(summary.regions, delayed.regions);
        prop_assert_eq!(summary.processes, delayed.processes);
        prop_assert_eq!(summary.maps, delayed.maps);
    }

    #[test]
    fn rows_count_each_fault_once(steps in steps()) {
        let faults = steps.iter().filter(|step| step.kind > 7).count();

        let (rows, _, summary) = run(Detail::Full, &records(&steps, true));

        let in_rows: u64 = timeline(&rows).iter().map(|row| row.faults.completed.minor).sum();
        prop_assert_eq!(usize::try_from(in_rows), Ok(faults));
        prop_assert_eq!(summary.faults.completed.minor, in_rows);
    }

    #[test]
    fn prefix_gives_the_rows_that_were_closed(steps in steps(), part in 0..=100usize) {
        let records = records(&steps, true);
        let options = Options { wants: RowSet::all(), ..options(Detail::Full) };
        let (mut pipeline, mut requests) = (Pipeline::new(host(), options), Vec::new());
        let mut closed = Vec::new();
        for record in &records[..records.len() * part / 100] {
            pipeline.push(record.clone(), &mut closed, &mut requests);
        }

        let (whole, _) = run_all(&records);

        prop_assert_eq!(&closed[..], &whole[..closed.len()]);
    }
}
