use super::*;
use crate::{
    event::{
        Comm, FaultCounts, HeatCell, HostFacts, Landmarks, MapRequest, MapsReading, ProbeRequest, ScanDepth,
        TaskAction, TaskEvent, Tgid, Tid, Vma,
    },
    pagemap::{PageCategories, StateRun},
};

const SPACE: SpaceId = SpaceId(7);
const TGID: Tgid = Tgid(10);
const SLOT: u64 = 2 << 20;
const MS: u64 = 1_000_000;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_nanos(millis * MS)
}

/// The slots from the one with this number to the one before that.
fn slot_range(first: u64, end: u64) -> VirtRange {
    VirtRange::new(VirtAddr::from_raw(first * SLOT), VirtAddr::from_raw(end * SLOT)).expect("not empty")
}

/// A process and what its scans are chosen by; each scan takes as long per page as a test says.
struct World {
    focus: Focus,
    directory: Directory,
    tasks: Tasks,
    page: PageSize,
    now: u64,
}

impl World {
    /// A process that has `regions` mapped, given in slots; scans may take `percent` of every 100 ms.
    fn new(areas: Vec<Area>, percent: u32, regions: &[(u64, u64, &str)]) -> Self {
        let host = HostFacts::sample(at(0));
        let page = host.page;
        let options = FocusOptions { areas, max_cpu: CpuShare::from_percent(percent) };
        let mut tasks = Tasks::new(&host, true);
        let mut directory = Directory::default();
        let action = TaskAction::Join { space: SPACE, parent: None, comm: Comm::default() };
        let join = TaskEvent { time: at(0), tgid: TGID, tid: Tid(TGID.0), action };
        directory.learn(&join);
        tasks.apply(&join);
        let focus = Focus::new(options, page, Nanos::new(100 * MS));
        let mut world = Self { focus, directory, tasks, page, now: 0 };
        world.read(regions);
        world
    }

    /// Its maps are read, and show `regions`.
    fn read(&mut self, regions: &[(u64, u64, &str)]) {
        let vma = |&(first, end, name): &(u64, u64, &str)| Vma {
            range: slot_range(first, end),
            perms: *b"rw-p",
            offset: 0,
            device: (0, 0),
            inode: 0,
            name: name.as_bytes().to_vec(),
        };
        let vmas = regions.iter().map(vma).collect();
        let time = at(self.now + 1);
        let scan = MapsReading {
            began: time,
            vmas,
            landmarks: Landmarks::default(),
            devices: Vec::new(),
            at_exit: false,
        };
        let compared = self.tasks.compare(time, (TGID, SPACE), &scan);
        assert!(compared.is_some(), "the process is known");
    }

    /// Takes the scans of one round, each page of which takes `page_ns`, with `present` pages at the start of each; returns
    /// the ranges in slots, with their reasons.
    fn round(&mut self, page_ns: u64, present: u64) -> Vec<(u64, u64, ScanReason)> {
        self.now += 100;
        let mut requests = Vec::new();
        self.focus.plan(at(self.now), &self.directory, &self.tasks, &mut requests);
        let mut scans = Vec::new();
        for ProbeRequest { target, .. } in requests {
            let ProbeTarget::Pages(ranges) = target else { continue };
            for (range, reason) in ranges {
                let took = Nanos::new(range.pages(self.page).get() * page_ns);
                let end = VirtAddr::from_raw(range.start().as_raw() + present * 4096);
                let runs = VirtRange::new(range.start(), end)
                    .map(|range| StateRun::new(range, PageCategories::PRESENT));
                let (began, known) = (at(self.now), PageCategories::PRESENT);
                let depth = ScanDepth::Categories;
                let scan = PageScan { began, reason, range, known, depth, runs: runs.into_iter().collect() };
                self.focus.learn(at(self.now).after(took), SPACE, &scan);
                scans.push((range.start().as_raw() / SLOT, range.end().as_raw() / SLOT, reason));
            }
        }
        scans
    }

    /// Faults in slots, by number.
    fn heat(&mut self, slots: &[(u64, u64)]) {
        let cell = |&(slot, minor): &(u64, u64)| HeatCell {
            space: Some(SPACE),
            slot: Some(slot_range(slot, slot + 1)),
            faults: FaultCounts { minor, major: 0 },
        };
        let cells = slots.iter().map(cell).collect();
        self.focus.heat(&HeatReading { time: at(self.now), cells });
    }

    /// The process counts so many resident pages.
    fn count(&mut self, pages: u64) {
        self.focus.count(SPACE, PageCount::new(pages));
    }
}

#[test]
fn process_is_visited_once_its_regions_are_known() {
    let mut world = World::new(Vec::new(), 100, &[]);
    assert_eq!(world.round(20, 1), []);
    world.count(890);

    world.read(&[(2, 4, "")]);

    assert_eq!(world.round(20, 1), [(2, 4, ScanReason::Population)]);
}

#[test]
fn everything_is_visited_at_first_and_then_only_what_happens() {
    let mut world = World::new(Vec::new(), 100, &[(2, 4, ""), (10, 11, "")]);

    assert_eq!(world.round(20, 1), [(2, 4, ScanReason::Population), (10, 11, ScanReason::Population)]);
    world.count(2);
    assert_eq!(world.round(20, 1), []);
    world.heat(&[(3, 9)]);
    assert_eq!(world.round(20, 1), [(3, 4, ScanReason::Heat)]);
    assert_eq!(world.round(20, 1), []);
}

#[test]
fn hottest_slots_come_first_and_the_others_wait() {
    // 1 ms: at 20 ns per page a hundred slots.
    let mut world = World::new(Vec::new(), 1, &[(0, 1, "")]);
    while !world.round(20, 1).is_empty() {}
    world.count(1);
    let slots: Vec<_> = (100..300).map(|slot| (slot, slot)).collect();
    world.heat(&slots);

    let rounds = std::iter::repeat_with(|| world.round(20, 0)).take_while(|scans| !scans.is_empty());

    let mut hottest = 300;
    for scans in rounds {
        let [(first, end, ScanReason::Heat)] = scans[..] else { panic!("neighbours: {scans:?}") };
        assert_eq!(end, hottest, "the hottest that are left");
        assert!(end - first <= 101, "{scans:?}");
        hottest = first;
    }
    assert_eq!(hottest, 100, "all have had their turn");
}

#[test]
fn memory_that_a_call_populates_is_scanned() {
    let mut world = World::new(Vec::new(), 100, &[(2, 40, "")]);
    while !world.round(20, 1).is_empty() {}
    world.count(38);
    let request =
        MapRequest::Mmap { addr: VirtAddr::from_raw(0), length: 3 * SLOT, prot: 3, flags: 0x8022, offset: 0 };
    let call =
        MapCall { request, result: Ok(20 * SLOT + 4096), may_have_resized: false, file: None, stack: None };
    world.focus.called(SPACE, &call);
    let failed = MapCall { result: Err(12), ..call };
    world.focus.called(SPACE, &failed);

    assert_eq!(world.round(20, 1), [(20, 24, ScanReason::Call)]);
}

#[test]
fn population_that_no_event_tells_of_is_found_by_a_visit() {
    let mut world = World::new(Vec::new(), 100, &[(2, 4, "")]);
    while !world.round(20, 100).is_empty() {}
    world.count(200);
    world.count(200 + 100);
    assert_eq!(world.round(20, 100), []);

    world.count(200 + 256);

    assert_eq!(world.round(20, 356), [(2, 4, ScanReason::Population)]);
    world.count(456);
    assert_eq!(world.round(20, 356), []);
}

#[test]
fn what_the_user_names_is_scanned_every_time() {
    let areas = vec![Area::Name("lib".to_owned()), Area::Range(slot_range(31, 33))];
    let mut world = World::new(areas, 100, &[(2, 4, "/usr/lib/x.so"), (10, 12, "[heap]"), (30, 40, "")]);
    world.round(20, 1);
    world.count(3);

    for _ in 0..3 {
        assert_eq!(world.round(20, 1), [(2, 4, ScanReason::Asked), (31, 33, ScanReason::Asked)]);
    }
}

#[test]
fn what_is_asked_for_goes_on_where_it_had_to_stop() {
    let mut world = World::new(vec![Area::All], 1, &[(0, 1000, "")]);

    let mut seen = Vec::new();
    while seen.last() != Some(&1000) {
        let scans = world.round(20, 0);
        let asked = scans.iter().filter(|(.., reason)| *reason == ScanReason::Asked);
        let (start, end, _) = asked.copied().next().expect("something each time");
        assert_eq!(start, seen.last().copied().unwrap_or(0), "{scans:?}");
        seen.push(end);
    }

    assert!((9..=12).contains(&seen.len()), "about a hundred slots in each millisecond: {seen:?}");
}

#[test]
fn rotation_reaches_everything_and_begins_anew_when_its_time_has_come() {
    let mut world = World::new(Vec::new(), 100, &[(0, 64, "")]);
    while !world.round(20, 1).is_empty() {}
    world.count(64);
    world.now += 10_000;

    assert_eq!(world.round(20, 1), [(0, 64, ScanReason::Rotation)]);
    assert_eq!(world.round(20, 1), []);
}

#[test]
fn rotation_takes_no_more_than_its_share_whatever_the_size() {
    // A hundred milliseconds, a thirty-second part of which is left to rotation: 305 slots of 20 ns a page.
    let mut world = World::new(Vec::new(), 100, &[(0, 100_000, "")]);
    while !world.round(20, 0).is_empty() {}
    world.now += 10_000;

    let scans = world.round(20, 0);

    let [(0, end, ScanReason::Rotation)] = scans[..] else { panic!("{scans:?}") };
    assert!((300..=310).contains(&end), "{scans:?}");
}

#[test]
fn long_range_that_a_call_changed_is_scanned_in_parts() {
    // 1 ms: about a hundred slots each time.
    let mut world = World::new(Vec::new(), 1, &[(0, 4, "")]);
    while !world.round(20, 1).is_empty() {}
    world.count(4);
    let request = MapRequest::Madvise { addr: VirtAddr::from_raw(0), length: 1000 * SLOT, advice: 4 };
    let call = MapCall { request, result: Ok(0), may_have_resized: false, file: None, stack: None };
    // Once more is nothing more.
    (0..5).for_each(|_| world.focus.called(SPACE, &call));

    let mut next = 0;
    while next < 1000 {
        let [(start, end, ScanReason::Call)] = world.round(20, 0)[..] else { panic!("one part each time") };
        assert_eq!(start, next);
        assert!((1..=101).contains(&(end - start)), "{start}..{end}");
        next = end;
    }

    assert_eq!((next, world.round(20, 0)), (1000, Vec::new()));
}

#[test]
fn slots_beyond_what_can_wait_make_everything_worth_a_visit() {
    let mut world = World::new(Vec::new(), 1, &[(0, 4, "")]);
    while !world.round(20, 1).is_empty() {}
    world.count(4);
    let slots: Vec<_> = (1000..).map(|slot| (slot, 1)).take(MAX_WAITING).collect();
    world.heat(&slots);
    assert!(!world.focus.coverage[&SPACE].is_visit_due());

    world.heat(&[(999, 1)]);

    assert!(world.focus.coverage[&SPACE].is_visit_due());
}

#[test]
fn process_that_has_gone_is_not_scanned() {
    let mut world = World::new(vec![Area::All], 100, &[(2, 4, "")]);
    world.heat(&[(3, 1)]);
    let action =
        TaskAction::Exit { space: SPACE, group_dead: true, account: None, status: None, max_rss: None };
    world.directory.learn(&TaskEvent { time: at(5), tgid: TGID, tid: Tid(TGID.0), action });

    assert_eq!(world.round(20, 1), []);
}
