//! The columns of the table `pages`.

use super::{Column, Table, Value, column, unknown};
use crate::{
    timeline::{PageRow, RegionId, Row},
    units::Pfn,
};

impl Table for PageRow {
    const COLUMNS: &'static [Column<Self>] = &[
        column("time_ns", "when the scan began that shows it", |row, start| row.time.since(start).into()),
        column("tgid", "process", |row, _| row.tgid.0.into()),
        column("region", "number of the region", |row, _| {
            let RegionId(id) = row.region;
            id.into()
        }),
        column("addr", "address of the first page", |row, _| row.range.start().into()),
        column("pages", "how many pages", |row, _| row.pages.into()),
        column("pfn", "number of the frame of the first page", |row, _| row.pfn.map(Pfn::as_raw).into()),
        column("prev_pfn", "the frame that it was in at the scan before", |row, _| {
            row.prev_pfn.map(Pfn::as_raw).into()
        }),
        column(
            "state",
            "absent, swapped, guard, zero, hugetlb, huge, mthp, thp, ksm, small or present",
            |row, _| row.state.name().into(),
        ),
        column("prev_state", "the state at the scan before", |row, _| row.prev_state.name().into()),
        column("flags", "the word of their frames in /proc/kpageflags", |row, _| {
            row.flags.map_or(Value::Unknown, |flags| Value::Bits(flags.bits()))
        }),
        column("order", "the pages of their folio that are mapped here, as a power of two", |row, _| {
            row.order.into()
        }),
        unknown("node", "memory node of the frames"),
        column(
            "cause",
            "fault, fault-around, call, migration, collapse, split, merge, reclaim or unknown",
            |row, _| row.cause.name().into(),
        ),
    ];

    fn of(row: &Row) -> Option<&Self> {
        match row {
            Row::Pages(row) => Some(row),
            Row::Timeline(_) | Row::Fault(_) | Row::Map(_) | Row::Region(_) | Row::Loss(_) => None,
        }
    }
}
