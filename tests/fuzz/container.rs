//! A recording as chunks that can be changed, and written with checksums that are right again.
//!
//! Source: the layouts in `memtrace::record`, written once more: what reads a layout cannot find its own mistakes.

/// The magic and the version of the format.
const PREAMBLE_LEN: usize = 12;
const CHUNK_MAGIC: [u8; 4] = *b"\xa9mtc";
const HEAD_LEN: usize = 44;

/// What `memtrace::record` calls frames chunks.
pub(crate) const FRAMES: u32 = 2;

/// A recording.
#[derive(Clone)]
pub(crate) struct Container {
    preamble: Vec<u8>,
    pub(crate) chunks: Vec<Chunk>,
}

/// One chunk, its payload not compressed.
#[derive(Clone)]
pub(crate) struct Chunk {
    pub(crate) kind: u32,
    pub(crate) items: u32,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) plain: Vec<u8>,
    /// What the head says the length of `plain` is, if that is not so.
    pub(crate) claimed: Option<u32>,
}

impl Container {
    /// The recording in `bytes`, which must be whole.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let (preamble, mut rest) = bytes.split_at(PREAMBLE_LEN);
        let mut chunks = Vec::new();
        while !rest.is_empty() {
            assert!(rest.starts_with(&CHUNK_MAGIC), "a chunk");
            let u32_at = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().expect("4 bytes"));
            let u64_at = |at: usize| u64::from_le_bytes(rest[at..at + 8].try_into().expect("8 bytes"));
            let (stored_len, plain_len) = (u32_at(8) as usize, u32_at(12) as usize);
            let stored = &rest[HEAD_LEN..HEAD_LEN + stored_len];
            chunks.push(Chunk {
                kind: u32_at(4),
                items: u32_at(16),
                first: u64_at(20),
                last: u64_at(28),
                plain: zstd::bulk::decompress(stored, plain_len).expect("a payload"),
                claimed: None,
            });
            rest = &rest[HEAD_LEN + stored_len..];
        }
        Self { preamble: preamble.to_vec(), chunks }
    }

    /// The file.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let chunks = self.chunks.iter().map(Chunk::to_bytes);
        [self.preamble.clone()].into_iter().chain(chunks).flatten().collect()
    }
}

impl Chunk {
    fn to_bytes(&self) -> Vec<u8> {
        let stored = zstd::bulk::compress(&self.plain, 1).expect("zstd takes everything");
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).expect("chunks are small");
        let mut bytes = CHUNK_MAGIC.to_vec();
        for field in [self.kind, len(&stored), self.claimed.unwrap_or(len(&self.plain)), self.items] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(self.first.to_le_bytes());
        bytes.extend(self.last.to_le_bytes());
        bytes.extend(crc32fast::hash(&stored).to_le_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes.extend(stored);
        bytes
    }
}
