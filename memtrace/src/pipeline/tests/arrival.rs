//! Rows depend on what happened, not on how it arrived.

use proptest::prelude::*;

use super::*;

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
    let step = (0..12u8, 0..8 * MS, 0..20 * MS, 10..14u32, 0..64u64);
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
        arrivals.push((arrival, event(time, u64::try_from(number).expect("few"), step)));
    }
    let fixed = (0..now / (10 * MS) + 5).map(|tick| (tick * 10 * MS, Record::Tick(at(tick * 10))));
    let maps = (1..=now / (100 * MS)).map(|look| {
        let end = 0x1000 * (20 + look * 4);
        (look * 100 * MS, maps(look * 100, SPACE, &[(0x1000, end), (0x30_000, 0x40_000)]))
    });
    // Ticks and looks come when they come.
    let mut records: Vec<_> = fixed.chain(maps).chain(arrivals).collect();
    records.sort_by_key(|(arrival, _)| *arrival);
    let start = [join(1), maps_at_start()];
    start.into_iter().chain(records.into_iter().map(|(_, record)| record)).collect()
}

fn maps_at_start() -> Record {
    maps(2, SPACE, &[(0x1000, 0x20_000)])
}

fn event(time: Timestamp, number: u64, step: &Step) -> Record {
    let tid = Tid(step.tid);
    let space = SpaceId(100 + number);
    let comm = Comm::from_text(if step.page.is_multiple_of(2) { "even" } else { "odd" });
    let action = match step.kind {
        0 => TaskAction::Fork {
            child_tgid: Tgid(step.tid + 1),
            child_tid: Tid(step.tid + 1),
            clone_flags: 0,
            space,
            parent_space: SPACE,
            comm,
        },
        1 => TaskAction::Exec { space, old_tid: tid, comm },
        2 => TaskAction::Exit { space: SPACE, group_dead: true, account: Some(Account::default()) },
        3 => TaskAction::Comm(comm),
        _ => {
            let Record::Fault(fault) = fault(0, 0x1000 * step.page) else { unreachable!("it makes faults") };
            return Record::Fault(Fault { time, tid, ..fault });
        }
    };
    Record::Task(TaskEvent { time, tgid: Tgid(step.tid), tid, action })
}

proptest! {
    #[test]
    fn arrival_within_the_window_changes_nothing(steps in steps()) {
        let (rows, _, summary) = run(Detail::Full, &records(&steps, false));
        let (delayed_rows, _, delayed) = run(Detail::Full, &records(&steps, true));

        prop_assert_eq!(delayed.losses, []);
        prop_assert_eq!(rows, delayed_rows);
        prop_assert_eq!(summary.regions, delayed.regions);
        prop_assert_eq!(summary.processes, delayed.processes);
    }

    #[test]
    fn rows_count_each_fault_once(steps in steps()) {
        let faults = steps.iter().filter(|step| step.kind > 3).count();

        let (rows, _, summary) = run(Detail::Full, &records(&steps, true));

        let in_rows: u64 = timeline(&rows).iter().map(|row| row.faults.completed.minor).sum();
        prop_assert_eq!(usize::try_from(in_rows), Ok(faults));
        prop_assert_eq!(summary.faults.completed.minor, in_rows);
    }

    #[test]
    fn prefix_gives_the_rows_that_were_closed(steps in steps(), part in 0..=100usize) {
        let records = records(&steps, true);
        let (mut pipeline, mut requests) = (Pipeline::new(host(), options(Detail::Full)), Vec::new());
        let mut closed = Vec::new();
        for record in &records[..records.len() * part / 100] {
            pipeline.push(record.clone(), &mut closed, &mut requests);
        }

        let (whole, ..) = run(Detail::Full, &records);

        prop_assert_eq!(&closed[..], &whole[..closed.len()]);
    }
}
