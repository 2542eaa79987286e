//! What selections take, by hand.

use super::super::{ScanMasks, Selection};
use crate::pagemap::{EntryRun, FlagsEra, Frame, PageCategories as Is, PageFlags, PageRun, PagemapEntry};
use crate::units::{PageCount, Vpn};

fn selection(condition: &str) -> Selection {
    Selection { condition: Some(condition.parse().expect("a condition")), ..Selection::default() }
}

/// Ten pages with this word, of a frame with these flags.
fn run(word: u64, flags: Option<PageFlags>, cgroup: Option<u64>) -> PageRun {
    PageRun {
        entries: EntryRun {
            first: Vpn::from_raw(100),
            pages: PageCount::new(10),
            entry: PagemapEntry::from_raw(word),
        },
        categories: Is::from_word(word),
        frame: Frame { flags, mapcount: None, cgroup },
    }
}

const PRESENT: u64 = 1 << 63 | 0x1234;
const SWAPPED: u64 = 1 << 62 | 0x40;

fn takes(selection: &Selection, run: &PageRun) -> bool {
    selection.takes(run, Is::OF_WORDS, FlagsEra::V6_12)
}

#[test]
fn absent_pages_are_never_asked_for() {
    let all = Is::all();
    let there = Is::PRESENT | Is::SWAPPED;
    let rows = [
        ("present", ScanMasks { all_of: Is::PRESENT, ..ScanMasks::default() }),
        ("kpf:lru", ScanMasks { any_of: there, ..ScanMasks::default() }),
        ("file", ScanMasks { all_of: Is::FILE, ..ScanMasks::default() }),
        ("!present", ScanMasks { inverted: Is::PRESENT, all_of: there, any_of: Is::empty() }),
        ("!file", ScanMasks { inverted: Is::FILE, all_of: Is::FILE, any_of: there }),
    ];

    for (condition, masks) in rows {
        assert_eq!(selection(condition).scan_masks(all), masks, "{condition}");
    }
    for condition in ["!present", "!file", "!huge | file", "wpallowed", "!(present & swapped)", "kpf:lru"] {
        let masks = selection(condition).scan_masks(all);
        assert!(!masks.passes(Is::empty()) && !masks.passes(Is::WPALLOWED), "{condition}: {masks:?}");
    }
    assert_eq!(Selection::default().scan_masks(all).any_of, there);
}

#[test]
fn conditions_on_flags_tell_bits_of_two_meanings_apart() {
    let anon = Some(PageFlags::ANON | PageFlags::OWNER_2);
    let file = Some(PageFlags::OWNER_2);
    let exclusive = selection("anon_exclusive");

    assert!(takes(&exclusive, &run(PRESENT, anon, None)));
    assert!(!takes(&exclusive, &run(PRESENT, file, None)));
    assert!(takes(&selection("!anon_exclusive"), &run(SWAPPED, None, None)), "there is no frame");
    assert!(!takes(&selection("!anon_exclusive"), &run(PRESENT, None, None)), "it is not known");
}

#[test]
fn bits_are_those_that_are_shown() {
    let bits = |spec: &str, is_raw| Selection {
        is_raw,
        bits: vec![spec.parse().expect("bits")],
        ..Selection::default()
    };
    let reserved = run(PRESENT, Some(PageFlags::RESERVED | PageFlags::MMAP), None);

    assert!(!takes(&bits("reserved", false), &reserved), "for developers of the kernel alone");
    assert!(takes(&bits("reserved", true), &reserved));
    assert!(takes(&bits("=mmap", false), &reserved));
    assert!(takes(&bits("swap", true), &run(SWAPPED, None, None)));
}

#[test]
fn pages_of_another_cgroup_and_swapped_ones_are_not_charged() {
    let selection = Selection { charged: Some(7), ..Selection::default() };

    assert!(takes(&selection, &run(PRESENT, None, Some(7))));
    assert!(!takes(&selection, &run(PRESENT, None, Some(8))));
    assert!(!takes(&selection, &run(SWAPPED, None, None)));
}

#[test]
fn ranges_that_overlap_count_pages_once() {
    let ranges = ["20+10", "5", "25,40", "90,"].map(|range| range.parse().expect("a range"));
    let selection = Selection { ranges: ranges.into(), ..Selection::default() };

    let parts = |selection: &Selection, pages| -> Vec<(u64, u64)> {
        selection.parts(pages).iter().map(|part| (part.start, part.end)).collect()
    };
    assert_eq!(parts(&selection, 0..100), [(5, 6), (20, 40), (90, 100)]);
    assert_eq!(parts(&selection, 30..35), [(30, 35)]);
    assert_eq!(parts(&selection, 50..60), []);
    assert_eq!(parts(&Selection::default(), 50..60), [(50, 60)]);
}
