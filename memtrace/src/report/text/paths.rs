//! Who called whom, for people: a path a line, or several where none branches off.

use std::fmt::{self, Formatter};

use super::{Share, Size, Time, heading};
use crate::{
    report::{
        Report,
        paths::{CallTree, Order, START},
    },
    timeline::CodeTotals,
    units::PageCount,
};

/// Paths are shown that took one part in so many of all stall.
const LEAST: u128 = 100;

/// Paths are shown that brought one part in so many of all memory that stays: it is spread over more of them.
const LEAST_RESIDENT: u128 = 20;

/// Of callers that call one function each, all for the same faults, so many are shown: outermost and innermost ones.
const OUTERMOST: usize = 2;
const INNERMOST: usize = 4;

/// Width of what a path took.
const NUMBERS: usize = 36;

/// What a path is shown for.
#[derive(Clone, Copy, Debug)]
struct Shown<'a> {
    tree: &'a CallTree,
    order: Order,
    /// Bytes of a page.
    page: u64,
}

/// A path to be printed.
#[derive(Clone, Copy, Debug)]
struct Line {
    node: usize,
    /// Branchings before it.
    depth: usize,
    /// The path above, if that is the caller and calls no other function that is shown.
    caller: Option<usize>,
}

impl Report {
    /// The callers of what faulted, outermost first. Returns whether there was something to print.
    pub(super) fn call_paths(&self, f: &mut Formatter<'_>) -> Result<bool, fmt::Error> {
        let Some(tree) = self.call_tree(Order::Stall) else { return Ok(false) };
        heading(f, "Call paths", [])?;
        writeln!(f, "{:>12}{:>12}{:>12}  outermost caller first", "faults", "stall", "share")?;
        let page = self.header.host.page.bytes();
        Shown { tree: &tree, order: Order::Stall, page }.write(f)?;
        writeln!(
            f,
            "  paths that took less than 1% of the stall are left out; memtrace export -f folded has all, with every caller"
        )?;
        Ok(true)
    }

    /// The callers of what brought memory that was there at the end, outermost first; nothing if no names are known.
    pub(super) fn resident_paths(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let tree = self.call_tree(Order::Resident).filter(|tree| tree.resident(START).get() > 0);
        let Some(tree) = tree else { return Ok(()) };
        heading(f, "Memory that stays", [])?;
        writeln!(f, "{:>12}{:>12}{:>12}  outermost caller first", "faults", "resident", "share")?;
        let page = self.header.host.page.bytes();
        Shown { tree: &tree, order: Order::Resident, page }.write(f)?;
        if self.summary.resident_lower_bound {
            writeln!(f, "  more stays: what a process had when it was in too many pieces is not among it")?;
        }
        writeln!(
            f,
            "  paths of less than 5% are left out; memtrace export -f folded --weight resident has all, with every caller"
        )
    }
}

impl Shown<'_> {
    fn write(self, f: &mut Formatter<'_>) -> fmt::Result {
        let (mut lines, mut left) = (Vec::new(), self.below(START, 0, None));
        while let Some(line) = left.pop() {
            lines.push(line);
            left.extend(self.below(line.node, line.depth, Some(line.node)));
        }
        for chain in lines.chunk_by(|_, line| self.has_numbers_of_caller(*line)) {
            let hidden = chain.len().saturating_sub(OUTERMOST + INNERMOST);
            // A line that says that one is hidden is no shorter than that one.
            if hidden < 2 {
                chain.iter().try_for_each(|line| self.line(f, *line))?;
                continue;
            }
            let (outermost, innermost) = (&chain[..OUTERMOST], &chain[OUTERMOST + hidden..]);
            outermost.iter().try_for_each(|line| self.line(f, *line))?;
            writeln!(f, "{:1$}… {hidden} more", "", NUMBERS + 2 * innermost[0].depth + 2)?;
            innermost.iter().try_for_each(|line| self.line(f, *line))?;
        }
        Ok(())
    }

    /// What the faults on the path `node` cost, and what of it stays.
    fn numbers(self, node: usize) -> (CodeTotals, PageCount) {
        (self.tree.totals(node), self.tree.resident(node))
    }

    /// Whether the numbers of a path are those of the line above.
    fn has_numbers_of_caller(self, line: Line) -> bool {
        line.caller.is_some_and(|caller| self.numbers(caller) == self.numbers(line.node))
    }

    /// What is to be printed below the path `node`, last one first.
    fn below(self, node: usize, depth: usize, caller: Option<usize>) -> Vec<Line> {
        let children = self.tree.children(node).iter().copied();
        let shown: Vec<_> = children.filter(|child| self.is_large(*child)).collect();
        let branches = shown.len() > 1 && node != START;
        let caller = caller.filter(|_| shown.len() == 1);
        let line = |node| Line { node, depth: depth + usize::from(branches), caller };
        shown.into_iter().rev().map(line).collect()
    }

    /// Whether the path `node` is worth a line.
    fn is_large(self, node: usize) -> bool {
        let (all, totals) = (self.tree.totals(START), self.tree.totals(node));
        let (part, whole, least) = match (self.order, all.latency_sum.get()) {
            (Order::Resident, _) => {
                (self.tree.resident(node).get(), self.tree.resident(START).get(), LEAST_RESIDENT)
            }
            (Order::Stall, 0) => (totals.faults.total(), all.faults.total(), LEAST),
            (Order::Stall, stall) => (totals.latency_sum.get(), stall, LEAST),
        };
        u128::from(part) * least >= u128::from(whole)
    }

    /// Prints a path: its numbers, unless they are those of the line above, and its last step.
    fn line(self, f: &mut Formatter<'_>, line: Line) -> fmt::Result {
        let Line { node, depth, caller } = line;
        let (CodeTotals { faults, latency_sum }, resident) = self.numbers(node);
        if self.has_numbers_of_caller(line) {
            write!(f, "{:NUMBERS$}", "")?;
        } else {
            let (all, all_resident) = self.numbers(START);
            let (size, share) = match self.order {
                Order::Stall => {
                    let share = Share(latency_sum.get(), all.latency_sum.get());
                    (Time(latency_sum.get()).to_string(), share)
                }
                Order::Resident => {
                    let share = Share(resident.get(), all_resident.get());
                    (Size(resident.get().saturating_mul(self.page)).to_string(), share)
                }
            };
            write!(f, "{:>12}{size:>12}{share:>12}", faults.total())?;
        }
        let mark = if caller.is_none() && depth > 0 { "└ " } else { "  " };
        let step = self.tree.step(node).map(ToString::to_string).unwrap_or_default();
        writeln!(f, "{:1$}{mark}{step}", "", 2 * depth)
    }
}
