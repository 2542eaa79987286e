//! Checks of what a recording says about address spaces.
//!
//! Input: a [`Recording`]. Output: panics where memtrace's map was not the kernel's; counts of calls.
//! Not here: ground truth (`ledger`), the rows (`recording`).

use std::collections::BTreeMap;

use crate::{
    recording::{MOST_SKIPPED, Recording},
    rows::MapRow,
};

impl Recording {
    /// Checks that memtrace's map was compared with the kernel's at least `checks` times and was the same, and that
    /// nothing was lost but faults and what the kernel says that it skipped.
    #[track_caller]
    pub fn expect_map_identity(&self, checks: u64) {
        self.expect_no_contradiction();
        let (skips, others) = self.skips_and_other_losses();
        assert!(skips <= MOST_SKIPPED, "{skips}");
        assert!(others.iter().all(|loss| loss.cause == "events_ring"), "{others:?}");
        let report = self.report();
        let number = |key| report.number(&format!("/map_identity/{key}"));
        // A call may have been missed with what was skipped: the first reading of a map after that is no check.
        let resyncs = if skips > 0 { number("resyncs") } else { 0 };
        let identity = report.at("/map_identity");
        assert!(number("checks") + resyncs >= checks, "at least {checks}, {skips} skipped: {identity}");
    }

    /// Checks that memtrace's map was the kernel's whenever nothing excused a difference.
    #[track_caller]
    pub fn expect_no_contradiction(&self) {
        let report = self.report();
        let identity = report.at("/map_identity");
        let rows = self.maps();
        let stories: Vec<_> =
            rows.iter().filter(|row| row.action == "contradiction").map(|row| story(row, &rows)).collect();
        let contradictions = report.number("/map_identity/contradictions");
        assert_eq!(contradictions, 0, "{identity}: {stories:#x?}");
        assert!(stories.is_empty(), "{stories:#x?}");
    }
}

/// What happened last where `contradiction` is, and to the heap, which moves without naming a place.
fn story<'a>(contradiction: &MapRow, rows: &'a [MapRow]) -> Vec<&'a MapRow> {
    const LAST: usize = 12;
    let touches = |row: &&MapRow| {
        let overlaps = row.start_addr < contradiction.end_addr && contradiction.start_addr < row.end_addr;
        row.tgid == contradiction.tgid
            && row.time_ns <= contradiction.time_ns
            && (overlaps || row.action == "brk")
    };
    let mut story: Vec<_> = rows.iter().rev().filter(touches).take(LAST).collect();
    story.reverse();
    story
}

/// Successful system calls among `rows`, by kind.
#[must_use]
pub fn successful_calls(rows: &[MapRow]) -> BTreeMap<&str, u64> {
    let mut counts = BTreeMap::new();
    for row in rows.iter().filter(|row| row.is_successful_call()) {
        *counts.entry(row.action.as_str()).or_default() += 1;
    }
    counts
}
