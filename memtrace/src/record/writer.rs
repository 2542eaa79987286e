//! Writes a recording.
//!
//! Layer: codec. Input: a [`Header`], [`Frame`]s, an [`End`]. Output: bytes into any [`Write`].
//! Keeps: what was flushed can be read whatever happens next.
//! Not here: when to flush (`session`).

use std::{fmt, io::Write};

use serde::Serialize;

use super::{
    End, FORMAT_VERSION, Header, MAGIC, RecordError,
    chunk::{ChunkWriter, Head, Kind},
    frames::Pending,
};
use crate::{decode::Frame, units::Timestamp};

/// A recording that is being written.
pub struct Writer<W> {
    chunks: ChunkWriter<W>,
    pending: Pending,
    plain: Vec<u8>,
    last: Timestamp,
}

impl<W> fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("last", &self.last).finish_non_exhaustive()
    }
}

impl<W: Write> Writer<W> {
    /// Begins a recording in `sink` and flushes its header.
    pub fn new(sink: W, header: &Header) -> Result<Self, RecordError> {
        let start = header.host.start;
        let mut writer = Self {
            chunks: ChunkWriter::new(sink)?,
            pending: Pending::default(),
            plain: Vec::new(),
            last: start,
        };
        writer.chunks.write_plain(&MAGIC)?;
        writer.chunks.write_plain(&FORMAT_VERSION.to_le_bytes())?;
        writer.write_json(Kind::Header, start, header)?;
        writer.chunks.flush()?;
        Ok(writer)
    }

    /// Adds a frame; writes a chunk when enough have come together.
    pub fn append(&mut self, frame: &Frame) -> Result<(), RecordError> {
        self.pending.push(frame);
        if self.pending.is_full() { self.write_pending() } else { Ok(()) }
    }

    /// Writes what has come together and flushes the sink: all frames so far outlive the recorder.
    pub fn flush(&mut self) -> Result<(), RecordError> {
        self.write_pending()?;
        self.chunks.flush()
    }

    /// Writes the end mark, flushes, and gives the sink back, for what is added behind it.
    pub fn finish(mut self, end: &End) -> Result<W, RecordError> {
        self.write_pending()?;
        self.write_json(Kind::End, end.time, end)?;
        self.chunks.flush()?;
        Ok(self.chunks.into_sink())
    }

    fn write_pending(&mut self) -> Result<(), RecordError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let expanded = self.pending.expanded();
        let head = self.pending.take(self.last, &mut self.plain);
        self.last = self.last.max(head.last);
        self.chunks.write(head, &self.plain, expanded)
    }

    fn write_json(&mut self, kind: Kind, time: Timestamp, value: &impl Serialize) -> Result<(), RecordError> {
        let plain = serde_json::to_vec(value).map_err(|error| RecordError::Write(error.into()))?;
        self.chunks.write(Head { kind, items: 0, first: time, last: time }, &plain, 0)
    }
}
