//! `memtrace export`: a table of a recording, in a file or on stdout.
//!
//! Layer: top. Input: [`ExportArgs`]. Output: the table.
//! Keeps: no recording is ever overwritten, the one that is read least of all.
//! Not here: columns and formats (`export`).

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context as _, bail};

use super::args::{ExportArgs, Format, Table};
use crate::{
    event::Loss,
    export::{self, csv::CsvTable},
    record::{self, MAGIC, Recording},
    timeline::{FaultRow, MapRow, PageRow, RegionSummary, Summary, TimelineRow},
};

pub(super) fn run(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    let mut recording = super::open(&args.input.file)?;
    let output = output(&args.output)?;
    let summary = match (args.format, args.table) {
        (Format::Csv, Table::Timeline) => csv::<TimelineRow>(&mut recording, output, false),
        (Format::Csv, Table::Faults) => csv::<FaultRow>(&mut recording, output, true),
        (Format::Csv, Table::Maps) => csv::<MapRow>(&mut recording, output, true),
        (Format::Csv, Table::Regions) => csv::<RegionSummary>(&mut recording, output, false),
        (Format::Csv, Table::Pages) => csv::<PageRow>(&mut recording, output, true),
        (Format::Csv, Table::Losses) => csv::<Loss>(&mut recording, output, false),
    }?;
    let complete = recording.recovery().complete && summary.losses.is_empty();
    Ok(super::done(complete, args.input.strict))
}

/// Writes the rows of the table `R`.
fn csv<R: export::Table>(
    recording: &mut Recording<File>,
    output: Box<dyn Write>,
    event_rows: bool,
) -> anyhow::Result<Summary> {
    let mut table = CsvTable::<R, _>::new(output, &recording.header().host)?;
    let options = recording.header().capture.options(event_rows);
    let summary = record::replay(recording, options, |row| anyhow::Ok(table.row(row)?))?;
    table.finish()?;
    Ok(summary)
}

/// Opens `path` for writing; `-` is stdout.
fn output(path: &Path) -> anyhow::Result<Box<dyn Write>> {
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
