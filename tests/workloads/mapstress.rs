//! Random changes of one address space by threads that fight over the same addresses, with forks and execs between.
//!
//! Output: a line of [`Stress`](ledger::Stress). Keeps: the measured phase allocates nothing, so the break and the arena are the
//! stress's own; what the kernel places elsewhere is tracked by the thread that asked for it, as whole VMAs.
//! Source: mmap(2), mremap(2), mprotect(2), madvise(2), brk(2), fork(2).
#![expect(unsafe_code, reason = "the workload is the calls that rustix makes safe, and those that it lacks")]

use std::{
    ffi::{CString, c_int, c_void},
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStringExt as _,
    },
    ptr::{null, null_mut, with_exposed_provenance_mut},
    sync::{
        Barrier, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use memtrace_tests::{
    ledger,
    memory::{Mapping, page_bytes},
};
use rustix::{
    fs::{MemfdFlags, memfd_create},
    mm::Advice,
};

#[path = "mapstress/tally.rs"]
mod tally;

use tally::{Kind, Tally};

/// First address that threads fight over: far below all that the kernel chooses on 64-bit machines.
const ARENA: usize = 0x10_0000_0000;
/// Pages that threads fight over, and pages of each file.
const ARENA_PAGES: usize = 512;
/// Longest range of most calls, in pages.
const LONGEST: usize = 16;
/// Ranges outside of the arena that a thread holds at most.
const HELD: usize = 32;
/// Pages that a storm touches in a round.
const STORM_PAGES: usize = 1024;
/// Calls of a child that only forks, and of one that executes this program.
const CHILD_CALLS: (u64, u64) = (50, 300);

/// Change an address space at random and print how often
#[derive(Parser)]
struct Args {
    /// Threads that make calls
    #[arg(long, default_value_t = 8)]
    threads: usize,
    /// Calls of all threads together; those of children come on top
    #[arg(long, default_value_t = 200_000)]
    calls: u64,
    /// Seconds to spread the calls over
    #[arg(long, default_value_t = 0.0)]
    seconds: f64,
    /// Threads that touch fresh pages meanwhile
    #[arg(long, default_value_t = 0)]
    storm_threads: usize,
    /// Children that make some calls and end
    #[arg(long, default_value_t = 0)]
    forks: u64,
    /// Children that make some calls and execute this program, which makes some more
    #[arg(long, default_value_t = 0)]
    execs: u64,
    /// Where the random numbers begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Be an executed child, which counts in the file of this descriptor
    #[arg(long, hide = true)]
    child: Option<RawFd>,
}

/// What is known before the measured phase begins.
struct Plan {
    tally: &'static Tally,
    /// Calls begun by the threads of this process.
    begun: AtomicU64,
    calls: u64,
    begin: Instant,
    duration: Duration,
    forks: u64,
    execs: u64,
    /// The break when the phase began, for one thread at a time.
    heap: Mutex<usize>,
    /// A file on disk, and one in memory.
    files: [OwnedFd; 2],
    /// This program with the arguments of an executed child.
    program: Vec<CString>,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let shared = memfd_create(c"tally", MemfdFlags::empty())?;
    let fd = args.child.unwrap_or(shared.as_raw_fd());
    if args.child.is_none() {
        rustix::fs::ftruncate(&shared, size_of::<Tally>() as u64)?;
    }
    let plan = Plan::new(&args, fd)?;
    // At the begin, at the end of the calls, and when the break is where malloc left it.
    let barrier = Barrier::new(args.threads + args.storm_threads + 1);
    thread::scope(|scope| {
        let workers = (0..args.threads as u64).map(|number| {
            let seed = args.seed.wrapping_mul(0x9e37_79b9).wrapping_add(number + 1);
            let mut worker = Worker { plan: &plan, random: Random(seed | 1), held: [None; HELD] };
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                worker.work();
                barrier.wait();
                barrier.wait();
            })
        });
        let workers: Vec<_> = workers.collect();
        let storms = (0..args.storm_threads).map(|_| {
            scope.spawn(|| {
                let memory = Mapping::anonymous(STORM_PAGES);
                barrier.wait();
                let result = memory.map(|memory| plan.storm(&memory));
                barrier.wait();
                barrier.wait();
                result
            })
        });
        let storms: Vec<_> = storms.collect();
        barrier.wait();
        barrier.wait();
        plan.restore_break();
        barrier.wait();
        // Their own last calls are over only when they are: the end of the scope does not wait for these.
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| io::ErrorKind::Other))?;
        storms.into_iter().try_for_each(|storm| storm.join().map_err(|_| io::ErrorKind::Other)?)
    })?;
    if args.child.is_none() {
        ledger::print(&plan.tally.ledger())?;
    }
    Ok(())
}

impl Plan {
    fn new(args: &Args, fd: RawFd) -> io::Result<Self> {
        let disk = OwnedFd::from(tempfile::tempfile()?);
        let memory = memfd_create(c"stress", MemfdFlags::CLOEXEC)?;
        for file in [&disk, &memory] {
            rustix::fs::ftruncate(file, (ARENA_PAGES * page_bytes()) as u64)?;
        }
        let program = std::env::current_exe()?.into_os_string().into_vec();
        let (calls, seed) = (CHILD_CALLS.1.to_string(), (args.seed + 1).to_string());
        let descriptor = fd.to_string();
        let words = ["--threads", "1", "--calls", &calls, "--seed", &seed, "--child", &descriptor];
        let words = words.into_iter().map(|word| word.as_bytes().to_vec());
        let program = std::iter::once(program).chain(words).map(CString::new);
        Ok(Self {
            tally: Tally::of(fd)?,
            begun: AtomicU64::new(0),
            calls: args.calls,
            begin: Instant::now(),
            duration: Duration::from_secs_f64(args.seconds),
            forks: args.forks,
            execs: args.execs,
            heap: Mutex::new(set_break(0)),
            files: [disk, memory],
            program: program.collect::<Result<_, _>>()?,
        })
    }

    /// Touches all pages of `memory` and drops them, until the last call has begun.
    fn storm(&self, memory: &Mapping) {
        while self.begun.load(Relaxed) < self.calls {
            memory.write_all();
            self.tally.storm_faults.fetch_add(memory.pages() as u64, Relaxed);
            self.tally.count(Kind::Madvise, memory.advise(Advice::LinuxDontNeed).is_ok());
        }
    }

    /// Puts the break to where malloc believes it to be.
    fn restore_break(&self) {
        if let Ok(heap) = self.heap.try_lock() {
            self.tally.count(Kind::Brk, set_break(*heap) == *heap);
        }
    }

    /// Sleeps until the call `number` is due.
    fn wait_for(&self, number: u64) {
        #[expect(clippy::cast_precision_loss, reason = "a share of the time")]
        let due = self.duration.mul_f64(number as f64 / self.calls as f64);
        thread::sleep(due.saturating_sub(self.begin.elapsed()));
    }
}

/// Moves the break to `to`, or leaves it if that cannot be; returns where it is. Behind libc's back.
fn set_break(to: usize) -> usize {
    // SAFETY: memory above the break of the beginning is nobody's but the stress's.
    let at = unsafe { libc::syscall(libc::SYS_brk, to) };
    usize::try_from(at).unwrap_or(0)
}

/// A generator of random numbers: Marsaglia's xorshift64*.
#[derive(Clone)]
struct Random(u64);

impl Random {
    /// A number below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap_or(0) % bound
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// Pages in a row.
#[derive(Clone, Copy)]
struct Pages {
    start: usize,
    len: usize,
}

impl Pages {
    fn new(start: usize, pages: usize) -> Self {
        Self { start, len: pages * page_bytes() }
    }

    fn pages(self) -> usize {
        self.len / page_bytes()
    }
}

/// The memory at an address.
fn at(address: usize) -> *mut c_void {
    with_exposed_provenance_mut(address)
}

/// One thread, or the only thread of a child.
struct Worker<'a> {
    plan: &'a Plan,
    random: Random,
    /// What the kernel placed outside of the arena: each within one VMA, changed only as a whole.
    held: [Option<Pages>; HELD],
}

impl Worker<'_> {
    /// Makes calls until those of the process are made, and children in between.
    fn work(&mut self) {
        let Plan { calls, forks, execs, .. } = *self.plan;
        let children = forks + execs;
        let step = calls.checked_div(children).unwrap_or(u64::MAX).max(1);
        loop {
            let number = self.plan.begun.fetch_add(1, Relaxed);
            if number >= calls {
                return;
            }
            if number.is_multiple_of(64) {
                self.plan.wait_for(number);
            }
            self.call();
            let child = number / step;
            if number % step == step - 1 && child < children {
                // Spreads the executing ones evenly.
                self.fork(child * execs / children != (child + 1) * execs / children);
            }
        }
    }

    /// Makes a child and waits for its end.
    fn fork(&mut self, executes: bool) {
        // SAFETY: the child makes system calls alone, and touches no lock that it would have to wait for.
        let child = unsafe { libc::fork() };
        if child == 0 {
            (0..CHILD_CALLS.0).for_each(|_| self.call());
            if executes {
                self.execute();
            }
            // SAFETY: no preconditions; skips the exit handlers, which are the parent's.
            unsafe { libc::_exit(0) }
        }
        if child > 0 {
            let made = if executes { &self.plan.tally.execs } else { &self.plan.tally.forks };
            made.fetch_add(1, Relaxed);
            // SAFETY: a null status is allowed.
            unsafe { libc::waitpid(child, null_mut(), 0) };
        }
    }

    /// Becomes this program again.
    fn execute(&self) {
        let mut arguments = [null(); 16];
        for (argument, word) in arguments[..15].iter_mut().zip(&self.plan.program) {
            *argument = word.as_ptr();
        }
        let environment = [null()];
        // SAFETY: both lists end in null, and their strings outlive the call.
        unsafe { libc::execve(arguments[0], arguments.as_ptr(), environment.as_ptr()) };
    }

    fn call(&mut self) {
        match self.random.below(100) {
            0..30 => self.mmap(),
            30..50 => self.munmap(),
            50..68 => self.mremap(),
            68..86 => self.mprotect(),
            86..96 => self.madvise(),
            _ => self.brk(),
        }
    }

    /// Pages of the arena, whatever is there.
    fn contested(&mut self) -> Pages {
        let longest = if self.random.below(16) == 0 { 4 * LONGEST } else { LONGEST };
        let pages = 1 + self.random.below(longest);
        let first = self.random.below(ARENA_PAGES - pages);
        Pages::new(ARENA + first * page_bytes(), pages)
    }

    /// Pages that this thread holds and their place among them, or pages of the arena.
    fn any(&mut self) -> (Pages, Option<usize>) {
        let index = self.random.below(2 * HELD);
        match self.held.get(index).copied().flatten() {
            Some(pages) => (pages, Some(index)),
            None => (self.contested(), None),
        }
    }

    /// A free place among the held, emptied if need be.
    fn place(&mut self) -> usize {
        let free = self.held.iter().position(Option::is_none);
        free.unwrap_or_else(|| {
            let index = self.random.below(HELD);
            if let Some(pages) = self.held[index].take() {
                self.unmap(pages);
            }
            index
        })
    }

    /// Holds pages that the kernel has placed outside of the arena.
    fn hold(&mut self, place: usize, start: usize, pages: usize) {
        let arena = ARENA..ARENA + ARENA_PAGES * page_bytes();
        if !arena.contains(&start) {
            self.held[place] = Some(Pages::new(start, pages));
        }
    }

    fn protection(&mut self) -> c_int {
        const RW: c_int = libc::PROT_READ | libc::PROT_WRITE;
        const RX: c_int = libc::PROT_READ | libc::PROT_EXEC;
        self.random.one_of(&[libc::PROT_NONE, libc::PROT_READ, RW, RW, RX, RW | RX])
    }

    fn mmap(&mut self) {
        let (disk, memory) = (self.plan.files[0].as_raw_fd(), self.plan.files[1].as_raw_fd());
        let file = self.random.one_of(&[-1, -1, disk, memory]);
        let sharing = self.random.one_of(&[libc::MAP_PRIVATE, libc::MAP_SHARED]);
        let kind = if file < 0 { libc::MAP_ANONYMOUS } else { 0 };
        let protection = self.protection();
        let pages = self.contested();
        let offset = if file < 0 { 0 } else { self.random.below(ARENA_PAGES - pages.pages()) * page_bytes() };
        let (fixed, place) = match self.random.below(8) {
            0..5 => (libc::MAP_FIXED, None),
            5 => (libc::MAP_FIXED_NOREPLACE, None),
            _ => (0, Some(self.place())),
        };
        let hint = if place.is_some() { 0 } else { pages.start };
        let flags = sharing | kind | fixed;
        let offset = i64::try_from(offset).unwrap_or(0);
        // SAFETY: in the arena, or where the kernel finds nothing.
        let at = unsafe { libc::mmap(at(hint), pages.len, protection, flags, file, offset) };
        if self.plan.tally.count(Kind::Mmap, at != libc::MAP_FAILED)
            && let Some(place) = place
        {
            self.hold(place, at.addr(), pages.pages());
        }
    }

    fn unmap(&mut self, pages: Pages) {
        // SAFETY: in the arena, or held by this thread; nothing refers to either.
        let result = unsafe { libc::munmap(at(pages.start), pages.len) };
        self.plan.tally.count(Kind::Munmap, result == 0);
    }

    /// Unmaps pages of the arena; or of what is held all, the first, the last, or those in the middle.
    fn munmap(&mut self) {
        let (pages, index) = self.any();
        let Some(index) = index else { return self.unmap(pages) };
        let rest = self.place();
        // Making place may have taken it away.
        let Some(Pages { start, len }) = self.held[index].take() else { return };
        let page = page_bytes();
        let count = len / page;
        let first = self.random.below(count);
        let last = first + 1 + self.random.below(count - first);
        self.unmap(Pages::new(start + first * page, last - first));
        let part = |from: usize, to: usize| (from < to).then(|| Pages::new(start + from * page, to - from));
        self.held[index] = part(0, first);
        self.held[rest] = part(last, count);
    }

    fn mremap(&mut self) {
        let place = self.place();
        let (from, index) = self.any();
        let to = self.contested();
        let may_move = libc::MREMAP_MAYMOVE;
        let onto_arena = may_move | libc::MREMAP_FIXED;
        let longer = to.pages().max(from.pages() + 1);
        let (old, new, flags) = match (self.random.below(8), index) {
            (0, _) => (from.pages(), 1 + self.random.below(from.pages()), 0),
            (1, None) => {
                let end = ARENA + ARENA_PAGES * page_bytes();
                let room = (end - from.start) / page_bytes();
                (from.pages(), longer.min(room), 0)
            }
            (1 | 2, _) => (from.pages(), longer, may_move),
            (3, _) => (from.pages(), from.pages(), may_move | libc::MREMAP_DONTUNMAP),
            (4, _) => (0, to.pages(), may_move),
            (5, _) => (0, to.pages(), onto_arena),
            (_, None) => (from.pages(), to.pages(), onto_arena),
            // A length that shrinks does so even where the move fails then.
            (_, Some(_)) => (from.pages(), longer, onto_arena),
        };
        let page = page_bytes();
        // SAFETY: what moves or is replaced is in the arena or held by this thread; else the kernel finds a place.
        let start = unsafe { libc::mremap(at(from.start), old * page, new * page, flags, at(to.start)) };
        if !self.plan.tally.count(Kind::Mremap, start != libc::MAP_FAILED) {
            return;
        }
        let stays = old == 0 || flags & libc::MREMAP_DONTUNMAP != 0;
        if let Some(index) = index.filter(|_| !stays) {
            self.held[index] = None;
        }
        self.hold(place, start.addr(), new);
    }

    fn mprotect(&mut self) {
        let protection = self.protection();
        let (pages, _) = self.any();
        // SAFETY: nothing accesses the arena or what is held.
        let result = unsafe { libc::mprotect(at(pages.start), pages.len, protection) };
        self.plan.tally.count(Kind::Mprotect, result == 0);
    }

    fn madvise(&mut self) {
        let advice = self.random.one_of(&[
            libc::MADV_DONTNEED,
            libc::MADV_FREE,
            libc::MADV_DONTFORK,
            libc::MADV_DOFORK,
            libc::MADV_WIPEONFORK,
            libc::MADV_KEEPONFORK,
            libc::MADV_NOHUGEPAGE,
            libc::MADV_DONTDUMP,
            libc::MADV_DODUMP,
            libc::MADV_RANDOM,
            libc::MADV_NORMAL,
        ]);
        let (pages, _) = self.any();
        // SAFETY: nothing relies on the content of the arena or of what is held.
        let result = unsafe { libc::madvise(at(pages.start), pages.len, advice) };
        self.plan.tally.count(Kind::Madvise, result == 0);
    }

    /// Moves the break up or down, never below where it was; not while another thread does, or did at a fork.
    fn brk(&mut self) {
        let target = self.random.below(64) * page_bytes() + self.random.below(2) * 100;
        if let Ok(heap) = self.plan.heap.try_lock() {
            let target = *heap + target;
            self.plan.tally.count(Kind::Brk, set_break(target) == target);
        }
    }
}
