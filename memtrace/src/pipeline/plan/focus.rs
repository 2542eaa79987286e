//! What to scan next: what became interesting, hot first, within the time that scans may take.
//!
//! Scans cost time, so they follow what happens and not the size of a process: slots at which faults or calls point; whole address
//! spaces where more is resident than scans have seen, for what populates memory need not fault; and the rest in rotation, with a
//! share of the time that does not grow with the process.

use std::{cmp::Reverse, collections::BTreeMap, str::FromStr};

use memtrace_ebpf::HEAT_SLOT_SHIFT;
use rangemap::RangeSet;

use super::directory::Directory;
use crate::{
    event::{HeatReading, MapCall, PageScan, ProbeRequest, ProbeTarget, ScanReason, SpaceId},
    pipeline::{join::tasks::Tasks, slots::slot_end},
    region::{AddressSpace, Region},
    units::{CpuShare, Nanos, PageCount, PageSize, ParseUnitError, Timestamp, VirtAddr, VirtRange},
};

mod chosen;
mod cost;
mod counting;
mod coverage;
mod cursor;

#[cfg(test)]
mod tests;

use chosen::Chosen;
use cost::{Budget, CostModel};
use counting::Counting;
use coverage::Coverage;
use cursor::ScanCursor;

/// What is scanned, and what that may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FocusOptions {
    /// What is scanned after each interval, whatever happens there.
    pub areas: Vec<Area>,
    /// What scans may take.
    pub max_cpu: CpuShare,
}

impl Default for FocusOptions {
    /// What is hot, with a twentieth of a CPU.
    fn default() -> Self {
        Self { areas: Vec::new(), max_cpu: CpuShare::from_percent(5) }
    }
}

/// Memory that the user asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// Chooses what to scan.
#[derive(Debug)]
pub(in crate::pipeline) struct Focus {
    areas: Vec<Area>,
    page: PageSize,
    /// Time that scans may take after each interval.
    allowance: Nanos,
    /// Slots in which faults happened, and how many.
    hot: BTreeMap<(SpaceId, VirtAddr), u64>,
    /// Slots that calls changed.
    changed: BTreeMap<SpaceId, RangeSet<VirtAddr>>,
    /// How many ranges `changed` has at most.
    changes: usize,
    coverage: BTreeMap<SpaceId, Coverage>,
    asked: ScanCursor,
    populated: ScanCursor,
    rotation: ScanCursor,
    rotated: Option<Timestamp>,
    /// How long scans of each page take, and those of rotation.
    close_pace: CostModel,
    sweep_pace: CostModel,
    counting: Counting,
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
            coverage: BTreeMap::new(),
            asked: ScanCursor::default(),
            populated: ScanCursor::default(),
            rotation: ScanCursor::default(),
            rotated: None,
            close_pace: CostModel::new(page),
            sweep_pace: CostModel::new(page),
            counting: Counting::default(),
        }
    }

    /// Faults happened in the slots of `reading`.
    pub(in crate::pipeline) fn heat(&mut self, reading: &HeatReading) {
        for cell in &reading.cells {
            let (Some(space), Some(slot)) = (cell.space, cell.slot) else { continue };
            self.counting.note(space);
            let key = (space, slot.start());
            if self.hot.len() >= MAX_WAITING && !self.hot.contains_key(&key) {
                self.coverage.entry(space).or_default().ask_for_visit();
            } else {
                let faults = self.hot.entry(key).or_default();
                *faults = faults.saturating_add(cell.faults.total());
            }
        }
    }

    /// A call in `space` may have given pages to memory, or taken them.
    pub(in crate::pipeline) fn called(&mut self, space: SpaceId, call: &MapCall) {
        let Some(range) = call.changed_pages() else { return };
        self.counting.note(space);
        if self.changes >= MAX_WAITING {
            return self.coverage.entry(space).or_default().ask_for_visit();
        }
        let slots = range.widened(HEAT_SLOT_SHIFT);
        self.changed.entry(space).or_default().insert(slots.addrs());
        self.changes += 1;
    }

    /// So many pages of `space` are resident.
    pub(in crate::pipeline) fn count(&mut self, space: SpaceId, pages: PageCount) {
        self.coverage.entry(space).or_default().count(pages);
    }

    /// A scan of `space` ended at `time`.
    pub(in crate::pipeline) fn learn(&mut self, time: Timestamp, space: SpaceId, scan: &PageScan) {
        let cost = if scan.reason.is_close() { &mut self.close_pace } else { &mut self.sweep_pace };
        cost.learn(time.since(scan.began), scan.range);
        self.coverage.entry(space).or_default().see(scan, self.page);
    }

    /// Asks for the scans that are worth their time now: what the user asked for, what is hot, what calls changed, what was
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
        self.coverage.retain(|space, _| directory.process_of(*space).is_some());
        let (counted, scanning) = self.counting.choose(directory, self.allowance);
        let mut chosen = Chosen::default();
        let mut budget = Budget::new(scanning);
        self.choose_asked(tasks, directory, &mut budget, &mut chosen);
        self.choose_hot(&mut budget, &mut chosen);
        self.choose_changed(&mut budget, &mut chosen);
        self.choose_populated(tasks, directory, &mut budget, &mut chosen);
        self.choose_in_rotation(now, tasks, directory, &mut chosen);
        for (space, ranges) in chosen.into_ranges() {
            if let Some(tgid) = directory.process_of(space) {
                requests.push(ProbeRequest { tgid, space, target: ProbeTarget::Pages(ranges) });
            }
        }
        let ask = |(space, tgid)| ProbeRequest { tgid, space, target: ProbeTarget::Resident };
        requests.extend(counted.into_iter().map(ask));
    }

    /// What takes longer than it may goes on next time.
    fn choose_asked(
        &mut self,
        tasks: &Tasks,
        directory: &Directory,
        budget: &mut Budget,
        chosen: &mut Chosen,
    ) {
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
        self.asked.go_on(spaces, wanted, &self.close_pace, budget, |space, range| {
            chosen.add(space, range, ScanReason::Asked);
        });
    }

    /// Slots with most faults first; the others go on waiting.
    fn choose_hot(&mut self, budget: &mut Budget, chosen: &mut Chosen) {
        let mut order: Vec<_> = self.hot.iter().map(|(key, faults)| (Reverse(*faults), *key)).collect();
        order.sort_unstable();
        for (_, (space, start)) in order {
            let Some(slot) = VirtRange::new(start, slot_end(start)) else { continue };
            let Some(slot) = budget.pay_for(slot, &self.close_pace) else { break };
            chosen.add(space, slot, ScanReason::Heat);
            self.hot.remove(&(space, start));
        }
    }

    /// What calls changed; what takes longer than it may waits.
    fn choose_changed(&mut self, budget: &mut Budget, chosen: &mut Chosen) {
        for (space, slots) in &mut self.changed {
            for range in std::mem::take(slots) {
                let mut next = range.start;
                while let Some(rest) = VirtRange::new(next, range.end) {
                    let Some(piece) = budget.pay_for(rest, &self.close_pace) else {
                        slots.insert(next..range.end);
                        break;
                    };
                    chosen.add(*space, piece, ScanReason::Call);
                    next = piece.end();
                }
            }
        }
        self.changes = self.changed.values().map(RangeSet::len).sum();
    }

    /// All of the address spaces in which memory is resident that scans have not seen.
    fn choose_populated(
        &mut self,
        tasks: &Tasks,
        directory: &Directory,
        budget: &mut Budget,
        chosen: &mut Chosen,
    ) {
        let coverage = &mut self.coverage;
        let is_due = |space: &SpaceId| coverage.get(space).is_none_or(Coverage::is_visit_due);
        let spaces = spaces(tasks, directory).filter(|(space, _)| is_due(space));
        let visited = self.populated.go_on(spaces, whole, &self.sweep_pace, budget, |space, range| {
            chosen.add(space, range, ScanReason::Population);
        });
        for space in visited {
            coverage.entry(space).or_default().end_visit();
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
        let mut budget = Budget::new(Nanos::new(self.allowance.get() / ROTATION_SHARE));
        let spaces = spaces(tasks, directory);
        let visited = self.rotation.go_on(spaces, whole, &self.sweep_pace, &mut budget, |space, range| {
            chosen.add(space, range, ScanReason::Rotation);
        });
        if self.rotation.is_over() && !visited.is_empty() {
            self.rotated = Some(now);
        }
    }
}

/// The address spaces that can be scanned, in order: those of which regions are known. Of a process that was attached to they are
/// not until its maps have been read, and it is not visited before that.
fn spaces<'a>(
    tasks: &'a Tasks,
    directory: &'a Directory,
) -> impl Iterator<Item = (SpaceId, &'a AddressSpace)> {
    let known = |space| tasks.regions(space).filter(|regions| regions.live().next().is_some());
    directory.iter().filter_map(move |(space, _)| Some((space, known(space)?)))
}

/// All of `region`, unless no access is allowed: nothing is there then, as a rule.
fn whole(_: &AddressSpace, region: &Region) -> Vec<VirtRange> {
    region.traits.perms().starts_with(b"---").then(Vec::new).unwrap_or_else(|| vec![region.range])
}
