//! What reports say of address spaces.

use std::collections::BTreeMap;

use super::*;
use crate::timeline::{Advised, Churn, MappingProcess, ProcessId};

/// Two processes: 42, named sort, and 50, of which nothing else is known.
fn report() -> Report {
    let mut report = super::report();
    report.summary.maps = MapSummary {
        calls: [(CallKind::Mmap, 2_009), (CallKind::Munmap, 2_004)].into(),
        failed: [(CallKind::Mmap, 3), (CallKind::Brk, 1)].into(),
        identity: MapIdentity { checks: 3, contradictions: 0, inconclusive: 0, resyncs: 1, unverified: None },
        processes: [
            (process(42), mapping(4_000, 4 << 20, 1 << 20)),
            (process(50), mapping(13, 8 << 20, 9 << 20)),
        ]
        .into(),
        advice: [((process(42), 4), advised(2, 8_192)), ((process(50), 14), advised(5, 10 << 20))].into(),
        churn: [churn(1 << 20, 2_000, 50_000)].into(),
    };
    report
}

fn mapping(calls: u64, mapped: u64, unmapped: u64) -> MappingProcess {
    MappingProcess { calls, mapped, unmapped, lower_bound: false }
}

fn advised(calls: u64, bytes: u64) -> Advised {
    Advised { calls, bytes, lower_bound: false }
}

/// `count` mappings of `bytes` bytes that lived for `lifetime` nanoseconds each, of process 42.
fn churn(bytes: u64, count: u64, lifetime: u64) -> ((ProcessId, u64), Churn) {
    let (lifetime, lifetime_sum) = (Nanos::new(lifetime), Nanos::new(count * lifetime));
    ((process(42), bytes), Churn { count, lifetime_sum, shortest: lifetime, longest: lifetime })
}

fn kinds_of_findings(churn: BTreeMap<(ProcessId, u64), Churn>) -> Vec<&'static str> {
    let mut report = report();
    report.summary.maps.churn = churn;
    report.findings().iter().map(|finding| finding.kind).collect()
}

#[test]
fn calls_are_shown_by_kind_with_those_that_failed() {
    let text = report().to_string();

    assert_eq!(line(&text, "mmap"), "mmap 2009 3");
    assert_eq!(line(&text, "munmap"), "munmap 2004 0");
    assert_eq!(line(&text, "brk"), "brk 0 1");
    assert_eq!(line(&text, "regions that came to be"), "regions that came to be 6");
}

#[test]
fn a_contradiction_points_to_the_rows_that_show_it() {
    let mut report = report();
    let silent = report.to_string();
    report.summary.maps.identity.contradictions = 2;

    let text = report.to_string();
    assert_eq!(line(&silent, "compared with maps"), "compared with maps 3 checks, 0 contradictions");
    assert!(!silent.contains("export --table maps"), "{silent}");
    assert!(text.contains("3 checks, 2 contradictions"), "{text}");
    assert!(text.contains("export --table maps"), "{text}");
}

#[test]
fn the_process_that_maps_most_comes_first_with_its_net_growth() {
    let text = report().to_string();

    let mapping = text.split_once("Who maps most").expect("the section is there").1;
    assert_eq!(line(mapping, "50"), "50 13 8 MiB 9 MiB -1 MiB");
    assert_eq!(line(mapping, "42"), "42 sort 4000 4 MiB 1 MiB +3 MiB");
    assert!(mapping.find("  50 ") < mapping.find("  42 "), "{mapping}");
}

#[test]
fn net_growth_is_unknown_where_calls_may_be_missing() {
    let net_after = |cause| {
        let mut report = report();
        report.summary.losses = vec![loss(cause, Some(1))];
        let text = report.to_string();
        let mapping = text.split_once("Who maps most").expect("the section is there").1;
        line(mapping, "42")
    };

    assert_eq!(net_after(LossCause::ControlRing), "42 sort 4000 4 MiB 1 MiB unknown");
    assert_eq!(net_after(LossCause::EventsRing), "42 sort 4000 4 MiB 1 MiB +3 MiB");
}

#[test]
fn sizes_that_are_not_all_known_are_at_least_these() {
    let mut report = report();
    report
        .summary
        .maps
        .processes
        .insert(process(42), MappingProcess { lower_bound: true, ..mapping(9, 4 << 20, 0) });
    report.summary.maps.advice.insert((process(42), 4), Advised { lower_bound: true, ..advised(2, 8_192) });

    let text = report.to_string();
    let (mapping, advice) = text.split_once("Advice by madvise").expect("the section is there");
    let mapping = mapping.split_once("Who maps most").expect("the section is there").1;
    assert_eq!(line(mapping, "42"), "42 sort 9 ≥ 4 MiB ≥ 0 B unknown");
    assert_eq!(line(advice, "42"), "42 sort 2 ≥ 8 KiB MADV_DONTNEED");
}

#[test]
fn advice_has_the_name_that_programs_write() {
    let text = report().to_string();

    let advice = text.split_once("Advice by madvise").expect("the section is there").1;
    assert_eq!(line(advice, "50"), "50 5 10 MiB MADV_HUGEPAGE");
    assert_eq!(line(advice, "42"), "42 sort 2 8 KiB MADV_DONTNEED");
}

#[test]
fn json_has_churn_mapping_and_advice() {
    let json = report().to_json();

    assert_eq!(json["maps_failed"], json!({ "mmap": 3, "brk": 1 }));
    let lifetime = json!({ "mean": 50_000, "min": 50_000, "max": 50_000 });
    let churn = json!([{ "tgid": 42, "bytes": 1 << 20, "count": 2_000, "lifetime_ns": lifetime }]);
    assert_eq!(json["churn"], churn);
    let bytes = (4 << 20, 1 << 20);
    let sort = json!({
        "tgid": 42, "calls": 4_000, "mapped_bytes": bytes.0, "unmapped_bytes": bytes.1, "lower_bound": false
    });
    assert_eq!(json["mapping"][0], sort);
    let advice = json!({
        "tgid": 50, "advice": "MADV_HUGEPAGE", "calls": 5, "bytes": 10 << 20, "lower_bound": false
    });
    assert_eq!(json["advice"][1], advice);
    assert_eq!(json["findings"][0]["kind"], "churn");
    assert_eq!(json["findings"][0]["tgid"], 42);
}

#[test]
fn nothing_is_said_of_calls_that_nobody_followed() {
    let mut report = report();
    report.header.capture.follows_maps = false;
    report.summary.maps = MapSummary::default();

    let json = report.to_json();
    for key in ["maps", "maps_failed", "churn", "mapping", "advice"] {
        assert_eq!(json[key], json!(null), "{key}");
    }
    let text = report.to_string();
    assert!(text.contains("changes were not followed"), "{text}");
    assert!(!text.contains("Who maps most"), "{text}");
}

#[test]
fn many_short_lived_mappings_of_one_size_are_a_finding() {
    const MS: u64 = 1_000_000;

    assert_eq!(kinds_of_findings([churn(4_096, 1_001, 99 * MS)].into()), ["churn"]);
    assert!(kinds_of_findings([churn(4_096, 1_000, 99 * MS)].into()).is_empty(), "too few");
    assert!(kinds_of_findings([churn(4_096, 1_001, 100 * MS)].into()).is_empty(), "too long");
}

#[test]
fn a_finding_tells_its_numbers_and_what_helps() {
    let mut report = report();
    report.summary.maps.churn = [churn(200_704, 2_000, 50_000), churn(65_536, 1_500, 50_000)].into();

    let [large, small] = &report.findings()[..] else { panic!("two sizes, two findings") };
    assert_eq!(large.seen, "2000 mappings of 196 KiB were made and unmapped again, after 50.0 µs on average");
    assert!(large.remedy.contains("M_MMAP_THRESHOLD and M_TRIM_THRESHOLD"), "{}", large.remedy);
    // By default malloc maps nothing below 128 KiB.
    assert!(small.seen.starts_with("1500 mappings of 64 KiB"), "{}", small.seen);
    assert!(!small.remedy.contains("M_MMAP_THRESHOLD"), "{}", small.remedy);
}

#[test]
fn after_a_loss_a_finding_counts_at_least() {
    let mut report = report();
    report.summary.losses = vec![loss(LossCause::ControlRing, Some(1))];

    let seen = &report.findings()[0].seen;
    assert!(seen.starts_with("at least 2000 mappings of 1 MiB"), "{seen}");
}

#[test]
fn a_few_mappings_are_no_line_of_churn() {
    let mut report = report();
    report.summary.maps.churn = [churn(4_096, 15, 50_000)].into();

    assert!(!report.to_string().contains("Mapped and unmapped again"));
}
