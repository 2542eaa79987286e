//! What was chosen for one round of scans.

use std::{collections::BTreeMap, ops::Range};

use rangemap::RangeMap;

use crate::{
    event::{ScanReason, SpaceId},
    units::{VirtAddr, VirtRange},
};

/// Why which addresses of each address space are scanned. What was chosen first stays: better reasons come first.
#[derive(Debug, Default)]
pub(super) struct Chosen(BTreeMap<SpaceId, RangeMap<VirtAddr, ScanReason>>);

impl Chosen {
    /// Adds what is not chosen yet of `range`.
    pub(super) fn add(&mut self, space: SpaceId, range: VirtRange, reason: ScanReason) {
        let chosen = self.0.entry(space).or_default();
        let rest: Vec<_> = chosen.gaps(&range.addrs()).collect();
        for range in rest {
            chosen.insert(range, reason);
        }
    }

    /// The ranges, ascending and apart; neighbours that were chosen for the same reason are one.
    pub(super) fn into_ranges(self) -> impl Iterator<Item = (SpaceId, Vec<(VirtRange, ScanReason)>)> {
        let range =
            |(range, reason): (Range<VirtAddr>, _)| Some((VirtRange::new(range.start, range.end)?, reason));
        self.0.into_iter().map(move |(space, chosen)| (space, chosen.into_iter().filter_map(range).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> VirtRange {
        VirtRange::new(VirtAddr::from_raw(start), VirtAddr::from_raw(end)).expect("not empty")
    }

    #[test]
    fn ranges_are_apart_and_neighbours_of_one_reason_are_one() {
        use ScanReason::{Call, Heat, Rotation};
        let mut chosen = Chosen::default();
        for (start, end, reason) in
            [(20, 40, Heat), (0, 20, Heat), (40, 60, Call), (50, 55, Rotation), (60, 80, Rotation)]
        {
            chosen.add(SpaceId(1), range(start, end), reason);
        }

        let ranges: Vec<_> = chosen.into_ranges().collect();

        let apart = vec![(range(0, 40), Heat), (range(40, 60), Call), (range(60, 80), Rotation)];
        assert_eq!(ranges, [(SpaceId(1), apart)]);
    }

    #[test]
    fn what_is_hot_is_scanned_as_that_within_a_visit_of_the_whole() {
        use ScanReason::{Heat, Population};
        let mut chosen = Chosen::default();
        chosen.add(SpaceId(1), range(40, 60), Heat);
        chosen.add(SpaceId(1), range(0, 100), Population);

        let ranges: Vec<_> = chosen.into_ranges().collect();

        let apart = vec![(range(0, 40), Population), (range(40, 60), Heat), (range(60, 100), Population)];
        assert_eq!(ranges, [(SpaceId(1), apart)]);
    }
}
