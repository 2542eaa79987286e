//! Which pages a census counts.
//!
//! Layer: core. Input: what people write. Output: [`BitsFilter`], [`PageRange`], [`Condition`].
//! Source: the usage text of `tools/mm/page-types.c` for bits and ranges; `Documentation/admin-guide/mm/pagemap.rst` for
//! the masks of `PAGEMAP_SCAN`.
//! Keeps: an unknown name and an empty part are errors, and these show the place. The masks of a condition lose no page for
//! which it holds.
//! Not here: finding pages (`probe`), the ioctl (`sys`).
#![forbid(unsafe_code)]

mod bits;
mod condition;
mod masks;
mod parse;
mod range;
mod selection;
mod words;

pub use self::{
    bits::{BitsFilter, parse_flags},
    condition::{Condition, PageView},
    masks::ScanMasks,
    range::PageRange,
    selection::Selection,
    words::category_name,
};

#[cfg(test)]
mod tests;

/// A text that selects no pages. Shows what is wrong, the text, and a caret under the place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}\n  {text}\n  {caret}")]
pub struct ParseSelectError {
    problem: String,
    text: String,
    caret: String,
}

impl ParseSelectError {
    /// `problem` is found at byte `at` of `text`.
    fn new(problem: impl Into<String>, text: &str, at: usize) -> Self {
        let column = text.char_indices().take_while(|(place, _)| *place < at).count();
        Self {
            problem: problem.into(),
            // On one line, so that the caret is below the place.
            text: text.replace(char::is_control, " "),
            caret: " ".repeat(column) + "^",
        }
    }
}

/// The number that `text` is in C: decimal, hexadecimal after `0x`, octal after `0`.
fn number(text: &str) -> Option<u64> {
    let hexadecimal = text.strip_prefix("0x").or(text.strip_prefix("0X"));
    let octal = text.strip_prefix('0').filter(|digits| !digits.is_empty());
    let (digits, radix) = match (hexadecimal, octal) {
        (Some(digits), _) => (digits, 16),
        (None, Some(digits)) => (digits, 8),
        (None, None) => (text, 10),
    };
    // The standard library would take a sign.
    if digits.starts_with('+') { None } else { u64::from_str_radix(digits, radix).ok() }
}
