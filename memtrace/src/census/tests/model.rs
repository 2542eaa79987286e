//! Random pages, counted one by one.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Anon,
    File,
    Zero,
    Hugetlb,
    Device,
    Swap,
    Marker,
    Absent,
}

/// A page, and what is told of its frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    pub(super) kind: Kind,
    /// Number of the frame, or of the slot in swap.
    place: u64,
    mapcount: u64,
    is_exclusive: bool,
}

impl Page {
    /// The page as the kernel knows it.
    fn known(self, number: u64) -> PageRun {
        let Self { kind, place, mapcount, is_exclusive } = self;
        let exclusive = if is_exclusive { EXCLUSIVE } else { 0 };
        let (word, flags) = match kind {
            Kind::Anon => (PRESENT | exclusive | place, ANON),
            Kind::File => (PRESENT | FILE | exclusive | place, CACHED),
            Kind::Zero => (PRESENT | place, PageFlags::ZERO_PAGE),
            Kind::Hugetlb => (PRESENT | FILE | place, PageFlags::HUGE),
            Kind::Device => (PRESENT | place, PageFlags::NOPAGE),
            Kind::Swap => return run(number, 1, SWAPPED | place << 5 | 2),
            Kind::Marker => return run(number, 1, SWAPPED | 1 << 5 | 31),
            Kind::Absent => return run(number, 1, 0),
        };
        mapped(mapcount, flagged(number, 1, word, flags))
    }

    const fn is_present(self) -> bool {
        !matches!(self.kind, Kind::Swap | Kind::Marker | Kind::Absent)
    }

    const fn is_resident(self) -> bool {
        matches!(self.kind, Kind::Anon | Kind::File)
    }
}

/// Kinds, those more often that have more to tell.
const KINDS: [Kind; 9] = [
    Kind::Anon,
    Kind::Anon,
    Kind::File,
    Kind::Zero,
    Kind::Hugetlb,
    Kind::Device,
    Kind::Swap,
    Kind::Marker,
    Kind::Absent,
];

/// Stretches of pages that are alike, in places that often follow one another.
pub(super) fn pages_of_all_kinds() -> impl Strategy<Value = Vec<Page>> {
    let stretch = (select(&KINDS[..]), 1..6_u64, prop::option::of(1..60_u64), 0..4_u64, any::<bool>());
    vec(stretch, 0..24).prop_map(|stretches| {
        let mut next = 100;
        let mut pages = Vec::new();
        for (kind, count, place, mapcount, is_exclusive) in stretches {
            let first = place.unwrap_or(next);
            next = first + count;
            pages.extend((first..next).map(|place| Page { kind, place, mapcount, is_exclusive }));
        }
        pages
    })
}

/// The runs of `pages`, of which the first has the number `first`.
pub(super) fn runs(first: u64, pages: &[Page]) -> Vec<PageRun> {
    let mut runs: Vec<PageRun> = Vec::new();
    for (number, page) in (first..).zip(pages) {
        let next = page.known(number);
        if page.kind != Kind::Absent && !runs.last_mut().is_some_and(|last| last.try_append(&next)) {
            runs.push(next);
        }
    }
    runs
}

fn count(pages: &[Page], is_meant: impl Fn(&Page) -> bool) -> PageCount {
    PageCount::new(pages.iter().filter(|page| is_meant(page)).count() as u64)
}

fn by_key<K: Copy + Ord>(keys: impl Iterator<Item = K>) -> Vec<(K, u64)> {
    let mut counts = BTreeMap::new();
    for key in keys {
        *counts.entry(key).or_default() += 1;
    }
    counts.into_iter().collect()
}

/// Lengths of the stretches of frames, each as often as it is long.
fn stretches(pages: &[Page]) -> Vec<(u32, u64)> {
    let mut orders = BTreeMap::new();
    let mut length = 0_u64;
    for (index, page) in pages.iter().enumerate() {
        length += u64::from(page.is_present());
        let goes_on = pages
            .get(index + 1)
            .is_some_and(|next| page.is_present() && next.is_present() && next.place == page.place + 1);
        if !goes_on && length > 0 {
            *orders.entry(length.ilog2()).or_default() += length;
            length = 0;
        }
    }
    orders.into_iter().collect()
}

proptest! {
    #[test]
    fn tally_is_what_single_pages_add_up_to(pages_known in pages_of_all_kinds()) {
        let all = &pages_known;

        let tally = tally(&runs(0x1000, all));

        prop_assert_eq!(tally.present, count(all, |page| page.is_present()));
        prop_assert_eq!(tally.resident, count(all, |page| page.is_resident()));
        prop_assert_eq!(tally.anon, count(all, |page| page.kind == Kind::Anon));
        prop_assert_eq!(tally.file(), count(all, |page| page.kind == Kind::File));
        prop_assert_eq!(tally.zero, count(all, |page| page.kind == Kind::Zero));
        prop_assert_eq!(tally.hugetlb, count(all, |page| page.kind == Kind::Hugetlb));
        prop_assert_eq!(tally.swapped, count(all, |page| page.kind == Kind::Swap));
        prop_assert_eq!(tally.unique, count(all, |page| page.is_resident() && page.mapcount < 2));
        let share = |page: &Page| (4096 << 12) / page.mapcount.max(1);
        let pss: u64 = all.iter().filter(|page| page.is_resident()).map(share).sum();
        prop_assert_eq!(tally.proportional.bytes(), pss >> 12);
        let present = || all.iter().filter(|page| page.is_present());
        prop_assert_eq!(pages(&tally.mapcounts), by_key(present().map(|page| page.mapcount)));
        prop_assert_eq!(pages(&tally.contiguous), stretches(all));
        let markers = all.iter().filter(|page| page.kind == Kind::Marker).map(|_| "marker");
        prop_assert_eq!(pages(&tally.others), by_key(markers));
    }

    #[test]
    fn flags_are_counted_for_each_page_and_entry(pages_known in pages_of_all_kinds()) {
        let word = |page: &Page| {
            let exclusive = if page.is_exclusive { EntryFlags::EXCLUSIVE } else { EntryFlags::empty() };
            match page.kind {
                Kind::Anon => Some((ANON, exclusive)),
                Kind::File => Some((CACHED, EntryFlags::FILE | exclusive)),
                Kind::Zero => Some((PageFlags::ZERO_PAGE, EntryFlags::empty())),
                Kind::Hugetlb => Some((PageFlags::HUGE, EntryFlags::FILE)),
                Kind::Device => Some((PageFlags::NOPAGE, EntryFlags::empty())),
                Kind::Swap | Kind::Marker => Some((PageFlags::empty(), EntryFlags::SWAPPED)),
                Kind::Absent => None,
            }
        };

        let tally = tally(&runs(0x1000, &pages_known));

        prop_assert_eq!(pages(&tally.flags), by_key(pages_known.iter().filter_map(word)));
    }

    #[test]
    fn swap_areas_have_the_slots_of_their_pages(pages_known in pages_of_all_kinds()) {
        let is_swapped = |page: &Page| page.kind == Kind::Swap;
        let slots = || pages_known.iter().filter(|page| is_swapped(page)).map(|page| page.place);
        let follows = |pair: &&[Page]| {
            is_swapped(&pair[0]) && is_swapped(&pair[1]) && pair[1].place == pair[0].place + 1
        };
        let all = slots().count();
        let stretches = all - pages_known.windows(2).filter(follows).count();

        let tally = tally(&runs(0x1000, &pages_known));

        let naive = slots().min().zip(slots().max()).map(|(first, last)| SwapUse {
            pages: PageCount::new(all as u64),
            stretches: stretches as u64,
            first,
            last,
        });
        prop_assert_eq!(tally.swap.get(&2).copied(), naive);
    }
}
