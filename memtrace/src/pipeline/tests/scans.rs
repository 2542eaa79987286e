//! Scans: what asks for them, and which interval and region gets what they saw.

use super::*;
use crate::{
    event::{MapCall, MapRequest},
    timeline::{OutcomeKind, PageCounts, PageProperty},
};

/// A scan of the first 2 MiB that knew zero pages from others, and not huge ones.
fn pages(runs: Vec<StateRun>) -> Seen {
    let known = PageCategories::PRESENT | PageCategories::SWAPPED | PageCategories::PFNZERO;
    let (began, reason) = (Timestamp::default(), ScanReason::Heat);
    Seen::Pages(PageScan {
        began,
        reason,
        range: range(0, 0x20_0000),
        known,
        depth: ScanDepth::Categories,
        runs,
    })
}

/// How many pages have the property with this name.
fn count(counts: PageCounts, name: &str) -> Option<PageCount> {
    counts.at(PageProperty::index_of(name))
}

/// How many pages are present, which every scan knows.
fn present(counts: PageCounts) -> u64 {
    counts.present().expect("every scan knows it").get()
}

#[test]
fn hot_slots_ask_for_scans() {
    let cell = |space, start, end| HeatCell {
        space: Some(SpaceId(space)),
        slot: Some(range(start, end)),
        faults: FaultCounts { minor: 1, major: 0 },
    };
    let cells = vec![
        cell(SPACE.0, 0x20_0000, 0x40_0000),
        cell(SPACE.0, 0x40_0000, 0x60_0000),
        cell(SPACE.0, 0xa0_0000, 0xc0_0000),
        // Nobody is known to live there.
        cell(99, 0x20_0000, 0x40_0000),
    ];

    let (_, requests, _) = run(Detail::Full, &[join(1), Record::Heat(HeatReading { time: at(100), cells })]);

    let ranges = [(0x20_0000, 0x60_0000), (0xa0_0000, 0xc0_0000)];
    let ranges = ranges.map(|(start, end)| (range(start, end), ScanReason::Heat)).to_vec();
    let ask = |target| ProbeRequest { tgid: TGID, space: SPACE, target };
    // The maps when it joined, then the pages, and how much there is in all.
    assert_eq!(requests, [ProbeTarget::Maps, ProbeTarget::Pages(ranges), ProbeTarget::Resident].map(ask));
}

#[test]
fn scan_after_an_interval_belongs_to_it() {
    let runs = vec![
        StateRun::new(range(0x1000, 0x3000), PageCategories::PRESENT),
        StateRun::new(range(0x3000, 0x4000), PageCategories::SWAPPED),
        StateRun::new(range(0x8000, 0xa000), PageCategories::PRESENT | PageCategories::PFNZERO),
    ];
    let scan =
        Record::Observation(Observation { time: at(105), tgid: TGID, space: SPACE, seen: pages(runs) });
    let mut records = story();
    records.insert(6, scan);

    let (rows, _, summary) = run(Detail::Full, &records);

    let row = timeline(&rows)[0];
    let pages = row.pages.expect("the region was scanned");
    assert_eq!((row.start, pages.scanned), (at(0), at(105)));
    // The region is 0x1000..0x9000: two pages present, one in swap, one of the two zero pages within.
    let counts = [Some(pages.scanned_pages), pages.counts.present(), pages.counts.swapped()];
    assert_eq!(counts, [8, 3, 1].map(|pages| Some(PageCount::new(pages))));
    assert_eq!((count(pages.counts, "zero"), pages.counts.huge()), (Some(PageCount::new(1)), None));
    let total = summary.scans.total();
    assert_eq!((total.scans, total.pages.get()), (1, 512));
}

#[test]
fn counts_alone_give_rows_between_readings() {
    let slot = (0x20_0000, 0x40_0000);
    let records = [
        join(1),
        maps(2, SPACE, &[(0x20_0000, 0x60_0000)]),
        heat(120, slot, 40),
        heat(230, slot, 2),
        heat(240, (0x80_0000, 0xa0_0000), 9),
    ];

    let (rows, _, summary) = run(Detail::Counts, &records);

    let counts: Vec<_> = timeline(&rows)
        .iter()
        .map(|row| {
            (row.start, row.end, row.region.is_some(), row.range.is_some(), row.faults.completed.minor)
        })
        .collect();
    assert_eq!(
        counts,
        [
            (at(0), at(120), true, false, 40),
            (at(120), at(230), true, false, 2),
            (at(230), at(240), false, true, 9)
        ]
    );
    assert!(timeline(&rows).iter().all(|row| row.faults.detail.is_none()));
    assert_eq!(summary.heat.minor, 51);
}

#[test]
fn each_fault_gives_a_row_when_asked_for() {
    let (rows, ..) = run_with(Options { wants: RowSet::all(), ..options(Detail::Full) }, &story());

    let offsets: Vec<_> = rows
        .iter()
        .filter_map(|row| if let Row::Fault(row) = row { row.place.as_ref() } else { None })
        .map(|place| place.offset)
        .collect();
    assert_eq!(offsets, [0, 0x1000, 0, 0x2000]);
}

/// The rows that are closed while `records` come.
fn closed(options: Options, records: &[Record]) -> Vec<Row> {
    let mut pipeline = Pipeline::new(host(), options);
    let (mut rows, mut requests) = (Vec::new(), Vec::new());
    for record in records {
        pipeline.push(record.clone(), &mut rows, &mut requests);
    }
    rows
}

#[test]
fn region_that_a_scan_finds_after_the_fault_gets_the_fault() {
    let options = Options { wants: RowSet::all(), ..options(Detail::Full) };
    let records = [
        join(1),
        fault(10, 0x3000),
        tick(100),
        heat(101, (0, 0x20_0000), 1),
        maps(102, SPACE, &[(0x1000, 0x9000)]),
        resident(103),
        tick(110),
        // A quarter of a second after the scan and the tick that followed it.
        tick(361),
    ];

    let rows = closed(options, &records);

    let [Row::Fault(fault), Row::Timeline(row)] = &rows[..] else { panic!("two rows: {rows:?}") };
    let region = row.region.as_ref().expect("the scan came before the interval was closed");
    let place = fault.place.as_ref().expect("the same scan found it");
    assert_eq!((place.region, place.offset), (region.id, 0x2000));
    assert_eq!(row.faults.completed.minor, 1);
}

/// What is asked for last after a reading.
fn resident(millis: u64) -> Record {
    let seen = Seen::Resident(RssReading { resident: PageCount::new(1), counters: None });
    Record::Observation(Observation { time: at(millis), tgid: TGID, space: SPACE, seen })
}

#[test]
fn scan_is_waited_for_however_far_the_recorder_lags_behind() {
    let options = Options { wants: RowSet::all(), ..options(Detail::Full) };
    let begin = [join(1), maps(2, SPACE, &[(0x1000, 0x9000)]), fault(50, 0x3000), tick(100)];
    let ticks: Vec<_> = (2..10).map(|tenth| tick(tenth * 100)).collect();
    // The counters have been read, and before the recorder comes to that, it takes what was drained meanwhile; or it does so before it
    // comes to the tick at which they are read.
    let read_early = [&[heat(110, (0, 0x20_0000), 1)][..], &ticks].concat();
    let read_late = [&ticks[..], &[heat(910, (0, 0x20_0000), 1)]].concat();
    for lagging in [read_early, read_late] {
        let mut records = [&begin[..], &lagging].concat();
        assert_eq!(closed(options.clone(), &records), []);

        let runs = vec![StateRun::new(range(0x3000, 0x4000), PageCategories::PRESENT)];
        let Seen::Pages(scan) = pages(runs) else { panic!("a scan of pages") };
        let seen = Seen::Pages(PageScan { began: at(990), depth: ScanDepth::Words, ..scan });
        records.push(Record::Observation(Observation { time: at(1000), tgid: TGID, space: SPACE, seen }));
        records.extend([resident(1001), tick(1010), tick(1260)]);
        let rows = closed(options.clone(), &records);

        let faults = rows.iter().filter_map(|row| if let Row::Fault(row) = row { Some(row) } else { None });
        let kinds: Vec<_> = faults.map(|row| row.outcome.map(|outcome| outcome.kind)).collect();
        assert_eq!(kinds, [Some(OutcomeKind::Anon)]);
    }
}

#[test]
fn scan_is_waited_for_when_ticks_are_far_apart() {
    let mut records = story();
    // One tick from 60 to 190: the interval to 100 is over before the reading at its end.
    records.truncate(6);
    let reading = heat(191, (0, 0x20_0000), 2);
    records.extend([tick(190), reading, maps(192, SPACE, &[(0x1000, 0xa000)]), resident(193)]);
    // By 440 all events before 190 have come, but not the scan that followed the reading.
    records.extend([tick(200), tick(440)]);
    assert_eq!(timeline(&closed(options(Detail::Full), &records)), Vec::<&TimelineRow>::new());

    records.push(tick(450));
    let rows = closed(options(Detail::Full), &records);
    let ends: Vec<_> = timeline(&rows)
        .iter()
        .filter_map(|row| row.region.as_ref())
        .map(|region| region.range.end().as_raw())
        .collect();
    assert_eq!(ends, [0xa000, 0x40_0000]);
}

#[test]
fn scan_takes_its_turn_among_events() {
    let munmap = MapRequest::Munmap { addr: VirtAddr::from_raw(0x1000), length: 0x8000 };
    let call = MapCall { request: munmap, result: Ok(0), may_have_resized: true, file: None, stack: None };
    let records = [
        join(1),
        maps(20, SPACE, &[(0x1000, 0x9000)]),
        // It comes after the reading that still shows what it took away later.
        map(30, MapAction::Call { space: SPACE, call }),
        fault(10, 0x3000),
        tick(40),
        fault(25, 0x3000),
        tick(400),
    ];

    let (rows, _, summary) = run(Detail::Full, &records);

    assert_eq!(summary.regions[0].died, Some(at(30)));
    assert_eq!(timeline(&rows).iter().map(|row| row.faults.completed.minor).sum::<u64>(), 2);
    assert_eq!(summary.regions[0].faults.minor, 2);
}

#[test]
fn task_event_older_than_a_reading_is_in_time() {
    let records = [join(1), heat(100, (0, 0x20_0000), 3), fork(99, 20, 8), tick(105), tick(200)];

    let (rows, _, summary) = run(Detail::Counts, &records);

    assert_eq!(summary.losses, []);
    assert_eq!(timeline(&rows)[0].faults.completed.minor, 3);
}

#[test]
fn replaced_address_space_is_not_scanned() {
    let exec = TaskAction::Exec {
        space: SpaceId(9),
        old_tid: Tid(10),
        comm: Comm::from_text("next"),
        is_space_told: true,
        is_hidden: false,
        total_vm: None,
        max_rss: None,
        landmarks: Landmarks::default(),
    };
    let records = [join(1), task(5, 10, exec), heat(100, (0x20_0000, 0x40_0000), 3)];

    let (_, requests, _) = run(Detail::Full, &records);

    let spaces: Vec<_> = requests.iter().map(|request| request.space).collect();
    assert_eq!(spaces, [SPACE, SpaceId(9), SpaceId(9)]);
    assert!(!requests.iter().any(|request| matches!(request.target, ProbeTarget::Pages(_))), "{requests:?}");
}

#[test]
fn later_scan_replaces_an_earlier_one() {
    let scan = |millis| {
        let runs = vec![StateRun::new(range(0x1000, 0x3000), PageCategories::PRESENT)];
        let seen = pages(runs);
        Record::Observation(Observation { time: at(millis), tgid: TGID, space: SPACE, seen })
    };
    let slot = (0, 0x20_0000);
    let mut records = story();
    records.truncate(5);
    records.extend([heat(30, slot, 2), scan(31), heat(40, slot, 1), scan(41), tick(300)]);

    let (rows, ..) = run(Detail::Full, &records);

    let pages = timeline(&rows)[0].pages.expect("the region was scanned");
    assert_eq!((pages.scanned, pages.scanned_pages.get(), present(pages.counts)), (at(41), 8, 2));
}

#[test]
fn scans_of_a_recorder_that_lags_behind_are_not_counted_together() {
    let scan = |millis| {
        let seen = pages(vec![StateRun::new(range(0x1000, 0x3000), PageCategories::PRESENT)]);
        Record::Observation(Observation { time: at(millis), tgid: TGID, space: SPACE, seen })
    };
    let slot = (0, 0x20_0000);
    let mut records = vec![join(1), maps(2, SPACE, &[(0x1000, 0x9000)])];
    records.extend([heat(1000, slot, 1), scan(1010), tick(100), heat(1020, slot, 1), scan(1030)]);
    records.extend((2..10).map(|tenth| tick(tenth * 100)));
    records.push(tick(2000));

    let (rows, ..) = run(Detail::Full, &records);

    let seen: Vec<_> = timeline(&rows).iter().filter_map(|row| row.pages).collect();
    let [pages] = seen[..] else { panic!("{seen:?}") };
    assert_eq!((pages.scanned, pages.scanned_pages.get(), present(pages.counts)), (at(1030), 8, 2));
}

#[test]
fn region_that_was_only_scanned_had_no_faults() {
    let seen = pages(Vec::new());
    let scan = Record::Observation(Observation { time: at(50), tgid: TGID, space: SPACE, seen });

    let (rows, _, summary) =
        run(Detail::Full, &[join(1), maps(2, SPACE, &[(0x1000, 0x9000)]), scan, tick(300)]);

    assert_eq!(timeline(&rows)[0].faults.detail, Some(FaultDetail::default()));
    assert_eq!(summary.regions, []);
}

/// A scan for `reason` of the first `slots` slots, whose first `present` pages are present.
fn scan(millis: u64, reason: ScanReason, slots: u64, present: u64) -> Record {
    let known = PageCategories::PRESENT | PageCategories::HUGE;
    let runs = VirtRange::new(VirtAddr::from_raw(0), VirtAddr::from_raw(present * 0x1000))
        .map(|range| StateRun::new(range, PageCategories::PRESENT));
    let runs = runs.into_iter().collect();
    let seen = Seen::Pages(PageScan {
        began: at(millis),
        reason,
        range: range(0, slots * 0x20_0000),
        known,
        depth: ScanDepth::Categories,
        runs,
    });
    Record::Observation(Observation { time: at(millis), tgid: TGID, space: SPACE, seen })
}

#[test]
fn scans_are_counted_by_reason_and_what_they_left_out_is_too() {
    let hot = |space, slot: u64| HeatCell {
        space: Some(SpaceId(space)),
        slot: Some(range(slot * 0x20_0000, (slot + 1) * 0x20_0000)),
        faults: FaultCounts { minor: 1, major: 0 },
    };
    let cells = vec![hot(SPACE.0, 0), hot(SPACE.0, 9), hot(SPACE.0, 10), hot(99, 0)];
    let regions = [(0x1000, 0x9000), (0x100_0000, 0x110_0000), (0x200_0000, 0x220_0000)];
    let unmapped = MapRequest::Munmap { addr: VirtAddr::from_raw(0x200_0000), length: 0x20_0000 };
    let call = MapCall { request: unmapped, result: Ok(0), may_have_resized: true, file: None, stack: None };
    let records = [
        join(1),
        maps(2, SPACE, &regions),
        map(50, MapAction::Call { space: SPACE, call }),
        Record::Heat(HeatReading { time: at(100), cells }),
        scan(101, ScanReason::Heat, 1, 3),
        scan(102, ScanReason::Rotation, 1, 4),
        tick(600),
    ];

    let (_, _, summary) = run(Detail::Full, &records);

    let scans = summary.scans;
    let counts: Vec<_> =
        scans.by_reason.iter().map(|(reason, count)| (*reason, count.scans, count.pages.get())).collect();
    assert_eq!(counts, [(ScanReason::Heat, 1, 512), (ScanReason::Rotation, 1, 512)]);
    assert_eq!((scans.hot_slots, scans.hot_slots_scanned, scans.hot_slots_gone), (4, 1, 1));
    // One lives to the end, the other went after 48 ms.
    let unseen = scans.unseen;
    assert_eq!((unseen.regions, unseen.bytes, unseen.brief), (2, 0x30_0000, 1));
}

#[test]
fn pages_of_a_process_are_those_of_the_regions_that_it_had_last() {
    let regions = [(0x1000, 0x9000), (0x10_0000, 0x18_0000)];
    let unmapped = MapRequest::Munmap { addr: VirtAddr::from_raw(0x1000), length: 0x8000 };
    let call = MapCall { request: unmapped, result: Ok(0), may_have_resized: true, file: None, stack: None };
    let records = [
        join(1),
        maps(2, SPACE, &regions),
        scan(10, ScanReason::Heat, 1, 512),
        map(20, MapAction::Call { space: SPACE, call }),
        scan(30, ScanReason::Heat, 1, 0x110),
        exit(40),
        tick(600),
    ];

    let (rows, _, summary) = run(Detail::Full, &records);

    let pages = summary.processes[0].pages.expect("there were scans");
    assert_eq!((pages.scanned, present(pages.counts), count(pages.counts, "zero")), (at(30), 16, None));
    assert_eq!(pages.counts.huge(), Some(PageCount::new(0)));
    let peaks: Vec<_> = rows
        .iter()
        .filter_map(|row| if let Row::Region(row) = row { row.peak_present } else { None })
        .map(PageCount::get)
        .collect();
    assert_eq!(peaks, [8, 128]);
}

#[test]
fn scan_at_a_process_whose_address_space_was_not_known_is_of_the_one_it_lives_in() {
    let Record::Observation(seen) = scan(10, ScanReason::Full, 1, 512) else { unreachable!() };
    let scan = Record::Observation(Observation { space: SpaceId::UNKNOWN, ..seen });

    let (_, _, summary) = run(Detail::Full, &[join(1), maps(2, SPACE, &[(0x1000, 0x9000)]), scan, tick(600)]);

    let pages = summary.processes[0].pages.expect("there was a scan");
    assert_eq!(present(pages.counts), 8);
}

#[test]
fn pages_that_a_region_no_longer_has_are_not_its_last() {
    let unmapped = MapRequest::Munmap { addr: VirtAddr::from_raw(0x20_0000), length: 0x40_0000 };
    let call = MapCall { request: unmapped, result: Ok(0), may_have_resized: true, file: None, stack: None };
    let records = [
        join(1),
        maps(2, SPACE, &[(0, 0x60_0000)]),
        scan(10, ScanReason::Full, 3, 3 * 512),
        map(20, MapAction::Call { space: SPACE, call }),
        exit(40),
        tick(600),
    ];

    let (_, _, summary) = run(Detail::Full, &records);

    let pages = summary.processes[0].pages.expect("there was a scan");
    assert_eq!(present(pages.counts), 512);
}
