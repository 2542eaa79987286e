//! Feeds a recording to the pipeline that the live session feeds.
//!
//! Layer: codec. Input: a [`Recording`], a [`Sink`]. Output: the rows that the sink wants in order, then the [`Summary`].
//! Keeps: the rows are those that the live session got from the same frames.
//! Not here: what rows become (`export`, `report`).

use std::io::Read;

use super::{RecordError, Recording};
use crate::{
    event::Record,
    export::{ExportError, Sink},
    pipeline::{Options, Pipeline},
    timeline::Summary,
};

/// Why a replay stopped before the end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The recording could not be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A row could not be written.
    #[error(transparent)]
    Export(#[from] ExportError),
}

/// Runs all of `recording` through a pipeline and hands every row to `sink`; returns the totals.
///
/// Scans that the pipeline asks for are in the recording already.
pub fn replay<R: Read>(recording: &mut Recording<R>, sink: &mut dyn Sink) -> Result<Summary, ReplayError> {
    let header = recording.header();
    sink.begin(&header.host)?;
    let options = Options { stays: sink.times(), ..header.options(sink.wants()) };
    let mut pipeline = Pipeline::new(header.host.clone(), options);
    let (mut rows, mut requests) = (Vec::new(), Vec::new());
    for symbols in recording.take_symbols() {
        pipeline.push(Record::Symbols(Box::new(symbols)), &mut rows, &mut requests);
    }
    while let Some(frame) = recording.next_frame()? {
        pipeline.take(&frame, &mut rows, &mut requests);
        requests.clear();
        rows.drain(..).try_for_each(|row| sink.row(&row))?;
    }
    let summary = pipeline.finish(&mut rows);
    rows.iter().try_for_each(|row| sink.row(row))?;
    sink.end(&summary)?;
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use memtrace_ebpf::{
        Call, CallEvent, EventHeader, EventKind, FaultEvent, FaultFlags, FaultKind, JoinEvent,
    };

    use super::*;
    use crate::{
        decode::Frame,
        event::{
            Cpu, FaultCounts, HeatCell, HeatReading, HostFacts, Landmarks, Loss, LossCause, MapsReading,
            Observation, PageScan, ScanDepth, ScanReason, Seen, SpaceId, Tgid, Vma,
        },
        export::{TABLES, Table, csv::Csv},
        pagemap::{PageCategories, StateRun},
        pipeline::{Detail, FocusOptions},
        record::{Capture, Cost, End, Header, Totals, Writer},
        timeline::RowSet,
        units::{Nanos, Timestamp, VirtAddr, VirtRange},
    };

    const INTERVAL: u64 = 100_000_000;

    fn at(nanos: u64) -> Timestamp {
        Timestamp::from_nanos(1_000_000_000 + nanos)
    }

    fn range(start: u64, end: u64) -> VirtRange {
        VirtRange::new(VirtAddr::from_raw(start), VirtAddr::from_raw(end)).expect("not empty")
    }

    fn header(detail: Detail) -> Header {
        Header {
            memtrace_version: "0.1.0".to_owned(),
            host: HostFacts::sample(at(0)),
            capture: Capture {
                command: Vec::new(),
                targets: "process 42".to_owned(),
                detail,
                interval: Nanos::new(INTERVAL),
                ring_bytes: 16 << 20,
                follow_forks: true,
                follows_maps: true,
                verify: false,
                focus: FocusOptions::default(),
                gate: None,
                stacks: false,
            },
            features: Vec::new(),
            page_era: None,
        }
    }

    fn event(kind: EventKind, len: usize, nanos: u64) -> EventHeader {
        let len = u16::try_from(len).expect("a few bytes");
        EventHeader { time_ns: at(nanos).as_nanos(), tgid: 42, tid: 42, kind, len, cpu: 0 }
    }

    /// What perf writes when `range` is mapped for reading and writing, as private memory without a file.
    fn shown(nanos: u64, range: VirtRange) -> Vec<u8> {
        let (start, len) = (range.start().as_raw(), range.bytes());
        let ids = [42_u32, 42].map(u32::to_ne_bytes).concat();
        let (misc_and_size, device, prot_and_flags, cpu) = ([0_u16, 104], [0_u32; 2], [3_u32, 2], [0_u32; 2]);
        [
            &10_u32.to_ne_bytes()[..],
            &misc_and_size.map(u16::to_ne_bytes).concat(),
            &ids,
            &[start, len, start].map(u64::to_ne_bytes).concat(),
            &device.map(u32::to_ne_bytes).concat(),
            &[0_u64; 2].map(u64::to_ne_bytes).concat(),
            &prot_and_flags.map(u32::to_ne_bytes).concat(),
            b"//anon\0\0",
            &ids,
            &at(nanos).as_nanos().to_ne_bytes(),
            &cpu.map(u32::to_ne_bytes).concat(),
        ]
        .concat()
    }

    /// `mmap` gives 16 KiB, and `munmap` takes a page in the middle away.
    fn mapped() -> [Frame; 3] {
        let whole = range(0x7000_0000, 0x7000_4000);
        let call = |nanos, call, result, arg_0, arg_1| {
            let header = event(EventKind::CALL, CallEvent::LEN, nanos);
            let call = CallEvent { header, space: 1, call, result, arg_0, arg_1, ..CallEvent::default() };
            Frame::Control(call.to_bytes().to_vec())
        };
        [
            Frame::SideBand(shown(4_000, whole)),
            call(4_001, Call::MMAP, 0x7000_0000, 0, 0x4000),
            call(5_000, Call::MUNMAP, 0, 0x7000_1000, 0x1000),
        ]
    }

    /// A process that maps 16 KiB, and writes 40 pages one after the other, 10 ms apart, in 2 MiB of heap.
    fn frames() -> Vec<Frame> {
        let heap = range(0x20_0000, 0x40_0000);
        let join = JoinEvent {
            header: event(EventKind::JOIN, JoinEvent::LEN, 1),
            space: 1,
            parent_tgid: 0,
            pad: 0,
            comm: *b"demo\0\0\0\0\0\0\0\0\0\0\0\0",
        };
        let scan = |nanos, seen| {
            Frame::Observation(Observation { time: at(nanos), tgid: Tgid(42), space: SpaceId(1), seen })
        };
        let vma = Vma {
            range: heap,
            perms: *b"rw-p",
            offset: 0,
            device: (0, 0),
            inode: 0,
            name: b"[heap]".to_vec(),
        };
        let landmarks = Landmarks { start_brk: Some(heap.start()), start_stack: None };
        let mut frames = vec![
            Frame::Control(join.to_bytes().to_vec()),
            scan(
                2_000,
                Seen::Maps(MapsReading {
                    began: at(1_000),
                    vmas: vec![vma],
                    landmarks,
                    devices: Vec::new(),
                    at_exit: false,
                }),
            ),
            Frame::Tick(at(3_000)),
        ];
        frames.extend(mapped());
        for page in 0..40 {
            let time = 10_000_000 * (page + 1);
            let fault = FaultEvent {
                time_ns: at(time).as_nanos(),
                addr: heap.start().as_raw() + 4096 * page,
                ip: 0x40_1000,
                tid: 42,
                latency_low: 1_000,
                cpu: 0,
                flags: FaultFlags::ACCESS_KNOWN
                    | FaultFlags::LATENCY_KNOWN
                    | FaultFlags::USER
                    | FaultFlags::WRITE,
                kind: FaultKind::MINOR,
                latency_high: [0; 3],
                stack: 0,
            };
            frames.push(Frame::Faults(fault.to_bytes().to_vec()));
            frames.push(Frame::Tick(at(time + 5)));
            if page % 10 == 9 {
                let faults = FaultCounts { minor: 10, major: 0 };
                let cell = HeatCell { space: Some(SpaceId(1)), slot: Some(heap), faults };
                let reading = HeatReading { time: at(time + 6), cells: vec![cell] };
                frames.push(Frame::Heat(reading));
                let present = range(heap.start().as_raw(), heap.start().as_raw() + 4096 * (page + 1));
                let run = StateRun::new(present, PageCategories::PRESENT);
                frames.push(scan(
                    time + 7,
                    Seen::Pages(PageScan {
                        depth: ScanDepth::Categories,
                        began: Timestamp::default(),
                        reason: ScanReason::Heat,
                        range: heap,
                        known: run.categories,
                        runs: vec![run],
                    }),
                ));
            }
        }
        frames.push(Frame::Loss(Loss {
            start: at(310_000_000),
            end: Some(at(320_000_000)),
            cpu: Some(Cpu(1)),
            cause: LossCause::EventsRing,
            count: Some(3),
        }));
        frames.push(Frame::Tick(at(5 * INTERVAL)));
        frames
    }

    fn table(name: &str) -> &'static Table {
        TABLES.iter().find(|table| table.name == name).expect("there is such a table")
    }

    /// The CSV that a live session writes of `frames`, which it hands to the pipeline as they come, if everything is wanted.
    fn live(table: &'static Table, header: &Header, frames: &[Frame]) -> Vec<u8> {
        let mut csv = Vec::new();
        let mut sink = Csv::new(table, &mut csv);
        sink.begin(&header.host).expect("a Vec takes everything");
        let mut pipeline = Pipeline::new(header.host.clone(), header.options(RowSet::all()));
        let (mut rows, mut requests) = (Vec::new(), Vec::new());
        for record in frames.iter().flat_map(Frame::records) {
            pipeline.push(record, &mut rows, &mut requests);
        }
        let summary = pipeline.finish(&mut rows);
        for row in &rows {
            sink.row(row).expect("a Vec takes everything");
        }
        sink.end(&summary).expect("a Vec takes everything");
        drop(sink);
        csv
    }

    fn recorded(header: &Header, frames: &[Frame]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), header).expect("a Vec takes everything");
        for (index, frame) in frames.iter().enumerate() {
            writer.append(frame).expect("a Vec takes everything");
            if index % 7 == 0 {
                writer.flush().expect("a Vec takes everything");
            }
        }
        let end = End {
            ending: crate::record::Ending::Target,
            time: at(6 * INTERVAL),
            exit: None,
            rusage: None,
            totals: Totals::default(),
            cost: Cost::default(),
        };
        writer.finish(&end).expect("a Vec takes everything")
    }

    fn replayed(table: &'static Table, bytes: &[u8]) -> (Vec<u8>, Summary) {
        let mut recording = Recording::from_reader(bytes).expect("the header is whole");
        let mut csv = Vec::new();
        let summary = replay(&mut recording, &mut Csv::new(table, &mut csv)).expect("a slice can be read");
        (csv, summary)
    }

    /// The table of a recording and of its session, which are the same.
    fn same(table: &'static Table, header: &Header) -> String {
        let frames = frames();
        let (csv, _) = replayed(table, &recorded(header, &frames));
        let (csv, live) = (String::from_utf8_lossy(&csv), live(table, header, &frames));
        assert_eq!(csv, String::from_utf8_lossy(&live), "{header:?}");
        csv.into_owned()
    }

    #[test]
    fn csv_of_a_recording_is_the_csv_of_the_session() {
        for detail in [Detail::Full, Detail::Counts] {
            let header = header(detail);
            let timeline = same(table("timeline"), &header);
            assert!(timeline.lines().any(|line| line.contains("[heap]")), "{timeline}");

            let maps = same(table("maps"), &header);
            let calls = [
                "4001,42,42,mmap,0x70000000,0x70004000,rw-p,0x0,anon,,2,0x70000000,,mmap,,,,,",
                "5000,42,42,munmap,0x70001000,0x70002000,rw-p,,anon,,2,0,,munmap,,,,,",
            ];
            assert_eq!(maps.lines().skip(1).collect::<Vec<_>>(), calls);

            let regions = same(table("regions"), &header);
            assert_eq!(regions.lines().skip(1).count(), 3, "the heap and two parts: {regions}");
        }
    }

    #[test]
    fn replay_counts_what_was_recorded() {
        let (_, summary) = replayed(table("timeline"), &recorded(&header(Detail::Full), &frames()));

        assert_eq!(summary.faults.completed, FaultCounts { minor: 40, major: 0 });
        assert_eq!(summary.heat, FaultCounts { minor: 40, major: 0 });
        assert_eq!(summary.losses.len(), 1);
    }

    /// Faults of the thread 42, one record after the other, with these times and of these kinds.
    fn faults(of: &[(u64, FaultKind)]) -> Frame {
        let record = |(nanos, kind): &(u64, FaultKind)| {
            let time_ns = at(*nanos).as_nanos();
            FaultEvent { time_ns, addr: 0x20_0000, tid: 42, kind: *kind, ..FaultEvent::default() }.to_bytes()
        };
        Frame::Faults(of.iter().flat_map(record).collect())
    }

    #[test]
    fn totals_without_rows_are_those_with_all() {
        let tick = |nanos| Frame::Tick(at(nanos));
        let ends = [FaultKind::MINOR, FaultKind::MAJOR, FaultKind::FAILED, FaultKind::RETRIED];
        let others = [FaultKind::REFUSED, FaultKind::EMULATED, FaultKind::UNFINISHED];
        let each = |from| (from..).zip(ends.into_iter().chain(others)).collect::<Vec<_>>();
        let mut frames = frames();
        frames.extend([faults(&each(6 * INTERVAL)), tick(10 * INTERVAL)]);
        // Two of these come too late, and one is of a later build.
        let late = [(1, FaultKind::MINOR), (10 * INTERVAL, FaultKind::MAJOR), (2, FaultKind::FAILED)];
        let unknown = [(11 * INTERVAL, FaultKind::MINOR), (11 * INTERVAL + 1, FaultKind(200))];
        frames.extend([faults(&late), tick(10 * INTERVAL + 1), faults(&unknown), tick(15 * INTERVAL)]);

        let totals = |wants| {
            let header = header(Detail::Full);
            let mut pipeline = Pipeline::new(header.host.clone(), header.options(wants));
            let (mut rows, mut requests) = (Vec::new(), Vec::new());
            for frame in &frames {
                pipeline.take(frame, &mut rows, &mut requests);
            }
            let Summary { end, faults, heat, losses, tasks, maps, scans, .. } = pipeline.finish(&mut rows);
            (end, faults, heat, losses, tasks, maps.identity, scans.by_reason)
        };

        let (none, all) = (totals(RowSet::empty()), totals(RowSet::all()));
        assert_eq!(none, all);
        let (end, faults, _, losses, ..) = none;
        assert_eq!((end, faults.incomplete()), (at(11 * INTERVAL + 1), 5));
        assert_eq!(faults.completed, FaultCounts { minor: 42, major: 2 });
        let lost: Vec<_> = losses.iter().map(|loss| (loss.cause, loss.count)).collect();
        let expected =
            [(LossCause::EventsRing, Some(3)), (LossCause::Late, Some(2)), (LossCause::UnknownKind, Some(1))];
        assert_eq!(lost, expected);
    }

    #[test]
    fn a_torn_recording_gives_the_rows_of_its_prefix() {
        let (header, frames) = (header(Detail::Full), frames());
        let bytes = recorded(&header, &frames);
        let torn = &bytes[..bytes.len() * 2 / 3];

        let mut recording = Recording::from_reader(torn).expect("the header is whole");
        let mut prefix = Vec::new();
        while let Some(frame) = recording.next_frame().expect("a slice can be read") {
            prefix.push(frame);
        }
        let (csv, summary) = replayed(table("timeline"), torn);
        assert_eq!(csv, live(table("timeline"), &header, &prefix));
        assert_eq!(prefix[..prefix.len() - 1], frames[..prefix.len() - 1]);
        assert_eq!(summary.losses.len(), 1);
        assert_eq!(summary.losses[0].cause, LossCause::TornTail);
        let text = String::from_utf8_lossy(&csv);
        let row = |line: &str| line.split(',').map(str::to_owned).collect::<Vec<_>>();
        let (header, last) = (text.lines().next().map(row), text.lines().last().map(row));
        let at = header.and_then(|names| names.iter().position(|name| name == "lower_bound"));
        assert_eq!(at.zip(last).map(|(at, last)| last[at].clone()).as_deref(), Some("1"), "the last row");
    }
}
