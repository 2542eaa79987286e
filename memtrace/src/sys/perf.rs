//! Opens an event of perf and attaches a program to it, to learn whether this process may.
//!
//! Layer: shell. Input: an event, a program. Output: a descriptor, or the kernel's error.
//! Source: `perf_event_open(2)`; `include/uapi/linux/perf_event.h`.
//! Keeps: the event is disabled: it counts nothing and runs nothing.
//! Not here: the events that programs are attached to (`live`).

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    ptr,
};

use rustix::ioctl::{IntegerSetter, ioctl, opcode};

use super::opened;

/// `struct perf_event_attr` as first published: 64 bytes.
#[repr(C)]
#[derive(Debug, Default)]
struct EventAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    config1: u64,
}

const _: () = assert!(size_of::<EventAttr>() == 64);

const PERF_TYPE_SOFTWARE: u32 = 1;
const PERF_COUNT_SW_PAGE_FAULTS_MIN: u64 = 5;
const FLAG_DISABLED: u64 = 1 << 0;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 1 << 3;

/// Opens the minor faults of the calling thread, those in kernel mode included, disabled.
pub fn open_minor_faults() -> io::Result<OwnedFd> {
    let attr = EventAttr {
        kind: PERF_TYPE_SOFTWARE,
        size: 64,
        config: PERF_COUNT_SW_PAGE_FAULTS_MIN,
        sample_period: 1,
        flags: FLAG_DISABLED,
        ..EventAttr::default()
    };
    let (this_thread, any_cpu, no_group) = (0, -1, -1);
    // SAFETY: the kernel only reads `attr`, of the size that it says.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            ptr::from_ref(&attr),
            this_thread,
            any_cpu,
            no_group,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    // SAFETY: the call returns a new descriptor.
    unsafe { opened(fd) }
}

/// Makes `program` run at each occurrence of `event`.
pub fn set_program(event: &OwnedFd, program: &impl AsFd) -> io::Result<()> {
    const PERF_EVENT_IOC_SET_BPF: u32 = opcode::write::<u32>(b'$', 8);
    let program = program.as_fd().as_raw_fd().unsigned_abs() as usize;
    // SAFETY: the call takes the number of a descriptor of a loaded program and touches no memory.
    let call = unsafe { IntegerSetter::<PERF_EVENT_IOC_SET_BPF>::new_usize(program) };
    // SAFETY: as above, on an event of perf.
    unsafe { ioctl(event, call) }.map_err(io::Error::from)
}
