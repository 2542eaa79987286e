//! Checks of what a recording says about address spaces.
//!
//! Input: a [`Recording`]. Output: panics where memtrace's map was not the kernel's; counts of calls.
//! Not here: ground truth (`ledger`), the rows (`recording`).

use std::collections::BTreeMap;

use crate::{recording::Recording, rows::MapRow};

impl Recording {
    /// Checks that memtrace's map was compared with the kernel's at least `checks` times and was the same, and that
    /// nothing was lost but faults.
    #[track_caller]
    pub fn expect_map_identity(&self, checks: u64) {
        self.expect_no_contradiction();
        let losses = self.losses();
        assert!(losses.iter().all(|loss| loss.cause == "events_ring"), "{losses:?}");
        let report = self.report();
        let identity = report.at("/map_identity");
        assert!(report.number("/map_identity/checks") >= checks, "at least {checks}: {identity}");
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
