//! What is known of pages: their state at each scan, what changed it since, and the outcomes of faults. Nobody but the ledger is asked.

mod counts;
mod evidence;
mod history;
mod ledger;
mod levels;
mod moves;
mod occupancy;
mod origins;
mod outcome;
mod proven;
mod races;
mod residency;

pub(in crate::pipeline) use ledger::{Findings, Happening, PageLedger};
pub(in crate::pipeline) use origins::Origin;
pub(in crate::pipeline) use outcome::FaultId;
pub(in crate::pipeline) use residency::Met;
