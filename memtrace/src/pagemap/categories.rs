//! Categories of pages, as `PAGEMAP_SCAN` returns them.
//!
//! Source: `include/uapi/linux/fs.h` (`PAGE_IS_*`, Linux 6.7; soft-dirty 6.8, guard 6.16); `fs/proc/task_mmu.c` for words.

use serde::{Deserialize, Serialize};

bitflags::bitflags! {
    /// `PAGE_IS_*` of `PAGEMAP_SCAN`; a fall-back reader derives them from pagemap words.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct PageCategories: u64 {
        /// The VMA is registered for asynchronous userfaultfd write-protection.
        const WPALLOWED = 1 << 0;
        /// The entry is not write-protected by userfaultfd.
        const WRITTEN = 1 << 1;
        /// File-backed or shared memory.
        const FILE = 1 << 2;
        /// In memory.
        const PRESENT = 1 << 3;
        /// Not present and not empty: swap, and also migration entries and markers.
        const SWAPPED = 1 << 4;
        /// The shared zero page, or the huge one.
        const PFNZERO = 1 << 5;
        /// Mapped by a page-middle-directory entry (THP), or hugetlb.
        const HUGE = 1 << 6;
        /// Soft-dirty.
        const SOFT_DIRTY = 1 << 7;
        /// A guard region.
        const GUARD = 1 << 8;

        const _ = !0;
    }
}

impl PageCategories {
    /// What pagemap words can tell: nothing of huge and zero pages.
    pub const OF_WORDS: Self = Self::FILE.union(Self::PRESENT).union(Self::SWAPPED);

    /// What a pagemap word says: bit 63 present, 62 swapped, 61 file or shared.
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        let file = (word >> 61 & 1) * Self::FILE.bits();
        let swapped = (word >> 62 & 1) * Self::SWAPPED.bits();
        let present = (word >> 63) * Self::PRESENT.bits();
        Self::from_bits_retain(file | swapped | present)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_says_where_the_page_is() {
        assert_eq!(PageCategories::from_word(0), PageCategories::empty());
        assert_eq!(PageCategories::from_word(1 << 63 | 0x1234), PageCategories::PRESENT);
        assert_eq!(
            PageCategories::from_word(1 << 63 | 1 << 61),
            PageCategories::PRESENT | PageCategories::FILE
        );
        assert_eq!(PageCategories::from_word(1 << 62 | 7), PageCategories::SWAPPED);
    }
}
