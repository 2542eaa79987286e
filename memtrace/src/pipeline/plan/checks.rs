//! When to compare the regions of an address space with its maps.
//!
//! Reading maps costs in proportion to the number of VMAs, and holds up the process while it lasts. So each address space is
//! read every second, or less often where all readings together take longer than a hundredth of that.

use std::collections::BTreeMap;

use super::directory::Directory;
use crate::{
    event::{MapsReading, ProbeRequest, ProbeTarget, SpaceId, Tgid},
    pipeline::join::tasks::Tasks,
    region::Comparison,
    units::{Nanos, Timestamp},
};

/// Time between two readings of one address space.
const PERIOD: Nanos = Nanos::new(1_000_000_000);
/// The same where the regions are not known: at least this, and otherwise as many times shorter.
const SOON: Nanos = Nanos::new(50_000_000);
const SOONER: u64 = 20;
/// How many times as long as all readings together is the time between two of one address space.
const SPARING: u64 = 100;

/// The next reading of each address space.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct Checks {
    due: BTreeMap<SpaceId, Due>,
}

#[derive(Clone, Copy, Debug)]
struct Due {
    asked: Timestamp,
    /// How long the last reading took.
    took: Nanos,
}

impl Checks {
    /// Asks for a reading now.
    pub(in crate::pipeline) fn ask(
        &mut self,
        now: Timestamp,
        tgid: Tgid,
        space: SpaceId,
        requests: &mut Vec<ProbeRequest>,
    ) {
        let due = self.due.entry(space).or_insert(Due { asked: now, took: Nanos::default() });
        due.asked = now;
        requests.push(ProbeRequest { tgid, space, target: ProbeTarget::Maps });
    }

    /// Asks for the readings that are due.
    pub(in crate::pipeline) fn tick(
        &mut self,
        now: Timestamp,
        directory: &Directory,
        tasks: &Tasks,
        requests: &mut Vec<ProbeRequest>,
    ) {
        let all = self.due.values().fold(0, |sum: u64, due| sum.saturating_add(due.took.get()));
        let period = PERIOD.max(Nanos::new(all.saturating_mul(SPARING)));
        let soon = SOON.max(Nanos::new(period.get() / SOONER));
        for (space, tgid) in directory.iter() {
            let unknown = Due { asked: now, took: Nanos::default() };
            let Due { asked, .. } = *self.due.entry(space).or_insert(unknown);
            let period = if tasks.is_doubtful(space) { soon } else { period };
            if asked.after(period) <= now {
                self.ask(now, tgid, space, requests);
            }
        }
        self.due.retain(|space, _| directory.process_of(*space).is_some());
    }

    /// Notes how long a reading that ended at `time` took.
    pub(in crate::pipeline) fn compared(
        &mut self,
        time: Timestamp,
        maps: &MapsReading,
        compared: Option<&(SpaceId, Comparison)>,
    ) {
        if let Some(due) = compared.and_then(|(space, _)| self.due.get_mut(space)) {
            due.took = time.since(maps.began);
        }
    }
}
