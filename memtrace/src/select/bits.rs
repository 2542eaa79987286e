//! Filters by page flags, as page-types takes them.

use std::str::FromStr;

use super::{ParseSelectError, words};
use crate::pagemap::PageFlags;

/// Which flags a page must have.
///
/// Written as `bit1,bit2`, at least one of them; `bit1,bit2=bit1`, of those before the sign just those after it;
/// `bit1,~bit2`, all without `~` and none with it; `=bit1,bit2`, these and no others. A bit is the name of a flag; the
/// beginning of names, for the lowest flag of these; `compound`, or its beginning, for both flags of compound pages; or a
/// number that is a mask. Page-types has no whole names: `swap` is the beginning of `swapcache` there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitsFilter(Rule);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    AnyOf(PageFlags),
    /// Of the flags in the mask, just these.
    Masked {
        mask: PageFlags,
        bits: PageFlags,
    },
}

impl BitsFilter {
    /// Whether a page with these flags passes.
    #[must_use]
    pub fn matches(&self, flags: PageFlags) -> bool {
        match self.0 {
            Rule::AnyOf(bits) => flags.intersects(bits),
            Rule::Masked { mask, bits } => flags & mask == bits,
        }
    }
}

impl FromStr for BitsFilter {
    type Err = ParseSelectError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rule = match text.split_once('=') {
            Some((mask, bits)) => {
                if let Some(at) = text.find('~') {
                    return Err(ParseSelectError::new("'~' does not go with '='", text, at));
                }
                let at = mask.len() + 1;
                let mask = if mask.is_empty() { PageFlags::all() } else { some_flags(text, 0, mask)? };
                let bits = flags(text, at, bits)?;
                if !mask.contains(bits) {
                    let problem = "no page passes: these flags are not all among those before '='";
                    return Err(ParseSelectError::new(problem, text, at));
                }
                Rule::Masked { mask, bits }
            }
            None if text.contains('~') => set_and_clear(text)?,
            None => Rule::AnyOf(some_flags(text, 0, text)?),
        };
        Ok(Self(rule))
    }
}

/// The flags in a list of names and masks such as `0x10,anon,compound`; see [`BitsFilter`] for names.
pub fn parse_flags(text: &str) -> Result<PageFlags, ParseSelectError> {
    flags(text, 0, text)
}

/// The rule of a list in which flags with `~` must be clear.
fn set_and_clear(text: &str) -> Result<Rule, ParseSelectError> {
    let mut set = PageFlags::empty();
    let mut clear = PageFlags::empty();
    for (at, part) in parts(0, text) {
        match part.strip_prefix('~') {
            Some(part) => clear |= some_flags(text, at + 1, part)?,
            None => set |= some_flags(text, at, part)?,
        }
        if set.intersects(clear) {
            let problem = "no page passes: a flag is there with '~' and without";
            return Err(ParseSelectError::new(problem, text, at));
        }
    }
    Ok(Rule::Masked { mask: set | clear, bits: set })
}

/// As [`flags`], but not none: where 0 would mean nothing.
fn some_flags(text: &str, at: usize, list: &str) -> Result<PageFlags, ParseSelectError> {
    let flags = flags(text, at, list)?;
    if flags.is_empty() { Err(ParseSelectError::new("0 is no flag", text, at)) } else { Ok(flags) }
}

/// The flags in `list`, which begins at byte `at` of `text`.
fn flags(text: &str, at: usize, list: &str) -> Result<PageFlags, ParseSelectError> {
    parts(at, list).try_fold(PageFlags::empty(), |flags, (at, part)| Ok(flags | bit(text, at, part)?))
}

/// What is between the commas of `list`, which begins at byte `at` of the text, and where each part begins.
fn parts(at: usize, list: &str) -> impl Iterator<Item = (usize, &str)> {
    list.split(',').scan(at, |next, part| {
        let at = *next;
        *next += part.len() + 1;
        Some((at, part))
    })
}

/// The flags that `part` means, which begins at byte `at` of `text`.
fn bit(text: &str, at: usize, part: &str) -> Result<PageFlags, ParseSelectError> {
    if part.is_empty() {
        return Err(ParseSelectError::new("the name of a flag or a number is expected", text, at));
    }
    if "compound".starts_with(part) {
        return Ok(PageFlags::COMPOUND);
    }
    let is_begun = |flag: &PageFlags| words::flag_name(*flag).is_some_and(|name| name.starts_with(part));
    words::flag(part)
        .or_else(|| PageFlags::all_named().find(is_begun))
        .or_else(|| super::number(part).map(PageFlags::from_bits_retain))
        .ok_or_else(|| ParseSelectError::new(words::unknown_flag(part), text, at))
}
