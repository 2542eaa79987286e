//! Totals of a whole session; bounded by the number of processes and regions, not of faults.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use memtrace_ebpf::FaultEvent;

use super::{
    forks::Forks,
    maps::{self, Done, MapTotals},
    pages::occupancy::Residence,
    tasks::{Actors, Purged, RetiredIn, Tasks},
};
use crate::{
    event::{
        Account, Fault, FaultCounts, FaultKind, HeatReading, HostFacts, Loss, MapEvent, Mode, PageScan,
        ScanReason, SpaceId, TaskAction, Tgid, UncountedCause,
    },
    pipeline::{END_OF_TIME, plan::accounting::ScanTotals},
    region::{Comparison, Region, Retired},
    timeline::{
        FaultRow, FaultTotals, MapRow, OutcomeKind, OutcomeTotals, PageState, ProcessId, ProcessSummary,
        RegionId, RegionLabel, RegionSummary, Summary, TaskTotals, TimelineRow,
    },
    units::{Nanos, PageCount, Timestamp},
};

/// Longest latency that the histogram distinguishes: all that a record has room for.
const MAX_LATENCY_NS: u64 = FaultEvent::LATENCY_MAX;

/// How many losses back to search for the one that another one continues.
const RECENT_LOSSES: usize = 1_024;

/// Sums over all records.
#[derive(Debug)]
pub(in crate::pipeline) struct Totals {
    host: HostFacts,
    end: Timestamp,
    faults: FaultTotals,
    latencies: Histogram<u64>,
    uncounted: BTreeMap<UncountedCause, FaultCounts>,
    processes: BTreeMap<ProcessId, Process>,
    /// Of regions that are there.
    regions: BTreeMap<RegionId, RegionTally>,
    /// Of regions that have gone, those with most faults.
    gone: Vec<RegionSummary>,
    regions_born: u64,
    maps: MapTotals,
    heat: FaultCounts,
    heat_overflow: FaultCounts,
    losses: Vec<Loss>,
    tasks: TaskTotals,
    without_region: FaultCounts,
    scans: ScanTotals,
    forks: Forks,
    /// By the outcomes of faults, and by how many pages where all faults of that kind bring as many.
    outcome: BTreeMap<(OutcomeKind, Option<PageCount>), OutcomeTotals>,
}

/// Regions that have gone and are remembered.
const GONE: usize = 4_096;

/// What rows and scans told of one region.
#[derive(Debug, Default)]
struct RegionTally {
    faults: FaultCounts,
    latency_sum: Nanos,
    residence: Option<Residence>,
    scans: BTreeMap<ScanReason, u64>,
}

/// What is known of one process.
#[derive(Debug, Default)]
struct Process {
    faults: FaultCounts,
    uncounted: FaultCounts,
    account: Option<Account>,
    /// Pages of the regions that went last, all at that time. Of a great many processes few are scanned.
    last: Option<Box<(Timestamp, PageState)>>,
}

impl Process {
    /// A region went at `time`, with pages as last seen; those that go with the process go last, and together.
    fn keep(&mut self, time: Timestamp, pages: PageState) {
        match self.last.as_deref_mut() {
            Some((last, _)) if time < *last => {}
            Some((last, sum)) if time == *last => *sum += pages,
            _ => self.last = Some(Box::new((time, pages))),
        }
    }

    /// Adds the account of one of its tasks, if the kernel's counters could be read.
    fn settle(&mut self, account: Option<Account>) {
        if let Some(account) = account {
            *self.account.get_or_insert_default() += account;
        }
    }
}

impl Totals {
    pub(in crate::pipeline) fn new(host: HostFacts, interval: Nanos) -> Self {
        Self {
            end: host.start,
            scans: ScanTotals::new(host.page, interval),
            forks: Forks::default(),
            outcome: BTreeMap::new(),
            host,
            faults: FaultTotals::default(),
            latencies: Histogram::new_with_bounds(1, MAX_LATENCY_NS, 3)
                .expect("the bounds and the digits are in range"),
            uncounted: BTreeMap::new(),
            processes: BTreeMap::new(),
            regions: BTreeMap::new(),
            gone: Vec::new(),
            regions_born: 0,
            maps: MapTotals::default(),
            heat: FaultCounts::default(),
            heat_overflow: FaultCounts::default(),
            losses: Vec::new(),
            tasks: TaskTotals::default(),
            without_region: FaultCounts::default(),
        }
    }

    /// Something happened at `time`.
    pub(in crate::pipeline) fn see(&mut self, time: Timestamp) {
        self.end = self.end.max(time);
    }

    /// Time of the last thing that happened.
    pub(in crate::pipeline) fn end(&self) -> Timestamp {
        self.end
    }

    pub(in crate::pipeline) fn fault(&mut self, fault: &Fault) {
        let totals = &mut self.faults;
        match fault.kind {
            FaultKind::Minor => totals.completed.minor += 1,
            FaultKind::Major => totals.completed.major += 1,
            FaultKind::Failed => totals.failed += 1,
            FaultKind::Refused => totals.refused += 1,
            FaultKind::Emulated => totals.emulated += 1,
            FaultKind::Retried => totals.retried += 1,
            FaultKind::Unfinished => totals.unfinished += 1,
        }
        if !fault.kind.is_completed() {
            return;
        }
        match fault.mode {
            Mode::User => totals.user += 1,
            Mode::Kernel => totals.kernel += 1,
        }
        totals.access.add(fault.access, fault.protection);
        match fault.latency {
            Some(latency) => {
                self.latencies.saturating_record(latency.get());
                totals.latency_max = totals.latency_max.max(Some(latency));
            }
            None => totals.without_latency += 1,
        }
    }

    /// Counts faults of `process` without an event.
    pub(in crate::pipeline) fn uncounted(
        &mut self,
        cause: UncountedCause,
        faults: FaultCounts,
        process: ProcessId,
    ) {
        *self.uncounted.entry(cause).or_default() += faults;
        self.processes.entry(process).or_default().uncounted += faults;
    }

    pub(in crate::pipeline) fn task(&mut self, action: &TaskAction, actors: Actors) {
        let Actors { process, child } = actors;
        self.forks.task(action, process, child);
        let process = self.processes.entry(process).or_default();
        match *action {
            TaskAction::Fork { .. } => match child {
                Some(child) => {
                    self.tasks.forks += 1;
                    self.processes.entry(child).or_default();
                }
                None => self.tasks.threads += 1,
            },
            TaskAction::Exec { .. } => self.tasks.execs += 1,
            TaskAction::Exit { account, .. } => {
                self.tasks.exits += 1;
                process.settle(account);
            }
            TaskAction::Alive { account, .. }
            | TaskAction::Late { account }
            | TaskAction::Leave { account } => {
                process.settle(account);
            }
            TaskAction::Comm(_) | TaskAction::Join { .. } => {}
        }
    }

    /// Counts a fault of `process` that a fork may have caused.
    pub(in crate::pipeline) fn copied(&mut self, fault: &Fault, process: ProcessId) {
        self.forks.fault(fault, process);
    }

    /// The outcome of a fault is known, or will never be.
    pub(in crate::pipeline) fn outcome(&mut self, row: &FaultRow) {
        let Some(outcome) = row.outcome else { return };
        let size = outcome.pages.filter(|_| outcome.kind != OutcomeKind::File);
        let nothing =
            OutcomeTotals { faults: 0, pages: Some(PageCount::default()), latency_sum: Nanos::default() };
        let totals = self.outcome.entry((outcome.kind, size)).or_insert(nothing);
        totals.faults += 1;
        totals.pages =
            totals.pages.zip(outcome.pages).map(|(sum, pages)| PageCount::new(sum.get() + pages.get()));
        totals.latency_sum += row.fault.latency.unwrap_or_default();
    }

    /// The heat counters were read; `is_there` says which address spaces still have a process.
    pub(in crate::pipeline) fn heat(&mut self, reading: &HeatReading, is_there: impl Fn(SpaceId) -> bool) {
        self.see(reading.time);
        self.scans.read(reading, is_there);
        for cell in &reading.cells {
            self.heat += cell.faults;
            if cell.slot.is_none() {
                self.heat_overflow += cell.faults;
            }
        }
    }

    pub(in crate::pipeline) fn loss(&mut self, loss: Loss) {
        self.see(loss.end.unwrap_or(loss.start));
        // Under overload a CPU loses records between all readings: that is one gap.
        let mut recent = self.losses.iter_mut().rev().take(RECENT_LOSSES);
        let goes_on = recent
            .find(|last| last.cpu == loss.cpu && last.cause == loss.cause && last.end == Some(loss.start));
        match goes_on {
            Some(last) => {
                last.end = loss.end;
                last.count = last.count.zip(loss.count).map(|(sum, count)| sum + count);
            }
            None => self.losses.push(loss),
        }
    }

    /// A scan of `space` came.
    pub(in crate::pipeline) fn scan(&mut self, space: SpaceId, scan: &PageScan) {
        self.scans.add(space, scan);
    }

    /// A scan saw some of a region.
    pub(in crate::pipeline) fn scanned(&mut self, region: RegionId, reason: ScanReason) {
        *self.regions.entry(region).or_default().scans.entry(reason).or_default() += 1;
    }

    /// What scans saw of a region.
    pub(in crate::pipeline) fn seen(&mut self, region: RegionId) -> &mut Residence {
        self.regions.entry(region).or_default().residence.get_or_insert_default()
    }

    /// Adds a map event, of which `done` came.
    pub(in crate::pipeline) fn map(&mut self, event: &MapEvent, done: &Done) {
        self.maps.add(event, done);
    }

    /// Adds a comparison of the maps of `tgid`; returns a row for each contradiction.
    pub(in crate::pipeline) fn compared(
        &mut self,
        time: Timestamp,
        tgid: Tgid,
        comparison: Comparison,
    ) -> Vec<MapRow> {
        let contradictions = self.maps.compared(comparison).into_iter();
        contradictions.map(|contradiction| maps::contradiction_row(time, tgid, contradiction)).collect()
    }

    /// Adds a finished row to its process and its region.
    pub(in crate::pipeline) fn row(&mut self, row: &TimelineRow) {
        if row.region.is_none() {
            self.without_region += row.faults.completed;
        }
        let Some(process) = row.process else { return };
        self.processes.entry(process).or_default().faults += row.faults.completed;
        let Some(label) = &row.region else { return };
        let region = self.regions.entry(label.id).or_default();
        region.faults += row.faults.completed;
        region.latency_sum += row.faults.detail.unwrap_or_default().latency_sum;
    }

    /// Regions and address spaces have gone: returns all that is known of the regions.
    pub(in crate::pipeline) fn purge(&mut self, purged: Purged) -> impl Iterator<Item = RegionSummary> {
        let Purged { regions, spaces } = purged;
        for space in spaces {
            self.maps.forget(space);
        }
        regions.into_iter().filter_map(|region| self.retire(region))
    }

    fn retire(&mut self, (process, space, retired): RetiredIn) -> Option<RegionSummary> {
        let Retired { died, region, label } = retired;
        let summary = self.region((process?, space), &region, label, Some(died));
        if summary.faults.total() > 0 {
            self.gone.push(summary.clone());
            if self.gone.len() >= 2 * GONE {
                self.gone.sort_unstable_by_key(hotness);
                self.gone.truncate(GONE);
            }
        }
        Some(summary)
    }

    /// Recording has ended: returns all that is known of the regions that are there, if that is wanted.
    pub(in crate::pipeline) fn live(&mut self, tasks: &Tasks) -> Vec<RegionSummary> {
        let mut live = Vec::new();
        for (space, process, regions) in tasks.spaces() {
            let Some(process) = process else { continue };
            for region in regions.live() {
                live.push(self.region((process, space), region, regions.label(region), None));
            }
        }
        self.gone.extend(live.iter().filter(|region| region.faults.total() > 0).cloned());
        live
    }

    fn region(
        &mut self,
        (process, space): (ProcessId, SpaceId),
        region: &Region,
        label: RegionLabel,
        died: Option<Timestamp>,
    ) -> RegionSummary {
        let RegionTally { faults, latency_sum, residence, scans } =
            self.regions.remove(&region.id).unwrap_or_default();
        if scans.is_empty() {
            self.scans.miss(region, died);
        }
        self.regions_born += 1;
        // A loss may have taken faults of any region, of one without a row in that interval too.
        let end = died.unwrap_or(END_OF_TIME);
        let lower_bound = self.losses.iter().any(|loss| loss.touches(region.born, end));
        let peak_present = residence.as_ref().map(Residence::peak);
        let pages = residence.as_ref().map(|residence| residence.state(region.range));
        if let Some(pages) = pages {
            self.processes.entry(process).or_default().keep(end, pages);
        }
        let Region { born, parent, .. } = *region;
        RegionSummary {
            process,
            space,
            label,
            born,
            died,
            parent,
            faults,
            latency_sum,
            peak_present,
            pages,
            scans,
            lower_bound,
        }
    }

    pub(in crate::pipeline) fn summary(self, tasks: &Tasks) -> Summary {
        let mut regions = self.gone;
        regions.sort_unstable_by_key(hotness);
        let mut total = None;
        let processes = self.processes.into_iter().map(|(id, process)| {
            let Process { faults, uncounted, account, last } = process;
            if let Some(account) = account {
                *total.get_or_insert_with(Account::default) += account;
            }
            let uncounted = (account.is_some() || uncounted.total() > 0).then_some(uncounted);
            let pages = last.map(|last| last.1);
            ProcessSummary { id, comm: tasks.name(id), faults, uncounted, account, pages }
        });
        let processes = processes.collect();
        Summary {
            host: self.host,
            end: self.end,
            processes,
            faults: self.faults,
            uncounted: self.uncounted.into_iter().collect(),
            account: total,
            heat: self.heat,
            heat_overflow: self.heat_overflow,
            losses: self.losses,
            latencies: self.latencies,
            tasks: self.tasks,
            regions,
            regions_born: self.regions_born,
            maps: self.maps.into_summary(),
            without_region: self.without_region,
            scans: self.scans.into_summary(),
            fork_tax: self.forks.into_tax(),
            outcome: self.outcome,
        }
    }
}

/// Most faults first.
fn hotness(region: &RegionSummary) -> (std::cmp::Reverse<u64>, RegionId) {
    (std::cmp::Reverse(region.faults.total()), region.label.id)
}
