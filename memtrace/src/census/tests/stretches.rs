//! Stretches of frames that follow one another as their pages do; by the logarithm of their length.

use super::*;

fn orders(runs: &[PageRun]) -> Vec<(u32, u64)> {
    pages(&tally(runs).contiguous)
}

#[test]
fn length_counts_by_the_power_of_two_below() {
    assert_eq!(orders(&[run(0x10, 1, PRESENT | 0x1000)]), [(0, 1)]);
    assert_eq!(orders(&[run(0x10, 7, PRESENT | 0x1000)]), [(2, 7)]);
    assert_eq!(orders(&[run(0x10, 8, PRESENT | 0x1000)]), [(3, 8)]);
}

#[test]
fn stretch_goes_on_over_runs_that_are_not_alike() {
    let runs = [
        flagged(0x10, 4, PRESENT | 0x1000, ANON),
        flagged(0x14, 3, PRESENT | 0x1004, ANON | PageFlags::DIRTY),
        run(0x17, 1, PRESENT | SOFT_DIRTY | 0x1007),
    ];

    assert_eq!(orders(&runs), [(3, 8)]);
}

#[test]
fn gap_between_pages_ends_it() {
    let runs = [run(0x10, 4, PRESENT | 0x1000), run(0x15, 4, PRESENT | 0x1004)];

    assert_eq!(orders(&runs), [(2, 8)]);
}

#[test]
fn gap_between_frames_ends_it() {
    let runs = [run(0x10, 4, PRESENT | 0x1000), run(0x14, 4, PRESENT | 0x1005)];

    assert_eq!(orders(&runs), [(2, 8)]);
}

#[test]
fn gaps_of_pages_and_frames_that_are_alike_end_it_too() {
    let runs = [run(0x10, 4, PRESENT | 0x1000), run(0x15, 4, PRESENT | 0x1005)];

    assert_eq!(orders(&runs), [(2, 8)]);
}

#[test]
fn swapped_page_between_ends_it() {
    let runs =
        [run(0x10, 4, PRESENT | 0x1000), run(0x14, 1, SWAPPED | 9 << 5), run(0x15, 2, PRESENT | 0x1005)];

    assert_eq!(orders(&runs), [(1, 2), (2, 4)]);
}

#[test]
fn pages_in_one_frame_are_a_stretch_each() {
    let zero = |page| flagged(page, 1, PRESENT | 0x1000, PageFlags::ZERO_PAGE);

    assert_eq!(orders(&[zero(0x10), zero(0x11), zero(0x12)]), [(0, 3)]);
}

#[test]
fn frames_that_are_hidden_are_in_none() {
    assert_eq!(orders(&[run(0x10, 512, PRESENT)]), []);
}

#[test]
fn nothing_goes_on_after_the_end() {
    let rules = rules();
    let mut tally = tally_by(&rules, &[run(0x10, 4, PRESENT | 0x1000)]);

    tally.add(&run(0x14, 4, PRESENT | 0x1004), &rules);
    tally.finish(&rules);

    assert_eq!(pages(&tally.contiguous), [(2, 8)]);
}
