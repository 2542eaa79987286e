//! Heat slots: the pieces of address space by which faults are counted and scans are planned.

use memtrace_ebpf::HEAT_SLOT_SHIFT;

use crate::units::{VirtAddr, VirtRange};

/// `range` cut at the borders of heat slots.
pub(super) fn slots(range: VirtRange) -> impl Iterator<Item = VirtRange> {
    let mut next = range.start();
    std::iter::from_fn(move || {
        let slot = VirtRange::new(next, slot_end(next).min(range.end()))?;
        next = slot.end();
        Some(slot)
    })
}

/// Where the heat slot begins that holds `addr`.
pub(super) fn slot_of(addr: VirtAddr) -> VirtAddr {
    VirtAddr::from_raw(addr.as_raw() >> HEAT_SLOT_SHIFT << HEAT_SLOT_SHIFT)
}

/// Where the heat slot ends that holds `addr`.
pub(super) fn slot_end(addr: VirtAddr) -> VirtAddr {
    VirtAddr::from_raw(slot_of(addr).as_raw().saturating_add(1 << HEAT_SLOT_SHIFT))
}
