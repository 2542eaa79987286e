//! Columns: what kind of value each has, and how that is had from a row.

use crate::{
    timeline::MapFlags,
    units::{Nanos, Timestamp, VirtAddr},
};

/// What the values of a column are. Any of them may be unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// How many; sums of them have a meaning.
    Count,
    /// The number of something that is distinguished by it.
    Id,
    /// Nanoseconds since the start of the recording.
    Time,
    /// A length of time in nanoseconds.
    Duration,
    /// An address.
    Address,
    /// A word of bits.
    Bits,
    /// One of few words, or some of them.
    Word,
    /// Text as the kernel has it: mostly UTF-8.
    Text,
    /// 0 or 1.
    Flag,
    /// What a call returned: a number, an address, or an error below zero.
    Result,
}

/// What a column is, whatever table it is of.
#[derive(Debug)]
pub struct ColumnHead {
    /// Its name, which ends in the unit.
    pub name: &'static str,
    /// What it says, in one line.
    pub doc: &'static str,
    /// What its values are.
    pub kind: Kind,
}

/// One column of a table with rows of the type `R`.
pub(super) struct Column<R> {
    pub(super) head: ColumnHead,
    get: Get<R>,
}

/// How the value is had from a row, by its kind.
pub(super) enum Get<R> {
    Count(fn(&R) -> Option<u64>),
    Id(fn(&R) -> Option<u64>),
    Time(fn(&R) -> Option<Timestamp>),
    Duration(fn(&R) -> Option<Nanos>),
    Address(fn(&R) -> Option<VirtAddr>),
    Bits(fn(&R) -> Option<u64>),
    Word(fn(&R) -> Option<&'static str>),
    /// Words too: names of what is in a number.
    Flags(fn(&R) -> Option<MapFlags>),
    Text(fn(&R) -> Option<&[u8]>),
    /// Text too: bytes in hexadecimal digits.
    Hex(fn(&R) -> Option<&[u8]>),
    Flag(fn(&R) -> bool),
    Result(fn(&R) -> Value<'static>),
}

/// A column.
pub(super) const fn column<R>(name: &'static str, doc: &'static str, get: Get<R>) -> Column<R> {
    let kind = match get {
        Get::Count(_) => Kind::Count,
        Get::Id(_) => Kind::Id,
        Get::Time(_) => Kind::Time,
        Get::Duration(_) => Kind::Duration,
        Get::Address(_) => Kind::Address,
        Get::Bits(_) => Kind::Bits,
        Get::Word(_) | Get::Flags(_) => Kind::Word,
        Get::Text(_) | Get::Hex(_) => Kind::Text,
        Get::Flag(_) => Kind::Flag,
        Get::Result(_) => Kind::Result,
    };
    Column { head: ColumnHead { name, doc, kind }, get }
}

/// The value of one column in one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// No source has it.
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
    /// Text as the kernel has it: mostly UTF-8.
    Text(&'a [u8]),
    /// Bytes that are no text.
    Hex(&'a [u8]),
}

impl<R> Column<R> {
    /// Its value in `row`, with times counted from `start`.
    pub(super) fn value<'a>(&self, row: &'a R, start: Timestamp) -> Value<'a> {
        let value = match self.get {
            Get::Count(get) | Get::Id(get) => get(row).map(Value::Number),
            Get::Time(get) => get(row).map(|time| Value::Number(time.since(start).get())),
            Get::Duration(get) => get(row).map(|time| Value::Number(time.get())),
            Get::Address(get) => get(row).map(Value::Address),
            Get::Bits(get) => get(row).map(Value::Bits),
            Get::Word(get) => get(row).map(Value::Word),
            Get::Flags(get) => get(row).map(Value::Flags),
            Get::Text(get) => get(row).map(Value::Text),
            Get::Hex(get) => get(row).map(Value::Hex),
            Get::Flag(get) => Some(Value::Number(get(row).into())),
            Get::Result(get) => Some(get(row)),
        };
        value.unwrap_or(Value::Unknown)
    }
}
