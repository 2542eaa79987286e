//! What was chosen for one round of scans.

use std::collections::BTreeMap;

use crate::{
    event::{ScanReason, SpaceId},
    units::VirtRange,
};

/// Ranges by address space; each address once.
#[derive(Debug, Default)]
pub(super) struct Chosen(BTreeMap<SpaceId, Vec<(VirtRange, ScanReason)>>);

impl Chosen {
    pub(super) fn add(&mut self, space: SpaceId, range: VirtRange, reason: ScanReason) {
        self.0.entry(space).or_default().push((range, reason));
    }

    /// The ranges, ascending and apart; neighbours that were chosen for the same reason are one.
    pub(super) fn into_ranges(self) -> impl Iterator<Item = (SpaceId, Vec<(VirtRange, ScanReason)>)> {
        self.0.into_iter().map(|(space, ranges)| (space, disjoint(ranges)))
    }
}

/// Where two overlap, the one that begins first has it all; of those that begin together, the better reason.
fn disjoint(mut ranges: Vec<(VirtRange, ScanReason)>) -> Vec<(VirtRange, ScanReason)> {
    ranges.sort_unstable_by_key(|(range, reason)| (range.start(), *reason));
    let mut apart: Vec<(VirtRange, ScanReason)> = Vec::new();
    for (range, reason) in ranges {
        let Some((last, last_reason)) = apart.last_mut() else {
            apart.push((range, reason));
            continue;
        };
        let Some(rest) = VirtRange::new(range.start().max(last.end()), range.end()) else { continue };
        match VirtRange::new(last.start(), rest.end()) {
            Some(both) if *last_reason == reason && last.end() == rest.start() => *last = both,
            _ => apart.push((rest, reason)),
        }
    }
    apart
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::VirtAddr;

    fn range(start: u64, end: u64) -> VirtRange {
        VirtRange::new(VirtAddr::from_raw(start), VirtAddr::from_raw(end)).expect("not empty")
    }

    #[test]
    fn ranges_are_apart_and_neighbours_of_one_reason_are_one() {
        use ScanReason::{Call, Heat, Rotation};
        let mut chosen = Chosen::default();
        for (start, end, reason) in
            [(60, 80, Rotation), (20, 40, Heat), (0, 20, Heat), (40, 60, Call), (20, 70, Rotation)]
        {
            chosen.add(SpaceId(1), range(start, end), reason);
        }

        let ranges: Vec<_> = chosen.into_ranges().collect();

        let apart = vec![(range(0, 40), Heat), (range(40, 80), Rotation)];
        assert_eq!(ranges, [(SpaceId(1), apart)]);
    }
}
