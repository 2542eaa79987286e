//! When readings of maps are asked for.

use super::*;
use crate::event::{MapCall, MapRequest};

/// Ticks, 10 ms apart, at which a reading of maps is asked for while `records` come before the tick of their time.
fn asked(records: &[(u64, Record)], until: u64) -> Vec<u64> {
    let mut pipeline = Pipeline::new(host(), options(Detail::Full));
    let (mut rows, mut asked) = (Vec::new(), Vec::new());
    let mut records = records.iter().peekable();
    for millis in (10..=until).step_by(10) {
        let mut requests = Vec::new();
        while let Some((_, record)) = records.next_if(|(time, _)| *time < millis) {
            pipeline.push(record.clone(), &mut rows, &mut requests);
        }
        pipeline.push(tick(millis), &mut rows, &mut requests);
        let ask = ProbeRequest { tgid: TGID, space: SPACE, target: ProbeTarget::Maps };
        asked.extend(requests.iter().filter(|request| **request == ask).map(|_| millis));
    }
    asked
}

/// A reading that took from `began` to `ended`, in milliseconds.
fn reading(began: u64, ended: u64) -> (u64, Record) {
    let vmas = vec![anon((0x1000, 0x9000))];
    let seen = Seen::Maps(MapsReading {
        began: at(began),
        vmas,
        landmarks: Landmarks::default(),
        devices: Vec::new(),
        at_exit: false,
    });
    (ended, Record::Observation(Observation { time: at(ended), tgid: TGID, space: SPACE, seen }))
}

#[test]
fn space_that_nobody_has_read_is_asked_for_soon() {
    // At once, and then every 50 ms.
    assert_eq!(asked(&[(1, join(1))], 200), [10, 60, 110, 160]);
}

#[test]
fn known_space_is_asked_for_every_second() {
    let asked = asked(&[(1, join(1)), reading(2, 3)], 3_500);

    // The reading takes effect once nothing earlier can come: at the first tick after 253 ms.
    assert_eq!(asked, [10, 60, 110, 160, 210, 1_210, 2_210, 3_210]);
}

#[test]
fn space_that_is_slow_to_read_is_asked_for_more_rarely() {
    let asked = asked(&[(1, join(1)), reading(2, 32)], 7_000);

    // 30 ms are a hundredth of 3 s.
    let later: Vec<_> = asked.into_iter().filter(|millis| *millis > 300).collect();
    assert_eq!(later, [3_260, 6_260]);
}

#[test]
fn loss_makes_a_known_space_asked_for_soon() {
    let records = [(1, join(1)), reading(2, 3), (520, loss_of(LossCause::ControlRing, 500, 510))];

    let asked = asked(&records, 700);

    let later: Vec<_> = asked.into_iter().filter(|millis| *millis > 300).collect();
    assert_eq!(later, [530, 580, 630, 680]);
}

#[test]
fn process_whose_birth_is_missing_is_asked_for_when_it_calls() {
    let request = MapRequest::Munmap { addr: VirtAddr::from_raw(0x1000), length: 0x1000 };
    let call = MapCall { request, result: Ok(0), may_have_resized: false, file: None, stack: None };
    let call = map(5, MapAction::Call { space: SPACE, call });

    assert_eq!(asked(&[(5, call)], 120), [10]);
}

#[test]
fn process_that_ended_is_asked_for_no_more() {
    assert_eq!(asked(&[(1, join(1)), (70, exit(70))], 300), [10, 60]);
}

/// A scan that found no memory.
fn nothing(millis: u64) -> Record {
    Record::Observation(Observation { time: at(millis), tgid: TGID, space: SPACE, seen: Seen::Nothing })
}

#[test]
fn process_without_memory_is_asked_for_no_more() {
    assert_eq!(asked(&[(1, join(1)), (70, nothing(70))], 300), [10, 60]);
}

#[test]
fn process_whose_end_is_missing_ends_when_its_memory_is_found_gone() {
    let records = [join(1), maps(2, SPACE, &[(0x1000, 0x9000)]), nothing(70), tick(900)];

    let (rows, ..) = run(Detail::Full, &records);

    let died = |row: &Row| if let Row::Region(region) = row { region.died } else { None };
    assert_eq!(rows.iter().filter_map(died).collect::<Vec<_>>(), [at(70)]);
}

#[test]
fn process_that_executes_a_program_where_nothing_was_found_goes_on() {
    let (space, landmarks) = (SpaceId(9), Landmarks::default());
    let comm = Comm::from_text("next");
    let exec = TaskAction::Exec {
        space,
        old_tid: Tid(TGID.0),
        comm,
        is_space_told: false,
        landmarks,
        is_hidden: false,
        total_vm: None,
        max_rss: None,
    };
    let records = [join(1), nothing(70), task(71, TGID.0, exec), fault(80, 0x1000), tick(900)];

    let (rows, ..) = run(Detail::Full, &records);

    let faulted: Vec<_> = timeline(&rows).iter().map(|row| (row.process, row.comm.to_string())).collect();
    assert_eq!(faulted, [(Some(process(TGID, 1)), "next".to_owned())]);
}
