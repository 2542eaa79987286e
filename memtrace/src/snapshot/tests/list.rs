//! Lists of pages, byte for byte as `show_page_range` and `show_page` of page-types print them.

use super::*;

/// `page-types -p PID -l`.
const RANGES: Listing = Listing {
    is_each: false,
    offset: Some("voffset"),
    has_cgroup: false,
    has_mapcount: false,
    is_raw: false,
};
/// `page-types -p PID -L`.
const EACH: Listing = Listing { is_each: true, ..RANGES };

/// What is listed, without `_` in the letters: `Ma` is anonymous memory, `UlM` of a file, `-` stands for none.
fn listed(listing: Listing, runs: &[(EntryRun, Frame)]) -> String {
    let mut text = Vec::new();
    let mut list = List::new(&mut text, listing, FlagsEra::V6_12).expect("memory can be written");
    for (entries, frame) in runs {
        list.add(entries.first.as_raw(), entries, frame).expect("memory can be written");
    }
    list.finish().expect("memory can be written");
    short(text)
}

/// The same of `text`.
fn short(text: Vec<u8>) -> String {
    let text = String::from_utf8(text).expect("letters and numbers");
    let (header, rows) = text.split_once('\n').expect("a header");
    let mut short = format!("{header}\n");
    for row in rows.lines() {
        let (columns, letters) = row.rsplit_once('\t').expect("letters");
        assert_eq!(letters.len(), 43, "one for each name of page-types");
        let letters = letters.replace('_', "");
        let letters = if letters.is_empty() { "-" } else { &letters };
        short += &[columns, "\t", letters, "\n"].concat();
    }
    short
}

fn anon(first: u64, pages: u64, pfn: u64) -> (EntryRun, Frame) {
    (entries(first, pages, PRESENT | pfn), frame(ANON, 1))
}

#[test]
fn ranges_have_offset_and_length_in_hexadecimal() {
    let runs =
        [anon(0x7f_f000, 0x20, 0x1_2340), (entries(0x80_0000, 1, PRESENT | FILE | 0xabc), frame(CACHED, 3))];

    assert_eq!(
        listed(RANGES, &runs),
        "voffset\toffset\tlen\tflags\n\
         7ff000\t12340\t20\tMa\n\
         800000\tabc\t1\tUlM\n"
    );
}

#[test]
fn all_letters_are_there() {
    let mut text = Vec::new();
    let mut list = List::new(&mut text, RANGES, FlagsEra::V6_12).expect("memory can be written");
    let (entries, frame) = anon(0x10, 1, 0x1000);
    list.add(0x10, &entries, &frame).expect("memory can be written");
    list.finish().expect("memory can be written");

    let text = String::from_utf8(text).expect("letters and numbers");
    assert_eq!(
        text,
        "voffset\toffset\tlen\tflags\n10\t1000\t1\t___________Ma______________________________\n"
    );
}

#[test]
fn each_page_has_a_line_without_length() {
    assert_eq!(
        listed(EACH, &[anon(0x10, 3, 0x1000)]),
        "voffset\toffset\tflags\n\
         10\t1000\tMa\n\
         11\t1001\tMa\n\
         12\t1002\tMa\n"
    );
}

#[test]
fn neighbours_that_look_alike_are_one_range() {
    // Soft-dirty shows in raw flags alone.
    let runs = [anon(0x10, 4, 0x1000), (entries(0x14, 2, PRESENT | SOFT_DIRTY | 0x1004), frame(ANON, 1))];

    assert_eq!(listed(RANGES, &runs), "voffset\toffset\tlen\tflags\n10\t1000\t6\tMa\n");
    assert_eq!(
        listed(Listing { is_raw: true, ..RANGES }, &runs),
        "voffset\toffset\tlen\tflags\n\
         10\t1000\t4\tMa\n\
         14\t1004\t2\tMaf\n"
    );
}

#[test]
fn gap_in_either_offset_begins_a_range() {
    let runs = [anon(0x10, 2, 0x1000), anon(0x13, 2, 0x1002), anon(0x15, 2, 0x1005)];

    assert_eq!(
        listed(RANGES, &runs),
        "voffset\toffset\tlen\tflags\n\
         10\t1000\t2\tMa\n\
         13\t1002\t2\tMa\n\
         15\t1005\t2\tMa\n"
    );
}

#[test]
fn cgroup_and_mapcount_have_columns_if_asked_for() {
    let runs = [anon(0x10, 2, 0x1000), (entries(0x12, 1, PRESENT | 0x1002), frame(ANON, 2))];
    let both = Listing { has_cgroup: true, has_mapcount: true, ..RANGES };

    assert_eq!(
        listed(both, &runs),
        "voffset\tcgroup\tmap-cnt\toffset\tlen\tflags\n\
         10\t@700\t1\t1000\t2\tMa\n\
         12\t@700\t2\t1002\t1\tMa\n"
    );
    assert_eq!(
        listed(Listing { has_cgroup: true, is_each: true, ..RANGES }, &runs[1..]),
        "voffset\tcgroup\toffset\tflags\n12\t@700\t1002\tMa\n"
    );
    // What has no column makes no difference.
    assert_eq!(listed(RANGES, &runs), "voffset\toffset\tlen\tflags\n10\t1000\t3\tMa\n");
}

#[test]
fn swap_entries_have_their_slot_for_an_offset_and_no_cgroup() {
    let runs = [(entries(0x10, 3, SWAPPED | 0x50 << 5 | 1), Frame::default())];
    let both = Listing { has_cgroup: true, has_mapcount: true, ..RANGES };

    assert_eq!(listed(RANGES, &runs), "voffset\toffset\tlen\tflags\n10\t50\t3\t-\n");
    assert_eq!(listed(both, &runs), "voffset\tcgroup\tmap-cnt\toffset\tlen\tflags\n10\t@0\t0\t50\t3\t-\n");
    assert_eq!(
        listed(Listing { is_raw: true, ..RANGES }, &runs),
        "voffset\toffset\tlen\tflags\n10\t50\t3\tw\n"
    );
}

#[test]
fn markers_do_not_count_up_and_have_a_line_each() {
    // Type 31: two pages with one and the same word.
    let runs = [(entries(0x10, 2, SWAPPED | 1 << 5 | 31), Frame::default())];

    assert_eq!(listed(RANGES, &runs), "voffset\toffset\tlen\tflags\n10\t1\t1\t-\n11\t1\t1\t-\n");
}

#[test]
fn pages_without_a_frame_are_left_out() {
    let runs =
        [(entries(0x10, 2, PRESENT), Frame::default()), (entries(0x12, 2, SOFT_DIRTY), Frame::default())];

    assert_eq!(listed(RANGES, &runs), "voffset\toffset\tlen\tflags\n");
}

#[test]
fn frames_have_no_offset_but_their_own() {
    let mut text = Vec::new();
    let all = Listing { offset: None, ..RANGES };
    let mut list = List::new(&mut text, all, FlagsEra::V6_12).expect("memory can be written");
    for (first, frames) in [(0, 0x10), (0x10, 0x10), (0x40, 1)] {
        list.add_frames(first, PageCount::new(frames), &frame(ANON, 1)).expect("memory can be written");
    }
    list.finish().expect("memory can be written");

    assert_eq!(short(text), "offset\tlen\tflags\n0\t20\tMa\n40\t1\tMa\n");
}

#[test]
fn pages_of_files_have_their_number_in_the_file() {
    let listing = Listing { offset: Some("foffset"), ..RANGES };

    assert_eq!(listed(listing, &[anon(0, 2, 0x1000)]), "foffset\toffset\tlen\tflags\n0\t1000\t2\tMa\n");
}
