//! What events do to regions.

use super::{AddressSpace, Origin, Piece, Region, RegionIds, Traits};
use crate::{
    event::{
        Landmarks, MapCall, MapRequest, MappedFile, OUT_OF_MEMORY, Tid,
        flags::{MADV_DOFORK, MADV_DONTFORK, MAP_FIXED, MREMAP_DONTUNMAP, MREMAP_FIXED},
    },
    timeline::RegionId,
    units::{PageCount, Timestamp, VirtAddr, VirtRange},
};

/// `EBADF`
const BAD_FILE: i32 = 9;

impl AddressSpace {
    /// Applies a call that the thread `tid` made.
    pub fn call(&mut self, time: Timestamp, tid: Tid, call: &MapCall, ids: &mut RegionIds) {
        let MapCall { request, result, may_have_resized, file, stack: _ } = call;
        match *result {
            Ok(result) => {
                self.succeed(time, tid, (request, *file), VirtAddr::from_raw(result), ids);
            }
            Err(error) => {
                self.settle(ids);
                self.fail(time, request, error, *may_have_resized, ids);
            }
        }
    }

    fn succeed(
        &mut self,
        time: Timestamp,
        tid: Tid,
        (request, file): (&MapRequest, Option<MappedFile>),
        result: VirtAddr,
        ids: &mut RegionIds,
    ) {
        if let MapRequest::Mmap { length, flags, .. } = *request {
            return self.mapped(time, tid, self.span(result, length), (flags, file), ids);
        }
        self.settle(ids);
        match *request {
            MapRequest::Munmap { addr, length } => {
                if let Some(range) = self.span(addr, length) {
                    self.unmap(time, range, ids);
                }
            }
            MapRequest::Mremap { old_addr, old_size, new_size, flags, .. } => {
                self.remapped(time, (old_addr, old_size), (result, new_size), flags, ids);
            }
            MapRequest::Brk { .. } => self.broken(time, result, ids),
            MapRequest::Shmdt { addr } => self.detached(time, addr, ids),
            MapRequest::SetName { addr, length, ref name } => self.named(time, addr, length, name, ids),
            MapRequest::Madvise { addr, length, advice } => self.advised(time, addr, length, advice, ids),
            MapRequest::Mmap { .. }
            | MapRequest::Mprotect { .. }
            | MapRequest::ProcessMadvise { .. }
            | MapRequest::Mlock { .. }
            | MapRequest::Munlock { .. }
            | MapRequest::Mlockall { .. }
            | MapRequest::Munlockall
            | MapRequest::Shmat { .. }
            | MapRequest::RemapFilePages { .. }
            | MapRequest::Mseal { .. }
            | MapRequest::UffdRegister { .. }
            | MapRequest::UffdUnregister { .. } => {}
            MapRequest::SetBounds { landmarks, brk } => self.bound(landmarks, brk),
        }
    }

    /// Heap and first stack are elsewhere from now on.
    fn bound(&mut self, landmarks: Landmarks, brk: Option<VirtAddr>) {
        self.landmarks = landmarks;
        self.brk = brk.map(|brk| self.page_up(brk));
    }

    /// The last `pages` of what was shown last are no longer mapped; returns them.
    ///
    /// Nothing else was done meanwhile, for the program is being loaded.
    pub fn trim(&mut self, time: Timestamp, pages: PageCount, ids: &mut RegionIds) -> Option<VirtRange> {
        self.settle(ids);
        let trimmed = self.loaded.take().and_then(|shown| {
            let start = shown.end().as_raw().checked_sub(pages.bytes(self.page))?;
            VirtRange::new(VirtAddr::from_raw(start), shown.end()).filter(|_| shown.start().as_raw() < start)
        });
        match trimmed {
            Some(range) => self.unmap(time, range, ids),
            None => self.doubt(time),
        }
        trimmed
    }

    /// A call failed, perhaps after part of its work.
    fn fail(
        &mut self,
        time: Timestamp,
        request: &MapRequest,
        error: i32,
        may_have_resized: bool,
        ids: &mut RegionIds,
    ) {
        match *request {
            MapRequest::Mmap { flags, .. } if flags & MAP_FIXED != 0 && may_have_resized => self.doubt(time),
            // Some kernels unmap the new place before they find that the old one will not do.
            MapRequest::Mremap { flags, .. } if flags & MREMAP_FIXED != 0 && may_have_resized => {
                self.doubt(time);
            }
            // Others move one region after the other, if all that is asked for is another place.
            MapRequest::Mremap { old_addr, old_size, new_size, flags, .. }
                if flags & MREMAP_FIXED != 0
                    && old_size == new_size
                    && self.is_in_parts(old_addr, old_size) =>
            {
                self.doubt(time);
            }
            // A name is for what is mapped, and the error says that not all was, or what was a file.
            MapRequest::SetName { addr, length, ref name } if [BAD_FILE, OUT_OF_MEMORY].contains(&error) => {
                self.named(time, addr, length, name, ids);
            }
            // Advice is for what is mapped, and the error says that not all was.
            MapRequest::Madvise { addr, length, advice } if error == OUT_OF_MEMORY => {
                self.advised(time, addr, length, advice, ids);
            }
            _ => {}
        }
    }

    /// Whether several regions lie in the range, the first of them at its start.
    fn is_in_parts(&self, addr: VirtAddr, length: u64) -> bool {
        let Some(range) = self.span(addr, length) else { return false };
        self.find(addr).is_some() && self.overlapping(range).nth(1).is_some()
    }

    /// Nothing is mapped in `range` any more.
    pub(super) fn unmap(&mut self, time: Timestamp, range: VirtRange, ids: &mut RegionIds) {
        // Even where no region is known: a reading may have shown one before.
        self.note(time, range, true);
        self.replace(time, ids, range, Vec::new(), &[]);
    }

    /// `mremap` moved, grew, shrank or doubled a mapping; sizes in bytes.
    fn remapped(
        &mut self,
        time: Timestamp,
        (old_addr, old_size): (VirtAddr, u64),
        (new_addr, new_size): (VirtAddr, u64),
        flags: u64,
        ids: &mut RegionIds,
    ) {
        let Some(new) = self.span(new_addr, new_size) else { return };
        let old = self.span(old_addr, old_size);
        if let Some(old) = old.filter(|_| new_addr == old_addr) {
            let end = old.end();
            if let Some(rest) = VirtRange::new(new.end(), end) {
                self.unmap(time, rest, ids);
            } else if let Some(added) = VirtRange::new(end, new.end()) {
                self.extend(time, added, VirtAddr::from_raw(end.as_raw() - 1), 0, ids);
            }
            return;
        }
        if self.hides_names && old.is_some_and(|old| self.is_named_by_place(old)) {
            self.doubt(time);
        }
        let by = new_addr.as_raw().wrapping_sub(old_addr.as_raw());
        let Some(old) = old else {
            // A size of 0 doubles a shared mapping.
            return self.extend(time, new, old_addr, by, ids);
        };
        let kept = if old.bytes() > new.bytes() { span_of(old.start(), new.bytes()) } else { Some(old) };
        let moved = kept.map(|kept| self.pieces(kept)).unwrap_or_default();
        let stays = flags & MREMAP_DONTUNMAP != 0;
        let is_moving = |region: &&Region| !stays && is_within(region, &moved);
        let moving: Vec<RegionId> = self.overlapping(old).filter(is_moving).map(|region| region.id).collect();
        let is_known = !self.unknown.overlaps(&old.addrs());
        if !stays {
            self.note(time, old, true);
            self.replace(time, ids, old, Vec::new(), &moving);
        }
        let source = |origin| match origin {
            Origin::Region { id, .. } if !moving.contains(&id) => Origin::Fresh(Some(id)),
            other => other,
        };
        let arrive = |Piece { range, traits, origin }: &Piece| {
            let range = shifted(*range, by)?;
            Some(Piece { range, traits: traits.moved(by), origin: source(*origin) })
        };
        let arrived: Vec<Piece> = moved.iter().filter_map(arrive).collect();
        let Some(last) = arrived.last() else { return self.doubt(time) };
        let added = shifted(old, by).and_then(|there| VirtRange::new(there.end(), new.end()));
        let added = added.map(|range| Piece { range, origin: Origin::Fresh(None), ..last.clone() });
        // Between mappings that moved, what was at the new place stays.
        let arrivals = arrived.iter().cloned().chain(added);
        let pieces = arrivals.fold(self.pieces(new), |pieces, fresh| overlaid(&pieces, fresh));
        self.note(time, new, false);
        if !is_known {
            self.unknown.insert(new.addrs());
        }
        self.replace(time, ids, new, pieces, &[]);
        if !stays {
            self.count_as_moved(&arrived);
        }
        for piece in arrived {
            self.retire_if_merged(time, piece);
        }
    }

    /// The region of which `piece` is all: it is no more if it was merged into an older one where it went.
    fn retire_if_merged(&mut self, time: Timestamp, piece: Piece) {
        let Piece { range, traits, origin } = piece;
        if let Origin::Region { id, born, parent } = origin
            && self.find(range.start()).is_none_or(|region| region.id != id)
        {
            self.retire(time, Region { id, range, traits, born, parent });
        }
    }

    /// Maps `range` like the page that holds `model`, as if that lay `by` bytes higher.
    fn extend(&mut self, time: Timestamp, range: VirtRange, model: VirtAddr, by: u64, ids: &mut RegionIds) {
        let Some(region) = self.find(model) else { return self.doubt(time) };
        let (traits, parent) = (region.traits.moved(by), Some(region.id));
        self.note(time, range, false);
        self.replace(time, ids, range, vec![Piece { range, traits, origin: Origin::Fresh(parent) }], &[]);
    }

    /// `brk` returned `result`: the end of the heap, moved or not.
    fn broken(&mut self, time: Timestamp, result: VirtAddr, ids: &mut RegionIds) {
        let end = self.page_up(result);
        match self.brk {
            Some(before) => {
                if let Some(freed) = VirtRange::new(end, before) {
                    self.unmap(time, freed, ids);
                }
            }
            // How far the heap went before is not known.
            None => {
                if let Some(above) = VirtRange::new(end, VirtAddr::from_raw(u64::MAX)) {
                    self.note(time, above, false);
                }
            }
        }
        self.brk = Some(end);
    }

    /// `shmdt` detached the segment at `addr`: all that is left of it at its place.
    fn detached(&mut self, time: Timestamp, addr: VirtAddr, ids: &mut RegionIds) {
        let mut parts = self.live.range(addr..).map(|(_, region)| region);
        let Some(first) = parts.find(|region| region.traits.is_segment_at(addr)) else {
            return self.doubt(time);
        };
        let rest = parts.filter(|region| region.traits.has_content_of(&first.traits));
        let ranges: Vec<_> = [first.range].into_iter().chain(rest.map(|region| region.range)).collect();
        for range in ranges {
            self.unmap(time, range, ids);
        }
    }

    /// Names what is mapped, up to the first file (`madvise_vma_anon_name` in `mm/madvise.c`).
    fn named(&mut self, time: Timestamp, addr: VirtAddr, length: u64, name: &[u8], ids: &mut RegionIds) {
        let Some(range) = self.span(addr, length) else { return };
        let file = self.overlapping(range).find(|region| !region.traits.may_be_named());
        let end = file.map_or(range.end(), |region| region.range.start());
        if let Some(range) = VirtRange::new(addr, end) {
            self.alter(time, range, ids, |traits| traits.with_given_name(name));
        }
    }

    /// Notes the advice on which forks depend.
    fn advised(&mut self, time: Timestamp, addr: VirtAddr, length: u64, advice: u64, ids: &mut RegionIds) {
        let is_kept_from_forks = match advice {
            MADV_DONTFORK => true,
            MADV_DOFORK => false,
            _ => return,
        };
        if let Some(range) = self.span(addr, length) {
            self.alter(time, range, ids, |traits| traits.with_fork(is_kept_from_forks));
        }
    }

    /// Gives what is mapped in `range` other traits, for it has changed; it stays what it is.
    fn alter(
        &mut self,
        time: Timestamp,
        range: VirtRange,
        ids: &mut RegionIds,
        change: impl Fn(Traits) -> Traits,
    ) {
        self.note(time, range, false);
        self.complete_traits(time, range, ids, change);
    }

    /// Gives what is mapped in `range` other traits, for more is known of it; it stays what it is.
    pub(super) fn complete_traits(
        &mut self,
        time: Timestamp,
        range: VirtRange,
        ids: &mut RegionIds,
        change: impl Fn(Traits) -> Traits,
    ) {
        let pieces = self.pieces(range);
        let altered: Vec<_> = pieces
            .into_iter()
            .map(|Piece { range, traits, origin }| Piece { range, traits: change(traits), origin })
            .collect();
        self.replace(time, ids, range, altered, &[]);
    }
}

/// `pieces` with `fresh` in the place of what was there.
pub(super) fn overlaid(pieces: &[Piece], fresh: Piece) -> Vec<Piece> {
    let new = fresh.range;
    let mut result = Vec::with_capacity(pieces.len() + 2);
    let part = |piece: &Piece, start, end| {
        let range = piece.range.intersection(VirtRange::new(start, end)?)?;
        Some(Piece { range, ..piece.clone() })
    };
    result.extend(pieces.iter().filter_map(|piece| part(piece, VirtAddr::default(), new.start())));
    result.push(fresh);
    result.extend(pieces.iter().filter_map(|piece| part(piece, new.end(), VirtAddr::from_raw(u64::MAX))));
    result
}

/// Whether all pages of `region` are among `pieces`.
fn is_within(region: &Region, pieces: &[Piece]) -> bool {
    pieces.iter().any(|piece| piece.range == region.range)
}

/// `range`, `by` bytes higher modulo 2^64.
fn shifted(range: VirtRange, by: u64) -> Option<VirtRange> {
    let shift = |addr: VirtAddr| VirtAddr::from_raw(addr.as_raw().wrapping_add(by));
    VirtRange::new(shift(range.start()), shift(range.end()))
}

/// The range of `bytes` bytes from `start`.
fn span_of(start: VirtAddr, bytes: u64) -> Option<VirtRange> {
    VirtRange::new(start, VirtAddr::from_raw(start.as_raw().checked_add(bytes)?))
}
