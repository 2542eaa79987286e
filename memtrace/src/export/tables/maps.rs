//! The columns of the tables `maps` and `regions`.

use super::{Column, Table, Value, column};
use crate::{
    timeline::{Backing, MapRow, RegionId, RegionSummary, Row},
    units::{PageCount, VirtAddr, VirtRange},
};

impl Table for MapRow {
    const COLUMNS: &'static [Column<Self>] = &[
        column(
            "time_ns",
            "when it took effect, as far as known; else when the call returned",
            |row, start| row.time.since(start).into(),
        ),
        column("tgid", "process", |row, _| row.tgid.0.into()),
        column("tid", "thread", |row, _| row.tid.0.into()),
        column(
            "action",
            "the system call; exec, stack, fork, exit, unexplained or contradiction where there is none",
            |row, _| row.action.into(),
        ),
        column("start_addr", "first address that it is about", |row, _| {
            row.range.map(VirtRange::start).into()
        }),
        column("end_addr", "first address behind", |row, _| row.range.map(VirtRange::end).into()),
        column("perms", "permissions of the region as in maps", |row, _| match &row.perms {
            Some(perms) => Value::Text(perms),
            None => Value::Unknown,
        }),
        column("flags", "flags, mode or advice of the call", |row, _| {
            row.flags.map_or(Value::Unknown, Value::Flags)
        }),
        column("backing", "what stands behind the region", |row, _| row.backing.map(Backing::name).into()),
        column("name", "path or bracketed name of the region as in maps", |row, _| match &row.name {
            Some(name) => Value::Text(name),
            None => Value::Unknown,
        }),
        column("region", "number of the region; of several, the first", |row, _| {
            row.region.map(|RegionId(id)| id).into()
        }),
        column("result", "what the call returned; an error number has a minus sign", |row, _| {
            match row.result {
                None => Value::Unknown,
                Some(Err(error)) => Value::Error(error),
                Some(Ok(addr)) if row.gives_address => VirtAddr::from_raw(addr).into(),
                Some(Ok(number)) => number.into(),
            }
        }),
    ];

    fn of(row: &Row) -> Option<&Self> {
        match row {
            Row::Map(row) => Some(row),
            Row::Timeline(_) | Row::Fault(_) | Row::Region(_) | Row::Loss(_) | Row::Pages(_) => None,
        }
    }
}

impl Table for RegionSummary {
    const COLUMNS: &'static [Column<Self>] = &[
        column("region", "number of the region", |row, _| row.label.id.0.into()),
        column("tgid", "process", |row, _| row.process.tgid.0.into()),
        column("birth_ns", "when it came to be, or was first known", |row, start| {
            row.born.since(start).into()
        }),
        column("death_ns", "when it went; empty if it was there when recording ended", |row, start| {
            row.died.map(|died| died.since(start)).into()
        }),
        column("start_addr", "first address at the end", |row, _| row.label.range.start().into()),
        column("end_addr", "first address behind it at the end", |row, _| row.label.range.end().into()),
        column("perms", "permissions at the end, as in maps", |row, _| Value::Text(&row.label.perms)),
        column("backing", "what stands behind it", |row, _| row.label.backing.name().into()),
        column("name", "path or bracketed name as in maps", |row, _| Value::Text(&row.label.name)),
        column(
            "parent_region",
            "the region that it was split from, copied from at a fork, or moved out of",
            |row, _| row.parent.map(|RegionId(id)| id).into(),
        ),
        column("peak_present_pages", "most pages in memory that scans saw", |row, _| {
            row.peak_present.map(PageCount::get).into()
        }),
        column("minor_faults", "completed minor faults", |row, _| row.faults.minor.into()),
        column("major_faults", "completed major faults", |row, _| row.faults.major.into()),
        column("latency_sum_ns", "sum of their known latencies", |row, _| row.latency_sum.into()),
        column("lower_bound", "1 if a loss touches its life: counts are at least these", |row, _| {
            u64::from(row.lower_bound).into()
        }),
    ];

    fn of(row: &Row) -> Option<&Self> {
        match row {
            Row::Region(row) => Some(row),
            Row::Timeline(_) | Row::Fault(_) | Row::Map(_) | Row::Loss(_) | Row::Pages(_) => None,
        }
    }
}
