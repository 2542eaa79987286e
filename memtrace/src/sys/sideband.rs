//! The side-band of perf on one CPU: the kernel writes a record for each VMA that comes or changes into a ring.
//!
//! Layer: shell. Input: threads to follow. Output: `PERF_RECORD_*` byte for byte.
//! Source: `perf_event_open(2)`; `include/uapi/linux/perf_event.h`; `kernel/events/ring_buffer.c`.
//! Keeps: what is read is whole records; a full ring drops new ones, which the kernel announces in the next.
//! Not here: what records mean (`decode`), the rings of all CPUs (`live`).

use std::{
    ffi::c_void,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    ptr::{self, NonNull},
    slice,
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::{
    ioctl::{IntegerSetter, ioctl, opcode},
    mm::{MapFlags, ProtFlags, mmap, munmap},
    param::page_size,
};

use super::perf::{self, EventAttr, FLAG_DISABLED, PERF_COUNT_SW_DUMMY, PERF_TYPE_SOFTWARE};

/// Bytes of the longest record: `PERF_RECORD_MMAP2` with a path of `PATH_MAX` and the trailer of `sample_id_all`.
const LONGEST_RECORD: u64 = 72 + 4096 + 24;

const SAMPLE_TID: u64 = 1 << 1;
const SAMPLE_TIME: u64 = 1 << 2;
const SAMPLE_CPU: u64 = 1 << 7;

const FLAG_INHERIT: u64 = 1 << 1;
const FLAG_EXCLUDE_KERNEL: u64 = 1 << 5;
const FLAG_EXCLUDE_HV: u64 = 1 << 6;
const FLAG_MMAP: u64 = 1 << 8;
const FLAG_WATERMARK: u64 = 1 << 14;
const FLAG_MMAP_DATA: u64 = 1 << 17;
const FLAG_SAMPLE_ID_ALL: u64 = 1 << 18;
const FLAG_MMAP2: u64 = 1 << 23;
const FLAG_USE_CLOCKID: u64 = 1 << 25;

/// What each record says, and by which clock; common to all events of a ring, as the kernel demands of the clock.
const FLAGS: u64 =
    FLAG_EXCLUDE_KERNEL | FLAG_EXCLUDE_HV | FLAG_SAMPLE_ID_ALL | FLAG_WATERMARK | FLAG_USE_CLOCKID;

/// Every VMA, executable or not, in records of the type `PERF_RECORD_MMAP2`.
const MAPS: u64 = FLAG_MMAP | FLAG_MMAP_DATA | FLAG_MMAP2;

/// Where `struct perf_event_mmap_page` keeps `data_head`, up to which the kernel wrote, in bytes.
const DATA_HEAD: usize = 1024;
/// Where it keeps `data_tail`, up to which was read.
const DATA_TAIL: usize = 1032;

/// The ring of one CPU and the events that write to it.
#[derive(Debug)]
pub struct Ring {
    cpu: libc::c_int,
    /// Holds the ring and, being disabled, writes nothing, so that threads may come and go.
    owner: OwnedFd,
    followed: Vec<OwnedFd>,
    /// The page of `data_head` and `data_tail`, and after it the records.
    start: NonNull<u8>,
    page_bytes: usize,
    data_bytes: usize,
    tail: u64,
}

// SAFETY: the mapping belongs to the process, not to a thread, and only one owner reads it and moves its tail.
unsafe impl Send for Ring {}

impl Ring {
    /// Makes an empty ring for `cpu` of `data_bytes` bytes, a page and a power of two at least; it follows nobody yet.
    pub fn new(cpu: u32, data_bytes: usize) -> io::Result<Self> {
        // The kernel rounds other sizes up, and would write where we do not read.
        if !data_bytes.is_power_of_two() || data_bytes < page_size() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let cpu = to_signed(cpu)?;
        let this_thread = 0;
        let owner = perf::open(&attr(FLAGS | FLAG_DISABLED, data_bytes), this_thread, cpu)?;
        let page_bytes = page_size();
        let bytes = page_bytes.checked_add(data_bytes).ok_or(io::ErrorKind::InvalidInput)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses an address that nothing else uses.
        let start = unsafe { mmap(ptr::null_mut(), bytes, access, MapFlags::SHARED, &owner, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { cpu, owner, followed: Vec::new(), start, page_bytes, data_bytes, tail: 0 })
    }

    /// Follows the thread `tid` on this CPU, and all threads and processes that it will make.
    pub fn follow(&mut self, tid: u32) -> io::Result<()> {
        self.add(MAPS | FLAG_INHERIT, to_signed(tid)?)
    }

    /// Follows every task while it runs on this CPU, by a new event: the one before ended if the CPU had gone.
    pub fn follow_all(&mut self) -> io::Result<()> {
        self.followed.clear();
        let every_task = -1;
        self.add(MAPS, every_task)
    }

    fn add(&mut self, flags: u64, tid: libc::pid_t) -> io::Result<()> {
        const PERF_EVENT_IOC_SET_OUTPUT: u32 = opcode::none(b'$', 5);
        let event = perf::open(&attr(FLAGS | flags, self.data_bytes), tid, self.cpu)?;
        let owner = self.owner.as_raw_fd().unsigned_abs() as usize;
        // SAFETY: the call takes the number of a descriptor of an event and touches no memory.
        let redirect = unsafe { IntegerSetter::<PERF_EVENT_IOC_SET_OUTPUT>::new_usize(owner) };
        // SAFETY: as above, on an event of perf.
        unsafe { ioctl(&event, redirect) }?;
        self.followed.push(event);
        Ok(())
    }

    /// Moves the records that the ring holds now to the end of `into`; whether there was no room for one more, however short,
    /// or for one with the longest path. The kernel announces what it dropped only with the next record.
    pub fn drain(&mut self, into: &mut Vec<u8>) -> bool {
        let head = self.position(DATA_HEAD).load(Ordering::Acquire);
        let data_bytes = self.data_bytes as u64;
        let was_full = head - self.tail + LONGEST_RECORD > data_bytes;
        while self.tail < head {
            let at = self.tail % data_bytes;
            let len = (head - self.tail).min(data_bytes - at);
            into.extend_from_slice(self.written(at, len));
            self.tail += len;
        }
        self.position(DATA_TAIL).store(head, Ordering::Release);
        was_full
    }

    /// The position that the first page keeps `offset` bytes from its start: bytes since the ring was made.
    fn position(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: `offset` is one of the two constants, which lie in the first page of the mapping.
        let word = unsafe { self.start.add(offset) }.cast::<AtomicU64>();
        // SAFETY: the page is aligned and so are the constants; kernel and process access the word atomically, and
        // the mapping lives as long as `self`.
        unsafe { word.as_ref() }
    }

    /// `len` bytes from `at` on, which lie between tail and head and not across the end of the ring.
    fn written(&self, at: u64, len: u64) -> &[u8] {
        let (at, len) = (narrow(at), narrow(len));
        assert!(at + len <= self.data_bytes, "{len} bytes at {at} of {}", self.data_bytes);
        // SAFETY: the records begin one page after the start of the mapping and end where it ends.
        let first = unsafe { self.start.add(self.page_bytes + at) };
        // SAFETY: the range is in the mapping, as asserted, and the kernel does not write to it before the tail moves
        // beyond it, which takes `&mut self`.
        unsafe { slice::from_raw_parts(first.as_ptr(), len) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let start = self.start.as_ptr().cast::<c_void>();
        // SAFETY: `new` mapped these bytes, and no reference into them outlives `self`.
        let result = unsafe { munmap(start, self.page_bytes + self.data_bytes) };
        debug_assert!(result.is_ok(), "the mapping was there");
    }
}

/// An event that never occurs, on `CLOCK_BOOTTIME`, whose records say thread, time and CPU.
fn attr(flags: u64, data_bytes: usize) -> EventAttr {
    EventAttr {
        kind: PERF_TYPE_SOFTWARE,
        size: EventAttr::SIZE,
        config: PERF_COUNT_SW_DUMMY,
        sample_type: SAMPLE_TID | SAMPLE_TIME | SAMPLE_CPU,
        flags,
        // Nobody waits: the ring is read by the clock.
        wakeup: u32::try_from(data_bytes).unwrap_or(u32::MAX),
        clock: libc::CLOCK_BOOTTIME,
        ..EventAttr::default()
    }
}

/// A number of a thread or a CPU as the kernel takes it; never negative, which would mean every one.
fn to_signed(number: u32) -> io::Result<i32> {
    i32::try_from(number).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// A position within a ring, whose size is a `usize`.
fn narrow(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}
