//! Recordings: whole, cut and damaged.

use std::io::Cursor;

use memtrace_ebpf::{FaultEvent, FaultFlags, FaultKind};
use proptest::prelude::*;

use super::*;
use crate::{
    decode::Frame,
    event::{
        Cpu, FileKind, HeatCell, HeatReading, Landmarks, Loss, LossCause, MapsReading, Observation, PageScan,
        ReclaimReading, RssCounters, RssReading, ScanDepth, ScanReason, Seen, SpaceId, Tgid, Vma,
    },
    pagemap::{
        FlagsEra, PageCategories, PageEra, PageFlags, PageWords, PagemapEntry, PagemapEra, StateRun,
        SwapLayout,
    },
    units::{PageCount, VirtAddr, VirtRange},
};

mod lasting;

const START: Timestamp = Timestamp::from_nanos(1_000_000_000);

fn header() -> Header {
    Header {
        memtrace_version: "0.1.0".to_owned(),
        host: HostFacts::sample(START),
        capture: Capture {
            command: vec!["ls".to_owned(), "-l".to_owned()],
            targets: "ls -l".to_owned(),
            detail: Detail::Full,
            interval: Nanos::new(100_000_000),
            ring_bytes: 16 << 20,
            follow_forks: true,
            follows_maps: true,
            verify: false,
            focus: FocusOptions::default(),
            gate: Some(FaultCounts { minor: 90, major: 1 }),
            stacks: false,
        },
        features: vec![Feature {
            name: "pagemap_scan".to_owned(),
            state: Availability::Missing { since: "Linux 6.7".to_owned() },
        }],
        page_era: Some(PageEra {
            pagemap: Some(PagemapEra::V6_15),
            flags: FlagsEra::V6_12,
            swap: SwapLayout::new(1, 3, 4, 1),
            scan: PageCategories::PRESENT | PageCategories::GUARD,
        }),
    }
}

fn end() -> End {
    End {
        time: START.after(Nanos::new(9_000_000_000)),
        ending: Ending::Target,
        exit: Some(ExitReason::Signal(11)),
        rusage: Some(FaultCounts { minor: 100, major: 2 }),
        totals: Totals::default(),
        cost: Cost::default(),
    }
}

/// A recording with a chunk for each of `chunks`.
fn recorded(chunks: &[Vec<Frame>]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), &header()).expect("a Vec takes everything");
    for frames in chunks {
        for frame in frames {
            writer.append(frame).expect("a Vec takes everything");
        }
        writer.flush().expect("a Vec takes everything");
    }
    writer.finish(&end()).expect("a Vec takes everything")
}

/// The frames of a recording, and the recording behind the last of them.
type WhatIsLeft = (Vec<Frame>, Recording<Cursor<Vec<u8>>>);

/// All that can be read of `bytes`.
fn read(bytes: &[u8]) -> Result<WhatIsLeft, RecordError> {
    let mut recording = Recording::from_reader(Cursor::new(bytes.to_vec()))?;
    let mut frames = Vec::new();
    while let Some(frame) = recording.next_frame()? {
        frames.push(frame);
    }
    Ok((frames, recording))
}

fn at(nanos: u64) -> Timestamp {
    START.after(Nanos::new(nanos))
}

fn tick(nanos: u64) -> Frame {
    Frame::Tick(at(nanos))
}

/// Whether `frame` says that the recording has a gap of unknown size here.
fn is_gap(frame: &Frame) -> bool {
    matches!(frame, Frame::Loss(Loss { cause: LossCause::TornTail, count: None, .. }))
}

fn fault(nanos: u64) -> FaultEvent {
    FaultEvent {
        time_ns: at(nanos).as_nanos(),
        addr: 0x7f00_0000_0000,
        ip: 0x40_1000,
        tid: 77,
        latency_low: 900,
        cpu: 1,
        flags: FaultFlags::WRITE | FaultFlags::USER,
        kind: FaultKind::MINOR,
        latency_high: [0; 3],
        stack: 0,
    }
}

/// Three chunks of one fault and one tick each, a second apart.
fn three_chunks() -> Vec<Vec<Frame>> {
    let chunk = |second: u64| {
        let time = second * 1_000_000_000;
        vec![Frame::Faults(fault(time).to_bytes().to_vec()), tick(time + 500_000_000)]
    };
    (1..=3).map(chunk).collect()
}

fn frame() -> impl Strategy<Value = Frame> {
    let time = any::<u64>().prop_map(Timestamp::from_nanos);
    let range = (0..1_u64 << 47, 1..1_u64 << 30).prop_map(|(start, len)| {
        VirtRange::new(VirtAddr::from_raw(start), VirtAddr::from_raw(start + len))
            .expect("the end lies behind the start")
    });
    let faults =
        proptest::collection::vec((any::<[u64; 3]>(), any::<[u32; 2]>()), 0..20).prop_map(|faults| {
            let event = |([time_ns, addr, ip], [tid, latency_low]): ([u64; 3], [u32; 2])| FaultEvent {
                time_ns,
                addr,
                ip,
                tid,
                latency_low,
                ..FaultEvent::default()
            };
            Frame::Faults(faults.into_iter().flat_map(|fault| event(fault).to_bytes()).collect())
        });
    let cell = (any::<Option<u64>>(), proptest::option::of(range.clone()), any::<[u64; 2]>()).prop_map(
        |(space, slot, [minor, major])| HeatCell {
            space: space.map(SpaceId),
            slot,
            faults: FaultCounts { minor, major },
        },
    );
    let heat = (time.clone(), proptest::collection::vec(cell, 0..4))
        .prop_map(|(time, cells)| Frame::Heat(HeatReading { time, cells }));
    let reclaim = (time.clone(), any::<[u64; 2]>())
        .prop_map(|(time, [swap_backed, file])| Frame::Reclaim(ReclaimReading { time, swap_backed, file }));
    let words = any::<(u64, Option<u64>)>().prop_map(|(entry, flags)| PageWords {
        entry: PagemapEntry::from_raw(entry),
        flags: flags.map(PageFlags::from_bits_retain),
    });
    let run = (range.clone(), any::<u64>(), proptest::option::of(words)).prop_map(|(range, bits, words)| {
        StateRun { range, categories: PageCategories::from_bits_retain(bits), words }
    });
    let vma = (range.clone(), any::<([u8; 4], u64, (u32, u32), u64)>(), any::<Vec<u8>>()).prop_map(
        |(range, (perms, offset, device, inode), name)| Vma { range, perms, offset, device, inode, name },
    );
    let maps = (time.clone(), proptest::collection::vec(vma, 0..4), any::<[Option<u64>; 2]>()).prop_map(
        |(began, vmas, landmarks)| {
            let [start_brk, start_stack] = landmarks.map(|addr| addr.map(VirtAddr::from_raw));
            let devices = vec![((0, 1), FileKind::SharedMemory), ((0, 44), FileKind::Other)];
            Seen::Maps(MapsReading {
                began,
                vmas,
                landmarks: Landmarks { start_brk, start_stack },
                devices,
                at_exit: false,
            })
        },
    );
    let seen = prop_oneof![
        Just(Seen::Nothing),
        maps,
        (time.clone(), proptest::collection::vec(run, 0..4)).prop_map(|(began, mut runs)| {
            runs.sort_by_key(|run| run.range.start());
            runs.dedup_by(|run, before| run.range.start() < before.range.end());
            let all = VirtRange::new(VirtAddr::default(), VirtAddr::from_raw(1 << 48)).expect("not empty");
            let (reason, known, depth) =
                (ScanReason::Population, PageCategories::all(), ScanDepth::Categories);
            Seen::Pages(PageScan { began, reason, range: all, known, depth, runs })
        }),
        (any::<u64>(), proptest::option::of(any::<[u64; 5]>())).prop_map(|(pages, counters)| {
            let counters = counters.map(|counters| {
                let [anon, file, shmem, swap, peak] = counters.map(PageCount::new);
                RssCounters { anon, file, shmem, swap, peak }
            });
            Seen::Resident(RssReading { resident: PageCount::new(pages), counters })
        }),
    ];
    let observation =
        (time.clone(), any::<u32>(), any::<u64>(), seen).prop_map(|(time, tgid, space, seen)| {
            Frame::Observation(Observation { time, tgid: Tgid(tgid), space: SpaceId(space), seen })
        });
    let loss = (time.clone(), time.clone(), any::<Option<u32>>(), any::<Option<u64>>()).prop_map(
        |(start, end, cpu, count)| {
            let cause = LossCause::EventsRing;
            Frame::Loss(Loss { start, end: Some(end), cpu: cpu.map(Cpu), cause, count })
        },
    );
    prop_oneof![
        faults,
        any::<Vec<u8>>().prop_map(Frame::Faults),
        any::<Vec<u8>>().prop_map(Frame::Control),
        any::<Vec<u8>>().prop_map(Frame::SideBand),
        heat,
        reclaim,
        observation,
        loss,
        time.prop_map(Frame::Tick),
    ]
}

proptest! {
    #[test]
    fn frames_come_back_as_they_were(
        chunks in proptest::collection::vec(proptest::collection::vec(frame(), 0..12), 0..4),
    ) {
        let (frames, recording) = read(&recorded(&chunks)).expect("it is whole");

        prop_assert_eq!(frames, chunks.concat());
        prop_assert!(recording.recovery().complete);
    }

    #[test]
    fn garbage_behind_the_header_does_not_panic(garbage: Vec<u8>) {
        let whole = recorded(&[]);
        let head_only = &whole[..whole.len() - end_len()];

        let (frames, recording) = read(&[head_only, &garbage].concat()).expect("the header is whole");

        prop_assert!(frames.len() == 1 && is_gap(&frames[0]));
        prop_assert_eq!(recording.recovery().bytes_lost, garbage.len() as u64);
    }
}

/// Bytes of the end mark with its framing.
fn end_len() -> usize {
    let bytes = recorded(&[]);
    let starts = |at: &usize| bytes[*at..].starts_with(b"\xa9mtc");
    bytes.len() - (0..bytes.len()).rfind(starts).expect("there are two chunks")
}

#[test]
fn header_and_end_come_back_as_they_were() {
    let (_, recording) = read(&recorded(&three_chunks())).expect("it is whole");

    assert_eq!(recording.header(), &header());
    assert_eq!(recording.end(), Some(&end()));
    let expected = Recovery { chunks_good: 5, chunks_lost: 0, bytes_lost: 0, complete: true };
    assert_eq!(recording.recovery(), expected);
}

#[test]
fn a_scan_at_a_terabyte_of_present_pages_comes_back_and_is_as_large_as_its_slots() {
    let range = VirtRange::new(VirtAddr::default(), VirtAddr::from_raw(1 << 40)).expect("not empty");
    let run = StateRun::new(range, PageCategories::PRESENT);
    let seen = Seen::Pages(PageScan {
        began: at(0),
        reason: ScanReason::Rotation,
        range,
        known: run.categories,
        depth: ScanDepth::Categories,
        runs: vec![run],
    });
    let frame = Frame::Observation(Observation { time: at(1), tgid: Tgid(1), space: SpaceId(1), seen });

    let bytes = recorded(&[vec![frame.clone()]]);

    // 2^19 slots of 32 bytes each, by 64.
    assert!(bytes.len() >= 1 << 18, "{} bytes", bytes.len());
    assert_eq!(read(&bytes).expect("the header is whole").0[0], frame);
}

#[test]
fn a_recording_cut_at_any_byte_gives_its_prefix_and_one_loss() {
    let chunks = three_chunks();
    let bytes = recorded(&chunks);
    let frames = chunks.concat();

    let mut longest = 0;
    for len in 0..bytes.len() {
        match read(&bytes[..len]) {
            Ok((read, recording)) => {
                let (gap, prefix) = read.split_last().expect("the loss at least");
                assert!(is_gap(gap), "cut at {len}");
                assert_eq!(prefix, &frames[..prefix.len()], "cut at {len}");
                assert!(!recording.recovery().complete, "cut at {len}");
                longest = longest.max(prefix.len());
            }
            Err(RecordError::Empty) => assert_eq!(len, 0),
            Err(RecordError::TornHeader) => assert!(len > 0, "cut at {len}"),
            Err(error) => panic!("cut at {len}: {error}"),
        }
    }
    assert_eq!(longest, frames.len());
}

#[test]
fn a_flipped_byte_in_a_chunk_loses_just_that_chunk() {
    let chunks = three_chunks();
    let bytes = recorded(&chunks);
    let starts: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"\xa9mtc")).collect();
    let [_header, _first, second, third, _end] = starts[..] else {
        panic!("five chunks, not {starts:?}");
    };

    for at in second..third {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        let (frames, recording) = read(&damaged).expect("the header is whole");

        let loss = Frame::Loss(Loss {
            // The first chunk's tick and the third one's fault, each 250 ms wider: the reordering window.
            start: at_ms(1_250),
            end: Some(at_ms(3_250)),
            cpu: None,
            cause: LossCause::TornTail,
            count: None,
        });
        assert_eq!(frames, [&chunks[0][..], &[loss], &chunks[2]].concat(), "byte {at}");
        let bytes_lost = (third - second) as u64;
        let expected = Recovery { chunks_good: 4, chunks_lost: 1, bytes_lost, complete: false };
        assert_eq!(recording.recovery(), expected, "byte {at}");
        assert_eq!(recording.end(), Some(&end()), "byte {at}");
    }
}

fn at_ms(millis: u64) -> Timestamp {
    at(millis * 1_000_000)
}

#[test]
fn a_file_that_is_no_recording_is_distinguished_from_a_torn_one() {
    assert!(matches!(read(b""), Err(RecordError::Empty)));
    assert!(matches!(read(b"#!/bin/sh\n"), Err(RecordError::NotARecording)));
    assert!(matches!(read(b"memt"), Err(RecordError::TornHeader)));
    assert!(matches!(read(b"memtrace\xff\0\0\0"), Err(RecordError::Format { found: 255 })));
}

#[test]
fn a_full_disk_is_named() {
    /// Takes `room` bytes.
    struct Disk {
        room: usize,
    }

    impl io::Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match bytes.len().min(self.room) {
                0 => Err(io::ErrorKind::StorageFull.into()),
                len => {
                    self.room -= len;
                    Ok(len)
                }
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let mut writer = Writer::new(Disk { room: 2_000 }, &header()).expect("room for the header");
    let outcome = (0..1_000).try_for_each(|second| {
        writer.append(&tick(second))?;
        writer.flush()
    });

    let Err(RecordError::Write(cause)) = outcome else {
        panic!("the disk is full: {outcome:?}");
    };
    assert_eq!(cause.kind(), io::ErrorKind::StorageFull);
}

#[test]
fn a_page_touch_storm_takes_at_most_six_bytes_a_fault() {
    const FAULTS: u64 = 1 << 18;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    // 1500 ns within 200, without a pattern.
    let mut jitter = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        1_300 + random % 401
    };
    let mut time = 0;
    let mut touched = [0; 2];
    let mut writer = Writer::new(Vec::new(), &header()).expect("a Vec takes everything");
    for _drain in 0..FAULTS / 4_096 {
        let mut frame = Vec::new();
        for _fault in 0..4_096 {
            time += jitter();
            let thread = (jitter() & 1) as u32;
            touched[thread as usize] += 4_096;
            let event = FaultEvent {
                addr: (u64::from(thread) << 40) + touched[thread as usize],
                tid: 1_000 + thread,
                cpu: u16::from(thread == 1),
                latency_low: u32::try_from(jitter()).expect("a few microseconds"),
                ..fault(time)
            };
            frame.extend(event.to_bytes());
        }
        writer.append(&Frame::Faults(frame)).expect("a Vec takes everything");
    }
    let bytes = writer.finish(&end()).expect("a Vec takes everything");

    let tenths = bytes.len() as u64 * 10 / FAULTS;
    assert!(tenths <= 60, "{tenths} tenths of a byte for each fault");
}
