//! Does to its address space what programs seldom do, and says what came of it.
//!
//! Output: a line of [`Spaces`], made of `/proc/self/maps`; the kind `heap-in-pieces` waits for a line on stdin before the last
//! step. The last thing it does is to wait for the end of stdin.
//! Source: mmap(2) on `MAP_GROWSDOWN`, `perf_event_open(2)`, `prctl(PR_SET_MM_MAP)`, brk(2).
#![expect(unsafe_code, reason = "the workload is calls that rustix lacks, and accesses below the stack")]

use std::{
    fs::{self, File},
    io::{self, BufRead as _, Read as _},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process,
};

use clap::{Parser, ValueEnum};
use memtrace_tests::{
    ledger::{self, Spaces, Stretch},
    memory::page_bytes,
    task::Sleeper,
};

/// Steps of growth by accesses in user mode, and as many by accesses of the kernel.
const STEPS: usize = 16;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const ANONYMOUS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// Do something rare to the address space, and print where it is
#[derive(Parser)]
struct Args {
    /// What to do
    #[arg(value_enum)]
    kind: Kind,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// A mapping that grows down, page by page
    GrowsDown,
    /// The stack grows, eight pages a step
    Stack,
    /// A child is forked that does not have the ring of perf events
    PerfRing,
    /// The heap has a page of other access and a hole, and shrinks
    HeapInPieces,
    /// The heap is elsewhere from now on
    OtherHeap,
}

fn main() -> io::Result<()> {
    let (mut place, mut children) = (None, Vec::new());
    let mut held = None;
    match Args::parse().kind {
        Kind::GrowsDown => place = Some(grow_down()?),
        Kind::Stack => place = Some(grow_stack()?),
        Kind::PerfRing => {
            let (ring, event) = map_ring()?;
            let child = Sleeper::fork()?;
            children.push((child.pid(), rows(&child.pid().to_string(), ring)?.len() as u64));
            held = Some((child, event));
            place = Some(ring);
        }
        Kind::HeapInPieces => heap_in_pieces()?,
        Kind::OtherHeap => place = Some(move_heap()?),
    }
    let heap = named("[heap]")?;
    ledger::print(&Spaces { pid: process::id(), place, steps: STEPS as u64, heap, children })?;
    io::stdin().read_to_end(&mut Vec::new())?;
    drop(held);
    Ok(())
}

fn check(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Maps `bytes` at `addr` or, if that is 0, where the kernel likes.
fn map(addr: usize, bytes: usize, flags: i32, fd: i32) -> io::Result<*mut u8> {
    // SAFETY: nothing that is mapped is replaced, so no other memory is touched.
    let start = unsafe { libc::mmap(addr as *mut libc::c_void, bytes, RW, flags, fd, 0) };
    if start == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(start.cast()) }
}

/// Rows of maps of `process` that begin in `place`.
fn rows(process: &str, place: Stretch) -> io::Result<Vec<Stretch>> {
    let maps = fs::read_to_string(format!("/proc/{process}/maps"))?;
    let rows = maps.lines().filter_map(range).filter(|row| place.start <= row.start && row.start < place.end);
    Ok(rows.collect())
}

/// Rows of our maps with this name.
fn named(name: &str) -> io::Result<Vec<Stretch>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    Ok(maps.lines().filter(|line| line.ends_with(name)).filter_map(range).collect())
}

/// The addresses in a row of maps.
fn range(line: &str) -> Option<Stretch> {
    let (start, rest) = line.split_once('-')?;
    let (end, _) = rest.split_once(' ')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some(Stretch { start: number(start)?, end: number(end)? })
}

/// Touches memory `step` bytes further below `first` again and again: first itself, then by a call of read(2).
fn grow(first: usize, step: usize) -> io::Result<()> {
    for number in 1..=STEPS {
        // SAFETY: a byte below memory that grows down; nobody uses it.
        unsafe { ((first - number * step) as *mut u8).write_volatile(1) };
    }
    let zeros = File::open("/dev/zero")?;
    for number in STEPS + 1..=2 * STEPS {
        let to = (first - number * step) as *mut libc::c_void;
        // SAFETY: as above, and the kernel checks the address.
        if unsafe { libc::read(zeros.as_raw_fd(), to, 1) } != 1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// A mapping that grew down from 4 pages.
fn grow_down() -> io::Result<Stretch> {
    const PLACE: usize = 0x3000_0000_0000;
    let page = page_bytes();
    let flags = ANONYMOUS | libc::MAP_GROWSDOWN | libc::MAP_FIXED_NOREPLACE;
    let start = map(PLACE, 4 * page, flags, -1)?.addr();
    grow(start, page)?;
    let end = (start + 4 * page) as u64;
    let maps = fs::read_to_string("/proc/self/maps")?;
    maps.lines().filter_map(range).find(|row| row.end == end).ok_or(io::ErrorKind::NotFound.into())
}

/// The stack, far below what has been used of it.
fn grow_stack() -> io::Result<Stretch> {
    const UNUSED: usize = 256 << 10;
    let here = 0_u8;
    let below = ((&raw const here).addr() & !(page_bytes() - 1)) - UNUSED;
    grow(below, 8 * page_bytes())?;
    named("[stack]")?.first().copied().ok_or(io::ErrorKind::NotFound.into())
}

/// A ring of perf events with eight pages of data, and its descriptor.
fn map_ring() -> io::Result<(Stretch, OwnedFd)> {
    /// `struct perf_event_attr` up to `branch_sample_type`, in words: its first published size.
    const SIZE: u64 = 64;
    const SOFTWARE: u64 = 1;
    const DUMMY: u64 = 9;
    const EXCLUDE_KERNEL: u64 = 1 << 5;
    let attr: [u64; 8] = [SIZE << 32 | SOFTWARE, DUMMY, 0, 0, 0, EXCLUDE_KERNEL, 0, 0];
    // SAFETY: the words are the struct, and live as long as the call.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, attr.as_ptr(), 0, -1, -1, 0_u64) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the call made the descriptor, and nobody else has it.
    let event = unsafe { OwnedFd::from_raw_fd(fd) };
    let bytes = 9 * page_bytes();
    let start = map(0, bytes, libc::MAP_SHARED, fd)?.addr() as u64;
    Ok((Stretch { start, end: start + bytes as u64 }, event))
}

/// 64 pages of heap, the 17th without access and the 33rd unmapped; after a line on stdin 16 pages go.
fn heap_in_pieces() -> io::Result<()> {
    let page = page_bytes();
    // SAFETY: a query.
    let heap = unsafe { libc::sbrk(0) }.addr().next_multiple_of(page);
    // SAFETY: the heap only grows.
    check(unsafe { libc::brk((heap + 64 * page) as *mut libc::c_void) })?;
    // SAFETY: pages of the heap that nobody was given.
    check(unsafe { libc::mprotect((heap + 16 * page) as *mut libc::c_void, page, libc::PROT_NONE) })?;
    // SAFETY: as above.
    check(unsafe { libc::munmap((heap + 32 * page) as *mut libc::c_void, page) })?;
    let pieces = named("[heap]")?;
    ledger::print(&Spaces { pid: process::id(), place: None, steps: 0, heap: pieces, children: Vec::new() })?;
    io::stdin().lock().read_line(&mut String::new())?;
    // SAFETY: as above.
    check(unsafe { libc::brk((heap + 48 * page) as *mut libc::c_void) })
}

/// Memory that is the heap from now on; only the kernel's word for it changes.
fn move_heap() -> io::Result<Stretch> {
    /// Above the program's data, as the kernel asks for, and away from what it would merge with.
    const PLACE: usize = 0x7000_0000_0000;
    let stat = fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<u64> = after_name.split_whitespace().map(|text| text.parse().unwrap_or(0)).collect();
    // proc_pid_stat(5) counts from 1, and the state, the first one here, is its third.
    let field = |number: usize| fields[number - 3];
    let bytes = 64 * page_bytes();
    let heap = map(PLACE, bytes, ANONYMOUS | libc::MAP_FIXED_NOREPLACE, -1)?.addr() as u64;
    // `struct prctl_mm_map`, whose last word is the size of the auxiliary vector, and no descriptor of a program.
    let bounds: [u64; 13] = [
        field(26),
        field(27),
        field(45),
        field(46),
        heap,
        heap + bytes as u64 / 2,
        field(28),
        field(48),
        field(49),
        field(50),
        field(51),
        0,
        u64::from(u32::MAX) << 32,
    ];
    // SAFETY: the words are the struct, and live as long as the call.
    check(unsafe {
        libc::prctl(libc::PR_SET_MM, libc::PR_SET_MM_MAP, bounds.as_ptr(), size_of_val(&bounds), 0)
    })?;
    Ok(Stretch { start: heap, end: heap + bytes as u64 })
}
