//! Rows of faults until their interval closes: their outcomes may become known meanwhile.

use std::collections::VecDeque;

use crate::{
    event::Access,
    pipeline::join::pages::FaultId,
    timeline::{FaultOutcome, FaultRow, OutcomeKind, OutcomeUnknown},
    units::Nanos,
};

/// The rows that are not out yet.
#[derive(Debug)]
pub(super) struct HeldFaults {
    /// The fault of the first of them.
    first: FaultId,
    rows: VecDeque<HeldFault>,
}

/// A row, and what follows from what its page was.
#[derive(Debug)]
struct HeldFault {
    row: FaultRow,
    proof: Option<OutcomeKind>,
}

impl HeldFault {
    /// The row with all that will ever be known of its outcome.
    fn settle(self) -> FaultRow {
        let Self { mut row, proof } = self;
        if let Some(kind) = proof {
            let scanned = row.outcome.filter(|outcome| outcome.kind == kind);
            row.outcome =
                scanned.or(Some(FaultOutcome { kind, pages: kind.pages_alone(), lag: Nanos::default() }));
        }
        let fault = &row.fault;
        let is_wp = fault.access == Some(Access::Write) && fault.protection == Some(true);
        if row.outcome.is_none() && is_wp && row.place.is_some() && fault.kind.is_completed() {
            let lag = Nanos::default();
            row.outcome = Some(FaultOutcome { kind: OutcomeKind::WriteProtect, pages: None, lag });
        }
        row.outcome_unknown = match row.outcome_unknown {
            _ if row.outcome.is_some() || !row.fault.kind.is_completed() => None,
            _ if row.place.is_none() => Some(OutcomeUnknown::NoRegion),
            why => why.or(Some(OutcomeUnknown::NotScanned)),
        };
        row
    }
}

impl HeldFaults {
    pub(super) const fn new() -> Self {
        Self { first: FaultId(0), rows: VecDeque::new() }
    }

    /// Holds a row.
    pub(super) fn push(&mut self, row: FaultRow, proof: Option<OutcomeKind>) -> FaultId {
        let id = FaultId(self.first.0 + self.rows.len() as u64);
        self.rows.push_back(HeldFault { row, proof });
        id
    }

    fn held(&mut self, id: FaultId) -> Option<&mut HeldFault> {
        let index = id.0.checked_sub(self.first.0)?;
        self.rows.get_mut(usize::try_from(index).ok()?)
    }

    /// The row of the fault `id`; `None` if it is out.
    pub(super) fn get_mut(&mut self, id: FaultId) -> Option<&mut FaultRow> {
        self.held(id).map(|held| &mut held.row)
    }

    /// The outcome of the fault `id` cannot be known any more, by this reason.
    pub(super) fn give_up(&mut self, id: FaultId, why: OutcomeUnknown) {
        let Some(held) = self.held(id) else { return };
        if why == OutcomeUnknown::Raced {
            held.proof = None;
            held.row.outcome = None;
        }
        if held.row.outcome_unknown != Some(OutcomeUnknown::Raced) {
            held.row.outcome_unknown = Some(why);
        }
    }

    /// Takes the first `count` rows.
    pub(super) fn take(&mut self, count: usize) -> impl Iterator<Item = FaultRow> {
        self.first.0 += count as u64;
        self.rows.drain(..count).map(HeldFault::settle)
    }

    /// The first fault of which the row is not out.
    pub(super) const fn first(&self) -> FaultId {
        self.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Cpu, Fault, FaultKind, Mode, Tid},
        units::{Timestamp, VirtAddr},
    };

    fn row(cpu: u32) -> FaultRow {
        let fault = Fault {
            time: Timestamp::default(),
            tid: Tid(1),
            cpu: Cpu(cpu),
            addr: VirtAddr::from_raw(0),
            ip: VirtAddr::from_raw(0),
            access: None,
            protection: None,
            mode: Mode::User,
            kind: FaultKind::Minor,
            latency: None,
            syscall: None,
            stack: None,
        };
        FaultRow {
            fault,
            process: None,
            process_comm: None,
            comm: None,
            place: None,
            module: None,
            function: None,
            syscall: None,
            stack: None,
            outcome: None,
            outcome_unknown: None,
            refault: None,
            space: None,
        }
    }

    #[test]
    fn fault_keeps_its_number_until_its_row_is_out() {
        let mut held = HeldFaults::new();
        let ids = [0, 1, 2].map(|cpu| held.push(row(cpu), None));

        let out: Vec<_> = held.take(2).map(|row| row.fault.cpu).collect();

        assert_eq!(out, [Cpu(0), Cpu(1)]);
        let cpus = ids.map(|id| held.get_mut(id).map(|row| row.fault.cpu));
        assert_eq!(cpus, [None, None, Some(Cpu(2))]);
        assert_eq!(held.first(), ids[2]);
        assert!(held.push(row(3), None) > ids[2]);
    }
}
