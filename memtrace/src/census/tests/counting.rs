//! Numbers of pages by key, and what is told of frames.

use super::*;

fn counts(added: &[(char, u64)]) -> Counts<char> {
    let mut counts = Counts::default();
    for (key, pages) in added {
        counts.add(*key, PageCount::new(*pages));
    }
    counts
}

#[test]
fn keys_come_in_order_and_once_each() {
    let counts = counts(&[('b', 1), ('b', 2), ('a', 10), ('c', 5), ('b', 4), ('a', 1)]);

    assert_eq!(pages(&counts), [('a', 11), ('b', 7), ('c', 5)]);
}

#[test]
fn only_counts_to_which_nothing_was_added_are_empty() {
    assert!(Counts::<u8>::default().is_empty());
    assert_eq!(pages(&Counts::<u8>::default()), []);
    assert!(!counts(&[('a', 1)]).is_empty());
}

#[test]
fn merged_counts_have_the_pages_of_both() {
    let mut ours = counts(&[('a', 1), ('b', 2)]);

    ours.merge(&counts(&[('b', 10), ('c', 20), ('b', 100)]));
    ours.merge(&Counts::default());

    assert_eq!(pages(&ours), [('a', 1), ('b', 112), ('c', 20)]);
}

#[test]
fn present_pages_are_counted_by_word_mapcount_and_cgroup() {
    let frame = |flags, mapcount, cgroup| Frame {
        flags: Some(flags),
        mapcount: Some(mapcount),
        cgroup: Some(cgroup),
    };
    let runs = [
        PageRun { frame: frame(ANON, 1, 700), ..run(0x10, 3, PRESENT | EXCLUSIVE | 0x1000) },
        PageRun { frame: frame(CACHED, 5, 0), ..run(0x20, 2, PRESENT | FILE | 0x2000) },
        PageRun { frame: frame(ANON, 5, 700), ..run(0x30, 4, PRESENT | 0x3000) },
    ];

    let tally = tally(&runs);

    assert_eq!(tally.present, PageCount::new(9));
    assert_eq!(
        pages(&tally.flags),
        [
            ((CACHED, EntryFlags::FILE), 2),
            ((ANON, EntryFlags::empty()), 4),
            ((ANON, EntryFlags::EXCLUSIVE), 3),
        ]
    );
    assert_eq!(pages(&tally.mapcounts), [(1, 3), (5, 6)]);
    assert_eq!(pages(&tally.cgroups), [(0, 2), (700, 7)]);
    assert_eq!(tally.with_flag(PageFlags::LRU), PageCount::new(9));
    assert_eq!(tally.with_flag(PageFlags::ANON), PageCount::new(7));
    assert_eq!(tally.with_flag(PageFlags::DIRTY), PageCount::new(0));
}

#[test]
fn what_is_not_told_is_not_counted() {
    let tally = tally(&[run(0x10, 3, PRESENT | 0x1000)]);

    assert_eq!(tally.present, PageCount::new(3));
    assert!(tally.flags.is_empty());
    assert!(tally.mapcounts.is_empty());
    assert!(tally.cgroups.is_empty());
    assert_eq!(tally.proportional.bytes(), 0);
}

#[test]
fn frames_without_pages_have_words_and_are_nobodys_memory() {
    let mut tally = Tally::default();
    let frame = Frame { flags: Some(PageFlags::BUDDY), mapcount: Some(0), cgroup: None };

    tally.add_frames(PageCount::new(512), &frame);
    tally.finish(&rules());

    assert_eq!(tally.present, PageCount::new(512));
    assert_eq!(tally.resident, PageCount::new(0));
    assert_eq!(pages(&tally.flags), [((PageFlags::BUDDY, EntryFlags::empty()), 512)]);
    assert_eq!(pages(&tally.mapcounts), [(0, 512)]);
    assert!(tally.contiguous.is_empty());
}

#[test]
fn words_of_a_layout_that_is_not_known_count_for_nothing() {
    let mut rules = rules();
    rules.era.pagemap = None;

    let tally = tally_by(&rules, &[flagged(0x10, 3, PRESENT | 0x1000, ANON), run(0x20, 1, SWAPPED | 1 << 5)]);

    assert_eq!((tally.present, tally.all_swapped()), (PageCount::new(0), PageCount::new(0)));
}
