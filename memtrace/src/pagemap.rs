//! What the kernel says about pages, decoded.
//!
//! Layer: core. Input: words of `/proc/PID/pagemap` and `/proc/kpageflags`, categories of `PAGEMAP_SCAN`. Output: typed values.
//! Source: `Documentation/admin-guide/mm/pagemap.rst`; each file names the kernel's own definition.
//! Keeps: bits that this build does not know survive, and a word that was decoded can be had back.
//! Not here: opening files and ioctls (`probe`).
#![forbid(unsafe_code)]

mod categories;
mod entry;
mod era;
mod flags;
mod run;
mod state;
mod swap;

pub use self::{
    categories::PageCategories,
    entry::{EntryFlags, PagemapEntry, PagemapEra, Residence},
    era::{PageEra, Release},
    flags::{FlagsEra, PageFlags},
    run::{EntryRun, Frame, PageRun, merge},
    state::{PageWords, StateRun, folio_around, inside, outside},
    swap::{Marker, NotPresent, SwapLayout, SwapSlot},
};

#[cfg(test)]
mod tests;
