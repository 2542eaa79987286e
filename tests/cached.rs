//! Pages of files in the page cache and the frames that they are in, against what was done to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, Permissions},
    io::Write as _,
    ops::Range,
    os::unix::fs::{FileExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Instant,
};

use memtrace::{
    pagemap::{PageFlags, PagemapEntry},
    probe::{
        budget::Budget,
        cached::{CachedReader, CachedRun},
        files::FileError,
        object::{MemoryObject, ObjectError},
        tree,
        walk::Wanted,
    },
    units::FilePage,
};
use memtrace_tests::{
    directory, file_on_disk, made,
    memory::{Mapping, Sharing, drain_batches, page_bytes, peak_growth},
    require,
    scan::{EVERYTHING, FILE, Page, expect_each, has_scan, page_size, scan},
    swap::Swap,
    task::without,
    turn,
};
use rustix::{
    fs::{Advice, FileType, MemfdFlags, Mode, fadvise, memfd_create, mknodat},
    mount::{MountFlags, UnmountFlags, mount, unmount},
    thread::CapabilitySet,
};

/// How often things are compared that something else on the machine may change.
const ATTEMPTS: usize = 20;

fn offset(page: usize) -> u64 {
    (page * page_bytes()) as u64
}

/// A file in shared memory of `pages` pages, all of them holes.
fn memory(pages: usize) -> File {
    let file = File::from(memfd_create(c"cached", MemfdFlags::CLOEXEC).expect("since 3.17"));
    file.set_len(offset(pages)).expect("holes take no room");
    file
}

fn object(file: &File) -> MemoryObject {
    let file = file.try_clone().expect("descriptors are left");
    MemoryObject::of_file(file, "the test's file", page_size()).expect("a file of our own")
}

fn reader(wanted: Wanted) -> CachedReader {
    CachedReader::new(page_size(), has_scan(), wanted, Budget::default()).expect("root may open all of it")
}

fn file_pages(pages: Range<usize>) -> Range<FilePage> {
    FilePage::from_raw(pages.start as u64)..FilePage::from_raw(pages.end as u64)
}

fn runs(reader: &mut CachedReader, object: &MemoryObject, pages: Range<usize>) -> Vec<CachedRun> {
    let mut runs = Vec::new();
    reader.walk(object, file_pages(pages), |run| runs.push(run)).expect("it can be mapped");
    runs
}

/// What is told of each of the first `pages` pages of `file` that is told of.
fn known(file: &File, pages: usize) -> BTreeMap<usize, Page> {
    let mut known = BTreeMap::new();
    for run in runs(&mut reader(EVERYTHING), &object(file), 0..pages) {
        let CachedRun { first, pages, entry, categories, frame } = run;
        for page in 0..pages.get() {
            let entry = entry.advanced(page).expect("frames follow one another");
            let number = usize::try_from(first.as_raw() + page).expect("small");
            let earlier = known.insert(number, Page { entry, categories, frame });
            assert!(earlier.is_none(), "page {number} is told twice");
        }
    }
    known
}

/// The first `pages` pages of `file` that are in memory, by another way.
fn resident(file: &File, pages: usize) -> BTreeSet<usize> {
    let mapping = Mapping::of_file(file, pages, Sharing::Private).expect("room");
    let resident = mapping.resident().expect("our own");
    (0..pages).filter(|page| resident[*page]).collect()
}

/// What `scan` sees while of the first `pages` pages of `file`, on a disk, just those of `ledger` are in memory.
///
/// Other pages may stay in the cache for a while, and others of this machine may drop all that are in it.
#[track_caller]
fn with_cached<T>(file: &File, pages: usize, ledger: &BTreeSet<usize>, mut scan: impl FnMut() -> T) -> T {
    for _ in 0..ATTEMPTS {
        // Dirty pages stay.
        file.sync_all().expect("a disk");
        fadvise(file, 0, None, Advice::DontNeed).expect("a file");
        // Without readahead.
        fadvise(file, 0, None, Advice::Random).expect("a file");
        for page in ledger {
            file.read_exact_at(&mut [0], offset(*page)).expect("it is there");
        }
        if resident(file, pages) == *ledger {
            let seen = scan();
            if resident(file, pages) == *ledger {
                return seen;
            }
        }
    }
    panic!("other pages than those that were read are in memory");
}

#[test]
fn pages_that_were_read_are_told_and_no_others() {
    require!(root);
    let _turn = turn();
    let named = made!(file_on_disk());
    let file = named.as_file();
    // Two windows.
    let pages = 20_000;
    file.set_len(offset(pages)).expect("a file system with holes");
    let ledger: BTreeSet<_> = (0..pages).filter(|page| page % 3 == 1).collect();

    let known = with_cached(file, pages, &ledger, || known(file, pages));

    assert!(known.keys().eq(&ledger), "{} of {} pages", known.len(), ledger.len());
    let frames: BTreeSet<_> =
        known.values().map(|page| page.entry.pfn().expect("present").as_raw()).collect();
    assert_eq!(frames.len(), known.len());
    let pages: Vec<_> = known.into_values().collect();
    expect_each(&pages, "of a file, and mapped by nobody", |page| {
        page.word() & FILE != 0 && page.frame.mapcount == Some(0) && page.lacks(PageFlags::MMAP)
    });
    expect_each(&pages, "valid", |page| page.has(PageFlags::UPTODATE));
}

#[test]
fn part_of_a_file_is_told_alone() {
    require!(root);
    let _turn = turn();
    let file = memory(40_000);
    for page in [0, 9, 10, 11, 12, 39_999] {
        file.write_all_at(&[1], offset(page)).expect("room");
    }
    let (mut reader, object) = (reader(EVERYTHING), object(&file));

    let mut shape = |pages: Range<usize>| -> Vec<u64> {
        let runs = runs(&mut reader, &object, pages);
        runs.iter().flat_map(|run| run.first.as_raw()..run.first.as_raw() + run.pages.get()).collect()
    };

    assert_eq!(shape(0..40_000), [0, 9, 10, 11, 12, 39_999]);
    assert_eq!(shape(10..12), [10, 11]);
    assert!(shape(13..39_999).is_empty());
    assert_eq!(shape(39_999..80_000), [39_999]);
    assert!(shape(40_000..80_000).is_empty());
    assert!(shape(5..5).is_empty());
}

#[test]
fn frames_are_those_of_whoever_else_maps_the_file() {
    require!(root);
    let _turn = turn();
    let file = memory(300);
    let mapping = Mapping::of_file(&file, 300, Sharing::Shared).expect("room");
    mapping.write_all();
    let frames = |pages: &mut dyn Iterator<Item = &Page>| -> Vec<_> {
        pages.map(|page| page.entry.pfn().expect("present")).collect()
    };

    // Pages may move to other frames between two scans.
    let shared = (0..ATTEMPTS).find_map(|_| {
        let before = scan(&mapping);
        let known = known(&file, 300);
        (frames(&mut known.values()) == frames(&mut before.iter())).then_some(known)
    });
    drop(mapping);
    let alone = known(&file, 300);

    let shared: Vec<_> = shared.expect("pages stay for a moment").into_values().collect();
    expect_each(&shared, "mapped once", |page| page.frame.mapcount == Some(1) && page.has(PageFlags::MMAP));
    let alone: Vec<_> = alone.into_values().collect();
    assert_eq!(alone.len(), 300);
    expect_each(&alone, "mapped by nobody", |page| page.frame.mapcount == Some(0));
}

#[test]
fn pages_that_were_written_are_dirty() {
    require!(root);
    let _turn = turn();
    let mut named = made!(file_on_disk());
    let pages = 64;
    named.write_all(&vec![1; pages * page_bytes()]).expect("room");
    let file = named.as_file();
    let written = BTreeSet::from([2, 3, 63]);
    let dirty = |known: BTreeMap<usize, Page>| -> BTreeSet<usize> {
        let is_dirty = |page: &Page| page.frame.flags.is_some_and(|flags| flags.contains(PageFlags::DIRTY));
        known.into_iter().filter(|(_, page)| is_dirty(page)).map(|(page, _)| page).collect()
    };

    // Page by page, since larger folios are dirty as a whole. Somebody may write all back meanwhile.
    let all = (0..pages).collect();
    let mut scans = (0..ATTEMPTS).map(|_| {
        with_cached(file, pages, &all, || {
            let before = dirty(known(file, pages));
            for page in &written {
                file.write_all_at(&[2], offset(*page)).expect("room");
            }
            (before, dirty(known(file, pages)))
        })
    });
    let seen = scans.find(|(_, after)| *after == written);

    assert_eq!(seen.map(|(before, _)| before), Some(BTreeSet::new()));
}

#[test]
fn scans_do_not_make_pages_look_used() {
    require!(root);
    let _turn = turn();
    let named = made!(file_on_disk());
    let file = named.as_file();
    let pages = 2000;
    file.set_len(offset(pages)).expect("a file system with holes");
    let ledger: BTreeSet<_> = (0..pages).step_by(2).collect();
    let is_active = |page: &Page| page.frame.flags.is_some_and(|flags| flags.contains(PageFlags::ACTIVE));
    let active = || known(file, pages).values().filter(|page| is_active(page)).count();

    // A page that is used twice is active. This one may stay in the cache from one attempt to the next.
    let mut scans = (0..ATTEMPTS).map(|_| {
        with_cached(file, pages, &ledger, || {
            drain_batches();
            [active(), active(), active()]
        })
    });

    assert!(scans.any(|active| active == [0, 0, 0]));
}

#[test]
fn shared_memory_has_its_resident_pages_and_gets_no_others() {
    require!(root);
    let _turn = turn();
    let _swap = made!(Swap::on(64 << 20));
    let file = memory(64);
    let mapping = Mapping::of_file(&file, 64, Sharing::Shared).expect("room");
    for page in [3, 4, 10, 63] {
        mapping.write(page);
    }
    assert!(mapping.page_out(4).expect("since 5.4"), "it stays");
    drop(mapping);

    let known = known(&file, 64);

    assert_eq!(known.keys().copied().collect::<Vec<_>>(), [3, 10, 63]);
    assert_eq!(resident(&file, 64), BTreeSet::from([3, 10, 63]));
    let pages: Vec<_> = known.into_values().collect();
    let is_swap_backed =
        |page: &Page| page.frame.flags.is_some_and(|flags| flags.contains(PageFlags::SWAPBACKED));
    expect_each(&pages, "for swap", is_swap_backed);
}

#[test]
fn file_without_pages_has_none() {
    require!(root);
    let _turn = turn();

    assert!(known(&memory(0), 100).is_empty());
    assert!(known(&memory(1 << 30), 1 << 30).is_empty());
}

#[test]
fn file_may_shrink_meanwhile() {
    require!(root);
    let _turn = turn();
    let pages = 2000;
    let file = memory(pages);
    let (is_over, shrunk) = (AtomicBool::new(false), AtomicU64::new(0));

    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                (0..pages).for_each(|page| file.write_all_at(&[1], offset(page)).expect("room"));
                file.set_len(offset(1)).expect("our own");
                shrunk.fetch_add(1, Ordering::Relaxed);
            }
        });
        let (mut reader, object) = (reader(EVERYTHING), object(&file));
        let mut scans = 0;
        while scans < 300 || shrunk.load(Ordering::Relaxed) < 100 {
            let runs = runs(&mut reader, &object, 0..pages);
            assert!(runs.iter().all(|run| run.first.as_raw() + run.pages.get() <= pages as u64));
            scans += 1;
        }
        is_over.store(true, Ordering::Relaxed);
        eprintln!("{scans} scans");
    });
}

#[test]
fn pages_are_told_without_rights_but_not_their_frames() {
    require!(root);
    let _turn = turn();
    let file = memory(8);
    file.write_all_at(&[1], offset(5)).expect("room");

    let runs =
        without(CapabilitySet::SYS_ADMIN, || runs(&mut reader(Wanted::default()), &object(&file), 0..8));

    let [CachedRun { first, pages, entry, .. }] = runs[..] else { panic!("{runs:?}") };
    assert_eq!((first.as_raw(), pages.get(), entry.pfn()), (5, 1, None));
    assert_ne!(entry, PagemapEntry::default());
}

#[test]
fn what_is_no_file_is_not_opened() {
    require!(root);
    let _turn = turn();
    let dir = directory();
    let path = |name: &str| dir.path().join(name);
    mknodat(rustix::fs::CWD, path("fifo"), FileType::Fifo, Mode::RUSR, 0).expect("room");
    fs::write(path("file"), "x").expect("room");
    symlink("file", path("link")).expect("room");
    let open = |path: &Path| MemoryObject::of_path(path, page_size());

    for path in
        [path("fifo"), path("link"), dir.path().to_owned(), "/dev/zero".into(), "/proc/version".into()]
    {
        assert!(matches!(open(&path), Err(ObjectError::Uncached { .. })), "{}", path.display());
    }
    assert!(open(&path("file")).is_ok());
    let error = open(&path("gone")).expect_err("no such file").to_string();
    assert_eq!(error, format!("cannot open {}", path("gone").display()));
}

#[test]
fn what_cannot_be_read_is_told_and_the_rest_is_found() {
    require!(root);
    let _turn = turn();
    let dir = directory();
    let path = |name: &str| dir.path().join(name);
    for name in ["a", "closed", "z"] {
        fs::create_dir(path(name)).expect("room");
        fs::write(path(name).join("file"), name).expect("room");
    }
    fs::set_permissions(path("closed"), Permissions::from_mode(0o000)).expect("our own");
    fs::set_permissions(path("z/file"), Permissions::from_mode(0o000)).expect("our own");

    let rights = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
    let (mut found, opened) = without(rights, || {
        let found: Vec<_> = tree::files(dir.path()).collect();
        let opened: Vec<bool> =
            found.iter().flatten().map(|file| MemoryObject::of_path(file, page_size()).is_ok()).collect();
        (found, opened)
    });

    let errors: Vec<_> = found.extract_if(.., |file| file.is_err()).filter_map(Result::err).collect();
    assert!(
        matches!(&errors[..], [FileError::Denied { path: closed, .. }] if *closed == path("closed")),
        "{errors:?}"
    );
    let files: BTreeMap<PathBuf, bool> = found.into_iter().flatten().zip(opened).collect();
    assert_eq!(files, BTreeMap::from([(path("a/file"), true), (path("z/file"), false)]));
}

#[test]
fn other_file_systems_are_not_entered() {
    require!(root);
    let _turn = turn();
    let dir = directory();
    let mounted = dir.path().join("mounted");
    fs::create_dir(&mounted).expect("room");
    fs::write(dir.path().join("own"), "x").expect("room");
    mount("cached", &mounted, "tmpfs", MountFlags::empty(), None).expect("root may mount");
    fs::write(mounted.join("other"), "x").expect("room");

    let names = |path: &Path| tree::files(path).map(|file| file.expect("our own")).collect::<Vec<_>>();
    let (below, inside) = (names(dir.path()), names(&mounted));
    unmount(&mounted, UnmountFlags::DETACH).expect("it is ours");

    assert_eq!(below, [dir.path().join("own")]);
    assert_eq!(inside, [mounted.join("other")]);
}

/// Small files in a directory.
const FILES: u64 = 20_000;

#[test]
fn many_small_files_take_little_memory() {
    require!(root);
    let _turn = turn();
    let dir = directory();
    for file in 0..FILES {
        fs::write(dir.path().join(file.to_string()), "x").expect("room");
    }
    let began = Instant::now();
    let mut reader = reader(EVERYTHING);
    let (mut files, mut pages) = (0, 0);

    let peak = peak_growth(|| {
        for path in tree::files(dir.path()) {
            let object = MemoryObject::of_path(&path.expect("our own"), page_size()).expect("our own");
            reader.walk(&object, file_pages(0..usize::MAX), |run| pages += run.pages.get()).expect("a file");
            files += 1;
        }
    });

    eprintln!("{files} files in {:?}, {} KiB of memory", began.elapsed(), peak >> 10);
    assert_eq!((files, pages), (FILES, FILES));
    assert!(peak < 4 << 20, "{peak} bytes");
}
