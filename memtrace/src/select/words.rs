//! Words for categories and flags.

use crate::pagemap::{FlagsEra, PageCategories, PageFlags};

/// The era whose names are shown. Those of older ones are taken too.
const SHOWN: FlagsEra = FlagsEra::V6_12;

/// Categories by name; what is shown is the first that fits.
const CATEGORIES: [(&str, PageCategories); 11] = [
    ("wpallowed", PageCategories::WPALLOWED),
    ("written", PageCategories::WRITTEN),
    ("file", PageCategories::FILE),
    ("present", PageCategories::PRESENT),
    ("swapped", PageCategories::SWAPPED),
    ("zero", PageCategories::PFNZERO),
    ("pfnzero", PageCategories::PFNZERO),
    ("huge", PageCategories::HUGE),
    ("soft-dirty", PageCategories::SOFT_DIRTY),
    ("soft_dirty", PageCategories::SOFT_DIRTY),
    ("guard", PageCategories::GUARD),
];

/// The category of this name.
pub(super) fn category(word: &str) -> Option<PageCategories> {
    CATEGORIES.iter().find(|(name, _)| *name == word).map(|(_, category)| *category)
}

/// The name of `category`, if it is one that has a name.
#[must_use]
pub fn category_name(category: PageCategories) -> Option<&'static str> {
    CATEGORIES.iter().find(|(_, named)| *named == category).map(|(name, _)| *name)
}

/// The flag of this name, in any era.
pub(super) fn flag(word: &str) -> Option<PageFlags> {
    PageFlags::all_named()
        .find(|flag| [SHOWN, FlagsEra::V2_6_25].iter().any(|era| flag.names(*era).any(|name| name == word)))
}

/// The name of `flag`, if it is one that has a name.
pub(super) fn flag_name(flag: PageFlags) -> Option<&'static str> {
    flag.names(SHOWN).next()
}

/// Names of flags, by bit.
fn flag_names() -> impl Iterator<Item = &'static str> {
    PageFlags::all().names(SHOWN)
}

/// What to say of a `word` that is no flag.
pub(super) fn unknown_flag(word: &str) -> String {
    format!("no flag is called '{word}'; {}", advice(word, flag_names()))
}

/// What to say of a `word` that is no category and no flag.
pub(super) fn unknown(word: &str) -> String {
    let categories = CATEGORIES.iter().map(|(name, _)| *name);
    let names = categories.chain(flag_names().filter(|name| category(name).is_none()));
    format!("no category and no flag is called '{word}'; {}", advice(word, names))
}

/// Which of `names` may have been meant by `word`, or where to scan.
fn advice(word: &str, names: impl Iterator<Item = &'static str>) -> String {
    let near: Vec<_> = names.filter(|name| is_near(word, name)).collect();
    if near.is_empty() {
        "memtrace snapshot --help lists the names".to_owned()
    } else {
        format!("near it: {}", near.join(", "))
    }
}

/// Whether `word` is a part of `name`, or becomes it by two changes or its beginning by one.
fn is_near(word: &str, name: &str) -> bool {
    if word.len() < 3 || word.len() > name.len() + 2 {
        return false;
    }
    let changes = changes(word.as_bytes(), name.as_bytes());
    name.contains(word) || changes[name.len()] <= 2 || changes.contains(&1)
}

/// How many bytes to insert, remove or replace to make of `word` each beginning of `name`, from none of it to all.
fn changes(word: &[u8], name: &[u8]) -> Vec<usize> {
    // Of the bytes of `word` so far.
    let mut changes: Vec<_> = (0..=name.len()).collect();
    for (seen, byte) in (1..).zip(word) {
        let mut replaced = changes[0];
        changes[0] = seen;
        for (place, other) in name.iter().enumerate() {
            let kept = replaced + usize::from(byte != other);
            replaced = changes[place + 1];
            changes[place + 1] = kept.min(replaced + 1).min(changes[place] + 1);
        }
    }
    changes
}
