//! Groups for programs.

use serde_json::{Map, Value, json};

use super::{Costs, GroupReport, Grouping, Key};
use crate::{
    event::FaultCounts,
    units::{Nanos, PageSize, TimeRange},
};

/// Version of the JSON; changes when a key changes its meaning or goes.
const SCHEMA: u32 = 1;

impl GroupReport {
    /// The groups that are shown as JSON; with `complete` false sums are lower bounds.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let (header, groups) = (&self.report.header, &self.groups);
        let Grouping { by, pids, times: TimeRange { from, to }, order, most: _ } = &groups.grouping;
        let (shown, hidden, rest) = self.shown();
        let page = header.host.page;
        let costs = |sums: &Costs| costs(sums, groups.total.stall, page);
        let rows = shown.into_iter().map(|(values, group)| {
            let values = by.iter().zip(values);
            let mut row: Map<_, _> = values
                .map(|(key, value)| (key.name().to_owned(), groups.json_of(value, &header.host.arch)))
                .collect();
            if by.contains(&Key::Process) || by.contains(&Key::Thread) {
                let of = Some(group.members.len()).filter(|count| *count > 0);
                row.insert("of".to_owned(), of.into());
            }
            row.extend(costs(&group.costs));
            Value::Object(row)
        });
        let mut more = costs(&rest);
        more.insert("groups".to_owned(), hidden.into());
        json!({
            "schema": SCHEMA,
            "command": header.capture.command,
            "target": header.capture.targets,
            "duration_ns": self.report.duration().get(),
            "complete": self.is_complete(),
            "by": by.iter().map(|key| key.name()).collect::<Vec<_>>(),
            "sort": order.name(),
            "selected": {
                "tgids": (!pids.is_empty()).then(|| pids.iter().map(|pid| pid.0).collect::<Vec<_>>()),
                "from_ns": from.map(Nanos::get),
                "to_ns": to.map(Nanos::get),
                "left_out_without_process": groups.without_process,
            },
            "total": costs(&groups.total),
            "groups": rows.collect::<Vec<_>>(),
            "more": more,
        })
    }
}

/// What faults cost, of the stall of `all`, and brought.
fn costs(costs: &Costs, all: Nanos, page: PageSize) -> Map<String, Value> {
    let Costs { faults: FaultCounts { minor, major }, stall, longest, timed, pages: _, sized } = costs;
    let share = (all.get() > 0).then(|| ratio(stall.get(), all.get()));
    let bytes = costs.known_pages().map(|pages| pages.get().saturating_mul(page.bytes()));
    let fields = json!({
        "faults": costs.faults.total(),
        "minor": minor,
        "major": major,
        "stall_ns": stall.get(),
        "share": share,
        "mean_ns": costs.mean(),
        "max_ns": longest.map(Nanos::get),
        "without_latency": costs.faults.total().saturating_sub(*timed),
        "bytes": bytes,
        "without_bytes": costs.faults.total().saturating_sub(*sized),
    });
    if let Value::Object(fields) = fields { fields } else { Map::new() }
}

/// A part of a whole.
#[expect(clippy::cast_precision_loss, reason = "a share is of interest to a few digits")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}
