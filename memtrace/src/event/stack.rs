//! Words for what code did something.

use std::num::NonZeroU64;

use super::{Device, SpaceId};
use crate::units::{Timestamp, VirtAddr};

/// The stack of a thread in user mode, as events name it; [`Stack`] has its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StackId(NonZeroU64);

impl StackId {
    /// The stack with this number; `None` for 0, which is an unknown one.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Option<Self> {
        match NonZeroU64::new(raw) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }
}

/// A stack that events name from this time on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// When it was seen first.
    pub time: Timestamp,
    /// Address space of its thread.
    pub space: SpaceId,
    /// How events name it.
    pub id: StackId,
    /// Innermost first.
    pub frames: Box<[StackFrame]>,
    /// Why there are no more.
    pub end: StackEnd,
}

/// A frame of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StackFrame {
    /// Program counter.
    pub addr: VirtAddr,
    /// Whether a call returns there; else it is being executed, or was when a signal interrupted it.
    pub is_return: bool,
    /// Whether it was found by the frame pointer: the code that it called has no unwind information.
    pub by_frame_pointer: bool,
}

impl StackFrame {
    /// An address in the instruction that is being executed: a call that does not return may be the last one of its function.
    #[must_use]
    pub const fn instruction(self) -> VirtAddr {
        VirtAddr::from_raw(self.addr.as_raw().wrapping_sub(self.is_return as u64))
    }
}

/// Why a stack has no more frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StackEnd {
    /// The thread began there.
    Root,
    /// There are more frames than are looked for.
    TooDeep,
    /// The stack cannot be read there.
    Unreadable,
    /// It was not known yet how to go on, and there was no room to find out.
    NoRule,
    /// The file has no unwind information for this code.
    NoUnwindInformation,
    /// The unwind information is of an unusual kind.
    Unsupported,
    /// The stack goes on beyond the bytes that are copied to find out how.
    BeyondDump,
    /// No code is mapped there.
    NoCode,
    /// The code has no unwind information, and the frame pointer points at no frame.
    NoFramePointer,
    /// The next frame would not lie above.
    Astray,
    /// The file of the code could not be read.
    NoFile,
}

impl StackEnd {
    /// The word for it in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::TooDeep => "too_deep",
            Self::Unreadable => "unreadable",
            Self::NoRule => "no_rule",
            Self::NoUnwindInformation => "no_unwind_information",
            Self::Unsupported => "unsupported",
            Self::BeyondDump => "beyond_dump",
            Self::NoCode => "no_code",
            Self::NoFramePointer => "no_frame_pointer",
            Self::Astray => "astray",
            Self::NoFile => "no_file",
        }
    }
}

/// The build ID of a file, by which it is distinguished from others of its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildId {
    /// When it was read.
    pub time: Timestamp,
    /// The file: its device and inode.
    pub file: (Device, u64),
    /// `NT_GNU_BUILD_ID`
    pub id: Box<[u8]>,
}
