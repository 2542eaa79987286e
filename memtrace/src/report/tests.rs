//! Reports on hand-made totals.

use std::sync::Arc;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::*;
use crate::{
    event::{Account, CallKind, Comm, HostFacts, ScanReason, SpaceId, Tgid, UncountedCause, WaitStatus},
    pipeline::FocusOptions,
    record::{Availability, Capture, Cost, Ending, ExitReason, Feature, Totals},
    timeline::{
        AccessCounts, Backing, CodeTotals, CompletedTotals, Departure, FaultTotals, MapIdentity, MapSummary,
        Module, OutcomeKind, OutcomeTotals, OutcomeUnknown, PageCounts, PageState, PeakRss, ProcessId,
        ProcessSummary, RefaultTotals, RegionId, RegionLabel, RegionSummary, Residency, RssCheck,
        RssDifference, ScanCount, ScanSummary, TaskTotals, UnseenRegions,
    },
    units::{PageCount, VirtAddr, VirtRange},
};

mod code;
mod functions;
mod maps;

const fn faults(minor: u64, major: u64) -> FaultCounts {
    FaultCounts { minor, major }
}

fn at(nanos: u64) -> Timestamp {
    Timestamp::from_nanos(7_000_000_000 + nanos)
}

fn process(tgid: u32) -> ProcessId {
    ProcessId { tgid: Tgid(tgid), born: at(0) }
}

/// 8 pages present and 2 in swap, of which it is unknown whether they are huge.
fn pages() -> PageState {
    PageState {
        scanned: at(300),
        counts: PageCounts::default()
            .with("present", Some(8))
            .with("swapped", Some(2))
            .with("file", Some(1))
            .with("huge", None)
            .with("exclusive", Some(7)),
    }
}

/// Three scans; of the slots in which faults happened one had to wait.
fn scans() -> ScanSummary {
    ScanSummary {
        by_reason: BTreeMap::from([
            (ScanReason::Heat, ScanCount { scans: 2, pages: PageCount::new(500) }),
            (ScanReason::Rotation, ScanCount { scans: 1, pages: PageCount::new(12) }),
        ]),
        hot_slots: 4,
        hot_slots_gone: 1,
        hot_slots_scanned: 2,
        unseen: UnseenRegions { regions: 3, bytes: 3 << 20, brief: 1 },
    }
}

/// Totals of these 102 faults, and of some that did not complete.
fn fault_totals() -> FaultTotals {
    FaultTotals { completed: faults(100, 2), refused: 3, emulated: 4, ..FaultTotals::default() }
}

/// What is known of those that completed.
fn completed_totals() -> CompletedTotals {
    CompletedTotals {
        user: 90,
        kernel: 12,
        access: AccessCounts { write: 80, read: 22, ..AccessCounts::default() },
        latency_max: Some(Nanos::new(1_020)),
        ..CompletedTotals::default()
    }
}

/// 100 minor and 2 major faults recorded, 30 uncounted, and the kernel says the same.
/// Latencies of 102 faults, of 10, 20, … nanoseconds.
fn latencies() -> Histogram<u64> {
    let mut latencies = Histogram::new_with_bounds(1, 1 << 40, 3).expect("the bounds are in order");
    for nanos in 1..=102 {
        latencies.record(nanos * 10).expect("within the bounds");
    }
    latencies
}

/// The program took most faults, and the kernel those that cost most.
fn totals(minor: u64, major: u64, stall: u64) -> CodeTotals {
    CodeTotals { faults: faults(minor, major), latency_sum: Nanos::new(stall) }
}

fn capture() -> Capture {
    Capture {
        command: vec!["sort".to_owned(), "big".to_owned()],
        targets: "sort big".to_owned(),
        detail: Detail::Full,
        interval: Nanos::new(100_000_000),
        ring_bytes: 16 << 20,
        follow_forks: true,
        follows_maps: true,
        verify: false,
        focus: FocusOptions::default(),
        gate: Some(faults(90, 1)),
        stacks: true,
    }
}

fn tasks() -> TaskTotals {
    TaskTotals { execs: 1, exits: 1, ..TaskTotals::default() }
}

fn pagemap_scan() -> Feature {
    let state = Availability::Missing { since: "Linux 6.7".to_owned() };
    Feature { name: "pagemap_scan".to_owned(), state }
}

/// A heap of eight pages.
fn region() -> RegionSummary {
    let label = RegionLabel {
        id: RegionId(5),
        range: VirtRange::new(VirtAddr::from_raw(0x1000), VirtAddr::from_raw(0x9000)).expect("not empty"),
        perms: *b"rw-p",
        backing: Backing::Heap,
        name: Arc::from(&b"[heap]"[..]),
        file_offset: None,
    };
    RegionSummary {
        process: process(42),
        space: SpaceId(1),
        label,
        file: None,
        build_id: None,
        born: at(0),
        died: None,
        parent: Some(RegionId(2)),
        faults: faults(100, 2),
        latency_sum: Nanos::new(102_000),
        peak_present: Some(PageCount::new(8)),
        pages: Some(pages()),
        scans: BTreeMap::from([(ScanReason::Heat, 2)]),
        lower_bound: false,
    }
}

pub(super) fn report() -> Report {
    let host = HostFacts::sample(at(0));
    let account = Account { kernel: faults(130, 2), recorded: faults(100, 2), uncounted: faults(30, 0) };
    Report {
        header: Header {
            memtrace_version: "0.1.0".to_owned(),
            host: host.clone(),
            capture: capture(),
            features: vec![pagemap_scan()],
            page_era: None,
        },
        summary: Summary {
            without_region: FaultCounts::default(),
            fork_tax: BTreeMap::new(),
            outcome: BTreeMap::new(),
            outcome_unknown: BTreeMap::new(),
            refaults: BTreeMap::new(),
            rss_check: RssCheck::default(),
            modules: code::modules(),
            syscalls: BTreeMap::from([(Some(0), totals(3, 2, 30_000)), (None, totals(5, 0, 6_000))]),
            stacks: code::stacks(),
            without_stack: totals(1, 0, 2_000),
            resident: Vec::new(),
            resident_lower_bound: false,
            host,
            end: at(400),
            processes: vec![ProcessSummary {
                id: process(42),
                comm: Comm::from_text("sort"),
                faults: faults(100, 2),
                uncounted: Some(faults(30, 0)),
                account: Some(account),
                pages: Some(pages()),
                space: Some(SpaceId(1)),
                parent: Some(Tgid(1)),
                program: Some(Arc::from(&b"/usr/bin/sort"[..])),
                died: Some(at(390)),
                status: Some(WaitStatus(3 << 8)),
                peak: PeakRss { exact: None, seen: Some(PageCount::new(512)) },
                stall: Some(Nanos::new(102_000)),
                lower_bound: false,
            }],
            faults: fault_totals(),
            completed: completed_totals(),
            uncounted: vec![
                (UncountedCause::Syscall(9), faults(20, 0)),
                (UncountedCause::Syscall(28), faults(4, 0)),
                (UncountedCause::Exec, faults(6, 0)),
            ],
            account: Some(account),
            heat: faults(100, 2),
            heat_overflow: faults(0, 0),
            losses: Vec::new(),
            latencies: latencies(),
            tasks: tasks(),
            regions: vec![region()],
            regions_born: 6,
            maps: MapSummary {
                calls: [(CallKind::Mmap, 9), (CallKind::Munmap, 4)].into(),
                identity: MapIdentity {
                    checks: 3,
                    contradictions: 1,
                    inconclusive: 0,
                    resyncs: 2,
                    unverified: None,
                },
                ..MapSummary::default()
            },
            scans: scans(),
        },
        functions: Vec::new(),
        end: Some(End {
            time: at(500),
            ending: Ending::Target,
            exit: Some(ExitReason::Code(0)),
            rusage: Some(faults(220, 3)),
            totals: Totals { recorded: faults(100, 2), ..Totals::default() },
            cost: Cost { cpu_ns: 12_000_000, lock_ns: 4_000, scans: 3, scanned_pages: 512 },
        }),
        recovery: Recovery { chunks_good: 3, complete: true, ..Recovery::default() },
    }
}

fn loss(cause: LossCause, count: Option<u64>) -> Loss {
    Loss { start: at(100), end: Some(at(200)), cpu: None, cause, count }
}

/// The line of `text` that begins with `label`, its columns separated by one space.
fn line(text: &str, label: &str) -> String {
    let line = text.lines().find(|line| line.trim_start().starts_with(label));
    line.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn text_prints_the_three_numbers_of_the_identity() {
    let text = report().to_string();

    assert_eq!(line(&text, "recorded"), "recorded 100 2");
    assert_eq!(line(&text, "uncounted"), "uncounted 30 0");
    assert_eq!(line(&text, "populate"), "populate 24 0");
    assert_eq!(line(&text, "kernel"), "kernel 130 2");
    assert!(text.contains("recorded + uncounted = kernel"), "{text}");
}

#[test]
fn a_broken_identity_is_said_with_its_size() {
    let mut report = report();
    report.summary.account = Some(Account { kernel: faults(133, 1), ..Account::default() });

    let text = report.to_string();
    assert!(text.contains("differs from kernel by -3 minor, +1 major"), "{text}");
}

#[test]
fn json_has_the_contract() {
    let json = report().to_json();

    assert_eq!(json["schema"], 1);
    assert_eq!(json["command"], json!(["sort", "big"]));
    assert_eq!(json["duration_ns"], 500);
    assert_eq!(json["complete"], true);
    assert_eq!(json["faults"]["minor"], 100);
    assert_eq!(json["faults"]["write"], 80);
    assert_eq!((&json["faults"]["refused"], &json["faults"]["emulated"]), (&json!(3), &json!(4)));
    let uncounted = json!({ "minor": 30, "major": 0, "by": { "populate": 24, "exec": 6 } });
    assert_eq!(json["uncounted"], uncounted);
    assert_eq!(json["kernel_counted"], json!({ "minor": 130, "major": 2 }));
    assert_eq!(json["rusage"], json!({ "minor": 220, "major": 3 }));
    assert_eq!(json["gate"], json!({ "minor": 90, "major": 1 }));
    assert_eq!(json["heat"], json!({ "minor": 100, "major": 2, "overflow": 0 }));
    assert_eq!(json["losses"]["events"], 0);
    // The 51st of 102 values, 10 ns apart.
    assert_eq!(json["latency_ns"]["p50"], 510);
    assert_eq!(json["latency_ns"]["max"], 1_020);
    assert_eq!(json["regions"][0]["start_addr"], "0x1000");
    assert_eq!(json["regions"][0]["peak_present_pages"], 8);
    assert_eq!(json["regions"][0]["parent_region"], 2);
    assert_eq!(json["regions_born"], 6);
    assert_eq!(json["maps"], json!({ "mmap": 9, "munmap": 4 }));
    assert_eq!(
        json["map_identity"],
        json!({ "checks": 3, "contradictions": 1, "inconclusive": 0, "resyncs": 2, "unverified": null })
    );
    assert_eq!(json["processes"][0]["kernel_counted"]["minor"], 130);
    let cost = json!({ "cpu_ns": 12_000_000, "lock_ns": 4_000, "scans": 3, "scanned_pages": 512 });
    assert_eq!(json["cost"], cost);
    assert_eq!(json["features"], json!({ "pagemap_scan": "missing: Linux 6.7" }));
    assert_eq!(json["findings"], json!([]));
}

#[test]
fn no_part_of_the_faults_takes_longer_than_the_longest() {
    let mut report = report();
    report.summary.latencies.reset();
    report.summary.latencies.record(6_000_146_064).expect("within the bounds");
    report.summary.completed.latency_max = Some(Nanos::new(6_000_146_064));

    let latency = &report.to_json()["latency_ns"];

    assert_eq!((&latency["p99"], &latency["max"]), (&json!(6_000_146_064_u64), &json!(6_000_146_064_u64)));
}

#[test]
fn counted_faults_are_those_of_the_heat_counters_and_their_kinds_are_unknown() {
    let mut report = report();
    report.header.capture.detail = Detail::Counts;
    report.summary.faults = FaultTotals::default();

    let json = report.to_json();
    assert_eq!(json["faults"]["minor"], 100);
    assert_eq!(json["faults"]["write"], json!(null));
}

#[test]
fn calls_that_nobody_followed_are_unknown_and_not_zero() {
    let mut report = report();
    report.header.capture.follows_maps = false;

    assert_eq!(report.to_json()["maps"], json!(null));
}

#[test]
fn losses_are_summed_by_cause() {
    let mut report = report();
    report.summary.losses = vec![
        loss(LossCause::EventsRing, Some(7)),
        loss(LossCause::EventsRing, Some(5)),
        loss(LossCause::Late, Some(1)),
        loss(LossCause::SideBand, Some(64)),
    ];

    let json = report.to_json();
    assert_eq!(json["complete"], false);
    assert_eq!(json["losses"]["events"], 12);
    assert_eq!(json["losses"]["late"], 1);
    assert_eq!(json["losses"]["side_band"], 64);
    assert_eq!(json["losses"]["control"], 0);
    let text = report.to_string();
    assert!(text.contains("counts below are at least these"), "{text}");
}

#[test]
fn after_a_torn_tail_nobody_knows_how_many_records_are_missing() {
    let mut report = report();
    report.summary.losses = vec![loss(LossCause::TornTail, None)];
    report.recovery.complete = false;
    report.end = None;

    let json = report.to_json();
    assert_eq!(json["losses"]["events"], json!(null));
    assert_eq!(json["counters"], json!(null));
    assert_eq!(json["cost"]["cpu_ns"], json!(null));
    assert_eq!(json["duration_ns"], 400);
    let text = report.to_string();
    assert!(text.contains("nothing is known after 400 ns"), "{text}");
}

#[test]
fn without_accounts_the_kernel_side_is_unknown_and_not_zero() {
    let mut report = report();
    report.summary.account = None;
    report.summary.uncounted.clear();

    let json = report.to_json();
    assert_eq!(json["uncounted"], json!(null));
    assert_eq!(json["kernel_counted"], json!(null));
    assert_eq!(line(&report.to_string(), "kernel"), "kernel unknown unknown");
}

#[test]
fn scans_are_told_with_their_reasons_and_what_they_left_out() {
    let report = report();

    let json = report.to_json();
    let by = json!({ "heat": { "scans": 2, "pages": 500 }, "rotation": { "scans": 1, "pages": 12 } });
    let never = json!({ "regions": 3, "bytes": 3 << 20, "brief": 1 });
    let scans = json!({
        "by": by, "hot_slots": 4, "hot_slots_gone": 1, "hot_slots_scanned": 2, "never_scanned": never,
    });
    assert_eq!(json["scans"], scans);
    assert_eq!(json["regions"][0]["scans"], json!({ "heat": 2 }));

    let text = report.to_string();
    for line in [
        "faults made 2M interesting 4 times:",
        "           1  had to wait (--max-cpu 5%), or the process ended first",
        "           1  the process had ended",
        "never scanned: 3 regions of 3 MiB together, 1 of which lived for less than an interval (100ms)",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn pages_of_a_process_are_those_last_seen() {
    let report = report();

    let pages = json!({
        "scan_ns": 300, "present": 8, "swapped": 2, "file": 1, "zero": 0, "huge": Value::Null, "shared": 0,
        "exclusive": 7, "ksm": 0, "mthp": 0, "hugetlb": 0,
    });
    let json = report.to_json();
    // Properties of pages are added without a change here.
    for (key, value) in pages.as_object().expect("it is one") {
        assert_eq!(json["processes"][0]["pages"][key], *value, "{key}");
    }
    let row = "  42 sort                       32 KiB       8 KiB     unknown      300 ns";
    let text = report.to_string();
    assert!(text.contains(row), "{text}");
}

#[test]
fn what_was_given_back_and_how_far_regions_are_from_the_kernels_counters_are_said() {
    let mut report = report();
    report.summary.outcome_unknown = BTreeMap::from([(OutcomeUnknown::Raced, 7)]);
    let of_files = OutcomeTotals {
        faults: 3,
        sized: 2,
        known_pages: PageCount::new(20),
        latency_sum: Nanos::new(20_000),
    };
    report.summary.outcome = BTreeMap::from([((OutcomeKind::File, None), of_files)]);
    let totals = RefaultTotals { faults: 51, latency_sum: Nanos::new(20_000) };
    report.summary.refaults = BTreeMap::from([(Departure::Advice, totals)]);
    let residency = Residency { pages: PageCount::new(512), unknown: PageCount::new(3) };
    let mut check = RssCheck::default();
    for (time, counted) in [(at(100), 512), (at(200), 768), (at(300), 511)] {
        let counted = PageCount::new(counted);
        check.add(RssDifference { time, process: process(42), counted, residency });
    }
    report.summary.rss_check = check;

    let text = report.to_string();
    assert_eq!(line(&text, "advice"), "advice 51 50.0% 20.0 µs");
    let (_, check) = text.split_once("Regions against the kernel's counters").expect("it has readings");
    assert_eq!(line(check, "42 sort"), "42 sort 2 MiB 12 KiB 3 MiB -1 MiB");
    assert!(text.contains("at 200 ns: the largest difference of 3 readings"), "{text}");
    assert_eq!(line(&text, "file"), "file 3 ≥ 80 KiB - 20.0 µs");
    let json = report.to_json();
    let outcome = &json["outcome"][0];
    assert_eq!((&outcome["pages"], &outcome["known_pages"]), (&json!(null), &json!(20)));
    assert_eq!(json["outcome_unknown"], json!({ "raced": 7 }));
    assert_eq!(json["refaults"], json!({ "advice": { "faults": 51, "latency_sum_ns": 20_000 } }));
    let largest = json!({
        "time_ns": 200, "tgid": 42, "counted_pages": 768, "resident_pages": 512, "resident_unknown_pages": 3
    });
    assert_eq!(json["rss_check"], json!({ "readings": 3, "largest_difference": largest }));
}
