//! Large folios, by the words of thpmaps.

use super::*;

const THP: PageFlags = PageFlags::THP.union(ANON);
const HEAD: PageFlags = THP.union(PageFlags::COMPOUND_HEAD);
const TAIL: PageFlags = THP.union(PageFlags::COMPOUND_TAIL);

/// All pages of an anonymous folio of `pages`, from page `first` and frame `frame` on.
fn whole(first: u64, frame: u64, pages: u64) -> [PageRun; 2] {
    [flagged(first, 1, PRESENT | frame, HEAD), flagged(first + 1, pages - 1, PRESENT | (frame + 1), TAIL)]
}

/// Page that begins another folio, of one page.
fn small(first: u64, frame: u64) -> PageRun {
    flagged(first, 1, PRESENT | frame, ANON)
}

/// What is settled: content, order, and pages that are aligned, unaligned, partial and by PMD.
fn uses(folios: &Folios) -> Vec<(Content, Option<u32>, [u64; 4])> {
    folios
        .uses
        .iter()
        .map(|((content, order), FolioUse { aligned, unaligned, partial, by_pmd })| {
            (*content, *order, [aligned, unaligned, partial, by_pmd].map(|pages| pages.get()))
        })
        .collect()
}

/// What is not: page, frame, length and whether it has a head.
fn pieces(folios: &Folios) -> Vec<(u64, u64, u64, bool)> {
    let shape =
        |piece: &FolioPiece| (piece.first.as_raw(), piece.frame.as_raw(), piece.pages.get(), piece.has_head);
    folios.unsettled.iter().map(shape).collect()
}

/// The uses after each piece was settled with `extent`.
fn settled(runs: &[PageRun], extent: Option<FolioExtent>) -> Vec<(Content, Option<u32>, [u64; 4])> {
    let mut folios = tally(runs).folios;
    for piece in std::mem::take(&mut folios.unsettled) {
        folios.settle(&piece, extent);
    }
    uses(&folios)
}

const fn extent(pages: u64, is_whole: bool) -> FolioExtent {
    FolioExtent { pages: PageCount::new(pages), is_whole }
}

#[test]
fn two_adjacent_folios_are_two() {
    let runs = [whole(0x40, 0x1000, 16), whole(0x50, 0x1010, 16)].concat();

    let folios = tally(&runs).folios;

    // The head of the second tells that the first is whole; behind the second nothing is known.
    assert_eq!(uses(&folios), [(Content::Anon, Some(4), [16, 0, 0, 0])]);
    assert_eq!(pieces(&folios), [(0x50, 0x1010, 16, true)]);
}

#[test]
fn folios_of_several_sizes_are_apart() {
    let runs = [
        &whole(0x40, 0x1000, 16)[..],
        &whole(0x50, 0x1010, 4),
        &whole(0x54, 0x1014, 4),
        &whole(0x58, 0x1018, 2),
    ]
    .concat();

    let uses = uses(&tally(&runs).folios);

    assert_eq!(uses, [(Content::Anon, Some(2), [8, 0, 0, 0]), (Content::Anon, Some(4), [16, 0, 0, 0])]);
}

#[test]
fn folio_at_no_multiple_of_its_size_is_unaligned() {
    let runs = [whole(0x48, 0x1000, 16), whole(0x58, 0x1010, 16)].concat();

    assert_eq!(uses(&tally(&runs).folios), [(Content::Anon, Some(4), [0, 16, 0, 0])]);
    assert_eq!(settled(&runs, Some(extent(16, true))), [(Content::Anon, Some(4), [0, 32, 0, 0])]);
}

#[test]
fn folio_that_is_last_is_whole_if_no_tail_follows() {
    let runs = whole(0x40, 0x1000, 16);

    assert_eq!(pieces(&tally(&runs).folios), [(0x40, 0x1000, 16, true)]);
    assert_eq!(settled(&runs, Some(extent(16, true))), [(Content::Anon, Some(4), [16, 0, 0, 0])]);
}

#[test]
fn small_page_behind_a_folio_does_not_tell_of_its_end() {
    // The frame is the next, but only large folios show heads.
    let runs = [&whole(0x40, 0x1000, 16)[..], &[small(0x50, 0x1010)]].concat();

    assert_eq!(pieces(&tally(&runs).folios), [(0x40, 0x1000, 16, true)]);
}

#[test]
fn head_of_another_folio_elsewhere_does_not_tell_of_the_end() {
    let other_frame = [whole(0x40, 0x1000, 16), whole(0x50, 0x2000, 16)].concat();
    let other_page = [whole(0x40, 0x1000, 16), whole(0x60, 0x1010, 16)].concat();

    assert_eq!(pieces(&tally(&other_frame).folios), [(0x40, 0x1000, 16, true), (0x50, 0x2000, 16, true)]);
    assert_eq!(pieces(&tally(&other_page).folios), [(0x40, 0x1000, 16, true), (0x60, 0x1010, 16, true)]);
}

#[test]
fn folio_without_its_front_is_partial() {
    // Pages 3 to 15 of 16.
    let runs = [flagged(0x43, 13, PRESENT | 0x1003, TAIL)];

    assert_eq!(pieces(&tally(&runs).folios), [(0x43, 0x1003, 13, false)]);
    assert_eq!(settled(&runs, Some(extent(16, false))), [(Content::Anon, Some(4), [0, 0, 13, 0])]);
}

#[test]
fn folio_without_its_front_is_partial_whatever_follows() {
    let runs = [&[flagged(0x43, 13, PRESENT | 0x1003, TAIL)][..], &whole(0x50, 0x1010, 16)].concat();

    let folios = tally(&runs).folios;

    assert_eq!(uses(&folios), []);
    assert_eq!(pieces(&folios), [(0x43, 0x1003, 13, false), (0x50, 0x1010, 16, true)]);
}

#[test]
fn folio_without_its_back_is_partial() {
    let runs = [flagged(0x40, 1, PRESENT | 0x1000, HEAD), flagged(0x41, 4, PRESENT | 0x1001, TAIL)];

    assert_eq!(pieces(&tally(&runs).folios), [(0x40, 0x1000, 5, true)]);
    assert_eq!(settled(&runs, Some(extent(16, false))), [(Content::Anon, Some(4), [0, 0, 5, 0])]);
}

#[test]
fn hole_in_a_folio_leaves_two_pieces() {
    let runs = [
        flagged(0x40, 1, PRESENT | 0x1000, HEAD),
        flagged(0x41, 3, PRESENT | 0x1001, TAIL),
        run(0x44, 1, SWAPPED | 9 << 5),
        flagged(0x45, 11, PRESENT | 0x1005, TAIL),
    ];

    assert_eq!(pieces(&tally(&runs).folios), [(0x40, 0x1000, 4, true), (0x45, 0x1005, 11, false)]);
    assert_eq!(settled(&runs, Some(extent(16, false))), [(Content::Anon, Some(4), [0, 0, 15, 0])]);
}

#[test]
fn flags_that_differ_within_a_folio_do_not_cut_it() {
    let runs = [
        flagged(0x40, 1, PRESENT | 0x1000, HEAD),
        flagged(0x41, 7, PRESENT | SOFT_DIRTY | 0x1001, TAIL),
        mapped(3, flagged(0x48, 8, PRESENT | 0x1008, TAIL)),
    ];

    assert_eq!(pieces(&tally(&runs).folios), [(0x40, 0x1000, 16, true)]);
}

#[test]
fn piece_of_a_folio_that_cannot_be_found_is_partial_and_of_no_size() {
    let runs = whole(0x40, 0x1000, 16);

    assert_eq!(settled(&runs, None), [(Content::Anon, None, [0, 0, 16, 0])]);
}

#[test]
fn folios_of_files_and_anonymous_ones_are_apart() {
    let file = whole(0x50, 0x2000, 16).map(|run| PageRun {
        frame: Frame { flags: run.frame.flags.map(|flags| flags.difference(PageFlags::ANON)), ..run.frame },
        ..run
    });
    let runs = [whole(0x40, 0x1000, 16), file].concat();

    assert_eq!(
        settled(&runs, Some(extent(16, true))),
        [(Content::Anon, Some(4), [16, 0, 0, 0]), (Content::File, Some(4), [16, 0, 0, 0])]
    );
}

#[test]
fn folio_of_a_page_middle_directory_is_counted_as_such_alone() {
    let runs = whole(0x200, 0x1000, 512).map(by_pmd);

    let folios = tally(&runs).folios;

    assert_eq!(uses(&folios), [(Content::Anon, Some(9), [0, 0, 0, 512])]);
    assert_eq!(pieces(&folios), []);
}

#[test]
fn huge_folio_that_is_mapped_by_pages_is_aligned() {
    let runs = whole(0x200, 0x1000, 512);

    assert_eq!(settled(&runs, Some(extent(512, true))), [(Content::Anon, Some(9), [512, 0, 0, 0])]);
}

#[test]
fn small_pages_and_hugetlb_are_no_large_folios() {
    let hugetlb = PageFlags::HUGE | PageFlags::COMPOUND_HEAD;
    let runs = [small(0x40, 0x1000), flagged(0x200, 1, PRESENT | FILE | 0x2000, hugetlb)];

    let folios = tally(&runs).folios;

    assert_eq!((uses(&folios), pieces(&folios)), (vec![], vec![]));
}

#[test]
fn without_frames_or_flags_nothing_is_known_of_folios() {
    let runs = [run(0x40, 16, PRESENT | 0x1000), flagged(0x60, 16, PRESENT, TAIL)];

    let folios = tally(&runs).folios;

    assert_eq!((uses(&folios), pieces(&folios)), (vec![], vec![]));
}
