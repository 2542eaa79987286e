//! Completed faults by what they have in common: sums of groups, and which of them are shown.
//!
//! Layer: codec. Input: rows of faults, frames and regions, as a [`Sink`]; what to group by. Output: [`GroupReport`].
//! Keeps: the sums of all groups are those of the faults selected; what is unknown is a group of its own. Memory grows with the groups,
//! and with the processes, threads, stacks and regions that they are of, not with the faults.
//! Not here: layout (`groups::text`, `groups::json`).

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    io::Read,
};

use self::keys::KeyValue;
pub use self::keys::{KEYS, Key};
use super::{Report, function::FunctionLabel};
use crate::{
    event::{FaultCounts, FaultKind, HostFacts, Tgid, Tid},
    export::{ExportError, Sink},
    record::{self, Recording, ReplayError},
    timeline::{CodeTotals, FaultRow, FrameRow, ProcessId, RegionId, RegionLabel, Row, RowSet},
    units::{Nanos, PageCount, TimeRange, Timestamp},
};

mod json;
mod keys;
#[cfg(test)]
mod tests;
mod text;

/// Which faults are grouped, by what, and which groups are shown.
#[derive(Clone, Debug, Default)]
pub struct Grouping {
    /// What faults of a group have in common.
    pub by: Vec<Key>,
    /// Faults of these processes alone; of all if there are none.
    pub pids: Vec<Tgid>,
    /// Faults that completed in this part of the recording.
    pub times: TimeRange,
    /// Which groups stand first.
    pub order: Order,
    /// How many groups are shown; all if it is `None`.
    pub most: Option<usize>,
}

/// What groups are ordered by, most first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The sum of the known latencies.
    #[default]
    Stall,
    /// How many faults there are.
    Faults,
    /// Bytes that the faults are known to have brought.
    Bytes,
}

/// Every order.
pub const ORDERS: &[&Order] = &[&Order::Stall, &Order::Faults, &Order::Bytes];

impl Order {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stall => "stall",
            Self::Faults => "faults",
            Self::Bytes => "bytes",
        }
    }

    /// What it is, in one line.
    #[must_use]
    pub const fn doc(self) -> &'static str {
        match self {
            Self::Stall => "most time in faults first",
            Self::Faults => "most faults first",
            Self::Bytes => "most bytes brought first, as far as known",
        }
    }
}

/// What faults cost and brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Costs {
    faults: FaultCounts,
    /// Sum of the known latencies.
    stall: Nanos,
    /// Largest known latency.
    longest: Option<Nanos>,
    /// Faults with a known latency.
    timed: u64,
    /// Pages that the outcomes brought, as far as known.
    pages: PageCount,
    /// Faults of which it is known how many pages they brought.
    sized: u64,
}

impl Costs {
    fn of(row: &FaultRow) -> Self {
        let fault = &row.fault;
        let major = u64::from(fault.kind == FaultKind::Major);
        let pages = row.outcome.and_then(|outcome| outcome.pages);
        Self {
            faults: FaultCounts { minor: 1 - major, major },
            stall: fault.latency.unwrap_or_default(),
            longest: fault.latency,
            timed: u64::from(fault.latency.is_some()),
            pages: pages.unwrap_or_default(),
            sized: u64::from(pages.is_some()),
        }
    }

    /// Mean of the known latencies; `None` if none is known.
    fn mean(&self) -> Option<u64> {
        self.stall.get().checked_div(self.timed)
    }

    /// Pages that they brought, at least; `None` if that is known of none.
    fn known_pages(&self) -> Option<PageCount> {
        (self.sized > 0).then_some(self.pages)
    }
}

impl std::ops::AddAssign for Costs {
    fn add_assign(&mut self, other: Self) {
        let Self { faults, stall, longest, timed, pages, sized } = other;
        self.faults += faults;
        self.stall += stall;
        self.longest = self.longest.max(longest);
        self.timed += timed;
        self.pages += pages;
        self.sized += sized;
    }
}

/// One group.
#[derive(Debug, Default)]
struct Group {
    costs: Costs,
    /// Processes, or threads where these are asked for: a name may be that of many.
    members: BTreeSet<(Option<ProcessId>, Option<Tid>)>,
}

/// The sink that makes groups.
#[derive(Debug)]
pub(super) struct Groups {
    grouping: Grouping,
    start: Timestamp,
    by_values: HashMap<Box<[KeyValue]>, Group>,
    total: Costs,
    /// Faults that were left out because it is not known which process took them.
    without_process: u64,
    /// The innermost function of each stack, by its number.
    innermost: HashMap<u64, FunctionLabel>,
    /// Regions in which faults were; as they were in the end, once they are known.
    regions: HashMap<RegionId, Option<RegionLabel>>,
    /// Values of the fault at hand.
    values: Vec<KeyValue>,
}

impl Groups {
    pub(super) fn new(grouping: Grouping) -> Self {
        Self {
            grouping,
            start: Timestamp::default(),
            by_values: HashMap::new(),
            total: Costs::default(),
            without_process: 0,
            innermost: HashMap::new(),
            regions: HashMap::new(),
            values: Vec::new(),
        }
    }

    fn has(&self, key: Key) -> bool {
        self.grouping.by.contains(&key)
    }

    /// Whether a completed fault is among those that are grouped.
    fn selects(&mut self, row: &FaultRow) -> bool {
        let Grouping { pids, times, .. } = &self.grouping;
        if !times.contains(row.fault.time.since(self.start)) {
            return false;
        }
        match row.process {
            _ if pids.is_empty() => true,
            Some(process) => pids.contains(&process.tgid),
            None => {
                self.without_process += 1;
                false
            }
        }
    }

    fn add(&mut self, row: &FaultRow) {
        if !row.fault.kind.is_completed() || !self.selects(row) {
            return;
        }
        let costs = Costs::of(row);
        self.total += costs;
        self.values.clear();
        let Self { grouping, values, innermost, .. } = self;
        let innermost = row.stack.and_then(|stack| innermost.get(&stack));
        values.extend(grouping.by.iter().map(|key| key.value(row, innermost)));
        if self.has(Key::Region)
            && let Some(place) = &row.place
        {
            self.regions.entry(place.region).or_default();
        }
        if !self.by_values.contains_key(&self.values[..]) {
            self.by_values.insert(self.values[..].into(), Group::default());
        }
        let (names_threads, names_processes) = (self.has(Key::Thread), self.has(Key::Process));
        let Some(group) = self.by_values.get_mut(&self.values[..]) else { return };
        group.costs += costs;
        if names_threads {
            group.members.insert((row.process, Some(row.fault.tid)));
        } else if names_processes && row.process.is_some() {
            group.members.insert((row.process, None));
        }
    }

    fn frame(&mut self, row: &FrameRow) {
        if row.depth == 0 && !row.inlined {
            self.innermost.insert(row.stack, FunctionLabel::at(&row.place));
        }
    }

    /// The functions of faults that were grouped by function, in the order that was asked for.
    pub(super) fn functions(&self) -> Vec<(FunctionLabel, CodeTotals)> {
        let function = |values: &[KeyValue]| match values {
            [KeyValue::Function(function)] => Some(function.clone()),
            _ => None,
        };
        let totals = |costs: &Costs| CodeTotals { faults: costs.faults, latency_sum: costs.stall };
        let groups = self.sorted().into_iter();
        groups.filter_map(|(values, group)| Some((function(values)?, totals(&group.costs)))).collect()
    }

    /// All groups with their values, in the order that was asked for.
    fn sorted(&self) -> Vec<(&[KeyValue], &Group)> {
        let mut groups: Vec<_> = self.by_values.iter().map(|(values, group)| (&values[..], group)).collect();
        let order = self.grouping.order;
        groups.sort_unstable_by_key(|(values, Group { costs, .. })| {
            let first = match order {
                Order::Stall => costs.stall.get(),
                Order::Faults => costs.faults.total(),
                Order::Bytes => costs.pages.get(),
            };
            (Reverse((first, costs.stall, costs.faults.total())), *values)
        });
        groups
    }
}

impl Sink for Groups {
    fn wants(&self) -> RowSet {
        let mut wants = RowSet::FAULTS;
        wants.set(RowSet::FRAMES, self.has(Key::Function) || self.has(Key::Stack));
        wants.set(RowSet::REGIONS, self.has(Key::Region));
        wants
    }

    fn begin(&mut self, host: &HostFacts) -> Result<(), ExportError> {
        self.start = host.start;
        Ok(())
    }

    fn row(&mut self, row: &Row) -> Result<(), ExportError> {
        match row {
            Row::Fault(row) => self.add(row),
            Row::Frame(row) => self.frame(row),
            Row::Region(row) => {
                if let Some(label) = self.regions.get_mut(&row.label.id) {
                    *label = Some(row.label.clone());
                }
            }
            Row::Timeline(_) | Row::Map(_) | Row::Pages(_) | Row::Rss(_) | Row::Process(_) | Row::Loss(_) => {
            }
        }
        Ok(())
    }
}

/// The groups of a recording.
#[derive(Debug)]
pub struct GroupReport {
    /// Where and how it was recorded, and what is missing.
    report: Report,
    groups: Groups,
}

impl GroupReport {
    /// The groups of `recording`, of which nothing has been read yet.
    pub fn of<R: Read>(recording: &mut Recording<R>, grouping: Grouping) -> Result<Self, ReplayError> {
        let mut groups = Groups::new(grouping);
        let summary = record::replay(recording, &mut groups)?;
        Ok(Self { report: Report::from_parts(recording, summary), groups })
    }

    /// Whether no loss touches a sum.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.report.is_complete()
    }

    /// The groups that are shown, those that are not, and what these add up to.
    fn shown(&self) -> (Vec<(&[KeyValue], &Group)>, usize, Costs) {
        let mut groups = self.groups.sorted();
        let most = self.groups.grouping.most.unwrap_or(groups.len()).min(groups.len());
        let rest = groups.split_off(most);
        let sum = rest.iter().fold(Costs::default(), |mut sum, (_, group)| {
            sum += group.costs;
            sum
        });
        (groups, rest.len(), sum)
    }
}
