//! What counts as resident: that for which `vm_normal_page` has a page, and `smaps_account` is called.

use super::*;

/// Pages by what they were counted as.
#[derive(Debug, Default, PartialEq, Eq)]
struct As {
    resident: u64,
    anon: u64,
    file: u64,
    zero: u64,
    hugetlb: u64,
}

const NOTHING: As = As { resident: 0, anon: 0, file: 0, zero: 0, hugetlb: 0 };

fn counted_as(run: PageRun) -> As {
    let tally = tally(&[run]);
    assert_eq!(tally.present, run.entries.pages, "whatever they are");
    let [resident, anon, file, zero, hugetlb] =
        [tally.resident, tally.anon, tally.file(), tally.zero, tally.hugetlb].map(PageCount::get);
    As { resident, anon, file, zero, hugetlb }
}

#[test]
fn anonymous_pages_are_resident() {
    let page = flagged(0x10, 7, PRESENT | 0x1000, ANON);

    assert_eq!(counted_as(page), As { resident: 7, anon: 7, ..NOTHING });
}

#[test]
fn pages_of_files_and_of_shared_memory_are_resident() {
    let cached = flagged(0x10, 7, PRESENT | FILE | 0x1000, CACHED);
    let shared = flagged(0x10, 7, PRESENT | FILE | 0x1000, CACHED | PageFlags::SWAPBACKED);

    assert_eq!(counted_as(cached), As { resident: 7, file: 7, ..NOTHING });
    assert_eq!(counted_as(shared), As { resident: 7, file: 7, ..NOTHING });
}

#[test]
fn page_of_zeros_is_not_resident() {
    let zero = flagged(0x10, 1, PRESENT | 0x1000, PageFlags::ZERO_PAGE | PageFlags::RESERVED);

    assert_eq!(counted_as(zero), As { zero: 1, ..NOTHING });
}

#[test]
fn huge_page_of_zeros_is_neither_resident_nor_a_folio_of_a_file() {
    // Pagemap has it as a page of a file.
    let flags = PageFlags::ZERO_PAGE | PageFlags::THP;
    let head = by_pmd(flagged(0x200, 1, PRESENT | FILE | 0x1000, flags | PageFlags::COMPOUND_HEAD));
    let tails = by_pmd(flagged(0x201, 511, PRESENT | FILE | 0x1001, flags | PageFlags::COMPOUND_TAIL));
    let mut rules = rules();
    rules.block_orders = vec![4];

    let tally = tally_by(&rules, &[head, tails]);

    assert_eq!(tally.zero, PageCount::new(512));
    assert_eq!((tally.resident, tally.huge), (PageCount::new(0), PageCount::new(0)));
    assert_eq!(tally.folios.uses, BTreeMap::new());
    assert_eq!(tally.folios.blocks, BTreeMap::new());
    assert_eq!(tally.folios.unsettled, []);
}

#[test]
fn huge_page_of_zeros_is_no_folio_if_only_its_category_tells() {
    let flags = PageFlags::THP | PageFlags::COMPOUND_TAIL;
    let run = by_pmd(flagged(0x201, 511, PRESENT | FILE | 0x1001, flags));

    let tally = tally(&[PageRun { categories: run.categories | PageCategories::PFNZERO, ..run }]);

    assert_eq!(tally.zero, PageCount::new(511));
    assert_eq!(tally.folios.uses, BTreeMap::new());
}

#[test]
fn hugetlb_is_apart() {
    let shared = flagged(0x200, 512, PRESENT | FILE | 0x1000, PageFlags::HUGE | PageFlags::MMAP);
    let private = flagged(0x200, 512, PRESENT | 0x1000, PageFlags::HUGE | ANON);

    assert_eq!(counted_as(by_pmd(shared)), As { hugetlb: 512, ..NOTHING });
    assert_eq!(counted_as(by_pmd(private)), As { hugetlb: 512, ..NOTHING });
}

#[test]
fn file_of_hugetlb_says_what_flags_would() {
    let mut tally = Tally::of(Some(FileKind::Hugetlb));
    tally.add(&run(0x200, 512, PRESENT | FILE | EXCLUSIVE), &rules());
    tally.finish(&rules());

    assert_eq!((tally.hugetlb.get(), tally.resident.get(), tally.unique.get()), (512, 0, 0));
}

#[test]
fn memory_of_devices_and_pages_that_the_kernel_lends_are_not_resident() {
    let no_frame = flagged(0x10, 4, PRESENT | 0xf_e000, PageFlags::NOPAGE);
    let reserved = flagged(0x10, 4, PRESENT | 0x1000, PageFlags::RESERVED);

    assert_eq!(counted_as(no_frame), NOTHING);
    assert_eq!(counted_as(reserved), NOTHING);
}

#[test]
fn bits_of_a_frame_that_the_kernel_uses_itself_do_not_make_it_anonymous() {
    for kind in [PageFlags::SLAB, PageFlags::PGTABLE, PageFlags::OFFLINE, PageFlags::BUDDY] {
        let frame = flagged(0x10, 2, PRESENT | 0x1000, kind | ANON | PageFlags::KSM);

        assert_eq!(counted_as(frame), NOTHING, "{kind:?}");
    }
}

#[test]
fn without_flags_categories_tell() {
    let anon = run(0x10, 3, PRESENT);
    let file = run(0x10, 3, PRESENT | FILE);
    let zero =
        PageRun { categories: PageCategories::PRESENT | PageCategories::PFNZERO, ..run(0x10, 3, PRESENT) };
    let huge_zero =
        PageRun { categories: zero.categories | PageCategories::FILE | PageCategories::HUGE, ..file };

    assert_eq!(counted_as(anon), As { resident: 3, anon: 3, ..NOTHING });
    assert_eq!(counted_as(file), As { resident: 3, file: 3, ..NOTHING });
    assert_eq!(counted_as(zero), As { zero: 3, ..NOTHING });
    assert_eq!(counted_as(huge_zero), As { zero: 3, ..NOTHING });
}

#[test]
fn resident_pages_of_page_middle_directories_are_huge() {
    let runs = [
        by_pmd(flagged(0x200, 512, PRESENT | 0x1000, ANON)),
        by_pmd(run(0x400, 512, PRESENT | FILE)),
        flagged(0x600, 5, PRESENT | 0x3000, ANON),
        by_pmd(flagged(0x800, 512, PRESENT | 0x4000, PageFlags::HUGE)),
    ];

    let tally = tally(&runs);

    assert_eq!(tally.huge, PageCount::new(1024));
    assert_eq!(tally.resident, PageCount::new(1029));
}

#[test]
fn absent_pages_are_nothing() {
    // Soft-dirty alone: an absent page of a VMA that is new.
    let tally = tally(&[run(0x10, 9, SOFT_DIRTY)]);

    assert_eq!(tally.present, PageCount::new(0));
    assert!(tally.flags.is_empty());
    assert!(tally.others.is_empty());
}
