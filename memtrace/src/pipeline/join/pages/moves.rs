//! Pages that `mremap` moves take along what is known of them by address.

use rangemap::RangeMap;

use crate::{
    event::MapRequest,
    units::{PageSize, VirtAddr, VirtRange},
};

/// The pages that `request` moves elsewhere or resizes, if it is one that does.
pub(super) fn moved_by(request: &MapRequest, page: PageSize) -> Option<VirtRange> {
    let MapRequest::Mremap { old_addr, old_size, .. } = *request else { return None };
    let old_end = VirtAddr::from_raw(old_addr.as_raw().saturating_add(old_size));
    Some(VirtRange::new(old_addr, old_end)?.whole_pages(page))
}

/// The pages of `old` are in `new` from now on, as far as there is room; nothing else is in either.
pub(super) fn move_pages<T: Copy + Eq>(
    known: &mut RangeMap<VirtAddr, T>,
    old: Option<VirtRange>,
    new: VirtRange,
) {
    if let Some(old) = old.filter(|old| old.start() == new.start()) {
        let (end, other) = (old.end().min(new.end()), old.end().max(new.end()));
        if end < other {
            known.remove(end..other);
        }
        return;
    }
    known.remove(new.addrs());
    let Some(old) = old else { return };
    let there = |addr: VirtAddr| {
        let offset = addr.as_raw() - old.start().as_raw();
        VirtAddr::from_raw(new.start().as_raw().saturating_add(offset)).min(new.end())
    };
    let moved: Vec<_> = parts(known, old).collect();
    known.remove(old.addrs());
    for (part, value) in moved {
        let (start, end) = (there(part.start()), there(part.end()));
        if start < end {
            known.insert(start..end, value);
        }
    }
}

/// What is known of `range`, in order of address.
pub(super) fn parts<T: Copy + Eq>(
    known: &RangeMap<VirtAddr, T>,
    range: VirtRange,
) -> impl Iterator<Item = (VirtRange, T)> {
    let parts = known.overlapping(range.addrs());
    parts.filter_map(move |(part, value)| {
        Some((VirtRange::new(part.start, part.end)?.intersection(range)?, *value))
    })
}
