//! Random changes of one address space by threads that fight over the same addresses, with forks and execs between.
//!
//! Output: if there are rounds, a line of [`Ready`] and one for each round; then one of [`Stress`](ledger::Stress).
//! Keeps: the measured phase allocates nothing, so the break and the arena are the stress's own; what the kernel places elsewhere
//! is tracked by the thread that asked for it, as whole VMAs.
//! Source: mmap(2), mremap(2), mprotect(2), madvise(2), brk(2), fork(2).
#![expect(unsafe_code, reason = "the workload is the calls that rustix makes safe, and those that it lacks")]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStringExt as _,
    },
    process,
    sync::{
        Barrier, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use clap::Parser;
use memtrace_tests::{
    ledger::{self, Ready},
    memory::{Mapping, page_bytes},
};
use rustix::{
    fs::{MemfdFlags, memfd_create},
    mm::Advice,
};

#[path = "mapstress/tally.rs"]
mod tally;
#[path = "mapstress/worker.rs"]
mod worker;

use tally::{Kind, Tally};
use worker::Worker;

/// First address that threads fight over: far below all that the kernel chooses on 64-bit machines.
const ARENA: usize = 0x10_0000_0000;
/// Pages that threads fight over, and pages of each file.
const ARENA_PAGES: usize = 512;
/// Pages that a storm touches in a round.
const STORM_PAGES: usize = 1024;
/// Time between two calls of a thread while no round goes on: nobody need keep up with more.
const PAUSE: Duration = Duration::from_millis(1);
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
    /// Rounds of so many calls together, each of which begins at a line on stdin and has a line on stdout when its last call is
    /// made. Before, between and after them calls go on slowly, to the next line, or the end of stdin
    #[arg(long, default_value_t = 0)]
    rounds: u64,
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
    /// How many calls are to be begun before they go on slowly.
    due: AtomicU64,
    /// Whether no more calls are to be begun than are due.
    is_last: AtomicBool,
    calls: u64,
    rounds: u64,
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
    if args.rounds > 0 {
        ledger::print(&Ready { pid: process::id(), tids: Vec::new() })?;
    }
    // At the begin, at the end of the calls, and when the break is where malloc left it.
    let barrier = Barrier::new(args.threads + args.storm_threads + 1);
    thread::scope(|scope| {
        let workers = (0..args.threads as u64).map(|number| {
            let seed = args.seed.wrapping_mul(0x9e37_79b9).wrapping_add(number + 1);
            let mut worker = Worker::new(&plan, seed);
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                let result = worker.work();
                barrier.wait();
                barrier.wait();
                result
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
        plan.conduct();
        barrier.wait();
        plan.restore_break();
        barrier.wait();
        // Their own last calls are over only when they are: the end of the scope does not wait for these.
        let mut threads = workers.into_iter().chain(storms);
        threads.try_for_each(|thread| thread.join().map_err(|_| io::ErrorKind::Other)?)
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
            due: AtomicU64::new(if args.rounds == 0 { args.calls } else { 0 }),
            is_last: AtomicBool::new(args.rounds == 0),
            calls: args.calls,
            rounds: args.rounds,
            forks: args.forks,
            execs: args.execs,
            heap: Mutex::new(set_break(0)),
            files: [disk, memory],
            program: program.collect::<Result<_, _>>()?,
        })
    }

    /// Begins the rounds, each at a line on stdin, and ends the last one.
    fn conduct(&self) {
        for _ in 0..self.rounds {
            wait_for_line();
            let behind = self.due.load(Relaxed).max(self.begun.load(Relaxed));
            self.due.store(behind + self.calls / self.rounds, Relaxed);
        }
        if self.rounds > 0 {
            wait_for_line();
        }
        self.is_last.store(true, Relaxed);
    }

    /// Takes the next call; `None` if there is none. One that no round asks for is made after a pause.
    fn next_call(&self) -> Option<u64> {
        if self.begun.load(Relaxed) >= self.due.load(Relaxed) {
            if self.is_last.load(Relaxed) {
                return None;
            }
            thread::sleep(PAUSE);
        }
        Some(self.begun.fetch_add(1, Relaxed))
    }

    /// The call `number` was made.
    fn made(&self, number: u64) -> io::Result<()> {
        if self.rounds > 0 && number + 1 == self.due.load(Relaxed) {
            rustix::io::write(rustix::stdio::stdout(), b"round\n")?;
        }
        Ok(())
    }

    /// Touches all pages of `memory` and drops them, until the last call has begun.
    fn storm(&self, memory: &Mapping) {
        while !self.is_last.load(Relaxed) || self.begun.load(Relaxed) < self.due.load(Relaxed) {
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
}

/// Waits for a line on stdin, or its end; without memory of malloc, for which the break might move.
fn wait_for_line() {
    let mut byte = [0];
    while rustix::io::read(rustix::stdio::stdin(), &mut byte) == Ok(1) && byte != *b"\n" {}
}

/// Moves the break to `to`, or leaves it if that cannot be; returns where it is. Behind libc's back.
fn set_break(to: usize) -> usize {
    // SAFETY: memory above the break of the beginning is nobody's but the stress's.
    let at = unsafe { libc::syscall(libc::SYS_brk, to) };
    usize::try_from(at).unwrap_or(0)
}
