//! The regions of an address space, with an identity that outlives splits, merges, moves and new protection.
//!
//! Layer: core. Input: map events in the order in which they took effect, and readings of maps. Output: [`AddressSpace`].
//! Source: `mm/mmap.c`, `mm/mremap.c`, `mm/mprotect.c`; `kernel/events/core.c` for the VMAs that perf shows.
//! Keeps: live regions never overlap, and neighbours differ in something that maps shows; a retired region is kept until
//! it is taken.
//! Not here: reading maps (`probe`), the order of events (`order`).
//!
//! A region is the longest stretch of pages that maps shows alike: same protection, same file at the same distance, same
//! name. After each change the stretches are found anew where it happened. In order of address, each goes on as the oldest
//! region that had one of its pages and that no stretch before it goes on as, and is a new region if there is none. A region
//! of which all pages move, moves; the part of one that moves away is a new region.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use rangemap::RangeSet;

use crate::{
    event::{Landmarks, ReportedVma, Tid},
    timeline::{RegionId, RegionLabel},
    units::{Nanos, PageCount, PageSize, Timestamp, VirtAddr, VirtRange},
};

mod compare;
mod shown;
mod traits;
mod transform;
mod turnover;

#[cfg(test)]
mod tests;

pub use compare::{Comparison, Contradiction};
pub use traits::{Traits, backing_of};
pub use turnover::Turnover;

/// Gives every region of a recording a number of its own.
#[derive(Debug, Default)]
pub struct RegionIds {
    given: u64,
}

impl RegionIds {
    fn next(&mut self) -> RegionId {
        self.given += 1;
        RegionId(self.given)
    }
}

/// A mapped stretch of address space that looks alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Which one.
    pub id: RegionId,
    /// Where it lies.
    pub range: VirtRange,
    /// What it is.
    pub traits: Traits,
    /// When it came to be.
    pub born: Timestamp,
    /// The region that it was split from, copied from at a fork, or moved out of.
    pub parent: Option<RegionId>,
}

/// A region that is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retired {
    /// When it went.
    pub died: Timestamp,
    /// As it was.
    pub region: Region,
    /// As rows show it.
    pub label: RegionLabel,
}

/// A stretch of pages while regions are found anew.
#[derive(Clone, Debug)]
struct Piece {
    range: VirtRange,
    traits: Traits,
    origin: Origin,
}

impl Piece {
    /// Whether `next` is of the same region.
    fn goes_on(&self, next: &Self) -> bool {
        self.range.end() == next.range.start() && self.traits.is_like(&next.traits)
    }
}

/// Where the pages of a [`Piece`] come from.
#[derive(Clone, Copy, Debug)]
enum Origin {
    /// They are those of this region.
    Region { id: RegionId, born: Timestamp, parent: Option<RegionId> },
    /// They are new, or no longer those of the region named.
    Fresh(Option<RegionId>),
}

impl Region {
    /// Its pages in `range`, which lies in it.
    fn piece(&self, range: VirtRange) -> Piece {
        let Self { id, range: _, traits, born, parent } = self;
        let origin = Origin::Region { id: *id, born: *born, parent: *parent };
        Piece { range, traits: traits.clone(), origin }
    }
}

/// Time for which it is remembered where code lay that went: a hundred times that between two drains, in which its rules are taken
/// away.
pub const CODE_REMEMBERED: Nanos = Nanos::new(1_000_000_000);

/// Changes that are remembered for comparisons with readings that took some time.
const REMEMBERED: usize = 1 << 16;

/// Pages that an event changed.
#[derive(Clone, Copy, Debug)]
struct Change {
    time: Timestamp,
    range: VirtRange,
    /// Whether the event said all of what is mapped there; others say how it differs from what was mapped before.
    is_known: bool,
}

/// A VMA that perf showed, and that the call which made it may tell more of.
#[derive(Clone, Debug)]
struct Pending {
    time: Timestamp,
    tid: Tid,
    shown: ReportedVma,
}

/// The regions of one address space.
#[derive(Clone, Debug)]
pub struct AddressSpace {
    page: PageSize,
    live: BTreeMap<VirtAddr, Region>,
    retired: Vec<Retired>,
    pending: Option<Pending>,
    landmarks: Landmarks,
    /// The end of the heap, rounded up to a page.
    brk: Option<VirtAddr>,
    /// What changed lately, in order.
    changes: VecDeque<Change>,
    /// Of the latest change that is no longer remembered.
    forgotten: Timestamp,
    /// Since when the regions may differ from what the kernel has, without contradicting any event; until a reading that
    /// began later.
    doubtful: Option<Timestamp>,
    /// Pages that changed while such a reading was taken, by events which say less than what is mapped there.
    unknown: RangeSet<VirtAddr>,
    /// Whether events told of all advice on which forks depend: maps does not show it.
    is_advice_known: bool,
    /// Readings that began before saw only part of it.
    complete: Timestamp,
    /// The kernel is loading a program into it.
    is_loading: bool,
    /// The VMA that was shown last while the program is loaded.
    loaded: Option<VirtRange>,
    /// What events mapped and unmapped since that was last taken.
    turnover: Turnover,
    /// Memory in its heap or first stack may have been given names, which do not show there.
    hides_names: bool,
    /// How often executable pages of files went.
    code_changes: u64,
    /// Where they lay, and when they went: of the last [`CODE_REMEMBERED`] before the latest.
    lost_code: Vec<(Timestamp, VirtRange)>,
}

impl AddressSpace {
    /// An address space that has nothing mapped at `time`; a `doubtful` one may have, and a reading of maps will tell.
    #[must_use]
    pub fn new(page: PageSize, time: Timestamp, doubtful: bool) -> Self {
        Self {
            page,
            live: BTreeMap::new(),
            retired: Vec::new(),
            pending: None,
            landmarks: Landmarks::default(),
            brk: None,
            changes: VecDeque::new(),
            forgotten: Timestamp::default(),
            doubtful: doubtful.then_some(time),
            unknown: RangeSet::new(),
            is_advice_known: !doubtful,
            complete: time,
            is_loading: false,
            loaded: None,
            turnover: Turnover::default(),
            hides_names: doubtful,
            code_changes: 0,
            lost_code: Vec::new(),
        }
    }

    /// An empty address space into which the kernel begins to load a program at `time`.
    #[must_use]
    pub fn loading(page: PageSize, time: Timestamp) -> Self {
        Self { is_loading: true, ..Self::new(page, time, false) }
    }

    /// Whether the kernel is still loading the program.
    #[must_use]
    pub const fn is_loading(&self) -> bool {
        self.is_loading
    }

    /// From `time` on the regions may differ from the kernel's: records are missing.
    pub fn doubt(&mut self, time: Timestamp) {
        self.doubtful = self.doubtful.max(Some(time));
        self.is_advice_known = false;
    }

    /// Whether a reading of maps is needed to know the regions.
    #[must_use]
    pub fn is_doubtful(&self) -> bool {
        self.doubtful.is_some() || !self.unknown.is_empty()
    }

    /// A program has been loaded at `time`; readings that began before saw only part of it.
    pub fn complete(&mut self, time: Timestamp, landmarks: Landmarks) {
        self.complete = time;
        self.is_loading = false;
        let Landmarks { start_brk, start_stack } = self.landmarks;
        self.landmarks = Landmarks {
            start_brk: landmarks.start_brk.or(start_brk),
            start_stack: landmarks.start_stack.or(start_stack),
        };
        if self.brk.is_none() {
            self.brk = landmarks.start_brk.map(|start| self.page_up(start));
        }
    }

    /// The kernel counts `total_vm` mapped pages at `time`. If the regions have more or less, events did not tell everything.
    pub fn expect_pages(&mut self, time: Timestamp, total_vm: Option<PageCount>) {
        let mapped = self.live.values().filter(|region| !region.traits.is_vsyscall());
        let pages: u64 = mapped.map(|region| region.range.pages(self.page).get()).sum();
        if total_vm.is_some_and(|expected| expected != PageCount::new(pages)) {
            self.doubt(time);
        }
    }

    /// The copy that a fork at `time` makes: without what was advised not to be copied, and with its heap ending at `brk`
    /// if that is known.
    #[must_use]
    pub fn fork(&mut self, time: Timestamp, brk: Option<VirtAddr>, ids: &mut RegionIds) -> Self {
        self.settle(ids);
        let copied = self.live.values().filter(|region| !region.traits.is_kept_from_forks());
        let copy = |region: &Region| {
            let region = Region { id: ids.next(), born: time, parent: Some(region.id), ..region.clone() };
            (region.range.start(), region)
        };
        Self {
            live: copied.map(copy).collect(),
            landmarks: self.landmarks,
            brk: brk.map(|brk| self.page_up(brk)).or(self.brk),
            hides_names: self.hides_names,
            ..Self::new(self.page, time, !self.is_advice_known)
        }
    }

    /// How often executable pages of files went, or others came in their place.
    #[must_use]
    pub const fn code_changes(&self) -> u64 {
        self.code_changes
    }

    /// Whether code lay at `addr` that went within [`CODE_REMEMBERED`] before `time`.
    #[must_use]
    pub fn has_lost_code(&self, addr: VirtAddr, time: Timestamp) -> bool {
        let since = time.before(CODE_REMEMBERED);
        self.lost_code.iter().any(|(went, range)| since <= *went && *went <= time && range.contains(addr))
    }

    /// Notes where executable pages of files in `range` went: `pieces` take the place of what `regions` have there.
    fn lose_code(&mut self, time: Timestamp, regions: &[Region], range: VirtRange, pieces: &[Piece]) {
        for region in regions.iter().filter(|region| region.traits.is_code()) {
            let Some(part) = region.range.intersection(range) else { continue };
            let is_kept =
                |piece: &&Piece| piece.traits.is_code() && piece.traits.has_content_of(&region.traits);
            let kept = pieces.iter().filter(is_kept).filter_map(|piece| piece.range.intersection(part));
            if kept.map(VirtRange::bytes).sum::<u64>() < part.bytes() {
                self.code_changes += 1;
                self.lost_code.retain(|(went, _)| time.before(CODE_REMEMBERED) <= *went);
                self.lost_code.push((time, part));
            }
        }
    }

    /// The live region that holds `addr`.
    #[must_use]
    pub fn find(&self, addr: VirtAddr) -> Option<&Region> {
        let (_, region) = self.live.range(..=addr).next_back()?;
        region.range.contains(addr).then_some(region)
    }

    /// Live regions that overlap `range`, in address order.
    pub fn overlapping(&self, range: VirtRange) -> impl Iterator<Item = &Region> {
        let first = self.live.range(..range.start()).next_back();
        let rest = self.live.range(range.addrs());
        let overlaps = move |region: &&Region| region.range.intersection(range).is_some();
        first.into_iter().chain(rest).map(|(_, region)| region).filter(overlaps)
    }

    /// The live regions, in address order.
    pub fn live(&self) -> impl Iterator<Item = &Region> {
        self.live.values()
    }

    /// Regions that retired and have not been taken.
    #[must_use]
    pub fn retired(&self) -> &[Retired] {
        &self.retired
    }

    /// Takes the regions that retired before `time`.
    pub fn take_retired(&mut self, time: Timestamp) -> impl Iterator<Item = Retired> {
        self.retired.extract_if(.., move |retired| retired.died < time)
    }

    /// Everything goes, for the last task does.
    pub fn die(&mut self, time: Timestamp, ids: &mut RegionIds) {
        self.settle(ids);
        for region in std::mem::take(&mut self.live).into_values() {
            self.retire(time, region);
        }
    }

    /// How rows show `region`.
    #[must_use]
    pub fn label(&self, region: &Region) -> RegionLabel {
        let Region { id, range, traits, .. } = region;
        let (backing, name) = traits.shown(*range, &self.landmarks, self.brk);
        let file_offset = traits.file_offset(range.start());
        RegionLabel { id: *id, range: *range, perms: traits.perms(), backing, name, file_offset }
    }

    fn retire(&mut self, died: Timestamp, region: Region) {
        let label = self.label(&region);
        self.retired.push(Retired { died, region, label });
    }

    /// Puts `pieces`, which lie in `range` in order, in the place of what was there, and finds the regions anew.
    ///
    /// Regions in `moving` do not die, for their pages go elsewhere.
    fn replace(
        &mut self,
        time: Timestamp,
        ids: &mut RegionIds,
        range: VirtRange,
        pieces: Vec<Piece>,
        moving: &[RegionId],
    ) {
        let mut window = self.take_window(range);
        self.count(range, &window, &pieces);
        self.lose_code(time, &window, range, &pieces);
        let before = window.iter().filter_map(|region| clip(region, VirtAddr::default(), range.start()));
        let after =
            window.iter().filter_map(|region| clip(region, range.end(), VirtAddr::from_raw(u64::MAX)));
        let mut pieces: Vec<Piece> = before.chain(pieces).chain(after).collect();
        if self.hide_names(&mut pieces)
            && let Some(extent) = extent(&pieces)
        {
            // Next to those may lie what is like them now.
            let beside = self.take_window(extent);
            pieces.extend(beside.iter().map(|region| region.piece(region.range)));
            pieces.sort_unstable_by_key(|piece| piece.range.start());
            window.extend(beside);
        }
        let mut taken = BTreeSet::new();
        for run in pieces.chunk_by(Piece::goes_on) {
            if let Some(range) = extent(run) {
                self.insert(time, ids, range, run, &mut taken);
            }
        }
        for region in window {
            if !taken.contains(&region.id) && !moving.contains(&region.id) {
                self.retire(time, region);
            }
        }
    }

    /// Takes the given names away where maps shows `[heap]` or `[stack]` all the same; whether there were any.
    fn hide_names(&mut self, pieces: &mut [Piece]) -> bool {
        let mut has_hidden = false;
        for run in pieces.chunk_by_mut(Piece::goes_on) {
            let is_named = run.first().is_some_and(|piece| piece.traits.has_given_name());
            if is_named && extent(run).is_some_and(|range| self.is_named_by_place(range)) {
                has_hidden = true;
                for piece in run {
                    piece.traits = piece.traits.clone().with_given_name(b"");
                }
            }
        }
        self.hides_names |= has_hidden;
        has_hidden
    }

    /// Whether `range` is part of the heap, or holds the start of the first stack.
    fn is_named_by_place(&self, range: VirtRange) -> bool {
        let Landmarks { start_brk, start_stack } = self.landmarks;
        let heap = start_brk.zip(self.brk).and_then(|(start, end)| VirtRange::new(start, end));
        heap.is_some_and(|heap| heap.intersection(range).is_some())
            || start_stack.is_some_and(|stack| range.contains(stack))
    }

    /// Makes a region of the pieces of a run.
    fn insert(
        &mut self,
        time: Timestamp,
        ids: &mut RegionIds,
        range: VirtRange,
        run: &[Piece],
        taken: &mut BTreeSet<RegionId>,
    ) {
        let known = run.iter().filter_map(|piece| match piece.origin {
            Origin::Region { id, born, parent } => Some((id, born, parent)),
            Origin::Fresh(_) => None,
        });
        let oldest = known.filter(|(id, ..)| !taken.contains(id)).min_by_key(|(id, ..)| *id);
        let (id, born, parent) = oldest.unwrap_or_else(|| {
            let parent = run.first().and_then(|piece| match piece.origin {
                Origin::Region { id, .. } => Some(id),
                Origin::Fresh(parent) => parent,
            });
            (ids.next(), time, parent)
        });
        taken.insert(id);
        let Some(traits) = run.first().map(|piece| piece.traits.clone()) else { return };
        self.live.insert(range.start(), Region { id, range, traits, born, parent });
    }

    /// Takes the regions that overlap or touch `range`.
    fn take_window(&mut self, range: VirtRange) -> Vec<Region> {
        let before = self.live.range(..range.start()).next_back();
        let before =
            before.filter(|(_, region)| region.range.end() >= range.start()).map(|(start, _)| *start);
        let within = self.live.range(range.start()..=range.end()).map(|(start, _)| *start);
        let starts: Vec<VirtAddr> = before.into_iter().chain(within).collect();
        starts.iter().filter_map(|start| self.live.remove(start)).collect()
    }

    /// The pieces of the regions in `range`.
    fn pieces(&self, range: VirtRange) -> Vec<Piece> {
        let part = |region: &Region| region.range.intersection(range).map(|part| region.piece(part));
        self.overlapping(range).filter_map(part).collect()
    }

    /// Remembers that `range` changed, if `is_known` to what the regions have there now, whatever they had before.
    fn note(&mut self, time: Timestamp, range: VirtRange, is_known: bool) {
        if self.changes.len() == REMEMBERED
            && let Some(Change { time, .. }) = self.changes.pop_front()
        {
            self.forgotten = time;
        }
        // A VMA that waited for its call comes after what happened meanwhile; the order of times is kept all the same.
        let time = self.changes.back().map_or(time, |last| time.max(last.time));
        self.changes.push_back(Change { time, range, is_known });
        if is_known {
            self.unknown.remove(range.addrs());
        }
    }

    /// The end of the heap, rounded up to a page; `None` until something told of it.
    #[must_use]
    pub const fn heap_end(&self) -> Option<VirtAddr> {
        self.brk
    }

    /// Forgets changes before `time`: readings that began earlier have been compared.
    fn forget_before(&mut self, time: Timestamp) {
        while let Some(forgotten) = self.changes.pop_front_if(|change| change.time < time) {
            self.forgotten = forgotten.time;
        }
    }

    /// `addr`, rounded up to the next page.
    fn page_up(&self, addr: VirtAddr) -> VirtAddr {
        let mask = self.page.bytes() - 1;
        VirtAddr::from_raw(addr.as_raw().saturating_add(mask) & !mask)
    }

    /// The pages that `length` bytes from `addr` take.
    #[must_use]
    pub fn span(&self, addr: VirtAddr, length: u64) -> Option<VirtRange> {
        let end = VirtAddr::from_raw(addr.as_raw().checked_add(length)?);
        VirtRange::new(addr, self.page_up(end))
    }
}

/// The addresses of `pieces`, which are in order.
fn extent(pieces: &[Piece]) -> Option<VirtRange> {
    VirtRange::new(pieces.first()?.range.start(), pieces.last()?.range.end())
}

/// The part of `region` between two addresses.
fn clip(region: &Region, start: VirtAddr, end: VirtAddr) -> Option<Piece> {
    let part = region.range.intersection(VirtRange::new(start, end)?)?;
    Some(region.piece(part))
}

/// A name that a kernel object may have.
type Name = Arc<[u8]>;
