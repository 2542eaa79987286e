//! Counts completed faults per slot of an address space, exactly, in bounded memory.

use memtrace_ebpf::{
    Counter, FaultKind, HEAT_OVERFLOW_CELLS, HEAT_PROBES, HEAT_SLOT_SHIFT, HeatCell, OVERFLOW_SLOT,
};

use super::{config, emit};
use crate::HEAT;

/// Counts a completed fault at `addr` in `space`.
#[inline(always)]
pub(crate) fn count(space: u64, addr: u64, kind: FaultKind) {
    let slot = addr >> HEAT_SLOT_SHIFT;
    let cells = config!(heat_cells) as u32;
    let section = emit::cpu() * (cells + HEAT_OVERFLOW_CELLS);
    // Fibonacci hashing: the high bits of the product depend on all bits of the key.
    let hash = (slot ^ space.rotate_left(20)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    for probe in 0..HEAT_PROBES {
        let index = section + ((hash as u32).wrapping_add(probe) & cells.wrapping_sub(1));
        if add(index, space, slot, kind) {
            return;
        }
    }
    overflow(section + cells, space, kind);
}

/// Counts a fault whose slot found no place: in the cell of its address space, or in the last one, shared by all others.
#[inline(never)]
fn overflow(first: u32, space: u64, kind: FaultKind) {
    emit::count(Counter::HeatOverflow, 1);
    let own = HEAT_OVERFLOW_CELLS - 1;
    for probe in 0..HEAT_PROBES {
        let index = first + (space as u32).wrapping_add((space >> 16) as u32).wrapping_add(probe) % own;
        if add(index, space, OVERFLOW_SLOT, kind) {
            return;
        }
    }
    add(first + own, 0, OVERFLOW_SLOT, kind);
}

/// Adds one to the cell at `index` if it is free or has this key already.
#[inline(always)]
fn add(index: u32, space: u64, slot: u64, kind: FaultKind) -> bool {
    let Some(cell) = HEAT.get_ptr_mut(index) else {
        return false;
    };
    // SAFETY: the map returned a pointer to a live element of this CPU's section, which this CPU alone
    // writes; completions do not nest on a CPU.
    unsafe {
        let HeatCell { space: cell_space, slot: cell_slot, minor, major } = *cell;
        if minor | major == 0 {
            (*cell).space = space;
            (*cell).slot = slot;
        } else if cell_space != space || cell_slot != slot {
            return false;
        }
        if kind.0 == FaultKind::MAJOR.0 {
            (*cell).major = major + 1;
        } else {
            (*cell).minor = minor + 1;
        }
    }
    true
}
