//! Makes faults at one place that end in one way, and says which and how many.
//!
//! Output: a line of [`Ending`].
//! Keeps: signals are counted by their handler, refused calls by what they returned; nothing else touches the place.
#![expect(unsafe_code, reason = "the vsyscall page is at an address, not in a library")]

use std::{
    fs::File,
    io, process,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use clap::{Parser, ValueEnum};
use memtrace_tests::{
    ledger::{self, Area, Ending},
    memory::{Mapping, Sharing, page_bytes},
    task::{self, Usage},
    trap,
    uffd::{Mode, Uffd},
};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

/// Make faults that end in one way and print how many
#[derive(Parser)]
struct Args {
    /// How they end
    #[arg(value_enum)]
    way: Way,
    /// How many times; where there is a pager, faults end once
    #[arg(long, default_value_t = 100)]
    times: u64,
    /// Time in which the pager of `slow` does not answer, and that between the refused calls and the last one of `efault`, in
    /// milliseconds
    #[arg(long, default_value_t = 50)]
    pause_ms: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Way {
    /// Write to a page that is read-only each time; the handler of SIGSEGV opens it
    Barrier,
    /// Write beyond the end of a file each time; the handler of SIGBUS lengthens it
    Bus,
    /// Let read(2) fail at one address each time, then let it succeed there
    Efault,
    /// Call time(2) in the vsyscall page
    Vsyscall,
    /// Read a page for which a pager takes its time
    Slow,
    /// Read a page whose pager answers only after a signal has come
    Interrupted,
    /// End while a thread waits for a page
    Unanswered,
}

fn main() -> io::Result<()> {
    let Args { way, times, pause_ms } = Args::parse();
    let pause = Duration::from_millis(pause_ms);
    let ending = match way {
        Way::Barrier => barrier(times),
        Way::Bus => bus(times),
        Way::Efault => efault(times, pause),
        Way::Vsyscall => Ok(vsyscall(times)),
        Way::Slow => slow(pause),
        Way::Interrupted => interrupted(),
        Way::Unanswered => unanswered(),
    }?;
    ledger::print(&ending)?;
    // Threads that wait for a page wait for ever.
    process::exit(0)
}

/// How long `access` takes, in nanoseconds.
fn timed(access: impl FnOnce()) -> u64 {
    let begin = Instant::now();
    access();
    u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// The page is there before, and stays: what the kernel charges beyond its first write is how it liked to undo the protection.
fn barrier(times: u64) -> io::Result<Ending> {
    // A page of its own takes the signal for the first time, so that code and stack of the handler are there.
    let rehearsal = Mapping::anonymous(1)?;
    let memory = Mapping::anonymous(1)?;
    memory.write(0);
    let mut took_ns = 0;
    let mut charged = Usage::default();
    for (page, times) in [(&rehearsal, 1), (&memory, times)] {
        trap::open_page()?;
        let before = Usage::of_thread()?;
        for _ in 0..times {
            page.forbid()?;
            took_ns = timed(|| page.write(0));
        }
        charged = Usage::of_thread()? - before;
    }
    let area = Area { minor: 1 + charged.minor, failed: trap::signals(), ..memory.area(task::tid()) };
    Ok(Ending { area, took_ns })
}

/// Whether a fault that brings a new page of shared memory is a minor or a major one differs between kernels.
fn bus(times: u64) -> io::Result<Ending> {
    let file = || memfd_create("endings", MemfdFlags::CLOEXEC).map(File::from);
    // As in `barrier`.
    let (rehearsed, file) = (file()?, file()?);
    let rehearsal = Mapping::of_file(&rehearsed, 1, Sharing::Shared)?;
    let memory = Mapping::of_file(&file, 1, Sharing::Shared)?;
    let mut took_ns = 0;
    let mut charged = Usage::default();
    for (file, page, times) in [(&rehearsed, &rehearsal, 1), (&file, &memory, times)] {
        trap::lengthen(file)?;
        let before = Usage::of_thread()?;
        for _ in 0..times {
            ftruncate(file, 0)?;
            took_ns = timed(|| page.write(0));
        }
        charged = Usage::of_thread()? - before;
    }
    let Usage { minor, major } = charged;
    let area = Area { minor, major, failed: trap::signals(), ..memory.area(task::tid()) };
    Ok(Ending { area, took_ns })
}

fn efault(times: u64, pause: Duration) -> io::Result<Ending> {
    let zeroes = File::open("/dev/zero")?;
    // A page of its own goes through it first: then the refused calls and the last one are the only faults.
    let rehearsal = Mapping::anonymous(1)?;
    let memory = Mapping::anonymous(1)?;
    let (mut refused, mut filled, mut took_ns) = (0, Ok(0), 0);
    for page in [&rehearsal, &memory] {
        page.forbid()?;
        refused = (0..times).filter(|_| page.fill_byte_from(0, &zeroes).is_err()).count() as u64;
        page.permit()?;
        thread::sleep(pause);
        took_ns = timed(|| filled = page.fill_byte_from(0, &zeroes));
    }
    let area = Area { minor: filled? as u64, refused, ..memory.area(task::tid()) };
    Ok(Ending { area, took_ns })
}

fn vsyscall(times: u64) -> Ending {
    /// Where the page and its time(2) are, by the ABI of x86-64.
    const PAGE: usize = 0xffff_ffff_ff60_0000;
    const TIME: usize = PAGE + 0x400;
    // SAFETY: the kernel does there what is called, with the calling convention of C.
    let time: extern "C" fn(*mut libc::time_t) -> libc::time_t = unsafe { std::mem::transmute(TIME) };
    let mut took_ns = 0;
    let mut emulated = 0;
    for _ in 0..times {
        took_ns = timed(|| emulated += u64::from(time(std::ptr::null_mut()) > 0));
    }
    let (start, end) = (PAGE as u64, (PAGE + page_bytes()) as u64);
    Ending { area: Area { tid: task::tid(), start, end, emulated, ..Area::default() }, took_ns }
}

/// A thread that reads a page, for which it waits.
struct Reader {
    pager: Arc<Uffd>,
    /// Where it reads, and who it is.
    area: Area,
    /// How long the read took in nanoseconds, and how many major faults the kernel charged for it.
    thread: thread::JoinHandle<io::Result<(u64, u64)>>,
}

impl Reader {
    /// Starts one, and waits until it waits.
    fn start() -> io::Result<Self> {
        let pager = Arc::new(Uffd::open(0)?);
        let registrar = Arc::clone(&pager);
        let (sender, areas) = mpsc::channel();
        let thread = thread::spawn(move || {
            let memory = Mapping::anonymous(1)?;
            registrar.register(&memory, Mode::Missing)?;
            sender.send(memory.area(task::tid())).map_err(io::Error::other)?;
            let before = Usage::of_thread()?;
            let took_ns = timed(|| memory.read(0));
            Ok((took_ns, (Usage::of_thread()? - before).major))
        });
        let area = areas.recv().map_err(io::Error::other)?;
        pager.wait_for_fault()?;
        Ok(Self { pager, area, thread })
    }

    /// Answers its fault. Whether one that was tried again is major, is for the kernel to say (`mm_account_fault` of `mm/memory.c`);
    /// no other fault of the thread waits for anything.
    fn answer(self) -> io::Result<Ending> {
        let Self { pager, area, thread } = self;
        pager.answer(&area)?;
        let (took_ns, major) = thread.join().map_err(|_| io::ErrorKind::Other)??;
        Ok(Ending { area: Area { minor: 1 - major, major, ..area }, took_ns })
    }
}

fn slow(pause: Duration) -> io::Result<Ending> {
    let reader = Reader::start()?;
    thread::sleep(pause);
    reader.answer()
}

fn interrupted() -> io::Result<Ending> {
    trap::take_interruptions()?;
    let mut reader = Reader::start()?;
    trap::interrupt(&reader.thread)?;
    // The handler has returned, and the access is made again.
    reader.pager.wait_for_fault()?;
    reader.area.retried = trap::signals();
    reader.answer()
}

fn unanswered() -> io::Result<Ending> {
    let reader = Reader::start()?;
    Ok(Ending { area: Area { unfinished: 1, ..reader.area }, took_ns: 0 })
}
