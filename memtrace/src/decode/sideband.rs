//! Walks the side-band of perf: VMAs that a call, a fault or exec has just made, grown or changed.
//!
//! Layer: core. Input: `PERF_RECORD_*` byte for byte, each with the trailer of `sample_id_all` for time and CPU.
//! Output: [`Record`]s, whose VMAs look as maps prints them, but for what the kernel says otherwise here:
//!
//! * the name is empty where maps has `[anon:…]` of `PR_SET_VMA`, `/dev/zero (deleted)` where it has
//!   `[anon_shmem:…]`, and empty for the heap until it grows a second time;
//! * the path is as the task itself sees it under its root, where maps shows it under the root of its reader;
//! * a path of 4088 bytes or more is `//toolong`, and one for which there was no memory `//enomem`: then device and
//!   inode are 0 because they are unknown;
//! * names of what is no file end after 15 bytes.
//!
//! Source: `include/uapi/linux/perf_event.h`; `perf_event_mmap_event` of `kernel/events/core.c` (Linux 6.18).
//! Keeps: records of other types are skipped by their size; what cannot be read is a loss, never silence.
//! Not here: reading rings (`sys`, `live`), which VMAs a new one replaces (`region`).
#![forbid(unsafe_code)]

use super::undecodable;
use crate::{
    event::{
        Cpu, FileKind, Loss, LossCause, MapAction, MapEvent, Record, ReportedVma, Tgid, Tid, Vma,
        flags::MAP_HUGETLB,
    },
    units::{Timestamp, VirtAddr, VirtRange},
};

/// The records in `bytes`, in order.
pub(super) fn records(bytes: &[u8]) -> impl Iterator<Item = Record> {
    Walk { rest: bytes, last: None }
}

const PERF_RECORD_LOST: u32 = 2;
const PERF_RECORD_MMAP2: u32 = 10;

/// Bytes of `struct perf_event_header`: type (u32), misc (u16), size of the whole record (u16).
const HEADER_LEN: usize = 8;

/// Walks records by their sizes.
struct Walk<'a> {
    rest: &'a [u8],
    /// Trailer of the record before.
    last: Option<Trailer>,
}

impl Iterator for Walk<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        while !self.rest.is_empty() {
            let Some(RawRecord { kind, body, trailer, rest }) = RawRecord::split(self.rest) else {
                // Without a size there is no way to the next record.
                self.rest = &[];
                return Some(Record::Loss(Loss {
                    start: self.last.map_or(Timestamp::default(), |last| last.time),
                    end: None,
                    cpu: None,
                    cause: LossCause::UnknownKind,
                    count: None,
                }));
            };
            self.rest = rest;
            let last = self.last.replace(trailer);
            let record = match kind {
                PERF_RECORD_MMAP2 => map(body, trailer.time),
                PERF_RECORD_LOST => lost(body, last, trailer),
                _ => continue,
            };
            return Some(record.unwrap_or_else(|| undecodable(trailer.time)));
        }
        None
    }
}

/// A record, cut where its parts meet.
struct RawRecord<'a> {
    kind: u32,
    body: &'a [u8],
    trailer: Trailer,
    /// What follows it.
    rest: &'a [u8],
}

/// What every record ends in.
#[derive(Clone, Copy)]
struct Trailer {
    time: Timestamp,
    cpu: Cpu,
}

impl<'a> RawRecord<'a> {
    /// The first record in `bytes`; `None` if they end within it or it is too short to be one.
    fn split(bytes: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let (kind, _misc, size) = (fields.u32()?, fields.u16()?, usize::from(fields.u16()?));
        let (record, rest) = bytes.split_at_checked(size)?;
        let (record, trailer) = Trailer::split_off(record)?;
        Some(Self { kind, body: record.get(HEADER_LEN..)?, trailer, rest })
    }
}

impl Trailer {
    /// Process and thread (u32 each), time (u64), CPU and a reserved word (u32 each), in bytes.
    const LEN: usize = 24;

    /// Parts `record` from its trailer.
    fn split_off(record: &[u8]) -> Option<(&[u8], Self)> {
        let (record, trailer) = record.split_at(record.len().checked_sub(Self::LEN)?);
        let mut fields = Fields(trailer);
        let _process_and_thread = fields.u64()?;
        let time = Timestamp::from_nanos(fields.u64()?);
        Some((record, Self { time, cpu: Cpu(fields.u32()?) }))
    }
}

/// The body of a `PERF_RECORD_MMAP2`; `None` if it is too short or its range is none.
fn map(body: &[u8], time: Timestamp) -> Option<Record> {
    let mut fields = Fields(body);
    let (process, thread) = (Tgid(fields.u32()?), Tid(fields.u32()?));
    let (start, len, offset) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let device = (fields.u32()?, fields.u32()?);
    let (inode, _generation) = (fields.u64()?, fields.u64()?);
    let (prot, flags) = (fields.u32()?, fields.u32()?);
    let name = fields.0.split(|byte| *byte == 0).next()?;
    // The first System V segment has the inode 0, but a device.
    let has_file = device != (0, 0) || inode != 0 || matches!(name, b"//toolong" | b"//enomem");
    let vma = Vma {
        range: VirtRange::new(VirtAddr::from_raw(start), VirtAddr::from_raw(start.checked_add(len)?))?,
        perms: perms(prot, flags),
        // Of anonymous memory the kernel says here from which address on it was mapped first.
        offset: if has_file { offset } else { 0 },
        device,
        inode,
        name: if name == b"//anon" { Vec::new() } else { escape(name) },
    };
    let kind = (u64::from(flags) & MAP_HUGETLB != 0).then_some(FileKind::Hugetlb);
    let action = MapAction::Shown(ReportedVma { vma, kind });
    Some(Record::Map(Box::new(MapEvent { time, tgid: process, tid: thread, action })))
}

/// The body of a `PERF_RECORD_LOST`, which the kernel writes when there is room in the ring again.
///
/// The loss began after the record before, if that is of the same ring; else after one that is not at hand.
fn lost(body: &[u8], last: Option<Trailer>, trailer: Trailer) -> Option<Record> {
    let mut fields = Fields(body);
    let (_id, count) = (fields.u64()?, fields.u64()?);
    let before = last.filter(|last| last.cpu == trailer.cpu);
    Some(Record::Loss(Loss {
        start: before.map_or(Timestamp::default(), |last| last.time),
        end: Some(trailer.time),
        cpu: Some(trailer.cpu),
        cause: LossCause::SideBand,
        count: Some(count),
    }))
}

/// The four characters of maps from `PROT_*` and `MAP_*`.
fn perms(prot: u32, flags: u32) -> [u8; 4] {
    const PROT_READ: u32 = 1;
    const PROT_WRITE: u32 = 2;
    const PROT_EXEC: u32 = 4;
    const MAP_SHARED: u32 = 1;
    let letter = |bit, letter| if prot & bit == 0 { b'-' } else { letter };
    let sharing = if flags & MAP_SHARED == 0 { b'p' } else { b's' };
    [letter(PROT_READ, b'r'), letter(PROT_WRITE, b'w'), letter(PROT_EXEC, b'x'), sharing]
}

/// A path as maps prints it: a newline as `\012`, everything else as it is.
fn escape(path: &[u8]) -> Vec<u8> {
    path.split(|byte| *byte == b'\n').collect::<Vec<_>>().join(&b"\\012"[..])
}

/// Takes values in native byte order from the front of bytes; `None` where they end.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (value, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*value)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_ne_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_ne_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of the type `kind` with the given body and a trailer for thread 11 of process 10, at 500 ns on CPU 1.
    fn record(kind: u32, body: &[u8]) -> Vec<u8> {
        let size = u16::try_from(8 + body.len() + 24).expect("records are short");
        let mut bytes = kind.to_ne_bytes().to_vec();
        bytes.extend(0x2002_u16.to_ne_bytes());
        bytes.extend(size.to_ne_bytes());
        bytes.extend(body);
        bytes.extend([10_u32, 11].map(u32::to_ne_bytes).concat());
        bytes.extend(500_u64.to_ne_bytes());
        bytes.extend([1_u32, 0].map(u32::to_ne_bytes).concat());
        bytes
    }

    struct Mmap2 {
        start: u64,
        len: u64,
        offset: u64,
        device: [u32; 2],
        inode: u64,
        prot: u32,
        flags: u32,
        name: &'static [u8],
    }

    impl Mmap2 {
        fn to_bytes(&self) -> Vec<u8> {
            let Self { start, len, offset, device, inode, prot, flags, name } = self;
            let mut body = [10_u32, 11].map(u32::to_ne_bytes).concat();
            body.extend([*start, *len, *offset].map(u64::to_ne_bytes).concat());
            body.extend(device.map(u32::to_ne_bytes).concat());
            body.extend([*inode, 7].map(u64::to_ne_bytes).concat());
            body.extend([*prot, *flags].map(u32::to_ne_bytes).concat());
            body.extend(*name);
            body.resize(body.len() / 8 * 8 + 8, 0);
            record(PERF_RECORD_MMAP2, &body)
        }
    }

    /// As seen of `mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)`.
    const ANONYMOUS: Mmap2 = Mmap2 {
        start: 0x7f6a_585a_2000,
        len: 0x2000,
        offset: 0x7f6a_585a_2000,
        device: [0, 0],
        inode: 0,
        prot: 3,
        flags: 2,
        name: b"//anon",
    };

    /// As seen of a private mapping of a file from 0x4000 on.
    const FILE: Mmap2 = Mmap2 {
        start: 0x7f6a_582b_5000,
        len: 0x2000,
        offset: 0x4000,
        device: [0xfe, 0],
        inode: 10_019_222,
        prot: 5,
        flags: 2,
        name: b"/tmp/file (deleted)",
    };

    fn one(bytes: &[u8]) -> Record {
        let records: Vec<_> = records(bytes).collect();
        let [record] = &records[..] else { panic!("one record: {records:?}") };
        record.clone()
    }

    fn shown(mmap2: &Mmap2) -> ReportedVma {
        let Record::Map(event) = one(&mmap2.to_bytes()) else { panic!("a VMA") };
        let MapAction::Shown(shown) = event.action else { panic!("a VMA") };
        shown
    }

    fn vma(mmap2: &Mmap2) -> Vma {
        shown(mmap2).vma
    }

    fn range(start: u64, end: u64) -> VirtRange {
        VirtRange::new(VirtAddr::from_raw(start), VirtAddr::from_raw(end)).expect("not empty")
    }

    #[test]
    fn every_field_of_a_file_is_read() {
        let vma = Vma {
            range: range(0x7f6a_582b_5000, 0x7f6a_582b_7000),
            perms: *b"r-xp",
            offset: 0x4000,
            device: (0xfe, 0),
            inode: 10_019_222,
            name: b"/tmp/file (deleted)".to_vec(),
        };

        let event = MapEvent {
            time: Timestamp::from_nanos(500),
            tgid: Tgid(10),
            tid: Tid(11),
            action: MapAction::Shown(ReportedVma { vma, kind: None }),
        };
        assert_eq!(one(&FILE.to_bytes()), Record::Map(Box::new(event)));
    }

    #[test]
    fn anonymous_memory_has_neither_name_nor_offset() {
        let vma = vma(&ANONYMOUS);

        assert_eq!((vma.name, vma.offset, vma.perms), (Vec::new(), 0, *b"rw-p"));
    }

    #[test]
    fn bracketed_name_stays_and_has_no_offset() {
        let vma = vma(&Mmap2 { offset: 0x7fff_ffdd_d000, name: b"[stack]", ..ANONYMOUS });

        assert_eq!((vma.name, vma.offset), (b"[stack]".to_vec(), 0));
    }

    #[test]
    fn first_system_v_segment_is_a_file_with_inode_0() {
        let segment = Mmap2 { device: [0, 1], inode: 0, flags: 1, name: b"/SYSV00001234 (deleted)", ..FILE };

        let vma = vma(&segment);

        assert_eq!((vma.offset, vma.perms), (0x4000, *b"r-xs"));
    }

    #[test]
    fn too_long_path_keeps_the_offset_alone() {
        let vma = vma(&Mmap2 { device: [0, 0], inode: 0, name: b"//toolong", ..FILE });

        assert_eq!((vma.offset, vma.name), (0x4000, b"//toolong".to_vec()));
    }

    #[test]
    fn newline_in_a_path_is_escaped_and_nothing_else() {
        let vma = vma(&Mmap2 { name: b"/tmp/a\nb\\c\t\xff\n", ..FILE });

        assert_eq!(vma.name, b"/tmp/a\\012b\\c\t\xff\\012");
    }

    #[test]
    fn mapping_without_access_has_dashes() {
        assert_eq!(vma(&Mmap2 { prot: 0, ..FILE }).perms, *b"---p");
    }

    #[test]
    fn hugetlb_is_told_by_its_flag_and_locked_memory_is_not_it() {
        // As seen of MAP_HUGETLB and of MAP_LOCKED.
        assert_eq!(shown(&Mmap2 { flags: 0x4_0002, ..ANONYMOUS }).kind, Some(FileKind::Hugetlb));
        assert_eq!(shown(&Mmap2 { flags: 0x2002, ..ANONYMOUS }).kind, None);
    }

    /// 64 records found no room, said at `time_ns` by `cpu`.
    fn lost_record(time_ns: u64, cpu: u32) -> Vec<u8> {
        let mut bytes = record(PERF_RECORD_LOST, &[77_u64, 64].map(u64::to_ne_bytes).concat());
        let trailer = bytes.len() - 24;
        bytes[trailer + 8..][..8].copy_from_slice(&time_ns.to_ne_bytes());
        bytes[trailer + 16..][..4].copy_from_slice(&cpu.to_ne_bytes());
        bytes
    }

    #[test]
    fn loss_began_after_the_record_before_it_of_the_same_cpu() {
        let records: Vec<_> = records(&[FILE.to_bytes(), lost_record(900, 1)].concat()).collect();

        let loss = Loss {
            start: Timestamp::from_nanos(500),
            end: Some(Timestamp::from_nanos(900)),
            cpu: Some(Cpu(1)),
            cause: LossCause::SideBand,
            count: Some(64),
        };
        assert_eq!(records[1..], [Record::Loss(loss)]);
    }

    #[test]
    fn loss_on_another_cpu_than_the_record_before_it_began_nobody_knows_when() {
        let records: Vec<_> = records(&[FILE.to_bytes(), lost_record(900, 0)].concat()).collect();

        let [_, Record::Loss(loss)] = &records[..] else { panic!("a VMA and a loss: {records:?}") };
        assert_eq!((loss.start, loss.cpu), (Timestamp::default(), Some(Cpu(0))));
    }

    #[test]
    fn record_of_another_type_is_skipped() {
        let fork = record(7, &[0; 24]);

        assert_eq!(records(&[fork.clone(), FILE.to_bytes(), fork].concat()).count(), 1);
    }

    #[test]
    fn record_of_an_impossible_range_is_counted_and_the_next_is_read() {
        let beyond = Mmap2 { start: u64::MAX, ..FILE }.to_bytes();
        let empty = Mmap2 { len: 0, ..FILE }.to_bytes();
        let short = record(PERF_RECORD_MMAP2, &[0; 56]);

        for bad in [beyond, empty, short] {
            let records: Vec<_> = records(&[bad, FILE.to_bytes()].concat()).collect();

            let [Record::Loss(loss), Record::Map(_)] = &records[..] else {
                panic!("a loss and a VMA: {records:?}")
            };
            assert_eq!((loss.start.as_nanos(), loss.count), (500, Some(1)));
        }
    }

    #[test]
    fn cut_record_ends_the_walk_after_the_last_that_is_whole() {
        let whole = FILE.to_bytes();
        let header_without_size = [0; 8];
        for tail in [&whole[..whole.len() - 1], &whole[..4], &header_without_size] {
            let records: Vec<_> = records(&[&whole, tail].concat()).collect();

            let [Record::Map(_), Record::Loss(loss)] = &records[..] else {
                panic!("a VMA and a loss: {records:?}")
            };
            assert_eq!((loss.start.as_nanos(), loss.end, loss.count), (500, None, None));
        }
    }
}
