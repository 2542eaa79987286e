//! `memtrace report`: what a recording says, on stdout.
//!
//! Layer: top. Input: [`ReportArgs`]. Output: text or JSON.
//! Keeps: exit code 3 for losses only under `--strict`.
//! Not here: what the report says (`report`).

use std::process::ExitCode;

use super::args::ReportArgs;
use crate::report::Report;

pub(super) fn run(args: &ReportArgs) -> anyhow::Result<ExitCode> {
    let report = Report::of(&mut super::open(&args.input.file)?)?;
    super::print(args.json.then(|| report.to_json()), &report)?;
    Ok(super::done(report.is_complete(), args.input.strict))
}
