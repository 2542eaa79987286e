//! Items as a recording has them: their kinds, and the layout of each.
//!
//! Layer: codec. Input: [`Frame`]s. Output: kinds with bytes, and back.
//! Source: the postcard wire format.
//! Keeps: a number of a kind never gets another meaning, and a layout grows only at its end, where earlier builds pass it over. What
//! repeats within an item cannot grow: it gets a list of its own behind the others.
//! Not here: framing of items (`frames`), fault records (`columns`), header and end mark (`facts`).

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    decode::Frame,
    event::{
        Cpu, Device, FaultCounts, FileKind, HeatCell, HeatReading, Landmarks, Loss, LossCause, MapsReading,
        Observation, PageScan, ReclaimReading, RssCounters, RssReading, ScanDepth, ScanReason, Seen, SpaceId,
        Tgid, Vma,
    },
    pagemap::{PageCategories, PageFlags, PageWords, PagemapEntry, StateRun},
    units::{PageCount, Timestamp, VirtAddr, VirtRange},
};

pub(super) mod facts;

/// What an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// So many fault records, which stand in the columns: a varint.
    Faults = 1,
    /// Bytes of a ring of faults that are not whole records.
    RawFaults = 2,
    /// Bytes of the ring `CONTROL`.
    Control = 3,
    /// Records of perf.
    SideBand = 4,
    /// [`Heat`]
    Heat = 5,
    /// [`Reclaim`]
    Reclaim = 6,
    /// [`Pages`]
    Pages = 7,
    /// [`Maps`]
    Maps = 8,
    /// [`Resident`]
    Resident = 9,
    /// [`Observed`] in vain.
    Nothing = 10,
    /// [`Missing`]
    Loss = 11,
    /// A [`Timestamp`].
    Tick = 12,
}

impl Kind {
    const ALL: [Self; 12] = [
        Self::Faults,
        Self::RawFaults,
        Self::Control,
        Self::SideBand,
        Self::Heat,
        Self::Reclaim,
        Self::Pages,
        Self::Maps,
        Self::Resident,
        Self::Nothing,
        Self::Loss,
        Self::Tick,
    ];

    /// The kind of this number, if this build knows it.
    pub(super) fn from_raw(raw: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == raw)
    }
}

/// Which process was observed, and when. It lies at the front of others, so it does not grow.
#[derive(Serialize, Deserialize)]
struct Observed {
    time: u64,
    tgid: u32,
    space: u64,
}

/// Page state of a range.
#[derive(Serialize, Deserialize)]
struct Pages {
    observed: Observed,
    began: u64,
    reason: u8,
    range: VirtRange,
    known: u64,
    depth: u8,
    runs: Vec<Run>,
}

/// Consecutive pages that are alike.
#[derive(Serialize, Deserialize)]
struct Run {
    range: VirtRange,
    categories: u64,
    words: Option<(u64, Option<u64>)>,
}

/// A reading of `/proc/PID/maps`.
#[derive(Serialize, Deserialize)]
struct Maps {
    observed: Observed,
    began: u64,
    rows: Vec<Row>,
    start_brk: Option<u64>,
    start_stack: Option<u64>,
    devices: Vec<(Device, u8)>,
    at_exit: bool,
}

/// One row of it.
#[derive(Serialize, Deserialize)]
struct Row {
    range: VirtRange,
    perms: [u8; 4],
    offset: u64,
    device: Device,
    inode: u64,
    name: Vec<u8>,
}

/// How many pages are resident. [`Counters`] follow, but for recordings of early builds.
#[derive(Serialize, Deserialize)]
struct Resident {
    observed: Observed,
    pages: u64,
}

/// The counters of an address space, in pages.
#[derive(Serialize, Deserialize)]
struct Counters {
    anon: u64,
    file: u64,
    shmem: u64,
    swap: u64,
    peak: u64,
}

/// Growth of the heat counters.
#[derive(Serialize, Deserialize)]
struct Heat {
    time: u64,
    cells: Vec<Cell>,
}

/// One of them.
#[derive(Serialize, Deserialize)]
struct Cell {
    space: Option<u64>,
    slot: Option<VirtRange>,
    minor: u64,
    major: u64,
}

/// The counters of reclaim.
#[derive(Serialize, Deserialize)]
struct Reclaim {
    time: u64,
    swap_backed: u64,
    file: u64,
}

/// A loss.
#[derive(Serialize, Deserialize)]
struct Missing {
    start: u64,
    end: Option<u64>,
    cpu: Option<u32>,
    cause: u8,
    count: Option<u64>,
}

/// Appends the bytes of `frame`, which is not [`Kind::Faults`], to `out`; returns what it is.
pub(super) fn encode(frame: &Frame, out: &mut Vec<u8>) -> Kind {
    match frame {
        Frame::Faults(bytes) => {
            out.extend_from_slice(bytes);
            Kind::RawFaults
        }
        Frame::Control(bytes) => {
            out.extend_from_slice(bytes);
            Kind::Control
        }
        Frame::SideBand(bytes) => {
            out.extend_from_slice(bytes);
            Kind::SideBand
        }
        Frame::Heat(HeatReading { time, cells }) => {
            let cells = cells.iter().map(Cell::of).collect();
            put(&Heat { time: time.as_nanos(), cells }, out);
            Kind::Heat
        }
        Frame::Reclaim(ReclaimReading { time, swap_backed, file }) => {
            put(&Reclaim { time: time.as_nanos(), swap_backed: *swap_backed, file: *file }, out);
            Kind::Reclaim
        }
        Frame::Observation(observation) => encode_observation(observation, out),
        Frame::Loss(loss) => {
            put(&Missing::of(loss), out);
            Kind::Loss
        }
        Frame::Tick(time) => {
            put(time, out);
            Kind::Tick
        }
    }
}

fn encode_observation(observation: &Observation, out: &mut Vec<u8>) -> Kind {
    let Observation { time, tgid, space, seen } = observation;
    let observed = Observed { time: time.as_nanos(), tgid: tgid.0, space: space.0 };
    match seen {
        Seen::Pages(scan) => {
            put(&Pages::of(observed, scan), out);
            Kind::Pages
        }
        Seen::Maps(maps) => {
            put(&Maps::of(observed, maps), out);
            Kind::Maps
        }
        Seen::Resident(RssReading { resident, counters }) => {
            put(&Resident { observed, pages: resident.get() }, out);
            if let Some(counters) = counters {
                put(&Counters::of(counters), out);
            }
            Kind::Resident
        }
        Seen::Nothing => {
            put(&observed, out);
            Kind::Nothing
        }
    }
}

/// The frame of `bytes`, which are of a kind other than [`Kind::Faults`]; `None` if they are malformed, or of values that this
/// build does not know.
pub(super) fn decode(kind: Kind, bytes: &[u8]) -> Option<Frame> {
    Some(match kind {
        Kind::Faults => return None,
        Kind::RawFaults => Frame::Faults(bytes.to_vec()),
        Kind::Control => Frame::Control(bytes.to_vec()),
        Kind::SideBand => Frame::SideBand(bytes.to_vec()),
        Kind::Heat => {
            let Heat { time, cells } = take(bytes)?;
            let cells = cells.into_iter().map(Cell::into_event).collect();
            Frame::Heat(HeatReading { time: Timestamp::from_nanos(time), cells })
        }
        Kind::Reclaim => {
            let Reclaim { time, swap_backed, file } = take(bytes)?;
            Frame::Reclaim(ReclaimReading { time: Timestamp::from_nanos(time), swap_backed, file })
        }
        Kind::Pages => take::<Pages>(bytes)?.into_frame()?,
        Kind::Maps => take::<Maps>(bytes)?.into_frame()?,
        Kind::Resident => {
            let (Resident { observed, pages }, rest) = postcard::take_from_bytes(bytes).ok()?;
            let counters = take(rest).map(Counters::into_event);
            observed.into_frame(Seen::Resident(RssReading { resident: PageCount::new(pages), counters }))
        }
        Kind::Nothing => take::<Observed>(bytes)?.into_frame(Seen::Nothing),
        Kind::Loss => Frame::Loss(take::<Missing>(bytes)?.into_event()?),
        Kind::Tick => Frame::Tick(take(bytes)?),
    })
}

/// Appends `value` to `out`.
pub(super) fn put(value: &impl Serialize, out: &mut Vec<u8>) {
    *out = postcard::to_extend(value, std::mem::take(out))
        .expect("items have known lengths, and a Vec takes them all");
}

/// Reads a value, which later builds may have written more behind; `None` if it is malformed or cut.
pub(super) fn take<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    postcard::take_from_bytes(bytes).ok().map(|(value, _of_later_builds)| value)
}

impl Observed {
    fn into_frame(self, seen: Seen) -> Frame {
        let Self { time, tgid, space } = self;
        let time = Timestamp::from_nanos(time);
        Frame::Observation(Observation { time, tgid: Tgid(tgid), space: SpaceId(space), seen })
    }
}

impl Counters {
    fn of(counters: &RssCounters) -> Self {
        let RssCounters { anon, file, shmem, swap, peak } = counters;
        let [anon, file, shmem, swap, peak] = [anon, file, shmem, swap, peak].map(|pages| pages.get());
        Self { anon, file, shmem, swap, peak }
    }

    fn into_event(self) -> RssCounters {
        let Self { anon, file, shmem, swap, peak } = self;
        let [anon, file, shmem, swap, peak] = [anon, file, shmem, swap, peak].map(PageCount::new);
        RssCounters { anon, file, shmem, swap, peak }
    }
}

impl Pages {
    fn of(observed: Observed, scan: &PageScan) -> Self {
        let PageScan { began, reason, range, known, depth, runs } = scan;
        Self {
            observed,
            began: began.as_nanos(),
            reason: reason.number(),
            range: *range,
            known: known.bits(),
            depth: depth.number(),
            runs: runs.iter().map(Run::of).collect(),
        }
    }

    fn into_frame(self) -> Option<Frame> {
        let Self { observed, began, reason, range, known, depth, runs } = self;
        let scan = PageScan {
            began: Timestamp::from_nanos(began),
            reason: ScanReason::of_number(reason)?,
            range,
            known: PageCategories::from_bits_retain(known),
            depth: ScanDepth::of_number(depth)?,
            runs: runs.into_iter().map(Run::into_state).collect(),
        };
        scan.is_sound().then(|| observed.into_frame(Seen::Pages(scan)))
    }
}

impl Run {
    fn of(run: &StateRun) -> Self {
        let StateRun { range, categories, words } = run;
        let words = words.map(|PageWords { entry, flags }| (entry.as_raw(), flags.map(|flags| flags.bits())));
        Self { range: *range, categories: categories.bits(), words }
    }

    fn into_state(self) -> StateRun {
        let Self { range, categories, words } = self;
        let words = words.map(|(entry, flags)| PageWords {
            entry: PagemapEntry::from_raw(entry),
            flags: flags.map(PageFlags::from_bits_retain),
        });
        StateRun { range, categories: PageCategories::from_bits_retain(categories), words }
    }
}

impl Maps {
    fn of(observed: Observed, maps: &MapsReading) -> Self {
        let MapsReading { began, vmas, landmarks: Landmarks { start_brk, start_stack }, devices, at_exit } =
            maps;
        Self {
            observed,
            began: began.as_nanos(),
            rows: vmas.iter().map(Row::of).collect(),
            start_brk: start_brk.map(VirtAddr::as_raw),
            start_stack: start_stack.map(VirtAddr::as_raw),
            devices: devices.iter().map(|(device, kind)| (*device, kind.number())).collect(),
            at_exit: *at_exit,
        }
    }

    fn into_frame(self) -> Option<Frame> {
        let Self { observed, began, rows, start_brk, start_stack, devices, at_exit } = self;
        let devices = devices.into_iter().map(|(device, kind)| Some((device, FileKind::of_number(kind)?)));
        let maps = MapsReading {
            began: Timestamp::from_nanos(began),
            vmas: rows.into_iter().map(Row::into_vma).collect(),
            landmarks: Landmarks {
                start_brk: start_brk.map(VirtAddr::from_raw),
                start_stack: start_stack.map(VirtAddr::from_raw),
            },
            devices: devices.collect::<Option<_>>()?,
            at_exit,
        };
        Some(observed.into_frame(Seen::Maps(maps)))
    }
}

impl Row {
    fn of(vma: &Vma) -> Self {
        let Vma { range, perms, offset, device, inode, name } = vma;
        Self {
            range: *range,
            perms: *perms,
            offset: *offset,
            device: *device,
            inode: *inode,
            name: name.clone(),
        }
    }

    fn into_vma(self) -> Vma {
        let Self { range, perms, offset, device, inode, name } = self;
        Vma { range, perms, offset, device, inode, name }
    }
}

impl Cell {
    fn of(cell: &HeatCell) -> Self {
        let HeatCell { space, slot, faults: FaultCounts { minor, major } } = *cell;
        Self { space: space.map(|space| space.0), slot, minor, major }
    }

    fn into_event(self) -> HeatCell {
        let Self { space, slot, minor, major } = self;
        HeatCell { space: space.map(SpaceId), slot, faults: FaultCounts { minor, major } }
    }
}

impl Missing {
    fn of(loss: &Loss) -> Self {
        let Loss { start, end, cpu, cause, count } = *loss;
        Self {
            start: start.as_nanos(),
            end: end.map(Timestamp::as_nanos),
            cpu: cpu.map(|cpu| cpu.0),
            cause: cause.number(),
            count,
        }
    }

    fn into_event(self) -> Option<Loss> {
        let Self { start, end, cpu, cause, count } = self;
        Some(Loss {
            start: Timestamp::from_nanos(start),
            end: end.map(Timestamp::from_nanos),
            cpu: cpu.map(Cpu),
            cause: LossCause::of_number(cause)?,
            count,
        })
    }
}

/// An enumeration whose variants have numbers in recordings.
trait Numbered: Sized {
    /// The number of this one.
    fn number(self) -> u8;

    /// The one of this number, if this build knows it.
    fn of_number(number: u8) -> Option<Self>;
}

/// Gives variants their numbers, each of which is used once and for all.
macro_rules! numbered {
    ($name:ident { $($variant:ident = $number:literal,)* }) => {
        impl Numbered for $name {
            fn number(self) -> u8 {
                match self {
                    $(Self::$variant => $number,)*
                }
            }

            fn of_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

numbered!(ScanReason { Asked = 0, Heat = 1, Call = 2, Population = 3, Rotation = 4, Full = 5, });
numbered!(ScanDepth { Categories = 0, Words = 1, Frames = 2, });
numbered!(FileKind { SharedMemory = 0, Tmpfs = 1, Hugetlb = 2, Secret = 3, Device = 4, Other = 5, });
numbered!(LossCause {
    EventsRing = 0,
    ControlRing = 1,
    SideBand = 2,
    TaskTable = 3,
    HiddenProgram = 4,
    Late = 5,
    TornTail = 6,
    UnknownKind = 7,
    Skipped = 8,
    NoEvents = 9,
    CpuOffline = 10,
});
