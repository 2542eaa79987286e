//! Ranges of pages.

use super::*;

#[test]
fn range_has_the_pages_that_page_types_walks() {
    let rows = [
        ("5", 5..6),
        ("0", 0..1),
        ("5+3", 5..8),
        ("5,8", 5..8),
        ("5,", 5..u64::MAX),
        (",8", 0..8),
        ("0x10,0x20", 16..32),
        ("010+1", 8..9),
        ("1+0xffffffffffffffff", 1..u64::MAX),
    ];

    for (text, range) in rows {
        assert_eq!(text.parse().map(|found: PageRange| found.range()), Ok(range), "{text}");
    }
}

#[test]
fn range_without_a_page_is_refused() {
    assert_eq!(
        refusal::<PageRange>("8,5"),
        "the range has no page: it begins with 8 and ends before 5\n  8,5\n    ^"
    );
    for text in ["5,5", "5+0", ",0", "0xffffffffffffffff", "0xffffffffffffffff,"] {
        refusal::<PageRange>(text);
    }
}

#[test]
fn what_is_no_number_is_shown() {
    assert_eq!(
        refusal::<PageRange>("5,8x"),
        "a page number is expected: write N, N+M, N,M, N, or ,M\n  5,8x\n    ^"
    );
    for text in
        ["", ",", "+", "+3", "5+", "5+3,9", "5,+8", "-5", "5 ", "1,2,3", "08", "0x", "0x10000000000000000"]
    {
        refusal::<PageRange>(text);
    }
}
