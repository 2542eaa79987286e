//! How much memory processes had, as the kernel counts it.

use crate::{
    event::{RssCounters, SpaceId, Tgid},
    units::Timestamp,
};

/// The kernel's counters of an address space at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RssRow {
    /// When they were read.
    pub time: Timestamp,
    /// Which address space.
    pub space: SpaceId,
    /// The process that was asked.
    pub tgid: Tgid,
    /// What they were.
    pub counters: RssCounters,
}
