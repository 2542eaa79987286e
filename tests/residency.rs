//! Pages of files and shared memory that page tables do not tell of, against what was done to them.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs::{self, File, Permissions},
    io::{self, Write as _},
    ops::Range,
    os::unix::fs::{FileExt as _, PermissionsExt as _, chown},
    time::Duration,
};

use memtrace::{
    event::{Tid, Vma},
    pagemap::PageCategories,
    probe::{
        maps,
        object::{MemoryObject, ObjectError},
        pages::PageReader,
        residency::Place,
    },
    units::{FilePage, PageCount, VirtAddr},
};
use memtrace_tests::{
    cgroup, directory, file_on_disk,
    ledger::Zoo,
    made,
    memory::{Mapping, Sharing, has_cachestat, page_bytes},
    program, require, requirement,
    run::Run,
    scan::{own_pagemap, page_size, smaps_pages},
    setting::Setting,
    swap::Swap,
    task::{tid, without},
};
use rustix::{
    fs::{Advice, FallocateFlags, MemfdFlags, fadvise, fallocate, memfd_create},
    mount::{MountFlags, UnmountFlags, mount, unmount},
    thread::CapabilitySet,
};

use Place::{Resident, Swapped};

fn offset(page: usize) -> u64 {
    (page * page_bytes()) as u64
}

/// A memfd of `pages` pages, all of them holes.
fn memory(pages: usize) -> File {
    let file = File::from(memfd_create(c"residency", MemfdFlags::CLOEXEC).expect("since 3.17"));
    file.set_len(offset(pages)).expect("holes take no room");
    file
}

fn object(file: &File) -> MemoryObject {
    let file = file.try_clone().expect("descriptors are left");
    MemoryObject::of_file(file, "the test's file", page_size()).expect("a file of our own")
}

fn file_pages(pages: Range<usize>) -> Range<FilePage> {
    FilePage::from_raw(pages.start as u64)..FilePage::from_raw(pages.end as u64)
}

/// First page, pages and place of each run among `pages`.
fn runs(object: &MemoryObject, pages: Range<usize>) -> Vec<(u64, u64, Place)> {
    let mut runs = Vec::new();
    object
        .walk(file_pages(pages), |run| runs.push((run.first.as_raw(), run.pages.get(), run.place)))
        .expect("it can be mapped");
    runs
}

/// Where each of the first `pages` pages is, if anywhere.
fn places(object: &MemoryObject, pages: usize) -> BTreeMap<usize, Place> {
    let expand = |(first, pages, place)| (first..first + pages).map(move |page| (page, place));
    let places = runs(object, 0..pages).into_iter().flat_map(expand);
    places.map(|(page, place)| (usize::try_from(page).expect("small"), place)).collect()
}

/// Checks how many of the first `pages` pages are cached, dirty and evicted, where the kernel tells.
#[track_caller]
fn expect_totals(object: &MemoryObject, pages: usize, expected: [u64; 3]) {
    let totals = object.totals(file_pages(0..pages)).expect("our own");
    let numbers = totals.map(|totals| [totals.cached, totals.dirty, totals.evicted].map(PageCount::get));
    assert_eq!(numbers, has_cachestat().then_some(expected));
}

/// The row of `/proc/PID/maps` with `address`.
fn vma(pid: u32, address: u64) -> Vma {
    let vmas = maps::parse(&fs::read(format!("/proc/{pid}/maps")).expect("it lives")).expect("maps");
    let address = VirtAddr::from_raw(address);
    vmas.into_iter().find(|vma| vma.range.contains(address)).expect("it is mapped")
}

/// What is behind the VMA of process `pid` with `address`.
fn object_at(pid: u32, address: u64) -> Result<Option<MemoryObject>, ObjectError> {
    MemoryObject::of_vma(Tid(pid), vma(pid, address).range, page_size())
}

const NO_HUGE: &str = "needs huge pages for shared memory (CONFIG_TRANSPARENT_HUGEPAGE)";

#[test]
fn swapped_pages_are_distinguished_from_resident_ones_and_from_holes() {
    require!(root);
    let swap = made!(Swap::on(64 << 20));
    let (file, used) = (memory(64), swap.used_bytes());
    let mapping = Mapping::of_file(&file, 64, Sharing::Shared).expect("room");
    let touched = [3, 4, 10].into_iter().chain(20..30).chain([63]);
    let swapped = [4, 22, 23, 24, 25, 63];
    for page in touched {
        mapping.write(page);
    }
    for page in swapped {
        assert!(mapping.page_out(page).expect("since 5.4"), "page {page} stays");
    }

    let object = object(&file);

    assert!(object.is_shared_memory());
    assert_eq!(
        runs(&object, 0..64),
        [
            (3, 1, Resident),
            (4, 1, Swapped),
            (10, 1, Resident),
            (20, 2, Resident),
            (22, 4, Swapped),
            (26, 4, Resident),
            (63, 1, Swapped),
        ]
    );
    // What the kernel says elsewhere.
    let resident = mapping.resident().expect("our own");
    let resident: Vec<usize> = (0..64).filter(|page| resident[*page]).collect();
    assert_eq!(resident, [3, 10, 20, 21, 26, 27, 28, 29]);
    assert_eq!(smaps_pages(tid(), mapping.area(0).start, "Swap"), 6);
    assert!(swap.used_bytes() - used >= offset(6));
    expect_totals(&object, 64, [8, 0, 6]);
}

#[test]
fn swapped_page_is_resident_once_it_is_touched() {
    require!(root);
    let _swap = made!(Swap::on(64 << 20));
    let file = memory(8);
    let mapping = Mapping::of_file(&file, 8, Sharing::Shared).expect("room");
    mapping.write(2);
    assert!(mapping.page_out(2).expect("since 5.4"));
    let object = object(&file);
    let before = runs(&object, 0..8);

    mapping.read(2);

    assert_eq!(before, [(2, 1, Swapped)]);
    assert_eq!(runs(&object, 0..8), [(2, 1, Resident)]);
}

#[test]
fn every_page_of_several_windows_is_where_it_was_put() {
    require!(root);
    let _swap = made!(Swap::on(128 << 20));
    // Three windows and a part of the fourth; scattered pages, and all of those around the first border.
    let pages = 50_000;
    let file = memory(pages);
    let mapping = Mapping::of_file(&file, pages, Sharing::Shared).expect("room");
    let is_touched =
        |page: usize| page.is_multiple_of(11) || page % 13 == 1 || (16_300..16_500).contains(&page);
    let is_swapped = |page: usize| page.is_multiple_of(110) || (16_380..16_390).contains(&page);
    let touched = (0..pages).filter(|page| is_touched(*page));
    touched.clone().for_each(|page| mapping.write(page));
    for page in touched.clone().filter(|page| is_swapped(*page)) {
        assert!(mapping.page_out(page).expect("since 5.4"), "page {page} stays");
    }

    let known = places(&object(&file), pages);

    let expected = touched.map(|page| (page, if is_swapped(page) { Swapped } else { Resident }));
    assert_eq!(known, expected.collect());
}

#[test]
fn huge_page_is_there_as_a_whole_and_swapped_in_parts() {
    require!(root);
    let _swap = made!(Swap::on(64 << 20));
    let Ok(_advised) = Setting::change("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "advise") else {
        return requirement::skip(NO_HUGE);
    };
    let file = memory(1024);
    let mapping = Mapping::huge_of_file(&file, 2).expect("room");
    mapping.write(600);
    let resident = |pages: Range<usize>| mapping.resident().expect("our own")[pages].to_vec();
    if resident(512..1024) != [true; 512] {
        return requirement::skip(NO_HUGE);
    }
    let object = object(&file);
    let expect_told = || {
        let places =
            resident(512..1024).into_iter().map(|is_resident| if is_resident { Resident } else { Swapped });
        assert_eq!(self::places(&object, 1024), (512..).zip(places).collect());
    };

    assert_eq!(runs(&object, 0..1024), [(512, 512, Resident)]);
    assert!(mapping.page_out(600).expect("since 5.4"));
    expect_told();
    (512..1024).for_each(|page| mapping.read(page));
    mapping.advise(rustix::mm::Advice::LinuxPageOut).expect("since 5.4");
    expect_told();
    assert!(resident(512..1024).contains(&false));
}

#[test]
fn range_is_cut_at_both_ends() {
    let file = memory(64);
    file.write_all_at(&vec![1; 40 * page_bytes()], 0).expect("room");
    let object = object(&file);

    assert_eq!(runs(&object, 5..9), [(5, 4, Resident)]);
    assert_eq!(runs(&object, 30..1000), [(30, 10, Resident)]);
    assert_eq!(runs(&object, 9..9), []);
    assert_eq!(runs(&object, 1000..2000), []);
}

#[test]
fn reserved_pages_that_nobody_wrote_are_like_holes() {
    let file = memory(64);
    fallocate(&file, FallocateFlags::empty(), offset(16), offset(4)).expect("room");
    file.write_all_at(&[1], offset(17)).expect("room");
    let object = object(&file);

    assert_eq!(runs(&object, 0..64), [(17, 1, Resident)]);
    // Their frames are counted.
    expect_totals(&object, 64, [4, 0, 0]);
}

#[test]
fn three_pages_of_a_terabyte_of_shared_memory() {
    let pages = (1 << 40) / page_bytes();
    let file = memory(pages);
    for page in [0, 123_456_789, pages - 1] {
        file.write_all_at(&[1], offset(page)).expect("room");
    }

    let known = places(&object(&file), pages);

    assert_eq!(known, [0, 123_456_789, pages - 1].map(|page| (page, Resident)).into());
}

#[test]
fn file_has_the_pages_that_were_read() {
    let mut named = made!(file_on_disk());
    let pages = 300;
    named.write_all(&vec![1; pages * page_bytes()]).expect("room");
    let file = named.reopen().expect("it has a name");
    file.sync_all().expect("a disk");
    fadvise(&file, 0, None, Advice::DontNeed).expect("a file");
    let object = object(&file);
    let dropped = runs(&object, 0..pages);
    // Without readahead.
    fadvise(&file, 0, None, Advice::Random).expect("a file");
    let read = [0, 1, 2, 77, 130, 131, 299];
    for page in read {
        file.read_exact_at(&mut [0], offset(page)).expect("it is there");
    }

    let known = places(&object, pages);

    assert_eq!(dropped, []);
    assert!(!object.is_shared_memory());
    assert_eq!(known, read.map(|page| (page, Resident)).into());
    let resident = Mapping::of_file(named.as_file(), pages, Sharing::Private).expect("room").resident();
    let resident = resident.expect("our own");
    assert_eq!((0..pages).filter(|page| resident[*page]).collect::<Vec<_>>(), read);
    expect_totals(&object, pages, [7, 0, 0]);
    named.as_file().write_all_at(&[2], offset(77)).expect("room");
    expect_totals(&object, pages, [7, 1, 0]);
    require!(program "fincore" of "util-linux-extra");
    let fincore = Run::new("fincore").args(["-n", "-o", "PAGES"]).arg(named.path()).finish().expect_code(0);
    assert_eq!(fincore.stdout.trim(), "7");
}

#[test]
fn cached_holes_of_a_sparse_file_are_found_in_a_terabyte() {
    let named = made!(file_on_disk());
    if !has_cachestat() {
        return requirement::skip("needs Linux 6.5 (CONFIG_CACHESTAT_SYSCALL)");
    }
    let pages = (1 << 40) / page_bytes();
    let file = named.as_file();
    file.set_len(offset(pages)).expect("a file system with holes");
    fadvise(file, 0, None, Advice::Random).expect("a file");
    // Whole: where blocks are smaller, a page of which parts were never read is not valid.
    file.write_all_at(&vec![1; page_bytes()], offset(1000)).expect("room");
    file.read_exact_at(&mut [0], offset(pages - 1)).expect("a hole");

    let known = places(&object(file), pages);

    assert_eq!(known, [1000, pages - 1].map(|page| (page, Resident)).into());
}

#[test]
fn file_may_shrink() {
    let file = memory(50_000);
    for page in [5, 6, 20_000, 40_000] {
        file.write_all_at(&[1], offset(page)).expect("room");
    }
    let object = object(&file);

    let mut known = Vec::new();
    let result = object.walk(file_pages(0..50_000), |run| {
        file.set_len(offset(6)).expect("ours");
        known.push(run.first.as_raw());
    });

    // The first run is told once the second is known.
    assert!(result.is_ok(), "{result:?}");
    assert_eq!(known, [5, 20_000]);
    assert_eq!(runs(&object, 0..50_000), [(5, 1, Resident)]);
}

#[test]
fn shared_memory_of_another_process() {
    require!(root);
    let scratch = directory();
    let mut zoo = Run::new(program!("mapzoo")).with_stdin().in_dir(scratch.path()).start();
    let Zoo { pid, things, .. } = serde_json::from_str(&zoo.first_line()).expect("a ledger");
    let memory = File::options().write(true).open(format!("/proc/{pid}/mem")).expect("root may");

    for kind in ["shared_anon", "memfd", "sysv"] {
        let start = things[kind].start;
        for page in [2, 5, 6, 15] {
            memory.write_all_at(&[1], start + offset(page)).expect("it is mapped");
        }
        let object = object_at(pid, start).expect("root may").expect("it is shared");

        assert!(object.is_shared_memory(), "{kind}");
        assert_eq!(object.pages().expect("it lives").get(), 16, "{kind}");
        assert_eq!(runs(&object, 0..16), [(2, 1, Resident), (5, 2, Resident), (15, 1, Resident)], "{kind}");
    }
    // The kernel has written it, and nobody has touched the mapping, which begins at the page 3 of 32.
    let file = vma(pid, things["file"].start);
    let object = object_at(pid, things["file"].start).expect("root may").expect("it is a file");
    let mut known = Vec::new();
    object.walk_untold(&file, &[], |range, place| known.push((range, place))).expect("it can be mapped");
    assert_eq!(known, [(file.range, Resident)]);
    // Objects stay what they are when the process ends.
    zoo.send("\n");
    let _end = zoo.finish().expect_code(0);
    assert_eq!(runs(&object, 30..40), [(30, 2, Resident)]);
}

#[test]
fn swapped_pages_of_anonymous_shared_memory() {
    require!(root);
    let _swap = made!(Swap::on(64 << 20));
    let mapping = Mapping::shared(16).expect("room");
    for page in [1, 2, 3] {
        mapping.write(page);
    }
    assert!(mapping.page_out(2).expect("since 5.4"));

    let object = object_at(std::process::id(), mapping.area(0).start).expect("root may").expect("shared");

    assert_eq!(runs(&object, 0..16), [(1, 1, Resident), (2, 1, Swapped), (3, 1, Resident)]);
}

#[test]
fn pages_that_page_tables_do_not_tell() {
    require!(root);
    let _swap = made!(Swap::on(64 << 20));
    let file = memory(32);
    let mapping = Mapping::of_file(&file, 32, Sharing::Shared).expect("room");
    for page in [1, 2, 3, 8, 9, 10] {
        mapping.write(page);
    }
    for page in [2, 8] {
        assert!(mapping.page_out(page).expect("since 5.4"));
    }
    // Not by the mapping.
    for page in [0, 4, 20, 21, 22, 23, 24] {
        file.write_all_at(&[1], offset(page)).expect("room");
    }
    mapping.write(22);
    let vma = vma(std::process::id(), mapping.area(0).start);
    let known = PageReader::new(page_size(), PageCategories::empty(), Duration::MAX)
        .read(&own_pagemap(), vma.range)
        .expect("this process lives");

    let mut unknown = Vec::new();
    object(&file)
        .walk_untold(&vma, &known, |range, place| {
            let first = range.start().as_raw() - vma.range.start().as_raw();
            unknown.push((first / page_size().bytes(), range.pages(page_size()).get(), place));
        })
        .expect("it can be mapped");

    assert_eq!(
        unknown,
        [
            (0, 1, Resident),
            (2, 1, Swapped),
            (4, 1, Resident),
            (8, 1, Swapped),
            (20, 2, Resident),
            (23, 2, Resident),
        ]
    );
}

#[test]
fn nothing_is_behind_private_memory_and_dead_processes() {
    require!(root);
    let mapping = Mapping::anonymous(16).expect("room");
    mapping.write_all();
    let range = vma(std::process::id(), mapping.area(0).start).range;
    let mut child = std::process::Command::new("true").spawn().expect("there is true");
    child.wait().expect("it is ours");

    for pid in [std::process::id(), child.id()] {
        let object = MemoryObject::of_vma(Tid(pid), range, page_size());
        assert!(matches!(object, Ok(None)), "{object:?}");
    }
}

#[test]
fn pages_of_a_file_of_an_overlay_are_told_though_its_cache_is_another_files() {
    require!(root);
    let _on_disk = made!(file_on_disk());
    let dir = tempfile::tempdir_in("/var/tmp").expect("room");
    let path = |name: &str| dir.path().join(name);
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir(path(name)).expect("room");
    }
    fs::write(path("lower/file"), vec![1; 16 * page_bytes()]).expect("room");
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| path(name).display().to_string());
    let options =
        CString::new(format!("lowerdir={lower},upperdir={upper},workdir={work}")).expect("no zeros");
    if mount("overlay", path("merged"), "overlay", MountFlags::empty(), options.as_c_str()).is_err() {
        return requirement::skip("needs overlayfs (CONFIG_OVERLAY_FS)");
    }

    let file = File::open(path("merged/file")).expect("it is below");
    let known = runs(&object(&file), 0..16);
    let totals = object(&file).totals(file_pages(0..16)).expect("a file");

    drop(file);
    unmount(path("merged"), UnmountFlags::empty()).expect("nothing is open in it");
    assert_eq!(known, [(0, 16, Resident)]);
    assert_eq!(totals, None);
}

#[test]
fn what_has_no_page_cache_is_refused() {
    let refuses = |file: File| {
        let object = MemoryObject::of_file(file, "it", page_size());
        assert!(matches!(object, Err(ObjectError::Uncached { .. })), "{object:?}");
    };
    refuses(File::open("/dev/zero").expect("there is one"));
    refuses(File::open("/proc/self/status").expect("our own"));
    match memfd_create(c"huge", MemfdFlags::HUGETLB) {
        Ok(huge) => refuses(huge.into()),
        Err(_) => requirement::skip("needs hugetlbfs (CONFIG_HUGETLBFS)"),
    }
}

#[test]
fn file_that_cannot_be_mapped_is_named() {
    let (top, _) = made!(cgroup::of_memory());
    let file = File::open(top.join("cgroup.procs")).expect("every cgroup has one");

    let error = MemoryObject::of_file(file, "cgroup.procs", page_size()).expect_err("it is no memory");

    assert_eq!(error.to_string(), "cannot map cgroup.procs");
    let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<io::Error>());
    assert_eq!(source.and_then(io::Error::raw_os_error), Some(libc::ENODEV));
}

#[test]
fn missing_privileges_are_named() {
    require!(root);
    let mapping = Mapping::shared(16).expect("room");
    let start = mapping.area(0).start;
    let foreign = tempfile::NamedTempFile::new().expect("room");
    foreign.as_file().set_permissions(Permissions::from_mode(0o444)).expect("ours");
    chown(foreign.path(), Some(65534), None).expect("root may");
    let open = || File::open(foreign.path()).expect("all may read it");
    // Known since 5.9; older kernels do not have it to take.
    let open_objects = CapabilitySet::SYS_ADMIN | CapabilitySet::CHECKPOINT_RESTORE;
    let scan_caches = CapabilitySet::FOWNER | CapabilitySet::DAC_OVERRIDE;

    let closed = without(open_objects, || object_at(std::process::id(), start));
    let hidden = without(scan_caches, || MemoryObject::of_file(open(), "it", page_size()));

    assert!(matches!(closed, Err(ObjectError::Forbidden { .. })), "{closed:?}");
    assert!(matches!(hidden, Err(ObjectError::Hidden { .. })), "{hidden:?}");
    assert!(MemoryObject::of_file(open(), "it", page_size()).is_ok());
}
