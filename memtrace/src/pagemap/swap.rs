//! What is in a page table where no page is: swap entries, and what the kernel keeps in the same form.
//!
//! Source: `include/linux/swap.h` (`MAX_SWAPFILES` and the types above it), `include/linux/swapops.h` (markers).

use serde::{Deserialize, Serialize};

use crate::units::Pfn;

/// Bits of the type.
const TYPE_BITS: u32 = 5;
/// The highest type: that of markers, where the kernel has any.
const LAST_TYPE: u8 = (1 << TYPE_BITS) - 1;

/// Type and offset of a swap entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SwapSlot {
    /// Number of the swap area, in the order of `swapon`; or a type above them all.
    pub kind: u8,
    /// In base pages of that area; or what the type says.
    pub offset: u64,
}

impl SwapSlot {
    /// What readers without rights see. No page is ever there: it is the place of the header of the first area.
    pub(super) const HIDDEN: Self = Self { kind: 0, offset: 0 };

    pub(super) const fn from_low_bits(low: u64) -> Self {
        Self { kind: low.to_le_bytes()[0] & LAST_TYPE, offset: low >> TYPE_BITS }
    }

    /// What the entry is with any layout, if that can be said; it is not hidden.
    pub(super) fn likely(self) -> NotPresent {
        const MARKERS: Marker = Marker::UFFD_WP.union(Marker::POISONED).union(Marker::GUARD);
        let marker = Marker::from_bits_retain(self.offset);
        if self.kind < SwapLayout::FEWEST_AREAS {
            NotPresent::Swap(self)
        } else if self.kind == LAST_TYPE && MARKERS.contains(marker) {
            NotPresent::Marker(marker)
        } else {
            NotPresent::Unknown(self)
        }
    }

    /// What is added to the low bits from one page to the next of a huge page or a swapped run.
    pub(super) const fn step(self) -> u64 {
        // Markers count nothing, and without rights all is 0.
        let is_hidden = self.kind == Self::HIDDEN.kind && self.offset == Self::HIDDEN.offset;
        if self.kind == LAST_TYPE || is_hidden { 0 } else { 1 << TYPE_BITS }
    }
}

bitflags::bitflags! {
    /// What a marker stands for: the offset of an entry of the last type.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Marker: u64 {
        /// Write-protected by userfaultfd before there was a page (Linux 5.19).
        const UFFD_WP = 1 << 0;
        /// A touch raises `SIGBUS`: the page could not be read back from swap (5.19), or `UFFDIO_POISON` (6.6).
        const POISONED = 1 << 1;
        /// In a guard region: a touch raises `SIGSEGV` (6.13).
        const GUARD = 1 << 2;

        const _ = !0;
    }
}

/// What is in the page table where no page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotPresent {
    /// In a swap area.
    Swap(SwapSlot),
    /// In swap or another entry: the reader may not see which.
    Hidden,
    /// Being moved from this frame.
    Migration(Option<Pfn>),
    /// Lost to a memory error in this frame.
    HwPoison(Option<Pfn>),
    /// In the memory of a device, or for its exclusive use.
    Device(Option<Pfn>),
    /// No page at all, but a note for the next touch.
    Marker(Marker),
    /// Of a type that is swap with some configurations of the kernel and another entry with others.
    Unknown(SwapSlot),
}

/// Which types the running kernel takes from the top of the swap types for entries that are not swap.
///
/// From the lowest: memory errors, migration, devices, markers. How many of each depends on the configuration and on the
/// release of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Types")]
pub struct SwapLayout {
    /// 1 with `CONFIG_MEMORY_FAILURE`.
    hwpoison: u8,
    /// With `CONFIG_MIGRATION` 3; 2 before Linux 5.19.
    migration: u8,
    /// With `CONFIG_DEVICE_PRIVATE` 3; 4 before Linux 6.15, 2 before 5.14.
    device: u8,
    /// 1 since Linux 5.19; 2 before 6.2, the upper one for pages that could not be read back from swap.
    marker: u8,
}

/// The fields of a [`SwapLayout`], which may be more types than there are.
#[derive(Deserialize)]
struct Types {
    hwpoison: u8,
    migration: u8,
    device: u8,
    marker: u8,
}

impl TryFrom<Types> for SwapLayout {
    type Error = &'static str;

    fn try_from(Types { hwpoison, migration, device, marker }: Types) -> Result<Self, Self::Error> {
        Self::new(hwpoison, migration, device, marker).ok_or("more types of swap entries than there are")
    }
}

impl SwapLayout {
    /// Swap areas of a kernel with as many other types as there ever were: 1 for memory errors, 3 for migration, 4 for devices, 2
    /// for markers.
    const FEWEST_AREAS: u8 = LAST_TYPE + 1 - 10;

    /// The layout of a kernel that has as many types for each, the highest last.
    ///
    /// `None` if they are more than there are.
    #[must_use]
    pub const fn new(hwpoison: u8, migration: u8, device: u8, marker: u8) -> Option<Self> {
        let sum = hwpoison as u32 + migration as u32 + device as u32 + marker as u32;
        if sum > LAST_TYPE as u32 { None } else { Some(Self { hwpoison, migration, device, marker }) }
    }

    /// How many swap areas there can be at once (`MAX_SWAPFILES`).
    #[must_use]
    pub const fn areas(self) -> u8 {
        LAST_TYPE + 1 - self.hwpoison - self.migration - self.device - self.marker
    }

    /// What `slot`, which is not hidden, stands for.
    pub(super) fn classify(self, slot: SwapSlot) -> NotPresent {
        let pfn = || Pfn::new(slot.offset);
        let mut end = self.areas();
        let mut is_next_of = |types: u8| {
            end += types;
            slot.kind < end
        };
        if is_next_of(0) {
            NotPresent::Swap(slot)
        } else if is_next_of(self.hwpoison) {
            NotPresent::HwPoison(pfn())
        } else if is_next_of(self.migration) {
            NotPresent::Migration(pfn())
        } else if is_next_of(self.device) {
            NotPresent::Device(pfn())
        } else if is_next_of(1) || self.marker < 2 {
            NotPresent::Marker(Marker::from_bits_retain(slot.offset))
        } else {
            // What markers say with a bit was a type of its own; its offset is the frame that was to be filled.
            NotPresent::Marker(Marker::POISONED)
        }
    }
}
