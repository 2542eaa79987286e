//! The columns of the table `rss`.

use crate::{
    export::{
        TableRow,
        column::{
            Column,
            Get::{Count, Id, Time},
            column,
        },
    },
    timeline::{Row, RowSet, RssRow},
};

impl TableRow for RssRow {
    const NAME: &'static str = "rss";
    const DOC: &'static str = "One row per process and interval, if something happened in it, and now and then: the kernel's counters";
    const ROWS: RowSet = RowSet::RSS;
    const COLUMNS: &'static [Column<Self>] = &[
        column("time_ns", "when they were read", Time(|row| Some(row.time))),
        column("space", "number of the address space", Id(|row| Some(row.space.0))),
        column("tgid", "process", Id(|row| Some(row.tgid.0.into()))),
        column(
            "anon_pages",
            "resident and anonymous: RssAnon of proc(5)",
            Count(|row| Some(row.counters.anon.get())),
        ),
        column("file_pages", "resident, of files: RssFile", Count(|row| Some(row.counters.file.get()))),
        column(
            "shmem_pages",
            "resident, of shared memory: RssShmem",
            Count(|row| Some(row.counters.shmem.get())),
        ),
        column("swap_pages", "anonymous, in swap: VmSwap", Count(|row| Some(row.counters.swap.get()))),
        column(
            "peak_pages",
            "the most that were resident at once in this address space until then: VmHWM",
            Count(|row| Some(row.counters.peak.get())),
        ),
        column(
            "resident_pages",
            "what the regions that the kernel counts have together at that time, as far as is known",
            Count(|row| row.residency.map(|residency| residency.pages.get())),
        ),
        column(
            "resident_unknown_pages",
            "pages of theirs of which it is not known",
            Count(|row| row.residency.map(|residency| residency.unknown.get())),
        ),
    ];

    fn of(row: &Row) -> Option<&Self> {
        if let Row::Rss(row) = row { Some(row) } else { None }
    }
}
