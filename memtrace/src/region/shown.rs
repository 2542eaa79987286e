//! What VMAs that perf shows do to regions.

use super::{AddressSpace, Origin, Pending, Piece, Region, RegionIds, Traits, transform::overlaid};
use crate::{
    event::{MappedFile, ReportedVma, Tid},
    units::{Timestamp, VirtAddr, VirtRange},
};

impl AddressSpace {
    /// The kernel shows a VMA, by the doing of the thread `tid`.
    ///
    /// It waits for the call, which is still in the same section and may tell more: nobody else sees the VMA before.
    pub fn show(&mut self, time: Timestamp, tid: Tid, shown: ReportedVma, ids: &mut RegionIds) {
        self.settle(ids);
        self.pending = Some(Pending { time, tid, shown });
    }

    /// Whether a VMA that was shown at `addr` waits for its call.
    #[must_use]
    pub fn is_unsettled_at(&self, addr: VirtAddr) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.shown.vma.range.contains(addr))
    }

    /// Applies the VMA that waits for its call: there is none, or it tells no more.
    pub fn settle(&mut self, ids: &mut RegionIds) {
        if let Some(Pending { time, shown, .. }) = self.pending.take() {
            self.apply_reported(time, &shown, None, ids);
        }
    }

    /// `mmap` gave `range`. What perf showed in the meantime is this and, where they look alike, its neighbours.
    pub(super) fn mapped(
        &mut self,
        time: Timestamp,
        tid: Tid,
        range: Option<VirtRange>,
        (flags, file): (u64, Option<MappedFile>),
        ids: &mut RegionIds,
    ) {
        let is_this = |pending: &mut Pending| {
            let shown = pending.shown.vma.range;
            pending.tid == tid && range.is_some_and(|range| shown.intersection(range) == Some(range))
        };
        match (self.pending.take_if(is_this), range) {
            (Some(Pending { mut shown, .. }), Some(range)) => {
                if let Some(file) = file.filter(|file| file.device == shown.vma.device) {
                    shown.kind = Some(file.kind.on(shown.kind));
                }
                self.apply_reported(time, &shown, Some((range, flags)), ids);
            }
            _ => self.settle(ids),
        }
    }

    /// Makes the regions what perf showed. Of the range, the part in `new` was mapped anew, with these flags of `mmap`.
    fn apply_reported(
        &mut self,
        time: Timestamp,
        shown: &ReportedVma,
        new: Option<(VirtRange, u64)>,
        ids: &mut RegionIds,
    ) {
        let range = shown.vma.range;
        let traits = self.recognised(shown, new.map(|(new, _)| new));
        // Not by its traits, which leave out that perf calls it [stack].
        let has_no_name = traits.is_nameless() && shown.vma.name.is_empty();
        if new.is_none() && has_no_name && self.is_top(range.end()) && self.is_free_or_stack(range) {
            // Here the kernel builds the stack of a program that it is about to execute, in an address space that nobody
            // lives in yet (`bprm_mm_init` of `fs/exec.c`). It shows it if it grows there, and before it moves it to its place
            // (`setup_arg_pages`).
            return;
        }
        if self.is_loading {
            self.loaded = Some(range);
        }
        if traits.is_unread() {
            self.doubt(time);
        }
        if shown.vma.name == b"[stack]" && self.landmarks.start_stack.is_none() {
            self.landmarks.start_stack = Some(VirtAddr::from_raw(range.end().as_raw() - 1));
        }
        let mut pieces = Vec::new();
        let mut changed: Option<VirtRange> = None;
        let mut next = range.start();
        let growing = self.growing_down_to(range).map(|region| region.traits.clone());
        let added = |range| {
            let traits = growing.as_ref().unwrap_or(&traits).clone();
            Piece { range, traits, origin: Origin::Fresh(None) }
        };
        for held in self.pieces(range) {
            if let Some(gap) = VirtRange::new(next, held.range.start()) {
                pieces.push(added(gap));
                changed = Some(hull(changed, gap));
            }
            next = held.range.end();
            if let Some(piece) = reported_piece(&held, &traits) {
                changed = Some(hull(changed, piece.range));
                pieces.push(piece);
            } else {
                pieces.push(held);
            }
        }
        if let Some(gap) = VirtRange::new(next, range.end()) {
            pieces.push(added(gap));
            changed = Some(hull(changed, gap));
        }
        if let Some((new, flags)) = new {
            let fresh = Piece {
                range: new,
                traits: traits.clone().with_map_flags(flags),
                origin: Origin::Fresh(None),
            };
            changed = Some(hull(changed, new));
            pieces = overlaid(&pieces, fresh);
        }
        // perf does not show names that were given, so of memory that may have one it says all only when that is new.
        let known = if traits.may_be_named() { new.map(|(new, _)| new) } else { Some(range) };
        if let Some(known) = known {
            self.unknown.remove(known.addrs());
        }
        if let Some(changed) = changed {
            let is_known = known.is_some_and(|known| known.intersection(changed) == Some(changed));
            self.note(time, changed, is_known);
            self.replace(time, ids, range, pieces, &[]);
        }
    }

    /// Whether `range` is what a mapping under `MAP_GROWSDOWN` has grown to.
    #[must_use]
    pub fn grows_down_to(&self, range: VirtRange) -> bool {
        self.growing_down_to(range).is_some()
    }

    /// The region under `MAP_GROWSDOWN` at the end of `range`, if that begins below it and is free there. The kernel merges no
    /// other memory with it.
    fn growing_down_to(&self, range: VirtRange) -> Option<&Region> {
        let first = self.overlapping(range).next()?;
        (first.traits.grows_down() && range.start() < first.range.start()).then_some(first)
    }

    /// What perf shows; or where it could not say of which file, that which lies there already. What lies in `new` goes, but
    /// the kernel has no two files in one VMA.
    fn recognised(&self, shown: &ReportedVma, new: Option<VirtRange>) -> Traits {
        let (range, traits) = (shown.vma.range, Traits::of_reported(shown));
        let stays = |held: &&Region| {
            new.is_none_or(|new| new.intersection(held.range) != held.range.intersection(range))
        };
        match self.overlapping(range).filter(stays).find(|held| held.traits.may_be_unread(&traits)) {
            Some(held) => held.traits.with_perms_of(&traits),
            None => traits,
        }
    }

    /// Whether nothing is mapped in `range` but the stack, which lies there if addresses are not randomised.
    fn is_free_or_stack(&self, range: VirtRange) -> bool {
        let start_stack = self.landmarks.start_stack;
        self.overlapping(range).all(|held| start_stack.is_some_and(|stack| held.range.contains(stack)))
    }

    /// Whether no address of user space is as high as `end`: a power of two bounds it, on x86-64 less a page.
    fn is_top(&self, end: VirtAddr) -> bool {
        const LEAST: u64 = 1 << 36;
        let end = end.as_raw();
        let behind = end.saturating_add(self.page.bytes());
        end >= LEAST && (end.is_power_of_two() || behind.is_power_of_two())
    }
}

/// The piece that takes the place of `held` where perf, which knows no given names, shows `traits`; `None` if nothing
/// changes.
fn reported_piece(held: &Piece, traits: &Traits) -> Option<Piece> {
    let is_same = held.traits.has_content_of(traits);
    if is_same && held.traits.perms() == traits.perms() {
        return None;
    }
    Some(if is_same {
        Piece { traits: held.traits.with_perms_of(traits), ..held.clone() }
    } else {
        Piece { traits: traits.clone(), origin: Origin::Fresh(None), ..held.clone() }
    })
}

/// The smallest range that holds both.
fn hull(one: Option<VirtRange>, other: VirtRange) -> VirtRange {
    let Some(one) = one else { return other };
    let (start, end) = (one.start().min(other.start()), one.end().max(other.end()));
    VirtRange::new(start, end).unwrap_or(other)
}
