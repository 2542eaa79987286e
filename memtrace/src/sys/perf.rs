//! Opens events of perf, attaches programs to them, and finds out whether one goes on.
//!
//! Layer: shell. Input: an event, a program, a CPU. Output: a descriptor, or the kernel's error.
//! Source: `perf_event_open(2)`; `include/uapi/linux/perf_event.h`.
//! Keeps: the event of minor faults that is opened to try it is disabled: it counts nothing and runs nothing.
//! Not here: which events and programs (`live`), what events write (`sideband`).

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    ptr,
};

use rustix::{
    io::read,
    ioctl::{IntegerSetter, ioctl, opcode},
};

use super::opened;

/// `struct perf_event_attr` as of Linux 4.1, which made the clock a choice: 96 bytes.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct EventAttr {
    pub(super) kind: u32,
    pub(super) size: u32,
    pub(super) config: u64,
    pub(super) sample_period: u64,
    pub(super) sample_type: u64,
    pub(super) read_format: u64,
    pub(super) flags: u64,
    /// Bytes, where the flag `watermark` is set.
    pub(super) wakeup: u32,
    pub(super) bp_type: u32,
    pub(super) config1: u64,
    pub(super) config2: u64,
    pub(super) branch_sample_type: u64,
    pub(super) sample_regs_user: u64,
    pub(super) sample_stack_user: u32,
    pub(super) clock: i32,
}

const _: () = assert!(size_of::<EventAttr>() == EventAttr::SIZE as usize);

impl EventAttr {
    /// What `size` must say.
    pub(super) const SIZE: u32 = 96;
}

pub(super) const PERF_TYPE_SOFTWARE: u32 = 1;
const PERF_COUNT_SW_PAGE_FAULTS_MIN: u64 = 5;
/// An event that never occurs.
pub(super) const PERF_COUNT_SW_DUMMY: u64 = 9;

const EVERY_TASK: libc::pid_t = -1;
pub(super) const FLAG_DISABLED: u64 = 1 << 0;

/// Opens an event of the thread `tid` (0: the calling one; −1: every) on `cpu` (−1: any).
pub(super) fn open(attr: &EventAttr, tid: libc::pid_t, cpu: libc::c_int) -> io::Result<OwnedFd> {
    const NO_GROUP: libc::c_int = -1;
    const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 1 << 3;
    // SAFETY: the kernel only reads `attr`, of the size that it says.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            ptr::from_ref(attr),
            tid,
            cpu,
            NO_GROUP,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    // SAFETY: the call returns a new descriptor.
    unsafe { opened(fd) }
}

/// An open event: other files could take the same requests for something else.
#[derive(Debug)]
pub struct Event(OwnedFd);

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Opens the minor faults of the calling thread, those in kernel mode included, disabled.
pub fn open_minor_faults() -> io::Result<Event> {
    let attr = EventAttr {
        kind: PERF_TYPE_SOFTWARE,
        size: EventAttr::SIZE,
        config: PERF_COUNT_SW_PAGE_FAULTS_MIN,
        sample_period: 1,
        flags: FLAG_DISABLED,
        ..EventAttr::default()
    };
    let (this_thread, any_cpu) = (0, -1);
    open(&attr, this_thread, any_cpu).map(Event)
}

/// Makes `program` run at each occurrence of `event`.
pub fn set_program(event: &Event, program: &impl AsFd) -> io::Result<()> {
    const PERF_EVENT_IOC_SET_BPF: u32 = opcode::write::<u32>(b'$', 8);
    let program = program.as_fd().as_raw_fd().unsigned_abs() as usize;
    // SAFETY: the call takes the number of a descriptor of a loaded program and touches no memory.
    let call = unsafe { IntegerSetter::<PERF_EVENT_IOC_SET_BPF>::new_usize(program) };
    // SAFETY: as above, on an event of perf.
    unsafe { ioctl(event, call) }.map_err(io::Error::from)
}

/// Makes `program` run at each occurrence of the software event `config` on `cpu`, until the event is closed.
pub fn run_on_cpu(program: &impl AsFd, config: u64, cpu: u32) -> io::Result<Event> {
    let attr = EventAttr {
        kind: PERF_TYPE_SOFTWARE,
        size: EventAttr::SIZE,
        config,
        sample_period: 1,
        ..EventAttr::default()
    };
    let event = Event(open(&attr, EVERY_TASK, number_of(cpu)?)?);
    set_program(&event, program)?;
    Ok(event)
}

/// An event that never occurs on one CPU. It goes on until the CPU goes, and then no more.
#[derive(Debug)]
pub struct Presence {
    event: OwnedFd,
    /// For how long it was enabled when last read, in nanoseconds.
    enabled: u64,
}

impl Presence {
    /// Opens one on `cpu`; ENODEV if that is not there.
    pub fn open(cpu: u32) -> io::Result<Self> {
        const PERF_FORMAT_TOTAL_TIME_ENABLED: u64 = 1 << 0;
        let attr = EventAttr {
            kind: PERF_TYPE_SOFTWARE,
            size: EventAttr::SIZE,
            config: PERF_COUNT_SW_DUMMY,
            read_format: PERF_FORMAT_TOTAL_TIME_ENABLED,
            ..EventAttr::default()
        };
        Ok(Self { event: open(&attr, EVERY_TASK, number_of(cpu)?)?, enabled: 0 })
    }

    /// Whether it has gone on since it was asked before.
    pub fn goes_on(&mut self) -> bool {
        let mut words = [0; 16];
        let is_read = read(&self.event, &mut words).is_ok_and(|len| len == words.len());
        let (_occurred, enabled) = words.split_at(8);
        let enabled = enabled.try_into().map_or(0, u64::from_ne_bytes);
        is_read && enabled > std::mem::replace(&mut self.enabled, enabled)
    }
}

/// The number of a CPU as the kernel takes it; never negative, which would mean every one.
pub(super) fn number_of(cpu: u32) -> io::Result<libc::c_int> {
    libc::c_int::try_from(cpu).map_err(|_| io::ErrorKind::InvalidInput.into())
}
