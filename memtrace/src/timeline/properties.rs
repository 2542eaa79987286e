//! What is counted of pages: one table, of which the counts, the columns and the keys of JSON are made.

use crate::{
    event::ScanDepth,
    pagemap::{EntryFlags, PageCategories, PageFlags, StateRun},
    units::PageCount,
};

/// Something that holds for some pages and not for others.
#[derive(Debug)]
pub struct PageProperty {
    /// Its name in JSON.
    pub name: &'static str,
    /// Its column in the timeline.
    pub column: &'static str,
    /// What the column says, in one line.
    pub doc: &'static str,
    /// Whether it holds for each page of a run.
    pub holds: fn(&StateRun) -> bool,
    /// Whether it is known of the pages that such a scan saw.
    pub known: fn(&Known) -> bool,
}

/// What a scan reads of pages.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Categories that it asked for.
    pub categories: PageCategories,
    /// What it read of each page.
    pub depth: ScanDepth,
    /// Whether the flag of KSM means that a page was merged.
    pub has_ksm_flag: bool,
}

/// All of them. A new one goes to the end, and its column to the end of those of the timeline.
pub const PAGE_PROPERTIES: &[PageProperty] = &[
    PageProperty {
        name: "present",
        column: "present_pages",
        doc: "pages in memory",
        holds: is_present,
        known: |_| true,
    },
    PageProperty {
        name: "swapped",
        column: "swapped_pages",
        doc: "page table entries of swap, or other non-present ones; shared memory has none",
        // A guard has the form of a swap entry.
        holds: |run| run.categories.contains(PageCategories::SWAPPED) && !is_guard(run),
        known: |_| true,
    },
    PageProperty {
        name: "file",
        column: "file_pages",
        doc: "pages of a file or shared memory",
        holds: |run| run.categories.contains(PageCategories::FILE),
        known: |_| true,
    },
    PageProperty {
        name: "shared",
        column: "shared_pages",
        doc: "pages mapped more than once, but for the zero page",
        holds: |run| is_present(run) && !is_exclusive(run) && !is_zero(run),
        known: |scan| scan.has_words() && scan.has_zero_pages(),
    },
    PageProperty {
        name: "exclusive",
        column: "exclusive_pages",
        doc: "pages mapped once",
        holds: |run| is_present(run) && is_exclusive(run),
        known: |scan| scan.has_words() && scan.has_zero_pages(),
    },
    PageProperty {
        name: "zero",
        column: "zero_pages",
        doc: "pages that are the zero page",
        holds: is_zero,
        known: Known::has_zero_pages,
    },
    PageProperty {
        name: "ksm",
        column: "ksm_pages",
        doc: "pages merged by KSM",
        holds: |run| is_present(run) && flags(run).contains(PageFlags::KSM),
        known: |scan| scan.has_frames() && scan.has_ksm_flag,
    },
    PageProperty {
        name: "huge",
        column: "huge_pages",
        doc: "pages mapped by a huge entry",
        holds: |run| is_present(run) && run.categories.contains(PageCategories::HUGE),
        known: Known::has_huge_entries,
    },
    PageProperty {
        name: "mthp",
        column: "mthp_pages",
        doc: "pages of large folios mapped page by page",
        holds: |run| {
            let is_whole = run.categories.contains(PageCategories::HUGE) || is_zero(run);
            is_present(run) && flags(run).contains(PageFlags::THP) && !is_whole
        },
        // Else they would be taken for those that are mapped by a huge entry.
        known: |scan| scan.has_frames() && scan.has_huge_entries(),
    },
    PageProperty {
        name: "hugetlb",
        column: "hugetlb_pages",
        doc: "pages of hugetlbfs",
        holds: |run| is_present(run) && flags(run).contains(PageFlags::HUGE),
        known: Known::has_frames,
    },
];

/// How many there are.
const PROPERTIES: usize = PAGE_PROPERTIES.len();

impl PageProperty {
    /// The place in the table of the property with this name.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[must_use]
    pub const fn index_of(name: &str) -> usize {
        let mut index = 0;
        while index < PROPERTIES {
            if is_same(PAGE_PROPERTIES[index].name.as_bytes(), name.as_bytes()) {
                return index;
            }
            index += 1;
        }
        panic!("no property of pages has this name")
    }
}

/// Whether two names are the same, where nothing but loops can tell.
const fn is_same(one: &[u8], other: &[u8]) -> bool {
    let mut index = 0;
    while index < one.len() && index < other.len() && one[index] == other[index] {
        index += 1;
    }
    index == one.len() && index == other.len()
}

bitflags::bitflags! {
    /// A set of [`PageProperty`], each at the bit of its place in the table; those have names here that more is asked of than their
    /// counts.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct PropertySet: u16 {
        /// In memory.
        const PRESENT = bit("present");
        /// In swap, or another non-present entry.
        const SWAPPED = bit("swapped");
        /// Of a file or shared memory.
        const FILE = bit("file");
        /// The zero page.
        const ZERO = bit("zero");
        /// Merged by KSM.
        const KSM = bit("ksm");
        /// Mapped by a huge entry.
        const HUGE = bit("huge");
        /// In a large folio, and not mapped by a huge entry.
        const MTHP = bit("mthp");
        /// Of hugetlb.
        const HUGETLB = bit("hugetlb");

        const _ = !0;
    }
}

const fn bit(name: &str) -> u16 {
    1 << PageProperty::index_of(name)
}

const _: () = assert!(PROPERTIES <= u16::BITS as usize, "each has a bit");

impl PropertySet {
    /// What holds for each page of `run`.
    #[must_use]
    pub fn of(run: &StateRun) -> Self {
        Self::where_each(|property| (property.holds)(run))
    }

    /// Those that are known of what such a scan saw.
    #[must_use]
    pub fn known(scan: &Known) -> Self {
        Self::where_each(|property| (property.known)(scan))
    }

    fn where_each(is_in: impl Fn(&PageProperty) -> bool) -> Self {
        let bits = PAGE_PROPERTIES.iter().enumerate();
        Self::from_bits_retain(bits.map(|(index, property)| u16::from(is_in(property)) << index).sum())
    }
}

impl Known {
    /// Whether words of pagemap were read.
    fn has_words(&self) -> bool {
        self.depth >= ScanDepth::Words
    }

    /// Whether flags of frames were read.
    fn has_frames(&self) -> bool {
        self.depth >= ScanDepth::Frames
    }

    fn has_zero_pages(&self) -> bool {
        self.categories.contains(PageCategories::PFNZERO) || self.has_frames()
    }

    fn has_huge_entries(&self) -> bool {
        self.categories.contains(PageCategories::HUGE)
    }
}

fn is_present(run: &StateRun) -> bool {
    run.categories.contains(PageCategories::PRESENT)
}

fn is_guard(run: &StateRun) -> bool {
    let has_marker = |entry: u64| entry & EntryFlags::GUARD.bits() != 0;
    run.categories.contains(PageCategories::GUARD)
        || run.words.is_some_and(|words| has_marker(words.entry.as_raw()))
}

fn is_exclusive(run: &StateRun) -> bool {
    run.words.is_some_and(|words| words.entry.is_exclusive())
}

fn is_zero(run: &StateRun) -> bool {
    run.categories.contains(PageCategories::PFNZERO) || flags(run).contains(PageFlags::ZERO_PAGE)
}

fn flags(run: &StateRun) -> PageFlags {
    run.words.and_then(|words| words.flags).unwrap_or_default()
}

/// Base pages by property; `None` where scans did not tell of all pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageCounts([Option<PageCount>; PROPERTIES]);

impl Default for PageCounts {
    /// No pages, of which everything is known.
    fn default() -> Self {
        Self([Some(PageCount::default()); PROPERTIES])
    }
}

impl PageCounts {
    /// Adds `pages`, for each of which the same holds, as far as that is `known`.
    pub fn add(&mut self, properties: PropertySet, known: PropertySet, pages: PageCount) {
        if properties.is_empty() {
            return;
        }
        for (index, sum) in self.0.iter_mut().enumerate() {
            let property = PropertySet::from_bits_retain(1 << index);
            if !known.contains(property) {
                *sum = None;
            } else if let Some(sum) = sum.as_mut().filter(|_| properties.contains(property)) {
                *sum += pages;
            }
        }
    }

    /// These, with so many pages of the property with this name.
    #[cfg(test)]
    pub(crate) fn with(mut self, name: &str, pages: Option<u64>) -> Self {
        self.0[PageProperty::index_of(name)] = pages.map(PageCount::new);
        self
    }

    /// How many have the property that has this place in the table.
    #[must_use]
    pub const fn at(&self, index: usize) -> Option<PageCount> {
        self.0[index]
    }

    /// How many are in memory.
    #[must_use]
    pub const fn present(&self) -> Option<PageCount> {
        self.at(const { PageProperty::index_of("present") })
    }

    /// How many are in swap, or have another non-present entry.
    #[must_use]
    pub const fn swapped(&self) -> Option<PageCount> {
        self.at(const { PageProperty::index_of("swapped") })
    }

    /// How many are mapped by a huge entry.
    #[must_use]
    pub const fn huge(&self) -> Option<PageCount> {
        self.at(const { PageProperty::index_of("huge") })
    }

    /// How many have each property.
    pub fn iter(&self) -> impl Iterator<Item = (&'static PageProperty, Option<PageCount>)> {
        PAGE_PROPERTIES.iter().zip(self.0)
    }
}

impl std::ops::AddAssign for PageCounts {
    fn add_assign(&mut self, other: Self) {
        for (sum, pages) in self.0.iter_mut().zip(other.0) {
            *sum = sum.zip(pages).map(|(sum, pages)| [sum, pages].into_iter().sum());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_scan_of_two_does_not_tell_is_not_known_of_both() {
        let ten = PageCount::new(10);
        let mut counts = PageCounts::default();
        counts.add(PropertySet::PRESENT | PropertySet::HUGE, PropertySet::all(), ten);
        assert_eq!(
            (counts.present(), counts.huge(), counts.swapped()),
            (Some(ten), Some(ten), Some(PageCount::new(0)))
        );

        counts.add(PropertySet::PRESENT, PropertySet::PRESENT, ten);
        assert_eq!((counts.present(), counts.huge()), (Some(PageCount::new(20)), None));
    }

    #[test]
    fn what_no_page_has_makes_nothing_unknown() {
        let mut counts = PageCounts::default();

        counts.add(PropertySet::empty(), PropertySet::empty(), PageCount::new(3));

        assert_eq!(counts, PageCounts::default());
    }

    #[test]
    fn columns_end_in_their_unit() {
        assert!(PAGE_PROPERTIES.iter().all(|property| property.column == format!("{}_pages", property.name)));
    }
}
