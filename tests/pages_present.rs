//! Page-table entries of pages that are present, each made for real: zero, huge, merged, shared, locked, of files.

use std::{
    fs::{self, File},
    io::{Seek as _, Write as _},
    time::Instant,
};

use memtrace::{
    pagemap::{PageCategories, PageFlags},
    units::VirtRange,
};
use memtrace_tests::{
    made,
    memory::{Mapping, Sharing, drain_batches, page_bytes},
    require,
    requirement::{self, since},
    scan::{
        EXCLUSIVE, FILE, PRESENT, Page, expect_each, first_page, grow_by, has_scan, own_pagemap, scan,
        scan_through, scan_until, span,
    },
    setting::{HugePages, Setting, transparent_huge_pages},
    task::Sleeper,
    turn,
};
use rustix::{
    fs::{MemfdFlags, memfd_create},
    mm::Advice,
};

/// Base pages in 2 MiB.
const HUGE_PAGES: usize = 512;

#[test]
fn entries_of_zero_pages() {
    require!(root);
    let _turn = turn();
    let mapping = Mapping::anonymous(8).expect("room");
    mapping.read_all();

    let pages = scan(&mapping);

    expect_each(&pages, "just present", |page| page.bits() == PRESENT && page.low() == pages[0].low());
    expect_each(&pages, "a zero page", |page| page.has(PageFlags::ZERO_PAGE));
    expect_each(&pages, "mapped by nobody", |page| page.frame.mapcount == Some(0));
    if has_scan() {
        expect_each(&pages, "PFNZERO", |page| page.categories.contains(PageCategories::PFNZERO));
    }

    mapping.write(3);

    let written = scan(&mapping)[3];
    assert_eq!(written.bits(), PRESENT | EXCLUSIVE, "{written:x?}");
    assert!(written.lacks(PageFlags::ZERO_PAGE) && !written.categories.contains(PageCategories::PFNZERO));
}

#[test]
fn entries_of_a_huge_zero_page() {
    require!(root);
    let _turn = turn();
    let _enabled = made!(transparent_huge_pages("enabled"));
    let path = "/sys/kernel/mm/transparent_hugepage/use_zero_page";
    let _zero = made!(Setting::change(path, "1").map_err(|error| format!("needs {path}: {error}")));
    let mapping = Mapping::huge(1).expect("room");
    mapping.read(0);

    let pages = scan(&mapping);

    // Whether it counts as a page of a file depends on the kernel.
    expect_each(&pages, "present and not exclusive", |page| page.bits() & !FILE == PRESENT);
    assert!(grow_by(&pages, 1), "{pages:x?}");
    expect_each(&pages, "zero and huge", |page| page.has(PageFlags::ZERO_PAGE | PageFlags::THP));
    expect_each(&pages, "mapped by nobody", |page| page.frame.mapcount == Some(0));
    assert!(pages[0].has(PageFlags::COMPOUND_HEAD), "{:x?}", pages[0]);
    expect_each(&pages[1..], "a tail", |page| page.has(PageFlags::COMPOUND_TAIL));
    if has_scan() {
        expect_each(&pages, "HUGE", |page| page.categories.contains(PageCategories::HUGE));
    }
    // Before, PAGEMAP_SCAN compared with the small zero page alone; some older kernels have the correction.
    if since("6.17") {
        expect_each(&pages, "PFNZERO", |page| page.categories.contains(PageCategories::PFNZERO));
    }
}

/// A file of huge pages that no file system has.
fn hugetlb_file() -> Result<File, String> {
    let file = memfd_create("memtrace", MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB)
        .map_err(|error| format!("needs memfd_create(2) with MFD_HUGETLB: {error}"))?;
    Ok(file.into())
}

/// All of `pages` are those of one hugetlb page that is mapped `count` times.
#[track_caller]
fn expect_hugetlb(pages: &[Page], bits: u64, count: u64) {
    expect_each(pages, "of that kind", |page| page.bits() == bits);
    assert!(grow_by(pages, 1), "{pages:x?}");
    expect_each(pages, "hugetlb", |page| page.has(PageFlags::HUGE) && page.lacks(PageFlags::THP));
    assert!(pages[0].has(PageFlags::COMPOUND_HEAD), "{:x?}", pages[0]);
    expect_each(&pages[1..], "a tail", |page| page.has(PageFlags::COMPOUND_TAIL));
    expect_each(pages, "mapped so often", |page| page.frame.mapcount == Some(count));
    if has_scan() {
        expect_each(pages, "HUGE", |page| page.categories.contains(PageCategories::HUGE));
    }
}

#[test]
fn entries_of_hugetlb_pages() {
    require!(root);
    let _turn = turn();
    let _pool = made!(HugePages::add(3));
    let file = made!(hugetlb_file());
    let private = Mapping::of_file(&made!(hugetlb_file()), 2 * HUGE_PAGES, Sharing::Private).expect("room");
    private.write(HUGE_PAGES + 3);
    let once = Mapping::of_file(&file, HUGE_PAGES, Sharing::Shared).expect("room");
    once.write(0);

    let pages = scan(&private);
    expect_each(&pages[..HUGE_PAGES], "absent", |page| page.word() == 0);
    expect_hugetlb(&pages[HUGE_PAGES..], PRESENT | EXCLUSIVE, 1);
    expect_hugetlb(&scan(&once), PRESENT | FILE | EXCLUSIVE, 1);

    let twice = Mapping::of_file(&file, HUGE_PAGES, Sharing::Shared).expect("room");
    twice.read(0);

    expect_hugetlb(&scan(&once), PRESENT | FILE, 2);
    expect_hugetlb(&scan(&twice), PRESENT | FILE, 2);
    assert_eq!(scan(&once)[7].low(), scan(&twice)[7].low(), "the same frame");
}

#[test]
fn entries_of_merged_pages() {
    require!(root);
    let _turn = turn();
    let ksm = |name: &str, value: &str| {
        Setting::change(&format!("/sys/kernel/mm/ksm/{name}"), value)
            .map_err(|error| format!("needs CONFIG_KSM: {error}"))
    };
    let _settings =
        (made!(ksm("pages_to_scan", "1000")), made!(ksm("sleep_millisecs", "10")), made!(ksm("run", "1")));
    // Contents that no other program has: virtual machines offer their memory, too.
    let mut file = tempfile::tempfile().expect("a temporary file");
    let content = format!("{} {:?} ", std::process::id(), Instant::now());
    let page = content.bytes().cycle().take(page_bytes()).collect::<Vec<_>>();
    file.write_all(&page.repeat(32)).expect("room");
    let areas = [(); 2].map(|()| Mapping::anonymous(32).expect("room"));
    for area in &areas {
        file.rewind().expect("a file");
        area.fill_from(&file).expect("own memory");
        area.advise(Advice::LinuxMergeable).expect("CONFIG_KSM");
    }

    for area in &areas {
        // The first of those to be merged is alone for a moment.
        let _merged = scan_until(area, |page| page.has(PageFlags::KSM) && page.bits() == PRESENT);
    }

    let pages = areas.each_ref().map(scan).concat();
    expect_each(&pages, "merged", |page| page.has(PageFlags::KSM | PageFlags::ANON));
    expect_each(&pages, "just present", |page| page.bits() == PRESENT);
    let of_frame = |low| pages.iter().filter(|page| page.low() == low).count() as u64;
    assert!(of_frame(pages[0].low()) > 32, "across both areas: {pages:x?}");
    expect_each(&pages, "mapped by these alone", |page| page.frame.mapcount == Some(of_frame(page.low())));

    areas[1].write(3);

    let written = scan(&areas[1])[3];
    assert_eq!(written.bits(), PRESENT | EXCLUSIVE, "{written:x?}");
    // From Linux 6.10 on, and still in 6.12, all anonymous pages have this flag by a mistake.
    if !since("6.10") || since("6.18") {
        assert!(written.lacks(PageFlags::KSM), "{written:x?}");
    }
}

#[test]
fn entries_of_a_folio_of_64_kb() {
    const FOLIO: usize = 16;
    require!(root);
    let _turn = turn();
    let _enabled = made!(transparent_huge_pages("hugepages-64kB/enabled"));
    let mapping = Mapping::unadvised(4 * FOLIO).expect("room");
    mapping.advise(Advice::LinuxHugepage).expect("CONFIG_TRANSPARENT_HUGEPAGE");
    let first = first_page(&mapping);
    let start =
        (0..2 * FOLIO).find(|index| (first + *index as u64).is_multiple_of(FOLIO as u64)).expect("one of 16");
    mapping.write(start + 5);

    let pages = scan(&mapping);

    let folio = &pages[start..start + FOLIO];
    expect_each(folio, "written", |page| page.bits() == PRESENT | EXCLUSIVE);
    assert!(grow_by(folio, 1), "{folio:x?}");
    expect_each(folio, "of a large folio", |page| page.has(PageFlags::THP | PageFlags::ANON));
    assert!(folio[0].has(PageFlags::COMPOUND_HEAD), "{:x?}", folio[0]);
    expect_each(&folio[1..], "a tail", |page| page.has(PageFlags::COMPOUND_TAIL));
    expect_each(folio, "mapped by small entries", |page| !page.categories.contains(PageCategories::HUGE));
    let others = pages.len() - pages.iter().filter(|page| page.word() == 0).count();
    assert_eq!(others, FOLIO, "nothing else is there");
}

#[test]
fn entries_of_pages_that_a_fork_shares() {
    require!(root);
    let _turn = turn();
    let mapping = Mapping::anonymous(8).expect("room");
    mapping.write_all();
    let owned = PageFlags::OWNER_2;
    let before = scan(&mapping);
    expect_each(&before, "exclusive", |page| page.bits() == PRESENT | EXCLUSIVE);

    let child = Sleeper::fork().expect("room for a process");
    let shared = scan(&mapping);
    mapping.write(0);
    let written = scan(&mapping)[0];
    drop(child);
    let after = scan(&mapping);

    expect_each(&shared, "shared", |page| page.bits() == PRESENT && page.frame.mapcount == Some(2));
    assert_eq!(written.bits(), PRESENT | EXCLUSIVE, "{written:x?}");
    assert_ne!(written.low(), before[0].low(), "a copy");
    expect_each(&after, "exclusive", |page| page.bits() == PRESENT | EXCLUSIVE);
    expect_each(&after, "mapped once", |page| page.frame.mapcount == Some(1));
    if since("5.19") {
        expect_each(&before, "writable without a copy", |page| page.has(PageFlags::ANON | owned));
        expect_each(&shared, "not writable without a copy", |page| page.lacks(owned));
    }
}

#[test]
fn entries_of_locked_pages() {
    require!(root);
    let _turn = turn();
    let mapping = Mapping::anonymous(8).expect("room");
    mapping.lock().expect("root may");
    drain_batches();

    // Those that wait in a batch are not on that list yet.
    let pages = scan_until(&mapping, |page| page.has(PageFlags::MLOCKED | PageFlags::UNEVICTABLE));

    expect_each(&pages, "locked", |page| page.has(PageFlags::MLOCKED | PageFlags::UNEVICTABLE));
    expect_each(&pages, "as any other", |page| page.bits() == PRESENT | EXCLUSIVE);
}

#[test]
fn entries_of_pages_that_may_be_freed() {
    require!(root);
    let _turn = turn();
    let mapping = Mapping::anonymous(8).expect("room");
    mapping.write_all();
    expect_each(&scan(&mapping), "for swap", |page| page.has(PageFlags::SWAPBACKED));

    // Only what is on a list of reclaim is marked, and that in batches.
    let pages = scan_until(&mapping, |page| {
        if page.has(PageFlags::SWAPBACKED) {
            drain_batches();
            mapping.advise(Advice::LinuxFree).expect("Linux 4.5");
            drain_batches();
        }
        page.lacks(PageFlags::SWAPBACKED)
    });

    expect_each(&pages, "free to go", |page| page.lacks(PageFlags::SWAPBACKED));
    expect_each(&pages, "as any other", |page| page.bits() == PRESENT | EXCLUSIVE);
}

#[test]
fn entries_of_a_private_file_before_and_after_a_copy() {
    require!(root);
    let _turn = turn();
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(&vec![1; 8 * page_bytes()]).expect("room");
    let mapping = Mapping::of_file(&file, 8, Sharing::Private).expect("room");
    mapping.read_all();
    mapping.write(3);

    let pages = scan(&mapping);

    for (index, page) in pages.iter().enumerate() {
        let (bits, is_anonymous) =
            if index == 3 { (PRESENT | EXCLUSIVE, true) } else { (PRESENT | FILE | EXCLUSIVE, false) };
        assert_eq!(page.bits(), bits, "{index}: {page:x?}");
        assert_eq!(page.has(PageFlags::ANON), is_anonymous, "{index}: {page:x?}");
    }
}

#[test]
fn entries_of_pages_made_inaccessible() {
    require!(root);
    let _turn = turn();
    let mapping = Mapping::anonymous(8).expect("room");
    mapping.write_all();
    mapping.forbid().expect("own memory");

    expect_each(&scan(&mapping), "as if written", |page| page.bits() == PRESENT | EXCLUSIVE);
}

/// The range of the special VMA `name` of this process.
fn special(name: &str) -> Option<VirtRange> {
    let maps = fs::read_to_string("/proc/self/maps").expect("own maps");
    let row = maps.lines().find(|row| row.ends_with(name))?;
    let (start, end) = row.split_whitespace().next()?.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).expect("hexadecimal");
    Some(span(address(start), address(end)))
}

#[test]
fn entries_of_what_the_kernel_maps() {
    require!(root);
    let _turn = turn();
    // Both are in use by now.
    let _now = Instant::now();

    let vdso = scan_through(&own_pagemap(), special("[vdso]").expect("every process has one"));
    assert!(vdso.iter().any(|page| page.word() != 0), "code that has run");
    let is_of_kernel = |page: &Page| [PRESENT | FILE, 0].contains(&(page.bits() & !EXCLUSIVE));
    expect_each(&vdso, "of the kernel's file or absent", is_of_kernel);
    if let Some(vvar) = special("[vvar]") {
        // Frames without pages until some release after Linux 6.18: pagemap tells nothing of such.
        let is_bare = !since("6.19");
        let pages = scan_through(&own_pagemap(), vvar);
        expect_each(&pages, "told as it is", |page| is_of_kernel(page) && !(is_bare && page.word() != 0));
    }
    if let Some(vsyscall) = special("[vsyscall]") {
        expect_each(&scan_through(&own_pagemap(), vsyscall), "absent", |page| page.word() == 0);
    }
}

/// The kernel enters frames of devices at once, so that nothing of the device need be touched.
#[test]
fn entries_of_the_memory_of_a_device_are_not_told() {
    require!(root);
    let _turn = turn();
    let devices = fs::read_dir("/sys/bus/pci/devices").into_iter().flatten().flatten();
    let resources = devices.map(|device| device.path().join("resource0"));
    let mappings = resources.chain(["/dev/mem".into()]).filter_map(|path| {
        let file = File::options().read(true).write(true).open(path).ok()?;
        Mapping::of_file(&file, 1, Sharing::Shared).ok()
    });
    let mappings: Vec<_> = mappings.collect();
    if mappings.is_empty() {
        return requirement::skip("needs a PCI device with memory, or /dev/mem");
    }

    for mapping in mappings {
        expect_each(&scan(&mapping), "absent", |page| page.word() == 0);
    }
}
