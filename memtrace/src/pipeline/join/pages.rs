//! What is known of pages: their state at each look, what changed it since, and what faults gave.

pub(super) mod counts;
pub(super) mod gave;
pub(super) mod places;
pub(super) mod residence;
pub(super) mod touched;
