//! Code by where it lies, and what its faults cost.

use std::sync::Arc;

use crate::{
    event::{Fault, FaultCounts, FaultKind},
    units::Nanos,
};

/// Where an instruction lies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Module {
    /// In the kernel, which a system call or an exception had entered.
    Kernel,
    /// In anonymous memory without a name, as what a just-in-time compiler makes.
    Anonymous,
    /// In a region with this path or bracketed name.
    Named(Arc<[u8]>),
}

impl Module {
    /// That of a region with this path or bracketed name; empty if it has none.
    #[must_use]
    pub fn of(name: Arc<[u8]>) -> Self {
        if name.is_empty() { Self::Anonymous } else { Self::Named(name) }
    }

    /// In the words of maps, and bracketed where these have none.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        match self {
            Self::Kernel => b"[kernel]",
            Self::Anonymous => b"[anon]",
            Self::Named(name) => name,
        }
    }
}

/// Completed faults that some code took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CodeTotals {
    /// How many.
    pub faults: FaultCounts,
    /// Sum of their known latencies.
    pub latency_sum: Nanos,
}

impl CodeTotals {
    /// Adds `fault`, if it completed.
    pub fn add(&mut self, fault: &Fault) {
        match fault.kind {
            FaultKind::Minor => self.faults += FaultCounts { minor: 1, major: 0 },
            FaultKind::Major => self.faults += FaultCounts { minor: 0, major: 1 },
            _ => return,
        }
        self.latency_sum += fault.latency.unwrap_or_default();
    }
}

impl std::ops::AddAssign for CodeTotals {
    fn add_assign(&mut self, other: Self) {
        self.faults += other.faults;
        self.latency_sum += other.latency_sum;
    }
}
