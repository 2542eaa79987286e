//! Reads the heat array through memory, and says what grew.
//!
//! Layer: shell. Input: the mapped arrays `HEAT` and `COUNTERS`. Output: [`HeatReading`], [`Totals`].
//! Source: `memtrace_ebpf::HeatCell`.
//! Keeps: no system call, so that the programs are not disturbed; a count read once is never read as less.
//! Not here: what to do with hot slots (`pipeline`).

use std::{collections::BTreeMap, sync::Arc};

use memtrace_ebpf::{
    Counter, HEAT_OVERFLOW_CELLS, HEAT_SLOT_SHIFT, HeatCell as RawCell, OVERFLOW_SLOT, counter_index,
};

use crate::{
    event::{FaultCounts, HeatCell, HeatReading, SpaceId},
    record::Totals,
    sys::shared::SharedWords,
    units::{Timestamp, VirtAddr, VirtRange},
};

const CELL_WORDS: usize = RawCell::LEN / 8;

/// Cells of the table in each CPU's section, for this many CPUs: 2 MiB of cells shared out, within bounds.
#[must_use]
pub fn cells_per_cpu(cpus: u32) -> u32 {
    (65_536 / cpus.max(1)).next_power_of_two().clamp(2_048, 16_384)
}

/// Cells in the whole array.
#[must_use]
pub fn array_cells(cpus: u32) -> u32 {
    cpus * (cells_per_cpu(cpus) + HEAT_OVERFLOW_CELLS)
}

/// Remembers the counts of the reading before.
#[derive(Debug)]
pub struct HeatReader {
    words: SharedWords,
    seen: Vec<FaultCounts>,
}

impl HeatReader {
    /// Reads the array mapped at `words`.
    #[must_use]
    pub fn new(words: SharedWords, cpus: u32) -> Self {
        Self { words, seen: vec![FaultCounts::default(); array_cells(cpus) as usize] }
    }

    /// What grew since the reading before, summed over CPUs.
    pub fn read(&mut self, time: Timestamp) -> HeatReading {
        let mut grown: BTreeMap<(u64, u64), FaultCounts> = BTreeMap::new();
        for (index, seen) in self.seen.iter_mut().enumerate() {
            let at = index * CELL_WORDS;
            // The counts first: a cell has its key before its first count.
            let now = FaultCounts { minor: self.words.load(at + 2), major: self.words.load(at + 3) };
            if now == *seen {
                continue;
            }
            let key = (self.words.load(at), self.words.load(at + 1));
            *grown.entry(key).or_default() +=
                FaultCounts { minor: now.minor - seen.minor, major: now.major - seen.major };
            *seen = now;
        }
        let cells = grown.into_iter().map(|((space, slot), faults)| HeatCell {
            space: (space != 0).then_some(SpaceId(space)),
            slot: slot_range(slot),
            faults,
        });
        HeatReading { time, cells: cells.collect() }
    }
}

/// Addresses of a slot; `None` for overflow.
fn slot_range(slot: u64) -> Option<VirtRange> {
    if slot == OVERFLOW_SLOT {
        return None;
    }
    let address = |slot: u64| VirtAddr::from_raw(slot << HEAT_SLOT_SHIFT);
    VirtRange::new(address(slot), address(slot + 1))
}

/// Sums the counters of all CPUs.
#[must_use]
pub fn totals(counters: &Arc<SharedWords>, cpus: u32) -> Totals {
    let sum = |counter| (0..cpus).map(|cpu| counters.load(counter_index(cpu, counter) as usize)).sum::<u64>();
    Totals {
        recorded: FaultCounts { minor: sum(Counter::Minor), major: sum(Counter::Major) },
        uncounted: FaultCounts { minor: sum(Counter::UncountedMinor), major: sum(Counter::UncountedMajor) },
        lost_events: sum(Counter::LostEvents),
        lost_control: sum(Counter::LostControl),
        lost_tasks: sum(Counter::LostTasks),
        heat_overflow: sum(Counter::HeatOverflow),
        duplicates: sum(Counter::Duplicates),
    }
}
