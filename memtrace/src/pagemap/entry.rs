//! A word of `/proc/PID/pagemap`, in all its eras.
//!
//! Source: `Documentation/admin-guide/mm/pagemap.rst` and its older versions; `fs/proc/task_mmu.c` (`PM_*`).

use serde::{Deserialize, Serialize};

use super::swap::{Marker, NotPresent, SwapLayout, SwapSlot};
use crate::units::Pfn;

/// Bits 0 to 54: the frame number, or the type and offset of a swap entry.
const LOW_MASK: u64 = (1 << 55) - 1;

/// From when on a pagemap word is laid out as it is.
///
/// Releases are those of mainline; distributions bring changes to older ones. The first that has the layout names the era.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum PagemapEra {
    /// Linux 2.6.25: present, swapped, and the size of the page as a shift in bits 55 to 60.
    #[serde(rename = "2.6.25")]
    V2_6_25,
    /// Linux 3.5: bit 61 is set for pages of files and shared memory.
    #[serde(rename = "3.5")]
    V3_5,
    /// Linux 3.11, after the first write of `4` to any `clear_refs`: bit 55 is soft-dirty and there is no page shift.
    #[serde(rename = "3.11")]
    V3_11,
    /// Linux 4.0: as before, but only `CAP_SYS_ADMIN` may open the file.
    #[serde(rename = "4.0")]
    V4_0,
    /// Linux 4.2: anybody may open their own, without frame numbers; bit 55 is soft-dirty from the start, bit 56 set for
    /// pages that are mapped exactly once.
    #[serde(rename = "4.2")]
    V4_2,
    /// Linux 5.14: bit 57 is set for entries that userfaultfd write-protects.
    #[serde(rename = "5.14")]
    V5_14,
    /// Linux 6.15: bit 58 is set for guard regions.
    #[serde(rename = "6.15")]
    V6_15,
}

bitflags::bitflags! {
    /// Bits of a pagemap word from 55 on, each where it has always been since it is there.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct EntryFlags: u64 {
        /// Written since soft-dirty bits were last cleared, or in a VMA that is younger.
        const SOFT_DIRTY = 1 << 55;
        /// Mapped exactly once.
        const EXCLUSIVE = 1 << 56;
        /// Write-protected by userfaultfd.
        const UFFD_WP = 1 << 57;
        /// In a guard region.
        const GUARD = 1 << 58;
        /// Page of a file, or of shared anonymous memory; also the huge zero page.
        const FILE = 1 << 61;
        /// Not present and not empty: swap, but also migration entries and markers.
        const SWAPPED = 1 << 62;
        /// In memory.
        const PRESENT = 1 << 63;

        const _ = !0;
    }
}

impl PagemapEra {
    /// The first release of Linux that has the layout.
    #[must_use]
    pub const fn release(self) -> &'static str {
        match self {
            Self::V2_6_25 => "2.6.25",
            Self::V3_5 => "3.5",
            Self::V3_11 => "3.11",
            Self::V4_0 => "4.0",
            Self::V4_2 => "4.2",
            Self::V5_14 => "5.14",
            Self::V6_15 => "6.15",
        }
    }

    /// The eras, the oldest first.
    pub const ALL: [Self; 7] =
        [Self::V2_6_25, Self::V3_5, Self::V3_11, Self::V4_0, Self::V4_2, Self::V5_14, Self::V6_15];

    /// The flags that a word of this era can have; other bits from 55 on are the page shift, or unknown.
    #[must_use]
    pub const fn flags(self) -> EntryFlags {
        let flags = EntryFlags::PRESENT.union(EntryFlags::SWAPPED);
        match self {
            Self::V2_6_25 => flags,
            Self::V3_5 => flags.union(EntryFlags::FILE),
            Self::V3_11 | Self::V4_0 => flags.union(EntryFlags::FILE).union(EntryFlags::SOFT_DIRTY),
            Self::V4_2 => Self::V3_11.flags().union(EntryFlags::EXCLUSIVE),
            Self::V5_14 => Self::V4_2.flags().union(EntryFlags::UFFD_WP),
            Self::V6_15 => Self::V5_14.flags().union(EntryFlags::GUARD),
        }
    }

    /// Whether bits 55 to 60 are the size of the page.
    #[must_use]
    pub const fn has_page_shift(self) -> bool {
        matches!(self, Self::V2_6_25 | Self::V3_5)
    }

    /// The era of a kernel that shows `word` for a private page that this process has just written to, of a size that is
    /// `page_shift` in bits. Later eras than that of Linux 4.2 cannot be told from such a page.
    ///
    /// `None` if no era has such a word for it.
    #[must_use]
    pub const fn of_written_page(word: PagemapEntry, page_shift: u32) -> Option<Self> {
        const SHIFT: u64 = 0x3f << 55;
        const OLD: u64 = SHIFT | EntryFlags::PRESENT.bits() | EntryFlags::FILE.bits();
        let raw = word.as_raw();
        if raw & EntryFlags::PRESENT.bits() == 0 || raw & EntryFlags::FILE.bits() != 0 {
            return None;
        }
        if raw & OLD == EntryFlags::PRESENT.bits() | (page_shift as u64) << 55 {
            return Some(Self::V3_5);
        }
        if raw & EntryFlags::EXCLUSIVE.bits() != 0 {
            return Some(Self::V4_2);
        }
        if raw & (SHIFT & !EntryFlags::SOFT_DIRTY.bits()) == 0 { Some(Self::V3_11) } else { None }
    }
}

/// One word of `/proc/PID/pagemap`, not decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PagemapEntry(u64);

/// Where the page of a [`PagemapEntry`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residence {
    /// No page and no swap entry: the next touch faults. Swapped-out shared memory looks like this too.
    Absent,
    /// In memory; `None` if the reader may not see frame numbers.
    Present(Option<Pfn>),
    /// Something else is in the page table.
    NotPresent(NotPresent),
}

impl PagemapEntry {
    /// The word as the kernel has it.
    #[must_use]
    pub const fn from_raw(word: u64) -> Self {
        Self(word)
    }

    /// The word as the kernel has it.
    #[must_use]
    pub const fn as_raw(self) -> u64 {
        self.0
    }

    /// The flags that the kernels of `era` know.
    #[must_use]
    pub const fn flags(self, era: PagemapEra) -> EntryFlags {
        EntryFlags::from_bits_retain(self.0).intersection(era.flags())
    }

    /// Bits from 55 on that mean nothing in `era`: those of a newer kernel.
    #[must_use]
    pub const fn unknown_bits(self, era: PagemapEra) -> u64 {
        const PAGE_SHIFT: u64 = 0x3f << 55;
        let known = era.flags().bits() | LOW_MASK | if era.has_page_shift() { PAGE_SHIFT } else { 0 };
        self.0 & !known
    }

    /// Size of the page as a shift, in the eras that tell it.
    #[must_use]
    pub const fn page_shift(self, era: PagemapEra) -> Option<u8> {
        let shift = (self.0 >> 55).to_le_bytes()[0] & 0x3f;
        if era.has_page_shift() && shift != 0 { Some(shift) } else { None }
    }

    /// Where the page is, with `layout` of the swap entries, if that is known.
    #[must_use]
    pub fn residence(self, era: PagemapEra, layout: Option<SwapLayout>) -> Residence {
        let flags = self.flags(era);
        if flags.contains(EntryFlags::PRESENT) {
            Residence::Present(self.pfn())
        } else if flags.contains(EntryFlags::SWAPPED) {
            let slot = SwapSlot::from_low_bits(self.0 & LOW_MASK);
            // This bit is only in markers, and tells readers without rights of them too.
            let is_guard = flags.contains(EntryFlags::GUARD);
            Residence::NotPresent(if slot != SwapSlot::HIDDEN {
                layout.map_or_else(|| slot.likely(), |layout| layout.classify(slot))
            } else if is_guard {
                NotPresent::Marker(Marker::GUARD)
            } else {
                NotPresent::Hidden
            })
        } else {
            Residence::Absent
        }
    }

    /// Bits 0 to 54: the number of a frame, or type and offset of a swap entry.
    #[must_use]
    pub const fn low_bits(self) -> u64 {
        self.0 & LOW_MASK
    }

    /// Offset of a swap entry, whatever its type.
    #[must_use]
    pub const fn offset(self) -> u64 {
        SwapSlot::from_low_bits(self.low_bits()).offset
    }

    /// Number of the frame that a present page is in.
    #[must_use]
    pub const fn pfn(self) -> Option<Pfn> {
        if self.0 & EntryFlags::PRESENT.bits() == 0 { None } else { Pfn::new(self.0 & LOW_MASK) }
    }

    /// Whether the page is mapped exactly once; since Linux 4.2.
    #[must_use]
    pub const fn is_exclusive(self) -> bool {
        const BITS: u64 = EntryFlags::PRESENT.union(EntryFlags::EXCLUSIVE).bits();
        self.0 & BITS == BITS
    }

    /// What the entry of the `pages`-th page after this one would be in one run with it: a present page lies in the frame so
    /// many further, a swapped one at an offset so many further; else it is the same.
    ///
    /// `None` if the number would not fit.
    #[must_use]
    pub const fn advanced(self, pages: u64) -> Option<Self> {
        let low = self.0 & LOW_MASK;
        let step = if self.0 & EntryFlags::PRESENT.bits() != 0 {
            // A reader without rights sees frame 0 for all.
            if low == 0 { 0 } else { 1 }
        } else if self.0 & EntryFlags::SWAPPED.bits() != 0 {
            SwapSlot::from_low_bits(low).step()
        } else {
            0
        };
        match pages.checked_mul(step) {
            Some(distance) if distance <= LOW_MASK - low => Some(Self(self.0 + distance)),
            _ => None,
        }
    }
}
