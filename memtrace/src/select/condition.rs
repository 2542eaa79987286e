//! Conditions on categories and flags of a page.

use std::fmt;

use super::words;
use crate::pagemap::{PageCategories, PageFlags};

/// What must hold for a page, such as `written & !swapped & (present | huge)`.
///
/// Written with `!`, `&` or `&&`, `|` or `||`, the strongest first, and parentheses. Words are the categories of
/// `PAGEMAP_SCAN`: `wpallowed`, `written`, `file`, `present`, `swapped`, `zero`, `huge`, `soft-dirty`, `guard`; and names of
/// page flags with `kpf:` before them, which may be left out where no category has that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition(pub(super) Term);

/// What is known of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageView {
    /// Categories that it has.
    pub categories: PageCategories,
    /// Of which categories it is known whether it has them.
    pub known: PageCategories,
    /// Flags of its frame; `None` if they are not known.
    pub flags: Option<PageFlags>,
}

/// A condition or a part of one; lists have two terms at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Term {
    /// The page has this one category.
    Category(PageCategories),
    /// The frame has this one flag.
    Flag(PageFlags),
    Not(Box<Term>),
    All(Vec<Term>),
    Any(Vec<Term>),
}

impl Condition {
    /// Whether it holds for `page`; `None` if what is known does not tell.
    #[must_use]
    pub fn matches(&self, page: &PageView) -> Option<bool> {
        self.0.holds(page)
    }

    /// The same, and that the page is there: absent ones are most of an address space.
    #[must_use]
    pub(super) fn of_pages_there(&self) -> Self {
        let there = [PageCategories::PRESENT, PageCategories::SWAPPED].map(Term::Category);
        Self(Term::All(vec![Term::Any(there.into()), self.0.clone()]))
    }

    /// The categories that must be told to judge pages by it.
    #[must_use]
    pub fn categories(&self) -> PageCategories {
        self.0.words().0
    }

    /// Whether flags must be known to judge pages by it.
    #[must_use]
    pub fn needs_flags(&self) -> bool {
        !self.0.words().1.is_empty()
    }
}

impl Term {
    /// Whether it holds for `page`; `None` if what is known does not tell.
    pub(super) fn holds(&self, page: &PageView) -> Option<bool> {
        match self {
            Self::Category(category) => {
                page.known.contains(*category).then(|| page.categories.contains(*category))
            }
            Self::Flag(flag) => page.flags.map(|flags| flags.contains(*flag)),
            Self::Not(term) => term.holds(page).map(|holds| !holds),
            Self::All(terms) => unless_one(terms, page, false),
            Self::Any(terms) => unless_one(terms, page, true),
        }
    }

    /// The categories and the flags in it.
    fn words(&self) -> (PageCategories, PageFlags) {
        match self {
            Self::Category(category) => (*category, PageFlags::empty()),
            Self::Flag(flag) => (PageCategories::empty(), *flag),
            Self::Not(term) => term.words(),
            Self::All(terms) | Self::Any(terms) => terms
                .iter()
                .map(Self::words)
                .fold(Default::default(), |all, one| (all.0 | one.0, all.1 | one.1)),
        }
    }
}

/// `decisive` if one of the terms is, else the opposite if all are known.
fn unless_one(terms: &[Term], page: &PageView, decisive: bool) -> Option<bool> {
    let mut holds = Some(!decisive);
    for term in terms {
        match term.holds(page) {
            Some(one) if one == decisive => return Some(decisive),
            Some(_) => {}
            None => holds = None,
        }
    }
    holds
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Category(category) => f.write_str(words::category_name(*category).unwrap_or_default()),
            Self::Flag(flag) => write!(f, "kpf:{}", words::flag_name(*flag).unwrap_or_default()),
            Self::Not(term) => {
                f.write_str("!")?;
                term.write_inner(f)
            }
            Self::All(terms) => write_list(f, terms, " & "),
            Self::Any(terms) => write_list(f, terms, " | "),
        }
    }
}

impl Term {
    /// Writes it as a part of another: lists in parentheses.
    fn write_inner(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(_) | Self::Any(_) => write!(f, "({self})"),
            Self::Category(_) | Self::Flag(_) | Self::Not(_) => write!(f, "{self}"),
        }
    }
}

fn write_list(f: &mut fmt::Formatter<'_>, terms: &[Term], operator: &str) -> fmt::Result {
    let mut before = "";
    for term in terms {
        f.write_str(before)?;
        term.write_inner(f)?;
        before = operator;
    }
    Ok(())
}
