//! What to look at next: what became interesting, hot first, within the time that looks may take.
//!
//! Looks cost time, so they follow what happens and not the size of a process: slots at which faults or calls point; whole address
//! spaces where more is resident than looks have seen, for what populates memory need not fault; and the rest in rotation, with a
//! share of the time that does not grow with the process.

use std::{cmp::Reverse, collections::BTreeMap, str::FromStr};

use memtrace_ebpf::HEAT_SLOT_SHIFT;
use rangemap::RangeSet;
use serde::{Deserialize, Serialize};

use super::directory::Directory;
use crate::{
    event::{HeatReading, LookReason, MapCall, PageLook, ProbeRequest, ProbeTarget, SpaceId},
    pipeline::{join::tasks::Tasks, slots::slot_end},
    region::{AddressSpace, Region},
    units::{CpuShare, Nanos, PageCount, PageSize, ParseUnitError, Timestamp, VirtAddr, VirtRange},
};

mod chosen;
mod pace;
mod residents;
mod sweep;

#[cfg(test)]
mod tests;

use chosen::Chosen;
use pace::{Pace, Purse};
use residents::Residents;
use sweep::Sweep;

/// What is looked at, and what that may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FocusOptions {
    /// What is looked at after each interval, whatever happens there.
    pub areas: Vec<Area>,
    /// What looks may take.
    pub max_cpu: CpuShare,
}

impl Default for FocusOptions {
    /// What is hot, with a twentieth of a CPU.
    fn default() -> Self {
        Self { areas: Vec::new(), max_cpu: CpuShare::from_percent(5) }
    }
}

/// Memory that the user asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Area {
    /// Everything.
    All,
    /// Addresses, in each process.
    Range(VirtRange),
    /// Regions with this in their name.
    Name(String),
}

impl FromStr for Area {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "all" => Ok(Self::All),
            range if range.starts_with("0x") => range.parse().map(Self::Range),
            name => Ok(Self::Name(name.to_owned())),
        }
    }
}

impl Area {
    /// The part of `region`, which has the name `name`, that lies in the area.
    fn part_of(&self, region: &Region, name: &[u8]) -> Option<VirtRange> {
        match self {
            Self::All => Some(region.range),
            Self::Range(range) => region.range.intersection(*range),
            Self::Name(part) => {
                let is_part = |window: &[u8]| window == part.as_bytes();
                name.windows(part.len().max(1)).any(is_part).then_some(region.range)
            }
        }
    }
}

/// Hot slots that may wait, and changed ranges; 4 MiB each. Where there are more, everything is visited.
const MAX_WAITING: usize = 1 << 16;

/// The part of the time that is left to rotation.
const ROTATION_SHARE: u64 = 32;

/// Time from the end of one rotation to the begin of the next.
const ROTATION_PERIOD: Nanos = Nanos::new(10_000_000_000);

/// Processes that are asked for their resident pages after one interval.
const MAX_COUNTED: usize = 64;

/// Chooses what to look at.
#[derive(Debug)]
pub(in crate::pipeline) struct Focus {
    areas: Vec<Area>,
    page: PageSize,
    /// Time that looks may take after each interval.
    allowance: Nanos,
    /// Slots in which faults happened, and how many.
    hot: BTreeMap<(SpaceId, VirtAddr), u64>,
    /// Slots that calls changed.
    changed: BTreeMap<SpaceId, RangeSet<VirtAddr>>,
    /// How many ranges `changed` has at most.
    changes: usize,
    residents: BTreeMap<SpaceId, Residents>,
    asked: Sweep,
    populated: Sweep,
    rotation: Sweep,
    rotated: Option<Timestamp>,
    /// How long looks at each page take, and those of sweeps.
    close_pace: Pace,
    sweep_pace: Pace,
    /// The last address space whose resident pages were asked for.
    counted: SpaceId,
}

impl Focus {
    /// Chooses by `options` after each `interval`.
    pub(in crate::pipeline) fn new(options: FocusOptions, page: PageSize, interval: Nanos) -> Self {
        let FocusOptions { areas, max_cpu } = options;
        Self {
            areas,
            page,
            allowance: max_cpu.of(interval),
            hot: BTreeMap::new(),
            changed: BTreeMap::new(),
            changes: 0,
            residents: BTreeMap::new(),
            asked: Sweep::default(),
            populated: Sweep::default(),
            rotation: Sweep::default(),
            rotated: None,
            close_pace: Pace::new(page),
            sweep_pace: Pace::new(page),
            counted: SpaceId::UNKNOWN,
        }
    }

    /// Faults happened in the slots of `reading`.
    pub(in crate::pipeline) fn heat(&mut self, reading: &HeatReading) {
        for cell in &reading.cells {
            let (Some(space), Some(slot)) = (cell.space, cell.slot) else { continue };
            let key = (space, slot.start());
            if self.hot.len() >= MAX_WAITING && !self.hot.contains_key(&key) {
                self.residents.entry(space).or_default().ask_for_visit();
            } else {
                *self.hot.entry(key).or_default() += cell.faults.total();
            }
        }
    }

    /// A call in `space` may have given pages to memory, or taken them.
    pub(in crate::pipeline) fn called(&mut self, space: SpaceId, call: &MapCall) {
        let Some(range) = call.changed_pages() else { return };
        if self.changes >= MAX_WAITING {
            return self.residents.entry(space).or_default().ask_for_visit();
        }
        let slots = range.widened(HEAT_SLOT_SHIFT);
        self.changed.entry(space).or_default().insert(slots.addrs());
        self.changes += 1;
    }

    /// So many pages of `space` are resident.
    pub(in crate::pipeline) fn count(&mut self, space: SpaceId, pages: PageCount) {
        self.residents.entry(space).or_default().count(pages);
    }

    /// A look at `space` ended at `time`.
    pub(in crate::pipeline) fn learn(&mut self, time: Timestamp, space: SpaceId, look: &PageLook) {
        let pace = if look.reason.is_close() { &mut self.close_pace } else { &mut self.sweep_pace };
        pace.learn(time.since(look.began), look.range);
        self.residents.entry(space).or_default().see(look, self.page);
    }

    /// Asks for the looks that are worth their time now: what the user asked for, what is hot, what calls changed, what was
    /// populated, and then the rest in rotation.
    pub(in crate::pipeline) fn plan(
        &mut self,
        now: Timestamp,
        directory: &Directory,
        tasks: &Tasks,
        requests: &mut Vec<ProbeRequest>,
    ) {
        self.hot.retain(|(space, _), _| directory.process_of(*space).is_some());
        self.changed.retain(|space, _| directory.process_of(*space).is_some());
        self.residents.retain(|space, _| directory.process_of(*space).is_some());
        let mut chosen = Chosen::default();
        let mut purse = Purse::new(self.allowance);
        self.choose_asked(tasks, directory, &mut purse, &mut chosen);
        self.choose_hot(&mut purse, &mut chosen);
        self.choose_changed(&mut purse, &mut chosen);
        self.choose_populated(tasks, directory, &mut purse, &mut chosen);
        self.choose_in_rotation(now, tasks, directory, &mut chosen);
        for (space, ranges) in chosen.into_ranges() {
            if let Some(tgid) = directory.process_of(space) {
                requests.push(ProbeRequest { tgid, space, target: ProbeTarget::Pages(ranges) });
            }
        }
        self.ask_for_residents(directory, requests);
    }

    /// What takes longer than it may goes on next time.
    fn choose_asked(&mut self, tasks: &Tasks, directory: &Directory, purse: &mut Purse, chosen: &mut Chosen) {
        let areas = &self.areas;
        if areas.is_empty() {
            return;
        }
        let wanted = |regions: &AddressSpace, region: &Region| {
            let name = regions.label(region).name;
            let mut parts: Vec<_> = areas.iter().filter_map(|area| area.part_of(region, &name)).collect();
            parts.sort_unstable();
            parts
        };
        let spaces = spaces(tasks, directory);
        self.asked.go_on(spaces, wanted, &self.close_pace, purse, |space, range| {
            chosen.add(space, range, LookReason::Asked);
        });
    }

    /// Slots with most faults first; the others go on waiting.
    fn choose_hot(&mut self, purse: &mut Purse, chosen: &mut Chosen) {
        let mut order: Vec<_> = self.hot.iter().map(|(key, faults)| (Reverse(*faults), *key)).collect();
        order.sort_unstable();
        for (_, (space, start)) in order {
            let Some(slot) = VirtRange::new(start, slot_end(start)) else { continue };
            let Some(slot) = purse.pay_for(slot, &self.close_pace) else { break };
            chosen.add(space, slot, LookReason::Heat);
            self.hot.remove(&(space, start));
        }
    }

    /// What calls changed; what takes longer than it may waits.
    fn choose_changed(&mut self, purse: &mut Purse, chosen: &mut Chosen) {
        for (space, slots) in &mut self.changed {
            for range in std::mem::take(slots) {
                let mut next = range.start;
                while let Some(rest) = VirtRange::new(next, range.end) {
                    let Some(piece) = purse.pay_for(rest, &self.close_pace) else {
                        slots.insert(next..range.end);
                        break;
                    };
                    chosen.add(*space, piece, LookReason::Call);
                    next = piece.end();
                }
            }
        }
        self.changes = self.changed.values().map(RangeSet::len).sum();
    }

    /// All of the address spaces in which memory is resident that looks have not seen.
    fn choose_populated(
        &mut self,
        tasks: &Tasks,
        directory: &Directory,
        purse: &mut Purse,
        chosen: &mut Chosen,
    ) {
        let residents = &mut self.residents;
        let is_due = |space: &SpaceId| residents.get(space).is_none_or(Residents::is_visit_due);
        let spaces = spaces(tasks, directory).filter(|(space, _)| is_due(space));
        let visited = self.populated.go_on(spaces, whole, &self.sweep_pace, purse, |space, range| {
            chosen.add(space, range, LookReason::Population);
        });
        for space in visited {
            residents.entry(space).or_default().end_visit();
        }
    }

    /// Everything, little by little.
    fn choose_in_rotation(
        &mut self,
        now: Timestamp,
        tasks: &Tasks,
        directory: &Directory,
        chosen: &mut Chosen,
    ) {
        let is_resting = self.rotated.is_some_and(|rotated| now < rotated.after(ROTATION_PERIOD));
        if self.rotation.is_over() && is_resting {
            return;
        }
        let mut purse = Purse::new(Nanos::new(self.allowance.get() / ROTATION_SHARE));
        self.rotation.go_on(spaces(tasks, directory), whole, &self.sweep_pace, &mut purse, |space, range| {
            chosen.add(space, range, LookReason::Rotation);
        });
        if self.rotation.is_over() {
            self.rotated = Some(now);
        }
    }

    /// How much is resident; of some address spaces after the other.
    fn ask_for_residents(&mut self, directory: &Directory, requests: &mut Vec<ProbeRequest>) {
        let behind = directory.iter().filter(|(space, _)| *space > self.counted);
        let ahead = directory.iter().filter(|(space, _)| *space <= self.counted);
        let some: Vec<_> = behind.chain(ahead).take(MAX_COUNTED).collect();
        for (space, tgid) in some {
            requests.push(ProbeRequest { tgid, space, target: ProbeTarget::Resident });
            self.counted = space;
        }
    }
}

/// The address spaces that can be looked at, in order.
fn spaces<'a>(
    tasks: &'a Tasks,
    directory: &'a Directory,
) -> impl Iterator<Item = (SpaceId, &'a AddressSpace)> {
    directory.iter().filter_map(|(space, _)| Some((space, tasks.regions(space)?)))
}

/// All of `region`, unless no access is allowed: nothing is there then, as a rule.
fn whole(_: &AddressSpace, region: &Region) -> Vec<VirtRange> {
    region.traits.perms().starts_with(b"---").then(Vec::new).unwrap_or_else(|| vec![region.range])
}
