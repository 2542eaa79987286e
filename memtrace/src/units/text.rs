//! Sizes, times, shares, ranges and build IDs as people type them and read them.

use std::{fmt, str::FromStr};

use super::{ByteSize, CpuShare, Nanos, VirtAddr, VirtRange};

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

/// Bytes as pairs of hexadecimal digits, as build IDs are written.
#[derive(Clone, Copy, Debug)]
pub struct Hexadecimal<'a>(pub &'a [u8]);

impl fmt::Display for Hexadecimal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
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
            example: "seconds or a number with ns, us, ms, s, m or h, such as 100ms",
        };
        let (number, unit) = split_number(text);
        let unit = if unit.is_empty() { "s" } else { unit };
        let (_, nanos) = TIME_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(error)?;
        number.and_then(|number| number.checked_mul(*nanos)).map(Self).ok_or_else(error)
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

#[cfg(test)]
mod tests {
    use super::*;

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
        let range = VirtRange::new(VirtAddr(0x1000), VirtAddr(0x3000));

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
    fn time_is_in_seconds_unless_it_has_a_unit() {
        assert_eq!("100ms".parse(), Ok(Nanos(100_000_000)));
        assert_eq!("2m".parse(), Ok(Nanos(120_000_000_000)));
        assert_eq!("5".parse(), Ok(Nanos(5_000_000_000)));
        for text in ["", "s", "-1s", "1x", "9999999999h"] {
            assert!(text.parse::<Nanos>().is_err(), "{text}");
        }
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
