//! What units refuse, round and print.

use super::*;

fn addr(raw: u64) -> VirtAddr {
    VirtAddr::from_raw(raw)
}

#[test]
fn page_size_is_a_power_of_two() {
    assert_eq!(PageSize::from_bytes(4096).map(PageSize::bytes), Some(4096));
    assert_eq!(PageSize::from_bytes(4097), None);
    assert_eq!(PageSize::from_bytes(0), None);
}

#[test]
fn range_counts_partial_pages() {
    let page = PageSize::from_bytes(4096).expect("4096 is a power of two");
    let range = VirtRange::new(addr(0x1fff), addr(0x3001)).expect("not empty");

    assert_eq!(range.pages(page).get(), 3);
}

#[test]
fn range_is_widened_to_whole_blocks() {
    let range = |start, end| VirtRange::new(addr(start), addr(end)).expect("not empty");

    assert_eq!(range(0x1fff, 0x3001).widened(12), range(0x1000, 0x4000));
    assert_eq!(range(0x1000, 0x3000).widened(12), range(0x1000, 0x3000));
    assert_eq!(range(u64::MAX - 1, u64::MAX).widened(12), range(u64::MAX - 0xfff, u64::MAX));
}

#[test]
fn a_range_of_a_file_ends_behind_its_start() {
    let read = |start: u64, end: u64| {
        let bytes = postcard::to_stdvec(&(start, end)).expect("numbers can be written");
        postcard::from_bytes::<VirtRange>(&bytes).ok()
    };

    assert_eq!(read(0x1000, 0x3000), VirtRange::new(addr(0x1000), addr(0x3000)));
    assert_eq!(read(0x3000, 0x1000), None);
    assert_eq!(read(0x3000, 0x3000), None);
}

#[test]
fn a_page_size_of_a_file_is_one_of_a_machine() {
    let read = |shift| serde_json::from_str::<PageSize>(&format!("{{\"shift\":{shift}}}")).ok();

    assert_eq!(read(12), PageSize::from_bytes(4096));
    assert_eq!(read(16), PageSize::from_bytes(65536));
    for shift in [0, 11, 21, 63, 64, 255] {
        assert_eq!(read(shift), None, "{shift}");
    }
}

#[test]
fn sums_of_what_a_file_says_stay_at_their_limit() {
    let mut pages = PageCount::new(u64::MAX);
    pages += PageCount::new(2);

    assert_eq!(pages, PageCount::new(u64::MAX));
    assert_eq!([pages, pages].into_iter().sum::<PageCount>(), pages);
}

#[test]
fn empty_range_is_none() {
    assert_eq!(VirtRange::new(addr(0x1000), addr(0x1000)), None);
}
