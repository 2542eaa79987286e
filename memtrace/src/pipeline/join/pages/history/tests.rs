use super::*;
use crate::{
    event::{Access, Cpu, FaultKind, Mode, Tid},
    pagemap::{PageFlags, PageWords, PagemapEntry, folio_around},
    units::{Nanos, Pfn},
};

const SPACE: SpaceId = SpaceId(7);
const PAGE: u64 = 4096;
/// Where the slot begins that the tests are about.
const SLOT: u64 = 2 << 20;
const PRESENT: u64 = 1 << 63;

fn page() -> PageSize {
    PageSize::from_bytes(PAGE).expect("a power of two")
}

fn addr(index: u64) -> VirtAddr {
    VirtAddr::from_raw(SLOT + index * PAGE)
}

/// Pages of the slot by their indices.
fn pages(pages: Range<u64>) -> VirtRange {
    VirtRange::new(addr(pages.start), addr(pages.end)).expect("not empty")
}

/// Present pages of which the first is in the frame `pfn`.
fn run(indices: Range<u64>, pfn: u64, categories: PageCategories, flags: PageFlags) -> StateRun {
    let words = PageWords { entry: PagemapEntry::from_raw(PRESENT | pfn), flags: Some(flags) };
    StateRun { range: pages(indices), categories: PageCategories::PRESENT | categories, words: Some(words) }
}

fn small(indices: Range<u64>, pfn: u64) -> StateRun {
    run(indices, pfn, PageCategories::empty(), PageFlags::ANON)
}

fn at(nanos: u64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

fn mmap(length: u64) -> MapRequest {
    MapRequest::Mmap { addr: addr(0), length, prot: 3, flags: 0x22, offset: 0 }
}

/// Pages that changed, their first frames before and after, and why.
type Changed = (Range<u64>, Option<u64>, Option<u64>, Cause);

/// The address space of a child.
const CHILD: SpaceId = SpaceId(8);

/// Slots of two address spaces.
struct World(PageHistory);

impl World {
    fn new() -> Self {
        Self(PageHistory::new(page()))
    }

    /// A scan of the slot that began and ended at `time`; returns what changed.
    fn scan(&mut self, time: u64, runs: &[StateRun]) -> Vec<Changed> {
        self.long_scan(SPACE, (time, time), runs)
    }

    /// A scan of the slot in `space` from `began` to `ended`, when all faults and calls to the end are known.
    fn long_scan(&mut self, space: SpaceId, (began, ended): (u64, u64), runs: &[StateRun]) -> Vec<Changed> {
        let slot = pages(0..512);
        let racing = self.0.racing_since(at(began), space, slot);
        let raced = raced(slot, runs, &racing, &RangeSet::new());
        let before = self.0.replace(at(ended), space, slot, runs, &raced);
        let pfn = |run: &StateRun| run.pfn().map(Pfn::as_raw);
        let index = |addr: VirtAddr| (addr.as_raw() - SLOT) / PAGE;
        let changes = before.changes(slot, runs, page()).into_iter();
        let known = changes.filter(|change| change.before != Before::Unknown);
        known
            .map(|Change { range, before, after, cause }| {
                let was = if let Before::Run(run) = before { pfn(&run) } else { None };
                (index(range.start())..index(range.end()), was, after.as_ref().and_then(pfn), cause)
            })
            .collect()
    }

    /// A fault that ended at `time` and took `latency`; returns whether it is the first since the last scan.
    fn fault_in(&mut self, space: SpaceId, (time, latency): (u64, u64), index: u64) -> bool {
        let fault = Fault {
            time: at(time),
            tid: Tid(1),
            cpu: Cpu(0),
            addr: addr(index),
            ip: VirtAddr::from_raw(0),
            access: Some(Access::Write),
            protection: Some(true),
            mode: Mode::User,
            kind: FaultKind::Minor,
            latency: Some(Nanos::new(latency)),
            syscall: None,
            stack: None,
        };
        self.0.fault(space, &fault)
    }

    fn fault(&mut self, time: u64, index: u64) -> bool {
        self.fault_in(SPACE, (time, 1), index)
    }

    fn call(&mut self, time: u64, request: &MapRequest, indices: Range<u64>) -> bool {
        self.0.call(at(time), SPACE, request, pages(indices))
    }
}

#[test]
fn what_was_there_at_the_first_scan_is_no_change() {
    let mut world = World::new();

    assert_eq!(world.scan(10, &[small(0..4, 100)]), []);
    assert_eq!(world.scan(20, &[small(0..4, 100)]), []);
}

#[test]
fn frames_that_the_kernel_changed_are_distinguished_from_those_of_faults() {
    let mut world = World::new();
    world.scan(10, &[small(0..8, 100)]);
    world.fault(15, 2);

    let changes = world.scan(20, &[small(0..2, 100), small(2..3, 900), small(3..6, 103), small(6..8, 206)]);

    assert_eq!(
        changes,
        [(2..3, Some(102), Some(900), Cause::Fault), (6..8, Some(106), Some(206), Cause::Kernel)]
    );
}

#[test]
fn pages_of_one_run_came_by_faults_or_by_the_call_that_mapped_them() {
    let mut world = World::new();
    assert!(world.call(12, &mmap(16 * PAGE), 0..16));
    world.fault(15, 2);
    world.fault(15, 3);

    let changes = world.scan(20, &[small(0..8, 100), small(30..31, 400)]);

    let expected = [
        (0..2, None, Some(100), Cause::Call),
        (2..4, None, Some(102), Cause::Fault),
        (4..8, None, Some(104), Cause::Call),
    ];
    assert_eq!(changes, expected, "of page 30 nobody knows what it was");
}

#[test]
fn call_that_populates_goes_on_for_many_scans() {
    let populate =
        MapRequest::Madvise { addr: addr(0), length: 8 * PAGE, advice: flags::MADV_POPULATE_WRITE };
    let mut world = World::new();
    world.scan(10, &[]);
    world.call(20, &populate, 0..8);

    assert_eq!(world.scan(30, &[small(0..3, 100)]), [(0..3, None, Some(100), Cause::Call)]);
    world.fault(35, 7);
    assert_eq!(
        world.scan(40, &[small(0..6, 100), small(7..8, 300)]),
        [(3..6, None, Some(103), Cause::Call), (7..8, None, Some(300), Cause::Fault)]
    );
    // It is done with those that have pages.
    assert_eq!(
        world.scan(50, &[small(0..1, 500), small(6..8, 200)])[..2],
        [(0..1, Some(100), Some(500), Cause::Kernel), (1..6, Some(101), None, Cause::Kernel)]
    );
}

#[test]
fn what_is_mapped_anew_is_not_what_a_call_populates() {
    let locked = MapRequest::Mlock { addr: addr(0), length: 8 * PAGE, flags: 0 };
    let mut world = World::new();
    world.scan(10, &[]);
    world.call(20, &locked, 0..8);
    world.scan(30, &[]);
    world.call(40, &mmap(4 * PAGE), 0..4);
    world.scan(50, &[]);

    assert_eq!(
        world.scan(60, &[small(0..8, 100)]),
        [(0..4, None, Some(100), Cause::Kernel), (4..8, None, Some(104), Cause::Call)]
    );
}

#[test]
fn fault_brings_all_of_a_folio() {
    let mut world = World::new();
    world.0.begin(SPACE);
    world.fault(15, 5);
    let folio = |flags| PageFlags::ANON | PageFlags::THP | flags;
    let head = run(4..5, 100, PageCategories::empty(), folio(PageFlags::COMPOUND_HEAD));
    let tails = run(5..8, 101, PageCategories::empty(), folio(PageFlags::COMPOUND_TAIL));
    let next = run(8..9, 104, PageCategories::empty(), folio(PageFlags::COMPOUND_HEAD));

    let changes = world.scan(20, &[head, tails, next]);

    let expected = [
        (4..5, None, Some(100), Cause::Fault),
        (5..8, None, Some(101), Cause::Fault),
        (8..9, None, Some(104), Cause::Call),
    ];
    assert_eq!(changes, expected);
    assert_eq!(folio_around(&[head, tails, next], 1, pages(5..6), page()), pages(4..8));
}

#[test]
fn pages_of_a_file_come_along_with_those_in_their_block() {
    let mut world = World::new();
    world.0.begin(SPACE);
    world.fault(15, 3);
    let file = run(0..20, 100, PageCategories::FILE, PageFlags::UPTODATE);

    let changes = world.scan(20, &[file]);

    let causes: Vec<_> = changes.into_iter().map(|(pages, .., cause)| (pages, cause)).collect();
    // Page 16 begins the next block of 64 KiB.
    let (around, fault) = (Cause::FaultAround, Cause::Fault);
    assert_eq!(causes, [(0..3, around), (3..4, fault), (4..16, around), (16..20, Cause::Call)]);
}

#[test]
fn call_that_empties_leaves_nothing_and_one_that_moves_leaves_no_knowledge() {
    let mut world = World::new();
    world.scan(10, &[small(0..8, 100)]);
    let munmap = MapRequest::Munmap { addr: addr(0), length: 2 * PAGE };
    assert!(world.call(12, &munmap, 0..2));
    let mremap = MapRequest::Mremap {
        old_addr: addr(4),
        old_size: 2 * PAGE,
        new_size: 2 * PAGE,
        flags: 1,
        new_addr: addr(0),
    };
    assert!(world.call(12, &mremap, 100..102));
    let cold = MapRequest::Madvise { addr: addr(6), length: 2 * PAGE, advice: 21 };
    assert!(!world.call(12, &cold, 6..8));

    let changes = world.scan(20, &[small(0..1, 500), small(2..4, 102), small(100..102, 104)]);

    let expected = [(0..1, None, Some(500), Cause::Call), (6..8, Some(106), None, Cause::Call)];
    assert_eq!(changes, expected);
}

#[test]
fn next_scan_tells_what_a_fault_did_amid_a_scan() {
    // Whether the scan saw the page before the fault or after.
    for seen in [100, 200] {
        let mut world = World::new();
        world.scan(10, &[small(0..1, 100), small(4..5, 104)]);
        assert!(world.fault(25, 0));
        assert_eq!(
            world.long_scan(SPACE, (20, 28), &[small(0..1, seen), small(4..5, 304)]),
            [(4..5, Some(104), Some(304), Cause::Kernel)]
        );

        let changes = world.scan(30, &[small(0..1, 200), small(4..5, 304)]);

        assert_eq!(changes, [(0..1, Some(100), Some(200), Cause::Fault)]);
    }
}

#[test]
fn next_scan_tells_what_a_call_did_amid_a_scan() {
    // Whether the scan saw the page before it went or after.
    for seen in [&[][..], &[small(0..1, 100)]] {
        let mut world = World::new();
        world.scan(10, &[small(0..1, 100)]);
        world.call(25, &MapRequest::Munmap { addr: addr(0), length: PAGE }, 0..1);
        assert_eq!(world.long_scan(SPACE, (20, 28), seen), []);
        assert!(world.fault(29, 0));

        assert_eq!(world.scan(30, &[small(0..1, 200)]), [(0..1, None, Some(200), Cause::Fault)]);
    }
}

#[test]
fn fault_maps_a_block_of_a_file_that_begins_with_the_region_at_the_earliest() {
    let region = pages(8..40);
    assert_eq!(fault_around(addr(9), region), Some(pages(8..24)));
    assert_eq!(fault_around(addr(17), region), Some(pages(16..32)));
    assert_eq!(fault_around(addr(33), region), Some(pages(32..40)));

    let mut world = World::new();
    world.0.begin(SPACE);
    assert!(world.fault(15, 9));
    let file = run(8..30, 100, PageCategories::FILE, PageFlags::UPTODATE);
    let before = world.0.replace(at(20), SPACE, pages(0..512), &[file], &RangeSet::new());

    let changes = before.changes(region, &[file], page());

    let ends: Vec<_> = changes.iter().map(|change| (change.range.end(), change.cause)).collect();
    let (along, fault) = (Cause::FaultAround, Cause::Fault);
    assert_eq!(ends, [(addr(9), along), (addr(10), fault), (addr(24), along), (addr(30), Cause::Call)]);
}

#[test]
fn pages_of_a_file_wait_with_the_fault_that_brought_them() {
    let mut world = World::new();
    world.0.begin(SPACE);
    assert!(world.fault(25, 3));
    let file = run(0..20, 100, PageCategories::FILE, PageFlags::UPTODATE);
    assert_eq!(world.long_scan(SPACE, (20, 28), &[file]), []);

    let changes = world.scan(30, &[file]);

    let causes: Vec<_> = changes.into_iter().map(|(pages, .., cause)| (pages, cause)).collect();
    let (around, fault) = (Cause::FaultAround, Cause::Fault);
    assert_eq!(causes, [(0..3, around), (3..4, fault), (4..16, around), (16..20, Cause::Call)]);
}

#[test]
fn fault_under_way_at_the_end_of_a_scan_may_have_done_its_work() {
    let mut world = World::new();
    world.scan(20, &[small(0..2, 100)]);
    world.fault_in(SPACE, (21, 5), 0);
    world.fault_in(SPACE, (22, 5), 8);

    let changes = world.scan(30, &[small(0..2, 200), small(8..9, 108)]);

    let expected = [(1..2, Some(101), Some(201), Cause::Kernel), (8..9, None, Some(108), Cause::Fault)];
    assert_eq!(changes, expected, "page 8 was not there yet when the scan ended");
}

#[test]
fn part_of_a_page_that_a_call_is_about_is_all_of_it() {
    let mut world = World::new();
    world.scan(10, &[small(0..8, 100)]);
    let part = VirtRange::new(VirtAddr::from_raw(SLOT + 0x1123), VirtAddr::from_raw(SLOT + 0x2456));
    let lock = MapRequest::Mlock { addr: VirtAddr::from_raw(SLOT + 0x1123), length: 0x1333, flags: 0 };
    assert!(!world.0.call(at(25), SPACE, &lock, part.expect("not empty")));
    assert_eq!(world.long_scan(SPACE, (20, 28), &[small(0..8, 100)]), []);

    assert_eq!(world.scan(30, &[small(0..8, 100)]), []);
    let place = &world.0.slots[&(SPACE, addr(0))];
    let ends: Vec<_> = place.runs.iter().map(|run| run.range.end()).collect();
    assert_eq!(ends, [addr(8)]);
}

#[test]
fn pages_that_came_before_do_not_wait_with_a_fault_amid_the_scan() {
    let racing = [addr(16)..addr(17)].into_iter().collect();
    let file = run(0..40, 100, PageCategories::FILE, PageFlags::UPTODATE);
    let came = [addr(0)..addr(16)].into_iter().collect();

    let waiting = raced(pages(0..512), &[file], &racing, &came);

    assert_eq!(waiting.iter().collect::<Vec<_>>(), [&(addr(16)..addr(33))]);
}

#[test]
fn child_of_a_process_that_fills_the_memory_is_not_kept_in_mind() {
    let mut world = World::new();
    let many: Vec<_> = (0..512).map(|index| small(index..index + 1, 1000 + 2 * index)).collect();
    let slots = u64::try_from(MAX_HELD).expect("small") / 1024;
    for slot in 0..=slots {
        let start = VirtAddr::from_raw(SLOT + (slot << 21));
        let slot = VirtRange::new(start, slot_end(start)).expect("not empty");
        world.0.replace(at(11), SPACE, slot, &many, &RangeSet::new());
    }
    let held = world.0.held;

    world.0.fork(at(20), SPACE, CHILD);

    assert_eq!(world.0.held, held);
    assert_eq!(world.0.slots.len() as u64, slots + 1);
}

#[test]
fn second_fault_at_a_page_is_not_the_first_until_somebody_scans() {
    let mut world = World::new();
    assert!(world.fault(10, 0));
    assert!(!world.fault(11, 0));
    world.scan(20, &[small(0..1, 100)]);
    assert!(world.fault(21, 0));
}

#[test]
fn child_has_what_its_parent_had_when_it_was_scanned() {
    let mut world = World::new();
    let file = run(8..10, 300, PageCategories::FILE, PageFlags::UPTODATE);
    world.scan(10, &[small(0..4, 100), file]);
    world.fault(15, 1);
    let advice = MapRequest::Madvise { addr: addr(2), length: PAGE, advice: 21 };
    world.call(16, &advice, 2..3);
    world.0.fork(at(20), SPACE, CHILD);
    world.fault_in(CHILD, (25, 1), 0);
    world.fault_in(CHILD, (25, 1), 5);

    let seen = [small(0..3, 500), small(3..4, 103), small(5..6, 505), small(8..9, 308)];
    let changes = world.long_scan(CHILD, (30, 30), &seen);

    let expected = [(0..1, Some(100), Some(500), Cause::Fault), (5..6, None, Some(505), Cause::Fault)];
    assert_eq!(changes, expected, "of pages 1, 2 and of the file nobody knows");
}

#[test]
fn what_was_scanned_longest_ago_is_forgotten_first() {
    let mut world = World::new();
    world.scan(10, &[small(0..1, 100)]);
    let runs = u64::try_from(MAX_HELD).expect("small");
    let many: Vec<_> = (0..runs / 16).map(|index| small(0..1, 1000 + index)).collect();
    for slot in 1..=16 {
        let start = VirtAddr::from_raw(SLOT + (slot << 21));
        let slot = VirtRange::new(start, slot_end(start)).expect("not empty");
        world.0.replace(at(11), SPACE, slot, &many, &RangeSet::new());
    }

    assert!(world.0.held <= MAX_HELD);
    assert_eq!(world.scan(40, &[small(0..1, 200)]), [], "nobody knows where it was");
}

#[test]
fn scattered_faults_without_scans_are_forgotten_too() {
    let mut world = World::new();
    let slots = u64::try_from(MAX_HELD).expect("small") / 128;
    for slot in 0..slots {
        for index in 0..256 {
            world.fault(10 + slot, slot * 512 + index * 2);
        }
        assert!(world.0.held <= MAX_HELD);
    }

    let held: usize = world.0.slots.values().map(SlotHistory::held).sum();
    assert_eq!(world.0.held, held);
    assert!((120..130).contains(&world.0.slots.len()), "of {slots}, those of the last faults");
}

/// A tebibyte from the slot on.
fn tebibyte() -> VirtRange {
    VirtRange::new(addr(0), VirtAddr::from_raw(SLOT + (1 << 40))).expect("not empty")
}

#[test]
fn slots_without_pages_are_one_range() {
    let mut world = World::new();
    world.scan(5, &[small(0..4, 100)]);
    world.scan(10, &[]);

    world.0.observe_absent(SPACE, tebibyte(), &RangeSet::new());

    assert_eq!((world.0.slots.len(), world.0.held), (0, 0));
    assert_eq!(world.0.elsewhere[&SPACE].len(), 2, "what lies before and behind");
}

#[test]
fn pages_where_a_scan_found_none_are_new() {
    let mut world = World::new();
    assert_eq!(world.0.observe_absent(SPACE, tebibyte(), &RangeSet::new()), RangeSet::new());
    world.fault(15, 2);

    let changes = world.scan(20, &[small(0..4, 100)]);

    let expected = [
        (0..2, None, Some(100), Cause::Kernel),
        (2..3, None, Some(102), Cause::Fault),
        (3..4, None, Some(103), Cause::Kernel),
    ];
    assert_eq!(changes, expected);
}

#[test]
fn advice_may_bring_pages_where_a_scan_found_none() {
    let mut world = World::new();
    world.0.observe_absent(SPACE, tebibyte(), &RangeSet::new());
    let advice = MapRequest::Madvise { addr: addr(1), length: PAGE, advice: 3 };
    assert!(!world.call(15, &advice, 1..2));

    let changes = world.scan(20, &[small(0..2, 100)]);

    assert_eq!(changes, [(0..1, None, Some(100), Cause::Kernel), (1..2, None, Some(101), Cause::Call)]);
}

#[test]
fn what_was_touched_during_a_scan_that_found_nothing_stays_as_it_was_known() {
    let mut world = World::new();
    let racing = [pages(1..2).addrs()].into_iter().collect();

    world.0.observe_absent(SPACE, tebibyte(), &racing);

    let changes = world.scan(20, &[small(0..3, 100)]);
    assert_eq!(changes, [(0..1, None, Some(100), Cause::Kernel), (2..3, None, Some(102), Cause::Kernel)]);
}

#[test]
fn child_has_no_pages_where_a_scan_of_its_parent_found_none() {
    let mut world = World::new();
    world.0.observe_absent(SPACE, tebibyte(), &RangeSet::new());
    world.0.fork(at(15), SPACE, CHILD);

    let changes = world.long_scan(CHILD, (20, 20), &[small(0..1, 100)]);

    assert_eq!(changes, [(0..1, None, Some(100), Cause::Kernel)]);
}
