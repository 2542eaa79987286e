//! `memtrace export`: a table of a recording, in a file or on stdout.
//!
//! Layer: top. Input: [`ExportArgs`]. Output: the table.
//! Keeps: no recording is ever overwritten, the one that is read least of all.
//! Not here: columns and formats (`export`).

use std::{io, path::Path, process::ExitCode};

use anyhow::{Context as _, bail};

use super::args::ExportArgs;
use crate::{
    export,
    record::{self, MAGIC},
};

pub(super) fn run(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    let mut recording = super::open(&args.input.file)?;
    let mut sink = (args.format.sink)(args.table, output(&args.output)?);
    let summary = record::replay(&mut recording, &mut *sink)?;
    let complete = recording.recovery().complete && summary.losses.is_empty();
    Ok(super::done(complete, args.input.strict))
}

/// Opens `path` for writing; `-` is stdout.
fn output(path: &Path) -> anyhow::Result<export::Output> {
    if path == "-" {
        return Ok(Box::new(io::stdout()));
    }
    if path.is_file() && super::output::begins_with(path, &[&MAGIC])? {
        bail!("{} is a recording: give another name for the export", path.display());
    }
    let file = super::output::open(path)?;
    if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        file.set_len(0).with_context(|| format!("cannot replace {}", path.display()))?;
    }
    Ok(Box::new(file))
}
