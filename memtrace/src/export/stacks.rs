//! Completed faults by stack, and what they cost together.
//!
//! Layer: codec. Input: rows of frames and of faults. Output: [`Sums`].
//! Keeps: memory goes by how many stacks are distinct, and not by how many faults there were; the costs add up to those of the
//! completed faults in the table `faults`.
//! Not here: what frames are called (`names`), text and bytes (`folded`, `pprof`).

pub(super) mod interned;
pub(super) mod names;

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    sync::Arc,
};

use self::interned::Interned;
use crate::{
    event::{Comm, HostFacts, Mode, StackEnd},
    timeline::{CodePlace, FaultRow, FrameRow, ResidentPages, Row, RowSet, Summary},
    units::{Nanos, PageCount, PageSize, TimeRange, Timestamp},
};

/// What faults cost together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Costs {
    /// How many completed.
    pub faults: u64,
    /// Sum of their known latencies.
    pub stall: Nanos,
    /// What they brought, as far as that is known.
    pub pages: PageCount,
    /// What of it was there at the end.
    pub resident: PageCount,
}

impl std::ops::AddAssign for Costs {
    fn add_assign(&mut self, other: Self) {
        let Self { faults, stall, pages, resident } = other;
        self.faults = self.faults.saturating_add(faults);
        self.stall += stall;
        self.pages += pages;
        self.resident += resident;
    }
}

/// What stacks are weighed by.
#[derive(Debug)]
pub struct Weight {
    /// Its name.
    pub name: &'static str,
    /// The unit of its numbers.
    pub unit: &'static str,
    /// What it is, in one line.
    pub doc: &'static str,
    /// What it is of faults with these costs, on a machine with pages of this size.
    pub of: fn(&Costs, PageSize) -> u64,
}

/// The weight that is taken unless another one is asked for.
pub const STALL: &Weight = &Weight {
    name: "stall",
    unit: "nanoseconds",
    doc: "time from the entries of faults to their completions",
    of: |costs, _| costs.stall.get(),
};

/// Every weight, in the order in which help shows them. Counts stand first, as profiles have them.
pub const WEIGHTS: &[&Weight] = &[
    &Weight { name: "faults", unit: "count", doc: "completed faults", of: |costs, _| costs.faults },
    STALL,
    &Weight {
        name: "bytes",
        unit: "bytes",
        doc: "pages that faults brought, as far as scans saw them (outcome_pages)",
        of: |costs, page| costs.pages.bytes(page),
    },
    &Weight {
        name: "resident",
        unit: "bytes",
        doc: "pages that faults brought and that were there at the end, of --to or their process if that is earlier: memory that stays",
        of: |costs, page| costs.resident.bytes(page),
    },
];

/// What faults have in common that are one sum.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    /// Name of the process.
    pub(super) process: Option<Comm>,
    /// Name of the thread.
    pub(super) thread: Option<Comm>,
    /// Which of [`Sums::stacks`] it is; `None` if that is not known.
    pub(super) stack: Option<u32>,
    pub(super) mode: Mode,
    /// Name of the system call in which the kernel faulted.
    pub(super) syscall: Option<&'static str>,
    /// Name of the function of the kernel that faulted.
    pub(super) function: Option<Arc<[u8]>>,
}

/// A stack, whatever addresses its files are mapped at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PlacedStack {
    /// Which of [`Sums::places`] its frames are, innermost first.
    pub(super) places: Box<[u32]>,
    /// Why there are no more.
    pub(super) end: StackEnd,
}

/// What faults cost, by stack.
#[derive(Debug)]
pub(super) struct Sums {
    pub(super) places: Vec<CodePlace>,
    pub(super) stacks: Vec<PlacedStack>,
    pub(super) groups: BTreeMap<Group, Costs>,
}

/// Adds up.
#[derive(Debug, Default)]
pub(super) struct StackSums {
    start: Timestamp,
    /// Whose faults are meant.
    times: TimeRange,
    places: Interned<CodePlace>,
    stacks: Interned<PlacedStack>,
    /// By the number that rows have.
    by_number: HashMap<u64, u32>,
    /// The first frames of the stack whose rows are coming.
    begun: Vec<u32>,
    groups: BTreeMap<Group, Costs>,
}

impl StackSums {
    /// What is made for it.
    pub(super) const ROWS: RowSet = RowSet::FRAMES.union(RowSet::FAULTS).union(RowSet::SUMS);

    /// Adds up faults of `times`.
    pub(super) fn of(times: TimeRange) -> Self {
        Self { times, ..Self::default() }
    }

    pub(super) const fn times(&self) -> TimeRange {
        self.times
    }

    /// Takes note of the host, before all rows.
    pub(super) const fn begin(&mut self, host: &HostFacts) {
        self.start = host.start;
    }

    /// Takes a row, of whatever table it is.
    pub(super) fn row(&mut self, row: &Row) {
        match row {
            Row::Frame(frame) => self.frame(frame),
            Row::Fault(fault) => self.fault(fault),
            Row::Timeline(_)
            | Row::Map(_)
            | Row::Region(_)
            | Row::Pages(_)
            | Row::Rss(_)
            | Row::Process(_)
            | Row::Loss(_) => {}
        }
    }

    fn frame(&mut self, row: &FrameRow) {
        // Rows of inlined functions say no more than the place, which has them all.
        if !row.inlined {
            self.begun.push(self.places.index(row.place.clone()));
        }
        if let Some(end) = row.end {
            let places = mem::take(&mut self.begun).into();
            self.by_number.insert(row.stack, self.stacks.index(PlacedStack { places, end }));
        }
    }

    fn fault(&mut self, row: &FaultRow) {
        let FaultRow { fault, comm, process_comm, function, syscall, stack, outcome, .. } = row;
        if !fault.kind.is_completed() || !self.times.contains(fault.time.since(self.start)) {
            return;
        }
        let group = Group {
            process: *process_comm,
            thread: *comm,
            stack: stack.and_then(|number| self.by_number.get(&number).copied()),
            mode: fault.mode,
            syscall: *syscall,
            function: function.clone().filter(|_| fault.mode == Mode::Kernel),
        };
        let costs = Costs {
            faults: 1,
            stall: fault.latency.unwrap_or_default(),
            pages: outcome.and_then(|outcome| outcome.pages).unwrap_or_default(),
            resident: PageCount::default(),
        };
        *self.groups.entry(group).or_default() += costs;
    }

    /// Hands over what there is, with what the summary says of it.
    pub(super) fn take(&mut self, summary: &Summary) -> Sums {
        for ResidentPages { process, stack, pages } in &summary.resident {
            let stack = self.by_number.get(stack).copied();
            let group = Group {
                process: *process,
                thread: None,
                stack,
                mode: Mode::User,
                syscall: None,
                function: None,
            };
            *self.groups.entry(group).or_default() += Costs { resident: *pages, ..Costs::default() };
        }
        let Self { places, stacks, groups, .. } = mem::take(self);
        Sums { places: places.into_values(), stacks: stacks.into_values(), groups }
    }
}

#[cfg(test)]
pub(super) mod tests;
