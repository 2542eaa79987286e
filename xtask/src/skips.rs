//! Tests that were skipped, as they say it themselves in the file that `MEMTRACE_SKIPS` names.

use std::collections::BTreeMap;

/// A test that was skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Skip {
    /// Its name; empty if it did not run in a thread of its own.
    pub(crate) test: String,
    /// Why.
    pub(crate) reason: String,
}

/// Reads the file: a test and a reason in each line.
pub(crate) fn parse(text: &str) -> Vec<Skip> {
    let lines = text.lines().filter_map(|line| line.split_once('\t'));
    lines.map(|(test, reason)| Skip { test: test.to_owned(), reason: reason.to_owned() }).collect()
}

/// How many were skipped for each reason.
pub(crate) fn by_reason(skips: &[Skip]) -> BTreeMap<&str, usize> {
    let mut reasons = BTreeMap::new();
    for skip in skips {
        *reasons.entry(skip.reason.as_str()).or_default() += 1;
    }
    reasons
}
