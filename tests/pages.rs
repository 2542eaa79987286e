//! The walk over pages against one reading for each page.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    thread,
};

use memtrace::{
    pagemap::{Frame, PageCategories, PageFlags, PageRun},
    probe::{
        budget::Budget,
        pages::PageReader,
        walk::{PageWalker, Wanted},
    },
    units::VirtRange,
};
use memtrace_tests::{
    memory::{Mapping, Sharing, page_bytes},
    require,
    scan::{EVERYTHING, LOW, has_scan, own_pagemap, page_size, range, span, walk, word},
};
use rustix::mm::Advice;

/// Word in pagemap, and what is known of the frame.
type Page = (u64, Frame);

/// The pages of `range` that are there, by number, each read by itself.
fn one_by_one(range: VirtRange) -> BTreeMap<u64, Page> {
    let open = |name: &str| File::open(name).expect("root may read it");
    let (pagemap, flags) = (own_pagemap(), open("/proc/kpageflags"));
    let (mapcount, cgroup) = (open("/proc/kpagecount"), open("/proc/kpagecgroup"));
    let first = range.start().vpn(page_size()).as_raw();
    let pages = first..first + range.pages(page_size()).get();
    let known = pages.filter_map(|number| {
        // Present or swapped; absent ones may be soft-dirty.
        let entry = word(&pagemap, number).filter(|entry| entry >> 62 != 0)?;
        let frame = (entry >> 63 == 1).then_some(entry & LOW);
        let of = |file| frame.and_then(|frame| word(file, frame));
        let flags = of(&flags).map(PageFlags::from_bits_retain);
        Some((number, (entry, Frame { flags, mapcount: of(&mapcount), cgroup: of(&cgroup) })))
    });
    known.collect()
}

/// The runs that a walk over `range` of this process finds.
fn walk_own(range: VirtRange, scan: bool, wanted: Wanted) -> Vec<PageRun> {
    walk(&own_pagemap(), range, scan, wanted).expect("this process lives")
}

fn expand(runs: &[PageRun]) -> BTreeMap<u64, Page> {
    let pages = runs.iter().flat_map(|run| {
        let first = run.entries.first.as_raw();
        (first..).zip(run.entries.entries()).map(|(number, entry)| (number, (entry.as_raw(), run.frame)))
    });
    pages.collect()
}

/// Checks that walks find what single readings find. Flags change by themselves: each page must be as it was before or after.
#[track_caller]
fn expect_same(mapping: &Mapping) {
    let range = range(mapping);
    for scan in [false, true].into_iter().filter(|scan| !scan || has_scan()) {
        let before = one_by_one(range);
        let walked = expand(&walk_own(range, scan, EVERYTHING));
        let after = one_by_one(range);

        let numbers = |pages: &BTreeMap<u64, Page>| pages.keys().copied().collect::<Vec<_>>();
        assert_eq!(numbers(&walked), numbers(&before), "by scan: {scan}");
        for (number, page) in &walked {
            let (before, after) = (&before[number], &after[number]);
            assert!(
                page == before || page == after,
                "{number:#x}: {page:x?} is neither {before:x?} nor {after:x?}"
            );
        }
    }
}

#[test]
fn scattered_pages() {
    require!(root);
    let mapping = Mapping::anonymous(20_000).expect("room");
    (0..mapping.pages())
        .filter(|page| page % 3 == 0 || page % 1000 < 90)
        .for_each(|page| mapping.write(page));

    expect_same(&mapping);
}

#[test]
fn huge_pages_beside_small_ones() {
    require!(root);
    let mapping = Mapping::huge(6).expect("room");
    let pages_each = mapping.pages() / 6;
    // The first, third and fourth, and a page of the last.
    for part in [0, 2, 3] {
        mapping.write(part * pages_each);
    }
    mapping.write(6 * pages_each - 1);

    expect_same(&mapping);
}

/// So many small pages that the walk no longer asks for a scan when it comes to the others.
#[test]
fn huge_pages_behind_many_small_ones() {
    const SMALL: usize = 34;
    require!(root);
    require!(@ (!has_scan()).then(|| "needs Linux 6.7 (PAGEMAP_SCAN)".to_owned()));
    let mapping = Mapping::huge(64).expect("room");
    let pages_each = mapping.pages() / 64;
    mapping.advise_part(0..SMALL * pages_each, Advice::LinuxNoHugepage).expect("there are huge pages");
    (0..SMALL * pages_each).for_each(|page| mapping.write(page));
    let huge = [SMALL, SMALL + 1, SMALL + 9, 63];
    for part in huge {
        mapping.write(part * pages_each);
    }

    expect_same(&mapping);
    let range = range(&mapping);
    let is_huge = |categories: PageCategories| categories.contains(PageCategories::HUGE);
    let known: Vec<u64> = walk_own(range, true, EVERYTHING)
        .iter()
        .filter(|run| is_huge(run.categories))
        .flat_map(|run| run.entries.first.as_raw()..run.entries.first.as_raw() + run.entries.pages.get())
        .collect();
    let scanned: Vec<u64> = PageReader::new(page_size(), PageWalker::TELLS, Budget::default().max_lock)
        .read(&own_pagemap(), range)
        .expect("this process lives")
        .iter()
        .filter(|run| is_huge(run.categories))
        .flat_map(|run| run.range.vpns(page_size()))
        .collect();
    assert!(!scanned.is_empty(), "none of {} huge pages was given", huge.len());
    assert!(known == scanned, "{} pages of huge ones, the scan has {}", known.len(), scanned.len());
}

#[test]
fn huge_page_from_its_middle_on() {
    require!(root);
    let mapping = Mapping::huge(2).expect("room");
    mapping.write_all();
    let whole = range(&mapping);
    let range = span(whole.start().as_raw() + 5 * page_size().bytes(), whole.end().as_raw());

    let walked = expand(&walk_own(range, has_scan(), EVERYTHING));

    let single = one_by_one(range);
    let type_of = |(_, frame): &Page| frame.flags.expect("root") & (PageFlags::COMPOUND | PageFlags::THP);
    assert_eq!(walked.len(), single.len());
    assert!(walked.iter().all(|(number, page)| type_of(page) == type_of(&single[number])));
}

#[test]
fn zero_pages() {
    require!(root);
    let mapping = Mapping::anonymous(3000).expect("room");
    (100..2900).for_each(|page| mapping.read(page));

    expect_same(&mapping);
}

#[test]
fn page_of_a_file_that_is_mapped_twice() {
    require!(root);
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(&vec![1; 64 * page_bytes()]).expect("room");
    let once = Mapping::of_file(&file, 64, Sharing::Shared).expect("room");
    let twice = Mapping::of_file(&file, 64, Sharing::Shared).expect("room");
    once.read_all();
    (0..32).for_each(|page| twice.write(page));
    let private = Mapping::of_file(&file, 64, Sharing::Private).expect("room");
    (0..8).for_each(|page| private.write(page));

    expect_same(&once);
    expect_same(&twice);
    expect_same(&private);
    let walked = expand(&walk_own(range(&once), has_scan(), EVERYTHING));
    let mapcount: Vec<_> = walked.values().map(|(_, frame)| frame.mapcount).collect();
    assert!(
        mapcount[..32].iter().all(|mapcount| mapcount.is_some_and(|mapcount| mapcount >= 2)),
        "{mapcount:?}"
    );
}

#[test]
fn nothing_is_told_that_was_not_asked_for() {
    require!(root);
    let mapping = Mapping::anonymous(64).expect("room");
    mapping.write_all();

    let runs = walk_own(range(&mapping), has_scan(), Wanted::default());

    assert!(runs.iter().all(|run| run.frame == Frame::default()));
    assert_eq!(runs.iter().map(|run| run.entries.pages.get()).sum::<u64>(), 64);
}

#[test]
fn dead_process_is_gone() {
    require!(root);
    let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("there is sleep");
    // Until it has executed, it may live in the address space of this process.
    while !fs::read(format!("/proc/{}/comm", child.id())).is_ok_and(|comm| comm == b"sleep\n") {
        thread::yield_now();
    }
    let pagemap = File::open(format!("/proc/{}/pagemap", child.id())).expect("root may open it");
    child.kill().expect("it runs");
    child.wait().expect("it is ours");
    let range = span(page_size().bytes(), 1 << 40);

    for scan in [false, true].into_iter().filter(|scan| !scan || has_scan()) {
        let mut walker = PageWalker::new(page_size(), scan, EVERYTHING, Budget::default()).expect("root");
        let result = walker.walk(&pagemap, range, |run| panic!("{run:?}"));

        assert!(matches!(result, Err(memtrace::probe::ProbeError::Gone)), "by scan {scan}: {result:?}");
    }
}
