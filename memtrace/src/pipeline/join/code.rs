//! Sums of completed faults by the code that took them.

use std::collections::BTreeMap;

use crate::{
    event::Mode,
    timeline::{CodeTotals, FaultRow, Module},
};

/// Completed faults by code.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct CodeSums {
    /// By where the instruction lay, if that is known.
    pub(in crate::pipeline) modules: BTreeMap<Option<Module>, CodeTotals>,
    /// Of those in kernel mode, by the number of the system call, if that is known.
    pub(in crate::pipeline) syscalls: BTreeMap<Option<u32>, CodeTotals>,
}

impl CodeSums {
    /// Adds a fault, if it completed.
    pub(in crate::pipeline) fn add(&mut self, row: &FaultRow) {
        let FaultRow { fault, module, .. } = row;
        if !fault.kind.is_completed() {
            return;
        }
        if fault.mode == Mode::Kernel {
            self.syscalls.entry(fault.syscall).or_default().add(fault);
        }
        match self.modules.get_mut(module) {
            Some(totals) => totals.add(fault),
            None => self.modules.entry(module.clone()).or_default().add(fault),
        }
    }
}
