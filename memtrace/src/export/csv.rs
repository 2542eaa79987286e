//! CSV, the reference form of every table.
//!
//! Layer: codec. Input: [`Row`]s. Output: RFC 4180 text: a header row, UTF-8, lines that end in LF.
//! Source: RFC 4180.
//! Keeps: addresses are `0x…`, everything else decimal; text that is no UTF-8 is written with replacements.
//! Not here: which columns there are (`tables`).

use std::{
    fmt,
    io::{self, Write as _},
};

use super::{Content, ExportError, Format, Sink, Table, Value};
use crate::{
    event::HostFacts,
    timeline::{Row, RowSet, Summary},
    units::{Hexadecimal, Timestamp},
};

/// The format.
pub const FORMAT: Format = Format {
    name: "csv",
    doc: "RFC 4180, with a header row",
    is_text: true,
    content: Content::Table(|table, output| Box::new(Csv::new(table, output))),
};

/// Writes the rows of a table.
pub struct Csv<W: io::Write> {
    table: &'static Table,
    start: Timestamp,
    fields: Fields<W>,
}

impl<W: io::Write> fmt::Debug for Csv<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Csv").field("table", &self.table.name).finish_non_exhaustive()
    }
}

impl<W: io::Write> Csv<W> {
    /// Writes the rows of `table` into `writer`.
    pub fn new(table: &'static Table, writer: W) -> Self {
        let fields = Fields { writer: csv::Writer::from_writer(writer), number: Vec::new() };
        Self { table, start: Timestamp::default(), fields }
    }
}

impl<W: io::Write> Sink for Csv<W> {
    fn wants(&self) -> RowSet {
        self.table.rows
    }

    /// Writes the header row; times will count from the start of the session on `host`.
    fn begin(&mut self, host: &HostFacts) -> Result<(), ExportError> {
        self.start = host.start;
        let names = self.table.columns().map(|column| column.name);
        self.fields.writer.write_record(names).map_err(write_error)?;
        // Who follows it sees at once that it has begun.
        self.fields.writer.flush().map_err(ExportError::Write)
    }

    fn row(&mut self, row: &Row) -> Result<(), ExportError> {
        let Self { table, start, fields } = self;
        if table.fields(row, *start, &mut |value| fields.put(value).map_err(write_error))? {
            fields.writer.write_record(None::<&[u8]>).map_err(write_error)?;
        }
        Ok(())
    }

    fn end(&mut self, _summary: &Summary) -> Result<(), ExportError> {
        self.fields.writer.flush().map_err(ExportError::Write)
    }
}

/// The fields of one row after the other.
struct Fields<W: io::Write> {
    writer: csv::Writer<W>,
    number: Vec<u8>,
}

impl<W: io::Write> Fields<W> {
    fn put(&mut self, value: Value<'_>) -> csv::Result<()> {
        self.number.clear();
        match value {
            Value::Unknown => {}
            Value::Number(number) => write!(self.number, "{number}")?,
            Value::Address(addr) => write!(self.number, "{addr}")?,
            Value::Bits(bits) => write!(self.number, "{bits:#x}")?,
            Value::Error(error) => write!(self.number, "-{error}")?,
            Value::Flags(flags) => write!(self.number, "{flags}")?,
            Value::Hex(bytes) => write!(self.number, "{}", Hexadecimal(bytes))?,
            Value::Word(word) => return self.writer.write_field(word),
            Value::Text(text) => {
                return self.writer.write_field(String::from_utf8_lossy(text).as_bytes());
            }
        }
        self.writer.write_field(&self.number)
    }
}

/// What the writer below said: rows of one table are all of one length, so `csv` itself has nothing to object to.
fn write_error(error: csv::Error) -> ExportError {
    ExportError::Write(match error.into_kind() {
        csv::ErrorKind::Io(cause) => cause,
        other => io::Error::other(format!("{other:?}")),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        event::{
            Access, Comm, Cpu, Fault, FaultCounts, FaultKind, Function, Loss, LossCause, Mode, SpaceId, Tgid,
            Tid,
        },
        export::{TABLES, TIMELINE},
        timeline::{
            AccessCounts, Backing, CodePlace, CodePosition, Departure, FaultDetail, FaultOutcome, FaultPlace,
            FaultRow, FaultTally, MapFlags, MapRow, MapTally, Module, OutcomeKind, PageCounts, PageTally,
            ProcessId, Refault, RegionId, RegionLabel, RegionSummary, Residency, TimelineRow,
        },
        units::{Nanos, PageCount, VirtAddr, VirtRange},
    };

    fn at(nanos: u64) -> Timestamp {
        Timestamp::from_nanos(5_000_000_000 + nanos)
    }

    fn host() -> HostFacts {
        HostFacts::sample(at(0))
    }

    /// The table called `name`, made of `rows`.
    fn csv(name: &str, rows: &[Row]) -> String {
        let table = TABLES.iter().find(|table| table.name == name).expect("there is such a table");
        let mut out = Vec::new();
        let mut sink = Csv::new(table, &mut out);
        sink.begin(&host()).expect("a Vec takes everything");
        for row in rows {
            sink.row(row).expect("a Vec takes everything");
        }
        drop(sink);
        String::from_utf8(out).expect("CSV is UTF-8")
    }

    fn range(start: u64, end: u64) -> VirtRange {
        VirtRange::new(VirtAddr::from_raw(start), VirtAddr::from_raw(end)).expect("not empty")
    }

    const PROCESS: ProcessId = ProcessId { tgid: Tgid(42), born: Timestamp::from_nanos(0) };

    fn timeline_row() -> TimelineRow {
        TimelineRow {
            start: at(0),
            end: at(100_000_000),
            process: Some(PROCESS),
            comm: Comm::from_text("cc1"),
            region: None,
            range: None,
            faults: FaultTally::default(),
            uncounted: None,
            maps: MapTally::default(),
            pages: None,
            residency: None,
            lower_bound: false,
        }
    }

    fn fault_row() -> FaultRow {
        FaultRow {
            fault: Fault {
                time: at(1_234),
                tid: Tid(43),
                cpu: Cpu(1),
                addr: VirtAddr::from_raw(0x7f00_0000_1010),
                ip: VirtAddr::from_raw(0x40_1000),
                access: Some(Access::Write),
                protection: Some(false),
                mode: Mode::User,
                kind: FaultKind::Minor,
                latency: Some(Nanos::new(900)),
                syscall: None,
                stack: None,
            },
            process: Some(PROCESS),
            process_comm: Some(Comm::from_text("cc1")),
            comm: Some(Comm::from_text("cc1")),
            place: Some(FaultPlace {
                region: RegionId(7),
                offset: 0x1010,
                name: Arc::from(&b"/lib/x.so"[..]),
                file_offset: Some(0x3010),
            }),
            module: Some(Module::Named(Arc::from(&b"/usr/bin/cc1"[..]))),
            function: Some(Arc::from(&b"memset"[..])),
            syscall: Some("read"),
            stack: Some(3),
            outcome: Some(FaultOutcome {
                kind: OutcomeKind::File,
                pages: Some(PageCount::new(16)),
                lag: Nanos::new(5_000),
            }),
            outcome_unknown: None,
            refault: Some(Refault { of: Departure::Advice, age: Nanos::new(77) }),
            space: Some(SpaceId(9)),
        }
    }

    #[test]
    fn headers_are_the_contract() {
        let timeline = "start_ns,end_ns,tgid,comm,region,start_addr,end_addr,perms,backing,name,\
            minor_faults,major_faults,failed_faults,read_faults,write_faults,exec_faults,\
            kernel_faults,cow_faults,refaults,uncounted_faults,latency_sum_ns,latency_max_ns,\
            mmaps,munmaps,mremaps,mprotects,madvises,brks,other_maps,scan_ns,scanned_pages,\
            present_pages,swapped_pages,file_pages,shared_pages,exclusive_pages,zero_pages,\
            ksm_pages,huge_pages,mthp_pages,hugetlb_pages,written_pages,accessed_pages,\
            migrated_pages,lower_bound,incomplete_faults,resident_pages,\
            resident_unknown_pages\n";
        let faults = "time_ns,tgid,tid,comm,cpu,addr,ip,access,mode,kind,latency_ns,region,\
            offset_bytes,outcome,stack,name,file_offset_bytes,outcome_pages,outcome_lag_ns,\
            ip_module,syscall,ip_function,outcome_unknown,refault_of,refault_age_ns,\
            space,copy_on_write\n";
        let pages = "time_ns,tgid,region,addr,pages,pfn,prev_pfn,state,prev_state,flags,order,node,cause\n";

        assert_eq!(csv("timeline", &[]), timeline);
        assert_eq!(csv("faults", &[]), faults);
        let frames = "stack,depth,address,module,build_id,file_offset_bytes,end,by_frame_pointer,\
            function,offset_bytes,source_file,line,inlined\n";
        assert_eq!(csv("frames", &[]), frames);
        assert_eq!(csv("pages", &[]), pages);
        let rss = "time_ns,space,tgid,anon_pages,file_pages,shmem_pages,swap_pages,peak_pages,\
            resident_pages,resident_unknown_pages\n";
        assert_eq!(csv("rss", &[]), rss);
        let processes = "space,tgid,parent_tgid,comm,program,argv,birth_ns,death_ns,exit_status,\
            peak_rss_pages,minor_faults,major_faults,stall_ns,lower_bound,exit_signal,\
            seen_peak_rss_pages,uncounted_faults\n";
        assert_eq!(csv("processes", &[]), processes);
        assert_eq!(csv("losses", &[]), "start_ns,end_ns,cpu,cause,count\n");
    }

    #[test]
    fn a_full_timeline_row_has_each_value_in_its_place() {
        let row = TimelineRow {
            region: Some(RegionLabel {
                id: RegionId(7),
                range: range(0x1000, 0x9000),
                perms: *b"rw-p",
                backing: Backing::File,
                name: Arc::from(&b"/tmp/a, \"b\" \xff"[..]),
                file_offset: Some(0),
            }),
            faults: FaultTally {
                completed: FaultCounts { minor: 10, major: 2 },
                detail: Some(FaultDetail {
                    failed: 3,
                    incomplete: 48,
                    access: AccessCounts { read: 4, write: 5, exec: 6, cow: 8, unknown: 0 },
                    kernel: 7,
                    refaults: 49,
                    latency_sum: Nanos::new(900),
                    latency_max: Some(Nanos::new(200)),
                }),
            },
            maps: MapTally {
                mmap: 41,
                munmap: 42,
                mremap: 43,
                mprotect: 44,
                madvise: 45,
                brk: 46,
                other: 47,
            },
            pages: Some(PageTally {
                scanned: at(90),
                scanned_pages: PageCount::new(31),
                counts: PageCounts::default()
                    .with("present", Some(32))
                    .with("swapped", Some(33))
                    .with("file", Some(34))
                    .with("shared", Some(35))
                    .with("exclusive", Some(36))
                    .with("zero", Some(37))
                    .with("ksm", None)
                    .with("huge", Some(39))
                    .with("mthp", Some(40))
                    .with("hugetlb", Some(41)),
                migrated: Some(PageCount::new(44)),
            }),
            residency: Some(Residency { pages: PageCount::new(50), unknown: PageCount::new(51) }),
            lower_bound: true,
            ..timeline_row()
        };

        let text = csv("timeline", &[Row::Timeline(row)]);
        let expected = "0,100000000,42,cc1,7,0x1000,0x9000,rw-p,file,\"/tmp/a, \"\"b\"\" \u{fffd}\",\
            10,2,3,4,5,6,7,8,49,,900,200,41,42,43,44,45,46,47,90,31,32,33,34,35,36,37,,39,40,41,,,44,1,48,50,51";
        assert_eq!(text.lines().nth(1), Some(expected));
    }

    #[test]
    fn what_is_unknown_is_an_empty_field() {
        let slot = TimelineRow { range: Some(range(0x20_0000, 0x40_0000)), ..timeline_row() };
        let uncounted = TimelineRow { uncounted: Some(9), ..timeline_row() };

        let text = csv("timeline", &[Row::Timeline(slot), Row::Timeline(uncounted)]);
        let expected = [
            "0,100000000,42,cc1,,0x200000,0x400000,,,,0,0,,,,,,,,,,,0,0,0,0,0,0,0,,,,,,,,,,,,,,,,0,,,",
            "0,100000000,42,cc1,,,,,,,0,0,,,,,,,,9,,,0,0,0,0,0,0,0,,,,,,,,,,,,,,,,0,,,",
        ];
        assert_eq!(text.lines().skip(1).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_fault_is_one_row() {
        let bare = FaultRow {
            fault: Fault { access: None, latency: None, kind: FaultKind::Failed, ..fault_row().fault },
            process: None,
            process_comm: None,
            comm: None,
            place: None,
            module: None,
            function: None,
            syscall: None,
            stack: None,
            outcome: None,
            outcome_unknown: None,
            refault: None,
            space: None,
        };

        let text = csv("faults", &[Row::Fault(fault_row()), Row::Fault(bare)]);
        let expected = [
            "1234,42,43,cc1,1,0x7f0000001010,0x401000,write,user,minor,900,7,4112,file,3,/lib/x.so,12304,16,5000,/usr/bin/cc1,read,memset,,advice,77,9,0",
            "1234,,43,,1,0x7f0000001010,0x401000,,user,failed,,,,,,,,,,,,,,,,,",
        ];
        assert_eq!(text.lines().skip(1).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_call_is_one_row_of_maps() {
        let mapped = MapRow {
            range: Some(range(0x7000, 0xb000)),
            perms: Some(*b"rw-p"),
            flags: Some(MapFlags::Map(0x22)),
            backing: Some(Backing::Anon),
            name: Some(Arc::default()),
            region: Some(RegionId(7)),
            result: Some(Ok(0x7000)),
            gives_address: true,
            stack: Some(3),
            caller: Some(CodePlace {
                module: Some(Module::Named(Arc::from(&b"/lib/libc.so.6"[..]))),
                position: CodePosition::InFile(0x1000),
                build_id: None,
                functions: Arc::new([Function {
                    name: Some(Arc::from(&b"mmap"[..])),
                    ..Function::default()
                }]),
            }),
            ..MapRow::new(at(1_234), (Tgid(42), Tid(43)), "mmap")
        };
        let refused = MapRow {
            range: Some(range(0x7000, 0x8000)),
            result: Some(Err(22)),
            ..MapRow::new(at(2_000), (Tgid(42), Tid(43)), "munmap")
        };
        let exit = MapRow::new(at(3_000), (Tgid(42), Tid(42)), "exit");

        let text = csv("maps", &[Row::Map(mapped), Row::Map(refused), Row::Map(exit)]);
        let expected = [
            "time_ns,tgid,tid,action,start_addr,end_addr,perms,flags,backing,name,region,result,stack,\
             syscall,ip_module,ip_function,child_tgid,program,status",
            "1234,42,43,mmap,0x7000,0xb000,rw-p,MAP_PRIVATE|MAP_ANONYMOUS,anon,,7,0x7000,3,mmap,/lib/libc.so.6,mmap,,,",
            "2000,42,43,munmap,0x7000,0x8000,,,,,,-22,,munmap,,,,,",
            "3000,42,42,exit,,,,,,,,,,,,,,,",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_region_is_one_row() {
        let died = RegionSummary {
            process: PROCESS,
            space: SpaceId(1),
            label: RegionLabel {
                id: RegionId(7),
                range: range(0x1000, 0x9000),
                perms: *b"r-xp",
                backing: Backing::File,
                name: Arc::from(&b"/bin/cc1"[..]),
                file_offset: Some(0x2000),
            },
            file: Some(((8, 1), 5)),
            build_id: Some(Arc::from([0x0a, 0xbc])),
            born: at(10),
            died: Some(at(90)),
            parent: Some(RegionId(3)),
            faults: FaultCounts { minor: 5, major: 2 },
            latency_sum: Nanos::new(900),
            peak_present: Some(PageCount::new(8)),
            pages: None,
            scans: std::collections::BTreeMap::new(),
            lower_bound: true,
        };
        let lives = RegionSummary {
            build_id: None,
            died: None,
            parent: None,
            peak_present: None,
            lower_bound: false,
            ..died.clone()
        };

        let text = csv("regions", &[Row::Region(died), Row::Region(lives)]);
        let expected = [
            "region,tgid,birth_ns,death_ns,start_addr,end_addr,perms,backing,name,parent_region,\
             peak_present_pages,minor_faults,major_faults,latency_sum_ns,lower_bound,file_offset_bytes,build_id,\
             last_present_pages",
            "7,42,10,90,0x1000,0x9000,r-xp,file,/bin/cc1,3,8,5,2,900,1,8192,0abc,",
            "7,42,10,,0x1000,0x9000,r-xp,file,/bin/cc1,,,5,2,900,0,8192,,",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_reader_that_has_gone_is_the_cause() {
        /// Takes nothing.
        #[derive(Debug)]
        struct Gone;

        impl io::Write for Gone {
            fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let mut sink = Csv::new(TIMELINE, Gone);
        let row = Row::Timeline(timeline_row());
        let outcome = (0..10_000).try_for_each(|_| sink.row(&row));

        let Err(ExportError::Write(cause)) = outcome else { panic!("nobody reads: {outcome:?}") };
        assert_eq!(cause.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_table_takes_only_its_own_rows() {
        let loss =
            Loss { start: at(10), end: Some(at(20)), cpu: None, cause: LossCause::TornTail, count: None };
        let rows = [Row::Fault(fault_row()), Row::Loss(loss), Row::Timeline(timeline_row())];

        assert_eq!(csv("losses", &rows), "start_ns,end_ns,cpu,cause,count\n10,20,,torn_tail,\n");
    }
}
