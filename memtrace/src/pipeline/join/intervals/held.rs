//! Rows of faults until their interval closes: their outcomes may become known meanwhile.

use std::collections::VecDeque;

use crate::{pipeline::join::pages::FaultId, timeline::FaultRow};

/// The rows that are not out yet.
#[derive(Debug)]
pub(super) struct HeldFaults {
    /// The fault of the first of them.
    first: FaultId,
    rows: VecDeque<FaultRow>,
}

impl HeldFaults {
    pub(super) const fn new() -> Self {
        Self { first: FaultId(0), rows: VecDeque::new() }
    }

    /// Holds a row.
    pub(super) fn push(&mut self, row: FaultRow) -> FaultId {
        let id = FaultId(self.first.0 + self.rows.len() as u64);
        self.rows.push_back(row);
        id
    }

    /// The row of the fault `id`; `None` if it is out.
    pub(super) fn get_mut(&mut self, id: FaultId) -> Option<&mut FaultRow> {
        let index = id.0.checked_sub(self.first.0)?;
        self.rows.get_mut(usize::try_from(index).ok()?)
    }

    /// Takes the first `count` rows.
    pub(super) fn take(&mut self, count: usize) -> impl Iterator<Item = FaultRow> {
        self.first.0 += count as u64;
        self.rows.drain(..count)
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
        }
    }

    #[test]
    fn fault_keeps_its_number_until_its_row_is_out() {
        let mut held = HeldFaults::new();
        let ids = [0, 1, 2].map(|cpu| held.push(row(cpu)));

        let out: Vec<_> = held.take(2).map(|row| row.fault.cpu).collect();

        assert_eq!(out, [Cpu(0), Cpu(1)]);
        let cpus = ids.map(|id| held.get_mut(id).map(|row| row.fault.cpu));
        assert_eq!(cpus, [None, None, Some(Cpu(2))]);
        assert_eq!(held.first(), ids[2]);
        assert!(held.push(row(3)) > ids[2]);
    }
}
