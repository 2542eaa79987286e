//! Who called whom, for people: a path a line, or several where none branches off.

use std::fmt::{self, Formatter};

use super::{Share, Time, heading};
use crate::{
    report::{
        Report,
        paths::{CallTree, START},
    },
    timeline::CodeTotals,
};

/// Paths are shown that took one part in so many of all stall.
const LEAST: u128 = 100;

/// A path to be printed.
#[derive(Clone, Copy, Debug)]
struct Line {
    node: usize,
    /// Branchings before it.
    depth: usize,
    /// What the line above cost, if it is the caller and calls no other function that is shown.
    caller: Option<CodeTotals>,
}

impl Report {
    /// The callers of what faulted, outermost first. Returns whether there was something to print.
    pub(super) fn call_paths(&self, f: &mut Formatter<'_>) -> Result<bool, fmt::Error> {
        let Some(tree) = self.call_tree() else { return Ok(false) };
        heading(f, "Call paths", [])?;
        writeln!(f, "{:>12}{:>12}{:>12}  outermost caller first", "faults", "stall", "share")?;
        let all = tree.totals(START);
        let mut lines = below(&tree, START, 0, None);
        while let Some(line) = lines.pop() {
            self::line(f, &tree, line, all)?;
            lines.extend(below(&tree, line.node, line.depth, Some(tree.totals(line.node))));
        }
        writeln!(f, "  paths that took less than 1% of the stall are left out: memtrace report --json")?;
        Ok(true)
    }
}

/// What is to be printed below the path `node`, last one first.
fn below(tree: &CallTree, node: usize, depth: usize, totals: Option<CodeTotals>) -> Vec<Line> {
    let all = tree.totals(START);
    let is_shown = |child: &usize| {
        let child = tree.totals(*child);
        let (part, whole) = match all.latency_sum.get() {
            0 => (child.faults.total(), all.faults.total()),
            stall => (child.latency_sum.get(), stall),
        };
        u128::from(part) * LEAST >= u128::from(whole)
    };
    let shown: Vec<_> = tree.children(node).iter().copied().filter(is_shown).collect();
    let branches = shown.len() > 1 && node != START;
    let caller = totals.filter(|_| shown.len() == 1);
    let line = |node| Line { node, depth: depth + usize::from(branches), caller };
    shown.into_iter().rev().map(line).collect()
}

/// Prints a path: its numbers, unless they are those of the line above, and its last step.
fn line(f: &mut Formatter<'_>, tree: &CallTree, line: Line, all: CodeTotals) -> fmt::Result {
    let Line { node, depth, caller } = line;
    let totals @ CodeTotals { faults, latency_sum } = tree.totals(node);
    if caller == Some(totals) {
        write!(f, "{:36}", "")?;
    } else {
        let stall = Time(latency_sum.get()).to_string();
        let share = Share(latency_sum.get(), all.latency_sum.get());
        write!(f, "{:>12}{stall:>12}{share:>12}", faults.total())?;
    }
    let mark = if caller.is_none() && depth > 0 { "└ " } else { "  " };
    let step = tree.step(node).map(ToString::to_string).unwrap_or_default();
    writeln!(f, "{:1$}{mark}{step}", "", 2 * depth)
}
