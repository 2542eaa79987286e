//! Asks for its parent over and over: the cheapest call that enters the kernel.
//!
//! Output: a line of [`CostModel`], a turn being a getppid(2).
//! Keeps: a turn makes no other call.

use std::{hint::black_box, io, time::Instant};

use clap::Parser;
use memtrace_tests::ledger::{self, CostModel};
use rustix::process::getppid;

/// Make the cheapest call over and over and print how long it takes
#[derive(Parser)]
struct Args {
    /// Calls
    #[arg(long, default_value_t = 1_000_000)]
    calls: u64,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let begin = Instant::now();
    for _ in 0..args.calls {
        black_box(getppid());
    }
    ledger::print(&CostModel::since(begin, args.calls))
}
