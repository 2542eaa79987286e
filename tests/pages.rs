//! The walk over pages against one reading for each page.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    thread,
    time::Duration,
};

use memtrace::{
    pagemap::{Frame, PageFlags, PageRun},
    probe::walk::{PageWalker, Wanted},
    units::{PageSize, VirtAddr, VirtRange},
};
use memtrace_tests::{
    memory::{Mapping, Sharing, page_bytes},
    require,
};

const EVERYTHING: Wanted = Wanted { flags: true, mappings: true, cgroup: true };

/// Word in pagemap, and what is known of the frame.
type Page = (u64, Frame);

/// The addresses of `mapping`.
fn range(mapping: &Mapping) -> VirtRange {
    let area = mapping.area(0);
    VirtRange::new(VirtAddr::from_raw(area.start), VirtAddr::from_raw(area.end)).expect("not empty")
}

fn page() -> PageSize {
    PageSize::from_bytes(page_bytes() as u64).expect("a power of two")
}

fn own_pagemap() -> File {
    File::open("/proc/self/pagemap").expect("own pagemap can be opened")
}

/// Word number `index` of a file; `None` at its end.
fn word(file: &File, index: u64) -> Option<u64> {
    let mut word = [0; 8];
    match file.read_exact_at(&mut word, index * 8) {
        Ok(()) => Some(u64::from_ne_bytes(word)),
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
            None
        }
    }
}

/// The pages of `range` that are there, by number, each read by itself.
fn one_by_one(range: VirtRange) -> BTreeMap<u64, Page> {
    const FRAME: u64 = (1 << 55) - 1;
    let open = |name: &str| File::open(name).expect("root may read it");
    let (pagemap, flags) = (own_pagemap(), open("/proc/kpageflags"));
    let (mappings, cgroup) = (open("/proc/kpagecount"), open("/proc/kpagecgroup"));
    let first = range.start().vpn(page()).as_raw();
    let pages = first..first + range.pages(page()).get();
    let known = pages.filter_map(|number| {
        // Present or swapped; absent ones may be soft-dirty.
        let entry = word(&pagemap, number).filter(|entry| entry >> 62 != 0)?;
        let frame = (entry >> 63 == 1).then_some(entry & FRAME);
        let of = |file| frame.and_then(|frame| word(file, frame));
        let flags = of(&flags).map(PageFlags::from_bits_retain);
        Some((number, (entry, Frame { flags, mappings: of(&mappings), cgroup: of(&cgroup) })))
    });
    known.collect()
}

/// The runs that a walk over `range` finds.
fn walk(range: VirtRange, scan: bool, wanted: Wanted) -> Vec<PageRun> {
    let mut walker = PageWalker::new(page(), scan, wanted, Duration::from_millis(2)).expect("root");
    let mut runs = Vec::new();
    walker.walk(&own_pagemap(), range, |run| runs.push(run)).expect("this process lives");
    runs
}

fn expand(runs: &[PageRun]) -> BTreeMap<u64, Page> {
    let pages = runs.iter().flat_map(|run| {
        let first = run.entries.first.as_raw();
        (first..).zip(run.entries.entries()).map(|(number, entry)| (number, (entry.as_raw(), run.frame)))
    });
    pages.collect()
}

/// Whether the kernel has `PAGEMAP_SCAN`.
fn has_scan() -> bool {
    let mut walker =
        PageWalker::new(page(), true, Wanted::default(), Duration::MAX).expect("nothing to open");
    let here = VirtRange::new(VirtAddr::from_raw(0), VirtAddr::from_raw(page().bytes())).expect("not empty");
    walker.walk(&own_pagemap(), here, |_| ()).is_ok()
}

/// Checks that walks find what single readings find. Flags change by themselves: each page must be as it was before or after.
#[track_caller]
fn expect_same(mapping: &Mapping) {
    let range = range(mapping);
    for scan in [false, true].into_iter().filter(|scan| !scan || has_scan()) {
        let before = one_by_one(range);
        let walked = expand(&walk(range, scan, EVERYTHING));
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

#[test]
fn huge_page_from_its_middle_on() {
    require!(root);
    let mapping = Mapping::huge(2).expect("room");
    mapping.write_all();
    let whole = range(&mapping);
    let start = VirtAddr::from_raw(whole.start().as_raw() + 5 * page().bytes());
    let range = VirtRange::new(start, whole.end()).expect("not empty");

    let walked = expand(&walk(range, has_scan(), EVERYTHING));

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
    let walked = expand(&walk(range(&once), has_scan(), EVERYTHING));
    let mappings: Vec<_> = walked.values().map(|(_, frame)| frame.mappings).collect();
    assert!(
        mappings[..32].iter().all(|mappings| mappings.is_some_and(|mappings| mappings >= 2)),
        "{mappings:?}"
    );
}

#[test]
fn nothing_is_told_that_was_not_asked_for() {
    require!(root);
    let mapping = Mapping::anonymous(64).expect("room");
    mapping.write_all();

    let runs = walk(range(&mapping), has_scan(), Wanted::default());

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
    let range =
        VirtRange::new(VirtAddr::from_raw(page().bytes()), VirtAddr::from_raw(1 << 40)).expect("not empty");

    for scan in [false, true].into_iter().filter(|scan| !scan || has_scan()) {
        let mut walker = PageWalker::new(page(), scan, EVERYTHING, Duration::MAX).expect("root");
        let result = walker.walk(&pagemap, range, |run| panic!("{run:?}"));

        assert!(matches!(result, Err(memtrace::probe::ProbeError::Gone)), "by scan {scan}: {result:?}");
    }
}
