//! Feeds a recording to the pipeline that the live session feeds.
//!
//! Layer: codec. Input: a [`Recording`]. Output: [`Row`]s in order, then the [`Summary`].
//! Keeps: the rows are those that the live session got from the same frames.
//! Not here: what rows become (`export`, `report`).

use std::io::Read;

use super::{RecordError, Recording};
use crate::{
    pipeline::{Options, Pipeline},
    timeline::{Row, Summary},
};

/// Runs all of `recording` through a pipeline and hands every row to `sink`.
///
/// Looks that the pipeline asks for are in the recording already.
pub fn replay<R, E>(
    recording: &mut Recording<R>,
    options: Options,
    mut sink: impl FnMut(&Row) -> Result<(), E>,
) -> Result<Summary, E>
where
    R: Read,
    E: From<RecordError>,
{
    let mut pipeline = Pipeline::new(recording.header().host.clone(), options);
    let (mut rows, mut requests) = (Vec::new(), Vec::new());
    while let Some(frame) = recording.next_frame()? {
        for record in frame.records() {
            pipeline.push(record, &mut rows, &mut requests);
            requests.clear();
        }
        rows.drain(..).try_for_each(|row| sink(&row))?;
    }
    let summary = pipeline.finish(&mut rows);
    rows.iter().try_for_each(&mut sink)?;
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use memtrace_ebpf::{ABI_VERSION, EventHeader, EventKind, FaultEvent, FaultFlags, FaultKind, JoinEvent};

    use super::*;
    use crate::{
        decode::Frame,
        event::{
            Cpu, FaultCounts, HeatCell, HeatReading, HostFacts, Loss, LossCause, Observation, PageLook, Seen,
            SpaceId, Tgid, Vma,
        },
        export::csv::CsvTimeline,
        pagemap::{PageCategories, StateRun},
        pipeline::Detail,
        record::{Capture, Cost, End, Header, Totals, Writer},
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
            abi: ABI_VERSION,
            memtrace_version: "0.1.0".to_owned(),
            host: HostFacts::sample(at(0)),
            capture: Capture {
                command: Vec::new(),
                targets: "process 42".to_owned(),
                detail,
                interval: Nanos::new(INTERVAL),
                ring_bytes: 16 << 20,
                follow_forks: true,
                gate: None,
            },
            features: Vec::new(),
        }
    }

    /// A process that writes 40 pages one after the other, 10 ms apart, in 2 MiB of heap.
    fn frames() -> Vec<Frame> {
        let heap = range(0x20_0000, 0x40_0000);
        let join = JoinEvent {
            header: EventHeader {
                time_ns: at(1).as_nanos(),
                tgid: 42,
                tid: 42,
                kind: EventKind::JOIN,
                len: u16::try_from(JoinEvent::LEN).expect("a few bytes"),
                cpu: 0,
            },
            space: 1,
            parent_tgid: 0,
            pad: 0,
            comm: *b"demo\0\0\0\0\0\0\0\0\0\0\0\0",
        };
        let look = |nanos, seen| {
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
        let mut frames = vec![
            Frame::Control(join.to_bytes().to_vec()),
            look(2_000, Seen::Maps(vec![vma])),
            Frame::Tick(at(3_000)),
        ];
        for page in 0..40 {
            let time = 10_000_000 * (page + 1);
            let fault = FaultEvent {
                time_ns: at(time).as_nanos(),
                addr: heap.start().as_raw() + 4096 * page,
                ip: 0x40_1000,
                tid: 42,
                latency_ns: 1_000,
                cpu: 0,
                flags: FaultFlags::ACCESS_KNOWN
                    | FaultFlags::LATENCY_KNOWN
                    | FaultFlags::USER
                    | FaultFlags::WRITE,
                kind: FaultKind::MINOR,
                pad: [0; 3],
            };
            frames.push(Frame::Faults(fault.to_bytes().to_vec()));
            frames.push(Frame::Tick(at(time + 5)));
            if page % 10 == 9 {
                let faults = FaultCounts { minor: 10, major: 0 };
                let cell = HeatCell { space: Some(SpaceId(1)), slot: Some(heap), faults };
                let reading = HeatReading { time: at(time + 6), cells: vec![cell] };
                frames.push(Frame::Heat(reading));
                let present = range(heap.start().as_raw(), heap.start().as_raw() + 4096 * (page + 1));
                let run = StateRun { range: present, categories: PageCategories::PRESENT };
                frames.push(look(
                    time + 7,
                    Seen::Pages(PageLook { range: heap, told: run.categories, runs: vec![run] }),
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

    /// The CSV that a live session writes of `frames`, which it hands to the pipeline as they come.
    fn live(header: &Header, frames: &[Frame]) -> Vec<u8> {
        let mut csv = Vec::new();
        let mut table = CsvTimeline::new(&mut csv, &header.host).expect("a Vec takes everything");
        let mut pipeline = Pipeline::new(header.host.clone(), header.capture.options(false));
        let (mut rows, mut requests) = (Vec::new(), Vec::new());
        for record in frames.iter().flat_map(Frame::records) {
            pipeline.push(record, &mut rows, &mut requests);
        }
        let _summary = pipeline.finish(&mut rows);
        for row in &rows {
            table.row(row).expect("a Vec takes everything");
        }
        table.finish().expect("a Vec takes everything");
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

    fn replayed(bytes: &[u8]) -> (Vec<u8>, Summary) {
        let mut recording = Recording::from_reader(bytes).expect("the header is whole");
        let mut csv = Vec::new();
        let mut table = CsvTimeline::new(&mut csv, &recording.header().host).expect("a Vec takes everything");
        let options = recording.header().capture.options(false);
        let summary = replay(&mut recording, options, |row| {
            table.row(row).expect("a Vec takes everything");
            Ok::<_, RecordError>(())
        });
        let summary = summary.expect("a slice can be read");
        table.finish().expect("a Vec takes everything");
        (csv, summary)
    }

    #[test]
    fn csv_of_a_recording_is_the_csv_of_the_session() {
        for detail in [Detail::Full, Detail::Counts] {
            let (header, frames) = (header(detail), frames());

            let (csv, _) = replayed(&recorded(&header, &frames));
            let (csv, live) = (String::from_utf8_lossy(&csv), live(&header, &frames));
            assert_eq!(csv, String::from_utf8_lossy(&live), "{detail:?}");
            assert!(csv.lines().any(|line| line.contains("[heap]")), "{csv}");
        }
    }

    #[test]
    fn replay_counts_what_was_recorded() {
        let (_, summary) = replayed(&recorded(&header(Detail::Full), &frames()));

        assert_eq!(summary.faults.completed, FaultCounts { minor: 40, major: 0 });
        assert_eq!(summary.heat, FaultCounts { minor: 40, major: 0 });
        assert_eq!(summary.losses.len(), 1);
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
        let (csv, summary) = replayed(torn);
        assert_eq!(csv, live(&header, &prefix));
        assert_eq!(prefix[..prefix.len() - 1], frames[..prefix.len() - 1]);
        assert_eq!(summary.losses.len(), 1);
        assert_eq!(summary.losses[0].cause, LossCause::TornTail);
        assert!(String::from_utf8_lossy(&csv).ends_with(",1\n"), "the last row is a lower bound");
    }
}
