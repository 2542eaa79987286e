//! Chunks: how they are framed, and how a reader finds the next good one after damage.
//!
//! Layer: codec. Input: payloads; any bytes. Output: framed chunks; [`Found`].
//! Keeps: a chunk is taken only if its checksums are right; no input makes it panic, and each byte is summed up once.
//! Not here: what payloads hold (`frames`, `reader`).
//!
//! The head, little-endian: magic, kind, stored bytes, plain bytes, items (`u32` each), first and last time in
//! nanoseconds since boot (`u64` each), CRC-32 of the stored payload, CRC-32 of the head before it. Payloads are zstd, and
//! end with a skippable frame where they would expand to more than [`MAX_RATIO`] allows.

use std::io::{self, Read, Write};

use zstd::bulk::{Compressor, Decompressor};

use super::RecordError;
use crate::units::Timestamp;

const MAGIC: [u8; 4] = *b"\xa9mtc";
const HEAD_LEN: usize = 44;
const CRC_AT: usize = HEAD_LEN - 4;

/// Most plain bytes of one chunk; bounds what a damaged length can make a reader do.
const MAX_BYTES: usize = 256 << 20;

/// Most bytes to which one stored byte expands. What is recorded compresses to a seventeenth at best, and zstd expands a
/// byte to more than 10,000: who sends a small file must not make its reader work for hours.
const MAX_RATIO: u64 = 64;

/// What skippable frames of zstd begin with (RFC 8878, section 3.1.2); their length follows as a `u32`.
const SKIPPABLE_MAGIC: u32 = 0x184d_2a50;
const SKIPPABLE_HEAD: u32 = 8;

/// Bytes read at once at most.
const READ_BYTES: usize = 256 << 10;

/// Fast, and within a tenth of what higher levels reach on columns.
const ZSTD_LEVEL: i32 = 1;

/// What a chunk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Header = 1,
    Frames = 2,
    End = 3,
    Symbols = 4,
}

impl Kind {
    fn from_raw(raw: u32) -> Option<Self> {
        [Self::Header, Self::Frames, Self::End, Self::Symbols].into_iter().find(|kind| *kind as u32 == raw)
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

    /// Writes one chunk, of which a reader will make `expanded` bytes.
    pub(super) fn write(&mut self, head: Head, plain: &[u8], expanded: u64) -> Result<(), RecordError> {
        let too_large = RecordError::ChunkTooLarge { bytes: plain.len() };
        let Some(plain_len) = u32::try_from(plain.len()).ok().filter(|_| plain.len() <= MAX_BYTES) else {
            return Err(too_large);
        };
        self.stored.clear();
        self.stored.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        self.compressor.compress_to_buffer(plain, &mut self.stored).map_err(RecordError::Write)?;
        let least = expanded.max(plain.len() as u64).div_ceil(MAX_RATIO);
        pad(&mut self.stored, least);
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
        bytes.extend(crc32fast::hash(&self.stored).to_le_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
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

/// Makes `stored` at least `len` bytes long, with a frame that zstd skips.
fn pad(stored: &mut Vec<u8>, len: u64) {
    let missing = len.saturating_sub(stored.len() as u64);
    if missing > 0 {
        // What is mapped of an address space of 2^57 bytes takes 32 MiB, by far the most.
        let skipped = u32::try_from(missing).unwrap_or(u32::MAX).saturating_sub(SKIPPABLE_HEAD);
        stored.extend(SKIPPABLE_MAGIC.to_le_bytes());
        stored.extend(skipped.to_le_bytes());
        stored.resize(stored.len() + skipped as usize, 0);
    }
}

/// The next good chunk, and the damage before it.
#[derive(Debug)]
pub(super) struct Found {
    /// Bytes that were no chunk.
    pub(super) skipped: u64,
    /// The chunk; `None` at the end of the file.
    pub(super) chunk: Option<Chunk>,
}

/// A chunk as it was read.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) head: Head,
    pub(super) plain: Vec<u8>,
    /// Most bytes that may be made of it.
    pub(super) most: u64,
}

/// What stands where a chunk is expected.
enum Next {
    Chunk(Chunk),
    /// A head that is right, and so many bytes that belong to it and are not.
    Damaged(usize),
    None,
}

/// Reads chunks, passing over what is none.
pub(super) struct ChunkReader<R> {
    source: R,
    decompressor: Decompressor<'static>,
    /// Read and not yet taken: `window[at..]`.
    window: Vec<u8>,
    at: usize,
    /// Whether all of the source is in the window.
    is_all: bool,
    /// Chunks of other kinds come without their payload, unless it is `None`.
    only: Option<Kind>,
}

impl<R: Read> ChunkReader<R> {
    pub(super) fn new(source: R) -> io::Result<Self> {
        let decompressor = Decompressor::new()?;
        Ok(Self { source, decompressor, window: Vec::new(), at: 0, is_all: false, only: None })
    }

    /// Reads the payloads of chunks of this kind alone.
    pub(super) fn only(kind: Kind, source: R) -> io::Result<Self> {
        Ok(Self { only: Some(kind), ..Self::new(source)? })
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
            let bytes = match self.take_chunk()? {
                Next::Chunk(chunk) => return Ok(Found { skipped, chunk: Some(chunk) }),
                Next::Damaged(bytes) => bytes,
                Next::None => self.skip_to_magic()?,
            };
            if bytes == 0 {
                return Ok(Found { skipped, chunk: None });
            }
            skipped += bytes as u64;
        }
    }

    /// Reads until `len` bytes lie in the window or the file ends; returns how many do. It takes what there is and does not wait
    /// for more: the source may be a pipe, or a file that still grows.
    fn fill(&mut self, len: usize) -> io::Result<usize> {
        while self.window.len() - self.at < len && !self.is_all {
            self.window.drain(..self.at);
            self.at = 0;
            let ready = self.window.len();
            self.window.resize(ready + READ_BYTES, 0);
            let read = self.source.read(&mut self.window[ready..]);
            self.window.truncate(ready + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(read) => self.is_all = read == 0,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.window.len() - self.at)
    }

    /// Takes the chunk that begins here, or what is left of it.
    ///
    /// A head whose checksum is right says how long its payload is. To search that for heads again would let heads that lie
    /// within each other's payloads cost the square of their number.
    fn take_chunk(&mut self) -> io::Result<Next> {
        if self.fill(HEAD_LEN)? < HEAD_LEN {
            return Ok(Next::None);
        }
        let Some(Lengths { head, stored: stored_len, plain: plain_len, payload_crc }) =
            parse_head(&self.window[self.at..])
        else {
            return Ok(Next::None);
        };
        let len = HEAD_LEN + stored_len;
        if self.fill(len)? < len {
            return Ok(Next::None);
        }
        if self.only.is_some_and(|only| only != head.kind) {
            self.at += len;
            return Ok(Next::Chunk(Chunk { head, plain: Vec::new(), most: 0 }));
        }
        let stored = &self.window[self.at + HEAD_LEN..self.at + len];
        let most = stored_len as u64 * MAX_RATIO;
        let is_right = crc32fast::hash(stored) == payload_crc && plain_len as u64 <= most;
        let plain = is_right.then(|| self.decompressor.decompress(stored, plain_len).ok()).flatten();
        self.at += len;
        Ok(plain.map_or(Next::Damaged(len), |plain| Next::Chunk(Chunk { head, plain, most })))
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

/// What a head says.
struct Lengths {
    head: Head,
    stored: usize,
    plain: usize,
    payload_crc: u32,
}

/// The head at the start of `bytes`; `None` if there is none.
fn parse_head(bytes: &[u8]) -> Option<Lengths> {
    let (summed, mut crc) = bytes.get(..HEAD_LEN)?.split_at(CRC_AT);
    let mut rest = summed.strip_prefix(&MAGIC)?;
    if take_u32(&mut crc)? != crc32fast::hash(summed) {
        return None;
    }
    let kind = Kind::from_raw(take_u32(&mut rest)?)?;
    let stored = take_u32(&mut rest)? as usize;
    let plain = take_u32(&mut rest)? as usize;
    let items = take_u32(&mut rest)?;
    let first = take_u64(&mut rest)?;
    let last = take_u64(&mut rest)?;
    let payload_crc = take_u32(&mut rest)?;
    let sane = plain <= MAX_BYTES && stored <= zstd::zstd_safe::compress_bound(MAX_BYTES);
    sane.then_some(Lengths { head: Head { kind, items, first, last }, stored, plain, payload_crc })
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
        writer.write(head, payload, 0).expect("a Vec takes everything");
        writer.into_sink()
    }

    fn found(bytes: &[u8]) -> Vec<(u64, Option<Vec<u8>>)> {
        let mut reader = ChunkReader::new(bytes).expect("zstd is there");
        let mut all = Vec::new();
        loop {
            let found = reader.next().expect("a slice can be read");
            let plain = found.chunk.map(|chunk| chunk.plain);
            let end = plain.is_none();
            all.push((found.skipped, plain));
            if end {
                return all;
            }
        }
    }

    /// Has a byte at a time, and for a moment none before each.
    struct Trickle<'a>(&'a [u8], bool);

    impl Read for Trickle<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 { Err(io::ErrorKind::WouldBlock.into()) } else { self.0.read(&mut into[..1]) }
        }
    }

    #[test]
    fn chunk_is_found_as_soon_as_it_is_there_and_after_errors_reading_goes_on() {
        let (one, two) = (chunk(b"one"), chunk(b"two"));
        let both = [&one[..], &two].concat();
        let mut reader = ChunkReader::new(Trickle(&both, false)).expect("zstd is there");

        let mut waits = 0;
        let found = loop {
            match reader.next() {
                Ok(found) => break found.chunk,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            waits += 1;
        };

        assert_eq!(found.map(|chunk| chunk.plain), Some(b"one".to_vec()));
        assert_eq!(waits, one.len(), "nothing of the next one was waited for");
    }

    #[test]
    fn head_is_44_bytes_and_the_payload_follows() {
        let bytes = chunk(b"");

        assert_eq!(bytes[..4], MAGIC);
        assert_eq!(bytes[4..8], [2, 0, 0, 0]);
        assert_eq!(bytes[16..20], [7, 0, 0, 0]);
        assert_eq!(bytes[8..12], u32::try_from(bytes.len() - 44).expect("small").to_le_bytes());
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
    fn heads_within_a_damaged_payload_are_not_read() {
        // Each of them says that all that follows is its payload.
        let heads: Vec<_> = (0..3_usize).map(|heads| chunk(&vec![7; 4096 * heads])[..44].to_vec()).collect();
        let mut bytes = chunk(&heads.concat());
        *bytes.last_mut().expect("a payload") ^= 1;
        let damaged = bytes.len() as u64;
        bytes.extend(chunk(b"next"));

        assert_eq!(found(&bytes), [(damaged, Some(b"next".to_vec())), (0, None)]);
    }

    #[test]
    fn a_payload_that_expands_beyond_the_ratio_is_damage() {
        let zeros = vec![0; 1 << 20];
        let whole = chunk(&zeros);
        assert!(whole.len() >= zeros.len() / 64, "padded to {} bytes", whole.len());
        assert_eq!(found(&whole), [(0, Some(zeros.clone())), (0, None)]);

        let stored = zstd::bulk::compress(&zeros, 1).expect("zstd takes everything");
        let mut bytes = whole[..8].to_vec();
        bytes.extend(u32::try_from(stored.len()).expect("small").to_le_bytes());
        bytes.extend(&whole[12..36]);
        bytes.extend(crc32fast::hash(&stored).to_le_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes.extend(stored);
        assert_eq!(found(&bytes), [(bytes.len() as u64, None)]);
    }

    #[test]
    fn a_torn_chunk_is_damage_to_the_end() {
        let bytes = chunk(b"payload");

        for len in 1..bytes.len() {
            assert_eq!(found(&bytes[..len]), [(len as u64, None)], "cut at {len}");
        }
    }
}
