//! What the kernel can sort out by itself: the masks of `PAGEMAP_SCAN`.
//!
//! Source: `Documentation/admin-guide/mm/pagemap.rst`; `pagemap_scan_is_interesting_page()` of `fs/proc/task_mmu.c` (Linux 6.7).

use super::condition::{Condition, PageView, Term};
use crate::pagemap::PageCategories;

/// Which pages `PAGEMAP_SCAN` reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanMasks {
    /// Categories that count for the other masks when a page does not have them (`category_inverted`).
    pub inverted: PageCategories,
    /// What must count for a page (`category_mask`).
    pub all_of: PageCategories,
    /// Of which at least one must count, if there is any (`category_anyof_mask`).
    pub any_of: PageCategories,
}

impl ScanMasks {
    /// Whether the kernel reports a page of these categories.
    #[must_use]
    pub fn passes(&self, categories: PageCategories) -> bool {
        let Self { inverted, all_of, any_of } = *self;
        let counted = categories ^ inverted;
        counted.contains(all_of) && (any_of.is_empty() || counted.intersects(any_of))
    }
}

impl Condition {
    /// The strongest masks of the categories in `can` that every page passes for which this condition holds.
    ///
    /// There are so few categories that all combinations are tried.
    #[must_use]
    pub fn scan_masks(&self, can: PageCategories) -> ScanMasks {
        let known = self.categories() & can;
        let wanted: Vec<_> = combinations(known)
            .filter(|categories| self.0.holds(&view(*categories, known)) != Some(false))
            .collect();
        let set = wanted.iter().copied().fold(known, PageCategories::intersection);
        let clear = wanted.iter().copied().fold(known, PageCategories::difference);
        let (any_of, inverted) = clause(known - set - clear, &wanted).unwrap_or_default();
        ScanMasks { inverted: clear | inverted, all_of: set | clear, any_of }
    }

    /// What these masks leave to be asked of the pages that pass them, as conditions in words; empty if the masks are exact.
    #[must_use]
    pub fn filtered(&self, can: PageCategories) -> Vec<String> {
        let masks = self.scan_masks(can);
        let known = self.categories() & can;
        let passing: Vec<_> = combinations(known).filter(|categories| masks.passes(*categories)).collect();
        let mut parts = Vec::new();
        self.0.split(true, &mut parts);
        parts.retain(|part| {
            passing.iter().any(|categories| part.holds(&view(*categories, known)) != Some(true))
        });
        parts.iter().map(Term::to_string).collect()
    }
}

impl Term {
    /// Adds to `parts` what must hold, each for itself, for this term to be `wanted`.
    fn split(&self, wanted: bool, parts: &mut Vec<Self>) {
        match (self, wanted) {
            (Self::All(terms), true) | (Self::Any(terms), false) => {
                for term in terms {
                    term.split(wanted, parts);
                }
            }
            (Self::Not(term), _) => term.split(!wanted, parts),
            (Self::Category(_) | Self::Flag(_) | Self::Any(_), true) => parts.push(self.clone()),
            (Self::Category(_) | Self::Flag(_) | Self::All(_), false) => {
                parts.push(Self::Not(Box::new(self.clone())));
            }
        }
    }
}

/// A page of which nothing but these categories is told.
const fn view(categories: PageCategories, known: PageCategories) -> PageView {
    PageView { categories, known, flags: None }
}

/// Each combination of some of `categories`, none and all included.
fn combinations(categories: PageCategories) -> impl Iterator<Item = PageCategories> {
    // Counting with the bits of the categories alone.
    let all = categories.bits();
    let next = move |bits: &u64| Some(bits.wrapping_sub(all) & all).filter(|next| *next != 0);
    std::iter::successors(Some(0), next).map(PageCategories::from_bits_retain)
}

/// The fewest of the categories in `free`, of which each of the `wanted` has one, or lacks one of the second that is returned.
fn clause(free: PageCategories, wanted: &[PageCategories]) -> Option<(PageCategories, PageCategories)> {
    let mut choices: Vec<_> = combinations(free).collect();
    choices.sort_by_key(|any_of| any_of.bits().count_ones());
    choices.into_iter().find_map(|any_of| {
        let is_clause = |inverted: &PageCategories| wanted.iter().all(|has| *has & any_of != *inverted);
        combinations(any_of).find(is_clause).map(|inverted| (any_of, inverted))
    })
}
