//! What faults and calls touched lately: a look under way at that time may have seen the pages before or after.

use std::{collections::VecDeque, ops::Range};

use rangemap::RangeSet;

use crate::{
    event::SpaceId,
    units::{Timestamp, VirtAddr, VirtRange},
};

/// How many are kept in mind; more than happen while a look is taken.
const MAX_TOUCHES: usize = 1 << 14;

/// The last touches of all address spaces.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// In the order of time.
    touches: VecDeque<Touch>,
    /// Time of the last one that is no longer kept in mind.
    forgotten: Timestamp,
}

#[derive(Debug)]
struct Touch {
    time: Timestamp,
    space: SpaceId,
    addrs: Range<VirtAddr>,
}

impl Touched {
    /// Something was done to `addrs` of `space`; its effect may have been there before `time`, but not after.
    pub(super) fn add(&mut self, time: Timestamp, space: SpaceId, addrs: Range<VirtAddr>) {
        if self.touches.len() == MAX_TOUCHES
            && let Some(oldest) = self.touches.pop_front()
        {
            self.forgotten = oldest.time;
        }
        // One that comes late counts as new: rather too much is taken for touched than too little.
        let time = self.touches.back().map_or(time, |last| last.time.max(time));
        self.touches.push_back(Touch { time, space, addrs });
    }

    /// What was touched in `range` of `space` after `began`; all of it if that is no longer known.
    pub(super) fn since(&self, began: Timestamp, space: SpaceId, range: VirtRange) -> RangeSet<VirtAddr> {
        if self.forgotten > began {
            return [range.addrs()].into_iter().collect();
        }
        let recent = self.touches.iter().rev().take_while(|touch| touch.time > began);
        let here = recent.filter(|touch| touch.space == space).map(|touch| touch.addrs.clone());
        let parts = here.map(|addrs| addrs.start.max(range.start())..addrs.end.min(range.end()));
        parts.filter(|part| !part.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(addr: u64) -> VirtAddr {
        VirtAddr::from_raw(addr)
    }

    fn at(nanos: u64) -> Timestamp {
        Timestamp::from_nanos(nanos)
    }

    /// What was touched at 0x1000..0x9000 after `began`.
    fn since(touched: &Touched, began: u64) -> Vec<(u64, u64)> {
        let range = VirtRange::new(addr(0x1000), addr(0x9000)).expect("not empty");
        let set = touched.since(at(began), SpaceId(1), range);
        set.iter().map(|part| (part.start.as_raw(), part.end.as_raw())).collect()
    }

    #[test]
    fn touches_after_the_begin_of_a_look_count_where_it_looked() {
        let mut touched = Touched::default();
        touched.add(at(10), SpaceId(1), addr(0x2000)..addr(0x3000));
        touched.add(at(20), SpaceId(1), addr(0)..addr(0x2000));
        touched.add(at(21), SpaceId(2), addr(0x4000)..addr(0x5000));
        touched.add(at(22), SpaceId(1), addr(0x9000)..addr(0xa000));
        touched.add(at(23), SpaceId(1), addr(0x8000)..addr(0xa000));

        assert_eq!(since(&touched, 10), [(0x1000, 0x2000), (0x8000, 0x9000)]);
        assert_eq!(since(&touched, 23), []);
    }

    #[test]
    fn touch_that_comes_late_hides_none_before_it() {
        let mut touched = Touched::default();
        touched.add(at(20), SpaceId(1), addr(0x2000)..addr(0x3000));
        touched.add(at(5), SpaceId(1), addr(0x4000)..addr(0x5000));

        assert_eq!(since(&touched, 10), [(0x2000, 0x3000), (0x4000, 0x5000)]);
    }

    #[test]
    fn more_than_is_kept_in_mind_may_have_touched_anything() {
        let mut touched = Touched::default();
        for time in 0..=MAX_TOUCHES as u64 {
            touched.add(at(100 + time), SpaceId(2), addr(0x2000)..addr(0x3000));
        }

        assert_eq!(since(&touched, 99), [(0x1000, 0x9000)]);
        assert_eq!(since(&touched, 100), []);
    }
}
