//! Counts pages of shared memory in swap, of which page tables have no entry.
//!
//! Layer: shell. Input: VMAs of shared memory, and the entries that page tables have for them. Output: [`SwappedPages`].
//! Source: `smap_gather_stats`, `smaps_pte_hole` and `smaps_pte_hole_lookup` of `fs/proc/task_mmu.c`.
//! Keeps: equal to smaps, whose `Swap:` is these pages and the swap entries of page tables.
//! Not here: which pages of an object are in swap (`residency`).

use std::{mem, ops::Range};

use super::super::{
    object::{MemoryObject, ObjectError},
    residency::SwappedPages,
};
use crate::{
    event::{FileKind, Tid, Vma},
    pagemap::EntryRun,
    units::{FilePage, PageSize},
};

/// A VMA of shared memory.
#[derive(Debug)]
pub(super) struct SharedVma<'a> {
    vma: &'a Vma,
    /// Whether page tables may have copies of pages of the object, which its swapped pages do not count for.
    has_copies: bool,
    /// Pages for which page tables have entries, ascending; only if there may be copies.
    entries: Vec<Range<u64>>,
}

impl<'a> SharedVma<'a> {
    /// `vma`, if the file of this kind behind it may have pages in swap.
    pub(super) fn of(vma: &'a Vma, kind: Option<FileKind>) -> Option<Self> {
        // devtmpfs has files of shared memory beside its devices.
        let may_swap = matches!(kind, Some(FileKind::SharedMemory | FileKind::Tmpfs | FileKind::Device));
        let has_copies = vma.perms[1] == b'w' && vma.perms[3] == b'p';
        may_swap.then_some(Self { vma, has_copies, entries: Vec::new() })
    }

    /// Notes that page tables have these entries, which follow those before.
    pub(super) fn add(&mut self, run: &EntryRun) {
        let first = run.first.as_raw();
        let end = first + run.pages.get();
        match self.entries.last_mut() {
            _ if !self.has_copies => {}
            Some(last) if last.end == first => last.end = end,
            _ => self.entries.push(first..end),
        }
    }

    /// The pages of the object that count.
    fn pages(&self, page: PageSize) -> Vec<Range<FilePage>> {
        let Range { start, end } = self.vma.range.vpns(page);
        let first = self.vma.offset / page.bytes();
        let starts = [start].into_iter().chain(self.entries.iter().map(|entries| entries.end));
        let ends = self.entries.iter().map(|entries| entries.start).chain([end]);
        let of_file = |number: u64| FilePage::from_raw(first + (number - start));
        let holes = starts.zip(ends).filter(|(start, end)| start < end);
        holes.map(|(start, end)| of_file(start)..of_file(end)).collect()
    }
}

/// Counts swapped pages of shared memory.
#[derive(Debug)]
pub(super) struct SwappedShared {
    page: PageSize,
    has_warned: bool,
}

impl SwappedShared {
    /// On a host with base pages of size `page`.
    pub(super) const fn new(page: PageSize) -> Self {
        Self { page, has_warned: false }
    }

    /// Those of `shared`, which the thread `tid` has.
    pub(super) fn count(&mut self, tid: Tid, shared: &SharedVma<'_>) -> SwappedPages {
        let SharedVma { vma, .. } = shared;
        let counted = match MemoryObject::of_vma(tid, vma.range, self.page) {
            Ok(Some(object)) => {
                shared.pages(self.page).into_iter().try_fold(SwappedPages::default(), |sum, pages| {
                    object.swapped(pages).map(|swapped| sum.plus(swapped))
                })
            }
            // The VMA has changed meanwhile.
            Ok(None) => Ok(SwappedPages::UNKNOWN),
            Err(ObjectError::Uncached { .. }) => Ok(SwappedPages::default()),
            Err(error) => Err(error),
        };
        counted.unwrap_or_else(|error| {
            if !mem::replace(&mut self.has_warned, true) {
                let name = String::from_utf8_lossy(&vma.name);
                log::warn!(
                    "which pages of shared memory are swapped is not known, of {name} and maybe others: {error}"
                );
            }
            SwappedPages::UNKNOWN
        })
    }
}
