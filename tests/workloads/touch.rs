//! Touches memory in one way, and says exactly which faults that must have caused.
//!
//! Output: with `--wait` a line of [`Ready`] before the phase; always a line of [`Ledger`] after it.
//! Keeps: base pages only; one access per page; the measured phase allocates nothing.

use std::{
    env,
    fs::File,
    io::{self, BufRead as _, Read as _, Seek as _},
    iter,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{self, Command},
    sync::{Barrier, mpsc},
    thread,
};

use clap::{Parser, ValueEnum};
use memtrace_tests::{
    ledger::{self, Area, Ledger, Ready},
    memory::{self, Mapping, Sharing, page_bytes},
    task::{self, Usage},
};
use rustix::{fs::Advice as FileAdvice, mm::Advice, thread::disable_transparent_huge_pages};

/// Touch memory in one way and print what that did
#[derive(Parser)]
struct Args {
    /// What to do
    #[arg(value_enum)]
    phase: Phase,
    /// Pages to touch
    #[arg(long, default_value_t = 64)]
    pages: usize,
    /// Threads, the main one included, of the phase `threads`
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Size in KiB of the arguments of the phases that execute a program
    #[arg(long, default_value_t = 256)]
    argument_kib: usize,
    /// Directory of the file that the phases with a file make
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Print a line of JSON and wait for a line on stdin before the phase
    #[arg(long)]
    wait: bool,
    /// Nothing: makes the arguments long
    #[arg(long, hide = true)]
    ballast: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Phase {
    /// Write to each page
    Write,
    /// Read each page, which gives the zero page, then write to each
    ReadWrite,
    /// Map with `MAP_POPULATE`
    Populate,
    /// Advise `MADV_POPULATE_WRITE`
    PopulateWrite,
    /// Pin with mlock(2)
    Lock,
    /// Let read(2) fill fresh pages
    KernelWrite,
    /// Write to forbidden pages; the signal handler opens them
    SegvRetry,
    /// As `segv-retry`, but the handler writes elsewhere first
    SegvElsewhere,
    /// Let read(2) fail on forbidden pages
    Efault,
    /// Read a file that is in the page cache
    FileRead,
    /// Read a file that is not in the page cache
    FileCold,
    /// Write to a private mapping of a file
    FileWrite,
    /// Write, fork, write in the child, then write in the parent
    Fork,
    /// Write in several threads, each to pages of its own
    Threads,
    /// Execute the phase `write` with long arguments
    Exec,
    /// As `exec`, from a thread that is not the leader
    ThreadExec,
    /// Run the phase `write` as another process, and wait for it
    Spawn,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    disable_transparent_huge_pages(true)?;
    if args.phase == Phase::Threads {
        return threads(&args);
    }
    if args.wait {
        wait(&[task::tid()])?;
    }
    match args.phase {
        Phase::Exec => Err(again(&args)?.exec()),
        Phase::ThreadExec => thread::scope(|scope| {
            scope.spawn(|| Err(again(&args)?.exec())).join().map_err(|_| io::ErrorKind::Other)?
        }),
        Phase::Spawn => {
            let status = again(&args)?.status()?;
            process::exit(status.code().unwrap_or(1))
        }
        _ => ledger::print(&phase(&args)?),
    }
}

/// Says which threads there are, and waits for a line.
fn wait(tids: &[u32]) -> io::Result<()> {
    ledger::print(&Ready { pid: process::id(), tids: tids.to_vec() })?;
    io::stdin().lock().read_line(&mut String::new())?;
    Ok(())
}

/// This program in the phase `write`, with long arguments.
fn again(args: &Args) -> io::Result<Command> {
    // No single argument may be longer than 128 KiB (MAX_ARG_STRLEN).
    const BALLAST_KIB: usize = 64;
    let mut command = Command::new(env::current_exe()?);
    command.args(["write", "--pages", &args.pages.to_string()]);
    for _ in 0..args.argument_kib / BALLAST_KIB {
        command.arg("--ballast").arg("x".repeat(BALLAST_KIB << 10));
    }
    Ok(command)
}

/// Runs a phase of one thread.
fn phase(args: &Args) -> io::Result<Ledger> {
    let Args { pages, .. } = *args;
    let count = pages as u64;
    match args.phase {
        Phase::Write => {
            let memory = Mapping::anonymous(pages)?;
            let charged = measure(|| memory.write_all())?;
            Ok(one_area(Area { minor: count, ..memory.area(task::tid()) }, charged))
        }
        Phase::ReadWrite => {
            let memory = Mapping::anonymous(pages)?;
            let charged = measure(|| {
                memory.read_all();
                memory.write_all();
            })?;
            Ok(one_area(Area { minor: 2 * count, ..memory.area(task::tid()) }, charged))
        }
        Phase::Populate => {
            let (memory, charged) = measured(|| Mapping::populated(pages))?;
            Ok(Ledger { uncounted: count, ..one_area(memory.area(task::tid()), charged) })
        }
        Phase::PopulateWrite => populate(pages, |memory| memory.advise(Advice::LinuxPopulateWrite)),
        Phase::Lock => populate(pages, Mapping::lock),
        Phase::KernelWrite => {
            let memory = Mapping::anonymous(pages)?;
            let zeroes = File::open("/dev/zero")?;
            let (_, charged) = measured(|| memory.fill_from(&zeroes))?;
            Ok(one_area(Area { minor: count, ..memory.area(task::tid()) }, charged))
        }
        Phase::SegvRetry => segv_retry(pages),
        Phase::SegvElsewhere => segv_elsewhere(pages),
        Phase::Efault => efault(pages),
        Phase::FileRead | Phase::FileCold | Phase::FileWrite => file(args),
        Phase::Fork => fork(pages),
        Phase::Threads | Phase::Exec | Phase::ThreadExec | Phase::Spawn => {
            unreachable!("has more than one task")
        }
    }
}

/// What the kernel charges to this thread for `body`.
fn measure(body: impl FnOnce()) -> io::Result<Usage> {
    let ((), charged) = measured(|| {
        body();
        Ok(())
    })?;
    Ok(charged)
}

/// As [`measure`], with the result of `body`.
fn measured<T>(body: impl FnOnce() -> io::Result<T>) -> io::Result<(T, Usage)> {
    let before = Usage::of_thread()?;
    let result = body()?;
    Ok((result, Usage::of_thread()? - before))
}

fn one_area(area: Area, charged: Usage) -> Ledger {
    Ledger { pid: process::id(), areas: vec![area], uncounted: 0, charged }
}

fn populate(pages: usize, how: impl FnOnce(&Mapping) -> io::Result<()>) -> io::Result<Ledger> {
    let memory = Mapping::anonymous(pages)?;
    let ((), charged) = measured(|| how(&memory))?;
    Ok(Ledger { uncounted: pages as u64, ..one_area(memory.area(task::tid()), charged) })
}

/// Takes one forbidden page through the handler, so that its code and the signal frame are present.
///
/// The page must outlive the measured phase, so that its address is not used again.
fn rehearse(detour: Option<&Mapping>) -> io::Result<Mapping> {
    let memory = Mapping::anonymous(1)?;
    memory.forbid()?;
    memory::open_forbidden_pages(detour)?;
    memory.write(0);
    Ok(memory)
}

fn segv_retry(pages: usize) -> io::Result<Ledger> {
    let _rehearsed = rehearse(None)?;
    let memory = Mapping::anonymous(pages)?;
    memory.forbid()?;
    let charged = measure(|| memory.write_all())?;
    let count = pages as u64;
    Ok(one_area(Area { minor: count, failed: count, ..memory.area(task::tid()) }, charged))
}

fn segv_elsewhere(pages: usize) -> io::Result<Ledger> {
    let rehearsal = Mapping::anonymous(1)?;
    let _rehearsed = rehearse(Some(&rehearsal))?;
    let detour = Mapping::anonymous(pages)?;
    let memory = Mapping::anonymous(pages)?;
    memory.forbid()?;
    memory::open_forbidden_pages(Some(&detour))?;
    let charged = measure(|| memory.write_all())?;
    let (count, tid) = (pages as u64, task::tid());
    let areas = vec![
        Area { minor: count, failed: count, ..memory.area(tid) },
        Area { minor: count, ..detour.area(tid) },
    ];
    Ok(Ledger { pid: process::id(), areas, uncounted: 0, charged })
}

fn efault(pages: usize) -> io::Result<Ledger> {
    let memory = Mapping::anonymous(pages)?;
    memory.forbid()?;
    let zeroes = File::open("/dev/zero")?;
    let ((), charged) = measured(|| {
        for page in 0..pages {
            if memory.fill_byte_from(page, &zeroes).is_ok() {
                return Err(io::Error::other("read(2) filled a forbidden page"));
            }
        }
        Ok(())
    })?;
    Ok(one_area(Area { refused: pages as u64, ..memory.area(task::tid()) }, charged))
}

/// Touches a file of `pages` pages; for reads only the kernel knows how many faults that takes (fault-around).
fn file(args: &Args) -> io::Result<Ledger> {
    let mut file = tempfile::tempfile_in(&args.dir)?;
    let len = (args.pages * page_bytes()) as u64;
    // A buffer of the file's size would be mapped, and leave its addresses to the file.
    io::copy(&mut io::repeat(1).take(len), &mut file)?;
    file.sync_all()?;
    if args.phase == Phase::FileCold {
        rustix::fs::fadvise(&file, 0, None, FileAdvice::DontNeed)?;
    } else {
        file.rewind()?;
        io::copy(&mut file, &mut io::sink())?;
    }
    let memory = Mapping::of_file(&file, args.pages, Sharing::Private)?;
    memory.advise(Advice::Random)?;
    let charged = measure(|| match args.phase {
        Phase::FileWrite => memory.write_all(),
        _ => memory.read_all(),
    })?;
    let Usage { minor, major } = charged;
    Ok(one_area(Area { minor, major, ..memory.area(task::tid()) }, charged))
}

fn fork(pages: usize) -> io::Result<Ledger> {
    let memory = Mapping::anonymous(pages)?;
    memory.write_all();
    let child = task::in_child(|| memory.write_all())?;
    let charged = measure(|| memory.write_all())?;
    let count = pages as u64;
    let areas = vec![
        // Before the fork and after it: the child is gone, so the second writes only make pages writable.
        Area { minor: 2 * count, ..memory.area(task::tid()) },
        Area { minor: count, ..memory.area(child) },
    ];
    Ok(Ledger { pid: process::id(), areas, uncounted: 0, charged })
}

/// The threads are there before the wait, so that a tracer may attach to one of them.
fn threads(args: &Args) -> io::Result<()> {
    let barrier = Barrier::new(args.threads);
    let (tids, started) = mpsc::channel();
    let before = Usage::of_process()?;
    let areas = thread::scope(|scope| {
        let others: Vec<_> = (1..args.threads)
            .map(|_| {
                let tids = tids.clone();
                let barrier = &barrier;
                scope.spawn(move || {
                    tids.send(task::tid()).map_err(io::Error::other)?;
                    write_together(args.pages, barrier)
                })
            })
            .collect();
        if args.wait {
            let others = started.iter().take(others.len());
            wait(&iter::once(task::tid()).chain(others).collect::<Vec<_>>())?;
        }
        let mut areas = vec![write_together(args.pages, &barrier)?];
        for other in others {
            areas.push(other.join().map_err(|_| io::ErrorKind::Other)??);
        }
        io::Result::Ok(areas)
    })?;
    let charged = Usage::of_process()? - before;
    ledger::print(&Ledger { pid: process::id(), areas, uncounted: 0, charged })
}

/// Writes to pages of the calling thread when all threads are ready to.
fn write_together(pages: usize, barrier: &Barrier) -> io::Result<Area> {
    let memory = Mapping::anonymous(pages)?;
    barrier.wait();
    memory.write_all();
    Ok(Area { minor: pages as u64, ..memory.area(task::tid()) })
}
