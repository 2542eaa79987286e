//! The tables that leave memtrace, and the formats in which they do.
//!
//! Layer: codec. Input: [`Row`]s. Output: text or bytes into any writer.
//! Keeps: a table's columns are defined once, for its header, its documentation and its content in every format;
//! what is unknown is an empty field, never 0.
//! Not here: how rows come about (`pipeline`).
#![forbid(unsafe_code)]

use crate::{
    timeline::{MapFlags, Row},
    units::{Timestamp, VirtAddr},
};

pub mod csv;
mod flags;
mod tables;

/// Why an export could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The output takes no more: a full disk, or a reader that has gone.
    #[error("cannot write the export")]
    Write(#[source] std::io::Error),
}

/// A row type that is a table.
pub trait Table: Sized + 'static {
    /// Its columns, in order; new ones go to the end.
    const COLUMNS: &'static [Column<Self>];

    /// The row of this table in `row`, if it is one.
    fn of(row: &Row) -> Option<&Self>;
}

/// One column of the table `R`.
#[derive(Debug)]
pub struct Column<R> {
    /// Its name.
    pub name: &'static str,
    /// What its rows are, in one line.
    pub doc: &'static str,
    /// Its value in a row, with times counted from the given start.
    pub value: fn(&R, Timestamp) -> Value<'_>,
}

/// The value of one column in one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// No source gave it.
    Unknown,
    /// A number: a count, an identity, a time in nanoseconds.
    Number(u64),
    /// An address.
    Address(VirtAddr),
    /// A word of bits.
    Bits(u64),
    /// The number of an error that a call returned.
    Error(i32),
    /// One of few words.
    Word(&'static str),
    /// Numbers that a call was given, by name.
    Flags(MapFlags),
    /// Text as the kernel gave it: mostly UTF-8.
    Text(&'a [u8]),
}
