//! Maps and unmaps memory in a child that does nothing else, in the ways in which less or more comes and goes than a call names.
//!
//! Output: a line of [`Turnover`].
//! Source: mmap(2), mremap(2), brk(2), shmat(2); `size` of `/proc/PID/statm`, which counts what is mapped.
//! Keeps: the child allocates nothing, so its calls are those written here.
#![expect(unsafe_code, reason = "the workload is the calls that rustix makes safe, and those that it lacks")]

use std::{
    ffi::c_int,
    fs::File,
    io::{self, Read as _},
    ptr::{null, null_mut},
};

use memtrace_tests::{
    ledger::{self, Turnover},
    memory::page_bytes,
    task,
};

const MIB: usize = 1 << 20;
/// Where nothing is mapped for more than a terabyte.
const FAR: usize = 0x2000_0000_0000;
const RW: c_int = libc::PROT_READ | libc::PROT_WRITE;
const ANONYMOUS: c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

fn main() -> io::Result<()> {
    let (reader, writer) = rustix::pipe::pipe()?;
    let pid = task::in_child(|| {
        let mut sums = Sums::default();
        let before = mapped_pages();
        let done = sums.turn_over();
        let after = mapped_pages();
        assert!(done.is_some(), "a call failed: {}", io::Error::last_os_error());
        let numbers = [sums.mapped as u64, sums.unmapped as u64, before, after];
        rustix::io::write(&writer, numbers.map(u64::to_ne_bytes).as_flattened())
            .expect("room for four numbers");
    })?;
    let mut numbers = [[0; 8]; 4];
    File::from(reader).read_exact(numbers.as_flattened_mut())?;
    let [mapped, unmapped, before, after] = numbers.map(u64::from_ne_bytes);
    let grown =
        i64::try_from(after).ok().zip(i64::try_from(before).ok()).map(|(after, before)| after - before);
    let grown = grown.expect("few pages") * i64::try_from(page_bytes()).expect("small");
    ledger::print(&Turnover { pid, mapped, unmapped, grown })
}

/// How many pages are mapped; allocates nothing.
fn mapped_pages() -> u64 {
    let mut text = [0; 128];
    let read =
        File::open("/proc/self/statm").and_then(|mut file| file.read(&mut text)).expect("/proc is mounted");
    let text = str::from_utf8(&text[..read]).expect("digits");
    text.split(' ').next().and_then(|size| size.parse().ok()).expect("a number")
}

/// Bytes that were mapped and unmapped, as is known from what was there before each call.
#[derive(Default)]
struct Sums {
    mapped: usize,
    unmapped: usize,
}

impl Sums {
    /// Makes all the calls; `None` if one fails.
    fn turn_over(&mut self) -> Option<()> {
        // Eight times a terabyte of which 4 MiB are mapped.
        for _ in 0..8 {
            self.map(FAR, 4 * MIB, RW)?;
            self.unmap(FAR, 1 << 40, 4 * MIB)?;
        }
        // A heap in memory that was reserved, a piece of it twice.
        self.map(FAR, 64 * MIB, libc::PROT_NONE)?;
        for piece in [0, 4, 8, 4] {
            self.map_over(FAR + piece * MIB, 4 * MIB)?;
        }
        // Longer than what it replaces.
        self.unmap(FAR + 32 * MIB, 32 * MIB, 32 * MIB)?;
        self.map(FAR + 30 * MIB, 6 * MIB, RW)?;
        self.unmapped += 2 * MIB;
        // Moved onto it, then away and longer, then doubled.
        remap((FAR, 4 * MIB), (FAR + 30 * MIB, 4 * MIB), 0)?;
        self.unmapped += 4 * MIB;
        remap((FAR + 30 * MIB, 4 * MIB), (FAR + 100 * MIB, 10 * MIB), 0)?;
        self.mapped += 6 * MIB;
        remap((FAR + 100 * MIB, MIB), (FAR + 200 * MIB, MIB), libc::MREMAP_DONTUNMAP)?;
        self.mapped += MIB;
        remap((FAR + 100 * MIB, 10 * MIB), (FAR + 100 * MIB, 3 * MIB), 0)?;
        self.unmapped += 7 * MIB;
        self.heap()?;
        self.segment()?;
        // A terabyte with all that is left: of the reserved 32 MiB those from 4 to 30; 2 of the 6; 3 and 1 of what moved.
        self.unmap(FAR, 1 << 40, (26 + 2 + 3 + 1) * MIB)
    }

    /// Maps memory at an address, in the place of whatever is there.
    fn map(&mut self, addr: usize, bytes: usize, protection: c_int) -> Option<()> {
        let addr = std::ptr::without_provenance_mut(addr);
        // SAFETY: from FAR on all memory is this program's, which refers to none of it.
        let start = unsafe { libc::mmap(addr, bytes, protection, ANONYMOUS | libc::MAP_FIXED, -1, 0) };
        self.mapped += bytes;
        (start != libc::MAP_FAILED).then_some(())
    }

    /// Maps memory in the place of as much.
    fn map_over(&mut self, addr: usize, bytes: usize) -> Option<()> {
        self.unmapped += bytes;
        self.map(addr, bytes, RW)
    }

    /// Unmaps `asked` bytes, of which `mapped` are mapped.
    fn unmap(&mut self, addr: usize, asked: usize, mapped: usize) -> Option<()> {
        self.unmapped += mapped;
        // SAFETY: from FAR on all memory is this program's, which refers to none of it.
        (unsafe { libc::munmap(std::ptr::without_provenance_mut(addr), asked) } == 0).then_some(())
    }

    /// Grows the heap by 2 MiB, and shrinks it by one.
    fn heap(&mut self) -> Option<()> {
        let page = page_bytes();
        // SAFETY: asks where the heap ends, and allocates nothing until it ends there again or higher.
        let end = unsafe { libc::sbrk(0) }.addr().next_multiple_of(page);
        for end in [end, end + 2 * MIB, end + MIB] {
            // SAFETY: no part of the heap that the allocator has goes away.
            if unsafe { libc::brk(std::ptr::without_provenance_mut(end)) } != 0 {
                return None;
            }
        }
        self.mapped += 2 * MIB;
        self.unmapped += MIB;
        Some(())
    }

    /// Attaches a segment of 1 MiB twice, and detaches it once.
    fn segment(&mut self) -> Option<()> {
        // SAFETY: no preconditions.
        let id = unsafe { libc::shmget(libc::IPC_PRIVATE, MIB, libc::IPC_CREAT | 0o600) };
        // SAFETY: the kernel chooses the place.
        let places = [(); 2].map(|()| unsafe { libc::shmat(id, null(), 0) });
        // SAFETY: marks it for destruction after the last detach.
        let marked = unsafe { libc::shmctl(id, libc::IPC_RMID, null_mut()) };
        // SAFETY: attached above, and not referred to.
        let detached = unsafe { libc::shmdt(places[0]) };
        self.mapped += 2 * MIB;
        self.unmapped += MIB;
        (places.iter().all(|place| place.addr() != usize::MAX) && marked == 0 && detached == 0).then_some(())
    }
}

/// Moves memory, or resizes it where it is.
fn remap(from: (usize, usize), to: (usize, usize), flags: c_int) -> Option<()> {
    let [old, new] = [from.0, to.0].map(std::ptr::without_provenance_mut);
    let moves = if old == new { 0 } else { libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED };
    // SAFETY: from FAR on all memory is this program's, which refers to none of it.
    let start = unsafe { libc::mremap(old, from.1, to.1, flags | moves, new) };
    (start == new).then_some(())
}
