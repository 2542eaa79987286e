//! What regions are called, and what stands behind them.

use super::facts::{PAGE, Space, TID, addr, anon, at, file, mmap, mremap};
use crate::{
    event::{FileKind, Landmarks, MapCall, MapRequest, MappedFile, MapsReading, Vma, flags::MAP_FIXED},
    region::{Comparison, backing_of},
    timeline::Backing,
};

const EBADF: i32 = 9;

fn set_name(first: u64, pages: u64, name: &str) -> MapRequest {
    MapRequest::SetName { addr: addr(first), length: pages * PAGE, name: name.into() }
}

/// A heap of 32 pages from page 16 on, and a stack of 8 from page 64 on.
fn with_heap_and_stack() -> Space {
    let mut space = Space::with(&[]);
    space.space.complete(at(2), Landmarks { start_brk: Some(addr(16)), start_stack: Some(addr(71)) });
    space.show(10, anon(16, 32));
    space.call(10, MapRequest::Brk { addr: addr(48) }, Ok(48 * PAGE));
    space.appears(10, anon(64, 8));
    space
}

fn heap(first: u64, pages: u64) -> Vma {
    Vma { name: b"[heap]".to_vec(), ..anon(first, pages) }
}

#[test]
fn names_in_brackets_tell_the_backing() {
    let backing = |name: &str| backing_of(&Vma { name: name.into(), ..anon(1, 1) }, None);

    assert_eq!(backing(""), Backing::Anon);
    assert_eq!(backing("[heap]"), Backing::Heap);
    assert_eq!(backing("[stack]"), Backing::Stack);
    assert_eq!(backing("[anon:glibc: malloc arena]"), Backing::Anon);
    assert_eq!(backing("[vdso]"), Backing::Vdso);
    assert_eq!(backing("[vvar_vclock]"), Backing::Vvar);
    assert_eq!(backing("[vsyscall]"), Backing::Other);
}

#[test]
fn kind_of_the_file_tells_the_backing_whatever_its_path() {
    use FileKind::{Device, Hugetlb, Other, Secret, SharedMemory, Tmpfs};
    let backing = |kind, name: &str| backing_of(&Vma { name: name.into(), ..file(1, 1, 0) }, kind);
    let kernel = |name| backing(Some(SharedMemory), name);
    let kinds = [
        (Tmpfs, Backing::Shmem),
        (Hugetlb, Backing::Hugetlb),
        (Secret, Backing::Secretmem),
        (Device, Backing::Device),
        (Other, Backing::File),
    ];

    for path in ["/srv/x", "/memfd:x (deleted)", "/dev/shm/x", "/SYSV00000000 (deleted)", "/dev/hugepages/x"]
    {
        for (kind, expected) in kinds {
            assert_eq!(backing(Some(kind), path), expected, "{path}");
        }
        assert_eq!(backing(None, path), Backing::File, "{path}");
    }
    assert_eq!(kernel("/memfd:jit (deleted)"), Backing::Memfd);
    assert_eq!(kernel("/SYSV00000000 (deleted)"), Backing::Sysv);
    assert_eq!(kernel("/dev/zero (deleted)"), Backing::Shmem);
    assert_eq!(kernel("[anon_shmem:pool]"), Backing::Shmem);
    assert_eq!(kernel("/i915 (deleted)"), Backing::Shmem);
    assert_eq!(backing(Some(Device), "/dev/zero"), Backing::Anon);
    assert_eq!(backing(Some(Other), "anon_inode:[io_uring]"), Backing::Other);
}

#[test]
fn device_number_does_not_overrule_what_its_file_system_cannot_show() {
    use FileKind::{Device, Other, SharedMemory, Tmpfs};

    assert_eq!(Tmpfs.on(Some(SharedMemory)), SharedMemory);
    assert_eq!(Tmpfs.on(Some(Other)), Tmpfs);
    assert_eq!(Device.on(Some(Tmpfs)), Device);
    assert_eq!(Tmpfs.instead_of(Some(Device)), Device);
    assert_eq!(Device.instead_of(Some(Tmpfs)), Tmpfs);
    assert_eq!(Other.instead_of(Some(Tmpfs)), Other);
    assert_eq!(Tmpfs.instead_of(None), Tmpfs);
}

#[test]
fn call_tells_what_it_mapped_if_it_read_the_same_file() {
    let mapped = |device| {
        let mut space = Space::with(&[]);
        space.show(10, file(16, 4, 0));
        let file = Some(MappedFile { device, kind: FileKind::Tmpfs });
        let call = MapCall {
            request: mmap(16, 4, 0),
            result: Ok(16 * PAGE),
            may_have_resized: true,
            file,
            stack: None,
        };
        space.space.call(at(10), TID, &call, &mut space.ids);
        space.label_at(16).0
    };

    assert_eq!(mapped((8, 1)), Backing::Shmem);
    assert_eq!(mapped((8, 2)), Backing::File, "the descriptor was another file's by then");
}

#[test]
fn reading_tells_what_the_file_of_a_region_is() {
    let mut space = Space::with(&[file(16, 4, 0)]);
    let id = space.id_at(16);
    let scan = MapsReading {
        began: at(20),
        vmas: vec![file(16, 4, 0)],
        landmarks: Landmarks::default(),
        devices: vec![((8, 1), FileKind::Hugetlb)],
        at_exit: false,
    };

    let compared = space.space.compare(at(21), &scan, &mut space.ids);

    assert_eq!(compared, Comparison::Conclusive(Vec::new()), "what it is, only the reading says");
    assert_eq!((space.id_at(16), space.label_at(16).0), (id, Backing::Hugetlb));
}

#[test]
fn landmarks_tell_the_heap_and_the_first_stack() {
    let mut space = Space::with(&[]);
    space.space.complete(at(2), Landmarks { start_brk: Some(addr(16)), start_stack: Some(addr(71)) });

    space.show(10, anon(16, 4));
    space.call(10, MapRequest::Brk { addr: addr(20) }, Ok(20 * PAGE));
    space.appears(10, anon(64, 8));

    assert_eq!(space.label_at(19), (Backing::Heap, "[heap]".to_owned()));
    assert_eq!(space.label_at(64), (Backing::Stack, "[stack]".to_owned()));
}

#[test]
fn name_reaches_over_holes_and_up_to_a_file() {
    let mut space = Space::with(&[anon(16, 2), anon(20, 2), file(22, 1, 0), anon(23, 1)]);

    space.call(20, set_name(16, 8, "arena"), Err(EBADF));

    let named = (Backing::Anon, "[anon:arena]".to_owned());
    assert_eq!(space.label_at(16), named);
    assert_eq!(space.label_at(21), named);
    assert_eq!(space.label_at(22), (Backing::File, "/lib/x.so".to_owned()));
    assert_eq!(space.label_at(23), (Backing::Anon, String::new()));
}

#[test]
fn heap_of_which_a_part_is_named_is_one_region() {
    let mut space = with_heap_and_stack();
    let id = space.id_at(16);

    space.call(20, set_name(24, 8, "pool"), Ok(0));

    let rows = vec![heap(16, 8), heap(24, 8), heap(32, 16), anon(64, 8)];
    assert_eq!(space.compare(30, rows), Comparison::Conclusive(Vec::new()));
    assert_eq!([16, 24, 47].map(|page| space.id_at(page)), [id; 3]);
    assert_eq!(space.label_at(24), (Backing::Heap, "[heap]".to_owned()));
}

#[test]
fn stack_is_called_the_stack_whatever_name_its_start_has() {
    let mut space = with_heap_and_stack();

    space.call(20, set_name(64, 2, "low"), Ok(0));
    space.call(20, set_name(70, 2, "start"), Ok(0));

    let low = Vma { name: b"[anon:low]".to_vec(), ..anon(64, 2) };
    let stack = Vma { name: b"[stack]".to_vec(), ..anon(70, 2) };
    let rows = vec![heap(16, 32), low, anon(66, 4), stack];
    assert_eq!(space.compare(30, rows), Comparison::Conclusive(Vec::new()));
    assert_eq!(space.label_at(64), (Backing::Anon, "[anon:low]".to_owned()));
    assert_eq!(space.label_at(66), (Backing::Stack, "[stack]".to_owned()));
    assert_eq!(space.id_at(66), space.id_at(71));
}

#[test]
fn reading_shows_that_named_memory_is_the_heap() {
    // Where the heap begins is not known yet.
    let mut space = Space::with(&[anon(16, 32)]);
    let id = space.id_at(16);
    space.call(20, set_name(24, 8, "pool"), Ok(0));

    let rows = || vec![heap(16, 8), heap(24, 8), heap(32, 16)];
    assert_eq!(space.compare(30, rows()), Comparison::Conclusive(Vec::new()));

    assert_eq!([16, 24, 47].map(|page| space.id_at(page)), [id; 3]);
}

#[test]
fn named_memory_that_grows_into_the_place_of_the_heap_joins_what_is_beside_it() {
    let mut space = Space::with(&[anon(10, 4)]);
    space.space.complete(at(2), Landmarks { start_brk: Some(addr(16)), start_stack: None });
    space.call(20, MapRequest::Brk { addr: addr(48) }, Ok(48 * PAGE));
    space.call(30, set_name(11, 3, "pool"), Ok(0));
    let id = space.id_at(10);
    assert_ne!(space.id_at(11), id);

    let (old_size, new_size) = (PAGE, 8 * PAGE);
    let grown = MapRequest::Mremap { old_addr: addr(13), old_size, new_size, flags: 0, new_addr: addr(0) };
    space.call(40, grown, Ok(13 * PAGE));

    assert_eq!([10, 11, 20].map(|page| space.id_at(page)), [id; 3]);
}

#[test]
fn memory_that_leaves_a_heap_with_names_may_show_one() {
    let mut space = with_heap_and_stack();
    space.call(20, mremap(40, 2, 100), Ok(100 * PAGE));
    assert!(!space.space.is_doubtful());

    space.call(30, set_name(24, 8, "pool"), Ok(0));
    space.call(40, mremap(25, 2, 110), Ok(110 * PAGE));

    assert!(space.space.is_doubtful());
}

#[test]
fn shared_memory_of_which_a_part_is_named_is_three_regions() {
    let shared = |first, pages, name: &str| Vma {
        perms: *b"rw-s",
        name: name.into(),
        ..file(first, pages, first - 16)
    };
    let mut space = Space::with(&[]);
    space.appears_as(FileKind::SharedMemory, shared(16, 12, "/dev/zero (deleted)"));

    space.call(20, set_name(20, 4, "pool"), Ok(0));

    assert_eq!(space.label_at(20), (Backing::Shmem, "[anon_shmem:pool]".to_owned()));
    assert_eq!(space.label_at(24), (Backing::Shmem, "/dev/zero (deleted)".to_owned()));
    // perf does not know the name.
    space.appears(30, Vma { perms: *b"r--s", ..shared(20, 4, "/dev/zero (deleted)") });
    assert_eq!(space.label_at(20), (Backing::Shmem, "[anon_shmem:pool]".to_owned()));
    let rows = vec![
        shared(16, 4, "/dev/zero (deleted)"),
        Vma { perms: *b"r--s", ..shared(20, 4, "[anon_shmem:pool]") },
        shared(24, 4, "/dev/zero (deleted)"),
    ];
    assert_eq!(space.compare(40, rows), Comparison::Conclusive(Vec::new()));
}

#[test]
fn shared_memory_gets_a_name_and_loses_it() {
    let shared = Vma { perms: *b"rw-s", name: b"/dev/zero (deleted)".to_vec(), ..file(16, 4, 0) };
    let mut space = Space::with(&[]);
    space.appears_as(FileKind::SharedMemory, shared);

    space.call(20, set_name(16, 4, "pool"), Ok(0));
    assert_eq!(space.label_at(16), (Backing::Shmem, "[anon_shmem:pool]".to_owned()));

    space.call(30, set_name(16, 4, ""), Ok(0));
    assert_eq!(space.label_at(16), (Backing::Shmem, "/dev/zero (deleted)".to_owned()));
}

#[test]
fn deleted_file_is_the_same_region_under_another_name() {
    let mut space = Space::with(&[file(16, 4, 0)]);
    let id = space.id_at(16);

    let deleted = Vma { name: b"/lib/x.so (deleted)".to_vec(), ..file(16, 4, 0) };
    assert_eq!(space.compare(20, vec![deleted]), Comparison::Conclusive(Vec::new()));

    assert_eq!(space.id_at(16), id);
    assert_eq!(space.label_at(16), (Backing::File, "/lib/x.so (deleted)".to_owned()));
}

/// A file as perf shows it if its path is too long.
fn unread(first: u64, pages: u64, offset_pages: u64) -> Vma {
    let name = b"//toolong".to_vec();
    Vma { device: (0, 0), inode: 0, name, ..file(first, pages, offset_pages) }
}

#[test]
fn path_that_perf_could_not_read_is_that_of_maps_from_then_on() {
    let mut space = Space::with(&[unread(16, 4, 0)]);
    let id = space.id_at(16);
    assert!(space.space.is_doubtful());
    assert_eq!(space.label_at(16), (Backing::File, "//toolong".to_owned()));

    let known = (Backing::File, "/lib/x.so".to_owned());
    assert_eq!(space.compare(20, vec![file(16, 4, 0)]), Comparison::Resynchronised);
    assert_eq!((space.id_at(16), space.label_at(16)), (id, known.clone()));

    // As after mprotect of a part, and as the kernel merges it with more of the file.
    space.appears(30, Vma { perms: *b"r--p", ..unread(17, 1, 1) });
    space.show(40, Vma { perms: *b"r--p", ..unread(17, 5, 1) });
    space.call(40, mmap(18, 4, MAP_FIXED), Ok(18 * PAGE));

    assert!(!space.space.is_doubtful(), "nothing is unknown");
    assert_eq!([16, 17, 21].map(|page| space.label_at(page)), [(); 3].map(|()| known.clone()));
    let rows = vec![file(16, 1, 0), Vma { perms: *b"r--p", ..file(17, 5, 1) }];
    assert_eq!(space.compare(50, rows), Comparison::Conclusive(Vec::new()));
}

#[test]
fn path_that_perf_could_not_read_may_be_another_where_all_was_replaced() {
    let mut space = Space::with(&[file(16, 4, 0)]);

    space.show(20, unread(16, 4, 0));
    space.call(20, mmap(16, 4, MAP_FIXED), Ok(16 * PAGE));

    assert!(space.space.is_doubtful());
    assert_eq!(space.label_at(16), (Backing::File, "//toolong".to_owned()));
}
