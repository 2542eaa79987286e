use super::*;

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

/// Slots of one address space.
struct World(Places);

impl World {
    fn new() -> Self {
        Self(Places::new(page()))
    }

    /// A look at the slot; returns what changed.
    fn look(&mut self, began: u64, runs: &[StateRun]) -> Vec<Changed> {
        let before = self.0.replace(at(began), SPACE, addr(0), runs.to_vec());
        let pfn = |run: &StateRun| frame_at(run, run.range.start(), page()).map(Pfn::as_raw);
        let index = |addr: VirtAddr| (addr.as_raw() - SLOT) / PAGE;
        let changes = before.changes(pages(0..512), runs, page()).into_iter();
        let known = changes.filter(|change| change.before != Before::Unknown);
        known
            .map(|Change { range, before, after, cause }| {
                let was = if let Before::Run(run) = before { pfn(&run) } else { None };
                (index(range.start())..index(range.end()), was, after.as_ref().and_then(pfn), cause)
            })
            .collect()
    }
}

#[test]
fn what_was_there_at_the_first_look_is_no_change() {
    let mut world = World::new();

    assert_eq!(world.look(10, &[small(0..4, 100)]), []);
    assert_eq!(world.look(20, &[small(0..4, 100)]), []);
}

#[test]
fn frames_that_the_kernel_changed_are_told_from_those_of_faults() {
    let mut world = World::new();
    world.look(10, &[small(0..8, 100)]);
    world.0.fault(at(15), SPACE, addr(2));

    let changes = world.look(20, &[small(0..2, 100), small(2..3, 900), small(3..6, 103), small(6..8, 206)]);

    assert_eq!(
        changes,
        [(2..3, Some(102), Some(900), Cause::Fault), (6..8, Some(106), Some(206), Cause::Kernel)]
    );
}

#[test]
fn pages_of_one_run_came_by_faults_or_by_the_call_that_mapped_them() {
    let mut world = World::new();
    assert!(world.0.call(SPACE, &mmap(16 * PAGE), pages(0..16)));
    world.0.fault(at(15), SPACE, addr(2));
    world.0.fault(at(15), SPACE, addr(3));

    let changes = world.look(20, &[small(0..8, 100), small(30..31, 400)]);

    let expected = [
        (0..2, None, Some(100), Cause::Call),
        (2..4, None, Some(102), Cause::Fault),
        (4..8, None, Some(104), Cause::Call),
    ];
    assert_eq!(changes, expected, "of page 30 nobody knows what it was");
}

#[test]
fn fault_brings_all_of_a_folio() {
    let mut world = World::new();
    world.0.begin(SPACE);
    world.0.fault(at(15), SPACE, addr(5));
    let folio = |flags| PageFlags::ANON | PageFlags::THP | flags;
    let head = run(4..5, 100, PageCategories::empty(), folio(PageFlags::COMPOUND_HEAD));
    let tails = run(5..8, 101, PageCategories::empty(), folio(PageFlags::COMPOUND_TAIL));
    let next = run(8..9, 104, PageCategories::empty(), folio(PageFlags::COMPOUND_HEAD));

    let changes = world.look(20, &[head, tails, next]);

    let expected = [
        (4..5, None, Some(100), Cause::Fault),
        (5..8, None, Some(101), Cause::Fault),
        (8..9, None, Some(104), Cause::Call),
    ];
    assert_eq!(changes, expected);
    assert_eq!(super::folio(&[head, tails, next], 1, pages(5..6), page()), pages(4..8));
}

#[test]
fn pages_of_a_file_come_along_with_those_in_their_block() {
    let mut world = World::new();
    world.0.begin(SPACE);
    world.0.fault(at(15), SPACE, addr(3));
    let file = run(0..20, 100, PageCategories::FILE, PageFlags::UPTODATE);

    let changes = world.look(20, &[file]);

    let causes: Vec<_> = changes.into_iter().map(|(pages, .., cause)| (pages, cause)).collect();
    // Page 16 begins the next block of 64 KiB.
    let (around, fault) = (Cause::FaultAround, Cause::Fault);
    assert_eq!(causes, [(0..3, around), (3..4, fault), (4..16, around), (16..20, Cause::Call)]);
}

#[test]
fn call_that_empties_leaves_nothing_and_one_that_moves_leaves_no_knowledge() {
    let mut world = World::new();
    world.look(10, &[small(0..8, 100)]);
    let munmap = MapRequest::Munmap { addr: addr(0), length: 2 * PAGE };
    assert!(world.0.call(SPACE, &munmap, pages(0..2)));
    let mremap = MapRequest::Mremap {
        old_addr: addr(4),
        old_size: 2 * PAGE,
        new_size: 2 * PAGE,
        flags: 1,
        new_addr: addr(0),
    };
    assert!(world.0.call(SPACE, &mremap, pages(100..102)));
    let cold = MapRequest::Madvise { addr: addr(6), length: 2 * PAGE, advice: 21 };
    assert!(!world.0.call(SPACE, &cold, pages(6..8)));

    let changes = world.look(20, &[small(0..1, 500), small(2..4, 102), small(100..102, 104)]);

    let expected = [(0..1, None, Some(500), Cause::Call), (6..8, Some(106), None, Cause::Call)];
    assert_eq!(changes, expected);
}

#[test]
fn fault_amid_a_look_counts_for_the_next_one_too() {
    let mut world = World::new();
    world.look(10, &[small(0..1, 100)]);
    world.0.fault(at(25), SPACE, addr(0));
    assert_eq!(world.look(20, &[small(0..1, 100)]), []);

    assert_eq!(world.look(30, &[small(0..1, 200)]), [(0..1, Some(100), Some(200), Cause::Fault)]);
}

#[test]
fn what_was_looked_at_longest_ago_is_forgotten_first() {
    let mut world = World::new();
    world.look(10, &[small(0..1, 100)]);
    let runs = u64::try_from(MAX_RUNS).expect("small");
    let many: Vec<_> = (0..runs / 16).map(|index| small(0..1, 1000 + index)).collect();
    for slot in 1..=16 {
        world.0.replace(at(10 + slot), SPACE, VirtAddr::from_raw(SLOT + (slot << 21)), many.clone());
    }

    assert!(world.0.runs <= MAX_RUNS);
    assert_eq!(world.look(40, &[small(0..1, 200)]), [], "nobody knows where it was");
}
