//! Typed addresses, page numbers, sizes and times, and their text forms.
//!
//! Layer: core. Input: plain numbers at the border. Output: newtypes that cannot be confused.
//! Source: `Documentation/admin-guide/mm/pagemap.rst` for page and frame numbers.
//! Keeps: what `Display` prints of a number, `FromStr` accepts; text from outside is printed as [`Printable`].
//! Not here: the page size of this machine (`HostFacts` carries that of the traced one).
#![forbid(unsafe_code)]

mod printable;
mod text;

use std::{fmt, num::NonZeroU64, ops::Range};

pub use printable::Printable;
use serde::{Deserialize, Serialize};
pub use text::{Hexadecimal, ParseUnitError};

/// A base page size: a power of two, in bytes, as reported by the traced host.
///
/// Never a constant and never read from the running machine inside the core: a recording made on a
/// 64 KiB arm64 host must replay on a 4 KiB x86 one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "StoredPageSize")]
pub struct PageSize {
    shift: u32,
}

impl PageSize {
    /// Returns `None` unless `bytes` is a power of two, and 4 KiB or more: no machine that runs Linux has smaller pages.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        if bytes.is_power_of_two() && bytes >= 4096 {
            Some(Self { shift: bytes.trailing_zeros() })
        } else {
            None
        }
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.shift
    }

    /// How many pages an entry of a page middle directory maps, as a power of two: as many as fit a page of entries.
    #[must_use]
    pub const fn pmd_order(self) -> u32 {
        self.bytes().ilog2() - size_of::<u64>().ilog2()
    }
}

/// A [`PageSize`] as a file has it.
#[derive(Deserialize)]
struct StoredPageSize {
    shift: u32,
}

impl TryFrom<StoredPageSize> for PageSize {
    type Error = &'static str;

    fn try_from(stored: StoredPageSize) -> Result<Self, Self::Error> {
        /// Larger base pages no kernel has.
        const MOST: u64 = 1 << 20;
        let bytes = 1_u64.checked_shl(stored.shift).filter(|bytes| *bytes <= MOST);
        bytes.and_then(Self::from_bytes).ok_or("no size of base pages")
    }
}

/// A virtual address in the traced process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VirtAddr(u64);

impl VirtAddr {
    /// The address `raw`, in bytes.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The address in bytes.
    #[must_use]
    pub const fn as_raw(self) -> u64 {
        self.0
    }

    /// The number of the page that holds the address.
    #[must_use]
    pub const fn vpn(self, page: PageSize) -> Vpn {
        Vpn(self.0 >> page.shift)
    }
}

impl fmt::Display for VirtAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A virtual page number: a [`VirtAddr`] divided by the base page size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Vpn(u64);

impl Vpn {
    /// The page of this number.
    #[must_use]
    pub const fn from_raw(number: u64) -> Self {
        Self(number)
    }

    /// Address of the first byte of the page.
    #[must_use]
    pub const fn start(self, page: PageSize) -> VirtAddr {
        VirtAddr(self.0 << page.shift)
    }

    /// The number itself.
    #[must_use]
    pub const fn as_raw(self) -> u64 {
        self.0
    }
}

/// Number of a page within a file: the offset divided by the base page size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePage(u64);

impl FilePage {
    /// The page of this number.
    #[must_use]
    pub const fn from_raw(number: u64) -> Self {
        Self(number)
    }

    /// The number itself.
    #[must_use]
    pub const fn as_raw(self) -> u64 {
        self.0
    }
}

/// A page frame number in units of base pages; never zero.
///
/// `/proc/PID/pagemap` reports zero to readers without `CAP_SYS_ADMIN`, so "no frame number" is
/// `Option<Pfn>::None`, not a magic zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pfn(NonZeroU64);

impl Pfn {
    /// The frame `raw`; `None` for zero.
    #[must_use]
    pub const fn new(raw: u64) -> Option<Self> {
        match NonZeroU64::new(raw) {
            Some(raw) => Some(Self(raw)),
            None => None,
        }
    }

    /// The frame number itself.
    #[must_use]
    pub const fn as_raw(self) -> u64 {
        self.0.get()
    }
}

/// Where a page frame has its word in `/proc/kpageflags` and its like: its number, in units of base pages.
///
/// Frame 0 has one too, though no page table ever names it; so it has no [`Pfn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameIndex(u64);

impl FrameIndex {
    /// The frame of this number.
    #[must_use]
    pub const fn from_raw(number: u64) -> Self {
        Self(number)
    }

    /// The number itself.
    #[must_use]
    pub const fn as_raw(self) -> u64 {
        self.0
    }

    /// The same frame, as page tables name it; `None` for frame 0.
    #[must_use]
    pub const fn pfn(self) -> Option<Pfn> {
        Pfn::new(self.0)
    }
}

/// A number of base pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PageCount(u64);

impl PageCount {
    /// `pages` base pages.
    #[must_use]
    pub const fn new(pages: u64) -> Self {
        Self(pages)
    }

    /// The number of base pages.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Their size in bytes, at most 2^64 - 1.
    #[must_use]
    pub const fn bytes(self, page: PageSize) -> u64 {
        self.0.saturating_mul(page.bytes())
    }
}

impl std::ops::AddAssign for PageCount {
    /// A sum of more than all addresses stays at 2^64 - 1: only a made-up recording has one.
    fn add_assign(&mut self, other: Self) {
        self.0 = self.0.saturating_add(other.0);
    }
}

impl std::iter::Sum for PageCount {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |mut sum, count| {
            sum += count;
            sum
        })
    }
}

/// A moment: nanoseconds on `CLOCK_BOOTTIME` of the traced host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The moment `nanos` nanoseconds after boot.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since boot.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to here; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Nanos {
        Nanos(self.0.saturating_sub(earlier.0))
    }

    /// The moment `time` after this one.
    #[must_use]
    pub const fn after(self, time: Nanos) -> Self {
        Self(self.0.saturating_add(time.0))
    }

    /// The moment `time` before this one; boot at the earliest.
    #[must_use]
    pub const fn before(self, time: Nanos) -> Self {
        Self(self.0.saturating_sub(time.0))
    }
}

/// A length of time in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Nanos(u64);

impl Nanos {
    /// `nanos` nanoseconds.
    #[must_use]
    pub const fn new(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The number of nanoseconds.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl std::ops::AddAssign for Nanos {
    /// A sum of more than 584 years stays there: only a damaged recording has one.
    fn add_assign(&mut self, other: Self) {
        self.0 = self.0.saturating_add(other.0);
    }
}

/// A part of a recording, by the time since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeRange {
    /// It begins here; with the recording if it is `None`.
    pub from: Option<Nanos>,
    /// It is over here; with the recording if it is `None`.
    pub to: Option<Nanos>,
}

impl TimeRange {
    /// Whether it begins after `time`.
    #[must_use]
    pub fn is_ahead(self, time: Nanos) -> bool {
        self.from.is_some_and(|from| time < from)
    }

    /// Whether it is over at `time`.
    #[must_use]
    pub fn is_over(self, time: Nanos) -> bool {
        self.to.is_some_and(|to| time >= to)
    }

    /// Whether `time` is in it.
    #[must_use]
    pub fn contains(self, time: Nanos) -> bool {
        !self.is_ahead(time) && !self.is_over(time)
    }
}

/// A half-open range of virtual addresses, `start..end`; never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "StoredRange")]
pub struct VirtRange {
    start: VirtAddr,
    end: VirtAddr,
}

/// A [`VirtRange`] as a file has it.
#[derive(Deserialize)]
struct StoredRange {
    start: VirtAddr,
    end: VirtAddr,
}

impl TryFrom<StoredRange> for VirtRange {
    type Error = &'static str;

    fn try_from(stored: StoredRange) -> Result<Self, Self::Error> {
        Self::new(stored.start, stored.end).ok_or("a range that ends before it begins")
    }
}

impl VirtRange {
    /// Returns `None` if `start >= end`.
    #[must_use]
    pub const fn new(start: VirtAddr, end: VirtAddr) -> Option<Self> {
        if start.0 < end.0 { Some(Self { start, end }) } else { None }
    }

    /// The page of size `page` that holds `addr`.
    #[must_use]
    pub const fn of_page(addr: VirtAddr, page: PageSize) -> Self {
        let start = addr.0 >> page.shift << page.shift;
        Self { start: VirtAddr(start), end: VirtAddr(start.saturating_add(page.bytes())) }
    }

    /// First address of the range.
    #[must_use]
    pub const fn start(self) -> VirtAddr {
        self.start
    }

    /// First address after the range.
    #[must_use]
    pub const fn end(self) -> VirtAddr {
        self.end
    }

    /// All addresses of the range.
    #[must_use]
    pub const fn addrs(self) -> Range<VirtAddr> {
        self.start..self.end
    }

    /// Size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.end.0 - self.start.0
    }

    /// Numbers of the base pages that the range touches, partial pages included.
    #[must_use]
    pub const fn vpns(self, page: PageSize) -> Range<u64> {
        self.start.0 >> page.shift..((self.end.0 - 1) >> page.shift) + 1
    }

    /// Number of base pages the range touches, partial pages included.
    #[must_use]
    pub const fn pages(self, page: PageSize) -> PageCount {
        let Range { start, end } = self.vpns(page);
        PageCount(end - start)
    }

    /// Whether `addr` lies in the range.
    #[must_use]
    pub const fn contains(self, addr: VirtAddr) -> bool {
        self.start.0 <= addr.0 && addr.0 < self.end.0
    }

    /// The range, widened to where blocks of `1 << shift` bytes begin and end.
    #[must_use]
    pub const fn widened(self, shift: u32) -> Self {
        let start = VirtAddr(self.start.0 >> shift << shift);
        let last = (self.end.0 - 1) >> shift << shift;
        Self { start, end: VirtAddr(last.saturating_add(1 << shift)) }
    }

    /// The range with a page of size `page` before it and one behind it, as far as there are any.
    #[must_use]
    pub const fn with_neighbours(self, page: PageSize) -> Self {
        let start = VirtAddr(self.start.0.saturating_sub(page.bytes()));
        Self { start, end: VirtAddr(self.end.0.saturating_add(page.bytes())) }
    }

    /// All pages of size `page` that the range touches.
    #[must_use]
    pub const fn whole_pages(self, page: PageSize) -> Self {
        self.widened(page.shift)
    }

    /// The part of the range that lies in `other` too.
    #[must_use]
    pub fn intersection(self, other: Self) -> Option<Self> {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }
}

impl fmt::Display for VirtRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.start, self.end)
    }
}

/// A share of one CPU in percent, as people type it: `5%` or `5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CpuShare(u32);

impl CpuShare {
    /// `percent` percent of one CPU.
    #[must_use]
    pub const fn from_percent(percent: u32) -> Self {
        Self(percent)
    }

    /// In percent of one CPU.
    #[must_use]
    pub const fn percent(self) -> u32 {
        self.0
    }

    /// What the share is of `time`.
    #[must_use]
    pub fn of(self, time: Nanos) -> Nanos {
        let share = u128::from(time.0) * u128::from(self.0) / 100;
        Nanos(u64::try_from(share).unwrap_or(u64::MAX))
    }
}

/// A size in bytes as people type it: `65536`, `64K`, `16M`, `1GiB`; units are powers of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ByteSize(u64);

impl ByteSize {
    /// `bytes` bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests;
