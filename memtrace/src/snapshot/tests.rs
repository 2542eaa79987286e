//! Snapshots by hand, and their words.

mod csv;
mod json;
mod list;
mod sharing;
mod table;
mod text;
mod thp;

use super::*;
use crate::{
    census::{Content, FolioUse, RegionCensus, Share},
    event::{Tgid, Vma},
    pagemap::{
        EntryRun, FlagsEra, Frame, PageCategories, PageEra, PageFlags, PageRun, PagemapEntry, PagemapEra,
        SwapLayout,
    },
    units::{PageSize, Timestamp, VirtAddr, VirtRange, Vpn},
};

/// Bits of pagemap, from `Documentation/admin-guide/mm/pagemap.rst`.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FILE: u64 = 1 << 61;
const EXCLUSIVE: u64 = 1 << 56;
const SOFT_DIRTY: u64 = 1 << 55;

/// What root is told.
const ALL: Known = Known { flags: true, mapcounts: true, cgroups: true, huge: true, places: true };
/// What others are told of their own processes by a kernel without `PAGEMAP_SCAN`.
const LITTLE: Known = Known { flags: false, mapcounts: false, cgroups: false, huge: false, places: false };

fn page_size() -> PageSize {
    PageSize::from_bytes(4096).expect("a power of two")
}

fn rules() -> Rules {
    Rules {
        page: page_size(),
        era: PageEra {
            pagemap: Some(PagemapEra::V6_15),
            flags: FlagsEra::V6_12,
            swap: SwapLayout::new(1, 3, 4, 1),
            scan: PageCategories::empty(),
        },
        block_orders: Vec::new(),
    }
}

/// `pages` from number `first` on; `word` is the first.
fn entries(first: u64, pages: u64, word: u64) -> EntryRun {
    EntryRun {
        first: Vpn::from_raw(first),
        pages: PageCount::new(pages),
        entry: PagemapEntry::from_raw(word),
    }
}

fn tally(runs: &[(EntryRun, Frame)]) -> Tally {
    let rules = rules();
    let mut tally = Tally::default();
    for (entries, frame) in runs {
        let categories = PageCategories::from_word(entries.entry.as_raw());
        tally.add(&PageRun { entries: *entries, categories, frame: *frame }, &rules);
    }
    tally.finish(&rules);
    tally
}

/// A frame with these flags, mapped so often, charged to the memory cgroup of inode 700.
const fn frame(flags: PageFlags, mapcount: u64) -> Frame {
    Frame { flags: Some(flags), mapcount: Some(mapcount), cgroup: Some(700) }
}

/// 0x1800: anonymous memory.
const ANON: PageFlags = PageFlags::MMAP.union(PageFlags::ANON);
/// 0x828: a page of a file.
const CACHED: PageFlags = PageFlags::MMAP.union(PageFlags::LRU).union(PageFlags::UPTODATE);

fn vma(start: u64, end: u64, perms: [u8; 4], name: &str) -> Vma {
    let (device, inode) = if name.starts_with('/') { ((8, 1), 7) } else { ((0, 0), 0) };
    Vma {
        range: VirtRange::new(VirtAddr::from_raw(start), VirtAddr::from_raw(end)).expect("not empty"),
        perms,
        offset: 0,
        device,
        inode,
        name: name.into(),
    }
}

/// A process with a heap of 3 pages of its own in frames that follow one another, 1 page of swap, and 2 pages of a library that
/// another process maps too.
fn process(tgid: u32, comm: &str) -> ProcessCensus {
    let heap = tally(&[
        (entries(0x1000, 3, PRESENT | EXCLUSIVE | 0x8000), frame(ANON, 1)),
        (entries(0x1003, 1, SWAPPED | 0x50 << 5), Frame::default()),
    ]);
    let library = tally(&[(entries(0x7f000, 2, PRESENT | FILE | 0x9001), frame(CACHED, 2))]);
    let mut total = heap.clone();
    total.merge(&library);
    ProcessCensus {
        tgid: Tgid(tgid),
        comm: comm.to_owned(),
        cgroup: Some("/work".to_owned()),
        regions: vec![
            RegionCensus {
                vma: vma(0x100_0000, 0x100_8000, *b"rw-p", "[heap]"),
                kind: None,
                tally: heap,
                is_complete: true,
            },
            RegionCensus {
                vma: vma(0x7f00_0000, 0x7f00_4000, *b"r-xp", "/usr/lib/a, b.so"),
                kind: None,
                tally: library,
                is_complete: true,
            },
        ],
        total,
        swap_share: Share::default(),
        is_complete: true,
    }
}

fn snapshot(known: Known, subject: Subject, total: Tally) -> Snapshot {
    Snapshot {
        time: Timestamp::from_nanos(5_000),
        realtime_ns: 1_700_000_000_000_000_000,
        rules: rules(),
        known,
        subject,
        total,
        cgroup_paths: [(700, "/sys/fs/cgroup/work".to_owned())].into(),
    }
}

/// One process, as root sees it.
fn one() -> Snapshot {
    let process = process(42, "sort");
    let total = process.total.clone();
    snapshot(
        ALL,
        Subject::Processes { processes: vec![process], sharing: Some(Vec::new()), passed_over: 0 },
        total,
    )
}

/// Two of them, which share 2 pages.
fn two() -> Snapshot {
    let processes = vec![process(42, "sort"), process(43, "cat")];
    let mut total = processes[0].total.clone();
    total.merge(&processes[1].total);
    let sharers = Sharers { processes: vec![0, 1], has_others: false };
    snapshot(
        ALL,
        Subject::Processes { processes, sharing: Some(vec![(sharers, PageCount::new(2))]), passed_over: 0 },
        total,
    )
}

/// A process without rights: no frame numbers, no slots.
fn unprivileged() -> Snapshot {
    let total = tally(&[
        (entries(0x1000, 3, PRESENT | EXCLUSIVE), Frame::default()),
        (entries(0x1003, 1, SWAPPED), Frame::default()),
        (entries(0x7f000, 2, PRESENT | FILE), Frame::default()),
    ]);
    let region = RegionCensus {
        vma: vma(0x100_0000, 0x100_8000, *b"rw-p", "[heap]"),
        kind: None,
        tally: total.clone(),
        is_complete: true,
    };
    let process = ProcessCensus { total: total.clone(), regions: vec![region], ..process(42, "sort") };
    snapshot(
        LITTLE,
        Subject::Processes { processes: vec![process], sharing: Some(Vec::new()), passed_over: 0 },
        total,
    )
}

/// A file with 2 cached pages of 3, of which 1 is dirty.
fn file() -> Snapshot {
    let total = tally(&[
        (entries(0, 1, PRESENT | FILE | 0x9000), frame(CACHED, 0)),
        (entries(2, 1, PRESENT | FILE | 0x9002), frame(CACHED | PageFlags::DIRTY, 0)),
    ]);
    let file = FileCensus {
        path: "/tmp/big".to_owned(),
        inode: 77,
        bytes: 8193,
        cached: PageCount::new(2),
        dirty: Some(PageCount::new(1)),
    };
    snapshot(ALL, Subject::Files { files: vec![file], passed_over: 0 }, total)
}

/// All memory: 512 free frames and 256 that are no memory.
fn system() -> Snapshot {
    let mut total = Tally::default();
    total.add_frames(PageCount::new(512), &frame(PageFlags::BUDDY, 0));
    total.add_frames(PageCount::new(256), &frame(PageFlags::NOPAGE, 0));
    total.finish(&rules());
    snapshot(ALL, Subject::System, total)
}
