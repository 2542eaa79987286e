//! Folded stacks, which flamegraph.pl, inferno and speedscope read.
//!
//! Layer: codec. Input: [`Row`]s. Output: a line for each distinct stack: the name of the process and the frames, outermost first,
//! parted by `;`, then a space and the weight.
//! Source: `stackcollapse-perf.pl` of Brendan Gregg's `FlameGraph`.
//! Keeps: weights add up to those of all completed faults; no line has a weight of 0, and no two have the same frames.
//! Not here: what frames are called (`stacks::names`).

use std::{
    collections::{BTreeMap, HashMap},
    fmt, io,
};

use super::{
    Content, ExportError, Format, Sink, StackOptions, Weight,
    stacks::{StackSums, Sums, interned::Interned, names},
};
use crate::{
    event::HostFacts,
    timeline::{Row, RowSet, Summary},
    units::{PageSize, TimeRange},
};

/// The format.
pub const FORMAT: Format = Format {
    name: "folded",
    doc: "stacks of faults, one a line with its weight, for flame graphs",
    is_text: true,
    content: Content::Stacks(|options, output| Box::new(Folded::new(&options, output))),
};

/// Writes stacks with one weight.
pub struct Folded<W: io::Write> {
    weight: &'static Weight,
    sums: StackSums,
    writer: io::BufWriter<W>,
}

impl<W: io::Write> fmt::Debug for Folded<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Folded").field("weight", &self.weight.name).finish_non_exhaustive()
    }
}

impl<W: io::Write> Folded<W> {
    /// Writes stacks into `writer`.
    pub fn new(options: &StackOptions, writer: W) -> Self {
        let StackOptions { weight, times, subject: _ } = *options;
        Self { weight, sums: StackSums::of(times), writer: io::BufWriter::new(writer) }
    }
}

impl<W: io::Write> Sink for Folded<W> {
    fn wants(&self) -> RowSet {
        StackSums::ROWS
    }

    fn times(&self) -> TimeRange {
        self.sums.times()
    }

    fn begin(&mut self, host: &HostFacts) -> Result<(), ExportError> {
        self.sums.begin(host);
        Ok(())
    }

    fn row(&mut self, row: &Row) -> Result<(), ExportError> {
        self.sums.row(row);
        Ok(())
    }

    /// Writes all lines.
    fn end(&mut self, summary: &Summary) -> Result<(), ExportError> {
        let tree = Tree::of(&self.sums.take(summary), self.weight, summary.host.page);
        tree.write(&mut self.writer)
            .and_then(|()| io::Write::flush(&mut self.writer))
            .map_err(ExportError::Write)
    }
}

/// Stacks by their frames, outermost first: those that begin alike have that in common.
#[derive(Debug, Default)]
struct Tree {
    frames: Interned<String>,
    /// By the node below and the frame. Node 0 has no frame.
    nodes: HashMap<(u32, u32), u32>,
    /// By node, the weight of the stack that ends there.
    weights: BTreeMap<u32, u64>,
}

impl Tree {
    fn of(sums: &Sums, weight: &Weight, page: PageSize) -> Self {
        let mut tree = Self::default();
        let outermost_first = |place| names::of_place(place).into_iter().rev().collect::<Vec<_>>();
        let places: Vec<Vec<u32>> = sums
            .places
            .iter()
            .map(|place| outermost_first(place).into_iter().map(|name| tree.frame(&name)).collect())
            .collect();
        for (group, costs) in &sums.groups {
            let weight = (weight.of)(costs, page);
            if weight == 0 {
                continue;
            }
            let stack = group.stack.map(|index| &sums.stacks[index as usize]);
            let mut path = vec![tree.frame(&names::of_task(group.process))];
            path.extend(names::of_end(stack).map(|name| tree.frame(&name)));
            let frames = stack.into_iter().flat_map(|stack| stack.places.iter().rev());
            path.extend(frames.flat_map(|place| &places[*place as usize]));
            path.extend(names::of_kernel(group).iter().map(|frame| tree.frame(&frame.label())));
            tree.add(&path, weight);
        }
        tree
    }

    /// The number of a frame. What parts frames is replaced in its name, as `stackcollapse-perf.pl` does.
    fn frame(&mut self, name: &str) -> u32 {
        self.frames.index(name.replace(';', ":"))
    }

    fn add(&mut self, path: &[u32], weight: u64) {
        let nodes = &mut self.nodes;
        let node = path.iter().fold(0, |below, frame| {
            let next = u32::try_from(nodes.len() + 1).expect("memory has no room for as many");
            *nodes.entry((below, *frame)).or_insert(next)
        });
        let sum = self.weights.entry(node).or_default();
        *sum = sum.saturating_add(weight);
    }

    /// Writes the stacks, in order of their frames.
    fn write(self, writer: &mut impl io::Write) -> io::Result<()> {
        let Self { frames, nodes, weights } = self;
        let frames = frames.into_values();
        let mut above: HashMap<u32, Vec<(&str, u32)>> = HashMap::new();
        for ((below, frame), node) in &nodes {
            above.entry(*below).or_default().push((&frames[*frame as usize], *node));
        }
        // What is still to be written, the last one first: the length of the line up to it, its frame, and its node.
        let mut waiting = vec![(0, "", 0)];
        let mut line = String::new();
        while let Some((len, frame, node)) = waiting.pop() {
            line.truncate(len);
            if len > 0 {
                line.push(';');
            }
            line.push_str(frame);
            if let Some(weight) = weights.get(&node) {
                writeln!(writer, "{line} {weight}")?;
            }
            let mut next = above.remove(&node).unwrap_or_default();
            next.sort_unstable_by(|one, other| other.cmp(one));
            waiting.extend(next.into_iter().map(|(frame, node)| (line.len(), frame, node)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
