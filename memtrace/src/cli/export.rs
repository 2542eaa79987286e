//! `memtrace export`: a table of a recording, in a file or on stdout.
//!
//! Layer: top. Input: [`ExportArgs`]. Output: the table.
//! Keeps: no recording is ever overwritten, the one that is read least of all; a file that is made is whole.
//! Not here: columns and formats (`export`).

use std::{io, path::Path, process::ExitCode};

use anyhow::bail;

use super::{
    args::ExportArgs,
    output::{Output, Replacement},
};
use crate::{export, record};

pub(super) fn run(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    let mut recording = super::open(&args.input.file)?;
    let output = open(&args.output)?;
    let writer: export::Output = match &output {
        Some(output) => Box::new(Replacement::of(output)?),
        None => Box::new(io::stdout()),
    };
    let mut sink = (args.format.sink)(args.table, writer);
    // A part of a table looks like a whole one.
    let replayed = record::replay(&mut recording, &mut *sink);
    let summary = replayed.inspect_err(|_| output.iter().for_each(Output::discard))?;
    let complete = recording.recovery().complete && summary.losses.is_empty();
    Ok(super::done(complete, args.input.strict))
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
