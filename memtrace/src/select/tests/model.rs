//! Random conditions over all combinations of categories.

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::{
    pagemap::{PageCategories as Is, PageFlags},
    select::condition::Term,
};

const FLAGS: [PageFlags; 2] = [PageFlags::LRU, PageFlags::HUGE];

fn term(leaf: impl Strategy<Value = Term> + 'static) -> impl Strategy<Value = Term> {
    leaf.prop_recursive(4, 12, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|term| Term::Not(Box::new(term))),
            vec(inner.clone(), 2..4).prop_map(Term::All),
            vec(inner, 2..4).prop_map(Term::Any),
        ]
    })
}

fn category(of: Is) -> impl Strategy<Value = Term> {
    select(of.iter().collect::<Vec<_>>()).prop_map(Term::Category)
}

/// The categories that have names.
fn named() -> Is {
    Is::all().iter_names().map(|(_, category)| category).collect()
}

fn condition() -> impl Strategy<Value = Condition> {
    let leaf = prop_oneof![3 => category(named()), 1 => select(&FLAGS).prop_map(Term::Flag)];
    term(leaf).prop_map(Condition)
}

/// Pages of every combination of the categories and flags.
fn pages() -> impl Iterator<Item = PageView> {
    let frames = [PageFlags::empty(), FLAGS[0], FLAGS[1], FLAGS[0] | FLAGS[1]];
    (0..1 << 9).map(Is::from_bits_retain).flat_map(move |categories| {
        frames.map(|flags| PageView { categories, known: Is::all(), flags: Some(flags) })
    })
}

/// All masks of the three categories: each is in a mask as it is or inverted, or in none.
fn all_masks(of: [Is; 3]) -> impl Iterator<Item = ScanMasks> {
    (0..5_u32.pow(3)).map(move |number| {
        let mut masks = ScanMasks::default();
        for (place, category) in (0..).zip(of) {
            match number / 5_u32.pow(place) % 5 {
                0 => {}
                1 => masks.all_of |= category,
                2 => masks.any_of |= category,
                inverted => {
                    masks.inverted |= category;
                    if inverted == 3 { masks.all_of |= category } else { masks.any_of |= category }
                }
            }
        }
        masks
    })
}

proptest! {
    #[test]
    fn masks_and_what_they_leave_are_the_condition(condition in condition(), can in 0..1_u64 << 9) {
        let can = Is::from_bits_retain(can);

        let masks = condition.scan_masks(can);
        let filtered = condition.filtered(can);

        prop_assert!(can.contains(masks.all_of | masks.any_of | masks.inverted));
        let left: Vec<Condition> = filtered.iter().map(|text| text.parse().expect(text)).collect();
        for page in pages() {
            let passes = masks.passes(page.categories);
            let matches = condition.matches(&page);
            let is_left = left.iter().all(|left| left.matches(&page) == Some(true));
            prop_assert!(passes || matches == Some(false), "{:?} loses {:?}", masks, page);
            prop_assert_eq!(Some(passes && is_left), matches, "{:?} {:?} {:?}", masks, filtered, page);
        }
    }

    #[test]
    fn no_other_masks_are_stronger(term in term(category(Is::PRESENT | Is::WRITTEN | Is::FILE))) {
        let of = [Is::PRESENT, Is::WRITTEN, Is::FILE];
        let condition = Condition(term);
        let pages: Vec<_> = pages().filter(|page| page.flags == Some(PageFlags::empty())).collect();
        let wanted: Vec<_> = pages.iter().filter(|page| condition.matches(page) == Some(true)).collect();
        prop_assume!(!wanted.is_empty());
        let passing = |masks: &ScanMasks| pages.iter().filter(|page| masks.passes(page.categories)).count();

        let fewest = all_masks(of)
            .filter(|masks| wanted.iter().all(|page| masks.passes(page.categories)))
            .map(|masks| passing(&masks))
            .min();

        let masks = condition.scan_masks(Is::all());
        prop_assert_eq!(fewest, Some(passing(&masks)), "{} {:?}", condition, masks);
        prop_assert_eq!(condition.filtered(Is::all()).is_empty(), fewest == Some(wanted.len()), "{}", condition);
    }

    #[test]
    fn more_knowledge_never_changes_what_was_known(
        condition in condition(), categories in 0..1_u64 << 9, known in 0..1_u64 << 9,
    ) {
        let categories = Is::from_bits_retain(categories);
        let judged = condition.matches(&PageView { categories, known: Is::from_bits_retain(known), flags: None });

        for flags in [FLAGS[0], FLAGS[1]] {
            let all = condition.matches(&PageView { categories, known: Is::all(), flags: Some(flags) });
            prop_assert!(judged.is_none() || judged == all);
            prop_assert!(all.is_some());
        }
    }

    #[test]
    fn condition_reads_back_what_it_prints(condition in condition()) {
        prop_assert_eq!(condition.to_string().parse(), Ok(condition));
    }

    #[test]
    fn no_text_is_too_much(text in prop_oneof![
        any::<String>(),
        "[a-z0-9é!&|()~=,+:_ -]{0,24}",
        "((file|kpf:lru|huge|[!(]|[)]|[&]|[|]| ){0,12})",
        "((lru|anon|0x1|~|,|=|[+]|0|7){0,8})",
    ]) {
        let _ = text.parse::<BitsFilter>().map_err(|error| error.to_string());
        let _ = text.parse::<PageRange>().map_err(|error| error.to_string());
        if let Ok(condition) = text.parse::<Condition>() {
            prop_assert_eq!(condition.to_string().parse(), Ok(condition));
        }
    }
}
