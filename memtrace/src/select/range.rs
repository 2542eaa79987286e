//! A range of pages, as page-types takes it.

use std::{ops::Range, str::FromStr};

use super::ParseSelectError;

/// Consecutive pages by number, frames or pages of an address space or of a file; never empty.
///
/// Written as `N`, one page; `N+M`, as many as `M`; `N,M`, those before `M`; `N,`, all from there on; `,M`, all before `M`.
/// Numbers are decimal, hexadecimal after `0x`, octal after `0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRange {
    start: u64,
    end: u64,
}

impl PageRange {
    /// Numbers of the pages; the end of a range that is open is [`u64::MAX`].
    #[must_use]
    pub const fn range(&self) -> Range<u64> {
        self.start..self.end
    }
}

impl FromStr for PageRange {
    type Err = ParseSelectError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |part: &str, at| {
            let problem = "a page number is expected: write N, N+M, N,M, N, or ,M";
            super::number(part).ok_or_else(|| ParseSelectError::new(problem, text, at))
        };
        let (start, end, at) = if let Some((start, end)) = text.split_once(',') {
            let at = start.len() + 1;
            match (start, end) {
                ("", end) => (0, number(end, at)?, at),
                (start, "") => (number(start, 0)?, u64::MAX, at),
                (start, end) => (number(start, 0)?, number(end, at)?, at),
            }
        } else if let Some((start, pages)) = text.split_once('+') {
            let at = start.len() + 1;
            let start = number(start, 0)?;
            (start, start.saturating_add(number(pages, at)?), at)
        } else {
            let start = number(text, 0)?;
            (start, start.saturating_add(1), 0)
        };
        if start < end {
            Ok(Self { start, end })
        } else {
            let problem = format!("the range has no page: it begins with {start} and ends before {end}");
            Err(ParseSelectError::new(problem, text, at))
        }
    }
}
