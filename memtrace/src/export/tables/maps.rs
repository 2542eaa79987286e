//! The columns of the tables `maps` and `regions`.

use crate::{
    export::{
        TableRow,
        column::{
            Column,
            Get::{Address, Count, Duration, Flag, Flags, Hex, Id, Result, Text, Time, Word},
            Value, column,
        },
    },
    timeline::{Backing, MapRow, RegionId, RegionSummary, Row, RowSet},
    units::{PageCount, VirtAddr, VirtRange},
};

impl TableRow for MapRow {
    const NAME: &'static str = "maps";
    const DOC: &'static str = "One row per change of an address space";
    const ROWS: RowSet = RowSet::MAPS;
    const COLUMNS: &'static [Column<Self>] = &[
        column(
            "time_ns",
            "when it took effect, as far as known; else when the call returned",
            Time(|row| Some(row.time)),
        ),
        column("tgid", "process", Id(|row| Some(row.tgid.0.into()))),
        column("tid", "thread", Id(|row| Some(row.tid.0.into()))),
        column(
            "action",
            "the system call; exec, stack, fork, exit, unexplained or contradiction where there is none",
            Word(|row| Some(row.action)),
        ),
        column(
            "start_addr",
            "first address that it is about",
            Address(|row| row.range.map(VirtRange::start)),
        ),
        column("end_addr", "first address behind", Address(|row| row.range.map(VirtRange::end))),
        column(
            "perms",
            "permissions of the region as in maps",
            Text(|row| row.perms.as_ref().map(|perms| &perms[..])),
        ),
        column("flags", "flags, mode or advice of the call", Flags(|row| row.flags)),
        column("backing", "what stands behind the region", Word(|row| row.backing.map(Backing::name))),
        column("name", "path or bracketed name of the region as in maps", Text(|row| row.name.as_deref())),
        column(
            "region",
            "number of the region; of several, the first",
            Id(|row| row.region.map(|RegionId(id)| id)),
        ),
        column(
            "result",
            "what the call returned; an error number has a minus sign",
            Result(|row| match row.result {
                None => Value::Unknown,
                Some(Err(error)) => Value::Error(error),
                Some(Ok(addr)) if row.gives_address => Value::Address(VirtAddr::from_raw(addr)),
                Some(Ok(number)) => Value::Number(number),
            }),
        ),
        column("stack", "number of the caller's stack in the table frames (record -g)", Id(|row| row.stack)),
        column(
            "syscall",
            "the system call; empty where there is none",
            Word(|row| row.result.map(|_| row.action)),
        ),
        column(
            "ip_module",
            "where the instruction lay that made the call: path or bracketed name as in maps, or [anon] (record -g)",
            Text(|row| Some(row.caller.as_ref()?.module.as_ref()?.name())),
        ),
        column(
            "ip_function",
            "name of its function; empty if that is not known",
            Text(|row| row.caller.as_ref()?.function().map(|name| &name[..])),
        ),
        column(
            "child_tgid",
            "of a fork, the process that has the copy of the address space",
            Id(|row| row.child.map(|child| child.0.into())),
        ),
        column(
            "program",
            "path of the program for which exec made the mapping",
            Text(|row| row.program.as_deref()),
        ),
        column(
            "status",
            "of an exit, the code, or 128 and the number of the signal that ended the process; empty if the kernel has no BTF",
            Id(|row| {
                let status = row.status?;
                status.code().or_else(|| Some(128 + status.signal()?)).map(u64::from)
            }),
        ),
    ];

    fn of(row: &Row) -> Option<&Self> {
        if let Row::Map(row) = row { Some(row) } else { None }
    }
}

impl TableRow for RegionSummary {
    const NAME: &'static str = "regions";
    const DOC: &'static str = "One row per region";
    const ROWS: RowSet = RowSet::REGIONS;
    const COLUMNS: &'static [Column<Self>] = &[
        column("region", "number of the region", Id(|row| Some(row.label.id.0))),
        column("tgid", "process", Id(|row| Some(row.process.tgid.0.into()))),
        column("birth_ns", "when it came to be, or was first known", Time(|row| Some(row.born))),
        column("death_ns", "when it went; empty if it was there when recording ended", Time(|row| row.died)),
        column("start_addr", "first address at the end", Address(|row| Some(row.label.range.start()))),
        column("end_addr", "first address behind it at the end", Address(|row| Some(row.label.range.end()))),
        column("perms", "permissions at the end, as in maps", Text(|row| Some(&row.label.perms))),
        column("backing", "what stands behind it", Word(|row| Some(row.label.backing.name()))),
        column("name", "path or bracketed name as in maps", Text(|row| Some(&row.label.name))),
        column(
            "parent_region",
            "the region that it was split from, copied from at a fork, or moved out of",
            Id(|row| row.parent.map(|RegionId(id)| id)),
        ),
        column(
            "peak_present_pages",
            "most pages in memory that scans saw",
            Count(|row| row.peak_present.map(PageCount::get)),
        ),
        column("minor_faults", "completed minor faults", Count(|row| Some(row.faults.minor))),
        column("major_faults", "completed major faults", Count(|row| Some(row.faults.major))),
        column("latency_sum_ns", "sum of their known latencies", Duration(|row| Some(row.latency_sum))),
        column(
            "lower_bound",
            "1 if a loss touches its life: counts are at least these",
            Flag(|row| row.lower_bound),
        ),
        column(
            "file_offset_bytes",
            "offset in the file at which it begins, as in maps; empty if there is no file",
            Count(|row| row.label.file_offset),
        ),
        column(
            "build_id",
            "of the file; empty if it has none, or it was not read (record -g)",
            Hex(|row| row.build_id.as_deref()),
        ),
        column(
            "last_present_pages",
            "pages in memory as scanned last; empty if no scan saw any that it has",
            Count(|row| row.pages?.counts.present().map(PageCount::get)),
        ),
    ];

    fn of(row: &Row) -> Option<&Self> {
        if let Row::Region(row) = row { Some(row) } else { None }
    }
}
