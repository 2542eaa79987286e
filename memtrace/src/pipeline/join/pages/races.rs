//! What faults and calls did to pages lately: a scan under way at that time may have seen the pages before or after.

use std::collections::VecDeque;

use rangemap::RangeSet;

use crate::{
    event::SpaceId,
    units::{Nanos, Timestamp, VirtAddr, VirtRange},
};

/// How many are remembered: 1.5 MiB, and a million faults a second for 32 ms, many times what most scans take.
const MAX_TOUCHES: usize = 1 << 15;

/// What happens to neighbours within this time is one race.
const TOGETHER: Nanos = Nanos::new(1_000_000);

/// As many touches before one are asked whether they are its neighbours: threads take turns.
const TURNS: usize = 4;

/// The last touches of all address spaces.
#[derive(Debug, Default)]
pub(super) struct Races {
    /// In the order of their first times.
    touches: VecDeque<Touch>,
    /// Time of the last one that is no longer remembered.
    forgotten: Timestamp,
}

#[derive(Debug)]
struct Touch {
    /// The first of them, and the last.
    time: (Timestamp, Timestamp),
    space: SpaceId,
    range: VirtRange,
}

impl Races {
    /// Something was done to `range` of `space`; its effect may have been there before `time`, but not after.
    pub(super) fn add(&mut self, time: Timestamp, space: SpaceId, range: VirtRange) {
        let mut recent = self.touches.iter_mut().rev().take(TURNS);
        let neighbour = recent.find(|touch| {
            touch.space == space && touch.range.end() == range.start() && time.since(touch.time.0) < TOGETHER
        });
        if let Some(touch) = neighbour
            && let Some(both) = VirtRange::new(touch.range.start(), range.end())
        {
            touch.time.1 = time;
            touch.range = both;
            return;
        }
        if self.touches.len() == MAX_TOUCHES
            && let Some(oldest) = self.touches.pop_front()
        {
            self.forgotten = oldest.time.1;
        }
        self.touches.push_back(Touch { time: (time, time), space, range });
    }

    /// What races in `range` of `space` with a scan that began at `began`; all of it if that is no longer known.
    pub(super) fn since(&self, began: Timestamp, space: SpaceId, range: VirtRange) -> RangeSet<VirtAddr> {
        if self.forgotten > began {
            return [range.addrs()].into_iter().collect();
        }
        let recent = self.touches.iter().rev().take_while(|touch| touch.time.0.after(TOGETHER) > began);
        let here = recent.filter(|touch| touch.space == space && touch.time.1 > began);
        here.filter_map(|touch| Some(touch.range.intersection(range)?.addrs())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: u64 = 1_000;

    fn range(start: u64, end: u64) -> VirtRange {
        VirtRange::new(VirtAddr::from_raw(start), VirtAddr::from_raw(end)).expect("not empty")
    }

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_nanos(micros * US)
    }

    fn add(races: &mut Races, micros: u64, space: u64, (start, end): (u64, u64)) {
        races.add(at(micros), SpaceId(space), range(start, end));
    }

    /// What raced in 0x1000..0x9000 after `began`.
    fn since(races: &Races, began: u64) -> Vec<(u64, u64)> {
        let set = races.since(at(began), SpaceId(1), range(0x1000, 0x9000));
        set.iter().map(|part| (part.start.as_raw(), part.end.as_raw())).collect()
    }

    #[test]
    fn touches_after_the_begin_of_a_scan_count_where_it_scanned() {
        let mut races = Races::default();
        add(&mut races, 10, 1, (0x2000, 0x3000));
        add(&mut races, 20, 1, (0, 0x2000));
        add(&mut races, 21, 2, (0x4000, 0x5000));
        add(&mut races, 22, 1, (0xb000, 0xc000));
        add(&mut races, 23, 1, (0x8000, 0xa000));

        assert_eq!(since(&races, 10), [(0x1000, 0x2000), (0x8000, 0x9000)]);
        assert_eq!(since(&races, 23), []);
    }

    #[test]
    fn neighbours_that_are_touched_in_turns_are_one_touch_for_a_millisecond() {
        let mut races = Races::default();
        for page in 0..4 {
            for (space, time) in [(1, 0), (2, 1)] {
                let start = 0x2000 + page * 0x1000;
                add(&mut races, 10 + 300 * page + time, space, (start, start + 0x1000));
            }
        }
        assert_eq!(races.touches.len(), 2);
        add(&mut races, 1_100, 1, (0x6000, 0x7000));
        assert_eq!(races.touches.len(), 3);

        assert_eq!(since(&races, 900), [(0x2000, 0x7000)]);
        assert_eq!(since(&races, 910), [(0x6000, 0x7000)]);
    }

    #[test]
    fn more_than_is_kept_in_mind_may_have_touched_anything() {
        let mut races = Races::default();
        for time in 0..=MAX_TOUCHES as u64 {
            add(&mut races, 100 + time, 2, (0x2000, 0x3000));
        }

        assert_eq!(since(&races, 99), [(0x1000, 0x9000)]);
        assert_eq!(since(&races, 100), []);
    }
}
