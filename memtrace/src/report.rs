//! What a recording says, for people and for programs.
//!
//! Layer: codec. Input: a [`Recording`]. Output: text, JSON.
//! Keeps: recorded + uncounted = kernel is always shown with all three numbers; what is unknown is not a number.
//! Not here: tables for further work (`export`).
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::{
    event::{FaultCounts, Loss, LossCause},
    export::{ExportError, Sink},
    pipeline::Detail,
    record::{self, End, Header, Recording, Recovery, ReplayError},
    timeline::{CodeTotals, Row, RowSet, Summary},
    units::{Nanos, Timestamp},
};

mod calls;
mod code;
mod findings;
mod function;
mod groups;
mod json;
mod numbers;
mod paths;
mod text;

use function::FunctionLabel;
use groups::Groups;
pub use groups::{GroupReport, Grouping, KEYS, Key, ORDERS, Order};

/// All that is known at the end of a recording.
#[derive(Debug)]
pub struct Report {
    header: Header,
    summary: Summary,
    end: Option<End>,
    recovery: Recovery,
    /// What faulted, most stall first; empty if no stacks were recorded.
    functions: Vec<(FunctionLabel, CodeTotals)>,
}

/// What a report takes of a run: sums, and no rows.
struct Sums {
    /// Faults by function, if stacks were recorded.
    functions: Option<Groups>,
}

impl Sink for Sums {
    fn wants(&self) -> RowSet {
        self.functions.as_ref().map_or(RowSet::empty(), Sink::wants) | RowSet::SUMS
    }

    fn row(&mut self, row: &Row) -> Result<(), ExportError> {
        self.functions.as_mut().map_or(Ok(()), |functions| functions.row(row))
    }
}

impl Report {
    /// The report on `recording`, of which nothing has been read yet.
    pub fn of<R: std::io::Read>(recording: &mut Recording<R>) -> Result<Self, ReplayError> {
        let by_function = || Groups::new(Grouping { by: vec![Key::Function], ..Grouping::default() });
        let mut sums = Sums { functions: recording.header().capture.stacks.then(by_function) };
        let summary = record::replay(recording, &mut sums)?;
        let functions = sums.functions.map_or_else(Vec::new, |groups| groups.functions());
        Ok(Self { functions, ..Self::from_parts(recording, summary) })
    }

    /// The report on `recording`, which has been replayed with this `summary`.
    fn from_parts<R: std::io::Read>(recording: &Recording<R>, summary: Summary) -> Self {
        Self {
            header: recording.header().clone(),
            summary,
            end: recording.end().cloned(),
            recovery: recording.recovery(),
            functions: Vec::new(),
        }
    }

    /// Whether no loss touches a total.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.recovery.complete && self.summary.losses.is_empty()
    }

    /// From the start to the end mark, or to the last record where there is none.
    fn duration(&self) -> Nanos {
        let end = self.end.as_ref().map_or(Timestamp::default(), |end| end.time);
        end.max(self.summary.end).since(self.header.host.start)
    }

    /// Completed faults whose records were lost: the heat counters have them all the same.
    fn only_counted(&self) -> FaultCounts {
        let (heat, recorded) = (self.summary.heat, self.recorded());
        FaultCounts {
            minor: heat.minor.saturating_sub(recorded.minor),
            major: heat.major.saturating_sub(recorded.major),
        }
    }

    /// Completed faults, as the fault records say; as the heat counters say where there are no records.
    fn recorded(&self) -> FaultCounts {
        match self.header.capture.detail {
            Detail::Full => self.summary.faults.completed,
            Detail::Counts => self.summary.heat,
        }
    }

    /// Faults charged without an event; `None` if no task told its counters.
    fn uncounted(&self) -> Option<FaultCounts> {
        let causes = &self.summary.uncounted;
        (self.summary.account.is_some() || !causes.is_empty()).then(|| {
            causes.iter().fold(FaultCounts::default(), |mut sum, (_, faults)| {
                sum += *faults;
                sum
            })
        })
    }

    /// Uncounted faults by what the task was doing.
    fn uncounted_by(&self) -> BTreeMap<String, FaultCounts> {
        let mut by: BTreeMap<String, FaultCounts> = BTreeMap::new();
        for (cause, faults) in &self.summary.uncounted {
            *by.entry(calls::name(*cause, &self.header.host.arch)).or_default() += *faults;
        }
        by
    }

    /// Growth of the kernel's own counters over the traced life of all tasks; `None` if no task told it.
    fn kernel_counted(&self) -> Option<FaultCounts> {
        self.summary.account.map(|account| account.kernel)
    }

    /// What `wait4` said of the command and the children that it waited for, less what was charged before tracing.
    fn charged_to_command(&self) -> Option<FaultCounts> {
        let (rusage, gate) = (self.end.as_ref()?.rusage?, self.header.capture.gate?);
        Some(FaultCounts {
            minor: rusage.minor.checked_sub(gate.minor)?,
            major: rusage.major.checked_sub(gate.major)?,
        })
    }

    /// The latency in nanoseconds that this part of completed faults did not exceed, to three digits; `None` if none is known.
    fn latency_at(&self, quantile: f64) -> Option<u64> {
        // The histogram answers with the upper end of a bucket.
        let max = self.summary.completed.latency_max?.get();
        Some(self.summary.latencies.value_at_quantile(quantile).min(max))
    }

    /// Records lost by `cause`; `None` if the number cannot be known.
    fn lost(&self, cause: LossCause) -> Option<u64> {
        let touches = |loss: &&Loss| loss.cause == cause || loss.cause == LossCause::TornTail;
        let mut counts = self.summary.losses.iter().filter(touches).map(|loss| loss.count);
        counts.try_fold(0, |sum: u64, count| Some(sum.saturating_add(count?)))
    }
}

#[cfg(test)]
mod tests;
