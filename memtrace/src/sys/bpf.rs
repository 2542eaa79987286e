//! Loads and attaches programs that do nothing, to learn what the kernel lets this process do and how it calls them.
//!
//! Layer: shell. Input: a type of program, the name of a raw tracepoint. Output: descriptors, or the kernel's error.
//! Source: `bpf(2)`; `union bpf_attr` of `include/uapi/linux/bpf.h`.
//! Keeps: what is attached is detached when its descriptor is dropped.
//! Not here: memtrace's own programs (`live`).

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    ptr,
};

use super::opened;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_int = 17;

/// A type of program; the discriminant is the kernel's `enum bpf_prog_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ProgramType {
    /// For classic tracepoints.
    Tracepoint = 5,
    /// For events of perf.
    PerfEvent = 7,
    /// For raw tracepoints.
    RawTracepoint = 17,
}

/// `struct bpf_insn`, the registers in one byte.
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// `r0 = 0`: a move of 64 bits.
const ZERO: Instruction = Instruction { code: 0xb7, registers: 0, offset: 0, immediate: 0 };
/// `return r0`.
const EXIT: Instruction = Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 };
/// Bytes of each argument in the context of a raw tracepoint.
const ARGUMENT_LEN: i16 = 8;

/// `r0 = *(u64 *)(r1 + offset)`, with r1 the context.
const fn load_argument(index: u8) -> Instruction {
    Instruction { code: 0x79, registers: 1 << 4, offset: index as i16 * ARGUMENT_LEN, immediate: 0 }
}

/// The part of `union bpf_attr` for `BPF_PROG_LOAD` that every kernel since 4.17 knows.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// The part of `union bpf_attr` for `BPF_RAW_TRACEPOINT_OPEN`.
#[repr(C)]
struct AttachAttr {
    name: u64,
    prog_fd: u32,
    padding: u32,
}

const _: () = assert!(size_of::<LoadAttr>() == 48);
const _: () = assert!(size_of::<AttachAttr>() == 16);

/// A loaded program that returns 0, and does nothing else of interest.
#[derive(Debug)]
pub struct EmptyProgram(OwnedFd);

impl EmptyProgram {
    /// Loads one of type `ty`.
    pub fn load(ty: ProgramType) -> io::Result<Self> {
        Self::load_instructions(ty, &[ZERO, EXIT])
    }

    /// Loads one for raw tracepoints that have an argument `index`, from 0: those with fewer refuse it with `EINVAL`.
    pub fn load_with_argument(index: u8) -> io::Result<Self> {
        Self::load_instructions(ProgramType::RawTracepoint, &[load_argument(index), ZERO, EXIT])
    }

    fn load_instructions(ty: ProgramType, instructions: &[Instruction]) -> io::Result<Self> {
        let attr = LoadAttr {
            prog_type: ty as u32,
            insn_cnt: u32::try_from(instructions.len()).unwrap_or(u32::MAX),
            insns: instructions.as_ptr().expose_provenance() as u64,
            license: c"GPL".as_ptr().expose_provenance() as u64,
            ..LoadAttr::default()
        };
        // SAFETY: the kernel only reads `attr`, the instructions and the licence, all of which outlive the call.
        let fd = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, ptr::from_ref(&attr), size_of::<LoadAttr>())
        };
        // SAFETY: BPF_PROG_LOAD returns a new descriptor.
        unsafe { opened(fd) }.map(Self)
    }

    /// Attaches a raw-tracepoint program to the tracepoint `name`, until the descriptor is dropped.
    pub fn attach_raw(&self, name: &CStr) -> io::Result<OwnedFd> {
        let attr = AttachAttr {
            name: name.as_ptr().expose_provenance() as u64,
            prog_fd: self.0.as_raw_fd().cast_unsigned(),
            padding: 0,
        };
        // SAFETY: the kernel only reads `attr` and the name.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_RAW_TRACEPOINT_OPEN,
                ptr::from_ref(&attr),
                size_of::<AttachAttr>(),
            )
        };
        // SAFETY: BPF_RAW_TRACEPOINT_OPEN returns a new descriptor.
        unsafe { opened(fd) }
    }
}

impl AsFd for EmptyProgram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
