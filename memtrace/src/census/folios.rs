//! Large folios: which are mapped as a whole and where, and aligned blocks of frames within them.
//!
//! The words are those of thpmaps. A folio of which all pages are mapped side by side is *aligned* if the address of its first is a
//! multiple of its size; what is mapped of any other is *partial*. Where a page table maps it by one entry of a page middle
//! directory it is counted as such alone.

use std::collections::BTreeMap;

use super::Rules;
use crate::{
    pagemap::{PageCategories, PageFlags, PageRun},
    units::{PageCount, Pfn, Vpn},
};

/// What pages of programs hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Content {
    /// Anonymous memory.
    Anon,
    /// A file or shared memory.
    File,
}

/// Part of a folio whose pages are mapped side by side, or the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FolioPiece {
    /// The first page.
    pub first: Vpn,
    /// The frame that it is in.
    pub frame: Pfn,
    /// How many pages.
    pub pages: PageCount,
    /// Whether the first frame is the folio's first too.
    pub has_head: bool,
    content: Content,
}

impl FolioPiece {
    /// Number of the page behind the last, and of its frame if the folio goes on.
    const fn next(&self) -> (u64, u64) {
        let pages = self.pages.get();
        (self.first.as_raw() + pages, self.frame.as_raw() + pages)
    }
}

/// How a folio lies about a piece of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FolioExtent {
    /// How many pages the folio has.
    pub pages: PageCount,
    /// Whether the piece is all of it.
    pub is_whole: bool,
}

/// Pages of folios of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FolioUse {
    /// Of whole folios at a multiple of their size.
    pub aligned: PageCount,
    /// Of whole folios elsewhere.
    pub unaligned: PageCount,
    /// Of others.
    pub partial: PageCount,
    /// Of those mapped by an entry of a page middle directory.
    pub by_pmd: PageCount,
}

/// Pages in blocks of one size which are aligned as addresses and as frames, each within one folio.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    /// Mapped page by page.
    pub by_pte: PageCount,
    /// Mapped by an entry of a page middle directory.
    pub by_pmd: PageCount,
}

/// Use of large folios.
#[derive(Clone, Debug, Default)]
pub struct Folios {
    /// By content, and the logarithm to base 2 of the folio's number of pages; `None` where that could not be found.
    pub uses: BTreeMap<(Content, Option<u32>), FolioUse>,
    /// By content, and the logarithm to base 2 of the block's number of pages.
    pub blocks: BTreeMap<(Content, u32), Blocks>,
    /// Pieces of which only the frames about them tell whether they are whole.
    pub unsettled: Vec<FolioPiece>,
    open: Option<Open>,
}

/// The piece that goes on, maybe.
#[derive(Clone, Copy, Debug)]
struct Open {
    piece: FolioPiece,
    is_by_pmd: bool,
}

impl Folios {
    /// Adds `run`, whose pages are present.
    pub(super) fn add(&mut self, run: &PageRun, rules: &Rules) {
        let flags = run.frame.flags.unwrap_or_default();
        // The huge page of zeros is nobody's: smaps leaves it out too.
        let is_zero =
            flags.contains(PageFlags::ZERO_PAGE) || run.categories.contains(PageCategories::PFNZERO);
        let is_folio = flags.contains(PageFlags::THP) && !is_zero;
        let folio = run.entries.entry.pfn().filter(|_| is_folio);
        let Some(frame) = folio else { return self.close(false, rules) };
        let first = run.entries.first;
        let is_next = self.open.is_some_and(|open| open.piece.next() == (first.as_raw(), frame.as_raw()));
        let has_head = flags.contains(PageFlags::COMPOUND_HEAD);
        if let Some(open) = self.open.as_mut().filter(|_| is_next && !has_head) {
            open.piece.pages += run.entries.pages;
            return;
        }
        self.close(is_next, rules);
        let content = if flags.contains(PageFlags::ANON) { Content::Anon } else { Content::File };
        let piece = FolioPiece { first, frame, pages: run.entries.pages, has_head, content };
        self.open = Some(Open { piece, is_by_pmd: run.categories.contains(PageCategories::HUGE) });
    }

    /// Ends the open piece; `is_followed` if the next frame begins another folio.
    fn close(&mut self, is_followed: bool, rules: &Rules) {
        let Some(Open { piece, is_by_pmd }) = self.open.take() else { return };
        self.add_blocks(&piece, is_by_pmd, rules);
        if is_by_pmd {
            // Whatever part of it is counted: as many pages as a page of entries has room for.
            let order = Some(rules.page.pmd_order());
            self.uses.entry((piece.content, order)).or_default().by_pmd += piece.pages;
        } else if piece.has_head && is_followed {
            self.settle(&piece, Some(FolioExtent { pages: piece.pages, is_whole: true }));
        } else {
            self.unsettled.push(piece);
        }
    }

    fn add_blocks(&mut self, piece: &FolioPiece, is_by_pmd: bool, rules: &Rules) {
        let (first, frame) = (piece.first.as_raw(), piece.frame.as_raw());
        let (end, _) = piece.next();
        for order in &rules.block_orders {
            let block = 1_u64 << order;
            let whole = if is_by_pmd {
                piece.pages.get()
            } else if first % block == frame % block {
                (end / block * block).saturating_sub(first.next_multiple_of(block))
            } else {
                0
            };
            if whole > 0 {
                let blocks = self.blocks.entry((piece.content, *order)).or_default();
                let pages = if is_by_pmd { &mut blocks.by_pmd } else { &mut blocks.by_pte };
                *pages += PageCount::new(whole);
            }
        }
    }

    pub(super) fn finish(&mut self, rules: &Rules) {
        self.close(false, rules);
    }

    /// Counts `piece`, taken from [`Self::unsettled`]; `extent` is `None` if the frames about it do not tell.
    pub fn settle(&mut self, piece: &FolioPiece, extent: Option<FolioExtent>) {
        let order = extent.and_then(|extent| extent.pages.get().checked_ilog2());
        let folios = self.uses.entry((piece.content, order)).or_default();
        let pages = match extent {
            Some(FolioExtent { pages, is_whole: true })
                if piece.first.as_raw().is_multiple_of(pages.get()) =>
            {
                &mut folios.aligned
            }
            Some(FolioExtent { is_whole: true, .. }) => &mut folios.unaligned,
            Some(FolioExtent { is_whole: false, .. }) | None => &mut folios.partial,
        };
        *pages += piece.pages;
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (key, FolioUse { aligned, unaligned, partial, by_pmd }) in &other.uses {
            let ours = self.uses.entry(*key).or_default();
            ours.aligned += *aligned;
            ours.unaligned += *unaligned;
            ours.partial += *partial;
            ours.by_pmd += *by_pmd;
        }
        for (key, Blocks { by_pte, by_pmd }) in &other.blocks {
            let ours = self.blocks.entry(*key).or_default();
            ours.by_pte += *by_pte;
            ours.by_pmd += *by_pmd;
        }
    }
}
