//! Facts about regions, one at a time.

use crate::{
    event::{
        FileKind, Landmarks, MapCall, MapRequest, MapsReading, ReportedVma, Tid, Vma,
        flags::{MADV_DONTFORK, MAP_FIXED, MAP_STACK, MREMAP_FIXED},
    },
    region::{AddressSpace, Comparison, Contradiction, REMEMBERED, RegionIds},
    timeline::{Backing, RegionId},
    units::{PageSize, Timestamp, VirtAddr, VirtRange},
};

pub(super) const PAGE: u64 = 0x1000;
pub(super) const TID: Tid = Tid(7);
const ENOMEM: i32 = 12;
const EINVAL: i32 = 22;

pub(super) fn addr(page: u64) -> VirtAddr {
    VirtAddr::from_raw(page * PAGE)
}

pub(super) fn range(first: u64, pages: u64) -> VirtRange {
    VirtRange::new(addr(first), addr(first + pages)).expect("at least a page")
}

pub(super) fn at(nanos: u64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

pub(super) fn anon(first: u64, pages: u64) -> Vma {
    let name = Vec::new();
    Vma { range: range(first, pages), perms: *b"rw-p", offset: 0, device: (0, 0), inode: 0, name }
}

pub(super) fn file(first: u64, pages: u64, offset_pages: u64) -> Vma {
    let name = b"/lib/x.so".to_vec();
    Vma { offset: offset_pages * PAGE, device: (8, 1), inode: 77, name, ..anon(first, pages) }
}

pub(super) fn munmap(first: u64, pages: u64) -> MapRequest {
    MapRequest::Munmap { addr: addr(first), length: pages * PAGE }
}

pub(super) fn mmap(first: u64, pages: u64, flags: u64) -> MapRequest {
    MapRequest::Mmap { addr: addr(first), length: pages * PAGE, prot: 3, flags, offset: 0 }
}

pub(super) fn mremap(first: u64, pages: u64, new: u64) -> MapRequest {
    let size = pages * PAGE;
    MapRequest::Mremap {
        old_addr: addr(first),
        old_size: size,
        new_size: size,
        flags: MREMAP_FIXED,
        new_addr: addr(new),
    }
}

/// A space and what numbers its regions.
pub(super) struct Space {
    pub(super) space: AddressSpace,
    pub(super) ids: RegionIds,
}

impl Space {
    /// With these VMAs, which appear at 10 ns.
    pub(super) fn with(vmas: &[Vma]) -> Self {
        let page = PageSize::from_bytes(PAGE).expect("a power of two");
        let mut space = Self { space: AddressSpace::new(page, at(1), false), ids: RegionIds::default() };
        for vma in vmas {
            space.appears(10, vma.clone());
        }
        space
    }

    pub(super) fn show(&mut self, time: u64, vma: Vma) {
        self.space.show(at(time), TID, ReportedVma { vma, kind: None }, &mut self.ids);
    }

    pub(super) fn appears_as(&mut self, kind: FileKind, vma: Vma) {
        self.space.show(at(10), TID, ReportedVma { vma, kind: Some(kind) }, &mut self.ids);
        self.space.settle(&mut self.ids);
    }

    pub(super) fn appears(&mut self, time: u64, vma: Vma) {
        self.show(time, vma);
        self.space.settle(&mut self.ids);
    }

    pub(super) fn call_by(&mut self, tid: Tid, time: u64, request: MapRequest, result: Result<u64, i32>) {
        let call = MapCall { request, result, may_have_resized: false, file: None, stack: None };
        self.space.call(at(time), tid, &call, &mut self.ids);
    }

    pub(super) fn call(&mut self, time: u64, request: MapRequest, result: Result<u64, i32>) {
        self.call_by(TID, time, request, result);
    }

    pub(super) fn compare(&mut self, began: u64, vmas: Vec<Vma>) -> Comparison {
        let maps = MapsReading {
            began: at(began),
            vmas,
            landmarks: Landmarks::default(),
            devices: Vec::new(),
            at_exit: false,
        };
        self.space.compare(at(began + 1), &maps, &mut self.ids)
    }

    pub(super) fn id_at(&self, page: u64) -> Option<RegionId> {
        self.space.find(addr(page)).map(|region| region.id)
    }

    pub(super) fn parent_at(&self, page: u64) -> Option<RegionId> {
        self.space.find(addr(page)).and_then(|region| region.parent)
    }

    pub(super) fn label_at(&self, page: u64) -> (Backing, String) {
        let region = self.space.find(addr(page)).expect("mapped");
        let label = self.space.label(region);
        (label.backing, String::from_utf8_lossy(&label.name).into_owned())
    }
}

#[test]
fn region_that_grows_downwards_keeps_its_identity() {
    let mut space = Space::with(&[anon(64, 4)]);
    let id = space.id_at(64);

    space.appears(20, anon(60, 8));

    assert_eq!(space.id_at(60), id);
    assert_eq!(space.space.live().count(), 1);
}

#[test]
fn munmap_in_the_middle_splits_a_region() {
    let mut space = Space::with(&[anon(16, 8)]);
    let id = space.id_at(16);

    space.call(20, munmap(18, 2), Ok(0));

    assert_eq!(space.id_at(17), id);
    assert_eq!(space.id_at(18), None);
    assert_ne!(space.id_at(20), id);
    assert_eq!(space.parent_at(20), id);
    assert_eq!(space.space.find(addr(20)).map(|region| region.born), Some(at(20)));
}

#[test]
fn file_at_another_distance_is_another_region() {
    let mut space = Space::with(&[file(16, 4, 0), file(20, 4, 8)]);
    assert_ne!(space.id_at(16), space.id_at(20));
    let id = space.id_at(16);

    space.appears(20, file(16, 4, 2));

    assert_ne!(space.id_at(16), id);
    assert_eq!(space.space.retired().first().map(|retired| retired.died), Some(at(20)));
}

#[test]
fn region_that_moves_as_a_whole_stays_what_it_is_and_a_part_does_not() {
    let mut space = Space::with(&[file(16, 4, 0)]);
    let id = space.id_at(16);

    space.call(20, mremap(16, 4, 32), Ok(32 * PAGE));
    assert_eq!(space.id_at(32), id);
    assert_eq!(space.id_at(16), None);

    space.call(30, mremap(34, 2, 48), Ok(48 * PAGE));
    assert_eq!(space.id_at(33), id);
    assert_ne!(space.id_at(48), id);
    assert_eq!(space.parent_at(48), id);
    let moved = space.space.find(addr(49)).expect("it moved here");
    assert_eq!(moved.traits.file_offset(addr(49)), Some(3 * PAGE));
    assert_eq!(space.space.retired(), []);
}

#[test]
fn region_that_moves_next_to_an_older_one_like_it_ends() {
    let mut space = Space::with(&[anon(16, 4), anon(32, 4)]);
    let (older, younger) = (space.id_at(16), space.id_at(32));

    space.call(20, mremap(32, 4, 20), Ok(20 * PAGE));

    assert_eq!(space.id_at(23), older);
    let retired = space.space.retired().iter().map(|retired| (Some(retired.region.id), retired.died));
    assert_eq!(retired.collect::<Vec<_>>(), [(younger, at(20))]);
}

#[test]
fn what_lies_between_moved_mappings_at_their_new_place_stays() {
    let mut space = Space::with(&[anon(16, 1), anon(18, 1), file(32, 3, 0)]);
    let id = space.id_at(33);

    space.call(20, mremap(16, 3, 32), Ok(32 * PAGE));

    assert_eq!(space.id_at(33), id);
    assert_eq!(space.label_at(32).0, Backing::Anon);
    assert_eq!(space.label_at(33).0, Backing::File);
    assert_eq!(space.label_at(34).0, Backing::Anon);
}

#[test]
fn thread_stack_next_to_memory_that_looks_alike_is_a_region_of_its_own() {
    let mut space = Space::with(&[anon(16, 4)]);

    space.show(20, anon(16, 8));
    space.call(21, mmap(20, 4, MAP_STACK), Ok(20 * PAGE));

    assert_eq!(space.label_at(19).0, Backing::Anon);
    assert_eq!(space.label_at(20).0, Backing::ThreadStack);
}

#[test]
fn call_of_another_thread_tells_nothing_of_a_vma() {
    let mut space = Space::with(&[]);

    space.show(20, anon(16, 4));
    assert!(space.space.is_unsettled_at(addr(16)));
    space.call_by(Tid(8), 21, mmap(16, 4, MAP_STACK), Ok(16 * PAGE));

    assert!(!space.space.is_unsettled_at(addr(16)));
    assert_eq!(space.label_at(16).0, Backing::Anon);
    assert_eq!(space.space.find(addr(16)).map(|region| region.born), Some(at(20)));
}

#[test]
fn fork_copies_what_was_not_advised_to_be_kept() {
    let mut space = Space::with(&[anon(16, 4)]);
    let advice = MapRequest::Madvise { addr: addr(18), length: 2 * PAGE, advice: MADV_DONTFORK };
    space.call(20, advice, Ok(0));

    let child = space.space.fork(at(30), None, &mut space.ids);

    let copy = child.find(addr(16)).expect("it was copied");
    assert_ne!(Some(copy.id), space.id_at(16));
    assert_eq!((copy.parent, copy.born), (space.id_at(16), at(30)));
    assert_eq!(child.find(addr(18)), None);
    assert!(space.id_at(18).is_some());
}

#[test]
fn heap_of_a_child_ends_where_its_own_fork_says() {
    let mut space = Space::with(&[anon(16, 4)]);
    space.space.complete(at(11), Landmarks { start_brk: Some(addr(16)), start_stack: None });
    let brk = |page: u64| (MapRequest::Brk { addr: addr(page) }, Ok(page * PAGE));
    let (request, result) = brk(20);
    space.call(20, request, result);

    space.space = space.space.fork(at(30), Some(addr(18)), &mut space.ids);
    let (request, result) = brk(17);
    space.call(40, request, result);

    // What shrinks away lay below the end that the child had.
    assert_eq!(space.id_at(17), None);
    assert!(space.id_at(16).is_some() && space.id_at(18).is_some());
}

#[test]
fn retired_regions_are_taken_once_their_time_has_passed() {
    let mut space = Space::with(&[anon(16, 2), file(32, 2, 0)]);
    space.call(20, munmap(16, 2), Ok(0));
    space.call(30, munmap(32, 2), Ok(0));

    let backings = |space: &mut Space, time| -> Vec<Backing> {
        space.space.take_retired(at(time)).map(|retired| retired.label.backing).collect()
    };

    assert_eq!(backings(&mut space, 20), []);
    assert_eq!(backings(&mut space, 30), [Backing::Anon]);
    assert_eq!(backings(&mut space, 40), [Backing::File]);
    assert_eq!(space.space.retired(), []);
}

#[test]
fn only_failures_that_may_have_unmapped_something_leave_doubt() {
    let is_doubtful_after = |request: MapRequest, may_have_resized: bool| {
        let Space { mut space, mut ids } = Space::with(&[anon(16, 4)]);
        space.call(
            at(20),
            TID,
            &MapCall { request, result: Err(ENOMEM), may_have_resized, file: None, stack: None },
            &mut ids,
        );
        space.is_doubtful()
    };

    assert!(is_doubtful_after(mmap(16, 4, MAP_FIXED), true));
    assert!(!is_doubtful_after(mmap(16, 4, MAP_FIXED), false));
    assert!(!is_doubtful_after(mmap(16, 4, 0), true));
    assert!(is_doubtful_after(mremap(64, 4, 16), true));
    assert!(!is_doubtful_after(mremap(64, 4, 16), false));
    assert!(!is_doubtful_after(munmap(16, 4), true));
}

#[test]
fn failed_move_of_several_regions_may_have_moved_some() {
    let mut space = Space::with(&[anon(16, 2), file(18, 2, 0)]);

    space.call(20, mremap(16, 2, 64), Err(EINVAL));
    assert!(!space.space.is_doubtful());

    space.call(30, mremap(16, 4, 64), Err(EINVAL));
    assert!(space.space.is_doubtful());
}

#[test]
fn reading_teaches_a_doubtful_space_and_then_confirms_it() {
    let mut space = Space::with(&[anon(16, 4)]);
    let id = space.id_at(16);
    space.space.doubt(at(20));

    let seen = vec![anon(16, 4), file(32, 4, 0)];
    assert_eq!(space.compare(30, seen.clone()), Comparison::Resynchronised);
    assert!(!space.space.is_doubtful());
    assert_eq!(space.id_at(16), id);
    assert_eq!(space.label_at(32).0, Backing::File);

    assert_eq!(space.compare(40, seen), Comparison::Conclusive(Vec::new()));
}

#[test]
fn reading_that_began_before_the_doubt_does_not_end_it() {
    let mut space = Space::with(&[anon(16, 4)]);
    space.space.doubt(at(30));

    assert_eq!(space.compare(20, vec![anon(16, 4)]), Comparison::Resynchronised);

    assert!(space.space.is_doubtful());
}

#[test]
fn contradiction_says_what_was_believed_and_what_was_found() {
    let mut space = Space::with(&[anon(16, 4)]);
    let id = space.id_at(16);

    let comparison = space.compare(20, vec![anon(16, 2), file(32, 1, 0)]);

    let gone = Contradiction { range: range(18, 2), region: id, found: None };
    let found = Some((*b"rw-p", Backing::File, b"/lib/x.so"[..].into()));
    let unknown = Contradiction { range: range(32, 1), region: None, found };
    assert_eq!(comparison, Comparison::Conclusive(vec![gone, unknown]));
    assert_eq!(space.id_at(18), None);
}

#[test]
fn pages_that_changed_while_maps_was_read_prove_nothing() {
    let mut space = Space::with(&[anon(16, 4)]);
    space.call(20, munmap(18, 2), Ok(0));

    let comparison = space.compare(20, vec![anon(16, 4)]);

    assert_eq!(comparison, Comparison::Conclusive(Vec::new()));
    assert_eq!(space.id_at(18), None);
}

#[test]
fn reading_that_began_before_the_program_was_loaded_is_inconclusive() {
    let mut space = Space::with(&[anon(16, 4)]);
    space.space.complete(at(20), Landmarks::default());

    assert_eq!(space.compare(20, Vec::new()), Comparison::Inconclusive);
    assert!(space.id_at(16).is_some());
}

#[test]
fn reading_of_another_heap_is_of_another_address_space() {
    let mut space = Space::with(&[anon(16, 4)]);
    space.space.complete(at(2), Landmarks { start_brk: Some(addr(32)), start_stack: None });
    let mut read = |began, start_brk| {
        let landmarks = Landmarks { start_brk, start_stack: None };
        let maps = MapsReading {
            began: at(began),
            vmas: Vec::new(),
            landmarks,
            devices: Vec::new(),
            at_exit: false,
        };
        space.space.compare(at(began + 1), &maps, &mut space.ids)
    };

    assert_eq!(read(20, Some(addr(33))), Comparison::Inconclusive, "the record of an exec is missing");
    assert!(
        matches!(read(22, None), Comparison::Conclusive(found) if found.len() == 1),
        "the reader may not know"
    );
    assert_eq!(read(24, Some(addr(32))), Comparison::Conclusive(Vec::new()));
}

#[test]
fn reading_during_which_too_much_changed_is_inconclusive() {
    let mut space = Space::with(&[]);
    for time in (20..).step_by(2).take(REMEMBERED / 2 + 1) {
        space.appears(time, anon(16, 1));
        space.call(time + 1, munmap(16, 1), Ok(0));
    }

    assert_eq!(space.compare(21, Vec::new()), Comparison::Inconclusive);
    assert_eq!(space.compare(22, Vec::new()), Comparison::Conclusive(Vec::new()));
}

#[test]
fn vsyscall_that_only_maps_lists_contradicts_nothing() {
    let mut space = Space::with(&[anon(16, 4)]);
    let vsyscall = Vma { name: b"[vsyscall]".to_vec(), perms: *b"--xp", ..anon(0xf_ffff_ffff_f600, 1) };

    let comparison = space.compare(20, vec![anon(16, 4), vsyscall]);

    assert_eq!(comparison, Comparison::Conclusive(Vec::new()));
    assert_eq!(space.label_at(0xf_ffff_ffff_f600), (Backing::Other, "[vsyscall]".to_owned()));
}
