//! Pages by what they are.

use std::collections::BTreeMap;

use crate::units::PageCount;

/// Numbers of pages by key.
///
/// Neighbours mostly have the same key: so the last one is kept at hand.
#[derive(Clone, Debug)]
pub struct Counts<K> {
    last: Option<(K, u64)>,
    rest: BTreeMap<K, u64>,
}

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self { last: None, rest: BTreeMap::new() }
    }
}

impl<K: Copy + Ord> Counts<K> {
    /// Adds `pages` of `key`.
    pub fn add(&mut self, key: K, pages: PageCount) {
        match &mut self.last {
            Some((last, count)) if *last == key => *count += pages.get(),
            last => {
                if let Some((key, count)) = last.replace((key, pages.get())) {
                    *self.rest.entry(key).or_default() += count;
                }
            }
        }
    }

    /// Adds all that `other` has.
    pub fn merge(&mut self, other: &Self) {
        for (key, pages) in other.iter() {
            self.add(key, pages);
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.last.is_none()
    }

    /// The pages of each key, by key.
    pub fn iter(&self) -> impl Iterator<Item = (K, PageCount)> {
        let mut all: BTreeMap<K, u64> = self.rest.clone();
        if let Some((key, count)) = self.last {
            *all.entry(key).or_default() += count;
        }
        all.into_iter().map(|(key, count)| (key, PageCount::new(count)))
    }
}
