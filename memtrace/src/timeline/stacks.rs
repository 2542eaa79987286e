//! Code that did something: stacks, by where their frames lie.

use std::sync::Arc;

use super::{CodeTotals, Module};
use crate::{
    event::{Comm, Function, StackEnd, StackFrame},
    units::{PageCount, VirtAddr},
};

/// Where an instruction lies, whatever address its file is mapped at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CodePlace {
    /// The region; `None` if no known one held it.
    pub module: Option<Module>,
    /// Where it is in the file, or its address where there is no file.
    pub position: CodePosition,
    /// What distinguishes the file from others of its name; `None` if it has nothing, or was not read.
    pub build_id: Option<Arc<[u8]>>,
    /// The functions that it belongs to, inlined ones first; empty if none is known.
    pub functions: Arc<[Function]>,
}

impl CodePlace {
    /// Name of the function as it was compiled, if it is known.
    #[must_use]
    pub fn function(&self) -> Option<&Arc<[u8]>> {
        self.functions.last()?.name.as_ref()
    }
}

/// A place in a file, or in memory that has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CodePosition {
    /// Bytes from the start of the file.
    InFile(u64),
    /// An address.
    At(VirtAddr),
}

/// A frame of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameRow {
    /// Number of the stack.
    pub stack: u64,
    /// Frames below it: 0 is the innermost one.
    pub depth: u64,
    /// Where it is.
    pub frame: StackFrame,
    /// Where that lies.
    pub place: CodePlace,
    /// The function there; several rows of a frame have those that were inlined first.
    pub function: Function,
    /// Whether that was inlined into the one of the next row.
    pub inlined: bool,
    /// Of the last row, why there are no more.
    pub end: Option<StackEnd>,
}

/// Completed faults with one stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackTotals {
    /// Number of the stack.
    pub stack: u64,
    /// Where its frames lie, innermost first.
    pub places: Arc<[CodePlace]>,
    /// Why there are no more.
    pub end: StackEnd,
    /// Faults and their stall.
    pub totals: CodeTotals,
}

/// Pages that faults brought to processes of one name, and that were there at the end, of the recording or of the address space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResidentPages {
    /// Name of the processes, if it is known.
    pub process: Option<Comm>,
    /// Number of the stack of these faults.
    pub stack: u64,
    /// How many.
    pub pages: PageCount,
}
