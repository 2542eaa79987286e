//! Page-table entries of what is not present, each made for real: guards, markers, poison, swap, damage, pages on the move.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::FileExt as _,
    sync::{
        Barrier, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use memtrace::{
    host,
    pagemap::{
        Frame, Marker, NotPresent, PageFlags, PagemapEntry, PagemapEra, Residence, SwapLayout, SwapSlot,
    },
};
use memtrace_tests::{
    made,
    memory::{Mapping, drain_batches, page_bytes},
    require,
    requirement::{self, since},
    scan::{
        EXCLUSIVE, FILE, GUARD, PRESENT, Page, SWAPPED, UFFD_WP, expect_each, first_page, grow_by,
        own_pagemap, own_pagemap_without_rights, page_size, range, scan, scan_through, word,
    },
    setting::{Setting, transparent_huge_pages},
    swap::Swap,
    turn,
    uffd::{self, Mode, Uffd},
    wait_until,
};
use rustix::mm::Advice;

/// How this kernel lays out pagemap words and swap entries, found without memtrace: by what it does, and what it has in its
/// symbol table.
fn layout() -> (PagemapEra, SwapLayout) {
    static LAYOUT: LazyLock<(PagemapEra, SwapLayout)> = LazyLock::new(|| {
        let symbols = fs::read_to_string("/proc/kallsyms").expect("kernels under test have CONFIG_KALLSYMS");
        let names: BTreeSet<&str> =
            symbols.lines().filter_map(|symbol| symbol.split_whitespace().nth(2)).collect();
        // Markers came together with what userfaultfd does by them, and could be left out until Linux 6.2. Until then there
        // was one type more, above that of markers, for what could not be read back from swap.
        let marker = if since("6.2") {
            1
        } else {
            u8::from(since("5.19")) + u8::from(Uffd::open(uffd::WP_HUGETLBFS_SHMEM).is_ok())
        };
        let migration = if !names.contains("migrate_pages") {
            0
        } else if since("5.19") {
            3
        } else {
            2
        };
        // Exclusive use of devices came in Linux 5.14 with two types, of which one was left in 6.15.
        let device = if names.contains("make_device_exclusive") {
            3
        } else if names.contains("make_device_exclusive_range") {
            4
        } else if names.contains("migrate_vma_setup") && !since("5.14") {
            2
        } else {
            0
        };
        let hwpoison = u8::from(names.contains("memory_failure"));
        let layout = SwapLayout::new(hwpoison, migration, device, marker).expect("ten types at most");
        eprintln!("{:?}, {layout:?}, {} areas", era(), layout.areas());
        (era(), layout)
    });
    *LAYOUT
}

/// The era of pagemap words, by the newest bit that this kernel is seen to set.
fn era() -> PagemapEra {
    let mapping = Mapping::anonymous(2).expect("room");
    mapping.write(0);
    let first = first_page(&mapping);
    let pagemap = own_pagemap();
    let word = |index| word(&pagemap, first + index).expect("it is mapped");
    if mapping.guard(1..2).is_ok() && word(1) & GUARD != 0 {
        return PagemapEra::V6_15;
    }
    let protected = Uffd::open(0).and_then(|uffd| {
        uffd.register(&mapping, Mode::WriteProtect)?;
        uffd.protect(&mapping, 0..1)?;
        Ok(word(0) & UFFD_WP != 0)
    });
    // Without userfaultfd the bit is never set.
    if protected.unwrap_or_else(|_| since("5.14")) { PagemapEra::V5_14 } else { PagemapEra::V4_2 }
}

/// Where a page is, as memtrace reads its word on this kernel.
fn residence(page: &Page) -> Residence {
    let (era, layout) = layout();
    page.entry.residence(era, Some(layout))
}

fn swap_slot(page: &Page) -> SwapSlot {
    match residence(page) {
        Residence::NotPresent(NotPresent::Swap(slot)) => slot,
        other => panic!("{page:x?} is {other:x?}"),
    }
}

#[track_caller]
fn expect_residence(pages: &[Page], expected: Residence) {
    for page in pages {
        assert_eq!(residence(page), expected, "{page:x?} with {:x?}", layout());
    }
}

#[test]
fn entries_are_read_as_this_kernel_lays_them_out() {
    require!(root);
    let _turn = turn();

    let found = host::page_era();

    assert_eq!((found.pagemap, found.swap), (Some(era()), Some(layout().1)));
}

#[test]
fn entries_of_guard_pages() {
    require!(root);
    let _turn = turn();
    let mapping = Mapping::anonymous(8).expect("room");
    mapping.write_all();
    made!(mapping.guard(2..6).map_err(|_| "needs Linux 6.13 (MADV_GUARD_INSTALL)"));
    let bit = if since("6.15") { GUARD } else { 0 };

    let pages = scan(&mapping);

    for index in [0, 1, 6, 7] {
        assert_eq!(pages[index].bits(), PRESENT | EXCLUSIVE, "{index}");
    }
    // Type 31, offset 4.
    expect_each(&pages[2..6], "a guard", |page| page.word() == SWAPPED | bit | 4 << 5 | 31);
    let guard = Residence::NotPresent(NotPresent::Marker(Marker::GUARD));
    expect_residence(&pages[2..6], guard);
    expect_each(&pages[2..6], "in no frame", |page| page.frame == Frame::default());

    let hidden = scan_through(&own_pagemap_without_rights(), range(&mapping));
    expect_each(&hidden[2..6], "hidden but for the bit", |page| page.word() == SWAPPED | bit);
    let known = if bit == 0 { Residence::NotPresent(NotPresent::Hidden) } else { guard };
    expect_residence(&hidden[2..6], known);

    mapping.unguard(2..6).expect("they are guards");

    expect_residence(&scan(&mapping)[2..6], Residence::Absent);
}

#[test]
fn entries_of_a_page_under_write_protection() {
    require!(root);
    let _turn = turn();
    let mapping = Mapping::anonymous(8).expect("room");
    mapping.write_all();
    let uffd =
        made!(Uffd::open(0).map_err(|error| format!("needs userfaultfd (CONFIG_USERFAULTFD): {error}")));
    made!(
        uffd.register(&mapping, Mode::WriteProtect)
            .map_err(|_| "needs write-protection by userfaultfd (Linux 5.7)")
    );
    uffd.protect(&mapping, 2..4).expect("they are registered");
    let bit = if since("5.14") { UFFD_WP } else { 0 };

    let pages = scan(&mapping);

    expect_each(&pages[2..4], "protected", |page| page.bits() == PRESENT | EXCLUSIVE | bit);
    expect_each(&pages[4..], "not protected", |page| page.bits() == PRESENT | EXCLUSIVE);

    drop(uffd);
    expect_each(&scan(&mapping), "not protected any more", |page| page.bits() == PRESENT | EXCLUSIVE);
}

/// The word of a marker of offset 1. Its type is 31, and was 30 in the kernels with a type more above it.
fn protected_by_marker() -> u64 {
    SWAPPED | UFFD_WP | 1 << 5 | if since("6.2") { 31 } else { 30 }
}

/// A page that `mapping` does not have yet is protected by a marker, and the pages that it has are not lost.
#[track_caller]
fn expect_protected_by_marker(mapping: &Mapping, uffd: &Uffd, bits: u64) {
    mapping.write(0);
    mapping.write(1);
    uffd.register(mapping, Mode::WriteProtect).expect("the feature is there");
    uffd.protect(mapping, 1..4).expect("they are registered");

    let pages = scan(mapping);

    assert_eq!(pages[0].bits(), bits, "{:x?}", pages[0]);
    assert_eq!(pages[1].bits(), bits | UFFD_WP, "{:x?}", pages[1]);
    expect_each(&pages[2..4], "a marker", |page| page.word() == protected_by_marker());
    let marker = Residence::NotPresent(NotPresent::Marker(Marker::UFFD_WP));
    expect_residence(&pages[2..4], marker);
    expect_each(&pages[4..], "absent", |page| page.word() == 0);

    let hidden = scan_through(&own_pagemap_without_rights(), range(mapping));
    expect_each(&hidden[2..4], "hidden but for the bit", |page| page.word() == SWAPPED | UFFD_WP);
}

#[test]
fn entries_of_shared_memory_protected_before_it_is_there() {
    require!(root);
    let _turn = turn();
    let mapping = Mapping::shared(8).expect("room");
    let uffd = made!(
        Uffd::open(uffd::WP_HUGETLBFS_SHMEM)
            .map_err(|_| "needs Linux 5.19 (UFFD_FEATURE_WP_HUGETLBFS_SHMEM)")
    );

    expect_protected_by_marker(&mapping, &uffd, PRESENT | FILE | EXCLUSIVE);

    // The marker takes the place of a page that is thrown away, too.
    mapping.advise_part(1..2, Advice::LinuxDontNeed).expect("own memory");
    assert_eq!(scan(&mapping)[1].word(), protected_by_marker());
}

#[test]
fn entries_of_private_memory_protected_before_it_is_there() {
    require!(root);
    let _turn = turn();
    let mapping = Mapping::anonymous(8).expect("room");
    let uffd =
        made!(Uffd::open(uffd::WP_UNPOPULATED).map_err(|_| "needs Linux 6.4 (UFFD_FEATURE_WP_UNPOPULATED)"));

    expect_protected_by_marker(&mapping, &uffd, PRESENT | EXCLUSIVE);
}

#[test]
fn entries_of_poison() {
    require!(root);
    let _turn = turn();
    let mapping = Mapping::anonymous(8).expect("room");
    mapping.write(0);
    let uffd = made!(Uffd::open(uffd::POISON).map_err(|_| "needs Linux 6.6 (UFFDIO_POISON)"));
    uffd.register(&mapping, Mode::Missing).expect("own memory");
    uffd.poison(&mapping, 2..5).expect("nothing is there");

    let pages = scan(&mapping);

    // Type 31, offset 2.
    expect_each(&pages[2..5], "poison", |page| page.word() == SWAPPED | 2 << 5 | 31);
    let poisoned = Residence::NotPresent(NotPresent::Marker(Marker::POISONED));
    expect_residence(&pages[2..5], poisoned);
    assert_eq!(pages[0].bits(), PRESENT | EXCLUSIVE);
}

/// Lets the kernel swap out all of `mapping`; whether it did.
fn is_swapped_out(mapping: &Mapping) -> bool {
    wait_until(|| {
        // Pages that wait in the batch of another processor are left out.
        drain_batches();
        mapping.advise(Advice::LinuxPageOut).expect("Linux 5.4");
        scan(mapping).iter().all(|page| page.bits() & !UFFD_WP == SWAPPED)
    })
}

/// Numbers of areas below which those of the machine lie, if none was switched off before another.
fn areas() -> u8 {
    let swaps = fs::read_to_string("/proc/swaps").expect("the kernel has swap");
    u8::try_from(swaps.lines().count() - 1).expect("few")
}

#[test]
fn entries_of_swapped_pages() {
    require!(root);
    let _turn = turn();
    let area_bytes = 16 << 20;
    let swap = made!(Swap::on(area_bytes));
    let mapping = Mapping::anonymous(256).expect("room");
    mapping.write_all();
    assert!(is_swapped_out(&mapping), "{:x?}", scan(&mapping));

    let pages = scan(&mapping);

    expect_each(&pages, "in swap", |page| page.bits() == SWAPPED);
    let slots: Vec<SwapSlot> = pages.iter().map(swap_slot).collect();
    assert!(slots.iter().all(|slot| slot.kind == slots[0].kind && slot.kind < areas()), "{slots:?}");
    let offsets: BTreeSet<u64> = slots.iter().map(|slot| slot.offset).collect();
    assert_eq!(offsets.len(), 256, "each has a slot of its own");
    let last = (area_bytes / page_bytes()) as u64;
    assert!(offsets.iter().all(|offset| (1..last).contains(offset)), "{offsets:?}");
    let followers = slots.windows(2).filter(|pair| pair[1].offset == pair[0].offset + 1).count();
    assert!(followers > 0, "some slots follow from one another: {offsets:?}");
    assert!(swap.used_bytes() >= range(&mapping).bytes(), "{}", swap.used_bytes());
    expect_each(&pages, "in no frame", |page| page.frame == Frame::default());

    let hidden = scan_through(&own_pagemap_without_rights(), range(&mapping));
    expect_each(&hidden, "hidden", |page| page.word() == SWAPPED);
    let nowhere = Residence::NotPresent(NotPresent::Hidden);
    expect_residence(&hidden, nowhere);

    mapping.write_all();
    expect_each(&scan(&mapping), "back", |page| page.bits() == PRESENT | EXCLUSIVE);
}

#[test]
fn entries_of_two_swap_areas() {
    require!(root);
    let _turn = turn();
    let first = made!(Swap::on(1 << 20));
    let second = first.beside(4 << 20);
    // More than either holds, less than both.
    let mapping = Mapping::anonymous(1100).expect("room");
    mapping.write_all();
    assert!(is_swapped_out(&mapping), "not all is in swap");

    let slots: Vec<SwapSlot> = scan(&mapping).iter().map(swap_slot).collect();

    let kinds: BTreeSet<u8> = slots.iter().map(|slot| slot.kind).collect();
    assert_eq!(kinds.len(), 2, "{kinds:?}");
    assert!(kinds.iter().all(|kind| *kind < areas()), "{kinds:?}");
    let mut pages_in = kinds.iter().map(|kind| slots.iter().filter(|slot| slot.kind == *kind).count() as u64);
    // The areas have their numbers in the order of swapon.
    for area in [&first, &second] {
        let used = area.used_bytes() / page_size().bytes();
        let pages = pages_in.next().expect("two");
        assert!(pages <= used, "{pages} of {used} in {}", area.path());
    }
}

/// Private memory of one huge page that was written to.
fn written_huge_page() -> Result<(Setting, Mapping), String> {
    let setting = transparent_huge_pages("enabled")?;
    let mapping = Mapping::huge(1).map_err(|error| format!("needs room: {error}"))?;
    mapping.write(0);
    if scan(&mapping).iter().all(|page| page.has(PageFlags::THP)) {
        Ok((setting, mapping))
    } else {
        Err("needs 2 MiB of memory in one piece".to_owned())
    }
}

#[test]
fn entries_of_a_huge_page_swapped_as_a_whole() {
    require!(root);
    let _turn = turn();
    let _swap = made!(Swap::on(64 << 20));
    let (_enabled, mapping) = made!(written_huge_page());
    let whole = || {
        let counters = fs::read_to_string("/proc/vmstat").expect("there is always one");
        let row = counters.lines().find_map(|row| row.strip_prefix("thp_swpout ")).map(str::to_owned);
        row.and_then(|count| count.parse::<u64>().ok())
    };
    let before = whole();
    assert!(is_swapped_out(&mapping), "not all is in swap");
    if whole() == before {
        return requirement::skip("needs huge pages that are swapped as a whole (CONFIG_THP_SWAP)");
    }

    let pages = scan(&mapping);

    expect_each(&pages, "in swap", |page| page.bits() == SWAPPED);
    assert!(grow_by(&pages, 1 << 5), "{pages:x?}");
    let slots: Vec<SwapSlot> = pages.iter().map(swap_slot).collect();
    let follow = |pair: &[SwapSlot]| pair[0].kind == pair[1].kind && pair[1].offset == pair[0].offset + 1;
    assert!(slots.windows(2).all(follow), "{slots:?}");
}

/// It costs a page of the machine, until it boots anew.
#[cfg(feature = "disposable")]
#[test]
fn entries_of_damaged_memory() {
    require!(root);
    let _turn = turn();
    let mapping = Mapping::anonymous(8).expect("room");
    mapping.write_all();
    let before = scan(&mapping);
    made!(
        mapping
            .advise_part(3..4, Advice::LinuxHwPoison)
            .map_err(|error| format!("needs CONFIG_MEMORY_FAILURE: {error}"))
    );

    let pages = scan(&mapping);

    let frame = before[3].entry.pfn().expect("root sees frames");
    assert_eq!(pages[3].bits(), SWAPPED, "{:x?}", pages[3]);
    expect_residence(&pages[3..4], Residence::NotPresent(NotPresent::HwPoison(Some(frame))));
    let kpageflags = fs::File::open("/proc/kpageflags").expect("root");
    let flags = word(&kpageflags, frame.as_raw()).expect("there is such a frame");
    assert!(PageFlags::from_bits_retain(flags).contains(PageFlags::HWPOISON), "{flags:#x}");
    assert_eq!(pages[2].bits(), PRESENT | EXCLUSIVE, "its neighbour lives");
}

/// Pages are entered as migrating while the huge page they are in is split. That takes microseconds, so none need be caught.
#[test]
fn entries_of_pages_on_the_move() {
    const SPLITS: usize = 500;
    require!(root);
    let _turn = turn();
    let (_enabled, mapping) = made!(written_huge_page());
    let pagemap = own_pagemap();
    let (first, pages) = (first_page(&mapping), mapping.pages());
    let words = || {
        let mut bytes = vec![0; 8 * pages];
        pagemap.read_exact_at(&mut bytes, first * 8).expect("own memory");
        let words = bytes.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word));
        words.map(PagemapEntry::from_raw).collect::<Vec<_>>()
    };
    let (era, layout) = layout();
    let mut caught = 0;

    for _ in 0..SPLITS {
        mapping.advise(Advice::LinuxDontNeed).expect("own memory");
        mapping.write(0);
        let before = words();
        let (begin, is_split) = (Barrier::new(2), AtomicBool::new(false));
        let watch = || {
            let mut caught = 0;
            begin.wait();
            while !is_split.load(Ordering::Acquire) {
                for (now, then) in words().into_iter().zip(&before) {
                    if let Residence::NotPresent(found) = now.residence(era, Some(layout)) {
                        assert_eq!(
                            found,
                            NotPresent::Migration(then.pfn()),
                            "{now:x?}, {then:x?}, {layout:?}"
                        );
                        caught += 1;
                    }
                }
            }
            caught
        };
        caught += thread::scope(|scope| {
            let watcher = scope.spawn(watch);
            begin.wait();
            // Advice about a part splits the whole.
            let split = mapping.advise_part(1..2, Advice::LinuxCold);
            is_split.store(true, Ordering::Release);
            split.expect("Linux 5.4");
            watcher.join().expect("all that it sees is on the move")
        });
    }

    eprintln!("caught {caught} entries of pages on the move in {SPLITS} splits");
}
