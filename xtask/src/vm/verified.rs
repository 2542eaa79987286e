//! What the programs cost the verifiers of several kernels.
//!
//! Input: columns of a run. Output: a table, and rows of `tests/expected/verifier.csv`.
//! Keeps: rows of kernels that did not run stay as they are; the file is sorted, so that its changes can be read.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::{Column, table::markdown};
use crate::workspace;

/// A row of the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Row {
    kernel: String,
    release: String,
    program: String,
    instructions: u32,
}

/// Program × kernel, and the sum of each kernel.
pub(super) fn table(columns: &[Column]) -> String {
    let mut header = vec!["program".to_owned()];
    header.extend(columns.iter().map(|column| column.kernel.label().to_owned()));
    let counts: Vec<BTreeMap<_, _>> = columns
        .iter()
        .map(|column| column.report.verified.iter().map(|(program, count)| (program, *count)).collect())
        .collect();
    let programs: BTreeSet<_> = counts.iter().flat_map(BTreeMap::keys).collect();
    let mut rows: Vec<Vec<String>> = programs
        .into_iter()
        .map(|program| {
            let cells = counts
                .iter()
                .map(|counts| counts.get(program).map_or_else(|| "none".to_owned(), u32::to_string));
            std::iter::once((*program).clone()).chain(cells).collect()
        })
        .collect();
    let sums = counts.iter().map(|counts| {
        if counts.is_empty() { "none".to_owned() } else { counts.values().sum::<u32>().to_string() }
    });
    rows.push(std::iter::once("sum".to_owned()).chain(sums).collect());
    markdown(&header, &rows)
}

/// Puts the rows of `columns` in place of those that their kernels have in the file.
pub(super) fn record(columns: &[Column]) -> anyhow::Result<()> {
    let path = path();
    let kept = if path.exists() { fs::read_to_string(&path)? } else { String::new() };
    let text =
        merge(&kept, &rows(columns)).with_context(|| format!("cannot merge into {}", path.display()))?;
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn path() -> PathBuf {
    workspace::root().join("tests/expected/verifier.csv")
}

fn rows(columns: &[Column]) -> Vec<Row> {
    columns
        .iter()
        .flat_map(|column| {
            column.report.verified.iter().map(|(program, instructions)| Row {
                kernel: column.kernel.label().to_owned(),
                release: column.report.fact("kernel_release").unwrap_or_default().to_owned(),
                program: program.clone(),
                instructions: *instructions,
            })
        })
        .collect()
}

/// The file `kept` with the rows of the kernels in `new` replaced by those.
fn merge(kept: &str, new: &[Row]) -> anyhow::Result<String> {
    let kept: Vec<Row> = csv::Reader::from_reader(kept.as_bytes()).deserialize().collect::<Result<_, _>>()?;
    let ran: BTreeSet<_> = new.iter().map(|row| &row.kernel).collect();
    let mut rows: Vec<_> = kept.iter().filter(|row| !ran.contains(&row.kernel)).chain(new).collect();
    rows.sort();
    let mut out = csv::Writer::from_writer(Vec::new());
    for row in rows {
        out.serialize(row)?;
    }
    Ok(String::from_utf8(out.into_inner().map_err(csv::IntoInnerError::into_error)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::{Kernel, report::Report};

    fn column(kernel: Kernel, verified: &[(&str, u32)]) -> Column {
        let verified = verified.iter().map(|(program, count)| ((*program).to_owned(), *count)).collect();
        Column { kernel, report: Report { verified, ..Report::default() }, problem: None }
    }

    #[test]
    fn program_that_a_kernel_does_not_load_has_no_number_there() {
        let columns =
            [column(Kernel::V5_10, &[("fault", 900)]), column(Kernel::Host, &[("fault", 800), ("exit", 20)])];

        assert_eq!(
            table(&columns),
            "| program | 5.10 | HOST |\n\
             |---------|------|------|\n\
             | exit    | none | 20   |\n\
             | fault   | 900  | 800  |\n\
             | sum     | 900  | 820  |\n"
        );
    }

    #[test]
    fn kernel_that_does_not_count_has_no_sum() {
        let columns = [column(Kernel::V5_10, &[]), column(Kernel::Host, &[("fault", 800)])];

        assert!(table(&columns).ends_with("| sum     | none | 800  |\n"));
    }

    #[test]
    fn rows_of_kernels_that_did_not_run_stay() {
        let kept = "kernel,release,program,instructions\n6.1,6.1.0,fault,7\nHOST,6.18.0,exit,3\n";
        let new = Row {
            kernel: "HOST".to_owned(),
            release: "6.18.1".to_owned(),
            program: "fault".to_owned(),
            instructions: 8,
        };

        let merged = merge(kept, &[new]).expect("the file is well-formed");

        assert_eq!(merged, "kernel,release,program,instructions\n6.1,6.1.0,fault,7\nHOST,6.18.1,fault,8\n");
    }
}
