//! Typed addresses, page numbers, sizes and times, and their text forms.
//!
//! Layer: core. Input: plain numbers at the border. Output: newtypes that cannot be confused.
//! Source: `Documentation/admin-guide/mm/pagemap.rst` for page and frame numbers.
//! Keeps: what `Display` prints, `FromStr` accepts.
//! Not here: the page size of this machine (`HostFacts` carries that of the traced one).
#![forbid(unsafe_code)]

use std::{fmt, num::NonZeroU64, ops::Range, str::FromStr};

use serde::{Deserialize, Serialize};

/// A base page size: a power of two, in bytes, as reported by the traced host.
///
/// Never a constant and never read from the running machine inside the core: a recording made on a
/// 64 KiB arm64 host must replay on a 4 KiB x86 one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageSize {
    shift: u32,
}

impl PageSize {
    /// Returns `None` unless `bytes` is a power of two.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        if bytes.is_power_of_two() { Some(Self { shift: bytes.trailing_zeros() }) } else { None }
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.shift
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
}

impl std::ops::AddAssign for PageCount {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
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

/// A half-open range of virtual addresses, `start..end`; never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VirtRange {
    start: VirtAddr,
    end: VirtAddr,
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

impl FromStr for VirtRange {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseUnitError {
            text: text.to_owned(),
            what: "range of addresses",
            example: "two addresses, the second behind the end, as in 0x7f0000000000-0x7f0000200000, or a size after the first, \
                      as in 0x7f0000000000+2M",
        };
        let addr = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok().map(VirtAddr);
        let range = if let Some((start, end)) = text.split_once('-') {
            addr(start).zip(addr(end))
        } else {
            let (start, size) = text.split_once('+').ok_or_else(error)?;
            let start = addr(start).ok_or_else(error)?;
            let size: ByteSize = size.parse().map_err(|_| error())?;
            let end = start.0.checked_add(size.0).ok_or_else(error)?;
            Some((start, VirtAddr(end)))
        };
        range.and_then(|(start, end)| Self::new(start, end)).ok_or_else(error)
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

impl FromStr for CpuShare {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let percent = text.strip_suffix('%').unwrap_or(text).parse().ok().filter(|percent| *percent > 0);
        let error = || ParseUnitError {
            text: text.to_owned(),
            what: "share of a CPU",
            example: "a number of percent above 0, such as 5%",
        };
        percent.map(Self).ok_or_else(error)
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

const SIZE_UNITS: [(&str, u32); 4] = [("T", 40), ("G", 30), ("M", 20), ("K", 10)];

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in SIZE_UNITS {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// A text that is no size or no time; says what would be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no {what}: write {example}")]
pub struct ParseUnitError {
    text: String,
    what: &'static str,
    example: &'static str,
}

/// Splits `text` into its leading digits and what follows them.
fn split_number(text: &str) -> (Option<u64>, &str) {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    (number.parse().ok(), unit.trim_start())
}

impl FromStr for ByteSize {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseUnitError {
            text: text.to_owned(),
            what: "size",
            example: "bytes or a number with K, M, G or T, such as 16M",
        };
        let (number, unit) = split_number(text);
        let number = number.ok_or_else(error)?;
        let unit = unit.to_ascii_uppercase();
        let unit = unit.strip_suffix("IB").or(unit.strip_suffix('B')).unwrap_or(&unit);
        let shift = match unit {
            "" => 0,
            _ => SIZE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(error)?.1,
        };
        number.checked_mul(1 << shift).map(Self).ok_or_else(error)
    }
}

const TIME_UNITS: [(&str, u64); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, nanos) = TIME_UNITS
            .into_iter()
            .find(|(_, nanos)| self.0 != 0 && self.0.is_multiple_of(*nanos))
            .unwrap_or(("ns", 1));
        write!(f, "{}{unit}", self.0 / nanos)
    }
}

impl FromStr for Nanos {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseUnitError {
            text: text.to_owned(),
            what: "time",
            example: "a number with ns, us, ms, s, m or h, such as 100ms",
        };
        let (number, unit) = split_number(text);
        let (_, nanos) = TIME_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(error)?;
        number.and_then(|number| number.checked_mul(*nanos)).map(Self).ok_or_else(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(raw: u64) -> VirtAddr {
        VirtAddr::from_raw(raw)
    }

    #[test]
    fn page_size_is_a_power_of_two() {
        assert_eq!(PageSize::from_bytes(4096).map(PageSize::bytes), Some(4096));
        assert_eq!(PageSize::from_bytes(4097), None);
        assert_eq!(PageSize::from_bytes(0), None);
    }

    #[test]
    fn range_counts_partial_pages() {
        let page = PageSize::from_bytes(4096).expect("4096 is a power of two");
        let range = VirtRange::new(addr(0x1fff), addr(0x3001)).expect("not empty");

        assert_eq!(range.pages(page).get(), 3);
    }

    #[test]
    fn range_is_widened_to_whole_blocks() {
        let range = |start, end| VirtRange::new(addr(start), addr(end)).expect("not empty");

        assert_eq!(range(0x1fff, 0x3001).widened(12), range(0x1000, 0x4000));
        assert_eq!(range(0x1000, 0x3000).widened(12), range(0x1000, 0x3000));
        assert_eq!(range(u64::MAX - 1, u64::MAX).widened(12), range(u64::MAX - 0xfff, u64::MAX));
    }

    #[test]
    fn empty_range_is_none() {
        assert_eq!(VirtRange::new(addr(0x1000), addr(0x1000)), None);
    }

    #[test]
    fn size_accepts_suffixes_of_1024() {
        assert_eq!("64K".parse(), Ok(ByteSize(65536)));
        assert_eq!("2MiB".parse(), Ok(ByteSize(2 << 20)));
        assert_eq!("100".parse(), Ok(ByteSize(100)));
        assert!("12X".parse::<ByteSize>().is_err());
        assert!("K".parse::<ByteSize>().is_err());
        assert!("99999999999T".parse::<ByteSize>().is_err());
    }

    #[test]
    fn range_is_two_addresses_or_one_and_a_size() {
        let range = VirtRange::new(addr(0x1000), addr(0x3000));

        assert_eq!("0x1000-0x3000".parse().ok(), range);
        assert_eq!("0x1000+8K".parse().ok(), range);
        for text in [
            "0x1000",
            "0x3000-0x1000",
            "0x1000-0x1000",
            "1000-3000",
            "0x1000+",
            "0x1000+0",
            "0xffffffffffffffff+1",
        ] {
            assert!(text.parse::<VirtRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn share_of_a_cpu_is_above_zero() {
        assert_eq!("5%".parse(), Ok(CpuShare(5)));
        assert_eq!("300".parse(), Ok(CpuShare(300)));
        assert_eq!(CpuShare(5).of(Nanos(1_000)), Nanos(50));
        for text in ["0", "0%", "-1", "5%%", "", "%"] {
            assert!(text.parse::<CpuShare>().is_err(), "{text}");
        }
    }

    #[test]
    fn time_needs_a_unit() {
        assert_eq!("100ms".parse(), Ok(Nanos(100_000_000)));
        assert_eq!("2m".parse(), Ok(Nanos(120_000_000_000)));
        assert!("5".parse::<Nanos>().is_err());
        assert!("-1s".parse::<Nanos>().is_err());
    }

    #[test]
    fn sizes_and_times_read_back_what_they_print() {
        for bytes in [0, 1, 1023, 1024, 65536, 3 << 20, (1 << 40) + 1] {
            assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }
        for nanos in [0, 1, 999, 1_000, 1_500_000, 60_000_000_000] {
            assert_eq!(Nanos(nanos).to_string().parse(), Ok(Nanos(nanos)));
        }
    }
}
