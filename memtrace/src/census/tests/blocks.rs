//! Blocks of contiguous frames within one folio, as `thpmaps --cont` counts them.

use super::*;

const HEAD: PageFlags = PageFlags::THP.union(PageFlags::COMPOUND_HEAD).union(ANON);
const TAIL: PageFlags = PageFlags::THP.union(PageFlags::COMPOUND_TAIL).union(ANON);

fn whole(first: u64, frame: u64, pages: u64) -> [PageRun; 2] {
    [flagged(first, 1, PRESENT | frame, HEAD), flagged(first + 1, pages - 1, PRESENT | (frame + 1), TAIL)]
}

/// Order of the blocks, and pages in them by PTE and by PMD.
fn blocks(orders: &[u32], runs: &[PageRun]) -> Vec<(u32, u64, u64)> {
    let mut rules = rules();
    rules.block_orders = orders.to_vec();
    let of_anon = |((content, order), blocks): (&(Content, u32), &Blocks)| {
        assert_eq!(*content, Content::Anon);
        (*order, blocks.by_pte.get(), blocks.by_pmd.get())
    };
    tally_by(&rules, runs).folios.blocks.iter().map(of_anon).collect()
}

#[test]
fn folio_is_full_of_blocks_up_to_its_size() {
    // Blocks of 2, 16 and 32 pages in a folio of 16.
    assert_eq!(blocks(&[1, 4, 5], &whole(0x40, 0x1000, 16)), [(1, 16, 0), (4, 16, 0)]);
}

#[test]
fn nobody_counts_blocks_unless_asked() {
    assert_eq!(blocks(&[], &whole(0x40, 0x1000, 16)), []);
}

#[test]
fn address_and_frame_must_be_as_far_into_a_block() {
    // Page 0x44 in frame 0x1000: blocks of 4 fit, those of 8 never.
    assert_eq!(blocks(&[2, 3, 4], &whole(0x44, 0x1000, 16)), [(2, 16, 0)]);
}

#[test]
fn part_of_a_folio_has_the_blocks_that_are_all_there() {
    // Pages 3 to 12: blocks of 4 are 4 to 7 and 8 to 11, the one of 8 that begins at 8 is not all there.
    let part = flagged(0x43, 10, PRESENT | 0x1003, TAIL);

    assert_eq!(blocks(&[2, 3], &[part]), [(2, 8, 0)]);
}

#[test]
fn block_does_not_go_over_the_end_of_a_folio() {
    let runs = [whole(0x40, 0x1000, 4), whole(0x44, 0x1004, 4)].concat();

    assert_eq!(blocks(&[2, 3], &runs), [(2, 8, 0)]);
}

#[test]
fn piece_that_is_shorter_than_a_block_has_none() {
    // It lies between two multiples of 16.
    assert_eq!(blocks(&[4], &[flagged(0x43, 2, PRESENT | 0x1003, TAIL)]), []);
}

#[test]
fn huge_folio_of_a_page_middle_directory_is_one_of_blocks() {
    let by_pmd = whole(0x200, 0x1000, 512).map(by_pmd);

    assert_eq!(blocks(&[4, 9], &by_pmd), [(4, 0, 512), (9, 0, 512)]);
}

#[test]
fn huge_folio_that_is_mapped_by_pages_is_full_of_blocks() {
    assert_eq!(blocks(&[4, 9], &whole(0x200, 0x1000, 512)), [(4, 512, 0), (9, 512, 0)]);
}
