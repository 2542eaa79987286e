//! The regions against a reading of maps.

use rangemap::RangeSet;

use super::{AddressSpace, Change, Origin, Piece, RegionIds, Traits, traits::is_by_place};
use crate::{
    event::{MapsReading, Vma},
    timeline::{Backing, RegionId},
    units::{Timestamp, VirtAddr, VirtRange},
};

/// What a comparison found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// The regions were expected to be what was read; nothing here says that they were.
    Conclusive(Vec<Contradiction>),
    /// The regions were not known, or not known exactly; they are now as far as the reading tells.
    Resynchronised,
    /// The reading cannot be compared: it is of another address space, or too much changed meanwhile.
    Inconclusive,
}

impl Comparison {
    /// The same, where contradictions prove nothing.
    #[must_use]
    pub fn without_contradictions(self) -> Self {
        match self {
            Self::Conclusive(contradictions) if !contradictions.is_empty() => Self::Inconclusive,
            _ => self,
        }
    }
}

/// Pages at which maps shows something else than events told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// Where.
    pub range: VirtRange,
    /// The region that was believed to be there.
    pub region: Option<RegionId>,
    /// Permissions and path that maps shows; `None` if nothing is mapped.
    pub found: Option<([u8; 4], Backing, super::Name)>,
}

/// What maps shows at some pages, where the regions have something else.
#[derive(Clone)]
struct Difference {
    range: VirtRange,
    region: Option<RegionId>,
    seen: Option<Traits>,
}

impl AddressSpace {
    /// Compares the regions, as they are at `time`, with what was read until then, and makes them what was read.
    ///
    /// Pages that changed while maps was read prove nothing, and stay what events told.
    pub fn compare(&mut self, time: Timestamp, maps: &MapsReading, ids: &mut RegionIds) -> Comparison {
        self.settle(ids);
        let MapsReading { began, vmas, landmarks, devices: _, at_exit: _ } = maps;
        let places = self.landmarks.start_brk.zip(landmarks.start_brk);
        if places.is_some_and(|(ours, theirs)| ours != theirs) {
            // It is another address space: the record of an exec is missing.
            return Comparison::Inconclusive;
        }
        if self.is_loading || *began <= self.complete || *began <= self.forgotten {
            return Comparison::Inconclusive;
        }
        self.landmarks.start_brk = self.landmarks.start_brk.or(landmarks.start_brk);
        self.landmarks.start_stack = self.landmarks.start_stack.or(landmarks.start_stack);
        if self.brk.is_none() {
            self.brk = vmas.iter().rfind(|vma| vma.name == b"[heap]").map(|vma| vma.range.end());
        }
        let seen: Vec<(VirtRange, Traits)> =
            vmas.iter().map(|vma| (vma.range, Traits::of(vma, maps.kind_on(vma.device)))).collect();
        let raced = self.changed_since(*began);
        let turnover = self.turnover;
        self.hide_names_by(time, vmas, &ranges_of(&raced), ids);
        let differences = apart(self.differences(&seen), &ranges_of(&raced));
        let comparison = if self.doubtful.is_some() {
            Comparison::Resynchronised
        } else {
            Comparison::Conclusive(self.contradictions(&differences))
        };
        for Difference { range, region: _, seen } in differences {
            if let Some(file) = seen.as_ref().filter(|seen| self.is_unread_at(range, seen)) {
                self.complete_traits(time, range, ids, |traits| file.in_place_of(&traits));
                continue;
            }
            let corrected = seen.map(|traits| Piece { range, traits, origin: Origin::Fresh(None) });
            self.replace(time, ids, range, corrected.into_iter().collect(), &[]);
        }
        // When that came or went no event said.
        self.turnover = turnover;
        self.rename(&seen);
        match self.doubtful {
            Some(since) if *began < since => {}
            Some(_) => {
                self.doubtful = None;
                self.unknown = self.unknown_since(*began);
            }
            None => self.unknown = self.unknown.intersection(&raced).collect(),
        }
        self.forget_before(*began);
        comparison
    }

    /// Takes given names away where a reading shows `[heap]` or `[stack]`, but not in `raced`: where these are may not
    /// have been known when the names were given.
    fn hide_names_by(&mut self, time: Timestamp, vmas: &[Vma], raced: &[VirtRange], ids: &mut RegionIds) {
        for vma in vmas.iter().filter(|vma| is_by_place(&vma.name)) {
            for range in outside(vma.range, raced) {
                if self.overlapping(range).any(|region| region.traits.has_given_name()) {
                    self.hides_names = true;
                    self.complete_traits(time, range, ids, |traits| traits.with_given_name(b""));
                }
            }
        }
    }

    /// Whether perf could not say which file lies in `range`, and a reading shows now that it is `seen`.
    fn is_unread_at(&self, range: VirtRange, seen: &Traits) -> bool {
        self.find(range.start())
            .is_some_and(|held| seen.may_be_unread(&held.traits) && seen.perms() == held.traits.perms())
    }

    /// Which of `differences` contradict what events said.
    fn contradictions(&self, differences: &[Difference]) -> Vec<Contradiction> {
        let known = apart(differences.to_vec(), &ranges_of(&self.unknown)).into_iter();
        let is_expected = |range, seen: &Traits| seen.is_vsyscall() || self.is_unread_at(range, seen);
        let contradicting =
            known.filter(|found| !found.seen.as_ref().is_some_and(|seen| is_expected(found.range, seen)));
        let contradiction = |Difference { range, region, seen }| {
            let found = seen.map(|seen: Traits| {
                let (backing, name) = seen.shown(range, &self.landmarks, self.brk);
                (seen.perms(), backing, name)
            });
            Contradiction { range, region, found }
        };
        contradicting.map(contradiction).collect()
    }

    /// What changed at `since` or later.
    fn changed_since(&self, since: Timestamp) -> RangeSet<VirtAddr> {
        self.recent(since).map(|change| change.range.addrs()).collect()
    }

    /// What changed at `since` or later, without what the last change of it said all of.
    fn unknown_since(&self, since: Timestamp) -> RangeSet<VirtAddr> {
        let mut unknown = RangeSet::new();
        for Change { range, is_known, .. } in self.recent(since) {
            if *is_known {
                unknown.remove(range.addrs());
            } else {
                unknown.insert(range.addrs());
            }
        }
        unknown
    }

    /// The changes at `since` or later, in order.
    fn recent(&self, since: Timestamp) -> impl Iterator<Item = &Change> {
        let first = self.changes.partition_point(|change| change.time < since);
        self.changes.range(first..)
    }

    /// Where the regions and what was seen differ, in address order.
    fn differences(&self, seen: &[(VirtRange, Traits)]) -> Vec<Difference> {
        let mut borders: Vec<VirtAddr> = self
            .live
            .values()
            .map(|region| region.range)
            .chain(seen.iter().map(|(range, _)| *range))
            .flat_map(|range| [range.start(), range.end()])
            .collect();
        borders.sort_unstable();
        borders.dedup();
        let (mut regions, mut seen) = (self.live.values().peekable(), seen.iter().peekable());
        let mut differences: Vec<Difference> = Vec::new();
        for pair in borders.windows(2) {
            let &[start, end] = pair else { continue };
            let Some(range) = VirtRange::new(start, end) else { continue };
            while regions.next_if(|region| region.range.end() <= start).is_some() {}
            while seen.next_if(|(range, _)| range.end() <= start).is_some() {}
            let held = regions.peek().filter(|region| region.range.start() <= start);
            let shown = seen.peek().filter(|(range, _)| range.start() <= start).map(|(_, traits)| traits);
            let is_same = match (held, shown) {
                (None, None) => true,
                (Some(region), Some(traits)) => region.traits.looks_like(traits),
                (Some(region), None) => region.traits.is_vsyscall(),
                (None, Some(_)) => false,
            };
            if !is_same {
                let region = held.map(|region| region.id);
                differences.push(Difference { range, region, seen: shown.cloned() });
            }
        }
        differences
    }

    /// Gives regions of files the paths that maps shows now, for files may have been renamed or deleted; and what is known of
    /// their devices now.
    fn rename(&mut self, seen: &[(VirtRange, Traits)]) {
        for (range, traits) in seen {
            let region = self.live.range_mut(..=range.start()).next_back().map(|(_, region)| region);
            let Some(region) = region.filter(|region| region.range.contains(range.start())) else { continue };
            if region.traits.looks_like(traits)
                && let Some(renamed) = region.traits.with_file_of(traits)
            {
                region.traits = renamed;
            }
        }
    }
}

/// The ranges of `set`, in address order.
fn ranges_of(set: &RangeSet<VirtAddr>) -> Vec<VirtRange> {
    set.iter().filter_map(|range| VirtRange::new(range.start, range.end)).collect()
}

/// `differences` without the pages in `left_out`, which ascends; neighbours that say the same merged.
fn apart(differences: Vec<Difference>, left_out: &[VirtRange]) -> Vec<Difference> {
    let mut result: Vec<Difference> = Vec::new();
    for Difference { range, region, seen } in differences {
        for range in outside(range, left_out) {
            push(&mut result, Difference { range, region, seen: seen.clone() });
        }
    }
    result
}

/// The parts of `range` that are not in `holes`, which are in order and apart.
fn outside(range: VirtRange, holes: &[VirtRange]) -> Vec<VirtRange> {
    let first = holes.partition_point(|hole| hole.end() <= range.start());
    let overlapping = holes[first..].iter().take_while(|hole| hole.start() < range.end());
    let borders = overlapping.map(|hole| (hole.start(), hole.end())).chain([(range.end(), range.end())]);
    let mut next = range.start();
    let parts =
        borders.filter_map(|(until, resume)| VirtRange::new(std::mem::replace(&mut next, resume), until));
    parts.collect()
}

/// Adds `difference`, to the last one if it goes on there.
fn push(differences: &mut Vec<Difference>, difference: Difference) {
    if let Some(last) = differences.last_mut() {
        let is_alike = match (&last.seen, &difference.seen) {
            (None, None) => true,
            (Some(one), Some(other)) => one.looks_like(other),
            _ => false,
        };
        if is_alike && last.region == difference.region && last.range.end() == difference.range.start() {
            last.range = VirtRange::new(last.range.start(), difference.range.end()).unwrap_or(last.range);
            return;
        }
    }
    differences.push(difference);
}
