//! Pages of a region as scans saw them last: a scan takes in only a part of it, as a rule.

use std::collections::BTreeMap;

use memtrace_ebpf::HEAT_SLOT_SHIFT;

use super::counts::SlotState;
use crate::{
    timeline::{PageCounts, PageState},
    units::{PageCount, Timestamp, VirtAddr, VirtRange},
};

/// State of the pages of a region, slot by slot.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct Residence {
    /// Slots that have any pages.
    slots: BTreeMap<VirtAddr, SlotState>,
    present: u64,
    peak: u64,
    scanned: Timestamp,
}

impl Residence {
    /// A scan saw the part of the region in the slot at `slot` like this.
    pub(in crate::pipeline) fn see(&mut self, time: Timestamp, slot: VirtAddr, state: SlotState) {
        let before = if state.is_empty() { self.slots.remove(&slot) } else { self.slots.insert(slot, state) };
        self.present = self.present + state.present() - before.map_or(0, |before| before.present());
        self.peak = self.peak.max(self.present);
        self.scanned = time;
    }

    /// Most pages that were present at one time, as far as scans tell.
    pub(in crate::pipeline) fn peak(&self) -> PageCount {
        PageCount::new(self.peak)
    }

    /// The slots of `range`, where the region is now, as last seen: it may have shrunk or moved since.
    pub(in crate::pipeline) fn state(&self, range: VirtRange) -> PageState {
        let slots = range.widened(HEAT_SLOT_SHIFT);
        let mut counts = PageCounts::default();
        for (_, state) in self.slots.range(slots.addrs()) {
            counts += state;
        }
        PageState { scanned: self.scanned, counts }
    }
}
