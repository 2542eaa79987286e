//! The tables and the stacks of faults that leave memtrace, and the formats in which they do.
//!
//! Layer: codec. Input: [`Row`]s. Output: text or bytes into any writer.
//! Keeps: a table's columns are defined once, for its header, its documentation and its content in every format, and so is what
//! stacks are weighed by; what is unknown is an empty field, never 0.
//! Not here: how rows come about (`pipeline`).
#![forbid(unsafe_code)]

use std::io;

use crate::{
    event::{HostFacts, Loss},
    timeline::{
        FaultRow, FrameRow, MapRow, PageRow, ProcessSummary, RegionSummary, Row, RowSet, RssRow, Summary,
        TimelineRow,
    },
    units::{TimeRange, Timestamp},
};

mod column;
pub mod csv;
mod flags;
pub mod folded;
pub mod pprof;
mod stacks;
mod tables;

use column::Column;
pub use column::{ColumnHead, Kind, Value};
pub use stacks::{Costs, STALL, WEIGHTS, Weight};

/// The table that is also written live.
pub const TIMELINE: &Table = table::<TimelineRow>();

/// Every table, in the order in which help shows them.
pub const TABLES: &[&Table] = &[
    TIMELINE,
    table::<FaultRow>(),
    table::<MapRow>(),
    table::<RegionSummary>(),
    table::<PageRow>(),
    table::<FrameRow>(),
    table::<RssRow>(),
    table::<ProcessSummary>(),
    table::<Loss>(),
];

/// Every format.
pub const FORMATS: &[&Format] = &[&csv::FORMAT, &folded::FORMAT, &pprof::FORMAT];

/// Why an export could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The output takes no more: a full disk, or a reader that has gone.
    #[error("cannot write the export")]
    Write(#[source] io::Error),
}

/// What takes the rows of one run of the pipeline, live or from a recording.
///
/// A new one says what it wants; nobody else has to know it but who puts it into a list of sinks.
pub trait Sink {
    /// What is made for it. Rows that others want come too, and are none of its business.
    fn wants(&self) -> RowSet;

    /// The part of the recording whose faults it is about.
    fn times(&self) -> TimeRange {
        TimeRange::default()
    }

    /// Takes note of the host, before all rows.
    fn begin(&mut self, _host: &HostFacts) -> Result<(), ExportError> {
        Ok(())
    }

    /// Takes a row, which can no longer change.
    fn row(&mut self, row: &Row) -> Result<(), ExportError>;

    /// Takes note of the totals, behind all rows.
    fn end(&mut self, _summary: &Summary) -> Result<(), ExportError> {
        Ok(())
    }
}

/// Sinks of one run.
pub type Sinks = Vec<Box<dyn Sink + Send>>;

/// Several sinks are one, which wants what any of them does.
impl Sink for Sinks {
    fn wants(&self) -> RowSet {
        self.iter().fold(RowSet::empty(), |all, sink| all | sink.wants())
    }

    fn begin(&mut self, host: &HostFacts) -> Result<(), ExportError> {
        self.iter_mut().try_for_each(|sink| sink.begin(host))
    }

    fn row(&mut self, row: &Row) -> Result<(), ExportError> {
        self.iter_mut().try_for_each(|sink| sink.row(row))
    }

    fn end(&mut self, summary: &Summary) -> Result<(), ExportError> {
        self.iter_mut().try_for_each(|sink| sink.end(summary))
    }
}

/// Where an export goes.
pub type Output = Box<dyn io::Write + Send>;

/// A form in which something leaves.
#[derive(Debug)]
pub struct Format {
    /// Its name.
    pub name: &'static str,
    /// What it is, in one line.
    pub doc: &'static str,
    /// Whether people can read it, and so a terminal may get it.
    pub is_text: bool,
    /// What it is of.
    pub content: Content,
}

/// What a format is of, and what writes that.
#[derive(Clone, Copy, Debug)]
pub enum Content {
    /// One table.
    Table(fn(&'static Table, Output) -> Box<dyn Sink + Send>),
    /// All stacks of faults, and what these cost.
    Stacks(fn(StackOptions, Output) -> Box<dyn Sink + Send>),
}

/// How stacks are written.
#[derive(Clone, Debug)]
pub struct StackOptions {
    /// What stacks are weighed by; in a format that has all weights, which one is shown first.
    pub weight: &'static Weight,
    /// Whose faults are meant, and at whose end it is seen what is there still.
    pub times: TimeRange,
    /// What was traced, in words.
    pub subject: String,
}

/// A row type that is a table.
trait TableRow: Sized + 'static {
    /// Its name.
    const NAME: &'static str;

    /// What its rows are, in one line.
    const DOC: &'static str;

    /// What it takes to have its rows.
    const ROWS: RowSet;

    /// Its columns, in order; new ones go to the end.
    const COLUMNS: &'static [Column<Self>];

    /// The row of this table in `row`, if it is one.
    fn of(row: &Row) -> Option<&Self>;
}

/// A table, whatever type its rows are of.
#[derive(Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// What its rows are, in one line.
    pub doc: &'static str,
    /// What it takes to have its rows.
    pub rows: RowSet,
    column: fn(usize) -> Option<&'static ColumnHead>,
    fields: Fields,
}

/// Takes the value of one column.
type PutValue<'a> = dyn FnMut(Value<'_>) -> Result<(), ExportError> + 'a;

/// Hands the values of a row over, in order of the columns; `false` if the row is of another table.
type Fields = fn(&Row, Timestamp, &mut PutValue<'_>) -> Result<bool, ExportError>;

impl Table {
    /// Its columns, in order.
    pub fn columns(&self) -> impl Iterator<Item = &'static ColumnHead> {
        (0..).map_while(self.column)
    }

    /// Hands the values of `row` to `put`, in order of the columns, with times counted from `start`; `false` if `row` is of another
    /// table.
    pub fn fields(&self, row: &Row, start: Timestamp, put: &mut PutValue<'_>) -> Result<bool, ExportError> {
        (self.fields)(row, start, put)
    }
}

/// The table with rows of the type `R`.
const fn table<R: TableRow>() -> &'static Table {
    const {
        &Table {
            name: R::NAME,
            doc: R::DOC,
            rows: R::ROWS,
            column: |index| R::COLUMNS.get(index).map(|column| &column.head),
            fields: |row, start, put| {
                let Some(row) = R::of(row) else { return Ok(false) };
                R::COLUMNS.iter().try_for_each(|column| put(column.value(row, start)))?;
                Ok(true)
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_columns_end_in_the_unit_of_their_kind() {
        let named = |table: &Table| table.columns().map(|column| (table.name, column)).collect::<Vec<_>>();
        for (table, column) in TABLES.iter().flat_map(|table| named(table)) {
            let ColumnHead { name, kind, .. } = column;
            let is_time = matches!(kind, Kind::Time | Kind::Duration);
            assert_eq!(name.ends_with("_ns"), is_time, "{table}.{name}: {kind:?}");
            let expected = match name.rsplit('_').next() {
                Some("pages" | "faults" | "bytes") => Kind::Count,
                Some("addr" | "ip") => Kind::Address,
                Some("tgid" | "tid" | "cpu" | "pfn" | "region") => Kind::Id,
                Some("name" | "comm" | "perms") => Kind::Text,
                _ => continue,
            };
            assert_eq!(*kind, expected, "{table}.{name}");
        }
    }

    #[test]
    fn sinks_together_want_what_any_of_them_does() {
        let sink = |table: &'static Table| csv::Csv::new(table, io::sink());
        let sinks: Sinks = vec![Box::new(sink(TIMELINE)), Box::new(sink(table::<Loss>()))];

        assert_eq!(Sinks::new().wants(), RowSet::empty());
        assert_eq!(sinks.wants(), RowSet::TIMELINE | RowSet::LOSSES);
    }
}
