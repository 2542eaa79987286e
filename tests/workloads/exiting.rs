//! Ends in the way that its arguments name.

use std::{
    fs,
    io::{self, Write as _},
    process::{self, ExitCode},
    thread,
    time::Duration,
};

use clap::{Parser, Subcommand};
use memtrace_tests::{
    ledger,
    memory::{Mapping, page_bytes},
    task,
};
use rustix::process::{Resource, Rlimit, Signal, getpid, getppid, kill_process, setrlimit};

/// Time between two checks of what is waited for.
const PERIOD: Duration = Duration::from_millis(5);

/// End in one way
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    end: End,
}

#[derive(Subcommand)]
enum End {
    /// With an exit code
    Code {
        /// The code
        code: u8,
        /// Time before, in milliseconds; "ready" is printed at its beginning
        #[arg(long, default_value_t = 0)]
        after_ms: u64,
    },
    /// By a signal of which the kernel dumps core
    Core {
        /// Pages of shared memory that nobody touches before the dump
        pages: usize,
    },
    /// At the end of stdin, long after the thread that leads it; the other prints the area of its memory once the leader is gone
    Leader {
        /// Pages of it that are written to
        pages: usize,
    },
    /// By writing to forbidden memory
    Segv,
    /// By a signal that it sends to itself
    Signal {
        /// Its number
        signal: i32,
    },
    /// When its parent is gone, and print how many SIGTERMs there were by then
    Terminations,
}

fn main() -> io::Result<ExitCode> {
    match Args::parse().end {
        End::Code { code, after_ms } => {
            say("ready\n")?;
            thread::sleep(Duration::from_millis(after_ms));
            Ok(ExitCode::from(code))
        }
        End::Core { pages } => {
            let _untouched = if pages > 0 { Some(Mapping::shared(pages)?) } else { None };
            setrlimit(Resource::Core, Rlimit { current: None, maximum: None })?;
            process::abort()
        }
        End::Leader { pages } => {
            // Before Linux 6.4 it is looked up in `/proc/self/auxv`, which is empty once the leader is gone.
            let _bytes = page_bytes();
            thread::spawn(move || process::exit(outlive_leader(pages).map_or(1, |()| 0)));
            task::end_thread()
        }
        End::Segv => {
            let memory = Mapping::anonymous(1)?;
            memory.forbid()?;
            task::die_of_first_segv()?;
            memory.write(0);
            unreachable!("the page is forbidden")
        }
        End::Signal { signal } => {
            let signal = Signal::from_named_raw(signal).ok_or(io::ErrorKind::InvalidInput)?;
            // It has one thread, so the signal is delivered before the call returns.
            kill_process(getpid(), signal)?;
            process::abort()
        }
        End::Terminations => {
            task::count_terminations()?;
            let parent = getppid();
            say("ready\n")?;
            // Nobody else sends it any.
            while getppid() == parent {
                thread::sleep(PERIOD);
            }
            say(&format!("terminations: {}\n", task::terminations()))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Has memory of `pages` written pages until the end of stdin.
fn outlive_leader(pages: usize) -> io::Result<()> {
    // What `/proc/self` shows is the leader's.
    while !fs::read_to_string("/proc/self/statm")?.starts_with("0 ") {
        thread::yield_now();
    }
    let memory = Mapping::anonymous(pages)?;
    memory.write_all();
    ledger::print(&memory.area(task::tid()))?;
    io::copy(&mut io::stdin().lock(), &mut io::sink()).map(drop)
}

/// Prints `line` at once.
fn say(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(line.as_bytes())?;
    stdout.flush()
}
