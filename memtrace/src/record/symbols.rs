//! Names of code as a recording has them: behind the end mark, where earlier builds stop reading.
//!
//! Layer: codec. Input: [`Symbols`]. Output: payloads of chunks, and back.
//! Source: the postcard wire format.
//! Keeps: who adds names to a recording appends to it. The layout grows only as those in `wire` do.
//! Not here: framing (`chunk`).

use std::{
    io::{Read, Write},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    RecordError,
    chunk::{ChunkReader, ChunkWriter, Head, Kind},
    reader::check_preamble,
    wire,
};
use crate::{
    event::{self, CodeFile, CodeSegment, Device, NamedCode, SpaceId, Symbols},
    units::Timestamp,
};

/// Places in code of one file in one chunk at most, and bytes of their names after which it is full.
const FULL: usize = 16 << 10;
const FULL_BYTES: usize = 4 << 20;

/// Names of code of one file.
#[derive(Serialize, Deserialize)]
struct Named {
    file: File,
    /// Offset, length, and address of each.
    segments: Vec<(u64, u64, u64)>,
    /// Place and functions of each.
    code: Vec<(u64, Vec<Function>)>,
    /// Since when each is there.
    since: Vec<u64>,
}

/// Which file has the code, or what stands in place of one.
#[derive(Serialize, Deserialize)]
enum File {
    BuildId(Vec<u8>),
    Inode(Device, u64),
    Vdso,
    Kernel,
    Memory(u64),
}

/// A function that code belongs to.
#[derive(Serialize, Deserialize)]
struct Function {
    name: Option<Vec<u8>>,
    offset: Option<u64>,
    source_file: Option<Vec<u8>>,
    line: Option<u32>,
}

/// Appends `symbols` to the recording that `sink` has, and flushes it.
pub fn add_symbols<W: Write>(sink: W, symbols: &[Symbols]) -> Result<(), RecordError> {
    let mut chunks = ChunkWriter::new(sink)?;
    let time = Timestamp::default();
    for Symbols { file, segments, code } in symbols {
        let mut left = &code[..];
        while !left.is_empty() {
            let (code, rest) = left.split_at(fitting(left));
            left = rest;
            let part = Symbols { file: file.clone(), segments: segments.clone(), code: code.to_vec() };
            let mut plain = Vec::new();
            wire::put(&Named::of(&part), &mut plain);
            chunks.write(Head { kind: Kind::Symbols, items: 1, first: time, last: time }, &plain, 0)?;
        }
    }
    chunks.flush()
}

/// How many places fill a chunk, one at least.
fn fitting(code: &[NamedCode]) -> usize {
    let bytes = |text: &Option<Arc<[u8]>>| text.as_ref().map_or(0, |text| text.len());
    let mut sum = 0;
    let fits = code.iter().take(FULL).take_while(|code| {
        let functions = code.functions.iter();
        let is_within = sum < FULL_BYTES;
        sum += functions.map(|function| bytes(&function.name) + bytes(&function.source_file)).sum::<usize>();
        is_within
    });
    fits.count()
}

/// All names in the recording that `source` is, in order, wherever they stand.
pub(super) fn read<R: Read>(source: R) -> Result<Vec<Symbols>, RecordError> {
    let mut symbols = Vec::new();
    let mut chunks = ChunkReader::only(Kind::Symbols, source).map_err(RecordError::Read)?;
    check_preamble(&mut chunks)?;
    while let Some(chunk) = chunks.next().map_err(RecordError::Read)?.chunk {
        if chunk.head.kind == Kind::Symbols {
            symbols.extend(wire::take::<Named>(&chunk.plain).map(Named::into_event));
        }
    }
    Ok(symbols)
}

impl Named {
    fn of(symbols: &Symbols) -> Self {
        let file = match &symbols.file {
            CodeFile::BuildId(id) => File::BuildId(id.to_vec()),
            CodeFile::Inode(device, inode) => File::Inode(*device, *inode),
            CodeFile::Vdso => File::Vdso,
            CodeFile::Kernel => File::Kernel,
            CodeFile::Memory(space) => File::Memory(space.0),
        };
        let segments =
            symbols.segments.iter().map(|CodeSegment { offset, len, addr }| (*offset, *len, *addr));
        let code = symbols.code.iter();
        let code = code.map(|code| (code.at, code.functions.iter().map(Function::of).collect()));
        let since = symbols.code.iter().map(|code| code.since.as_nanos());
        Self { file, segments: segments.collect(), code: code.collect(), since: since.collect() }
    }

    fn into_event(self) -> Symbols {
        let file = match self.file {
            File::BuildId(id) => CodeFile::BuildId(id.into()),
            File::Inode(device, inode) => CodeFile::Inode(device, inode),
            File::Vdso => CodeFile::Vdso,
            File::Kernel => CodeFile::Kernel,
            File::Memory(space) => CodeFile::Memory(SpaceId(space)),
        };
        let segments = self.segments.into_iter();
        let segments = segments.map(|(offset, len, addr)| CodeSegment { offset, len, addr });
        let code = self.code.into_iter().zip(self.since);
        let code = code.filter(|((_, functions), _)| functions.len() <= NamedCode::MOST_FUNCTIONS);
        let code = code.map(|((at, functions), since)| NamedCode {
            at,
            since: Timestamp::from_nanos(since),
            functions: functions.into_iter().map(Function::into_event).collect(),
        });
        Symbols { file, segments: segments.collect(), code: code.collect() }
    }
}

impl Function {
    fn of(function: &event::Function) -> Self {
        let event::Function { name, offset, source_file, line } = function;
        let bytes = |text: &Option<Arc<[u8]>>| text.as_ref().map(|text| text.to_vec());
        Self { name: bytes(name), offset: *offset, source_file: bytes(source_file), line: *line }
    }

    fn into_event(self) -> event::Function {
        let Self { name, offset, source_file, line } = self;
        event::Function { name: name.map(Arc::from), offset, source_file: source_file.map(Arc::from), line }
    }
}
