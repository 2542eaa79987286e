//! `memtrace export`: a table of a recording, or the stacks of its faults, in a file or on stdout.
//!
//! Layer: top. Input: [`ExportArgs`]. Output: the table, or the stacks.
//! Keeps: no recording is ever overwritten, the one that is read least of all; a file that is made is whole; a terminal gets text
//! alone.
//! Not here: columns, weights and formats (`export`).

use std::{
    io::{self, IsTerminal as _},
    path::Path,
    process::ExitCode,
};

use anyhow::bail;

use super::{
    args::ExportArgs,
    input,
    output::{Output, Replacement},
};
use crate::{
    export::{self, Content, STALL, Sink, StackOptions, TIMELINE},
    record,
    units::TimeRange,
};

/// Options that do not go together.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct UsageError(String);

pub(super) fn run(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    args.check()?;
    let mut recording = input::open(&args.input.file)?;
    let output = open(&args.output)?;
    let writer: export::Output = match &output {
        Some(output) => Box::new(Replacement::of(output)?),
        None => Box::new(io::stdout()),
    };
    let mut sink = args.sink(&recording.header().capture, writer);
    // A part of a table looks like a whole one.
    let replayed = record::replay(&mut recording, &mut *sink);
    let summary = replayed.inspect_err(|_| output.iter().for_each(Output::discard))?;
    let complete = recording.recovery().complete && summary.losses.is_empty();
    Ok(super::done(complete, args.input.strict))
}

impl ExportArgs {
    /// Refuses options that make no sense together, or that the format has no use for.
    fn check(&self) -> Result<(), UsageError> {
        self.times.check().map_err(UsageError)?;
        let format = self.format.name;
        let refuse = |message: String| Err(UsageError(message));
        match self.format.content {
            Content::Table(_) if self.weight.is_some() => refuse(format!(
                "--weight is of stacks, and -f {format} writes a table, whose columns have them all: leave it out, or take -f folded"
            )),
            Content::Table(_) if self.times.times() != TimeRange::default() => refuse(format!(
                "--from and --to are of stacks, and -f {format} writes a table, whose rows have times: leave them out, or take -f folded"
            )),
            Content::Stacks(_) if self.table.is_some() => refuse(format!(
                "--table is of formats that write one, and -f {format} writes the stacks of all faults: leave it out, or take -f csv"
            )),
            _ if !self.format.is_text && self.output == Path::new("-") && io::stdout().is_terminal() => {
                refuse(format!(
                    "-f {format} is binary and stdout is a terminal: give -o FILE, or send stdout to a program"
                ))
            }
            Content::Table(_) | Content::Stacks(_) => Ok(()),
        }
    }

    /// What writes into `writer` what is wanted of a recording that was made by `capture`.
    fn sink(&self, capture: &record::Capture, writer: export::Output) -> Box<dyn Sink + Send> {
        match self.format.content {
            Content::Table(sink) => sink(self.table.unwrap_or(TIMELINE), writer),
            Content::Stacks(sink) => {
                let (weight, times) = (self.weight.unwrap_or(STALL), self.times.times());
                let options = StackOptions { weight, times, subject: capture.to_string() };
                sink(options, writer)
            }
        }
    }
}

/// Opens `path` for writing; `None` if it is `-`, which is stdout.
fn open(path: &Path) -> anyhow::Result<Option<Output>> {
    if path == "-" {
        return Ok(None);
    }
    let output = Output::open(path, |head| {
        if record::is_recording(head) {
            bail!("it is a recording: give another name for the export");
        }
        Ok(())
    })?;
    Ok(Some(output))
}
