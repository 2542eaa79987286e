//! Totals of a whole session; bounded by the number of processes and regions that are there or are to be reported one by one, not of
//! faults.

use std::{collections::BTreeMap, sync::Arc};

use hdrhistogram::Histogram;
use memtrace_ebpf::FaultEvent;

use super::{
    code::CodeSums,
    forks::Forks,
    maps::{self, Done, MapTotals},
    pages::{Findings, PageLedger},
    tasks::{Actors, Purged, RetiredIn, Tasks},
};
use crate::{
    event::{
        Account, Comm, Fault, FaultCounts, FaultKind, HeatReading, HostFacts, Loss, MapEvent, Mode, PageScan,
        ScanReason, SpaceId, TaskAction, TaskEvent, Tgid, UncountedCause,
    },
    pipeline::{Detail, END_OF_TIME, Options, plan::accounting::ScanTotals},
    region::{Comparison, Region, Retired},
    timeline::{
        CodeTotals, CompletedTotals, Departure, FaultRow, FaultTotals, MapRow, OutcomeKind, OutcomeTotals,
        OutcomeUnknown, ProcessId, RefaultTotals, RegionId, RegionLabel, RegionSummary, RowSet, RssCheck,
        RssDifference, RssRow, Summary, TaskTotals, TimelineRow,
    },
    units::{Nanos, PageCount, Timestamp},
};

mod process;

use process::Process;

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
    completed: CompletedTotals,
    latencies: Histogram<u64>,
    uncounted: BTreeMap<UncountedCause, FaultCounts>,
    processes: BTreeMap<ProcessId, Process>,
    wants: RowSet,
    /// Whether there are records of single faults.
    follows_faults: bool,
    /// Of processes that are not kept.
    account: Option<Account>,
    /// Of regions that are there.
    regions: BTreeMap<RegionId, RegionTally>,
    /// Of regions that have gone, those with most faults.
    gone: Vec<RegionSummary>,
    regions_born: u64,
    maps: MapTotals,
    /// Processes that ended without a last comparison; `None` if none was to be.
    unverified: Option<u64>,
    heat: FaultCounts,
    heat_overflow: FaultCounts,
    losses: Vec<Loss>,
    tasks: TaskTotals,
    without_region: FaultCounts,
    scans: ScanTotals,
    forks: Forks,
    /// By the outcomes of faults, and by how many pages where all faults of that kind bring as many.
    outcome: BTreeMap<(OutcomeKind, Option<PageCount>), OutcomeTotals>,
    outcome_unknown: BTreeMap<OutcomeUnknown, u64>,
    refaults: BTreeMap<Departure, RefaultTotals>,
    rss_check: RssCheck,
    code: CodeSums,
}

/// Regions that have gone and are remembered.
const GONE: usize = 4_096;

/// What is known of one region from rows and scans.
#[derive(Debug, Default)]
struct RegionTally {
    faults: FaultCounts,
    latency_sum: Nanos,
    scans: BTreeMap<ScanReason, u64>,
}

impl Totals {
    pub(in crate::pipeline) fn new(host: HostFacts, options: &Options) -> Self {
        Self {
            end: host.start,
            scans: ScanTotals::new(host.page, options.interval),
            forks: Forks::default(),
            outcome: BTreeMap::new(),
            outcome_unknown: BTreeMap::new(),
            refaults: BTreeMap::new(),
            rss_check: RssCheck::default(),
            code: CodeSums::default(),
            host,
            faults: FaultTotals::default(),
            completed: CompletedTotals::default(),
            latencies: Histogram::new_with_bounds(1, MAX_LATENCY_NS, 3)
                .expect("the bounds and the digits are in range"),
            uncounted: BTreeMap::new(),
            processes: BTreeMap::new(),
            wants: options.wants,
            follows_faults: options.detail == Detail::Full,
            account: None,
            regions: BTreeMap::new(),
            gone: Vec::new(),
            regions_born: 0,
            maps: MapTotals::default(),
            unverified: options.verify.then_some(0),
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

    /// Counts so many faults of this `kind`.
    pub(in crate::pipeline) fn count(&mut self, kind: FaultKind, faults: u64) {
        let totals = &mut self.faults;
        *match kind {
            FaultKind::Minor => &mut totals.completed.minor,
            FaultKind::Major => &mut totals.completed.major,
            FaultKind::Failed => &mut totals.failed,
            FaultKind::Refused => &mut totals.refused,
            FaultKind::Emulated => &mut totals.emulated,
            FaultKind::Retried => &mut totals.retried,
            FaultKind::Unfinished => &mut totals.unfinished,
        } += faults;
    }

    /// Counts a fault, of which all is known.
    pub(in crate::pipeline) fn fault(&mut self, fault: &Fault) {
        self.count(fault.kind, 1);
        if !fault.kind.is_completed() {
            return;
        }
        let totals = &mut self.completed;
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

    /// Counts a task event.
    pub(in crate::pipeline) fn count_task(&mut self, action: &TaskAction, actors: Actors) {
        match *action {
            TaskAction::Fork { .. } if actors.child.is_some() => self.tasks.forks += 1,
            TaskAction::Fork { .. } => self.tasks.threads += 1,
            TaskAction::Exec { .. } => self.tasks.execs += 1,
            TaskAction::Exit { .. } => {
                self.tasks.exits += 1;
                let is_verified = self.processes.get(&actors.process).is_some_and(|one| one.is_verified);
                if let Some(unverified) = &mut self.unverified {
                    *unverified += u64::from(actors.is_end && !is_verified);
                }
            }
            _ => {}
        }
    }

    /// Adds a task event to the processes that take part.
    pub(in crate::pipeline) fn task(&mut self, task: &TaskEvent, actors: Actors) {
        let TaskEvent { action, .. } = task;
        let Actors { process, child, is_end } = actors;
        self.forks.task(action, process, child);
        let life = &mut self.processes.entry(process).or_default().life;
        life.apply(task, is_end);
        if let (TaskAction::Fork { space, .. }, Some(child)) = (action, child) {
            let parent = life.clone();
            self.processes.entry(child).or_default().life.born(&parent, process.tgid, *space);
        }
        if let TaskAction::Exit { account, .. }
        | TaskAction::Alive { account, .. }
        | TaskAction::Late { account }
        | TaskAction::Leave { account } = *action
        {
            self.processes.entry(process).or_default().settle(account);
        }
    }

    /// Counts a fault of `process` that a fork may have caused.
    pub(in crate::pipeline) fn copied(&mut self, fault: &Fault, process: ProcessId) {
        self.forks.fault(fault, process);
    }

    /// All that will ever be known of a fault is.
    pub(in crate::pipeline) fn fault_row(&mut self, row: &FaultRow) {
        self.code.add(row);
        if let Some(refault) = row.refault {
            let totals = self.refaults.entry(refault.of).or_default();
            totals.faults += 1;
            totals.latency_sum += row.fault.latency.unwrap_or_default();
        }
        if let Some(why) = row.outcome_unknown {
            *self.outcome_unknown.entry(why).or_default() += 1;
        }
        let Some(outcome) = row.outcome else { return };
        let size = outcome.pages.filter(|_| outcome.kind != OutcomeKind::File);
        let totals = self.outcome.entry((outcome.kind, size)).or_default();
        totals.faults += 1;
        totals.sized += u64::from(outcome.pages.is_some());
        totals.known_pages += outcome.pages.unwrap_or_default();
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
                last.add(loss.count);
            }
            None => self.losses.push(loss),
        }
    }

    /// A scan of `space` came.
    pub(in crate::pipeline) fn scan(&mut self, space: SpaceId, scan: &PageScan) {
        self.scans.add(space, scan);
    }

    /// Notes of which regions a scan saw some.
    pub(in crate::pipeline) fn observe(&mut self, reason: ScanReason, findings: &Findings) {
        for region in findings.tallies.keys() {
            *self.regions.entry(*region).or_default().scans.entry(reason).or_default() += 1;
        }
    }

    /// Adds a map event, of which `done` came.
    pub(in crate::pipeline) fn map(&mut self, event: &MapEvent, done: &Done) {
        self.maps.add(event, done);
    }

    /// The kernel mapped `name` in `process` for a program.
    pub(in crate::pipeline) fn loads(&mut self, process: ProcessId, name: &Arc<[u8]>) {
        self.processes.entry(process).or_default().life.loads(name);
    }

    /// Path of the program that `process` executed last, if that is known.
    pub(in crate::pipeline) fn program(&self, process: ProcessId) -> Option<&Arc<[u8]>> {
        self.processes.get(&process)?.life.program.as_ref()
    }

    /// The counters of resident memory of `process` were read, `at_exit` or before.
    pub(in crate::pipeline) fn counted(&mut self, process: ProcessId, row: &RssRow, at_exit: bool) {
        self.processes.entry(process).or_default().life.counted(&row.counters, at_exit);
        if let Some(residency) = row.residency {
            let counted = row.counted();
            self.rss_check.add(RssDifference { time: row.time, process, counted, residency });
        }
    }

    /// The maps of `process` were compared while it was held at its exit.
    pub(in crate::pipeline) fn verified(&mut self, process: ProcessId) {
        self.processes.entry(process).or_default().is_verified = true;
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
        let latency_sum = row.faults.detail.unwrap_or_default().latency_sum;
        let totals = self.processes.entry(process).or_default();
        totals.faults += row.faults.completed;
        totals.stall += latency_sum;
        let Some(label) = &row.region else { return };
        let region = self.regions.entry(label.id).or_default();
        region.faults += row.faults.completed;
        region.latency_sum += latency_sum;
    }

    /// Regions, address spaces and processes have gone: returns all that is known of the regions, if that is wanted.
    pub(in crate::pipeline) fn purge(
        &mut self,
        mut purged: Purged,
        pages: &mut PageLedger,
    ) -> impl Iterator<Item = RegionSummary> {
        let regions = std::mem::take(&mut purged.regions);
        self.forget(purged);
        regions.into_iter().filter_map(|region| self.retire(region, pages))
    }

    /// Address spaces and processes have gone, and regions of which nobody wants to know.
    pub(in crate::pipeline) fn forget(&mut self, purged: Purged) {
        let Purged { regions: _, spaces, processes } = purged;
        for (space, _) in spaces {
            self.maps.forget(space);
        }
        for (process, comm) in processes {
            self.forget_process(process, comm);
        }
    }

    /// Nothing can come any more of a process, which was called `comm`.
    fn forget_process(&mut self, id: ProcessId, comm: Comm) {
        if self.wants.contains(RowSet::SUMS) {
            self.processes.entry(id).or_default().comm = Some(comm);
            return;
        }
        let account = self.processes.remove(&id).and_then(|process| process.account);
        if let Some(account) = account {
            *self.account.get_or_insert_default() += account;
        }
        self.forks.forget(id);
        self.maps.forget_process(id);
    }

    fn retire(
        &mut self,
        (process, space, retired): RetiredIn,
        pages: &mut PageLedger,
    ) -> Option<RegionSummary> {
        let Retired { died, region, label } = retired;
        let Some(process) = process else {
            pages.take(space, &region);
            return None;
        };
        let summary = self.region((process, space), &region, label, (Some(died), pages));
        if summary.faults.total() > 0 {
            self.gone.push(summary.clone());
            if self.gone.len() >= 2 * GONE {
                self.gone.sort_unstable_by_key(hotness);
                self.gone.truncate(GONE);
            }
        }
        self.wants.contains(RowSet::REGIONS).then_some(summary)
    }

    /// Recording has ended: returns all that is known of the regions that are there, if that is wanted.
    pub(in crate::pipeline) fn live(&mut self, tasks: &Tasks, pages: &mut PageLedger) -> Vec<RegionSummary> {
        let mut live = Vec::new();
        for (space, process, regions) in tasks.spaces() {
            let Some(process) = process else { continue };
            for region in regions.live() {
                live.push(self.region((process, space), region, regions.label(region), (None, pages)));
            }
        }
        self.gone.extend(live.iter().filter(|region| region.faults.total() > 0).cloned());
        live.retain(|_| self.wants.contains(RowSet::REGIONS));
        live
    }

    fn region(
        &mut self,
        (process, space): (ProcessId, SpaceId),
        region: &Region,
        label: RegionLabel,
        (died, pages): (Option<Timestamp>, &mut PageLedger),
    ) -> RegionSummary {
        let RegionTally { faults, latency_sum, scans } = self.regions.remove(&region.id).unwrap_or_default();
        if scans.is_empty() {
            self.scans.miss(region, died);
        }
        self.regions_born += 1;
        // A loss may have taken faults of any region, of one without a row in that interval too.
        let end = died.unwrap_or(END_OF_TIME);
        let lower_bound = self.losses.iter().any(|loss| loss.touches(region.born, end));
        let occupied = pages.take(space, region);
        let peak_present = occupied.map(|occupied| occupied.peak);
        let pages = occupied.and_then(|occupied| occupied.state);
        if let Some(pages) = pages {
            self.processes.entry(process).or_default().keep(end, pages);
        }
        let Region { born, parent, .. } = *region;
        RegionSummary {
            process,
            space,
            label,
            file: region.traits.file(),
            build_id: None,
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
        let mut total = self.account;
        let (losses, follows_faults) = (&self.losses, self.follows_faults);
        let processes = self.processes.into_iter().map(|(id, process)| {
            if let Some(account) = process.account {
                *total.get_or_insert_with(Account::default) += account;
            }
            process.into_summary(id, tasks, losses, follows_faults)
        });
        let processes = processes.collect();
        Summary {
            host: self.host,
            end: self.end,
            processes,
            faults: self.faults,
            completed: self.completed,
            uncounted: self.uncounted.into_iter().collect(),
            account: total,
            heat: self.heat,
            heat_overflow: self.heat_overflow,
            losses: self.losses,
            latencies: self.latencies,
            tasks: TaskTotals { processes: tasks.count_processes(), ..self.tasks },
            regions,
            regions_born: self.regions_born,
            maps: self.maps.into_summary(self.unverified),
            without_region: self.without_region,
            scans: self.scans.into_summary(),
            fork_tax: self.forks.into_tax(),
            outcome: self.outcome,
            outcome_unknown: self.outcome_unknown,
            refaults: self.refaults,
            rss_check: self.rss_check,
            modules: self.code.modules,
            syscalls: self.code.syscalls,
            stacks: Vec::new(),
            without_stack: CodeTotals::default(),
            resident_lower_bound: false,
            resident: Vec::new(),
        }
    }
}

/// Most faults first.
fn hotness(region: &RegionSummary) -> (std::cmp::Reverse<u64>, RegionId) {
    (std::cmp::Reverse(region.faults.total()), region.label.id)
}
