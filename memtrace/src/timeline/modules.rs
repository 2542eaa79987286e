//! Code by where it lies, and what its faults cost.

use std::sync::Arc;

use crate::{event::FaultCounts, units::Nanos};

/// Where an instruction lies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Module {
    /// In the kernel, which a system call or an exception had entered.
    Kernel,
    /// In anonymous memory without a name, as what a just-in-time compiler makes.
    Anonymous,
    /// In a region with this path or bracketed name.
    Named(Arc<[u8]>),
}

impl Module {
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

/// Completed faults that instructions of one module took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModuleTotals {
    /// How many.
    pub faults: FaultCounts,
    /// Sum of their known latencies.
    pub latency_sum: Nanos,
}
