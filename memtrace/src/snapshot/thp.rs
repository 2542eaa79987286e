//! The counters of large folios, under the names that thpmaps has for them.

use crate::{
    census::{Blocks, Content, FolioUse, Tally},
    units::{PageCount, PageSize},
};

/// One counter.
pub(super) struct Counter {
    pub(super) name: String,
    pub(super) content: Content,
    /// Whether it counts what is mapped by entries of page middle directories.
    pub(super) is_by_pmd: bool,
    pub(super) pages: PageCount,
}

/// The orders of folios that have counters: from the smallest of anonymous memory to what a page middle directory maps.
pub(super) fn orders(page: PageSize) -> std::ops::RangeInclusive<u32> {
    2..=page.pmd_order()
}

/// The counters of `tally`, those that are 0 too, in the order of thpmaps; blocks of `block_orders`.
pub(super) fn counters(tally: &Tally, block_orders: &[u32], page: PageSize) -> Vec<Counter> {
    let kb = |order: u32| (page.bytes() << order) >> 10;
    let mut counters = Vec::new();
    let mut count = |content: Content, is_by_pmd: bool, name: String, pages: PageCount| {
        counters.push(Counter { name, content, is_by_pmd, pages });
    };
    let contents = [(Content::Anon, "anon"), (Content::File, "file")];
    let by_pmd = |wanted: Content| {
        let uses = tally.folios.uses.iter().filter(|((content, _), _)| *content == wanted);
        PageCount::new(uses.map(|(_, folios)| folios.by_pmd.get()).sum())
    };
    for (content, word) in contents {
        count(content, true, format!("{word}-thp-pmd-aligned-{}kB", kb(page.pmd_order())), by_pmd(content));
    }
    for (content, word) in contents {
        let of = |order| tally.folios.uses.get(&(content, Some(order))).copied().unwrap_or_default();
        for order in orders(page) {
            count(content, false, format!("{word}-thp-pte-aligned-{}kB", kb(order)), of(order).aligned);
        }
        for order in orders(page) {
            count(content, false, format!("{word}-thp-pte-unaligned-{}kB", kb(order)), of(order).unaligned);
        }
        let uses = tally.folios.uses.iter().filter(|((of, _), _)| *of == content);
        let partial = uses.map(|(_, FolioUse { partial, .. })| partial.get()).sum();
        count(content, false, format!("{word}-thp-pte-partial"), PageCount::new(partial));
    }
    for order in block_orders {
        let of = |content| tally.folios.blocks.get(&(content, *order)).copied().unwrap_or_default();
        for (content, word) in contents {
            let Blocks { by_pmd, .. } = of(content);
            count(content, true, format!("{word}-cont-pmd-aligned-{}kB", kb(*order)), by_pmd);
        }
        for (content, word) in contents {
            let Blocks { by_pte, .. } = of(content);
            count(content, false, format!("{word}-cont-pte-aligned-{}kB", kb(*order)), by_pte);
        }
    }
    counters
}
