//! The report for programs.
//!
//! Layer: codec. Input: [`Report`]. Output: one JSON object.
//! Keeps: keys stay; `null` is "not known", never 0.
//! Not here: layout (`text`).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{
    Report,
    findings::{Finding, mean_lifetime},
};
use crate::{
    event::{CallKind, FaultCounts, LossCause, WaitStatus},
    pipeline::Detail,
    record::{Availability, ExitReason},
    timeline::{
        AccessCounts, Advised, Churn, CompletedTotals, CopyTotals, FaultTotals, ForkTax, MapFlags,
        MappingProcess, OutcomeKind, OutcomeTotals, PageState, ProcessId, ProcessSummary, RefaultTotals,
        RegionId, RegionSummary, RssCheck, ScanCount, ScanSummary,
    },
    units::{Nanos, PageCount, Timestamp},
};

/// Version of the JSON; changes when a key changes its meaning or goes.
const SCHEMA: u32 = 1;

impl Report {
    /// The report as JSON. Counts are plain numbers; with `complete` false those that a loss touches are lower bounds.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let (header, summary) = (&self.header, &self.summary);
        let (heat, start) = (summary.heat, header.host.start);
        json!({
            "schema": SCHEMA,
            "command": header.capture.command,
            "target": header.capture.targets,
            "duration_ns": self.duration().get(),
            "complete": self.is_complete(),
            "exit": self.end.as_ref().and_then(|end| end.exit).map(exit),
            "processes": summary.processes.iter().map(|one| process(one, start)).collect::<Vec<_>>(),
            "tasks": {
                "forks": summary.tasks.forks,
                "threads": summary.tasks.threads,
                "execs": summary.tasks.execs,
                "exits": summary.tasks.exits,
            },
            "faults": self.faults_json(),
            "uncounted": self.uncounted_json(),
            "kernel_counted": self.kernel_counted().map(counts),
            "rusage": self.end.as_ref().and_then(|end| end.rusage).map(counts),
            "gate": header.capture.gate.map(counts),
            "heat": {
                "minor": heat.minor,
                "major": heat.major,
                "overflow": summary.heat_overflow.total(),
            },
            "counters": self.counters_json(),
            "losses": self.losses_json(),
            "latency_ns": self.latency_json(),
            "maps": self.followed(calls(&summary.maps.calls)),
            "maps_failed": self.followed(calls(&summary.maps.failed)),
            "churn": self.followed(self.churn().into_iter().map(churn).collect::<Vec<_>>()),
            "mapping": self.followed(summary.maps.processes.iter().map(mapping).collect::<Vec<_>>()),
            "advice": self.followed(summary.maps.advice.iter().map(advice).collect::<Vec<_>>()),
            "map_identity": {
                "checks": summary.maps.identity.checks,
                "contradictions": summary.maps.identity.contradictions,
                "inconclusive": summary.maps.identity.inconclusive,
                "resyncs": summary.maps.identity.resyncs,
                "unverified": summary.maps.identity.unverified,
            },
            "regions_born": summary.regions_born,
            "regions": summary.regions.iter().map(|one| region(one, start)).collect::<Vec<_>>(),
            "findings": self.findings().iter().map(finding).collect::<Vec<_>>(),
            "fork_tax": self.summary.fork_tax.iter().map(fork_tax).collect::<Vec<_>>(),
            "outcome": self.summary.outcome.iter().map(outcome).collect::<Vec<_>>(),
            "outcome_unknown": self.outcome_unknown_json(),
            "refaults": self.refaults_json(),
            "rss_check": self.rss_check_json(),
            "modules": self.modules_json(),
            "syscalls": self.syscalls_json(),
            "functions": self.functions_json(),
            "code": self.code_json(),
            "stack_ends": self.stack_ends_json(),
            "call_tree": self.call_tree_json(),
            "resident_lower_bound": self.summary.resident_lower_bound,
            "stacks": self.stacks_json(),
            "scans": self.scans_json(),
            "cost": self.cost_json(),
            "features": self.features_json(),
            "recovery": self.recovery,
        })
    }

    fn outcome_unknown_json(&self) -> Value {
        let unknown = &self.summary.outcome_unknown;
        unknown.iter().map(|(why, faults)| (why.name(), *faults)).collect()
    }

    fn refaults_json(&self) -> Value {
        let totals = |RefaultTotals { faults, latency_sum }: &RefaultTotals| json!({ "faults": faults, "latency_sum_ns": latency_sum.get() });
        self.summary.refaults.iter().map(|(of, refaults)| (of.name(), totals(refaults))).collect()
    }

    fn rss_check_json(&self) -> Value {
        let RssCheck { readings, largest } = self.summary.rss_check;
        let start = self.header.host.start;
        let largest = largest.map(|difference| {
            json!({
                "time_ns": difference.time.since(start).get(),
                "tgid": difference.process.tgid.0,
                "counted_pages": difference.counted.get(),
                "resident_pages": difference.residency.pages.get(),
                "resident_unknown_pages": difference.residency.unknown.get(),
            })
        });
        json!({ "readings": readings, "largest_difference": largest })
    }

    fn faults_json(&self) -> Value {
        let recorded = self.recorded();
        let FaultTotals { completed: _, failed, refused, emulated, retried, unfinished } =
            self.summary.faults;
        let CompletedTotals { user, kernel, access, without_latency, latency_max: _ } =
            self.summary.completed;
        // Where faults were only counted, nothing but their number is known.
        let known = |count: u64| (self.header.capture.detail == Detail::Full).then_some(count);
        let by_access = |count: fn(&AccessCounts) -> u64| known(count(access.known()?));
        json!({
            "minor": recorded.minor,
            "major": recorded.major,
            "failed": known(failed),
            "refused": known(refused),
            "emulated": known(emulated),
            "retried": known(retried),
            "unfinished": known(unfinished),
            "user": known(user),
            "kernel": known(kernel),
            "read": by_access(|access| access.read),
            "write": by_access(|access| access.write),
            "exec": by_access(|access| access.exec),
            "cow": by_access(|access| access.cow),
            "without_latency": known(without_latency),
        })
    }

    /// What calls reported, if they were followed.
    fn followed<T>(&self, value: T) -> Option<T> {
        self.header.capture.follows_maps.then_some(value)
    }

    fn uncounted_json(&self) -> Option<Value> {
        let FaultCounts { minor, major } = self.uncounted()?;
        let by: Map<_, _> =
            self.uncounted_by().into_iter().map(|(name, faults)| (name, faults.total().into())).collect();
        Some(json!({ "minor": minor, "major": major, "by": by }))
    }

    /// The programs' own totals, exact whatever the rings lost.
    fn counters_json(&self) -> Option<Value> {
        self.end.as_ref().map(|end| {
            json!({
                "recorded": counts(end.totals.recorded),
                "uncounted": counts(end.totals.uncounted),
                "duplicates": end.totals.duplicates,
            })
        })
    }

    fn losses_json(&self) -> Value {
        json!({
            "events": self.lost(LossCause::EventsRing),
            "control": self.lost(LossCause::ControlRing),
            "side_band": self.lost(LossCause::SideBand),
            "tasks": self.lost(LossCause::TaskTable),
            "hidden_programs": self.lost(LossCause::HiddenProgram),
            "late": self.lost(LossCause::Late),
            "unknown_kind": self.lost(LossCause::UnknownKind),
            "skipped": self.lost(LossCause::Skipped),
            "no_events": self.lost(LossCause::NoEvents),
            "cpu_offline": self.lost(LossCause::CpuOffline),
            "gaps": self.summary.losses.len(),
        })
    }

    fn latency_json(&self) -> Value {
        json!({
            "p50": self.latency_at(0.5),
            "p90": self.latency_at(0.9),
            "p99": self.latency_at(0.99),
            "max": self.summary.completed.latency_max.map(Nanos::get),
        })
    }

    fn scans_json(&self) -> Value {
        let ScanSummary { by_reason, hot_slots, hot_slots_gone, hot_slots_scanned, unseen } =
            &self.summary.scans;
        let by = by_reason.iter().map(|(reason, ScanCount { scans, pages })| {
            (reason.name().to_owned(), json!({ "scans": scans, "pages": pages.get() }))
        });
        json!({
            "by": by.collect::<Map<_, _>>(),
            "hot_slots": hot_slots,
            "hot_slots_gone": hot_slots_gone,
            "hot_slots_scanned": hot_slots_scanned,
            "never_scanned": { "regions": unseen.regions, "bytes": unseen.bytes, "brief": unseen.brief },
        })
    }

    fn cost_json(&self) -> Value {
        let cost = self.end.as_ref().map(|end| end.cost);
        let total = self.summary.scans.total();
        json!({
            "cpu_ns": cost.map(|cost| cost.cpu_ns),
            "lock_ns": cost.map(|cost| cost.lock_ns),
            "scans": total.scans,
            "scanned_pages": total.pages.get(),
        })
    }

    fn features_json(&self) -> Map<String, Value> {
        let text = |state: &Availability| state.to_string().into();
        self.header.features.iter().map(|feature| (feature.name.clone(), text(&feature.state))).collect()
    }
}

fn counts(FaultCounts { minor, major }: FaultCounts) -> Value {
    json!({ "minor": minor, "major": major })
}

/// Calls by name.
fn calls(by_kind: &BTreeMap<CallKind, u64>) -> Map<String, Value> {
    by_kind.iter().map(|(kind, count)| (kind.name().to_owned(), (*count).into())).collect()
}

fn churn((process, bytes, churn): (ProcessId, u64, &Churn)) -> Value {
    let Churn { count, lifetime_sum: _, shortest, longest } = churn;
    json!({
        "tgid": process.tgid.0,
        "bytes": bytes,
        "count": count,
        "lifetime_ns": { "mean": mean_lifetime(churn), "min": shortest.get(), "max": longest.get() },
    })
}

fn mapping((process, sums): (&ProcessId, &MappingProcess)) -> Value {
    let MappingProcess { calls, mapped, unmapped, lower_bound } = sums;
    json!({
        "tgid": process.tgid.0,
        "calls": calls,
        "mapped_bytes": mapped,
        "unmapped_bytes": unmapped,
        "lower_bound": lower_bound,
    })
}

fn advice(((process, advice), advised): (&(ProcessId, u64), &Advised)) -> Value {
    let Advised { calls, bytes, lower_bound } = advised;
    let advice = MapFlags::Advice(*advice).to_string();
    json!({ "tgid": process.tgid.0, "advice": advice, "calls": calls, "bytes": bytes, "lower_bound": lower_bound })
}

fn finding(Finding { kind, process, seen, remedy }: &Finding) -> Value {
    json!({ "kind": kind, "tgid": process.tgid.0, "text": format!("{seen}: {remedy}") })
}

fn exit(reason: ExitReason) -> Value {
    match reason {
        ExitReason::Code(code) => json!({ "code": code }),
        ExitReason::Signal(signal) => json!({ "signal": signal }),
    }
}

fn process(process: &ProcessSummary, start: Timestamp) -> Value {
    let ProcessSummary {
        id,
        comm,
        faults,
        uncounted,
        account,
        pages,
        space: _,
        parent,
        program,
        died,
        status,
        peak,
        stall,
        lower_bound,
    } = process;
    json!({
        "tgid": id.tgid.0,
        "birth_ns": id.born.since(start).get(),
        "comm": String::from_utf8_lossy(comm.as_bytes()),
        "faults": counts(*faults),
        "uncounted": uncounted.map(counts),
        "kernel_counted": account.map(|account| counts(account.kernel)),
        "pages": pages.map(|pages| page_state(pages, start)),
        "parent_tgid": parent.map(|parent| parent.0),
        "program": program.as_deref().map(String::from_utf8_lossy),
        "death_ns": died.map(|died| died.since(start).get()),
        "exit_status": status.and_then(WaitStatus::code),
        "exit_signal": status.and_then(WaitStatus::signal),
        "peak_rss_pages": peak.exact.map(PageCount::get),
        "seen_peak_rss_pages": peak.seen.map(PageCount::get),
        "stall_ns": stall.map(Nanos::get),
        "lower_bound": lower_bound,
    })
}

fn fork_tax((process, tax): (&ProcessId, &ForkTax)) -> Value {
    let part = |CopyTotals { faults, latency_sum }: CopyTotals| json!({ "faults": faults, "latency_sum_ns": latency_sum.get() });
    json!({
        "tgid": process.tgid.0,
        "forks": tax.forks,
        "by_parent": part(tax.by_parent),
        "by_children": part(tax.by_children),
    })
}

/// Faults that gave the same.
fn outcome((&(kind, pages), totals): (&(OutcomeKind, Option<PageCount>), &OutcomeTotals)) -> Value {
    json!({
        "kind": kind.name(),
        "pages_each": pages.map(PageCount::get),
        "faults": totals.faults,
        "pages": totals.pages().map(PageCount::get),
        "known_pages": totals.known_pages.get(),
        "fresh_pages": kind.fresh(totals.pages()).map(PageCount::get),
        "latency_sum_ns": totals.latency_sum.get(),
    })
}

/// Pages as last seen.
fn page_state(pages: PageState, start: Timestamp) -> Value {
    let PageState { scanned, counts } = pages;
    let counts = counts.iter().map(|(property, pages)| (property.name, pages.map(PageCount::get)));
    let scanned = ("scan_ns", Some(scanned.since(start).get()));
    counts.chain([scanned]).collect()
}

fn region(region: &RegionSummary, start: Timestamp) -> Value {
    let RegionSummary {
        process,
        space,
        label,
        file: _,
        build_id: _,
        born: _,
        died: _,
        parent,
        faults,
        latency_sum,
        peak_present,
        pages,
        scans,
        lower_bound,
    } = region;
    let scans = scans.iter().map(|(reason, count)| (reason.name().to_owned(), (*count).into()));
    json!({
        "region": label.id.0,
        "tgid": process.tgid.0,
        "space": space.0,
        "start_addr": label.range.start().to_string(),
        "end_addr": label.range.end().to_string(),
        "perms": String::from_utf8_lossy(&label.perms),
        "backing": label.backing.name(),
        "name": String::from_utf8_lossy(&label.name),
        "parent_region": parent.map(|RegionId(id)| id),
        "minor_faults": faults.minor,
        "major_faults": faults.major,
        "latency_sum_ns": latency_sum.get(),
        "peak_present_pages": peak_present.map(PageCount::get),
        "pages": pages.map(|pages| page_state(pages, start)),
        "scans": scans.collect::<Map<_, _>>(),
        "lower_bound": lower_bound,
    })
}
