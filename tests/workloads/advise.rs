//! Gives advice by `io_uring`.
//!
//! Output: a line of [`Vanishing`] with the memory that it will give up. After a line on stdin it gives its advice, and prints a line
//! of [`Advised`]; the end of stdin ends it.
//! Source: `io_uring_setup(2)`, `io_uring_enter(2)`; `IORING_OP_MADVISE`.
//! Keeps: each request is done before the next one is made.
#![expect(unsafe_code, reason = "the workload is calls that take addresses")]

use std::{
    collections::BTreeMap,
    ffi::c_void,
    io::{self, BufRead as _},
    process,
    ptr::{NonNull, null_mut},
    sync::atomic::{AtomicU32, Ordering},
};

use memtrace_tests::{
    ledger::{self, Advised, AdvisedStretch, Stretch, Vanishing},
    memory::{Mapping, page_bytes},
};
use rustix::{
    fd::OwnedFd,
    io_uring::{
        IORING_OFF_CQ_RING, IORING_OFF_SQ_RING, IORING_OFF_SQES, IoringEnterFlags, IoringOp,
        addr_or_splice_off_in_union, io_uring_cqe, io_uring_enter, io_uring_params, io_uring_ptr,
        io_uring_setup, io_uring_sqe, len_union, op_flags_union,
    },
    mm::{Advice, MapFlags, ProtFlags, mmap},
};

/// Pages of the memory.
const PAGES: usize = 64;

fn main() -> io::Result<()> {
    let mut ring = Ring::new()?;
    let memory = Mapping::anonymous(PAGES)?;
    memory.write_all();
    let torn = Mapping::anonymous(PAGES)?;
    torn.write_all();
    let [gone, torn] = [&memory, &torn].map(|memory| {
        let area = memory.area(0);
        Stretch { start: area.start, end: area.end }
    });
    let hole = Stretch { start: torn.start + (torn.end - torn.start) / 2, end: torn.end };
    let stretches = BTreeMap::from([("advised".to_owned(), gone)]);
    ledger::print(&Vanishing { pid: process::id(), stretches })?;

    let mut stdin = io::stdin().lock();
    stdin.read_line(&mut String::new())?;
    // SAFETY: nothing refers to this half of the mapping.
    unsafe {
        rustix::mm::munmap(
            std::ptr::without_provenance_mut(address(hole.start)),
            address(hole.end - hole.start),
        )?;
    };
    let mut advised = Vec::new();
    let advices = [
        (gone, Advice::LinuxDontNeed),
        (gone, Advice::LinuxDontDump),
        (gone, Advice::LinuxDontFork),
        (torn, Advice::LinuxDontNeed),
    ];
    for (stretch, advice) in advices {
        let result = ring.advise(stretch, advice)?;
        advised.push(AdvisedStretch { stretch, advice: advice as u32, result });
    }
    ledger::print(&Advised { advised })?;
    io::copy(&mut stdin, &mut io::sink()).map(drop)
}

/// A number that is a size or an address here.
fn address(number: u64) -> usize {
    usize::try_from(number).expect("64 bits")
}

/// A ring of one request at a time.
struct Ring {
    fd: OwnedFd,
    entry: NonNull<io_uring_sqe>,
    tail: &'static AtomicU32,
    head: &'static AtomicU32,
    cqes: NonNull<io_uring_cqe>,
    mask: u32,
}

impl Ring {
    fn new() -> io::Result<Self> {
        let mut params = io_uring_params::default();
        // SAFETY: the parameters ask for nothing.
        let fd = unsafe { io_uring_setup(1, &mut params)? };
        let page = page_bytes();
        let map = |offset| -> io::Result<NonNull<c_void>> {
            let access = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: the kernel chooses the place; a ring of one entry fits a page.
            let start = unsafe { mmap(null_mut(), page, access, MapFlags::SHARED, &fd, offset)? };
            NonNull::new(start).ok_or_else(|| io::ErrorKind::Other.into())
        };
        let (sq, cq, sqes) = (map(IORING_OFF_SQ_RING)?, map(IORING_OFF_CQ_RING)?, map(IORING_OFF_SQES)?);
        let word = |ring: NonNull<c_void>, offset: u32| {
            let place = ring.as_ptr().wrapping_byte_add(offset as usize).cast::<AtomicU32>();
            // SAFETY: never unmapped, and the kernel tells where in it its words are.
            unsafe { &*place }
        };
        // The one entry is always the first.
        word(sq, params.sq_off.array).store(0, Ordering::Relaxed);
        let cqes = cq.as_ptr().wrapping_byte_add(params.cq_off.cqes as usize).cast();
        Ok(Self {
            entry: sqes.cast(),
            tail: word(sq, params.sq_off.tail),
            head: word(cq, params.cq_off.head),
            cqes: NonNull::new(cqes).expect("behind the start of the ring"),
            mask: word(cq, params.cq_off.ring_mask).load(Ordering::Relaxed),
            fd,
        })
    }

    /// Gives advice, waits until that is done, and returns what came of it.
    fn advise(&mut self, Stretch { start, end }: Stretch, advice: Advice) -> io::Result<i32> {
        let entry = io_uring_sqe {
            opcode: IoringOp::Madvise,
            addr_or_splice_off_in: addr_or_splice_off_in_union {
                addr: io_uring_ptr::new(std::ptr::without_provenance_mut(address(start))),
            },
            len: len_union { len: u32::try_from(end - start).expect("some pages") },
            // All flags are one word.
            op_flags: op_flags_union { sync_range_flags: advice as u32 },
            ..Default::default()
        };
        // SAFETY: the kernel has no request of ours, and reads the entry when it is asked to.
        unsafe { self.entry.write(entry) };
        self.tail.fetch_add(1, Ordering::Release);
        // SAFETY: a request whose memory is this program's, which refers to none of it meanwhile.
        unsafe { io_uring_enter(&self.fd, 1, 1, IoringEnterFlags::GETEVENTS)? };
        let head = self.head.load(Ordering::Acquire);
        // SAFETY: the kernel has written the entry, for that was waited for.
        let result = unsafe { self.cqes.add((head & self.mask) as usize).read() }.res;
        self.head.store(head + 1, Ordering::Release);
        Ok(result)
    }
}
