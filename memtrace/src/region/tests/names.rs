//! What regions are called, and what stands behind them.

use super::facts::{PAGE, Space, addr, anon, at, file, mmap, mremap, range};
use crate::{
    event::{Landmarks, MapRequest, Vma, flags::MAP_FIXED},
    region::{Comparison, Traits},
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
fn names_of_maps_tell_the_backing() {
    let backing = |name: &str, perms: &[u8; 4]| {
        let traits = Traits::of(&Vma { name: name.into(), perms: *perms, ..anon(1, 1) });
        traits.shown(range(1, 1), &Landmarks::default(), None).0
    };

    assert_eq!(backing("", b"rw-p"), Backing::Anon);
    assert_eq!(backing("", b"rw-s"), Backing::Shmem);
    assert_eq!(backing("[anon:glibc: malloc arena]", b"rw-p"), Backing::Anon);
    assert_eq!(backing("[anon_shmem:pool]", b"rw-s"), Backing::Shmem);
    assert_eq!(backing("/dev/zero (deleted)", b"rw-s"), Backing::Shmem);
    assert_eq!(backing("[vdso]", b"r-xp"), Backing::Vdso);
    assert_eq!(backing("[vvar_vclock]", b"r--p"), Backing::Vvar);
    assert_eq!(backing("/SYSV00000000 (deleted)", b"rw-s"), Backing::Sysv);
    assert_eq!(backing("/memfd:jit (deleted)", b"rwxs"), Backing::Memfd);
    assert_eq!(backing("/anon_hugepage (deleted)", b"rw-p"), Backing::Hugetlb);
    assert_eq!(backing("/usr/bin/cat", b"r-xp"), Backing::File);
    assert_eq!(backing("[vsyscall]", b"--xp"), Backing::Other);
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
    // Nothing told where the heap begins.
    let mut space = Space::with(&[anon(16, 32)]);
    let id = space.id_at(16);
    space.call(20, set_name(24, 8, "pool"), Ok(0));

    let rows = || vec![heap(16, 8), heap(24, 8), heap(32, 16)];
    assert_eq!(space.compare(30, rows()), Comparison::Conclusive(Vec::new()));

    assert_eq!([16, 24, 47].map(|page| space.id_at(page)), [id; 3]);
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
    let mut space = Space::with(&[shared(16, 12, "/dev/zero (deleted)")]);

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
    let mut space = Space::with(&[shared]);

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
    assert_eq!(space.compare(20, vec![file(16, 4, 0)]), Comparison::Learnt);
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
