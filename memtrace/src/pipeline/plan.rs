//! What to ask for next, decided on arrival: events are not in order yet, and a short process does not wait until they are.

pub(super) mod accounting;
pub(super) mod checks;
pub(super) mod directory;
pub(super) mod focus;
