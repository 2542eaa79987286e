//! Pages that a person can count.

mod blocks;
mod counting;
mod folios;
mod merging;
mod model;
mod residence;
mod shares;
mod sharing;
mod stretches;
mod swap;
mod thpmaps;

use super::*;
use crate::pagemap::{FlagsEra, PagemapEra, SwapLayout};

/// Bits of pagemap, from `Documentation/admin-guide/mm/pagemap.rst`.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FILE: u64 = 1 << 61;
const EXCLUSIVE: u64 = 1 << 56;
const SOFT_DIRTY: u64 = 1 << 55;

/// Flags of frames that most tests need.
const ANON: PageFlags = PageFlags::ANON.union(PageFlags::MMAP).union(PageFlags::LRU);
const CACHED: PageFlags = PageFlags::MMAP.union(PageFlags::LRU);

/// As distributions configure kernels: areas are 0 to 22, 23 is for memory errors, 24 to 26 for migration, 27 to 30 for devices, 31
/// for markers.
const LAYOUT: SwapLayout = SwapLayout::new(1, 3, 4, 1).expect("nine types");

fn rules() -> Rules {
    Rules {
        page: PageSize::from_bytes(4096).expect("a power of two"),
        era: PageEra {
            pagemap: Some(PagemapEra::V6_15),
            flags: FlagsEra::V6_12,
            swap: Some(LAYOUT),
            scan: PageCategories::empty(),
        },
        block_orders: Vec::new(),
    }
}

/// `pages` from number `first` on, of which nothing but their words is known; `word` is the first.
fn run(first: u64, pages: u64, word: u64) -> PageRun {
    PageRun {
        entries: EntryRun {
            first: Vpn::from_raw(first),
            pages: PageCount::new(pages),
            entry: PagemapEntry::from_raw(word),
        },
        categories: PageCategories::from_word(word),
        frame: Frame::default(),
    }
}

/// The same, whose frames have these flags.
fn flagged(first: u64, pages: u64, word: u64, flags: PageFlags) -> PageRun {
    PageRun { frame: Frame { flags: Some(flags), ..Frame::default() }, ..run(first, pages, word) }
}

/// `run`, whose frames are each mapped so often.
fn mapped(mapcount: u64, run: PageRun) -> PageRun {
    PageRun { frame: Frame { mapcount: Some(mapcount), ..run.frame }, ..run }
}

/// `run`, mapped by entries of a page middle directory.
fn by_pmd(run: PageRun) -> PageRun {
    PageRun { categories: run.categories | PageCategories::HUGE, ..run }
}

fn tally_by(rules: &Rules, runs: &[PageRun]) -> Tally {
    let mut tally = Tally::default();
    for run in runs {
        tally.add(run, rules);
    }
    tally.finish(rules);
    tally
}

fn tally(runs: &[PageRun]) -> Tally {
    tally_by(&rules(), runs)
}

fn pages<K: Copy + Ord>(counts: &Counts<K>) -> Vec<(K, u64)> {
    counts.iter().map(|(key, pages)| (key, pages.get())).collect()
}
