//! Visits to address spaces, one after the other, each from its first address to its last.

use memtrace_ebpf::HEAT_SLOT_SHIFT;

use super::cost::{Budget, CostModel};
use crate::{
    event::SpaceId,
    region::{AddressSpace, Region},
    units::{VirtAddr, VirtRange},
};

/// How far a cursor has come.
#[derive(Debug, Default)]
pub(super) struct ScanCursor {
    next: Option<(SpaceId, VirtAddr)>,
}

impl ScanCursor {
    /// Whether it will begin anew.
    pub(super) const fn is_over(&self) -> bool {
        self.next.is_none()
    }

    /// Hands `take` the `wanted` parts of regions as whole slots, from where it stopped the last time, until `budget` is empty;
    /// returns the address spaces that it has come to the end of.
    pub(super) fn go_on<'a>(
        &mut self,
        spaces: impl Iterator<Item = (SpaceId, &'a AddressSpace)>,
        wanted: impl Fn(&AddressSpace, &Region) -> Vec<VirtRange>,
        cost: &CostModel,
        budget: &mut Budget,
        mut take: impl FnMut(SpaceId, VirtRange),
    ) -> Vec<SpaceId> {
        const BEGIN: VirtAddr = VirtAddr::from_raw(0);
        const END: VirtAddr = VirtAddr::from_raw(u64::MAX);
        let (first, from) = self.next.take().unwrap_or((SpaceId::UNKNOWN, BEGIN));
        let mut visited = Vec::new();
        for (space, regions) in spaces.skip_while(|(space, _)| *space < first) {
            let mut next = if space == first { from } else { BEGIN };
            let rest = VirtRange::new(next, END);
            let parts = rest.into_iter().flat_map(|rest| regions.overlapping(rest));
            for part in parts.flat_map(|region| wanted(regions, region)) {
                let slots = part.widened(HEAT_SLOT_SHIFT);
                while let Some(rest) = VirtRange::new(next.max(slots.start()), slots.end()) {
                    let Some(piece) = budget.pay_for(rest, cost) else {
                        self.next = Some((space, rest.start()));
                        return visited;
                    };
                    take(space, piece);
                    next = piece.end();
                }
            }
            visited.push(space);
        }
        visited
    }
}
