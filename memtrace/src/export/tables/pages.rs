//! The columns of the table `pages`.

use super::not_yet;
use crate::{
    export::{
        TableRow,
        column::{
            Column,
            Get::{Address, Bits, Count, Id, Time, Word},
            column,
        },
    },
    timeline::{PageRow, Row, RowSet},
    units::Pfn,
};

impl TableRow for PageRow {
    const NAME: &'static str = "pages";
    const DOC: &'static str = "One row per run of pages that changed between two scans";
    const ROWS: RowSet = RowSet::PAGES;
    const COLUMNS: &'static [Column<Self>] = &[
        column("time_ns", "when the scan began that shows it", Time(|row| Some(row.time))),
        column("tgid", "process", Id(|row| Some(row.tgid.0.into()))),
        column("region", "number of the region", Id(|row| Some(row.region.0))),
        column("addr", "address of the first page", Address(|row| Some(row.range.start()))),
        column("pages", "how many pages", Count(|row| Some(row.pages.get()))),
        column("pfn", "number of the frame of the first page", Id(|row| row.pfn.map(Pfn::as_raw))),
        column(
            "prev_pfn",
            "the frame that it was in at the scan before",
            Id(|row| row.prev_pfn.map(Pfn::as_raw)),
        ),
        column(
            "state",
            "absent, swapped, guard, zero, hugetlb, huge, mthp, thp, ksm, small or present",
            Word(|row| Some(row.state.name())),
        ),
        column("prev_state", "the state at the scan before", Word(|row| Some(row.prev_state.name()))),
        column(
            "flags",
            "the word of their frames in /proc/kpageflags",
            Bits(|row| row.flags.map(|flags| flags.bits())),
        ),
        column(
            "order",
            "the pages of their folio that are mapped here, as a power of two",
            Count(|row| row.order.map(u64::from)),
        ),
        column("node", "memory node of the frames", Id(not_yet)),
        column(
            "cause",
            "fault, fault-around, call, migration, collapse, split, merge, reclaim or unknown",
            Word(|row| Some(row.cause.name())),
        ),
    ];

    fn of(row: &Row) -> Option<&Self> {
        if let Row::Pages(row) = row { Some(row) } else { None }
    }
}
