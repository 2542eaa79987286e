//! The columns of the tables.
//!
//! Layer: codec. Input: rows. Output: [`Column`]s.
//! Keeps: names and order are a contract with the scripts of users.
//! Not here: how a value is written (`csv`).

mod frames;
mod maps;
mod pages;
mod processes;
mod rss;

use super::{
    TableRow,
    column::{
        Column,
        Get::{Address, Count, Duration, Flag, Id, Text, Time, Word},
        column,
    },
};
use crate::{
    event::{Access, Comm, Loss, Mode, SpaceId},
    timeline::{
        AccessCounts, FaultDetail, FaultRow, Module, OutcomeUnknown, PAGE_PROPERTIES, PageProperty,
        PageTally, Row, RowSet, TimelineRow,
    },
    units::{PageCount, VirtRange},
};

/// In place of a value, in a column of the contract that nothing fills yet.
const fn not_yet<R>(_row: &R) -> Option<u64> {
    None
}

impl TimelineRow {
    fn detail<T: Into<Option<u64>>>(&self, of: impl FnOnce(&FaultDetail) -> T) -> Option<u64> {
        self.faults.detail.as_ref().and_then(|detail| of(detail).into())
    }

    fn access(&self, of: impl FnOnce(&AccessCounts) -> u64) -> Option<u64> {
        self.faults.detail.as_ref().and_then(|detail| detail.access.known()).map(of)
    }

    fn pages<T: Into<Option<PageCount>>>(&self, of: impl FnOnce(&PageTally) -> T) -> Option<u64> {
        self.pages.as_ref().and_then(|pages| of(pages).into()).map(PageCount::get)
    }

    /// Where the region lies, or the slot that stands for it.
    fn place(&self) -> Option<VirtRange> {
        self.region.as_ref().map(|region| region.range).or(self.range)
    }
}

/// The column of the property of pages at this place of the table of properties.
const fn counted<const INDEX: usize>() -> Column<TimelineRow> {
    let PageProperty { column: name, doc, .. } = &PAGE_PROPERTIES[INDEX];
    column(name, doc, Count(|row: &TimelineRow| row.pages(|pages| pages.counts.at(INDEX))))
}

impl TableRow for TimelineRow {
    const NAME: &'static str = "timeline";
    const DOC: &'static str = "One row per region and interval in which something happened or was scanned";
    const ROWS: RowSet = RowSet::TIMELINE;
    const COLUMNS: &'static [Column<Self>] = &[
        column("start_ns", "start of the interval", Time(|row| Some(row.start))),
        column("end_ns", "end of the interval, not included", Time(|row| Some(row.end))),
        column("tgid", "process", Id(|row| row.process.map(|process| process.tgid.0.into()))),
        column("comm", "name of the process", Text(|row| Some(row.comm.as_bytes()))),
        column(
            "region",
            "number of the region; empty where no known region holds the addresses",
            Id(|row| row.region.as_ref().map(|region| region.id.0)),
        ),
        column("start_addr", "first address of the region", Address(|row| row.place().map(VirtRange::start))),
        column("end_addr", "first address behind it", Address(|row| row.place().map(VirtRange::end))),
        column(
            "perms",
            "permissions as in maps",
            Text(|row| row.region.as_ref().map(|region| &region.perms[..])),
        ),
        column(
            "backing",
            "what stands behind the region",
            Word(|row| row.region.as_ref().map(|region| region.backing.name())),
        ),
        column(
            "name",
            "path or bracketed name as in maps",
            Text(|row| row.region.as_ref().map(|region| &region.name[..])),
        ),
        column("minor_faults", "completed minor faults", Count(|row| Some(row.faults.completed.minor))),
        column("major_faults", "completed major faults", Count(|row| Some(row.faults.completed.major))),
        column(
            "failed_faults",
            "faults that failed: SIGSEGV or SIGBUS followed",
            Count(|row| row.detail(|detail| detail.failed)),
        ),
        column("read_faults", "loads", Count(|row| row.access(|access| access.read))),
        column("write_faults", "stores", Count(|row| row.access(|access| access.write))),
        column("exec_faults", "instruction fetches", Count(|row| row.access(|access| access.exec))),
        column("kernel_faults", "faults in kernel mode", Count(|row| row.detail(|detail| detail.kernel))),
        column(
            "cow_faults",
            "stores that a present page refused",
            Count(|row| row.access(|access| access.cow)),
        ),
        column(
            "refaults",
            "faults at pages that are known to have been resident before, and to have gone",
            Count(|row| row.detail(|detail| detail.refaults)),
        ),
        column("uncounted_faults", "faults charged without an event", Count(|row| row.uncounted)),
        column(
            "latency_sum_ns",
            "sum of the known latencies",
            Duration(|row| row.faults.detail.map(|detail| detail.latency_sum)),
        ),
        column(
            "latency_max_ns",
            "largest known latency; empty if none is known",
            Duration(|row| row.faults.detail.and_then(|detail| detail.latency_max)),
        ),
        column("mmaps", "successful calls of mmap", Count(|row| Some(row.maps.mmap))),
        column("munmaps", "successful calls of munmap", Count(|row| Some(row.maps.munmap))),
        column("mremaps", "successful calls of mremap", Count(|row| Some(row.maps.mremap))),
        column(
            "mprotects",
            "successful calls of mprotect and pkey_mprotect",
            Count(|row| Some(row.maps.mprotect)),
        ),
        column(
            "madvises",
            "successful calls of madvise and process_madvise",
            Count(|row| Some(row.maps.madvise)),
        ),
        column("brks", "calls of brk", Count(|row| Some(row.maps.brk))),
        column(
            "other_maps",
            "successful other calls that concern the address space",
            Count(|row| Some(row.maps.other)),
        ),
        column(
            "scan_ns",
            "time of the last scan of the pages",
            Time(|row| row.pages.as_ref().map(|pages| pages.scanned)),
        ),
        column("scanned_pages", "pages scanned", Count(|row| row.pages(|pages| pages.scanned_pages))),
        counted::<{ PageProperty::index_of("present") }>(),
        counted::<{ PageProperty::index_of("swapped") }>(),
        counted::<{ PageProperty::index_of("file") }>(),
        counted::<{ PageProperty::index_of("shared") }>(),
        counted::<{ PageProperty::index_of("exclusive") }>(),
        counted::<{ PageProperty::index_of("zero") }>(),
        counted::<{ PageProperty::index_of("ksm") }>(),
        counted::<{ PageProperty::index_of("huge") }>(),
        counted::<{ PageProperty::index_of("mthp") }>(),
        counted::<{ PageProperty::index_of("hugetlb") }>(),
        column("written_pages", "distinct pages found written in the interval", Count(not_yet)),
        column("accessed_pages", "distinct pages found accessed in the interval", Count(not_yet)),
        column(
            "migrated_pages",
            "pages that the kernel moved to other frames since the scan before",
            Count(|row| row.pages(|pages| pages.migrated)),
        ),
        column(
            "lower_bound",
            "1 if a loss touches the interval: counts are at least these",
            Flag(|row| row.lower_bound),
        ),
        column(
            "incomplete_faults",
            "faults that ended otherwise without completing: refused, emulated, retried or unfinished",
            Count(|row| row.detail(|detail| detail.incomplete)),
        ),
        column(
            "resident_pages",
            "resident pages of the whole region at the end of the interval, as far as is known: as scanned last, and changed by faults and calls \
             since; later rows of the region say when that changes",
            Count(|row| row.residency.map(|residency| residency.pages.get())),
        ),
        column(
            "resident_unknown_pages",
            "pages of the region of which it is not known; what the kernel takes or gives without a fault or call shows at the next scan",
            Count(|row| row.residency.map(|residency| residency.unknown.get())),
        ),
    ];

    fn of(row: &Row) -> Option<&Self> {
        if let Row::Timeline(row) = row { Some(row) } else { None }
    }
}

impl TableRow for FaultRow {
    const NAME: &'static str = "faults";
    const DOC: &'static str = "One row per fault";
    const ROWS: RowSet = RowSet::FAULTS;
    const COLUMNS: &'static [Column<Self>] = &[
        column(
            "time_ns",
            "completion; if it never completed, when that became known",
            Time(|row| Some(row.fault.time)),
        ),
        column("tgid", "process", Id(|row| row.process.map(|process| process.tgid.0.into()))),
        column("tid", "thread", Id(|row| Some(row.fault.tid.0.into()))),
        column("comm", "name of the thread", Text(|row| row.comm.as_ref().map(Comm::as_bytes))),
        column("cpu", "CPU that it ended on", Id(|row| Some(row.fault.cpu.0.into()))),
        column("addr", "faulting address", Address(|row| Some(row.fault.addr))),
        column("ip", "instruction pointer", Address(|row| Some(row.fault.ip))),
        column(
            "access",
            "read, write or exec",
            Word(|row| {
                row.fault.access.map(|access| match access {
                    Access::Read => "read",
                    Access::Write => "write",
                    Access::Exec => "exec",
                })
            }),
        ),
        column(
            "mode",
            "user or kernel",
            Word(|row| {
                Some(match row.fault.mode {
                    Mode::User => "user",
                    Mode::Kernel => "kernel",
                })
            }),
        ),
        column(
            "kind",
            "how it ended: minor or major (completed), failed (SIGSEGV or SIGBUS followed), refused (an access of the kernel's own \
             that went on without the page), emulated (a call in the vsyscall page), retried (left to the instruction to be \
             executed again) or unfinished (had not ended when the thread did, or tracing)",
            Word(|row| Some(row.fault.kind.name())),
        ),
        column("latency_ns", "entry to completion", Duration(|row| row.fault.latency)),
        column(
            "region",
            "number of the region that holds the address",
            Id(|row| row.place.as_ref().map(|place| place.region.0)),
        ),
        column(
            "offset_bytes",
            "distance of the address from the start of the region",
            Count(|row| row.place.as_ref().map(|place| place.offset)),
        ),
        column(
            "outcome",
            "what the fault brought: anon, zero, file, swap, copy, reuse or hugetlb; write-protect if it may be copy or reuse",
            Word(|row| row.outcome.map(|outcome| outcome.kind.name())),
        ),
        column(
            "stack",
            "number of the stack in the table frames, of the thread in user mode (record -g)",
            Id(|row| row.stack),
        ),
        column(
            "name",
            "path or bracketed name of the region, as in maps",
            Text(|row| row.place.as_ref().map(|place| &place.name[..])),
        ),
        column(
            "file_offset_bytes",
            "offset of the address in the file",
            Count(|row| row.place.as_ref().and_then(|place| place.file_offset)),
        ),
        column(
            "outcome_pages",
            "how many pages it brought or mapped; of a file they may have been there before; empty if that is not known",
            Count(|row| row.outcome.and_then(|outcome| outcome.pages).map(PageCount::get)),
        ),
        column(
            "outcome_lag_ns",
            "time from the fault to the scan that found it; 0 where it follows from what the page was",
            Duration(|row| row.outcome.map(|outcome| outcome.lag)),
        ),
        column(
            "ip_module",
            "where the instruction lay: path or bracketed name as in maps, [anon] or [kernel]; empty if no known region held it",
            Text(|row| row.module.as_ref().map(Module::name)),
        ),
        column(
            "syscall",
            "of a fault in kernel mode that completed, the system call that was in flight",
            Word(|row| row.syscall),
        ),
        column(
            "ip_function",
            "name of the function that the instruction is of; empty if it is not known (record -g)",
            Text(|row| row.function.as_deref()),
        ),
        column(
            "outcome_unknown",
            "why a completed fault has no outcome: no_region, not_scanned, faulted_again, taken, gone, raced or unclear",
            Word(|row| row.outcome_unknown.map(OutcomeUnknown::name)),
        ),
        column(
            "refault_of",
            "how the page had gone that had been resident before: advice, unmap, reclaim or unknown; empty if it is not known to have been",
            Word(|row| row.refault.map(|refault| refault.of.name())),
        ),
        column(
            "refault_age_ns",
            "time since that, or since a scan found it",
            Duration(|row| row.refault.map(|refault| refault.age)),
        ),
        column("space", "number of the address space", Id(|row| row.space.map(|SpaceId(id)| id))),
        column(
            "copy_on_write",
            "1 of a store that a present page refused, else 0; empty if that is not known",
            Count(|row| {
                let is_store = row.fault.access? == Access::Write;
                Some(u64::from(is_store && row.fault.protection?))
            }),
        ),
    ];

    fn of(row: &Row) -> Option<&Self> {
        if let Row::Fault(row) = row { Some(row) } else { None }
    }
}

impl TableRow for Loss {
    const NAME: &'static str = "losses";
    const DOC: &'static str = "One row per gap";
    const ROWS: RowSet = RowSet::LOSSES;
    const COLUMNS: &'static [Column<Self>] = &[
        column("start_ns", "nothing is missing before", Time(|loss| Some(loss.start))),
        column("end_ns", "nothing is missing after", Time(|loss| loss.end)),
        column("cpu", "CPU that lost the records", Id(|loss| loss.cpu.map(|cpu| cpu.0.into()))),
        column("cause", "why they are missing", Word(|loss| Some(loss.cause.name()))),
        column("count", "how many; empty if it cannot be known", Count(|loss| loss.count)),
    ];

    fn of(row: &Row) -> Option<&Self> {
        if let Row::Loss(loss) = row { Some(loss) } else { None }
    }
}
