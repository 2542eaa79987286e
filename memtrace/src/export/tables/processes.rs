//! The columns of the table `processes`.

use super::not_yet;
use crate::{
    event::{FaultCounts, WaitStatus},
    export::{
        TableRow,
        column::{
            Column,
            Get::{Count, Duration, Flag, Id, Text, Time},
            column,
        },
    },
    timeline::{ProcessSummary, Row, RowSet},
    units::PageCount,
};

impl TableRow for ProcessSummary {
    const NAME: &'static str = "processes";
    const DOC: &'static str = "One row per process";
    const ROWS: RowSet = RowSet::PROCESSES;
    const COLUMNS: &'static [Column<Self>] = &[
        column("space", "number of its last address space", Id(|row| row.space.map(|space| space.0))),
        column("tgid", "process", Id(|row| Some(row.id.tgid.0.into()))),
        column(
            "parent_tgid",
            "process that made it; empty if that is not known",
            Id(|row| row.parent.map(|parent| parent.0.into())),
        ),
        column("comm", "its last name", Text(|row| Some(row.comm.as_bytes()))),
        column(
            "program",
            "path of the program that it executed last, or its parent before it was made; empty if it was attached to and has not \
             executed any",
            Text(|row| row.program.as_deref()),
        ),
        column("argv", "its arguments; always empty for now", Count(not_yet)),
        column("birth_ns", "when it was made, or first known", Time(|row| Some(row.id.born))),
        column(
            "death_ns",
            "when it ended, without BTF when its leader did; empty if it did not, or is traced no longer",
            Time(|row| row.died),
        ),
        column(
            "exit_status",
            "code with which it exited; empty if it did not, a signal ended it, or the kernel has no BTF",
            Id(|row| row.status.and_then(WaitStatus::code).map(u64::from)),
        ),
        column(
            "peak_rss_pages",
            "the most that were resident at once in its last address space, as the kernel counted when it ended; empty if it did not, \
             if that was no more than in an address space before and nobody read it at the exit (--verify does), or if records \
             are missing",
            Count(|row| row.peak.exact.map(PageCount::get)),
        ),
        column("minor_faults", "completed minor faults with an event", Count(|row| Some(row.faults.minor))),
        column("major_faults", "completed major faults with an event", Count(|row| Some(row.faults.major))),
        column("stall_ns", "sum of the known latencies of its faults", Duration(|row| row.stall)),
        column(
            "lower_bound",
            "1 if a loss touches its life: counts are at least these",
            Flag(|row| row.lower_bound),
        ),
        column(
            "exit_signal",
            "number of the signal that ended it, if one did",
            Id(|row| row.status.and_then(WaitStatus::signal).map(u64::from)),
        ),
        column(
            "seen_peak_rss_pages",
            "the same when it was read last: there were at least as many; empty if it never was",
            Count(|row| row.peak.seen.map(PageCount::get)),
        ),
        column(
            "uncounted_faults",
            "faults charged without an event; empty if that is not known",
            Count(|row| row.uncounted.map(FaultCounts::total)),
        ),
    ];

    fn of(row: &Row) -> Option<&Self> {
        if let Row::Process(row) = row { Some(row) } else { None }
    }
}
