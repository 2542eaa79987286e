//! The table of flags, as page-types prints it.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use crate::{
    census::Tally,
    pagemap::{FlagsEra, PageFlags},
    units::{PageCount, PageSize},
};

/// The table of the flags in `tally`.
#[must_use]
pub fn table(tally: &Tally, is_raw: bool, era: FlagsEra, page: PageSize) -> String {
    let mut rows = BTreeMap::<PageFlags, u64>::new();
    for ((flags, entry), pages) in tally.flags.iter() {
        *rows.entry(flags.shown(entry, is_raw, era)).or_default() += pages.get();
    }
    let mut text =
        "             flags\tpage-count       MB  symbolic-flags\t\t\tlong-symbolic-flags\n".to_owned();
    for (flags, pages) in &rows {
        // Writing to a string cannot fail.
        let _ = write_row(&mut text, *flags, PageCount::new(*pages), era, page);
    }
    let total = rows.values().sum::<u64>();
    let _ = writeln!(text, "             total\t{total:>10} {:>8}", megabytes(total, page));
    text
}

fn write_row(
    text: &mut String,
    flags: PageFlags,
    pages: PageCount,
    era: FlagsEra,
    page: PageSize,
) -> fmt::Result {
    let (pages, size) = (pages.get(), megabytes(pages.get(), page));
    writeln!(
        text,
        "{:#018x}\t{pages:>10} {size:>8}  {}\t{}",
        flags.bits(),
        flags.letters(),
        names(flags, era)
    )
}

/// The line of page-types for what `flags` mean.
#[must_use]
pub fn describe(flags: PageFlags, era: FlagsEra) -> String {
    format!("{:#018x}\t{}\t{}\n", flags.bits(), flags.letters(), names(flags, era))
}

/// The names of `flags` with commas between.
fn names(flags: PageFlags, era: FlagsEra) -> String {
    flags.names(era).collect::<Vec<_>>().join(",")
}

fn megabytes(pages: u64, page: PageSize) -> u64 {
    pages.saturating_mul(page.bytes()) >> 20
}
