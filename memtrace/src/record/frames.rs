//! The payload of a frames chunk: frames in arrival order, their fault records set apart in columns.
//!
//! Layer: codec. Input: [`Frame`]s. Output: a payload, and back.
//! Source: the postcard wire format for everything but fault records.
//! Keeps: frames come back in order and byte for byte, fault records of an unknown length too.
//! Not here: framing and compression (`chunk`), the columns (`columns`).
//!
//! A payload is the number of bytes of the items (`u32`, little-endian), the items, then the columns.

use std::borrow::Cow;

use memtrace_ebpf::FaultEvent;
use serde::{Deserialize, Serialize};

use super::{
    chunk::{Head, Kind},
    columns,
};
use crate::{
    decode::Frame,
    event::{HeatReading, Loss, Observation, ReclaimReading},
    units::Timestamp,
};

/// Fault records after which a chunk is full.
const FULL_FAULTS: usize = 16 << 10;

/// Bytes of everything else after which a chunk is full.
const FULL_ITEM_BYTES: usize = 1 << 20;

/// More fault records than any chunk holds: a reader believes no number beyond.
const MAX_FAULTS: usize = 4 << 20;

/// A frame as it is written.
#[derive(Serialize, Deserialize)]
enum Item<'a> {
    /// So many fault records, which stand in the columns.
    Faults(u32),
    /// Fault records that do not fit the columns.
    IrregularFaults(Cow<'a, [u8]>),
    Control(Cow<'a, [u8]>),
    Heat(Cow<'a, HeatReading>),
    Observation(Cow<'a, Observation>),
    Loss(Loss),
    Tick(Timestamp),
    SideBand(Cow<'a, [u8]>),
    Reclaim(ReclaimReading),
}

impl<'a> Item<'a> {
    fn of(frame: &'a Frame) -> Self {
        match frame {
            Frame::Faults(bytes) => match u32::try_from(bytes.len() / FaultEvent::LEN) {
                Ok(count) if columns::are_regular(bytes) => Self::Faults(count),
                _ => Self::IrregularFaults(bytes.into()),
            },
            Frame::Control(bytes) => Self::Control(bytes.into()),
            Frame::SideBand(bytes) => Self::SideBand(bytes.into()),
            Frame::Heat(reading) => Self::Heat(Cow::Borrowed(reading)),
            Frame::Reclaim(reading) => Self::Reclaim(*reading),
            Frame::Observation(observation) => Self::Observation(Cow::Borrowed(observation)),
            Frame::Loss(loss) => Self::Loss(*loss),
            Frame::Tick(time) => Self::Tick(*time),
        }
    }
}

/// Frames that wait to become a chunk.
#[derive(Default)]
pub(super) struct Pending {
    items: Vec<u8>,
    count: u32,
    /// Records of all [`Kind::Faults`], one after the other.
    faults: Vec<u8>,
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
        let item = Item::of(frame);
        if let (Item::Faults(_), Frame::Faults(bytes)) = (&item, frame) {
            self.faults.extend_from_slice(bytes);
        }
        self.items = postcard::to_extend(&item, std::mem::take(&mut self.items))
            .expect("items have known lengths, and a Vec takes them all");
        self.count += 1;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether the chunk is worth writing.
    pub(super) fn is_full(&self) -> bool {
        self.faults.len() >= FULL_FAULTS * FaultEvent::LEN || self.items.len() >= FULL_ITEM_BYTES
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
        let items = std::mem::take(&mut self.count);
        let (first, last) = std::mem::take(&mut self.span).0.unwrap_or((last, last));
        Head { kind: Kind::Frames, items, first, last }
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

/// The `count` frames of a payload; `None` if it is malformed.
pub(super) fn decode(plain: &[u8], count: u32) -> Option<Vec<Frame>> {
    let (items_len, mut rest) = plain.split_first_chunk()?;
    let mut items_bytes = rest.split_off(..u32::from_le_bytes(*items_len) as usize)?;
    let mut items = Vec::new();
    for _ in 0..count {
        let (item, tail) = postcard::take_from_bytes::<Item<'_>>(items_bytes).ok()?;
        items_bytes = tail;
        items.push(item);
    }
    let counts = items.iter().map(|item| if let Item::Faults(count) = item { *count as usize } else { 0 });
    let faults = counts.sum::<usize>();
    if faults > MAX_FAULTS {
        return None;
    }
    let faults = columns::decode(&mut rest, faults)?;
    let mut faults = &faults[..];
    items.into_iter().map(|item| frame(item, &mut faults)).collect()
}

/// The frame of `item`, whose fault records are the first of `faults`.
fn frame(item: Item<'_>, faults: &mut &[u8]) -> Option<Frame> {
    Some(match item {
        Item::Faults(count) => Frame::Faults(faults.split_off(..count as usize * FaultEvent::LEN)?.to_vec()),
        Item::IrregularFaults(bytes) => Frame::Faults(bytes.into_owned()),
        Item::Control(bytes) => Frame::Control(bytes.into_owned()),
        Item::SideBand(bytes) => Frame::SideBand(bytes.into_owned()),
        Item::Heat(reading) => Frame::Heat(reading.into_owned()),
        Item::Reclaim(reading) => Frame::Reclaim(reading),
        Item::Observation(observation) => Frame::Observation(observation.into_owned()),
        Item::Loss(loss) => Frame::Loss(loss),
        Item::Tick(time) => Frame::Tick(time),
    })
}
