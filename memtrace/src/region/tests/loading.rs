//! Facts about what the kernel does to address spaces besides system calls: loading programs, copying, growing stacks.

use super::facts::{PAGE, Space, addr, anon, at, file, mmap, range};
use crate::{
    event::{Landmarks, MapRequest, MapsReading, Vma, flags::MAP_GROWSDOWN},
    region::{AddressSpace, Comparison, RegionIds},
    timeline::Backing,
    units::{PageCount, PageSize, VirtRange},
};

/// A space into which the kernel loads a program from 10 ns on.
fn loading() -> Space {
    let page = PageSize::from_bytes(PAGE).expect("a power of two");
    Space { space: AddressSpace::loading(page, at(10)), ids: RegionIds::default() }
}

fn trim(space: &mut Space, time: u64, pages: u64) -> Option<VirtRange> {
    space.space.trim(at(time), PageCount::new(pages), &mut space.ids)
}

#[test]
fn what_lies_behind_the_first_segment_of_a_program_is_a_hole() {
    // Segments of 2 and of 3 pages, 5 pages apart, as the kernel maps them: all of the file, less the rest, the second.
    let mut space = loading();
    space.appears(11, file(16, 10, 0));
    assert_eq!(trim(&mut space, 12, 8), Some(range(18, 8)));
    space.appears(13, Vma { perms: *b"rw-p", ..file(23, 3, 7) });
    space.space.complete(at(20), Landmarks::default());
    space.space.expect_pages(at(20), Some(PageCount::new(5)));

    assert!(!space.space.is_doubtful());
    assert_eq!((space.id_at(18), space.id_at(22)), (None, None));
    let maps = vec![file(16, 2, 0), Vma { perms: *b"rw-p", ..file(23, 3, 7) }];
    assert_eq!(space.compare(30, maps), Comparison::Conclusive(Vec::new()));
}

#[test]
fn trim_without_anything_shown_before_leaves_doubt() {
    let mut space = loading();

    assert_eq!(trim(&mut space, 12, 8), None);
    assert!(space.space.is_doubtful());
}

#[test]
fn program_of_which_the_kernel_counts_other_pages_than_events_said_is_doubtful() {
    let mut space = loading();
    space.appears(11, file(16, 10, 0));
    space.space.complete(at(20), Landmarks::default());

    space.space.expect_pages(at(20), Some(PageCount::new(2)));

    assert!(space.space.is_doubtful());
    assert_eq!(space.compare(30, vec![file(16, 2, 0)]), Comparison::Resynchronised);
    assert_eq!(space.id_at(18), None);
}

#[test]
fn stack_at_the_top_of_the_addresses_is_there_from_the_exec_on() {
    // Without randomised addresses it ends where user space ends: at 2^47 less a page.
    const TOP: u64 = (1 << 47) / PAGE - 1;
    let mut space = loading();

    space.appears(11, anon(TOP - 1, 1));
    assert_eq!(space.space.live().count(), 0, "not yet in its place");
    space.appears(12, Vma { name: b"[stack]".to_vec(), ..anon(TOP - 33, 33) });
    space.space.complete(at(20), Landmarks { start_brk: None, start_stack: Some(addr(TOP - 2)) });

    assert_eq!(space.label_at(TOP - 33), (Backing::Stack, "[stack]".to_owned()));
}

#[test]
fn ring_of_perf_events_is_not_copied_by_a_fork() {
    let name = b"anon_inode:[perf_event]".to_vec();
    let ring = Vma { name, perms: *b"rw-s", device: (0, 14), inode: 1055, ..anon(16, 9) };
    let mut space = Space::with(&[ring, anon(32, 4)]);

    let mut child = space.space.fork(at(30), None, &mut space.ids);
    child.expect_pages(at(30), Some(PageCount::new(4)));

    assert!(child.find(addr(16)).is_none());
    assert!(!child.is_doubtful());
}

#[test]
fn copy_without_what_the_kernel_did_not_copy_is_doubtful() {
    let mut space = Space::with(&[anon(16, 9), file(32, 4, 0)]);

    let mut child = space.space.fork(at(30), None, &mut space.ids);
    child.expect_pages(at(30), Some(PageCount::new(4)));

    assert!(child.is_doubtful() && !space.space.is_doubtful());
}

#[test]
fn mapping_that_grows_down_goes_on_as_one_region() {
    let mut space = Space::with(&[]);
    let growsdown = mmap(20, 4, MAP_GROWSDOWN);
    space.show(20, anon(20, 4));
    space.call(20, growsdown, Ok(20 * PAGE));
    let id = space.id_at(20);

    assert!(space.space.grows_down_to(range(18, 6)));
    space.appears(21, anon(18, 6));

    assert_eq!(space.id_at(18), id);
    assert_eq!(space.space.live().count(), 1);
    // What a call maps below is shown alone, and does not grow.
    assert!(!space.space.grows_down_to(range(16, 2)));
}

#[test]
fn heap_begins_and_ends_where_a_call_sets_it() {
    let mut space = Space::with(&[anon(16, 4), anon(32, 4)]);
    space.space.complete(at(11), Landmarks { start_brk: Some(addr(16)), start_stack: None });
    space.call(12, MapRequest::Brk { addr: addr(20) }, Ok(20 * PAGE));
    assert_eq!(space.label_at(16).0, Backing::Heap);

    let landmarks = Landmarks { start_brk: Some(addr(32)), start_stack: None };
    space.call(20, MapRequest::SetBounds { landmarks, brk: Some(addr(36)) }, Ok(0));

    assert_eq!([16, 32].map(|page| space.label_at(page).0), [Backing::Anon, Backing::Heap]);
}

#[test]
fn heap_in_pieces_ends_with_the_last_of_them() {
    let heap = |first, pages| Vma { name: b"[heap]".to_vec(), ..anon(first, pages) };
    let page = PageSize::from_bytes(PAGE).expect("a power of two");
    let space = AddressSpace::new(page, at(1), true);
    let mut space = Space { space, ids: RegionIds::default() };
    let start_brk = Some(addr(16));
    let scan = MapsReading {
        began: at(10),
        vmas: vec![heap(16, 4), heap(24, 8)],
        landmarks: Landmarks { start_brk, start_stack: None },
        devices: Vec::new(),
        at_exit: false,
    };
    assert_eq!(space.space.compare(at(11), &scan, &mut space.ids), Comparison::Resynchronised);

    assert_eq!([16, 24].map(|page| space.label_at(page).0), [Backing::Heap; 2]);
    space.call(20, MapRequest::Brk { addr: addr(28) }, Ok(28 * PAGE));

    assert_eq!(space.id_at(28), None);
    assert!(space.id_at(27).is_some());
}
