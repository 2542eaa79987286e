//! Chunks: how they are framed, and how a reader finds the next good one after damage.
//!
//! Layer: codec. Input: payloads; any bytes. Output: framed chunks; [`Found`].
//! Keeps: a chunk is taken only if its checksum, which covers its head too, is right; no input makes it panic.
//! Not here: what payloads hold (`frames`, `reader`).
//!
//! The head, little-endian: magic, kind, stored bytes, plain bytes, items (`u32` each), first and last time in
//! nanoseconds since boot (`u64` each), CRC-32 of the head before it and of the stored payload.

use std::io::{self, Read, Write};

use zstd::bulk::{Compressor, Decompressor};

use super::RecordError;
use crate::units::Timestamp;

const MAGIC: [u8; 4] = *b"\xa9mtc";
const HEAD_LEN: usize = 40;
const CRC_AT: usize = HEAD_LEN - 4;

/// Most plain bytes of one chunk; bounds what a damaged length can make a reader do.
const MAX_BYTES: usize = 256 << 20;

/// Bytes read at once at least.
const READ_BYTES: usize = 256 << 10;

/// Fast, and within a tenth of what higher levels reach on columns.
const ZSTD_LEVEL: i32 = 1;

/// What a chunk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Header = 1,
    Frames = 2,
    End = 3,
}

impl Kind {
    fn from_raw(raw: u32) -> Option<Self> {
        [Self::Header, Self::Frames, Self::End].into_iter().find(|kind| *kind as u32 == raw)
    }
}

/// What the head of a chunk says of its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    /// Frames in the payload; 0 for other kinds.
    pub(super) items: u32,
    /// Earliest time in it.
    pub(super) first: Timestamp,
    /// Latest time in it.
    pub(super) last: Timestamp,
}

/// Writes chunks.
pub(super) struct ChunkWriter<W> {
    sink: W,
    compressor: Compressor<'static>,
    stored: Vec<u8>,
}

impl<W: Write> ChunkWriter<W> {
    pub(super) fn new(sink: W) -> Result<Self, RecordError> {
        let compressor = Compressor::new(ZSTD_LEVEL).map_err(RecordError::Write)?;
        Ok(Self { sink, compressor, stored: Vec::new() })
    }

    /// Writes one chunk.
    pub(super) fn write(&mut self, head: Head, plain: &[u8]) -> Result<(), RecordError> {
        let too_large = RecordError::ChunkTooLarge { bytes: plain.len() };
        let Some(plain_len) = u32::try_from(plain.len()).ok().filter(|_| plain.len() <= MAX_BYTES) else {
            return Err(too_large);
        };
        self.stored.clear();
        self.stored.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        self.compressor.compress_to_buffer(plain, &mut self.stored).map_err(RecordError::Write)?;
        let Ok(stored_len) = u32::try_from(self.stored.len()) else {
            return Err(too_large);
        };

        let mut bytes = Vec::with_capacity(HEAD_LEN);
        bytes.extend(MAGIC);
        bytes.extend((head.kind as u32).to_le_bytes());
        bytes.extend(stored_len.to_le_bytes());
        bytes.extend(plain_len.to_le_bytes());
        bytes.extend(head.items.to_le_bytes());
        bytes.extend(head.first.as_nanos().to_le_bytes());
        bytes.extend(head.last.as_nanos().to_le_bytes());
        bytes.extend(checksum(&bytes, &self.stored).to_le_bytes());
        self.write_plain(&bytes)?;
        self.sink.write_all(&self.stored).map_err(RecordError::Write)
    }

    /// Writes bytes that belong to no chunk.
    pub(super) fn write_plain(&mut self, bytes: &[u8]) -> Result<(), RecordError> {
        self.sink.write_all(bytes).map_err(RecordError::Write)
    }

    /// Flushes the sink.
    pub(super) fn flush(&mut self) -> Result<(), RecordError> {
        self.sink.flush().map_err(RecordError::Write)
    }

    /// Gives the sink back.
    pub(super) fn into_sink(self) -> W {
        self.sink
    }
}

fn checksum(head: &[u8], stored: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(head);
    crc.update(stored);
    crc.finalize()
}

/// The next good chunk, and the damage before it.
#[derive(Debug)]
pub(super) struct Found {
    /// Bytes that were no chunk.
    pub(super) skipped: u64,
    /// The head and the plain payload; `None` at the end of the file.
    pub(super) chunk: Option<(Head, Vec<u8>)>,
}

/// Reads chunks, passing over what is none.
pub(super) struct ChunkReader<R> {
    source: R,
    decompressor: Decompressor<'static>,
    /// Read and not yet taken: `window[at..]`.
    window: Vec<u8>,
    at: usize,
}

impl<R: Read> ChunkReader<R> {
    pub(super) fn new(source: R) -> io::Result<Self> {
        Ok(Self { source, decompressor: Decompressor::new()?, window: Vec::new(), at: 0 })
    }

    /// Takes up to `len` bytes that belong to no chunk; fewer at the end of the file.
    pub(super) fn take_plain(&mut self, len: usize) -> io::Result<&[u8]> {
        let len = self.fill(len)?.min(len);
        self.at += len;
        Ok(&self.window[self.at - len..self.at])
    }

    /// Goes on to the next good chunk.
    pub(super) fn next(&mut self) -> io::Result<Found> {
        let mut skipped = 0;
        loop {
            if let Some(chunk) = self.take_chunk()? {
                return Ok(Found { skipped, chunk: Some(chunk) });
            }
            let bytes = self.skip_to_magic()?;
            if bytes == 0 {
                return Ok(Found { skipped, chunk: None });
            }
            skipped += bytes as u64;
        }
    }

    /// Reads until `len` bytes lie in the window or the file ends; returns how many do.
    fn fill(&mut self, len: usize) -> io::Result<usize> {
        let ready = self.window.len() - self.at;
        if ready >= len {
            return Ok(ready);
        }
        self.window.drain(..self.at);
        self.at = 0;
        let more = (len - ready).max(READ_BYTES);
        self.source.by_ref().take(more as u64).read_to_end(&mut self.window)?;
        Ok(self.window.len())
    }

    /// Takes the chunk that begins here; `None` if none does, or its checksum is wrong.
    fn take_chunk(&mut self) -> io::Result<Option<(Head, Vec<u8>)>> {
        if self.fill(HEAD_LEN)? < HEAD_LEN {
            return Ok(None);
        }
        let Some((head, stored_len, plain_len)) = parse_head(&self.window[self.at..]) else {
            return Ok(None);
        };
        if self.fill(HEAD_LEN + stored_len)? < HEAD_LEN + stored_len {
            return Ok(None);
        }
        let (head_bytes, rest) = self.window[self.at..].split_at(HEAD_LEN);
        let stored = &rest[..stored_len];
        if head_bytes[CRC_AT..] != checksum(&head_bytes[..CRC_AT], stored).to_le_bytes() {
            return Ok(None);
        }
        let Ok(plain) = self.decompressor.decompress(stored, plain_len) else {
            return Ok(None);
        };
        self.at += HEAD_LEN + stored_len;
        Ok(Some((head, plain)))
    }

    /// Goes past this byte to the next magic, or to the end of the file; returns how many bytes that was.
    fn skip_to_magic(&mut self) -> io::Result<usize> {
        let mut skipped = 0;
        while self.fill(MAGIC.len() + 1)? > MAGIC.len() {
            let rest = &self.window[self.at + 1..];
            let found = rest.windows(MAGIC.len()).position(|bytes| bytes == MAGIC);
            // Without one, the last bytes may still begin one.
            let step = 1 + found.unwrap_or(rest.len() - MAGIC.len());
            self.at += step;
            skipped += step;
            if found.is_some() {
                return Ok(skipped);
            }
        }
        skipped += self.window.len() - self.at;
        self.at = self.window.len();
        Ok(skipped)
    }
}

/// The head at the start of `bytes`, and the lengths of the payload stored and plain; `None` if there is none.
fn parse_head(bytes: &[u8]) -> Option<(Head, usize, usize)> {
    let mut rest = bytes.strip_prefix(&MAGIC)?;
    let kind = Kind::from_raw(take_u32(&mut rest)?)?;
    let stored_len = take_u32(&mut rest)? as usize;
    let plain_len = take_u32(&mut rest)? as usize;
    let items = take_u32(&mut rest)?;
    let first = take_u64(&mut rest)?;
    let last = take_u64(&mut rest)?;
    let sane = plain_len <= MAX_BYTES && stored_len <= zstd::zstd_safe::compress_bound(MAX_BYTES);
    sane.then_some((Head { kind, items, first, last }, stored_len, plain_len))
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    let (bytes, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(u32::from_le_bytes(*bytes))
}

fn take_u64(rest: &mut &[u8]) -> Option<Timestamp> {
    let (bytes, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(Timestamp::from_nanos(u64::from_le_bytes(*bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(payload: &[u8]) -> Vec<u8> {
        let head = Head {
            kind: Kind::Frames,
            items: 7,
            first: Timestamp::from_nanos(10),
            last: Timestamp::from_nanos(20),
        };
        let mut writer = ChunkWriter::new(Vec::new()).expect("zstd is there");
        writer.write(head, payload).expect("a Vec takes everything");
        writer.into_sink()
    }

    fn found(bytes: &[u8]) -> Vec<(u64, Option<Vec<u8>>)> {
        let mut reader = ChunkReader::new(bytes).expect("zstd is there");
        let mut all = Vec::new();
        loop {
            let found = reader.next().expect("a slice can be read");
            let plain = found.chunk.map(|(_, plain)| plain);
            let end = plain.is_none();
            all.push((found.skipped, plain));
            if end {
                return all;
            }
        }
    }

    #[test]
    fn head_is_forty_bytes_and_the_payload_follows() {
        let bytes = chunk(b"");

        assert_eq!(bytes[..4], MAGIC);
        assert_eq!(bytes[4..8], [2, 0, 0, 0]);
        assert_eq!(bytes[16..20], [7, 0, 0, 0]);
        assert_eq!(bytes[8..12], u32::try_from(bytes.len() - 40).expect("small").to_le_bytes());
    }

    #[test]
    fn bytes_between_chunks_are_skipped_and_counted() {
        let bytes = [&chunk(b"one")[..], b"noise\xa9mt", &chunk(b"two")].concat();

        let expected = [(0, Some(b"one".to_vec())), (8, Some(b"two".to_vec())), (0, None)];
        assert_eq!(found(&bytes), expected);
    }

    #[test]
    fn a_magic_that_begins_no_chunk_does_not_hide_the_next_one() {
        let bytes = [&MAGIC[..], &[0xff; 60], &chunk(b"two")].concat();

        assert_eq!(found(&bytes), [(64, Some(b"two".to_vec())), (0, None)]);
    }

    #[test]
    fn a_torn_chunk_is_damage_to_the_end() {
        let bytes = chunk(b"payload");

        for len in 1..bytes.len() {
            assert_eq!(found(&bytes[..len]), [(len as u64, None)], "cut at {len}");
        }
    }
}
