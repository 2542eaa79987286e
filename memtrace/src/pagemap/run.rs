//! Runs of pagemap words that follow from one another.

use super::{
    categories::PageCategories,
    entry::PagemapEntry,
    flags::PageFlags,
    state::{PageWords, StateRun},
};
use crate::units::{PageCount, PageSize, VirtRange, Vpn};

/// Consecutive pages whose words follow from the first: the same flags, and a frame number or an offset in swap that grows
/// by one from page to page, or stays where it means nothing.
///
/// Nothing is lost: [`Self::entries`] gives back the words that the kernel wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRun {
    /// The first page.
    pub first: Vpn,
    /// How many pages.
    pub pages: PageCount,
    /// The word of the first page.
    pub entry: PagemapEntry,
}

impl EntryRun {
    /// The words of the pages, in order.
    pub fn entries(self) -> impl Iterator<Item = PagemapEntry> {
        (0..self.pages.get()).map_while(move |page| self.entry.advanced(page))
    }

    /// Whether `entry` is what comes after this run.
    fn is_followed_by(&self, entry: PagemapEntry) -> bool {
        self.entry.advanced(self.pages.get()) == Some(entry)
    }
}

/// What the kernel tells of the frame that a page is in; `None` what was not asked for or cannot be known, as without frame
/// numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Its word in `/proc/kpageflags`.
    pub flags: Option<PageFlags>,
    /// How often it is mapped, by all processes together (`/proc/kpagecount`).
    pub mapcount: Option<u64>,
    /// Inode of the directory of the memory cgroup that it is charged to, 0 if none (`/proc/kpagecgroup`).
    pub cgroup: Option<u64>,
}

/// Consecutive pages that are alike in everything that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRun {
    /// The pages and their words.
    pub entries: EntryRun,
    /// What holds for each.
    pub categories: PageCategories,
    /// What holds for the frame of each.
    pub frame: Frame,
}

impl PageRun {
    /// Where it lies and in what state, with base pages of size `page`.
    #[must_use]
    pub fn to_state(self, page: PageSize) -> Option<StateRun> {
        let Self { entries: EntryRun { first, pages, entry }, categories, frame } = self;
        let end = Vpn::from_raw(first.as_raw() + pages.get());
        let range = VirtRange::new(first.start(page), end.start(page))?;
        Some(StateRun { range, categories, words: Some(PageWords { entry, flags: frame.flags }) })
    }

    /// Adds `next` at the end, unless it is no neighbour or not alike.
    pub fn try_append(&mut self, next: &Self) -> bool {
        let Self { entries, categories, frame } = self;
        let is_next = next.entries.first.as_raw() == entries.first.as_raw() + entries.pages.get();
        let is_alike = *categories == next.categories && *frame == next.frame;
        let fits = is_next && is_alike && entries.is_followed_by(next.entries.entry);
        if fits {
            entries.pages += next.entries.pages;
        }
        fits
    }
}

/// The words of consecutive pages from `first` on, as runs that are as long as can be.
///
/// Pages whose word is 0 are in no run.
pub fn merge(first: Vpn, words: impl IntoIterator<Item = PagemapEntry>) -> impl Iterator<Item = EntryRun> {
    let mut words = (first.as_raw()..).zip(words).filter(|(_, word)| *word != PagemapEntry::default());
    let mut next = words.next();
    std::iter::from_fn(move || {
        let (page, entry) = next.take()?;
        let mut run = EntryRun { first: Vpn::from_raw(page), pages: PageCount::new(1), entry };
        for (page, word) in words.by_ref() {
            let is_neighbour = page == run.first.as_raw() + run.pages.get();
            if !is_neighbour || !run.is_followed_by(word) {
                next = Some((page, word));
                break;
            }
            run.pages += PageCount::new(1);
        }
        Some(run)
    })
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// Words of all kinds, near each other often enough for runs to come about.
    fn word() -> impl Strategy<Value = u64> {
        prop_oneof![
            Just(0),
            Just(1 << 63),
            Just(1 << 62),
            (0..40_u64).prop_map(|pfn| 1 << 63 | 1 << 56 | pfn),
            (0..40_u64).prop_map(|offset| 1 << 62 | offset << 5 | 1),
            (1..4_u64).prop_map(|marker| 1 << 62 | 1 << 57 | marker << 5 | 31),
            any::<u64>(),
        ]
    }

    /// Stretches of words, some of which follow from the first.
    fn words() -> impl Strategy<Value = Vec<u64>> {
        let stretch = (word(), 1..20_u64, 0..3_usize).prop_map(|(first, pages, step)| {
            (0..pages).map(move |page| first.wrapping_add(page * [0, 1, 32][step])).collect::<Vec<_>>()
        });
        vec(stretch, 0..12).prop_map(|stretches| stretches.concat())
    }

    fn expand(runs: &[EntryRun], first: u64, pages: usize) -> Vec<u64> {
        let mut words = vec![0; pages];
        for run in runs {
            let start = usize::try_from(run.first.as_raw() - first).expect("small");
            let entries: Vec<_> = run.entries().map(PagemapEntry::as_raw).collect();
            assert_eq!(entries.len() as u64, run.pages.get());
            words[start..start + entries.len()].copy_from_slice(&entries);
        }
        words
    }

    proptest! {
        #[test]
        fn runs_expand_to_the_words_they_came_from(words in words(), first in 0..1_u64 << 52) {
            let entries = words.iter().copied().map(PagemapEntry::from_raw);

            let runs: Vec<_> = merge(Vpn::from_raw(first), entries).collect();

            prop_assert_eq!(expand(&runs, first, words.len()), words);
        }

        #[test]
        fn neighbouring_runs_do_not_follow_from_one_another(words in words()) {
            let runs: Vec<_> = merge(Vpn::from_raw(7), words.into_iter().map(PagemapEntry::from_raw)).collect();

            for pair in runs.windows(2) {
                let touch = pair[0].first.as_raw() + pair[0].pages.get() == pair[1].first.as_raw();
                prop_assert!(!touch || !pair[0].is_followed_by(pair[1].entry), "{:?}", pair);
            }
        }
    }

    fn shape(words: &[u64]) -> Vec<(u64, u64)> {
        merge(Vpn::from_raw(100), words.iter().copied().map(PagemapEntry::from_raw))
            .map(|run| (run.first.as_raw(), run.pages.get()))
            .collect()
    }

    #[test]
    fn frames_of_a_huge_page_are_one_run() {
        let words: Vec<u64> = (0..512).map(|page| 1 << 63 | 1 << 56 | (0x8000 + page)).collect();

        assert_eq!(shape(&words), [(100, 512)]);
    }

    #[test]
    fn swap_offsets_grow_above_the_type() {
        let swapped = |offset: u64| 1 << 62 | offset << 5 | 1;

        assert_eq!(shape(&[swapped(8), swapped(9), swapped(10), swapped(12)]), [(100, 3), (103, 1)]);
    }

    #[test]
    fn markers_and_hidden_numbers_stay_the_same() {
        let guard = 0x4400_0000_0000_009f;

        assert_eq!(shape(&[guard, guard, guard]), [(100, 3)]);
        assert_eq!(shape(&[1 << 63, 1 << 63, 0, 1 << 62, 1 << 62]), [(100, 2), (103, 2)]);
    }
}
