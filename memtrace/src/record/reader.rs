//! Reads a recording, damaged or whole.
//!
//! Layer: codec. Input: bytes from any [`Read`]. Output: a [`Header`], [`Frame`]s, an [`End`], [`Recovery`].
//! Keeps: what cannot be read is a loss in the place where it is missing.
//! Not here: what frames mean (`decode`).

use std::{
    fmt,
    fs::File,
    io::{Read, Seek as _},
    path::Path,
    vec,
};

use serde::{Deserialize, Serialize};

use super::{
    End, FORMAT_VERSION, Header, MAGIC, RecordError,
    chunk::{Chunk, ChunkReader, Head, Kind},
    frames, symbols,
};
use crate::{
    decode::Frame,
    event::{Loss, LossCause, Symbols},
    order::WINDOW,
    units::Timestamp,
};

/// A recording that is being read.
pub struct Recording<R> {
    header: Header,
    chunks: ChunkReader<R>,
    /// Names of code, which stand at its end.
    symbols: Vec<Symbols>,
    /// Frames of the chunk at hand.
    frames: vec::IntoIter<Frame>,
    /// Latest time of the chunks so far.
    last: Timestamp,
    /// Whether something was missing since then.
    damaged: bool,
    end: Option<End>,
    recovery: Recovery,
    ended: bool,
}

/// How much of a recording could be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Recovery {
    /// Chunks that were read, the header and the end mark included.
    pub chunks_good: u64,
    /// Stretches of damage, each at least one chunk.
    pub chunks_lost: u64,
    /// Bytes of those stretches.
    pub bytes_lost: u64,
    /// Whether nothing was lost up to the end mark; false until it was read.
    pub complete: bool,
}

impl<R> fmt::Debug for Recording<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording")
            .field("header", &self.header)
            .field("recovery", &self.recovery)
            .finish_non_exhaustive()
    }
}

impl Recording<File> {
    /// Opens the recording at `path` and reads its header, and the names of code.
    pub fn open(path: &Path) -> Result<Self, RecordError> {
        Self::from_file(
            File::open(path).map_err(|source| RecordError::Open { path: path.to_owned(), source })?,
        )
    }

    /// Reads the header of the recording in `file`, and the names of code if it can be read twice.
    pub fn from_file(mut file: File) -> Result<Self, RecordError> {
        // They stand behind what they are of; a pipe is read only once.
        let symbols = if file.rewind().is_ok() { symbols::read(&file)? } else { Vec::new() };
        file.rewind()
            .or_else(|error| if symbols.is_empty() { Ok(()) } else { Err(RecordError::Read(error)) })?;
        Ok(Self { symbols, ..Self::from_reader(file)? })
    }
}

impl<R: Read> Recording<R> {
    /// Reads the header of the recording in `source`, which need not be buffered.
    pub fn from_reader(source: R) -> Result<Self, RecordError> {
        let mut chunks = ChunkReader::new(source).map_err(RecordError::Read)?;
        check_preamble(&mut chunks)?;
        let found = chunks.next().map_err(RecordError::Read)?;
        let (0, Some(Chunk { head: Head { kind: Kind::Header, .. }, plain, .. })) =
            (found.skipped, found.chunk)
        else {
            return Err(RecordError::TornHeader);
        };
        let header = parse_header(&plain)?;
        Ok(Self {
            last: header.host.start,
            header,
            chunks,
            symbols: Vec::new(),
            frames: Vec::new().into_iter(),
            damaged: false,
            end: None,
            recovery: Recovery { chunks_good: 1, ..Recovery::default() },
            ended: false,
        })
    }

    /// What was recorded, and with what.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The names of code; none if the source is read only once.
    pub fn symbols(&self) -> &[Symbols] {
        &self.symbols
    }

    /// Takes the names of code, which stand behind what they are of; none if the source is read only once.
    pub fn take_symbols(&mut self) -> Vec<Symbols> {
        std::mem::take(&mut self.symbols)
    }

    /// How recording ended; `None` until the last frame was read, and if the end mark is missing.
    pub const fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// What could be read so far.
    pub const fn recovery(&self) -> Recovery {
        self.recovery
    }

    /// The next frame, in arrival order; `None` at the end, for ever.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, RecordError> {
        loop {
            if let Some(frame) = self.frames.next() {
                return Ok(Some(frame));
            }
            if self.ended {
                return Ok(None);
            }
            self.frames = self.next_chunk()?.into_iter();
        }
    }

    /// The frames of the next chunk, led by the loss of what is missing before it.
    fn next_chunk(&mut self) -> Result<Vec<Frame>, RecordError> {
        let found = self.chunks.next().map_err(RecordError::Read)?;
        if found.skipped > 0 {
            self.note_damage(found.skipped);
        }
        let Some(Chunk { head, plain, most }) = found.chunk else {
            self.ended = true;
            return Ok(vec![self.loss(None)]);
        };
        let bytes = plain.len() as u64;
        let (frames, end) = match head.kind {
            Kind::Frames => (frames::decode(&plain, &head, most), None),
            Kind::End => (Some(Vec::new()), serde_json::from_slice(&plain).ok()),
            // Behind what is torn.
            Kind::Symbols => return Ok(Vec::new()),
            Kind::Header => (None, None),
        };
        let is_end = head.kind == Kind::End;
        let (Some(frames), true) = (frames, end.is_some() == is_end) else {
            self.note_damage(bytes);
            return Ok(Vec::new());
        };
        self.recovery.chunks_good += 1;
        let loss = self.damaged.then(|| self.loss(Some(head.first.after(WINDOW))));
        self.damaged = false;
        self.last = self.last.max(head.last);
        self.ended = is_end;
        self.end = end;
        self.recovery.complete = is_end && self.recovery.chunks_lost == 0;
        Ok(loss.into_iter().chain(frames).collect())
    }

    fn note_damage(&mut self, bytes: u64) {
        self.damaged = true;
        self.recovery.chunks_lost += 1;
        self.recovery.bytes_lost += bytes;
    }

    /// What is missing from here to `end`, or for ever. Events arrive up to [`WINDOW`] out of order, so some from before the
    /// last good chunk's end may be missing too.
    fn loss(&self, end: Option<Timestamp>) -> Frame {
        let start = self.last.before(WINDOW).max(self.header.host.start);
        Frame::Loss(Loss {
            start,
            end: end.map(|end| end.max(start)),
            cpu: None,
            cause: LossCause::TornTail,
            count: None,
        })
    }
}

/// Takes the magic and the version of the format, which must be ours.
pub(super) fn check_preamble<R: Read>(chunks: &mut ChunkReader<R>) -> Result<(), RecordError> {
    let magic = chunks.take_plain(MAGIC.len()).map_err(RecordError::Read)?;
    if magic.is_empty() {
        return Err(RecordError::Empty);
    }
    if !MAGIC.starts_with(magic) {
        return Err(RecordError::NotARecording);
    }
    let version = chunks.take_plain(size_of::<u32>()).map_err(RecordError::Read)?;
    let found = u32::from_le_bytes(version.try_into().map_err(|_| RecordError::TornHeader)?);
    if found != FORMAT_VERSION {
        return Err(RecordError::Format { found });
    }
    Ok(())
}

/// The part of a header that every build can read.
#[derive(Deserialize)]
struct Origin {
    memtrace_version: String,
}

fn parse_header(plain: &[u8]) -> Result<Header, RecordError> {
    let Origin { memtrace_version: recorder } =
        serde_json::from_slice(plain).map_err(|_| RecordError::TornHeader)?;
    serde_json::from_slice(plain).map_err(|_| RecordError::Header { recorder })
}
