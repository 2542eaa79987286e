//! The columns of the tables.
//!
//! Layer: codec. Input: rows. Output: [`Column`]s.
//! Keeps: names and order are a contract with the scripts of users.
//! Not here: how a value is written (`csv`).

mod maps;
mod pages;

use super::{Column, Table, Value};
use crate::{
    event::{Access, Loss, Mode},
    timeline::{AccessCounts, FaultDetail, FaultRow, PageCounts, PageTally, Row, TimelineRow},
    units::{Nanos, PageCount, Timestamp, VirtAddr, VirtRange},
};

impl From<u64> for Value<'_> {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for Value<'_> {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<Nanos> for Value<'_> {
    fn from(time: Nanos) -> Self {
        Self::Number(time.get())
    }
}

impl From<PageCount> for Value<'_> {
    fn from(pages: PageCount) -> Self {
        Self::Number(pages.get())
    }
}

impl From<VirtAddr> for Value<'_> {
    fn from(addr: VirtAddr) -> Self {
        Self::Address(addr)
    }
}

impl From<&'static str> for Value<'_> {
    fn from(word: &'static str) -> Self {
        Self::Word(word)
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Unknown, Into::into)
    }
}

const fn column<R>(
    name: &'static str,
    doc: &'static str,
    value: fn(&R, Timestamp) -> Value<'_>,
) -> Column<R> {
    Column { name, doc, value }
}

/// A column of the contract that nothing fills yet.
const fn unknown<R>(name: &'static str, doc: &'static str) -> Column<R> {
    Column { name, doc, value: |_, _| Value::Unknown }
}

impl TimelineRow {
    fn detail<'a, T: Into<Value<'a>>>(&self, of: impl FnOnce(&FaultDetail) -> T) -> Value<'a> {
        self.faults.detail.as_ref().map(of).into()
    }

    fn access(&self, of: impl FnOnce(&AccessCounts) -> u64) -> Value<'_> {
        self.faults.detail.as_ref().and_then(|detail| detail.access.known()).map(of).into()
    }

    fn pages<'a, T: Into<Value<'a>>>(&self, of: impl FnOnce(&PageTally) -> T) -> Value<'a> {
        self.pages.as_ref().map(of).into()
    }

    fn counts<'a, T: Into<Value<'a>>>(&self, of: impl FnOnce(&PageCounts) -> T) -> Value<'a> {
        self.pages(|pages| of(&pages.counts))
    }

    /// Where the region lies, or the slot that stands for it.
    fn place(&self) -> Option<VirtRange> {
        self.region.as_ref().map(|region| region.range).or(self.range)
    }
}

impl Table for TimelineRow {
    const COLUMNS: &'static [Column<Self>] = &[
        column("start_ns", "start of the interval", |row, start| row.start.since(start).into()),
        column("end_ns", "end of the interval, not included", |row, start| row.end.since(start).into()),
        column("tgid", "process", |row, _| row.process.map(|process| process.tgid.0).into()),
        column("comm", "name of the process", |row, _| Value::Text(row.comm.as_bytes())),
        column(
            "region",
            "number of the region; empty where no known region holds the addresses",
            |row, _| row.region.as_ref().map(|region| region.id.0).into(),
        ),
        column("start_addr", "first address of the region", |row, _| {
            row.place().map(VirtRange::start).into()
        }),
        column("end_addr", "first address behind it", |row, _| row.place().map(VirtRange::end).into()),
        column("perms", "permissions as in maps", |row, _| match &row.region {
            Some(region) => Value::Text(&region.perms),
            None => Value::Unknown,
        }),
        column("backing", "what stands behind the region", |row, _| {
            row.region.as_ref().map(|region| region.backing.name()).into()
        }),
        column("name", "path or bracketed name as in maps", |row, _| match &row.region {
            Some(region) => Value::Text(&region.name),
            None => Value::Unknown,
        }),
        column("minor_faults", "completed minor faults", |row, _| row.faults.completed.minor.into()),
        column("major_faults", "completed major faults", |row, _| row.faults.completed.major.into()),
        column("failed_faults", "faults that failed: SIGSEGV or SIGBUS followed", |row, _| {
            row.detail(|detail| detail.failed)
        }),
        column("read_faults", "loads", |row, _| row.access(|access| access.read)),
        column("write_faults", "stores", |row, _| row.access(|access| access.write)),
        column("exec_faults", "instruction fetches", |row, _| row.access(|access| access.exec)),
        column("kernel_faults", "faults in kernel mode", |row, _| row.detail(|detail| detail.kernel)),
        column("cow_faults", "stores that a present page refused", |row, _| row.access(|access| access.cow)),
        column("refaults", "faults on pages that had been present before", |row, _| {
            row.detail(|detail| detail.refaults)
        }),
        column("uncounted_faults", "faults charged without an event", |row, _| row.uncounted.into()),
        column("latency_sum_ns", "sum of the known latencies", |row, _| {
            row.detail(|detail| detail.latency_sum)
        }),
        column("latency_max_ns", "largest known latency; empty if none is known", |row, _| {
            row.detail(|detail| detail.latency_max)
        }),
        column("mmaps", "successful calls of mmap", |row, _| row.maps.mmap.into()),
        column("munmaps", "successful calls of munmap", |row, _| row.maps.munmap.into()),
        column("mremaps", "successful calls of mremap", |row, _| row.maps.mremap.into()),
        column("mprotects", "successful calls of mprotect and pkey_mprotect", |row, _| {
            row.maps.mprotect.into()
        }),
        column("madvises", "successful calls of madvise and process_madvise", |row, _| {
            row.maps.madvise.into()
        }),
        column("brks", "calls of brk", |row, _| row.maps.brk.into()),
        column("other_maps", "successful other calls that concern the address space", |row, _| {
            row.maps.other.into()
        }),
        column("scan_ns", "time of the last scan of the pages", |row, start| {
            row.pages(|pages| pages.scanned.since(start))
        }),
        column("scanned_pages", "pages scanned", |row, _| row.pages(|pages| pages.scanned_pages)),
        column("present_pages", "pages in memory", |row, _| row.counts(|pages| pages.present)),
        column("swapped_pages", "pages in swap, or with another non-present entry", |row, _| {
            row.counts(|pages| pages.swapped)
        }),
        column("file_pages", "pages of a file or shared memory", |row, _| row.counts(|pages| pages.file)),
        column("shared_pages", "pages mapped more than once, but for the zero page", |row, _| {
            row.counts(|pages| pages.shared)
        }),
        column("exclusive_pages", "pages mapped once", |row, _| row.counts(|pages| pages.exclusive)),
        column("zero_pages", "pages that are the zero page", |row, _| row.counts(|pages| pages.zero)),
        column("ksm_pages", "pages merged by KSM", |row, _| row.counts(|pages| pages.ksm)),
        column("huge_pages", "pages mapped by a huge entry", |row, _| row.counts(|pages| pages.huge)),
        column("mthp_pages", "pages of large folios mapped page by page", |row, _| {
            row.counts(|pages| pages.mthp)
        }),
        column("hugetlb_pages", "pages of hugetlbfs", |row, _| row.counts(|pages| pages.hugetlb)),
        unknown("written_pages", "distinct pages found written in the interval"),
        unknown("accessed_pages", "distinct pages found accessed in the interval"),
        column(
            "migrated_pages",
            "pages that the kernel moved to other frames since the scan before",
            |row, _| row.pages(|pages| pages.migrated),
        ),
        column("lower_bound", "1 if a loss touches the interval: counts are at least these", |row, _| {
            u64::from(row.lower_bound).into()
        }),
        column(
            "incomplete_faults",
            "faults that ended otherwise without completing: refused, emulated, retried or unfinished",
            |row, _| row.detail(|detail| detail.incomplete),
        ),
    ];

    fn of(row: &Row) -> Option<&Self> {
        match row {
            Row::Timeline(row) => Some(row),
            Row::Fault(_) | Row::Map(_) | Row::Region(_) | Row::Loss(_) | Row::Pages(_) => None,
        }
    }
}

impl Table for FaultRow {
    const COLUMNS: &'static [Column<Self>] = &[
        column("time_ns", "completion; if it never completed, when that became known", |row, start| {
            row.fault.time.since(start).into()
        }),
        column("tgid", "process", |row, _| row.tgid.map(|tgid| tgid.0).into()),
        column("tid", "thread", |row, _| row.fault.tid.0.into()),
        column("comm", "name of the thread", |row, _| match &row.comm {
            Some(comm) => Value::Text(comm.as_bytes()),
            None => Value::Unknown,
        }),
        column("cpu", "CPU that it ended on", |row, _| row.fault.cpu.0.into()),
        column("addr", "faulting address", |row, _| row.fault.addr.into()),
        column("ip", "instruction pointer", |row, _| row.fault.ip.into()),
        column("access", "read, write or exec", |row, _| {
            let name = |access| match access {
                Access::Read => "read",
                Access::Write => "write",
                Access::Exec => "exec",
            };
            row.fault.access.map(name).into()
        }),
        column("mode", "user or kernel", |row, _| {
            Value::Word(match row.fault.mode {
                Mode::User => "user",
                Mode::Kernel => "kernel",
            })
        }),
        column(
            "kind",
            "how it ended: minor or major (completed), failed (SIGSEGV or SIGBUS followed), refused (an access of the kernel's own \
             that went on without the page), emulated (a call in the vsyscall page), retried (left to the instruction to be \
             executed again) or unfinished (had not ended when the thread did, or tracing)",
            |row, _| row.fault.kind.name().into(),
        ),
        column("latency_ns", "entry to completion", |row, _| row.fault.latency.into()),
        column("region", "number of the region that holds the address", |row, _| {
            row.place.as_ref().map(|place| place.region.0).into()
        }),
        column("offset_bytes", "distance of the address from the start of the region", |row, _| {
            row.place.as_ref().map(|place| place.offset).into()
        }),
        column(
            "outcome",
            "what the fault brought: anon, zero, file, swap, copy, reuse or hugetlb",
            |row, _| row.outcome.map(|outcome| outcome.kind.name()).into(),
        ),
        unknown("stack", "call stack"),
        column("name", "path or bracketed name of the region, as in maps", |row, _| match &row.place {
            Some(place) => Value::Text(&place.name),
            None => Value::Unknown,
        }),
        column("file_offset_bytes", "offset of the address in the file", |row, _| {
            row.place.as_ref().and_then(|place| place.file_offset).into()
        }),
        column("outcome_pages", "how many pages it brought; empty if that is not known", |row, _| {
            row.outcome.and_then(|outcome| outcome.pages).into()
        }),
        column("outcome_lag_ns", "time from the fault to the scan that tells", |row, _| {
            row.outcome.map(|outcome| outcome.lag).into()
        }),
    ];

    fn of(row: &Row) -> Option<&Self> {
        match row {
            Row::Fault(row) => Some(row),
            Row::Timeline(_) | Row::Map(_) | Row::Region(_) | Row::Loss(_) | Row::Pages(_) => None,
        }
    }
}

impl Table for Loss {
    const COLUMNS: &'static [Column<Self>] = &[
        column("start_ns", "nothing is missing before", |loss, start| loss.start.since(start).into()),
        column("end_ns", "nothing is missing after", |loss, start| {
            loss.end.map(|end| end.since(start)).into()
        }),
        column("cpu", "CPU that lost the records", |loss, _| loss.cpu.map(|cpu| cpu.0).into()),
        column("cause", "why they are missing", |loss, _| loss.cause.name().into()),
        column("count", "how many; empty if it cannot be known", |loss, _| loss.count.into()),
    ];

    fn of(row: &Row) -> Option<&Self> {
        match row {
            Row::Loss(loss) => Some(loss),
            Row::Timeline(_) | Row::Fault(_) | Row::Map(_) | Row::Region(_) | Row::Pages(_) => None,
        }
    }
}
