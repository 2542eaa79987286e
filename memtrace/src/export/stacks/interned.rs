//! Values that are kept once, and named by a number.

use std::{collections::HashMap, hash::Hash};

/// Distinct values, in the order in which they came.
#[derive(Debug)]
pub(in crate::export) struct Interned<T> {
    indices: HashMap<T, u32>,
}

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Self { indices: HashMap::new() }
    }
}

impl<T: Eq + Hash> Interned<T> {
    /// The number of `value`, from 0 on.
    pub(in crate::export) fn index(&mut self, value: T) -> u32 {
        let next = u32::try_from(self.indices.len()).expect("memory has no room for as many");
        *self.indices.entry(value).or_insert(next)
    }

    /// All values by their numbers.
    pub(in crate::export) fn into_values(self) -> Vec<T> {
        let mut values: Vec<_> = self.indices.into_iter().collect();
        values.sort_unstable_by_key(|(_, index)| *index);
        values.into_iter().map(|(value, _)| value).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_numbers_in_the_order_in_which_they_came() {
        let mut words = Interned::default();

        assert_eq!(["b", "a", "b", "c"].map(|word| words.index(word)), [0, 1, 0, 2]);
        assert_eq!(words.into_values(), ["b", "a", "c"]);
    }
}
