//! The census as a table: a row for each VMA, file, or word of flags; times are since the first snapshot.

use std::{fmt, io};

use super::{Snapshot, Subject};
use crate::{
    census::{FileCensus, ProcessCensus, RegionCensus, Tally},
    export::ExportError,
    region,
    units::Timestamp,
};

/// Columns of the row of a VMA, before its sums.
const REGION: [&str; 8] = ["time_ns", "tgid", "comm", "start_addr", "end_addr", "perms", "backing", "name"];

/// Columns of the row of a file.
const FILE: [&str; 6] = ["time_ns", "path", "inode", "size_bytes", "cached_pages", "dirty_pages"];

/// Columns of the row of a word of flags.
const WORD: [&str; 4] = ["time_ns", "flags", "names", "pages"];

/// Sums over the pages of a VMA.
const SUMS: [&str; 12] = [
    "present_pages",
    "rss_pages",
    "pss_bytes",
    "uss_pages",
    "anon_pages",
    "file_pages",
    "swapped_pages",
    "zero_pages",
    "hugetlb_pages",
    "huge_pages",
    "mthp_pages",
    "partial_thp_pages",
];

/// Writes snapshots as CSV.
pub struct CsvRegions<W: io::Write> {
    writer: csv::Writer<W>,
    /// When the first snapshot was taken.
    start: Option<Timestamp>,
}

impl<W: io::Write> fmt::Debug for CsvRegions<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CsvRegions").finish_non_exhaustive()
    }
}

impl<W: io::Write> CsvRegions<W> {
    /// Writes to `writer`.
    pub fn new(writer: W) -> Self {
        Self { writer: csv::Writer::from_writer(writer), start: None }
    }

    /// Writes the rows of `snapshot`; of the first one the header too.
    pub fn write(&mut self, snapshot: &Snapshot) -> Result<(), ExportError> {
        self.rows(snapshot).map_err(|error| ExportError::Write(error.into()))?;
        self.writer.flush().map_err(ExportError::Write)
    }

    fn rows(&mut self, snapshot: &Snapshot) -> csv::Result<()> {
        if self.start.is_none() {
            match &snapshot.subject {
                Subject::Processes { .. } => {
                    self.writer.write_record(REGION.iter().chain(&SUMS).chain(&["lower_bound"]))?;
                }
                Subject::Files { .. } => self.writer.write_record(FILE)?,
                Subject::System => self.writer.write_record(WORD)?,
            }
        }
        let start = *self.start.get_or_insert(snapshot.time);
        let time = snapshot.time.since(start).get().to_string();
        match &snapshot.subject {
            Subject::Processes { processes, .. } => {
                for process in processes {
                    for region in &process.regions {
                        self.writer.write_record(region_row(&time, process, region, snapshot))?;
                    }
                }
            }
            Subject::Files { files, .. } => {
                for FileCensus { path, inode, bytes, cached, dirty } in files {
                    let dirty = dirty.map_or_else(String::new, |dirty| dirty.get().to_string());
                    let numbers = [inode, bytes, &cached.get()].map(u64::to_string);
                    let [inode, bytes, cached] = &numbers;
                    self.writer.write_record([&time, path, inode, bytes, cached, &dirty])?;
                }
            }
            Subject::System => {
                for ((flags, _), pages) in snapshot.total.flags.iter() {
                    let names: Vec<_> = flags.sanitised().names(snapshot.rules.era.flags).collect();
                    let word = format!("{:#018x}", flags.bits());
                    self.writer.write_record([&time, &word, &names.join(","), &pages.get().to_string()])?;
                }
            }
        }
        Ok(())
    }
}

fn region_row(
    time: &str,
    process: &ProcessCensus,
    RegionCensus { vma, kind, tally, is_complete }: &RegionCensus,
    snapshot: &Snapshot,
) -> impl Iterator<Item = String> {
    let head = [
        time.to_owned(),
        process.tgid.0.to_string(),
        process.comm.clone(),
        vma.range.start().to_string(),
        vma.range.end().to_string(),
        String::from_utf8_lossy(&vma.perms).into_owned(),
        region::backing_of(vma, *kind).name().to_owned(),
        String::from_utf8_lossy(&vma.name).into_owned(),
    ];
    let lower_bound = if *is_complete { "0" } else { "1" };
    head.into_iter().chain(sums(tally, snapshot)).chain([lower_bound.to_owned()])
}

/// The values of [`SUMS`].
fn sums(tally: &Tally, snapshot: &Snapshot) -> [String; SUMS.len()] {
    let known = snapshot.known;
    let if_known = |is_known: bool, number: u64| if is_known { number.to_string() } else { String::new() };
    let folios = || tally.folios.uses.iter();
    let whole = folios().map(|(_, folios)| folios.aligned.get() + folios.unaligned.get()).sum();
    let partial = folios().map(|(_, folios)| folios.partial.get()).sum();
    [
        tally.present.get().to_string(),
        tally.resident.get().to_string(),
        if_known(known.mapcounts, tally.proportional.bytes()),
        tally.unique.get().to_string(),
        tally.anon.get().to_string(),
        tally.file().get().to_string(),
        if_known(!tally.is_swap_unknown, tally.all_swapped().get()),
        if_known(known.flags || known.huge, tally.zero.get()),
        tally.hugetlb.get().to_string(),
        if_known(known.huge, tally.huge.get()),
        if_known(known.places, whole),
        if_known(known.places, partial),
    ]
}
