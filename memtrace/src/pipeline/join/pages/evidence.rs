//! What happened to pages since a scan saw them, by address.

use std::ops::Range;

use rangemap::RangeMap;

use crate::units::{VirtAddr, VirtRange};

bitflags::bitflags! {
    /// What is known to have happened to a page since the last scan, and what makes the state that it had then uncertain.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(super) struct Evidence: u8 {
        /// A fault at it was completed.
        const FAULT = 1 << 0;
        /// A call mapped or unmapped it, or advised on it.
        const CALL = 1 << 1;
        /// A call populates it, and no scan saw it present yet. The call may go on for many scans, so this outlives them.
        const POPULATE = 1 << 2;
        /// What it was is not known.
        const UNKNOWN = 1 << 3;
        /// A fault or a call raced with the scan, which may have seen it before or after.
        const RACED = 1 << 4;
    }
}

/// Evidence by address; where there is none, pages are as they were seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct EvidenceMap(RangeMap<VirtAddr, Evidence>);

impl EvidenceMap {
    /// `evidence` for every address.
    pub(super) fn everywhere(evidence: Evidence) -> Self {
        let mut map = Self::default();
        map.set(VirtAddr::from_raw(0)..VirtAddr::from_raw(u64::MAX), evidence);
        map
    }

    /// Puts `evidence` in the place of what there is for `range`.
    pub(super) fn set(&mut self, range: Range<VirtAddr>, evidence: Evidence) {
        if evidence.is_empty() {
            self.0.remove(range);
        } else {
            self.0.insert(range, evidence);
        }
    }

    /// Adds `evidence` to what there is for `range`.
    pub(super) fn add(&mut self, range: Range<VirtAddr>, evidence: Evidence) {
        let parts: Vec<_> = self.parts(&range).collect();
        self.set(range, evidence);
        for (part, before) in parts {
            self.set(part, before | evidence);
        }
    }

    /// Leaves only what `kept` has of the evidence for `range`.
    pub(super) fn retain(&mut self, range: &Range<VirtAddr>, kept: Evidence) {
        let parts: Vec<_> = self.parts(range).collect();
        for (part, before) in parts {
            self.set(part, before & kept);
        }
    }

    /// What there is for the page at `addr`.
    pub(super) fn at(&self, addr: VirtAddr) -> Evidence {
        self.0.get(&addr).copied().unwrap_or_default()
    }

    /// What there is for `range`, in order, and where.
    pub(super) fn parts<'a>(
        &'a self,
        range: &Range<VirtAddr>,
    ) -> impl Iterator<Item = (Range<VirtAddr>, Evidence)> + use<'a> {
        let Range { start, end } = *range;
        let parts = self.0.overlapping(start..end);
        parts.map(move |(part, evidence)| (part.start.max(start)..part.end.min(end), *evidence))
    }

    /// All there is, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Range<VirtAddr>, Evidence)> {
        self.0.iter().map(|(range, evidence)| (range.clone(), *evidence))
    }

    /// The first address behind `addr` and in `range` at which the evidence changes.
    pub(super) fn next_border(&self, addr: VirtAddr, end: VirtAddr) -> Option<VirtAddr> {
        let mut borders = self.0.overlapping(addr..end).flat_map(|(part, _)| [part.start, part.end]);
        borders.find(|border| *border > addr)
    }

    /// Whether there is any of `evidence` for a page of `range`.
    pub(super) fn has(&self, range: VirtRange, evidence: Evidence) -> bool {
        self.parts(&range.addrs()).any(|(_, here)| here.intersects(evidence))
    }

    /// Whether there is any of `evidence` for each page of `range`.
    pub(super) fn covers(&self, range: VirtRange, evidence: Evidence) -> bool {
        let mut next = range.start();
        for (part, here) in self.parts(&range.addrs()) {
            if part.start > next || !here.intersects(evidence) {
                return false;
            }
            next = part.end;
        }
        next >= range.end()
    }

    /// How many ranges it takes.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl FromIterator<(Range<VirtAddr>, Evidence)> for EvidenceMap {
    fn from_iter<T: IntoIterator<Item = (Range<VirtAddr>, Evidence)>>(parts: T) -> Self {
        let mut map = Self::default();
        for (range, evidence) in parts {
            map.set(range, evidence);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> VirtRange {
        VirtRange::new(VirtAddr::from_raw(start), VirtAddr::from_raw(end)).expect("not empty")
    }

    fn all(map: &EvidenceMap) -> Vec<(u64, u64, Evidence)> {
        map.iter().map(|(part, here)| (part.start.as_raw(), part.end.as_raw(), here)).collect()
    }

    #[test]
    fn evidence_adds_up_where_ranges_overlap() {
        let mut map = EvidenceMap::default();
        map.add(range(1, 5).addrs(), Evidence::CALL);
        map.add(range(3, 8).addrs(), Evidence::FAULT);
        let both = Evidence::CALL | Evidence::FAULT;
        assert_eq!(all(&map), [(1, 3, Evidence::CALL), (3, 5, both), (5, 8, Evidence::FAULT)]);

        map.retain(&range(4, 6).addrs(), Evidence::CALL);
        assert_eq!(
            all(&map),
            [(1, 3, Evidence::CALL), (3, 4, both), (4, 5, Evidence::CALL), (6, 8, Evidence::FAULT)]
        );
        assert_eq!(
            [2, 3, 5].map(|addr| map.at(VirtAddr::from_raw(addr))),
            [Evidence::CALL, both, Evidence::empty()]
        );
    }

    #[test]
    fn range_is_covered_if_there_is_evidence_for_each_page() {
        let parts = [(range(1, 3).addrs(), Evidence::UNKNOWN), (range(3, 5).addrs(), Evidence::RACED)];
        let map: EvidenceMap = parts.into_iter().collect();
        let either = Evidence::UNKNOWN | Evidence::RACED;

        assert!(map.covers(range(1, 5), either));
        assert!(!map.covers(range(1, 5), Evidence::RACED));
        assert!(!map.covers(range(0, 2), either));
        assert!(!map.covers(range(4, 6), either));
        assert!(map.has(range(4, 6), Evidence::RACED));
        assert!(!map.has(range(5, 6), either));
    }
}
