//! The tables at the end of a run, in Markdown.
//!
//! Input: columns of a run. Output: text.
//! Keeps: a cell is short; what is long stands below, under its number.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Column;
use crate::skips;

/// Longest text of a cell; longer ones become notes.
const CELL: usize = 24;

/// A row per kernel: what it is, how long it took, and what came of the tests; then why, where any failed or was flaky.
pub(super) fn summary(columns: &[Column]) -> String {
    let header = ["kernel", "release", "boot s", "tests s", "passed", "(flaky)", "failed", "skipped"]
        .map(str::to_owned);
    let rows: Vec<_> = columns
        .iter()
        .map(|Column { kernel, report, problem: _ }| {
            let seconds = |value: Option<f64>| value.map_or_else(unknown, |value| format!("{value:.1}"));
            // The machine that is running already did not boot for this.
            let boot = if kernel.is_guest() { report.begin } else { None };
            let tests = report.end.zip(report.begin).map(|(end, begin)| end - begin);
            let [passed, flaky, failed, skipped] = report.counts().map(|count| count.to_string());
            let release = report.fact("kernel_release").map_or_else(unknown, str::to_owned);
            vec![
                kernel.label().to_owned(),
                release,
                seconds(boot),
                seconds(tests),
                passed,
                flaky,
                failed,
                skipped,
            ]
        })
        .collect();
    let mut text = markdown(&header, &rows);
    let notes: Vec<_> = columns
        .iter()
        .flat_map(|column| {
            let flaky = column.report.flaky();
            let flaky =
                flaky.map(|(target, test)| format!("{target}: {}; passed when run again", test.line()));
            let notes = column.problems().into_iter().chain(flaky);
            notes.map(|note| format!("- {}: {note}\n", column.kernel.label()))
        })
        .collect();
    if !notes.is_empty() {
        text.push('\n');
        text.push_str(&notes.concat());
    }
    text
}

/// Target × kernel: how many seconds its tests took.
pub(super) fn times(columns: &[Column]) -> String {
    let mut header = vec!["seconds of".to_owned()];
    header.extend(columns.iter().map(|column| column.kernel.label().to_owned()));
    let mut seconds = BTreeMap::<&str, Vec<String>>::new();
    for (index, column) in columns.iter().enumerate() {
        for target in column.report.targets.iter().filter(|target| target.passed + target.failed > 0) {
            let row = seconds.entry(&target.name).or_insert_with(|| vec![String::new(); columns.len()]);
            row[index] = format!("{:.1}", target.seconds);
        }
    }
    let rows: Vec<_> = seconds
        .into_iter()
        .map(|(name, cells)| std::iter::once(name.to_owned()).chain(cells).collect())
        .collect();
    markdown(&header, &rows)
}

/// Facility × kernel, as `doctor` finds them.
pub(super) fn features(columns: &[Column]) -> String {
    let mut header = vec!["facility".to_owned()];
    header.extend(columns.iter().map(|column| column.kernel.label().to_owned()));
    let found: Vec<_> = columns
        .iter()
        .map(|column| column.report.doctor.as_ref().and_then(|doctor| doctor.get("features")?.as_object()))
        .collect();
    let names: BTreeSet<_> = found.iter().flatten().flat_map(|features| features.keys()).collect();
    let mut notes = Notes::default();
    let rows: Vec<_> = names
        .into_iter()
        .map(|name| {
            let cells = found.iter().map(|features| {
                features
                    .and_then(|features| features.get(name))
                    .map_or_else(unknown, |state| notes.shorten(cell(state)))
            });
            std::iter::once(name.clone()).chain(cells).collect()
        })
        .collect();
    markdown(&header, &rows) + &notes.to_text()
}

/// Reason × kernel: how many tests were skipped for it.
pub(super) fn skips(columns: &[Column]) -> String {
    let mut header = vec!["skipped for".to_owned()];
    header.extend(columns.iter().map(|column| column.kernel.label().to_owned()));
    let mut counts = BTreeMap::<&str, Vec<usize>>::new();
    for (index, column) in columns.iter().enumerate() {
        for (reason, count) in skips::by_reason(&column.report.skips) {
            counts.entry(reason).or_insert_with(|| vec![0; columns.len()])[index] = count;
        }
    }
    let rows: Vec<_> = counts
        .into_iter()
        .map(|(reason, counts)| {
            std::iter::once(reason.to_owned()).chain(counts.iter().map(usize::to_string)).collect()
        })
        .collect();
    if rows.is_empty() { "no test was skipped\n".to_owned() } else { markdown(&header, &rows) }
}

/// What a facility's state is, in words.
fn cell(state: &Value) -> String {
    let text = |key| state.get(key).and_then(Value::as_str);
    match text("state") {
        Some("usable") => "yes".to_owned(),
        Some(state) => match ["since", "need", "instead"].into_iter().find_map(text) {
            Some(reason) => format!("{state}: {reason}"),
            None => state.to_owned(),
        },
        None => unknown(),
    }
}

/// Texts that are too long for a cell.
#[derive(Default)]
struct Notes {
    texts: Vec<String>,
}

impl Notes {
    /// `text`, or its state and a number if it is long.
    fn shorten(&mut self, text: String) -> String {
        if text.chars().count() <= CELL {
            return text;
        }
        let state = text.split(':').next().unwrap_or_default().to_owned();
        let position = self.texts.iter().position(|known| *known == text).unwrap_or_else(|| {
            self.texts.push(text);
            self.texts.len() - 1
        });
        format!("{state} [{}]", position + 1)
    }

    fn to_text(&self) -> String {
        let lines: Vec<_> =
            (1..).zip(&self.texts).map(|(number, text)| format!("{number}. {text}\n")).collect();
        if lines.is_empty() { String::new() } else { format!("\n{}", lines.concat()) }
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

/// A table whose columns are as wide as their widest cell.
pub(super) fn markdown(header: &[String], rows: &[Vec<String>]) -> String {
    let width = |index: usize| {
        std::iter::once(header)
            .chain(rows.iter().map(Vec::as_slice))
            .filter_map(|row| row.get(index))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<_> = (0..header.len()).map(width).collect();
    let line = |cells: &[String]| {
        let cells: Vec<_> =
            cells.iter().zip(&widths).map(|(cell, width)| format!(" {cell:<width$} |")).collect();
        format!("|{}\n", cells.concat())
    };
    let rule: Vec<_> = widths.iter().map(|width| format!("{}|", "-".repeat(width + 2))).collect();
    let rows: Vec<_> = rows.iter().map(|row| line(row)).collect();
    format!("{}|{}\n{}", line(header), rule.concat(), rows.concat())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        skips::Skip,
        vm::{Kernel, report::Report},
    };

    fn column(kernel: Kernel, features: &Value, skips: &[&str]) -> Column {
        let report = Report {
            begin: Some(2.0),
            end: Some(62.5),
            doctor: Some(json!({ "kernel_release": "6.1.0", "features": features })),
            skips: skips
                .iter()
                .map(|reason| Skip { test: String::new(), reason: (*reason).to_owned() })
                .collect(),
            ..Report::default()
        };
        Column { kernel, report, problem: None }
    }

    #[test]
    fn host_has_no_boot_time() {
        let columns = [column(Kernel::V6_1, &json!({}), &[]), column(Kernel::Host, &json!({}), &[])];

        assert_eq!(
            summary(&columns),
            "| kernel | release | boot s  | tests s | passed | (flaky) | failed | skipped |\n\
             |--------|---------|---------|---------|--------|---------|--------|---------|\n\
             | 6.1    | 6.1.0   | 2.0     | 60.5    | 0      | 0       | 0      | 0       |\n\
             | HOST   | 6.1.0   | unknown | 60.5    | 0      | 0       | 0      | 0       |\n"
        );
    }

    #[test]
    fn kernel_that_did_not_finish_is_told_below() {
        let columns =
            [Column { kernel: Kernel::Own, report: Report::default(), problem: Some("hung".into()) }];

        let text = summary(&columns);

        assert!(text.ends_with("\n- OWN: hung\n- OWN: the run ended before the first test\n"), "{text}");
    }

    #[test]
    fn long_reason_is_one_note_for_all_kernels_that_have_it() {
        let long = "a kernel with CONFIG_IDLE_PAGE_TRACKING";
        let features = json!({ "idle": { "state": "missing", "since": long }, "bpf": { "state": "usable" } });
        let columns = [column(Kernel::V5_10, &features, &[]), column(Kernel::V6_1, &features, &[])];

        assert_eq!(
            super::features(&columns),
            "| facility | 5.10        | 6.1         |\n\
             |----------|-------------|-------------|\n\
             | bpf      | yes         | yes         |\n\
             | idle     | missing [1] | missing [1] |\n\
             \n\
             1. missing: a kernel with CONFIG_IDLE_PAGE_TRACKING\n"
        );
    }

    #[test]
    fn facility_that_only_newer_doctors_know_is_unknown_elsewhere() {
        let columns = [
            column(Kernel::V5_10, &json!({}), &[]),
            column(Kernel::V6_1, &json!({ "scan": { "state": "missing", "since": "Linux 6.7" } }), &[]),
        ];

        assert!(super::features(&columns).contains("| scan     | unknown | missing: Linux 6.7 |"));
    }

    #[test]
    fn skips_are_counted_by_reason_and_kernel() {
        let columns = [
            column(Kernel::V5_10, &json!({}), &["needs a", "needs a"]),
            column(Kernel::Host, &json!({}), &[]),
        ];

        assert!(skips(&columns).contains("| needs a     | 2    | 0    |"));
    }
}
