//! Which processes share which frames.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;

/// Frames in a process: its number, the first frame, how many, and how often each is mapped.
type Found = (u32, u64, u64, u64);

fn sharing(found: &[Found]) -> Sharing {
    let mut sharing = Sharing::default();
    for (process, first, frames, mapcount) in found {
        sharing.add(*process, &mapped(*mapcount, flagged(0x40, *frames, PRESENT | first, ANON)));
    }
    sharing
}

/// Processes, whether there are others, and frames; most frames first.
fn sets(found: &[Found]) -> Vec<(Vec<u32>, bool, u64)> {
    let set = |(sharers, frames): (Sharers, PageCount)| (sharers.processes, sharers.has_others, frames.get());
    sharing(found).into_sets().expect("there is room").into_iter().map(set).collect()
}

#[test]
fn frames_of_two_of_three_processes() {
    let found = [(0, 0x1000, 8, 2), (1, 0x2000, 3, 2), (2, 0x1000, 8, 2), (1, 0x3000, 5, 1)];

    assert_eq!(sets(&found), [(vec![0, 2], false, 8), (vec![1], true, 3)]);
}

#[test]
fn spans_within_others_are_cut_out() {
    // 0x1000 to 0x100f by process 0, of which 0x1004 to 0x1007 by 1 too and 0x1005 by 2 too.
    let found = [(0, 0x1000, 16, 3), (1, 0x1004, 4, 3), (2, 0x1005, 1, 3)];

    assert_eq!(sets(&found), [(vec![0], true, 12), (vec![0, 1], true, 3), (vec![0, 1, 2], false, 1)]);
}

#[test]
fn spans_that_overlap_share_what_both_have() {
    let found = [(0, 0x1000, 10, 2), (1, 0x1006, 10, 2)];

    assert_eq!(sets(&found), [(vec![0], true, 6), (vec![1], true, 6), (vec![0, 1], false, 4)]);
}

#[test]
fn spans_that_touch_share_nothing() {
    let found = [(0, 0x1000, 4, 2), (1, 0x1004, 4, 2)];

    assert_eq!(sets(&found), [(vec![0], true, 4), (vec![1], true, 4)]);
}

#[test]
fn process_that_maps_a_frame_twice_shares_it_with_itself() {
    let found = [(0, 0x1000, 4, 2), (0, 0x1000, 4, 2)];

    assert_eq!(sets(&found), [(vec![0], false, 4)]);
}

#[test]
fn mappings_of_others_are_those_that_nobody_had() {
    let found =
        [(0, 0x1000, 4, 3), (0, 0x1000, 4, 3), (1, 0x1000, 4, 3), (0, 0x2000, 2, 3), (1, 0x2000, 2, 3)];

    assert_eq!(sets(&found), [(vec![0, 1], false, 4), (vec![0, 1], true, 2)]);
}

#[test]
fn span_goes_on_over_runs_that_are_not_alike_otherwise() {
    let mut sharing = sharing(&[(0, 0x1000, 4, 2), (1, 0x1000, 8, 2)]);
    sharing.add(0, &mapped(2, flagged(0x44, 4, PRESENT | SOFT_DIRTY | 0x1004, ANON | PageFlags::DIRTY)));

    let sets = sharing.into_sets().expect("there is room");

    assert_eq!(sets, [(Sharers { processes: vec![0, 1], has_others: false }, PageCount::new(8))]);
}

#[test]
fn frames_that_cannot_be_told_or_are_mapped_once_are_shared_with_nobody() {
    let mut sharing = sharing(&[(0, 0x1000, 4, 1), (1, 0x1000, 4, 0)]);
    sharing.add(0, &flagged(0x40, 4, PRESENT | 0x2000, ANON));
    sharing.add(1, &mapped(2, flagged(0x40, 4, PRESENT, ANON)));
    sharing.add(1, &mapped(2, run(0x40, 4, SWAPPED | 9 << 5)));

    assert_eq!(sharing.into_sets(), Some(Vec::new()));
}

proptest! {
    #[test]
    fn each_frame_is_in_the_set_of_those_that_have_it(
        found in vec((0..4_u32, 1..40_u64, 1..12_u64, 0..5_u64), 0..12)
    ) {
        let mut naive = BTreeMap::<(Vec<u32>, bool), u64>::new();
        for frame in 1..60 {
            let has = |(_, first, frames, mapcount): &&Found| {
                *mapcount > 1 && (*first..first + frames).contains(&frame)
            };
            let here: Vec<_> = found.iter().filter(has).collect();
            let mut processes: Vec<u32> = here.iter().map(|(process, ..)| *process).collect();
            processes.sort_unstable();
            processes.dedup();
            let mappings = here.iter().map(|(.., mapcount)| *mapcount).max();
            if let Some(mappings) = mappings {
                *naive.entry((processes, mappings > here.len() as u64)).or_default() += 1;
            }
        }

        let sets = sets(&found);

        prop_assert!(sets.is_sorted_by(|one, next| one.2 >= next.2), "{:?}", sets);
        let total = sets.len();
        let sets: BTreeMap<_, _> =
            sets.into_iter().map(|(processes, others, frames)| ((processes, others), frames)).collect();
        prop_assert_eq!(sets.len(), total);
        prop_assert_eq!(sets, naive);
    }
}
