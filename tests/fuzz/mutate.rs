//! What is done to recordings: values at their extremes, values of elsewhere, and things twice, gone or out of order.

use fastrand::Rng;
use serde_json::Value;

use crate::{
    container::{Chunk, Container, FRAMES},
    fields::{self, Item, Payload, Ring},
};

/// Values at which something ends, wraps or changes its meaning.
const EXTREMES: [u64; 22] = [
    0,
    1,
    2,
    3,
    64,
    0xff,
    0xfff,
    0x1000,
    0xffff,
    0x20_0000,
    0x7fff_ffff,
    0xffff_ffff,
    0x1_0000_0000,
    0x10_0000_0000,
    0x7fff_ffff_f000,
    0x8000_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ff60_0000,
    0xffff_ffff_ffff_f000,
    0xffff_ffff_ffff_fffe,
    0xffff_ffff_ffff_ffff,
];

/// One of the corpus, mutated.
pub(crate) fn recording(corpus: &[Container], rng: &mut Rng) -> Vec<u8> {
    let mut recording = corpus[rng.usize(..corpus.len())].clone();
    let mutations = 1 << rng.u32(0..5);
    for _ in 0..mutations {
        let at = rng.usize(..recording.chunks.len());
        match rng.u32(0..20) {
            0 => reorder(&mut recording.chunks, rng),
            1 => {
                let other = &corpus[rng.usize(..corpus.len())];
                recording.chunks.insert(at, other.chunks[rng.usize(..other.chunks.len())].clone());
            }
            2 => head(&mut recording.chunks[at], rng),
            3 => bytes(&mut recording.chunks[at].plain, rng),
            _ => payload(&mut recording.chunks[at], rng),
        }
    }
    recording.to_bytes()
}

/// Swaps, doubles, repeats or drops one of `things`.
fn reorder<T: Clone>(things: &mut Vec<T>, rng: &mut Rng) {
    if things.is_empty() {
        return;
    }
    let [one, other] = [rng.usize(..things.len()), rng.usize(..things.len())];
    match rng.u32(0..5) {
        0 => things.swap(one, other),
        1 => things.insert(other, things[one].clone()),
        2 => things[other] = things[one].clone(),
        3 if things.len() > 1 => drop(things.remove(one)),
        _ => {
            let again = vec![things[one].clone(); rng.usize(..64)];
            things.splice(other..other, again);
        }
    }
}

/// A value for a field that held `value`.
fn value(value: u64, rng: &mut Rng) -> u64 {
    match rng.u32(0..6) {
        0 => value.wrapping_add(rng.u64(0..3)).wrapping_sub(1),
        1 => value.wrapping_add(EXTREMES[rng.usize(..EXTREMES.len())]),
        2 => value ^ 1 << rng.u32(0..64),
        3 => !value,
        _ => EXTREMES[rng.usize(..EXTREMES.len())],
    }
}

fn head(chunk: &mut Chunk, rng: &mut Rng) {
    let number = value(u64::from(chunk.items), rng);
    let small = u32::try_from(number & 0xffff_ffff).expect("32 bits");
    match rng.u32(0..5) {
        0 => chunk.kind = small,
        1 => chunk.items = small,
        2 => chunk.first = value(chunk.first, rng),
        3 => chunk.last = value(chunk.last, rng),
        _ => chunk.claimed = Some(small),
    }
}

/// Changes some of `bytes`, whatever they mean.
fn bytes(bytes: &mut [u8], rng: &mut Rng) {
    for _ in 0..rng.usize(1..8) {
        if bytes.is_empty() {
            return;
        }
        let at = rng.usize(..bytes.len());
        bytes[at] = if rng.bool() { rng.u8(..) } else { [0, 0xff][rng.usize(..2)] };
    }
}

fn payload(chunk: &mut Chunk, rng: &mut Rng) {
    if chunk.kind == FRAMES {
        let Some(mut payload) = Payload::parse(&chunk.plain, chunk.items) else { return };
        match rng.u32(0..8) {
            0 => reorder(&mut payload.items, rng),
            1 => bytes(&mut payload.columns, rng),
            _ if payload.items.is_empty() => {}
            _ => {
                let at = rng.usize(..payload.items.len());
                frame(&mut payload.items[at], rng);
            }
        }
        chunk.items = u32::try_from(payload.items.len()).expect("few frames");
        chunk.plain = payload.to_bytes();
    } else if let Ok(mut json) = serde_json::from_slice(&chunk.plain) {
        leaf(&mut json, rng);
        chunk.plain = serde_json::to_vec(&json).expect("JSON");
    } else {
        bytes(&mut chunk.plain, rng);
    }
}

fn frame(frame: &mut Item, rng: &mut Rng) {
    if let Some(ring) = frame.ring {
        let mut records = split(ring, frame.ring_bytes());
        if rng.u32(0..4) == 0 {
            reorder(&mut records, rng);
        } else if !records.is_empty() {
            let at = rng.usize(..records.len());
            word(&mut records[at], rng);
        }
        return frame.set_ring_bytes(records.concat());
    }
    let fields = &mut frame.fields;
    if fields.is_empty() {
        return;
    }
    let at = rng.usize(..fields.len());
    match rng.u32(0..6) {
        // Rows of a list change places, or take the place of others.
        0 | 1 => {
            let len = rng.usize(1..=fields.len().min(8));
            let [one, other] = [0; 2].map(|_| rng.usize(..=fields.len() - len));
            for offset in 0..len {
                if rng.bool() {
                    fields.swap(one + offset, other + offset);
                } else {
                    fields[other + offset] = fields[one + offset].clone();
                }
            }
        }
        2 => {
            let from = rng.usize(..fields.len());
            fields[at] = fields[from].clone();
        }
        _ => match fields::number(&fields[at]) {
            Some(number) => fields[at] = fields::varint(value(number, rng)),
            None => bytes(&mut fields[at], rng),
        },
    }
}

/// The records of a ring, each by the length that it has or names.
fn split(ring: Ring, mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let len_at =
            |at: usize| bytes.get(at..at + 2).map(|len| usize::from(u16::from_ne_bytes([len[0], len[1]])));
        let len = match ring {
            Ring::Faults => Some(memtrace_ebpf::FaultEvent::LEN),
            Ring::Control => memtrace_ebpf::EventHeader::from_bytes(bytes).map(|header| header.len.into()),
            Ring::SideBand => len_at(6),
        };
        let len = len.unwrap_or_default().clamp(8, bytes.len().max(8)).min(bytes.len());
        records.push(bytes[..len].to_vec());
        bytes = &bytes[len..];
    }
    records
}

/// Changes one number of a record, in the place and size of a field.
fn word(record: &mut [u8], rng: &mut Rng) {
    let size = [1, 2, 4, 8, 8, 8][rng.usize(..6)];
    let places = record.len() / size;
    if places == 0 {
        return;
    }
    let at = size * rng.usize(..places);
    let mut number = [0; 8];
    // Half of the time it is that of another field: an end where the start was.
    let from = if rng.bool() { at } else { size * rng.usize(..places) };
    number[..size].copy_from_slice(&record[from..from + size]);
    let number = u64::from_ne_bytes(number);
    let changed = if from == at { value(number, rng) } else { number };
    record[at..at + size].copy_from_slice(&changed.to_ne_bytes()[..size]);
}

/// Changes one value of `json`.
fn leaf(json: &mut Value, rng: &mut Rng) {
    match json {
        Value::Array(values) if !values.is_empty() => {
            if rng.u32(0..4) == 0 {
                return reorder(values, rng);
            }
            let at = rng.usize(..values.len());
            leaf(&mut values[at], rng);
        }
        Value::Object(members) if !members.is_empty() => {
            let at = rng.usize(..members.len());
            if let Some(member) = members.values_mut().nth(at) {
                leaf(member, rng);
            }
        }
        Value::Number(number) => {
            let unsigned = number.as_u64().unwrap_or_default();
            *json = match rng.u32(0..3) {
                0 => Value::from(value(unsigned, rng).cast_signed()),
                _ => Value::from(value(unsigned, rng)),
            };
        }
        Value::String(text) => match rng.u32(0..3) {
            0 => *text = text.repeat(rng.usize(..100)),
            1 => text.push_str("\u{1b}[31m\r\n\0\u{202e}"),
            _ => *json = Value::Null,
        },
        Value::Bool(flag) => *flag = !*flag,
        Value::Null => *json = Value::from(value(0, rng)),
        Value::Array(_) | Value::Object(_) => *json = Value::Null,
    }
}
