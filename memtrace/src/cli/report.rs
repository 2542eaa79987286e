//! `memtrace report`: what a recording says, on stdout.
//!
//! Layer: top. Input: [`ReportArgs`]. Output: text or JSON.
//! Keeps: exit code 3 for losses only under `--strict`.
//! Not here: what the report says (`report`).

use std::process::ExitCode;

use super::args::ReportArgs;
use crate::{record, report::Report};

pub(super) fn run(args: &ReportArgs) -> anyhow::Result<ExitCode> {
    let mut recording = super::open(&args.input.file)?;
    // Each fault is followed, so that it is known what it gave.
    let options = recording.header().capture.options(true);
    let summary = record::replay(&mut recording, options, |_| anyhow::Ok(()))?;
    let report = Report::new(&recording, summary);
    super::print(args.json.then(|| report.to_json()), &report)?;
    Ok(super::done(report.is_complete(), args.input.strict))
}
