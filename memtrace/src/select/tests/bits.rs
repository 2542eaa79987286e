//! The usage text of page-types, worked out by hand.

use super::*;
use crate::pagemap::PageFlags;

const LRU: u64 = 1 << 5;
const ANON: u64 = 1 << 12;
const HEAD: u64 = 1 << 15;
const TAIL: u64 = 1 << 16;
/// Bit 60 has no name.
const UNNAMED: u64 = 1 << 60;

fn flags(text: &str) -> u64 {
    parse_flags(text).expect(text).bits()
}

/// Which of `words` pass.
fn passing<const N: usize>(filter: &str, words: [u64; N]) -> Vec<u64> {
    let filter: BitsFilter = filter.parse().expect(filter);
    words.into_iter().filter(|word| filter.matches(PageFlags::from_bits_retain(*word))).collect()
}

#[test]
fn list_passes_pages_with_one_of_its_flags() {
    let words = [0, LRU, ANON, LRU | ANON | HEAD, HEAD];

    assert_eq!(passing("lru,anonymous", words), [LRU, ANON, LRU | ANON | HEAD]);
}

#[test]
fn flags_before_the_sign_are_compared_with_those_after_it() {
    let words = [0, LRU, ANON, LRU | HEAD, LRU | ANON];

    assert_eq!(passing("lru,anon=lru", words), [LRU, LRU | HEAD]);
    assert_eq!(passing("lru,anon=0", words), [0]);
    assert_eq!(passing("lru,anon=lru,anon", words), [LRU | ANON]);
}

#[test]
fn tilde_wants_a_flag_clear_and_the_others_all_set() {
    let words = [0, LRU, ANON, LRU | HEAD, LRU | ANON, LRU | TAIL];

    assert_eq!(passing("lru,~anon", words), [LRU, LRU | HEAD, LRU | TAIL]);
    assert_eq!(passing("~anon", words), [0, LRU, LRU | HEAD, LRU | TAIL]);
    assert_eq!(passing("lru,~compound", words), [LRU, LRU | ANON]);
    assert_eq!(passing("~compound,lru,anon", words), [LRU | ANON]);
}

#[test]
fn sign_alone_wants_the_flags_and_no_other() {
    let words = [0, LRU, ANON, LRU | ANON, LRU | ANON | UNNAMED];

    assert_eq!(passing("=lru,anon", words), [LRU | ANON]);
    assert_eq!(passing("=0", words), [0]);
}

#[test]
fn number_is_a_mask() {
    assert_eq!(flags("0x10"), 1 << 4);
    assert_eq!(flags("0X1000"), ANON);
    assert_eq!(flags("020"), 1 << 4);
    assert_eq!(flags("16"), 1 << 4);
    assert_eq!(flags("0xffffffffffffffff"), u64::MAX);
    assert_eq!(flags("0x10,anon,compound"), 0x10 | ANON | HEAD | TAIL);
    assert_eq!(flags("0"), 0);
}

#[test]
fn beginning_of_a_name_is_the_lowest_flag_that_has_it() {
    let rows = [
        ("anon", 12),
        ("a", 6),
        ("an", 12),
        ("anon_", 47),
        ("s", 7),
        ("sw", 13),
        ("r", 2),
        ("rec", 9),
        ("res", 32),
        ("read", 48),
        ("h", 17),
        ("p", 26),
        ("i", 25),
        ("compound_", 15),
        ("compound_t", 16),
    ];

    for (word, bit) in rows {
        assert_eq!(flags(word), 1 << bit, "{word}");
    }
    for word in ["c", "comp", "compound"] {
        assert_eq!(flags(word), HEAD | TAIL, "{word}");
    }
}

#[test]
fn whole_name_is_that_flag_although_a_lower_one_begins_with_it() {
    // 13 is swapcache.
    assert_eq!(flags("swap"), 1 << 62);
}

#[test]
fn names_of_old_kernels_are_taken() {
    assert_eq!(flags("balloon"), 1 << 23);
    assert_eq!(flags("mappedtodisk"), 1 << 34);
}

#[test]
fn unknown_name_is_shown_with_those_near_it() {
    assert_eq!(
        refusal::<BitsFilter>("lru,~annon"),
        "no flag is called 'annon'; near it: anonymous, anon_exclusive\n  lru,~annon\n       ^"
    );
    assert_eq!(refusal::<BitsFilter>("=lur"), "no flag is called 'lur'; near it: lru\n  =lur\n   ^");
    assert_eq!(
        refusal::<BitsFilter>("lru,bananas"),
        "no flag is called 'bananas'; memtrace snapshot --help lists the names\n  lru,bananas\n      ^"
    );
}

#[test]
fn empty_part_is_refused_where_it_is() {
    for (text, column) in [
        ("", 0),
        (",lru", 0),
        ("lru,", 4),
        ("lru,,anon", 4),
        ("lru=", 4),
        ("=", 1),
        ("~", 1),
        ("lru,~,anon", 5),
    ] {
        let caret = format!("\n  {text}\n  {:>1$}", '^', column + 1);
        let expected = format!("the name of a flag or a number is expected{caret}");
        assert_eq!(refusal::<BitsFilter>(text), expected);
    }
}

#[test]
fn nonsense_is_refused() {
    for text in ["lru=anon", "lru=0x3000", "lru,~lru", "compound,~compound_head", "0", "lru,~0", "0=0"] {
        refusal::<BitsFilter>(text);
    }
    for text in
        ["08", "0x", "0xg", "12x", "-1", "+1", "lru anon", " lru", "lru=anon=lru", "=~lru", "~~lru", "LRU"]
    {
        refusal::<BitsFilter>(text);
    }
}
