//! Random folios in random places, counted as `tools/mm/thpmaps` does: page by page.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

/// Memory from frame [`BASE`] on, full of folios, and where parts of it are mapped.
#[derive(Clone, Debug)]
struct Layout {
    /// First frame and order of the folio of each frame.
    frames: Vec<(u64, u32)>,
    /// The frame of each page that has one.
    pages: BTreeMap<u64, u64>,
}

/// A multiple of all sizes of folios.
const BASE: u64 = 0x1000;

fn layout() -> impl Strategy<Value = Layout> {
    let folios = vec(select(&[0_u32, 0, 1, 2, 2, 3, 4][..]), 1..12);
    let parts = vec((0..3_u64, 0..80_u64, 1..40_u64), 0..6);
    (folios, parts).prop_map(|(orders, parts)| {
        let mut frames: Vec<(u64, u32)> = Vec::new();
        for order in orders {
            // The kernel has folios at multiples of their size.
            while !(frames.len() as u64).is_multiple_of(1 << order) {
                frames.push((BASE + frames.len() as u64, 0));
            }
            let head = BASE + frames.len() as u64;
            frames.extend((0..1 << order).map(|_| (head, order)));
        }
        let end = BASE + frames.len() as u64;
        let mut pages = BTreeMap::new();
        let mut next = 0x40;
        for (gap, skip, length) in parts {
            let first = BASE + skip % frames.len() as u64;
            next += gap;
            for frame in first..end.min(first + length) {
                pages.insert(next, frame);
                next += 1;
            }
        }
        Layout { frames, pages }
    })
}

impl Layout {
    fn folio(&self, frame: u64) -> (u64, u32) {
        self.frames[usize::try_from(frame - BASE).expect("few frames")]
    }

    fn content(head: u64) -> Content {
        if (head >> 3).is_multiple_of(2) { Content::Anon } else { Content::File }
    }

    fn known(&self, page: u64, frame: u64) -> PageRun {
        let (head, order) = self.folio(frame);
        let is_anon = Self::content(head) == Content::Anon;
        let compound = match (order, frame == head) {
            (0, _) => PageFlags::empty(),
            (_, true) => PageFlags::THP | PageFlags::COMPOUND_HEAD,
            (_, false) => PageFlags::THP | PageFlags::COMPOUND_TAIL,
        };
        let (word, flags) = if is_anon { (PRESENT | frame, ANON) } else { (PRESENT | FILE | frame, CACHED) };
        flagged(page, 1, word, flags | compound)
    }

    fn runs(&self) -> Vec<PageRun> {
        let mut runs: Vec<PageRun> = Vec::new();
        for (page, frame) in &self.pages {
            let next = self.known(*page, *frame);
            if !runs.last_mut().is_some_and(|last| last.try_append(&next)) {
                runs.push(next);
            }
        }
        runs
    }

    /// Whether the frames from `frame`, which is at `page`, to `at` are mapped side by side.
    fn has_at(&self, page: u64, frame: u64, at: u64) -> bool {
        let (low, high) = (frame.min(at), frame.max(at));
        (low..=high).all(|between| self.pages.get(&(page + between - frame)) == Some(&between))
    }

    /// Pages of large folios, as a person would count them.
    fn uses(&self) -> BTreeMap<(Content, Option<u32>), FolioUse> {
        let mut uses = BTreeMap::<_, FolioUse>::new();
        for (page, frame) in &self.pages {
            let (head, order) = self.folio(*frame);
            if order == 0 {
                continue;
            }
            let pages = 1 << order;
            let is_whole = self.has_at(*page, *frame, head) && self.has_at(*page, *frame, head + pages - 1);
            let folios = uses.entry((Self::content(head), Some(order))).or_default();
            let first = page + head - frame;
            *match (is_whole, first.is_multiple_of(pages)) {
                (true, true) => &mut folios.aligned,
                (true, false) => &mut folios.unaligned,
                (false, _) => &mut folios.partial,
            } += PageCount::new(1);
        }
        uses
    }

    /// Pages in blocks of `order`, likewise.
    fn blocks(&self, order: u32) -> BTreeMap<Content, u64> {
        let mut blocks = BTreeMap::new();
        let size = 1 << order;
        for (page, frame) in &self.pages {
            let (head, of_folio) = self.folio(*frame);
            let is_block = of_folio >= order
                && page.is_multiple_of(size)
                && frame.is_multiple_of(size)
                && self.has_at(*page, *frame, frame + size - 1);
            if is_block {
                *blocks.entry(Self::content(head)).or_default() += size;
            }
        }
        blocks
    }

    /// What the frames about a piece tell.
    fn extent(&self, piece: &FolioPiece) -> FolioExtent {
        let (_, order) = self.folio(piece.frame.as_raw());
        let pages = PageCount::new(1 << order);
        FolioExtent { pages, is_whole: piece.pages == pages }
    }
}

proptest! {
    #[test]
    fn folios_are_those_that_pages_tell_of(layout in layout()) {
        let mut folios = tally(&layout.runs()).folios;
        for piece in std::mem::take(&mut folios.unsettled) {
            folios.settle(&piece, Some(layout.extent(&piece)));
        }

        prop_assert_eq!(folios.uses, layout.uses());
    }

    #[test]
    fn blocks_are_those_that_pages_tell_of(layout in layout(), order in 1..5_u32) {
        let mut rules = rules();
        rules.block_orders = vec![order];

        let folios = tally_by(&rules, &layout.runs()).folios;

        let found: BTreeMap<_, _> =
            folios.blocks.iter().map(|((content, _), blocks)| (*content, blocks.by_pte.get())).collect();
        prop_assert_eq!(found, layout.blocks(order));
    }
}
