//! Heat slots: the pieces of address space by which faults are counted and scans are planned.

use memtrace_ebpf::HEAT_SLOT_SHIFT;

use crate::{
    event::PageScan,
    units::{VirtAddr, VirtRange},
};

/// `range` cut at the borders of heat slots.
pub(super) fn slots(range: VirtRange) -> impl Iterator<Item = VirtRange> {
    let mut next = range.start();
    std::iter::from_fn(move || {
        let slot = VirtRange::new(next, slot_end(next).min(range.end()))?;
        next = slot.end();
        Some(slot)
    })
}

/// The parts of `range` that lie in heat slots in which `scan` found pages, in order.
///
/// Address space without any is passed over, however much it is: programs reserve terabytes.
pub(super) fn occupied(scan: &PageScan, range: VirtRange) -> impl Iterator<Item = VirtRange> {
    let first = scan.runs.partition_point(|run| run.range.end() <= range.start());
    let mut runs = scan.runs[first..].iter().map(|run| run.range).peekable();
    let mut next = range.start();
    std::iter::from_fn(move || {
        while runs.next_if(|run| run.end() <= next).is_some() {}
        let here = runs.peek()?.start().max(next);
        let start = slot_of(here).max(next);
        next = slot_end(here).min(range.end());
        VirtRange::new(start, next)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{ScanDepth, ScanReason},
        pagemap::{PageCategories, StateRun},
        units::Timestamp,
    };

    const SLOT: u64 = 2 << 20;

    fn range(start: u64, end: u64) -> VirtRange {
        VirtRange::new(VirtAddr::from_raw(start), VirtAddr::from_raw(end)).expect("not empty")
    }

    #[test]
    fn slots_with_pages_are_found_once_and_the_others_never() {
        let present = PageCategories::PRESENT;
        let runs = [(SLOT, SLOT + 4096), (SLOT + 8192, SLOT + 12288), (4 * SLOT - 4096, 5 * SLOT + 4096)];
        let scan = PageScan {
            began: Timestamp::default(),
            reason: ScanReason::Full,
            range: range(0, 1 << 46),
            known: present,
            depth: ScanDepth::Categories,
            runs: runs.map(|(start, end)| StateRun::new(range(start, end), present)).to_vec(),
        };

        let all: Vec<_> = occupied(&scan, scan.range).collect();
        let some: Vec<_> = occupied(&scan, range(SLOT + 4096, 4 * SLOT + 4096)).collect();

        let slots = [1, 3, 4, 5].map(|slot| range(slot * SLOT, (slot + 1) * SLOT));
        assert_eq!(all, slots);
        let parts = [(SLOT + 4096, 2 * SLOT), (3 * SLOT, 4 * SLOT), (4 * SLOT, 4 * SLOT + 4096)];
        assert_eq!(some, parts.map(|(start, end)| range(start, end)));
    }
}
