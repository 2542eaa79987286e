//! How long scans take, and how much of that they may.

use crate::{
    pipeline::slots::{slot_end, slot_of},
    units::{Nanos, PageCount, PageSize, VirtAddr, VirtRange},
};

/// How long scans take per page, measured over the last ones.
#[derive(Debug)]
pub(super) struct CostModel {
    page: PageSize,
    took: u64,
    pages: u64,
}

impl CostModel {
    /// Pages after which everything before counts half.
    const MEMORY: u64 = 1 << 20;

    /// 20 ns per page, until scans have been measured.
    pub(super) fn new(page: PageSize) -> Self {
        Self { page, took: 20 * 4096, pages: 4096 }
    }

    /// A scan of `range` took so long.
    pub(super) fn learn(&mut self, took: Nanos, range: VirtRange) {
        self.took = self.took.saturating_add(took.get());
        self.pages = self.pages.saturating_add(range.pages(self.page).get());
        let halvings = (self.pages / Self::MEMORY).checked_ilog2().map_or(0, |log| log + 1);
        self.took >>= halvings;
        self.pages >>= halvings;
    }

    /// How long a scan of `pages` pages will take.
    fn time_for(&self, pages: PageCount) -> Nanos {
        proportion(pages.get(), self.took, self.pages).map_or(Nanos::new(u64::MAX), Nanos::new)
    }

    /// How many pages a scan that takes `time` will cover.
    fn pages_in(&self, time: Nanos) -> PageCount {
        PageCount::new(proportion(time.get(), self.pages, self.took).unwrap_or(u64::MAX))
    }
}

/// `of` times `numerator / denominator`; `None` if that is beyond all numbers.
fn proportion(of: u64, numerator: u64, denominator: u64) -> Option<u64> {
    let product = u128::from(of) * u128::from(numerator);
    u64::try_from(product.checked_div(denominator.into())?).ok()
}

/// Time to be spent. The last scan may take more than is left, so that none is too dear for ever.
#[derive(Debug)]
pub(super) struct Budget {
    left: u64,
}

impl Budget {
    pub(super) fn new(time: Nanos) -> Self {
        Self { left: time.get() }
    }

    /// Pays for a scan of the first slots of `range`, which begins at one: as many as there is time for, one at least. `None` if
    /// no time was left.
    pub(super) fn pay_for(&mut self, range: VirtRange, cost: &CostModel) -> Option<VirtRange> {
        let left = Some(self.left).filter(|left| *left > 0)?;
        let start = range.start();
        let bytes = cost.pages_in(Nanos::new(left)).get().saturating_mul(cost.page.bytes());
        let reach = slot_of(VirtAddr::from_raw(start.as_raw().saturating_add(bytes)));
        let part = VirtRange::new(start, slot_end(start).max(reach).min(range.end()))?;
        self.left = left.saturating_sub(cost.time_for(part.pages(cost.page)).get().max(1));
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: u64 = 2 << 20;

    fn cost() -> CostModel {
        CostModel::new(PageSize::from_bytes(4096).expect("a power of two"))
    }

    /// The first `count` slots.
    fn slots(count: u64) -> VirtRange {
        VirtRange::new(VirtAddr::from_raw(0), VirtAddr::from_raw(count * SLOT)).expect("not empty")
    }

    #[test]
    fn pace_follows_the_last_scans() {
        let mut cost = cost();
        assert_eq!(cost.time_for(PageCount::new(512)), Nanos::new(10_240));

        for _ in 0..100 {
            cost.learn(Nanos::new(5 * 100 * 512), slots(100));
        }

        let pages = cost.pages_in(Nanos::new(5_000)).get();
        assert!((980..=1020).contains(&pages), "{pages} pages of 5 ns");
    }

    #[test]
    fn scans_that_take_no_time_cover_everything() {
        let mut cost = cost();
        cost.learn(Nanos::new(0), slots(1 << 30));

        assert_eq!(Budget::new(Nanos::new(1)).pay_for(slots(1 << 30), &cost), Some(slots(1 << 30)));
    }

    #[test]
    fn purse_pays_for_whole_slots_and_for_one_at_least() {
        let cost = cost();
        let mut budget = Budget::new(Nanos::new(25_000));

        assert_eq!(budget.pay_for(slots(9), &cost), Some(slots(2)));
        assert_eq!(budget.pay_for(slots(9), &cost), Some(slots(1)));
        assert_eq!(budget.pay_for(slots(9), &cost), None);
    }
}
