//! A word of `/proc/kpageflags`.
//!
//! Source: `include/uapi/linux/kernel-page-flags.h` and `include/linux/kernel-page-flags.h`; `stable_page_flags()` of
//! `fs/proc/page.c`. The names are those of `tools/mm/page-types.c`.

use serde::{Deserialize, Serialize};

use super::{
    entry::{EntryFlags, PagemapEntry},
    era::Release,
};

/// From when on the bits of a word mean what they do. A bit that a kernel does not know it never sets, so that bits which
/// came and never changed need no era.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FlagsEra {
    /// Linux 2.6.25.
    #[serde(rename = "2.6.25")]
    V2_6_25,
    /// Linux 5.1: bit 23, of pages in a balloon until then, is set for all that are logically offline.
    #[serde(rename = "5.1")]
    V5_1,
    /// Linux 5.19: bit 34 of an anonymous page tells that one address space alone may write to it.
    #[serde(rename = "5.19")]
    V5_19,
    /// Linux 6.10: tails have the flags of their head, those of slabs too; `THP` is any large folio.
    #[serde(rename = "6.10")]
    V6_10,
    /// Linux 6.12: bit 34 is for the owner of any page; of pages of files it told until then that they have blocks on disk.
    #[serde(rename = "6.12")]
    V6_12,
}

impl FlagsEra {
    /// The era of a kernel of `release`, taken for one of mainline: there is nothing to try it by.
    #[must_use]
    pub fn of_release(release: Release) -> Self {
        let is_since = |major, minor| release >= Release::new(major, minor);
        if is_since(6, 12) {
            Self::V6_12
        } else if is_since(6, 10) {
            Self::V6_10
        } else if is_since(5, 19) {
            Self::V5_19
        } else if is_since(5, 1) {
            Self::V5_1
        } else {
            Self::V2_6_25
        }
    }

    /// The first release of Linux of which it is.
    #[must_use]
    pub const fn release(self) -> &'static str {
        match self {
            Self::V2_6_25 => "2.6.25",
            Self::V5_1 => "5.1",
            Self::V5_19 => "5.19",
            Self::V6_10 => "6.10",
            Self::V6_12 => "6.12",
        }
    }
}

/// Declares the flags together with what is known of each.
macro_rules! page_flags {
    ($($(#[doc = $doc:literal])* $flag:ident = $bit:literal, $letter:literal, $name:literal;)*) => {
        bitflags::bitflags! {
            /// Flags of a page frame: those of the kernel, and from 47 on those that page-types derives from them and from
            /// pagemap.
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
            pub struct PageFlags: u64 {
                $($(#[doc = $doc])* const $flag = 1 << $bit;)*

                const _ = !0;
            }
        }

        /// Each flag with its letter and its name, by bit; those that page-types does not know have no letter.
        const TABLE: &[(PageFlags, &str, &str)] = &[$((PageFlags::$flag, $letter, $name)),*];
    };
}

page_flags! {
    /// Locked, as while it is read or written.
    LOCKED = 0, "L", "locked";
    /// Reading or writing it failed; never set since Linux 6.12.
    ERROR = 1, "E", "error";
    /// Touched since reclaim last scanned.
    REFERENCED = 2, "R", "referenced";
    /// Its contents are valid.
    UPTODATE = 3, "U", "uptodate";
    /// To be written back; not the dirty bit of page tables.
    DIRTY = 4, "D", "dirty";
    /// On a list of reclaim; a fresh page is not there yet.
    LRU = 5, "l", "lru";
    /// On an active list of reclaim.
    ACTIVE = 6, "A", "active";
    /// Memory of the kernel's allocator of objects.
    SLAB = 7, "S", "slab";
    /// Being written back.
    WRITEBACK = 8, "W", "writeback";
    /// To be reclaimed once written back; while it is not, the marker of readahead.
    RECLAIM = 9, "I", "reclaim";
    /// In a free block.
    BUDDY = 10, "B", "buddy";
    /// In a page table.
    MMAP = 11, "M", "mmap";
    /// Anonymous memory.
    ANON = 12, "a", "anonymous";
    /// Also in the cache of swap.
    SWAPCACHE = 13, "s", "swapcache";
    /// Anonymous or shared memory that reclaim must write to swap.
    SWAPBACKED = 14, "b", "swapbacked";
    /// The first page of a compound page.
    COMPOUND_HEAD = 15, "H", "compound_head";
    /// A page of a compound page after the first.
    COMPOUND_TAIL = 16, "T", "compound_tail";
    /// hugetlb.
    HUGE = 17, "G", "huge";
    /// Not to be reclaimed.
    UNEVICTABLE = 18, "u", "unevictable";
    /// Its memory is damaged.
    HWPOISON = 19, "X", "hwpoison";
    /// There is no page of this number.
    NOPAGE = 20, "n", "nopage";
    /// Merged with pages of equal contents. From Linux 6.10 on, and still in 6.12, set for all anonymous pages by a mistake of
    /// the kernel; one that is mapped exactly once need not be merged then.
    KSM = 21, "x", "ksm";
    /// A transparent huge page; since Linux 6.10 any large folio.
    THP = 22, "t", "thp";
    /// Logically offline; before Linux 5.1 in a balloon.
    OFFLINE = 23, "o", "offline";
    /// The page of zeros, or the huge one.
    ZERO_PAGE = 24, "z", "zero_page";
    /// Not touched since it was marked idle.
    IDLE = 25, "i", "idle_page";
    /// A page of page tables.
    PGTABLE = 26, "g", "pgtable";
    /// Not for the allocator: firmware, the kernel's image, the page of zeros.
    RESERVED = 32, "r", "reserved";
    /// Locked in memory by a program.
    MLOCKED = 33, "m", "mlocked";
    /// For its owner; see [`FlagsEra::V6_12`].
    OWNER_2 = 34, "d", "owner_2";
    /// Its file system keeps something with it.
    PRIVATE = 35, "P", "private";
    /// As before, another thing.
    PRIVATE_2 = 36, "p", "private_2";
    /// For its owner.
    OWNER_PRIVATE = 37, "O", "owner_private";
    /// For the architecture.
    ARCH = 38, "h", "arch";
    /// Not cached by the CPU; only on ia64.
    UNCACHED = 39, "", "uncached";
    /// Pagemap has the page as soft-dirty.
    SOFTDIRTY = 40, "f", "softdirty";
    /// For the architecture (Linux 5.11).
    ARCH_2 = 41, "H", "arch_2";
    /// For the architecture (Linux 6.5).
    ARCH_3 = 42, "", "arch_3";
    /// Anonymous, and one address space alone may write to it without a copy.
    ANON_EXCLUSIVE = 47, "d", "anon_exclusive";
    /// When it is read, more of the file is.
    READAHEAD = 48, "I", "readahead";
    /// A slab in use by a CPU.
    SLUB_FROZEN = 50, "A", "slub_frozen";
    /// A slab under debugging.
    SLUB_DEBUG = 51, "E", "slub_debug";
    /// Pagemap has the page as one of a file, or shared.
    FILE = 61, "F", "file";
    /// Pagemap has the page as swapped.
    SWAP = 62, "w", "swap";
    /// Pagemap has the page as mapped exactly once.
    MMAP_EXCLUSIVE = 63, "1", "mmap_exclusive";
}

impl PageFlags {
    /// What can be in use by the kernel itself: such a page has none of [`Self::OF_USERS`], whatever the bits say, because
    /// their places in `struct page` hold something else.
    pub const TYPES: Self = Self::BUDDY.union(Self::SLAB).union(Self::OFFLINE).union(Self::PGTABLE);

    /// What only pages of programs and of files are.
    pub const OF_USERS: Self = Self::MMAP
        .union(Self::ANON)
        .union(Self::KSM)
        .union(Self::SWAPCACHE)
        .union(Self::SWAPBACKED)
        .union(Self::LRU)
        .union(Self::ACTIVE)
        .union(Self::REFERENCED)
        .union(Self::RECLAIM)
        .union(Self::UNEVICTABLE)
        .union(Self::MLOCKED)
        .union(Self::IDLE)
        .union(Self::ANON_EXCLUSIVE);

    /// What page-types shows only when asked for raw flags.
    const FOR_HACKERS: Self = Self::from_bits_retain(0xffff << 32);

    /// Both flags of compound pages.
    pub const COMPOUND: Self = Self::COMPOUND_HEAD.union(Self::COMPOUND_TAIL);

    /// Each flag that has a name, by bit.
    pub fn all_named() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|(flag, ..)| *flag)
    }

    /// The names of the flags that are set, by bit; a bit without a name is left out.
    pub fn names(self, era: FlagsEra) -> impl Iterator<Item = &'static str> {
        TABLE.iter().filter(move |(flag, ..)| self.contains(*flag)).map(move |(flag, _, name)| match *flag {
            Self::OFFLINE if era < FlagsEra::V5_1 => "balloon",
            Self::OWNER_2 if era < FlagsEra::V6_12 => "mappedtodisk",
            _ => name,
        })
    }

    /// One character for each flag that has a letter, by bit: this letter, or `_` if it is clear.
    #[must_use]
    pub fn letters(self) -> String {
        let lettered = TABLE.iter().filter(|(_, letter, _)| !letter.is_empty());
        lettered.map(|(flag, letter, _)| if self.contains(*flag) { *letter } else { "_" }).collect()
    }

    /// The bits without a name: those of a newer kernel.
    #[must_use]
    pub fn unknown(self) -> Self {
        Self::all_named().fold(self, Self::difference)
    }

    /// Without the bits that mean nothing on such a page.
    #[must_use]
    pub const fn sanitised(self) -> Self {
        if self.intersects(Self::TYPES) { self.difference(Self::OF_USERS) } else { self }
    }

    /// As page-types shows them unless asked for raw flags: without those that only developers of the kernel look for, and
    /// compound pages only where they are hugetlb.
    #[must_use]
    pub const fn well_known(self) -> Self {
        let flags = self.difference(Self::FOR_HACKERS);
        if flags.contains(Self::HUGE) { flags } else { flags.difference(Self::COMPOUND) }
    }

    /// As page-types shows them, if asked for raw flags or not, for a page whose word in pagemap has the flags `entry`.
    #[must_use]
    pub fn shown(self, entry: EntryFlags, is_raw: bool, era: FlagsEra) -> Self {
        if is_raw { self.expanded(era, PagemapEntry::from_raw(entry.bits())) } else { self.well_known() }
    }

    /// As page-types shows them if asked for raw flags: bits with two meanings distinguished, and those of `entry` added.
    #[must_use]
    pub fn expanded(self, era: FlagsEra, entry: PagemapEntry) -> Self {
        let mut flags = self;
        let mut is_meant = |from: Self, to: Self, is_overloaded: bool| {
            if is_overloaded && self.contains(from) {
                flags = flags.difference(from).union(to);
            }
        };
        is_meant(Self::OWNER_2, Self::ANON_EXCLUSIVE, self.contains(Self::ANON) && era >= FlagsEra::V5_19);
        is_meant(Self::ACTIVE, Self::SLUB_FROZEN, self.contains(Self::SLAB));
        is_meant(Self::ERROR, Self::SLUB_DEBUG, self.contains(Self::SLAB));
        is_meant(Self::RECLAIM, Self::READAHEAD, !self.contains(Self::WRITEBACK));
        let of_entry = EntryFlags::from_bits_retain(entry.as_raw());
        for (theirs, ours) in [
            (EntryFlags::SOFT_DIRTY, Self::SOFTDIRTY),
            (EntryFlags::FILE, Self::FILE),
            (EntryFlags::SWAPPED, Self::SWAP),
            (EntryFlags::EXCLUSIVE, Self::MMAP_EXCLUSIVE),
        ] {
            flags.set(ours, flags.contains(ours) || of_entry.contains(theirs));
        }
        flags
    }
}
