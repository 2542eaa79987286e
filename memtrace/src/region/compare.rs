//! The regions against a reading of maps.

use super::{AddressSpace, Origin, Piece, RegionIds, Traits};
use crate::{
    event::MapsLook,
    timeline::{Backing, RegionId},
    units::{Timestamp, VirtAddr, VirtRange},
};

/// What a comparison found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// The regions were expected to be what was read; nothing here says that they were.
    Conclusive(Vec<Contradiction>),
    /// The regions were not known, or not known exactly; they are now as far as the reading tells.
    Learnt,
    /// The reading cannot be compared: it is of another address space, or too much changed meanwhile.
    Inconclusive,
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
struct Difference {
    range: VirtRange,
    region: Option<RegionId>,
    seen: Option<Traits>,
}

impl AddressSpace {
    /// Compares the regions, as they are at `time`, with what was read until then, and makes them what was read.
    ///
    /// Pages that changed while maps was read prove nothing, and stay what events told.
    pub fn compare(&mut self, time: Timestamp, look: &MapsLook, ids: &mut RegionIds) -> Comparison {
        self.settle(ids);
        let MapsLook { began, vmas, landmarks } = look;
        let places = self.landmarks.start_brk.zip(landmarks.start_brk);
        if places.is_some_and(|(ours, theirs)| ours != theirs) {
            // It is another address space: the record of an exec is missing.
            return Comparison::Inconclusive;
        }
        if self.is_loading || *began <= self.complete || *began <= self.forgotten {
            return Comparison::Inconclusive;
        }
        let was_doubtful = self.doubtful.is_some();
        self.landmarks.start_brk = self.landmarks.start_brk.or(landmarks.start_brk);
        self.landmarks.start_stack = self.landmarks.start_stack.or(landmarks.start_stack);
        if self.brk.is_none() {
            self.brk = vmas.iter().rfind(|vma| vma.name == b"[heap]").map(|vma| vma.range.end());
        }
        let seen: Vec<(VirtRange, Traits)> = vmas.iter().map(|vma| (vma.range, Traits::of(vma))).collect();
        let raced = self.changed_since(*began);
        let differences = apart(self.differences(&seen), &raced);
        let mut contradictions: Vec<Contradiction> = Vec::new();
        for Difference { range, region, seen } in differences {
            let is_expected = was_doubtful || seen.as_ref().is_some_and(Traits::is_vsyscall);
            if !is_expected {
                let found = seen.as_ref().map(|seen| {
                    let (backing, name) = seen.shown(range, &self.landmarks, self.brk);
                    (seen.perms(), backing, name)
                });
                contradictions.push(Contradiction { range, region, found });
            }
            let corrected = seen.map(|traits| Piece { range, traits, origin: Origin::Fresh(None) });
            self.replace(time, ids, range, corrected.into_iter().collect(), &[]);
        }
        self.rename(&seen);
        self.forget_before(*began);
        if self.doubtful.is_some_and(|since| *began >= since) {
            self.doubtful = None;
        }
        if was_doubtful { Comparison::Learnt } else { Comparison::Conclusive(contradictions) }
    }

    /// What changed at `since` or later: ranges in order, apart.
    fn changed_since(&self, since: Timestamp) -> Vec<VirtRange> {
        let recent = self.changes.iter().rev().take_while(|(time, _)| *time >= since);
        let mut ranges: Vec<VirtRange> = recent.map(|(_, range)| *range).collect();
        ranges.sort_unstable_by_key(|range| range.start());
        let mut merged: Vec<VirtRange> = Vec::new();
        for range in ranges {
            match merged.last_mut() {
                Some(last) if last.end() >= range.start() => {
                    let end = last.end().max(range.end());
                    *last = VirtRange::new(last.start(), end).unwrap_or(*last);
                }
                _ => merged.push(range),
            }
        }
        merged
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

    /// Gives regions of files the paths that maps shows now: files may have been renamed or deleted.
    fn rename(&mut self, seen: &[(VirtRange, Traits)]) {
        for (range, traits) in seen {
            let region = self.live.range_mut(..=range.start()).next_back().map(|(_, region)| region);
            let Some(region) = region.filter(|region| region.range.contains(range.start())) else { continue };
            if region.traits.looks_like(traits)
                && let Some(renamed) = region.traits.with_path_of(traits)
            {
                region.traits = renamed;
            }
        }
    }
}

/// `differences` without the pages in `raced`, neighbours that say the same merged.
fn apart(differences: Vec<Difference>, raced: &[VirtRange]) -> Vec<Difference> {
    let mut result: Vec<Difference> = Vec::new();
    for Difference { range, region, seen } in differences {
        let mut next = range.start();
        let first = raced.partition_point(|raced| raced.end() <= range.start());
        let overlapping = raced[first..].iter().take_while(|raced| raced.start() < range.end());
        let gaps = overlapping.map(|raced| (raced.start(), raced.end())).chain([(range.end(), range.end())]);
        for (until, resume) in gaps {
            if let Some(range) = VirtRange::new(next, until) {
                push(&mut result, Difference { range, region, seen: seen.clone() });
            }
            next = resume;
        }
    }
    result
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
