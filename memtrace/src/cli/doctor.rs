//! `memtrace doctor`: what this host can do, what is missing, and the line that fixes it.
//!
//! Layer: top. Input: [`Features`]. Output: a table or JSON on stdout; exit code 0, or 1 if nothing can be recorded.
//! Keeps: what it says is what `record` finds: both try the same facilities the same way.
//! Not here: trying (`host`).

use std::{fmt::Write as _, process::ExitCode};

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use crate::{
    event::HostFacts,
    host::{self, Facility, Features, Level, Namespaces, Reach, Refusal},
    live,
    pagemap::PageEra,
    record::Availability,
    sys::{limits, namespace::Namespace},
    units::ByteSize,
};

/// Version of the JSON; changes when a key changes its meaning or goes.
const SCHEMA: u32 = 1;

/// Tries what this host can do and says so.
pub(super) fn run(json: bool) -> anyhow::Result<ExitCode> {
    limits::check_files(live::SESSION_FILES).context("nothing can be recorded")?;
    let facts = host::facts()?;
    let features = Features::probe();
    let namespaces = Namespaces::find(&features);
    let era = host::page_era();
    let json = json.then(|| to_json(&facts, &features, namespaces, era));
    super::print(json, &to_text(&facts, &features, namespaces, era))?;
    let can_record = blockers(&features, namespaces).is_empty();
    Ok(if can_record { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Names of what keeps memtrace from recording anything.
fn blockers(features: &Features, namespaces: Namespaces) -> Vec<String> {
    let facilities = features.blockers().map(|facility| facility.name().to_owned());
    let refusing = Namespace::ALL.into_iter().filter(|one| namespaces.refusal(*one, Reach::Named).is_some());
    facilities.chain(refusing.map(|one| format!("{}_namespace", one.name()))).collect()
}

fn to_json(facts: &HostFacts, features: &Features, namespaces: Namespaces, era: PageEra) -> Value {
    let blockers = blockers(features, namespaces);
    let settings: Map<_, _> =
        host::settings().into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    let facilities: Map<_, _> = features
        .states()
        .map(|(facility, state)| (facility.name().to_owned(), facility_json(facility, state)))
        .collect();
    json!({
        "schema": SCHEMA,
        "kernel_release": facts.kernel_release,
        "arch": facts.arch,
        "cpus": facts.cpus,
        "page_bytes": facts.page.bytes(),
        "settings": settings,
        "namespaces": namespaces_json(namespaces),
        "level": features.level().name(),
        "can_record": blockers.is_empty(),
        "blockers": blockers,
        "features": facilities,
        "page_era": era,
    })
}

/// For each kind whether it is the initial one, and what cannot be recorded there.
fn namespaces_json(namespaces: Namespaces) -> Value {
    let state = |namespace| {
        let refused = |reach: Reach| {
            let Refusal { need, fix } = namespaces.refusal(namespace, reach)?;
            Some((reach.options(), json!({ "need": need, "fix": fix })))
        };
        let refused: Map<_, _> =
            Reach::ALL.into_iter().filter_map(refused).map(|(name, why)| (name.to_owned(), why)).collect();
        json!({ "initial": !namespaces.is_own(namespace), "refused": refused })
    };
    let states = Namespace::ALL.into_iter().map(|one| (one.name().to_owned(), state(one)));
    Value::Object(states.collect())
}

fn facility_json(facility: Facility, state: &Availability) -> Value {
    let purpose = facility.describe().purpose;
    match state {
        Availability::Usable => json!({ "state": "usable", "for": purpose }),
        Availability::Denied { need, fix } => {
            json!({ "state": "denied", "for": purpose, "need": need, "fix": fix })
        }
        Availability::Missing { since } => {
            json!({ "state": "missing", "for": purpose, "since": since })
        }
    }
}

fn to_text(facts: &HostFacts, features: &Features, namespaces: Namespaces, era: PageEra) -> String {
    let HostFacts {
        page,
        arch,
        kernel_release,
        cpus,
        start: _,
        realtime_offset_ns: _,
        devices: _,
        large_folios: _,
    } = facts;
    let page = ByteSize::new(page.bytes());
    let mut text = format!("Linux {kernel_release} on {arch}, {cpus} CPUs, pages of {page}\n\n");
    for (facility, state) in features.states() {
        text.push_str(&facility_text(facility, state));
    }
    // Writing to a string cannot fail.
    let _ = writeln!(text);
    for (name, value) in host::settings() {
        let _ = writeln!(text, "{name:<32} {}", value.as_deref().unwrap_or("not shown by this kernel"));
    }
    let _ = writeln!(text, "{:<32} {}", "page words", era);
    for namespace in Namespace::ALL {
        text.push_str(&namespace_text(namespaces, namespace));
    }
    let level = features.level();
    let _ = writeln!(text, "\nlevel    {}: {}", level.name(), level_text(level));
    let _ = writeln!(text, "verdict  {}", verdict(features, namespaces));
    text
}

/// One row of the table; a second line says why it is not usable.
fn facility_text(facility: Facility, state: &Availability) -> String {
    let (word, reason) = match state {
        Availability::Usable => ("usable", None),
        Availability::Denied { need, fix } => ("denied", Some(format!("needs {need}: {fix}"))),
        Availability::Missing { since } => ("missing", Some(since.clone())),
    };
    let row = format!("{:<21} {word:<8} {}\n", facility.name(), facility.describe().purpose);
    match reason {
        None => row,
        Some(reason) => format!("{row}{:30} ({reason})\n", ""),
    }
}

/// Whether a namespace is the initial one; a second line says what cannot be recorded there, and why.
fn namespace_text(namespaces: Namespaces, namespace: Namespace) -> String {
    let word = if namespaces.is_own(namespace) { "not the initial one" } else { "initial" };
    let mut text = format!("{:<32} {word}\n", format!("{} namespace", namespace.name()));
    let mut refused: Vec<(Refusal, Vec<&str>)> = Vec::new();
    for reach in Reach::ALL {
        let Some(refusal) = namespaces.refusal(namespace, reach) else { continue };
        match refused.iter_mut().find(|(other, _)| *other == refusal) {
            Some((_, options)) => options.push(reach.options()),
            None => refused.push((refusal, vec![reach.options()])),
        }
    }
    for (Refusal { need, fix }, options) in refused {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:32} (no {}: needs {need}: {fix})", "", options.join(", "));
    }
    text
}

const fn level_text(level: Level) -> &'static str {
    match level {
        Level::Full => "any process, with frame numbers",
        Level::NoFrames => "any process, without frame numbers",
        Level::OwnProcess => "page tables of your own processes only",
    }
}

/// What can be recorded, in a sentence.
fn verdict(features: &Features, namespaces: Namespaces) -> String {
    let blockers = blockers(features, namespaces);
    if !blockers.is_empty() {
        return format!("nothing can be recorded for want of {}", blockers.join(", "));
    }
    let absent: Vec<_> = features
        .states()
        .filter(|(_, state)| **state != Availability::Usable)
        .map(|(facility, _)| facility.name())
        .collect();
    if absent.is_empty() {
        "everything can be recorded".to_owned()
    } else {
        format!("faults and page state can be recorded, without {}", absent.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denied_row_tells_the_need_and_the_line_to_run() {
        let state =
            Availability::Denied { need: "CAP_BPF".to_owned(), fix: "sudo memtrace doctor".to_owned() };

        assert_eq!(
            facility_text(Facility::Bpf, &state),
            "bpf                   denied   seeing events as they happen\n\
             \u{20}                              (needs CAP_BPF: sudo memtrace doctor)\n"
        );
    }

    #[test]
    fn json_of_a_missing_facility_says_since_when_kernels_have_it() {
        let state = Availability::Missing { since: "Linux 6.7".to_owned() };

        let json = facility_json(Facility::PagemapScan, &state);

        assert_eq!(json["state"], "missing");
        assert_eq!(json["since"], "Linux 6.7");
        assert!(json.get("fix").is_none());
    }
}
