//! Call paths: completed faults by the functions that led to them, as a tree of callers.
//!
//! Layer: codec. Input: stacks and what their faults cost. Output: [`CallTree`], and its JSON.
//! Keeps: what a function took is what its callees took and what its own code did; the sum of the outermost ones is that of all faults.
//! Time and memory are linear in the frames of all stacks.
//! Not here: layout (`text::paths`), stacks one by one (`code`).

use std::{
    cmp::Reverse,
    collections::HashMap,
    fmt::{self, Display, Formatter},
};

use serde_json::{Value, json};

use super::{
    Report,
    code::{cost, dearness, flat},
    function::FunctionLabel,
};
use crate::{
    event::StackEnd,
    timeline::{CodePlace, CodeTotals, ResidentPages, StackTotals, Summary},
    units::PageCount,
};

/// Levels of the tree in JSON. A parser may refuse more than 128 levels of arrays and objects, as that of the crate `serde_json` does;
/// `stacks` has the whole paths.
const LEVELS: u32 = 60;

/// A step on the way from the start of a thread to a fault.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Step {
    /// A function.
    Function(FunctionLabel),
    /// Callers that are not known, and why.
    Missing(StackEnd),
    /// All of a stack that is not known.
    Unknown,
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Function(function) => function.fmt(f),
            Self::Missing(end) => write!(f, "unknown callers: {}", end.name()),
            Self::Unknown => f.write_str("unknown stack"),
        }
    }
}

/// A path from the outermost function to this one.
#[derive(Debug)]
struct Node {
    /// The path without its last step.
    parent: usize,
    /// Number of its last step.
    step: usize,
    totals: CodeTotals,
    /// Pages that the faults on it brought and that were there at the end.
    resident: PageCount,
}

/// The path without steps, which is the start of all others.
pub(super) const START: usize = 0;

/// Call paths, and what the faults on them cost.
#[derive(Debug)]
pub(super) struct CallTree {
    steps: Vec<Step>,
    nodes: Vec<Node>,
    /// All but the start, by parent; among those of one parent the dearest first.
    sorted: Vec<usize>,
}

/// What is first among the paths that go on from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Most stall.
    Stall,
    /// Most memory that stays.
    Resident,
}

impl CallTree {
    fn of(summary: &Summary, order: Order) -> Self {
        let mut resident: HashMap<u64, PageCount> = HashMap::new();
        for ResidentPages { stack, pages, .. } in &summary.resident {
            *resident.entry(*stack).or_default() += *pages;
        }
        let mut builder = Builder::default();
        for StackTotals { stack, places, end, totals } in &summary.stacks {
            let missing = (*end != StackEnd::Root).then_some(Step::Missing(*end));
            let path = missing.into_iter().chain(places.iter().rev().flat_map(steps));
            builder.add(path, *totals, resident.get(stack).copied().unwrap_or_default());
        }
        if summary.without_stack != CodeTotals::default() {
            builder.add([Step::Unknown].into_iter(), summary.without_stack, PageCount::default());
        }
        builder.finish(order)
    }

    /// What the faults on the path `node` cost.
    pub(super) fn totals(&self, node: usize) -> CodeTotals {
        self.nodes[node].totals
    }

    /// Pages that the faults on the path `node` brought and that were there at the end.
    pub(super) fn resident(&self, node: usize) -> PageCount {
        self.nodes[node].resident
    }

    /// The last step of the path `node`; `None` of the start.
    pub(super) fn step(&self, node: usize) -> Option<&Step> {
        (node != START).then(|| &self.steps[self.nodes[node].step])
    }

    /// The paths that are one step longer, in order.
    pub(super) fn children(&self, node: usize) -> &[usize] {
        let parent = |child: &usize| self.nodes[*child].parent;
        let first = self.sorted.partition_point(|child| parent(child) < node);
        let count = self.sorted[first..].partition_point(|child| parent(child) == node);
        &self.sorted[first..first + count]
    }

    fn json(&self, node: usize, level: u32) -> Value {
        if level > LEVELS {
            return Value::Null;
        }
        self.children(node)
            .iter()
            .map(|child| {
                let mut head = match self.step(*child) {
                    Some(Step::Function(function)) => flat(function),
                    Some(Step::Missing(_) | Step::Unknown) | None => {
                        json!({ "function": null, "module": null })
                    }
                };
                if let Some(Step::Missing(end)) = self.step(*child) {
                    head["missing_callers"] = end.name().into();
                }
                head["children"] = self.json(*child, level + 1);
                head["resident_pages"] = self.resident(*child).get().into();
                cost(head, &self.totals(*child))
            })
            .collect()
    }
}

/// The functions of a frame, outermost first: inlined ones lie within the compiled one.
fn steps(place: &CodePlace) -> impl Iterator<Item = Step> {
    let inlined = place.functions.split_last().map_or(&[][..], |(_, inlined)| inlined);
    let names = inlined.iter().rev().filter_map(|function| function.name.clone());
    let inlined = names.map(|name| FunctionLabel::named(place.module.clone(), name));
    std::iter::once(FunctionLabel::at(place)).chain(inlined).map(Step::Function)
}

/// A tree that grows.
#[derive(Debug)]
struct Builder {
    steps: Vec<Step>,
    numbers: HashMap<Step, usize>,
    nodes: Vec<Node>,
    /// By parent and step.
    known: HashMap<(usize, usize), usize>,
}

impl Default for Builder {
    fn default() -> Self {
        let (totals, resident) = (CodeTotals::default(), PageCount::default());
        let start = Node { parent: START, step: 0, totals, resident };
        Self { steps: Vec::new(), numbers: HashMap::new(), nodes: vec![start], known: HashMap::new() }
    }
}

impl Builder {
    fn add(&mut self, path: impl Iterator<Item = Step>, totals: CodeTotals, resident: PageCount) {
        let mut at = START;
        self.nodes[at].totals += totals;
        self.nodes[at].resident += resident;
        for step in path {
            let Self { steps, numbers, nodes, known } = self;
            let number = *numbers.entry(step).or_insert_with_key(|step| {
                steps.push(step.clone());
                steps.len() - 1
            });
            at = *known.entry((at, number)).or_insert_with(|| {
                let (totals, resident) = (CodeTotals::default(), PageCount::default());
                nodes.push(Node { parent: at, step: number, totals, resident });
                nodes.len() - 1
            });
            nodes[at].totals += totals;
            nodes[at].resident += resident;
        }
    }

    fn finish(self, order: Order) -> CallTree {
        let Self { steps, nodes, .. } = self;
        let mut sorted: Vec<_> = (1..nodes.len()).collect();
        sorted.sort_unstable_by_key(|node| {
            let Node { parent, step, totals, resident } = &nodes[*node];
            let most = (order == Order::Resident).then_some(Reverse(*resident));
            (*parent, most, dearness(totals), &steps[*step])
        });
        CallTree { steps, nodes, sorted }
    }
}

impl Report {
    /// Who called whom; `None` if no names are known.
    pub(super) fn call_tree(&self, order: Order) -> Option<CallTree> {
        self.has_names().then(|| CallTree::of(&self.summary, order))
    }

    pub(super) fn call_tree_json(&self) -> Value {
        self.call_tree(Order::Stall).map_or_else(|| json!([]), |tree| tree.json(START, 1))
    }
}
