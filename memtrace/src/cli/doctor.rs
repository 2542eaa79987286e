//! `memtrace doctor`: what this host can do, what is missing, and the line that fixes it.
//!
//! Layer: top. Input: [`Features`]. Output: a table or JSON on stdout; exit code 0, or 1 if nothing can be recorded.
//! Keeps: what it says is what `record` finds: both try the same facilities the same way.
//! Not here: trying (`host`).

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    process::ExitCode,
};

use serde_json::{Map, Value, json};

use crate::{
    event::HostFacts,
    host::{self, Facility, Features, Level},
    pagemap::PageEra,
    record::Availability,
    units::ByteSize,
};

/// Version of the JSON; changes when a key changes its meaning or goes.
const SCHEMA: u32 = 1;

/// Tries what this host can do and says so.
pub(super) fn run(json: bool) -> anyhow::Result<ExitCode> {
    let facts = host::facts()?;
    let features = Features::probe();
    let era = host::page_era();
    let text = if json {
        format!("{:#}\n", to_json(&facts, &features, era))
    } else {
        to_text(&facts, &features, era)
    };
    io::stdout().write_all(text.as_bytes())?;
    let can_record = features.blockers().next().is_none();
    Ok(if can_record { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn to_json(facts: &HostFacts, features: &Features, era: PageEra) -> Value {
    let blockers: Vec<_> = features.blockers().map(Facility::name).collect();
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
        "level": features.level().name(),
        "can_record": blockers.is_empty(),
        "blockers": blockers,
        "features": facilities,
        "page_era": era,
    })
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

fn to_text(facts: &HostFacts, features: &Features, era: PageEra) -> String {
    let HostFacts { page, arch, kernel_release, cpus, start: _, realtime_offset_ns: _ } = facts;
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
    let level = features.level();
    let _ = writeln!(text, "\nlevel    {}: {}", level.name(), level_text(level));
    let _ = writeln!(text, "verdict  {}", verdict(features));
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

const fn level_text(level: Level) -> &'static str {
    match level {
        Level::Full => "any process, with frame numbers",
        Level::NoFrames => "any process, without frame numbers",
        Level::OwnProcess => "page tables of your own processes only",
    }
}

/// What can be recorded, in a sentence.
fn verdict(features: &Features) -> String {
    let blockers: Vec<_> = features.blockers().map(Facility::name).collect();
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
