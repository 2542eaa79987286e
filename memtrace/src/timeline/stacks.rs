//! Code that did something: stacks, by where their frames lie.

use std::sync::Arc;

use super::{CodeTotals, Module};
use crate::{
    event::{StackEnd, StackFrame},
    units::VirtAddr,
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
    /// Of the outermost frame, why there are no more.
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
