//! What happened, in order of time: events applied one after another, observations in their place among them.

pub(super) mod code;
pub(super) mod forks;
pub(super) mod intervals;
mod lives;
pub(super) mod maps;
pub(super) mod pages;
pub(super) mod processes;
pub(super) mod readings;
pub(super) mod reclaims;
pub(super) mod stacks;
mod symbols;
pub(super) mod tasks;
pub(super) mod totals;
