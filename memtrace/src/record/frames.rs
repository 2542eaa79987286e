//! The payload of a frames chunk: frames in arrival order, their fault records set apart in columns.
//!
//! Layer: codec. Input: [`Frame`]s. Output: a payload, and back.
//! Keeps: frames come back in order and byte for byte, fault records of an unknown length too. An item that this build does not
//! know, or cannot read, costs itself alone, and is a loss.
//! Not here: framing and compression (`chunk`), what is in an item (`wire`), the columns (`columns`).
//!
//! A payload is the number of bytes of the items (`u32`, little-endian), the items, then the columns. An item is its kind and its
//! length (both varints), and so many bytes.

use memtrace_ebpf::{FaultEvent, HEAT_SLOT_SHIFT};

use super::{
    chunk::{self, Head},
    columns,
    wire::{self, Kind},
};
use crate::{
    decode::Frame,
    event::{Loss, LossCause, Observation, Seen},
    units::Timestamp,
};

/// Fault records after which a chunk is full.
const FULL_FAULTS: usize = 16 << 10;

/// Bytes of everything else after which a chunk is full.
const FULL_ITEM_BYTES: usize = 1 << 20;

/// Frames after which a chunk is full, and most that a reader takes: the smallest are many times larger in memory.
const FULL_FRAMES: u32 = 16 << 10;

/// What a reader holds of each heat slot in which a scan saw pages, in bytes.
const SLOT_BYTES: u64 = 32;

/// Bytes that a reader makes of `frame` beyond what is written of it: terabytes of present pages may be one run.
fn unfolded(frame: &Frame) -> u64 {
    let Frame::Observation(Observation { seen: Seen::Pages(scan), .. }) = frame else { return 0 };
    scan.runs.iter().map(|run| SLOT_BYTES * (run.range.bytes() >> HEAT_SLOT_SHIFT)).sum()
}

/// Frames that wait to become a chunk.
#[derive(Default)]
pub(super) struct Pending {
    items: Vec<u8>,
    /// The one that is being written.
    item: Vec<u8>,
    count: u32,
    /// Records of all [`Kind::Faults`], one after the other.
    faults: Vec<u8>,
    /// Sum of what is [`unfolded`].
    unfolded: u64,
    span: Span,
}

impl Pending {
    /// Adds `frame` behind the others.
    pub(super) fn push(&mut self, frame: &Frame) {
        match frame {
            Frame::Faults(_) | Frame::Control(_) | Frame::SideBand(_) => {}
            Frame::Heat(reading) => self.span.add(reading.time),
            Frame::Reclaim(reading) => self.span.add(reading.time),
            Frame::Observation(observation) => self.span.add(observation.time),
            Frame::Loss(loss) => self.span.add(loss.end.unwrap_or(loss.start)),
            Frame::Tick(time) => self.span.add(*time),
        }
        self.unfolded += unfolded(frame);
        let item = &mut self.item;
        item.clear();
        let kind = match frame {
            Frame::Faults(bytes) if columns::are_regular(bytes) => {
                self.faults.extend_from_slice(bytes);
                let count =
                    u32::try_from(bytes.len() / FaultEvent::LEN).expect("rings are smaller than 4 GiB");
                wire::put(&count, item);
                Kind::Faults
            }
            _ => wire::encode(frame, item),
        };
        wire::put(&(kind as u32, item.len()), &mut self.items);
        self.items.append(item);
        self.count += 1;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether the chunk is worth writing.
    pub(super) fn is_full(&self) -> bool {
        self.faults.len() >= FULL_FAULTS * FaultEvent::LEN
            || self.items.len() >= FULL_ITEM_BYTES
            || self.count >= FULL_FRAMES
    }

    /// Bytes that a reader makes of the payload.
    pub(super) fn expanded(&self) -> u64 {
        (self.items.len() + self.faults.len()) as u64 + self.unfolded
    }

    /// Puts the payload into `plain` and starts anew. A chunk without times has those of `last`, the latest time
    /// before it.
    pub(super) fn take(&mut self, last: Timestamp, plain: &mut Vec<u8>) -> Head {
        plain.clear();
        let items_len = u32::try_from(self.items.len())
            .expect("a chunk is written as soon as it is full, and no item comes near 4 GiB");
        plain.extend(items_len.to_le_bytes());
        plain.append(&mut self.items);
        if let Some((first, last)) = columns::encode(&self.faults, plain) {
            self.span.add(Timestamp::from_nanos(first));
            self.span.add(Timestamp::from_nanos(last));
        }
        self.faults.clear();
        self.unfolded = 0;
        let items = std::mem::take(&mut self.count);
        let (first, last) = std::mem::take(&mut self.span).0.unwrap_or((last, last));
        Head { kind: chunk::Kind::Frames, items, first, last }
    }
}

/// The earliest and the latest time so far.
#[derive(Default)]
struct Span(Option<(Timestamp, Timestamp)>);

impl Span {
    fn add(&mut self, time: Timestamp) {
        let (first, last) = self.0.unwrap_or((time, time));
        self.0 = Some((first.min(time), last.max(time)));
    }
}

/// The frames of a payload, of which no more than `most` bytes may be made; `None` if it is malformed.
pub(super) fn decode(plain: &[u8], head: &Head, most: u64) -> Option<Vec<Frame>> {
    let (items_len, mut rest) = plain.split_first_chunk()?;
    let items_len = u32::from_le_bytes(*items_len) as usize;
    let mut items = rest.split_off(..items_len)?;
    if head.items > FULL_FRAMES {
        return None;
    }
    let mut frames = Vec::new();
    // Which frames have their records in the columns, and how many each.
    let mut faults = Vec::new();
    for index in 0..head.items as usize {
        let ((kind, len), tail) = postcard::take_from_bytes::<(u32, usize)>(items).ok()?;
        items = tail;
        let item = items.split_off(..len)?;
        frames.push(match Kind::from_raw(kind) {
            Some(Kind::Faults) => {
                faults.push((index, wire::take::<u32>(item)? as usize));
                Frame::Faults(Vec::new())
            }
            kind => kind.and_then(|kind| wire::decode(kind, item)).unwrap_or_else(|| unknown(head)),
        });
    }
    let records = faults.iter().map(|(_, count)| count).sum::<usize>();
    let expanded = (items_len + records * FaultEvent::LEN) as u64 + frames.iter().map(unfolded).sum::<u64>();
    if expanded > most {
        return None;
    }
    let records = columns::decode(&mut rest, records)?;
    let mut records = &records[..];
    for (index, count) in faults {
        frames[index] = Frame::Faults(records.split_off(..count * FaultEvent::LEN)?.to_vec());
    }
    Some(frames)
}

/// What stands for an item that this build does not understand: it was written at some time of the chunk.
fn unknown(head: &Head) -> Frame {
    let Head { first: start, last, .. } = *head;
    let (end, cause) = (Some(last.max(start)), LossCause::UnknownKind);
    Frame::Loss(Loss { start, end, cpu: None, cause, count: Some(1) })
}
