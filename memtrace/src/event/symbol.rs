//! Words for the names that code has.

use std::sync::Arc;

use super::{Device, SpaceId};
use crate::units::Timestamp;

/// A file with code, or what stands in place of one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CodeFile {
    /// The file with this build ID.
    BuildId(Arc<[u8]>),
    /// A file without one, by its device and inode.
    Inode(Device, u64),
    /// The vDSO.
    Vdso,
    /// The kernel and its modules.
    Kernel,
    /// Memory of this address space that has no file, as what a just-in-time compiler makes.
    Memory(SpaceId),
}

/// A function that code belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Function {
    /// Its name, demangled; `None` if only its start is known.
    pub name: Option<Arc<[u8]>>,
    /// Bytes from its start to the code; `None` for a function that was inlined.
    pub offset: Option<u64>,
    /// The source file that the code comes from.
    pub source_file: Option<Arc<[u8]>>,
    /// The line in it.
    pub line: Option<u32>,
}

/// A stretch of a file that is mapped as code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeSegment {
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub len: u64,
    /// The address that it is linked at.
    pub addr: u64,
}

impl CodeSegment {
    /// The address that the byte at `offset` of the file is linked at, if it is one of these.
    #[must_use]
    pub fn linked(&self, offset: u64) -> Option<u64> {
        let inside = offset.checked_sub(self.offset).filter(|inside| *inside < self.len)?;
        Some(self.addr.wrapping_add(inside))
    }
}

/// Code that belongs to functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedCode {
    /// Its offset in the file, or its address where there is none.
    pub at: u64,
    /// When it came to be there: in memory without a file other code may take its place.
    pub since: Timestamp,
    /// The functions. Those that were inlined come first, innermost first; the last one is the function as it was compiled.
    pub functions: Arc<[Function]>,
}

impl NamedCode {
    /// Functions at one place at most: many times what compilers inline into each other.
    pub const MOST_FUNCTIONS: usize = 256;
}

/// Functions that code of one file belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbols {
    /// Which file.
    pub file: CodeFile,
    /// Where its code is linked: files with debug information alone do not say it. Empty if it has none.
    pub segments: Vec<CodeSegment>,
    /// The code, what came later at the same place behind what was there before.
    pub code: Vec<NamedCode>,
}
