//! Maps and unmaps the same few pages, over and over.
//!
//! Output: a line of [`CostModel`], a turn being a pair of mmap(2) and munmap(2).
//! Keeps: a turn makes no other call, and no fault unless pages are touched.

use std::{io, time::Instant};

use clap::Parser;
use memtrace_tests::{
    ledger::{self, CostModel},
    memory::Mapping,
};

/// Map and unmap a few pages over and over and print how long a pair takes
#[derive(Parser)]
struct Args {
    /// Base pages that each pair maps and unmaps
    #[arg(long, default_value_t = 4)]
    pages: usize,
    /// Pairs of calls
    #[arg(long, default_value_t = 100_000)]
    pairs: u64,
    /// Write to each page in between
    #[arg(long)]
    touch: bool,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let begin = Instant::now();
    for _ in 0..args.pairs {
        let memory = Mapping::unadvised(args.pages)?;
        if args.touch {
            memory.write_all();
        }
    }
    ledger::print(&CostModel::since(begin, args.pairs))
}
