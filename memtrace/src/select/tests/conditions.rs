//! Conditions, their truth and their masks, by hand.

use super::*;
use crate::pagemap::{FlagsEra, PageCategories as Is, PageFlags};

fn condition(text: &str) -> Condition {
    text.parse().expect(text)
}

/// What is known of a page all of whose categories are told, and none of its flags.
fn page(categories: Is) -> PageView {
    PageView { categories, known: Is::all(), flags: None }
}

#[test]
fn not_is_stronger_than_and_and_stronger_than_or() {
    let rows = [
        ("!file & huge", "!file & huge"),
        ("file | huge & zero", "file | (huge & zero)"),
        ("(file || huge) && zero", "(file | huge) & zero"),
        ("!(file|huge)", "!(file | huge)"),
        (" written&!swapped&(present|huge) ", "written & !swapped & (present | huge)"),
        ("! ! file", "!!file"),
        ("((file))", "file"),
    ];

    for (text, shown) in rows {
        assert_eq!(condition(text).to_string(), shown);
    }
}

#[test]
fn word_is_a_category_before_it_is_a_flag() {
    let rows = [
        ("pfnzero | zero", "zero | zero"),
        ("soft_dirty | soft-dirty", "soft-dirty | soft-dirty"),
        ("softdirty", "kpf:softdirty"),
        ("huge & kpf:huge", "huge & kpf:huge"),
        ("file & kpf:file", "file & kpf:file"),
        ("anonymous", "kpf:anonymous"),
        ("zero_page", "kpf:zero_page"),
    ];

    for (text, shown) in rows {
        assert_eq!(condition(text).to_string(), shown);
    }
}

#[test]
fn every_flag_and_category_has_a_word() {
    for (name, category) in Is::all().iter_names() {
        let condition = condition(&name.to_lowercase());
        assert_eq!((condition.categories(), condition.needs_flags()), (category, false), "{name}");
    }
    for name in PageFlags::all().names(FlagsEra::V6_12) {
        let condition = condition(&format!("kpf:{name}"));
        assert_eq!((condition.categories(), condition.needs_flags()), (Is::empty(), true), "{name}");
    }
}

#[test]
fn error_shows_the_place_and_what_is_expected_there() {
    let rows = [
        ("", "a word, '!' or '(' is expected", 0),
        ("file &", "a word, '!' or '(' is expected", 6),
        ("file & | huge", "a word, '!' or '(' is expected", 7),
        ("file &&& huge", "a word, '!' or '(' is expected", 7),
        ("!", "a word, '!' or '(' is expected", 1),
        ("()", "a word, '!' or '(' is expected", 1),
        ("file huge", "'&', '|' or the end is expected", 5),
        ("file)", "'&', '|' or the end is expected", 4),
        ("(file | huge", "'&', '|' or ')' is expected", 12),
        ("file & pressent", "no category and no flag is called 'pressent'; near it: present", 7),
        ("file & fle", "no category and no flag is called 'fle'; near it: file", 7),
        ("kpf:presen", "no flag is called 'presen'; memtrace snapshot --help lists the names", 0),
        ("é | x", "no category and no flag is called 'é'; memtrace snapshot --help lists the names", 0),
    ];

    for (text, problem, column) in rows {
        assert_eq!(refusal::<Condition>(text), format!("{problem}\n  {text}\n  {:>1$}", '^', column + 1));
    }
}

#[test]
fn deep_nesting_is_refused_and_long_lists_are_not() {
    for (open, close) in [("(", ")"), ("!", ""), ("!(", ")")] {
        let text = format!("{}file{}", open.repeat(100_000), close.repeat(100_000));
        assert!(refusal::<Condition>(&text).starts_with("more than 100 '!' and '(' are open\n"));
    }
    let text = format!("{}file{}", "(".repeat(100), ")".repeat(100));
    assert_eq!(condition(&text), condition("file"));
    assert!(condition(&vec!["file"; 10_000].join("|")).categories().contains(Is::FILE));
}

#[test]
fn what_is_not_known_is_unknown_unless_the_rest_decides() {
    let rows = [
        ("present", Some(true)),
        ("swapped", Some(false)),
        ("!swapped", Some(true)),
        ("guard", None),
        ("!guard", None),
        ("guard | present", Some(true)),
        ("guard | swapped", None),
        ("guard & swapped", Some(false)),
        ("guard & present", None),
        ("kpf:lru", None),
        ("kpf:lru | present", Some(true)),
    ];
    let view = PageView { categories: Is::PRESENT, known: Is::OF_WORDS, flags: None };

    for (text, holds) in rows {
        assert_eq!(condition(text).matches(&view), holds, "{text}");
    }
}

#[test]
fn flags_decide_where_they_are_known() {
    let view = PageView { flags: Some(PageFlags::LRU), ..page(Is::PRESENT) };

    assert_eq!(condition("kpf:lru & present").matches(&view), Some(true));
    assert_eq!(condition("lru & !anonymous").matches(&view), Some(true));
    assert_eq!(condition("kpf:huge").matches(&view), Some(false));
}

#[test]
fn masks_say_what_a_conjunction_with_one_clause_says() {
    let none = Is::empty();
    let rows = [
        ("present", none, Is::PRESENT, none),
        ("!zero & present", Is::PFNZERO, Is::PFNZERO | Is::PRESENT, none),
        ("present | swapped", none, none, Is::PRESENT | Is::SWAPPED),
        (
            "written & !swapped & (present | huge)",
            Is::SWAPPED,
            Is::WRITTEN | Is::SWAPPED,
            Is::PRESENT | Is::HUGE,
        ),
        ("!(present & written)", Is::PRESENT | Is::WRITTEN, none, Is::PRESENT | Is::WRITTEN),
        ("!(present | written)", Is::PRESENT | Is::WRITTEN, Is::PRESENT | Is::WRITTEN, none),
        // One polarity each: what the conjunction settles leaves the clause.
        ("present & (!present | huge)", none, Is::PRESENT | Is::HUGE, none),
        ("present & (present | huge)", none, Is::PRESENT, none),
        ("(file & present) | (file & huge)", none, Is::FILE, Is::PRESENT | Is::HUGE),
        ("(file | huge) & (file | !huge)", none, Is::FILE, none),
        ("file | !file", none, none, none),
    ];

    for (text, inverted, all_of, any_of) in rows {
        let condition = condition(text);
        assert_eq!(condition.scan_masks(Is::all()), ScanMasks { inverted, all_of, any_of }, "{text}");
        assert_eq!(condition.filtered(Is::all()), [""; 0], "{text}");
    }
}

#[test]
fn what_masks_do_not_say_is_left_in_words() {
    let all = Is::all();
    let rows: [(&str, Is, ScanMasks, &[&str]); 5] = [
        ("present & kpf:lru", all, ScanMasks { all_of: Is::PRESENT, ..Default::default() }, &["kpf:lru"]),
        (
            "present & guard",
            all - Is::GUARD,
            ScanMasks { all_of: Is::PRESENT, ..Default::default() },
            &["guard"],
        ),
        (
            "!(swapped | kpf:lru)",
            all,
            ScanMasks { inverted: Is::SWAPPED, all_of: Is::SWAPPED, ..Default::default() },
            &["!kpf:lru"],
        ),
        (
            "present | (swapped & kpf:swap)",
            all,
            ScanMasks { any_of: Is::PRESENT | Is::SWAPPED, ..Default::default() },
            &["present | (swapped & kpf:swap)"],
        ),
        (
            "(written | file) & (present | swapped)",
            all,
            ScanMasks { any_of: Is::WRITTEN | Is::FILE, ..Default::default() },
            &["present | swapped"],
        ),
    ];

    for (text, can, masks, filtered) in rows {
        assert_eq!(condition(text).scan_masks(can), masks, "{text}");
        assert_eq!(condition(text).filtered(can), filtered, "{text}");
    }
}

#[test]
fn condition_that_nothing_matches_is_never_taken_for_exact() {
    let condition = condition("present & !present");

    assert_ne!(condition.filtered(Is::all()), [""; 0]);
}

#[test]
fn condition_of_flags_alone_leaves_the_masks_empty() {
    let condition = condition("kpf:lru | present");

    assert_eq!(condition.scan_masks(Is::all()), ScanMasks::default());
    assert_eq!(condition.filtered(Is::all()), ["kpf:lru | present"]);
}

#[test]
fn inverted_category_counts_when_it_is_missing() {
    let masks = ScanMasks { inverted: Is::PFNZERO, all_of: Is::PFNZERO | Is::PRESENT, any_of: Is::empty() };

    assert!(masks.passes(Is::PRESENT));
    assert!(!masks.passes(Is::PRESENT | Is::PFNZERO));
    assert!(!masks.passes(Is::empty()));
}
