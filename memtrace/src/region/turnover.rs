//! How much of an address space comes and goes.

use super::{AddressSpace, Origin, Piece, Region};
use crate::units::VirtRange;

/// How much was mapped, and how much is mapped no more, in bytes.
///
/// What only moves is neither; what another mapping replaces is both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turnover {
    /// Bytes that became mapped.
    pub came: u64,
    /// Bytes that ceased to be.
    pub went: u64,
    /// Whether it may have been more, since the regions were doubtful.
    pub lower_bound: bool,
}

impl AddressSpace {
    /// How many bytes of `range` are mapped.
    #[must_use]
    pub fn mapped_bytes(&self, range: VirtRange) -> u64 {
        self.overlapping(range)
            .filter_map(|region| region.range.intersection(range))
            .map(VirtRange::bytes)
            .sum()
    }

    /// Takes what events mapped and unmapped since that was last taken.
    pub fn take_turnover(&mut self) -> Turnover {
        let Turnover { came, went, lower_bound } = std::mem::take(&mut self.turnover);
        Turnover { came, went, lower_bound: lower_bound || self.is_doubtful() }
    }

    /// Counts what comes and goes where `pieces` take the place of what the regions `before` have in `range`.
    pub(super) fn count(&mut self, range: VirtRange, before: &[Region], pieces: &[Piece]) {
        if self.is_doubtful() {
            self.turnover.lower_bound = true;
            return;
        }
        let stays = |piece: &&Piece| {
            let held = before.partition_point(|region| region.range.end() <= piece.range.start());
            let held = before.get(held).map(|region| region.id);
            matches!(piece.origin, Origin::Region { id, .. } if Some(id) == held)
        };
        let was: u64 =
            before.iter().filter_map(|region| region.range.intersection(range)).map(VirtRange::bytes).sum();
        let is: u64 = pieces.iter().map(|piece| piece.range.bytes()).sum();
        let kept: u64 = pieces.iter().filter(stays).map(|piece| piece.range.bytes()).sum();
        self.turnover.came = self.turnover.came.saturating_add(is - kept);
        self.turnover.went = self.turnover.went.saturating_add(was - kept);
    }

    /// Counts no longer what only moved, in `pieces`.
    pub(super) fn count_as_moved(&mut self, pieces: &[Piece]) {
        let moved: u64 = pieces.iter().map(|piece| piece.range.bytes()).sum();
        // The regions may have been doubtful at one end of the move, where it was not counted then.
        self.turnover.came = self.turnover.came.saturating_sub(moved);
        self.turnover.went = self.turnover.went.saturating_sub(moved);
    }
}
