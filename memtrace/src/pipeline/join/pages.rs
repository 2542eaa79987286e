//! What is known of pages: their state at each scan, what changed it since, and what faults gave.

pub(super) mod counts;
pub(super) mod history;
pub(super) mod occupancy;
pub(super) mod outcome;
pub(super) mod races;
