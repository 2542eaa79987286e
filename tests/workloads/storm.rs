//! A storm of page faults: every thread touches fresh pages as fast as it can.
//!
//! Output: a line of [`Storm`]. Keeps: base pages only; threads share no memory; a round allocates nothing.

use std::{
    io,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use memtrace_tests::{
    ledger::{self, Storm},
    memory::{Mapping, page_bytes},
    task::Usage,
};
use rustix::mm::Advice;

/// Touch fresh pages as fast as possible and print how many
#[derive(Parser)]
struct Args {
    /// Threads
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Bytes that each thread touches in a round
    #[arg(long, default_value_t = 16 << 20)]
    bytes: usize,
    /// Bytes that are touched before, and then left alone
    #[arg(long, default_value_t = 0)]
    beside: usize,
    /// Rounds of each thread
    #[arg(long, default_value_t = 16, conflicts_with = "seconds")]
    rounds: u64,
    /// Seconds after which no thread begins another round
    #[arg(long)]
    seconds: Option<f64>,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let pages = args.bytes / page_bytes();
    // No mapping is empty.
    let beside = Mapping::anonymous((args.beside / page_bytes()).max(1))?;
    if args.beside > 0 {
        beside.write_all();
    }
    let barrier = Barrier::new(args.threads + 1);
    let before = Usage::of_process()?;
    let (rounds, begin) = thread::scope(|scope| {
        let storms: Vec<_> =
            (0..args.threads).map(|_| scope.spawn(|| storm(&args, pages, &barrier))).collect();
        barrier.wait();
        let begin = Instant::now();
        let mut rounds = 0;
        for storm in storms {
            rounds += storm.join().map_err(|_| io::ErrorKind::Other)??;
        }
        io::Result::Ok((rounds, begin))
    })?;
    ledger::print(&Storm {
        faults: rounds * pages as u64,
        rounds,
        ns: u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX),
        minflt: (Usage::of_process()? - before).minor,
    })
}

/// The rounds of one thread; returns their number.
fn storm(args: &Args, pages: usize, barrier: &Barrier) -> io::Result<u64> {
    let memory = Mapping::anonymous(pages)?;
    barrier.wait();
    let end = args.seconds.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds));
    let mut rounds = 0;
    loop {
        let is_over = match end {
            Some(end) => Instant::now() >= end,
            None => rounds == args.rounds,
        };
        if is_over {
            return Ok(rounds);
        }
        memory.write_all();
        memory.advise(Advice::LinuxDontNeed)?;
        rounds += 1;
    }
}
