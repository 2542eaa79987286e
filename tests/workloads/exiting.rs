//! Ends in the way that its arguments name.

use std::{
    io::{self, Write as _},
    process::{self, ExitCode},
    thread,
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand};
use memtrace_tests::{memory::Mapping, task};
use rustix::process::{Signal, getpid, kill_process};

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
    /// By writing to forbidden memory
    Segv,
    /// By a signal that it sends to itself
    Signal {
        /// Its number
        signal: i32,
    },
    /// Some time after the first SIGTERM, and print how many there were by then
    Terminations {
        /// That time, in milliseconds
        #[arg(long, default_value_t = 300)]
        after_ms: u64,
    },
}

fn main() -> io::Result<ExitCode> {
    match Args::parse().end {
        End::Code { code, after_ms } => {
            say("ready\n")?;
            thread::sleep(Duration::from_millis(after_ms));
            Ok(ExitCode::from(code))
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
            kill_process(getpid(), signal)?;
            thread::sleep(Duration::from_secs(5));
            process::abort()
        }
        End::Terminations { after_ms } => {
            task::count_terminations()?;
            say("ready\n")?;
            let patience = Instant::now() + Duration::from_secs(5);
            while task::terminations() == 0 && Instant::now() < patience {
                thread::sleep(Duration::from_millis(5));
            }
            thread::sleep(Duration::from_millis(after_ms));
            say(&format!("terminations: {}\n", task::terminations()))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Prints `line` at once.
fn say(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(line.as_bytes())?;
    stdout.flush()
}
