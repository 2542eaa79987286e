//! Fault counts per address-space slot, by which regions become interesting.
//!
//! `HEAT` is an array mapped into user space. Each CPU owns a section and is the only writer of it, so
//! counting needs no atomic operation and no lock. A section is an open-addressed table of
//! `Config::heat_cells` cells (a power of two), then [`HEAT_OVERFLOW_CELLS`] cells for address spaces whose
//! slots found no place. Counts only grow; a cell never changes its key.

/// A slot is `1 << HEAT_SLOT_SHIFT` bytes: 2 MiB, the reach of one page-table page on x86-64.
pub const HEAT_SLOT_SHIFT: u32 = 21;

/// Cells probed from the hash before a fault counts as overflow.
pub const HEAT_PROBES: u32 = 8;

/// Overflow cells at the end of each CPU's section; one per address space, the last one for all others.
pub const HEAT_OVERFLOW_CELLS: u32 = 64;

/// [`HeatCell::slot`] of an overflow cell.
pub const OVERFLOW_SLOT: u64 = u64::MAX;

record! {
    /// Completed faults in one slot of one address space, counted on one CPU.
    pub struct HeatCell = 32 {
        /// Address space; 0 in an unused cell, and in the overflow cell shared by all others.
        pub space: u64,
        /// Address divided by the slot size; [`OVERFLOW_SLOT`] for overflow.
        pub slot: u64,
        /// Minor faults completed.
        pub minor: u64,
        /// Major faults completed.
        pub major: u64,
    }
}
