//! Stacks, and the files that their code is of.

use memtrace_ebpf::{BuildIdEvent, FrameWord, StackEvent};

use crate::{
    event::{BuildId, Device, SpaceId, Stack, StackEnd, StackFrame, StackId},
    units::{Timestamp, VirtAddr},
};

/// A stack and its frames.
pub(super) fn stack(bytes: &[u8]) -> Option<Stack> {
    let StackEvent { header, space, stack, end, count } = StackEvent::from_bytes(bytes)?;
    let (words, _) = bytes.get(StackEvent::LEN..)?.as_chunks::<8>();
    let words = words.get(..usize::try_from(count).ok()?)?.iter().map(|word| u64::from_ne_bytes(*word));
    let frame = |word: u64| StackFrame {
        addr: VirtAddr::from_raw(word & FrameWord::ADDRESS),
        is_return: word & FrameWord::IS_RETURN != 0,
        by_frame_pointer: word & FrameWord::BY_FRAME_POINTER != 0,
    };
    Some(Stack {
        time: Timestamp::from_nanos(header.time_ns),
        space: SpaceId(space),
        id: StackId::from_raw(stack)?,
        frames: words.map(frame).collect(),
        end: stack_end(end)?,
    })
}

fn stack_end(end: memtrace_ebpf::StackEnd) -> Option<StackEnd> {
    match end {
        memtrace_ebpf::StackEnd::ROOT => Some(StackEnd::Root),
        memtrace_ebpf::StackEnd::TOO_DEEP => Some(StackEnd::TooDeep),
        memtrace_ebpf::StackEnd::UNREADABLE => Some(StackEnd::Unreadable),
        memtrace_ebpf::StackEnd::NO_RULE => Some(StackEnd::NoRule),
        memtrace_ebpf::StackEnd::NO_UNWIND_INFORMATION => Some(StackEnd::NoUnwindInformation),
        memtrace_ebpf::StackEnd::UNSUPPORTED => Some(StackEnd::Unsupported),
        memtrace_ebpf::StackEnd::BEYOND_DUMP => Some(StackEnd::BeyondDump),
        memtrace_ebpf::StackEnd::NO_CODE => Some(StackEnd::NoCode),
        memtrace_ebpf::StackEnd::NO_FRAME_POINTER => Some(StackEnd::NoFramePointer),
        memtrace_ebpf::StackEnd::ASTRAY => Some(StackEnd::Astray),
        memtrace_ebpf::StackEnd::NO_FILE => Some(StackEnd::NoFile),
        _ => None,
    }
}

/// A device as the kernel numbers it inside: the minor number is the low 20 bits.
fn device_of(device: u64) -> Option<Device> {
    Some((u32::try_from(device >> 20).ok()?, u32::try_from(device & 0xf_ffff).ok()?))
}

/// The build ID of a file.
pub(super) fn build_id(bytes: &[u8]) -> Option<BuildId> {
    let BuildIdEvent { header, device, inode, build_id_len, build_id } = BuildIdEvent::from_bytes(bytes)?;
    let id = build_id.get(..usize::try_from(build_id_len).ok()?)?;
    let time = Timestamp::from_nanos(header.time_ns);
    Some(BuildId { time, file: (device_of(device)?, inode), id: id.into() })
}
