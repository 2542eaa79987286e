//! Numbers as people read them: rounded, with a unit.
//!
//! Layer: codec. Input: nanoseconds, bytes, counts. Output: text.
//! Keeps: integers only; what is rounded is rounded to the nearest.
//! Not here: what is exact and can be typed in again (`units`).

use std::fmt::{self, Display, Formatter};

/// Nanoseconds, rounded to a unit that fits.
pub(super) struct Time(pub(super) u64);

impl Display for Time {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (unit, nanos) = match self.0 {
            0..10_000 => return f.pad(&format!("{} ns", self.0)),
            10_000..1_000_000 => ("µs", 1_000),
            1_000_000..1_000_000_000 => ("ms", 1_000_000),
            _ => ("s", 1_000_000_000),
        };
        let tenths = rounded(self.0, 10, nanos);
        f.pad(&format!("{}.{} {unit}", tenths / 10, tenths % 10))
    }
}

/// Bytes, in the largest unit of which there is one; without a fraction only where that is exact.
pub(super) struct Size(pub(super) u64);

impl Display for Size {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] =
            [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        let Some((bytes, unit)) = UNITS.into_iter().find(|(bytes, _)| self.0 >= *bytes) else {
            return f.pad(&format!("{} B", self.0));
        };
        if self.0.is_multiple_of(bytes) {
            return f.pad(&format!("{} {unit}", self.0 / bytes));
        }
        let tenths = rounded(self.0, 10, bytes);
        f.pad(&format!("{}.{} {unit}", tenths / 10, tenths % 10))
    }
}

/// A part of a whole, in percent.
pub(super) struct Share(pub(super) u64, pub(super) u64);

impl Display for Share {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let tenths = rounded(self.0, 1_000, self.1);
        f.pad(&format!("{}.{}%", tenths / 10, tenths % 10))
    }
}

/// How far the first is from the second, with its sign.
pub(super) struct Difference(pub(super) u64, pub(super) u64);

impl Difference {
    /// `+` or `-`.
    pub(super) const fn sign(&self) -> char {
        if self.0 < self.1 { '-' } else { '+' }
    }

    /// Without its sign.
    pub(super) const fn size(&self) -> u64 {
        self.0.abs_diff(self.1)
    }
}

impl Display for Difference {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.sign(), self.size())
    }
}

/// `value` times `factor` divided by `divisor`, to the nearest; 0 if the divisor is.
fn rounded(value: u64, factor: u128, divisor: u64) -> u128 {
    let divisor = u128::from(divisor);
    (u128::from(value) * factor + divisor / 2).checked_div(divisor).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_to_a_unit_that_fits() {
        let text = |nanos| Time(nanos).to_string();

        assert_eq!(text(0), "0 ns");
        assert_eq!(text(9_999), "9999 ns");
        assert_eq!(text(12_345), "12.3 µs");
        assert_eq!(text(12_350), "12.4 µs");
        assert_eq!(text(7_607_500), "7.6 ms");
        assert_eq!(text(1_234_567_890), "1.2 s");
        assert_eq!(text(60_000_000_000), "60.0 s");
    }

    #[test]
    fn sizes_have_a_fraction_only_if_they_are_not_whole() {
        let text = |bytes| Size(bytes).to_string();

        assert_eq!(text(0), "0 B");
        assert_eq!(text(1_023), "1023 B");
        assert_eq!(text(4_096), "4 KiB");
        assert_eq!(text(200_000), "195.3 KiB");
        assert_eq!(text(8 << 20), "8 MiB");
        assert_eq!(text((8 << 20) + 4_096), "8.0 MiB");
        assert_eq!(text(3 << 29), "1.5 GiB");
        assert_eq!(text(1 << 47), "128 TiB");
    }

    #[test]
    fn shares_are_of_the_whole() {
        assert_eq!(Share(1, 3).to_string(), "33.3%");
        assert_eq!(Share(2, 3).to_string(), "66.7%");
        assert_eq!(Share(0, 0).to_string(), "0.0%");
    }
}
