//! Whose counters to read: those of processes in which something happened after each interval, of the others now and then.

use std::collections::BTreeSet;

use crate::{
    event::{SpaceId, Tgid},
    pipeline::plan::directory::Directory,
    units::Nanos,
};

/// What is reckoned for reading the counters of a process: several times what the system calls take (10 us), for they are parsed.
const COST: Nanos = Nanos::new(50_000);
/// The part of the time that is left to it, and how many are read at most.
const SHARE: u64 = 4;
const MOST: u64 = 64;
/// The part of these that is left to processes in which nothing happened that would be seen, if there are any: what populates
/// memory need not fault.
const IDLE_SHARE: u64 = 4;

/// Whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Counting {
    /// Address spaces in which there were faults or calls since they were chosen.
    active: BTreeSet<SpaceId>,
    next_active: Turn,
    next_idle: Turn,
    /// Parts of a turn that the others have left over.
    idle_credit: u64,
}

impl Counting {
    /// Something happened in `space`.
    pub(super) fn note(&mut self, space: SpaceId) {
        self.active.insert(space);
    }

    /// Chooses some, one at least if there is any; what is left of `allowance` then.
    pub(super) fn choose(
        &mut self,
        directory: &Directory,
        allowance: Nanos,
    ) -> (Vec<(SpaceId, Tgid)>, Nanos) {
        self.active.retain(|space| directory.process_of(*space).is_some());
        let most = (allowance.get() / SHARE / COST.get()).clamp(1, MOST);
        let (active, idle): (Vec<_>, Vec<_>) =
            directory.iter().partition(|(space, _)| self.active.contains(space));
        self.idle_credit += most;
        let for_idle = (self.idle_credit / IDLE_SHARE).min(idle.len() as u64);
        self.idle_credit %= IDLE_SHARE;
        let mut chosen = self.next_active.take(&active, most - for_idle);
        for (space, _) in &chosen {
            self.active.remove(space);
        }
        chosen.extend(self.next_idle.take(&idle, most - chosen.len() as u64));
        // One that takes longer than it may leaves time to scans all the same.
        let cost = (COST.get() * chosen.len() as u64).min(allowance.get() / SHARE);
        (chosen, Nanos::new(allowance.get().saturating_sub(cost)))
    }
}

/// Takes address spaces one after the other, round and round.
#[derive(Debug, Default)]
struct Turn {
    last: SpaceId,
}

impl Turn {
    /// The next `count` of `spaces`, which ascend.
    fn take(&mut self, spaces: &[(SpaceId, Tgid)], count: u64) -> Vec<(SpaceId, Tgid)> {
        let (before, behind) = spaces.split_at(spaces.partition_point(|(space, _)| *space <= self.last));
        let next = behind.iter().chain(before).copied();
        let taken: Vec<_> = next.take(usize::try_from(count).unwrap_or(usize::MAX)).collect();
        self.last = taken.last().map_or(self.last, |(space, _)| *space);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Comm, TaskAction, TaskEvent, Tid},
        units::Timestamp,
    };

    /// A process in each of these spaces.
    fn directory(spaces: impl IntoIterator<Item = u32>) -> Directory {
        let mut directory = Directory::default();
        for space in spaces {
            let action =
                TaskAction::Join { space: SpaceId(space.into()), comm: Comm::default(), parent: None };
            let time = Timestamp::default();
            directory.learn(&TaskEvent { time, tgid: Tgid(space), tid: Tid(space), action });
        }
        directory
    }

    fn chosen(counting: &mut Counting, directory: &Directory, micros: u64) -> Vec<u64> {
        let (chosen, _) = counting.choose(directory, Nanos::new(micros * 1000));
        chosen.into_iter().map(|(space, _)| space.0).collect()
    }

    #[test]
    fn what_is_active_comes_first_and_nobody_is_left_out_for_ever() {
        let directory = directory(1..=9);
        let mut counting = Counting::default();
        (1..=4).for_each(|space| counting.note(SpaceId(space)));

        assert_eq!(
            chosen(&mut counting, &directory, 800),
            [1, 2, 3, 5],
            "four readings in a quarter of the time"
        );
        counting.note(SpaceId(1));
        assert_eq!(chosen(&mut counting, &directory, 800), [4, 1, 6, 7]);
        assert_eq!(chosen(&mut counting, &directory, 1), [8], "one at least");
    }

    #[test]
    fn where_just_one_fits_the_others_have_every_fourth_turn() {
        let directory = directory(1..=9);
        let mut counting = Counting::default();

        let turns: Vec<_> = (0..8)
            .flat_map(|_| {
                (1..=4).for_each(|space| counting.note(SpaceId(space)));
                chosen(&mut counting, &directory, 200)
            })
            .collect();

        assert_eq!(turns, [1, 2, 3, 5, 4, 1, 2, 6]);
    }

    #[test]
    fn readings_take_their_part_of_the_time() {
        let mut counting = Counting::default();

        let (chosen, left) = counting.choose(&directory([]), Nanos::new(5_000_000));
        assert_eq!((chosen.len(), left), (0, Nanos::new(5_000_000)));
        let (chosen, left) = counting.choose(&directory(1..=1000), Nanos::new(5_000_000));
        assert_eq!((chosen.len(), left), (25, Nanos::new(3_750_000)));
        let (chosen, left) = counting.choose(&directory(1..=1000), Nanos::new(50_000));
        assert_eq!((chosen.len(), left), (1, Nanos::new(37_500)), "scans go on");
    }
}
