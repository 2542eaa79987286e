//! Counters of large folios, under the names and in the order of thpmaps.

use super::{super::thp::counters, *};
use crate::census::Blocks;

fn names(block_orders: &[u32], page: u64) -> Vec<String> {
    let page = PageSize::from_bytes(page).expect("a power of two");
    counters(&Tally::default(), block_orders, page).into_iter().map(|counter| counter.name).collect()
}

/// The counters that are not 0, in pages.
fn counted(tally: &Tally, block_orders: &[u32]) -> Vec<(String, Content, u64)> {
    counters(tally, block_orders, page_size())
        .into_iter()
        .filter(|counter| counter.pages.get() > 0)
        .map(|counter| (counter.name, counter.content, counter.pages.get()))
        .collect()
}

#[test]
fn counters_come_as_thpmaps_prints_them() {
    // thpmaps --inc-empty --cont 32K on x86-64: orders 2 to 9.
    let of = |word: &str, how: &str| {
        [16, 32, 64, 128, 256, 512, 1024, 2048].map(|kb| format!("{word}-thp-pte-{how}-{kb}kB"))
    };
    let line = |text: &str| vec![text.to_owned()];
    let expected = [
        line("anon-thp-pmd-aligned-2048kB"),
        line("file-thp-pmd-aligned-2048kB"),
        of("anon", "aligned").to_vec(),
        of("anon", "unaligned").to_vec(),
        line("anon-thp-pte-partial"),
        of("file", "aligned").to_vec(),
        of("file", "unaligned").to_vec(),
        line("file-thp-pte-partial"),
        line("anon-cont-pmd-aligned-32kB"),
        line("file-cont-pmd-aligned-32kB"),
        line("anon-cont-pte-aligned-32kB"),
        line("file-cont-pte-aligned-32kB"),
    ];

    assert_eq!(names(&[3], 4096), expected.concat());
}

#[test]
fn sizes_go_by_the_size_of_pages() {
    // With pages of 64 KiB a page table has 8192 entries: 512 MiB.
    let names = names(&[5], 65536);

    assert_eq!(names[0], "anon-thp-pmd-aligned-524288kB");
    assert_eq!(names[2], "anon-thp-pte-aligned-256kB");
    assert_eq!(names.last().map(String::as_str), Some("file-cont-pte-aligned-2048kB"));
}

#[test]
fn each_use_has_its_counter() {
    let mut tally = Tally::default();
    let count = PageCount::new;
    let uses = FolioUse { aligned: count(16), unaligned: count(32), partial: count(3), by_pmd: count(0) };
    tally.folios.uses.insert((Content::Anon, Some(4)), uses);
    let unknown = FolioUse { partial: count(5), ..FolioUse::default() };
    tally.folios.uses.insert((Content::Anon, None), unknown);
    let huge = FolioUse { aligned: count(512), by_pmd: count(1024), ..FolioUse::default() };
    tally.folios.uses.insert((Content::File, Some(9)), huge);
    let blocks = Blocks { by_pte: count(8), by_pmd: count(512) };
    tally.folios.blocks.insert((Content::File, 3), blocks);

    let rows = counted(&tally, &[3, 5]);

    let rows: Vec<_> = rows.iter().map(|(name, content, pages)| (name.as_str(), *content, *pages)).collect();
    assert_eq!(
        rows,
        [
            ("file-thp-pmd-aligned-2048kB", Content::File, 1024),
            ("anon-thp-pte-aligned-64kB", Content::Anon, 16),
            ("anon-thp-pte-unaligned-64kB", Content::Anon, 32),
            ("anon-thp-pte-partial", Content::Anon, 8),
            ("file-thp-pte-aligned-2048kB", Content::File, 512),
            ("file-cont-pmd-aligned-32kB", Content::File, 512),
            ("file-cont-pte-aligned-32kB", Content::File, 8),
        ]
    );
}

#[test]
fn folios_of_two_pages_are_of_no_counter_unless_they_are_partial() {
    let mut tally = Tally::default();
    let uses = FolioUse { aligned: PageCount::new(2), partial: PageCount::new(1), ..FolioUse::default() };
    tally.folios.uses.insert((Content::File, Some(1)), uses);

    assert_eq!(counted(&tally, &[]), [("file-thp-pte-partial".to_owned(), Content::File, 1)]);
}
