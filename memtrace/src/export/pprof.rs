//! Profiles as pprof has them, which Pyroscope, Parca, speedscope and others read too.
//!
//! Layer: codec. Input: [`Row`]s. Output: a gzipped `perftools.profiles.Profile`.
//! Source: `proto/profile.proto` of pprof, RFC 1952.
//! Keeps: values add up to those of all completed faults; a place in code is one location, whichever processes ran it
//! (`stretches`); what the recording has no name for has none here either, so that others can still find it by build ID and offset.
//! Not here: the messages (`message`), what frames are called (`stacks::names`).

mod message;
mod stretches;
mod tables;

use std::{
    fmt,
    io::{self, Write as _},
};

use flate2::{Compression, write::GzEncoder};
use prost::Message as _;

use self::{
    message::{Label, Profile, Sample, ValueType},
    stretches::Stretches,
    tables::Tables,
};
use super::{
    Content, ExportError, Format, Sink, StackOptions, WEIGHTS,
    stacks::{Costs, Group, StackSums, Sums, names},
};
use crate::{
    event::{HostFacts, Mode},
    timeline::{Row, RowSet, Summary},
    units::{PageSize, TimeRange},
};

/// The format.
pub const FORMAT: Format = Format {
    name: "pprof",
    doc: "stacks of faults with all weights, gzipped profile.proto",
    is_text: false,
    content: Content::Stacks(|options, output| Box::new(Pprof::new(options, output))),
};

/// Writes a profile.
pub struct Pprof<W: io::Write> {
    options: StackOptions,
    sums: StackSums,
    stretches: Stretches,
    writer: W,
}

impl<W: io::Write> fmt::Debug for Pprof<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pprof").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<W: io::Write> Pprof<W> {
    /// Writes a profile into `writer`.
    pub fn new(options: StackOptions, writer: W) -> Self {
        let sums = StackSums::of(options.times);
        Self { options, sums, stretches: Stretches::default(), writer }
    }
}

impl<W: io::Write> Sink for Pprof<W> {
    fn wants(&self) -> RowSet {
        StackSums::ROWS | RowSet::REGIONS
    }

    fn times(&self) -> TimeRange {
        self.sums.times()
    }

    fn begin(&mut self, host: &HostFacts) -> Result<(), ExportError> {
        self.sums.begin(host);
        Ok(())
    }

    fn row(&mut self, row: &Row) -> Result<(), ExportError> {
        if let Row::Region(region) = row {
            self.stretches.note(region);
        }
        self.sums.row(row);
        Ok(())
    }

    /// Writes the profile.
    fn end(&mut self, summary: &Summary) -> Result<(), ExportError> {
        let sums = self.sums.take(summary);
        write(&sums, &self.stretches, &self.options, summary, &mut self.writer).map_err(ExportError::Write)
    }
}

/// Writes what there is in pieces: what they say adds up, so no more than the tables is in memory at once.
fn write(
    sums: &Sums,
    stretches: &Stretches,
    options: &StackOptions,
    summary: &Summary,
    writer: &mut impl io::Write,
) -> io::Result<()> {
    let mut out = GzEncoder::new(io::BufWriter::new(writer), Compression::default());
    let mut tables = Tables::of(&sums.places, stretches);
    let page = summary.host.page;
    for (group, costs) in &sums.groups {
        let sample = sample(group, costs, sums, page, &mut tables);
        out.write_all(&Profile { sample: vec![sample], ..Profile::default() }.encode_to_vec())?;
    }
    let host = &summary.host;
    let start = host.start.as_nanos().checked_add_signed(host.realtime_offset_ns);
    let head = Profile {
        sample_type: WEIGHTS
            .iter()
            .map(|weight| ValueType { r#type: tables.text(weight.name), unit: tables.text(weight.unit) })
            .collect(),
        time_nanos: int(start.unwrap_or_default()),
        duration_nanos: int(summary.end.since(host.start).get()),
        comment: vec![tables.text(&options.subject)],
        default_sample_type: tables.text(options.weight.name),
        ..Profile::default()
    };
    out.write_all(&head.encode_to_vec())?;
    out.write_all(&tables.into_profile().encode_to_vec())?;
    out.finish()?.flush()
}

fn sample(group: &Group, costs: &Costs, sums: &Sums, page: PageSize, tables: &mut Tables) -> Sample {
    let stack = group.stack.map(|index| &sums.stacks[index as usize]);
    let mut location_id: Vec<_> =
        names::of_kernel(group).iter().rev().map(|frame| tables.kernel(frame)).collect();
    let frames = stack.into_iter().flat_map(|stack| stack.places.iter());
    location_id.extend(frames.map(|place| u64::from(*place) + 1));
    location_id.extend(names::of_end(stack).map(|end| tables.bracketed(&end)));
    let mode = match group.mode {
        Mode::User => "user",
        Mode::Kernel => "kernel",
    };
    let labels = [
        ("process", group.process.map(|comm| names::of_task(Some(comm)))),
        ("thread", group.thread.map(|comm| names::of_task(Some(comm)))),
        ("syscall", group.syscall.map(str::to_owned)),
        ("mode", Some(mode.to_owned())),
    ];
    let label = labels.into_iter().filter_map(|(key, value)| {
        let value = value?;
        Some(Label { key: tables.text(key), str: tables.text(&value) })
    });
    let value = WEIGHTS.iter().map(|weight| int((weight.of)(costs, page))).collect();
    Sample { label: label.collect(), location_id, value }
}

/// A number as the format has it; what is too large is of a made-up recording.
fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
