//! Touches memory of many kinds, each in a mapping of its own, and says where; it goes on when a recorder has seen that.
//!
//! Output: a line of [`Gifts`] when all is done; the end of stdin ends it.
//! Keeps: all memory is there until the end; what a stretch is given is what its name says.

use std::{
    collections::BTreeMap,
    env,
    fs::File,
    io::{self, Read as _, Seek as _},
    path::{Path, PathBuf},
    process, thread,
    time::Duration,
};

use clap::Parser;
use memtrace_tests::{
    ledger::{self, Gift, Gifts},
    memory::{Mapping, Sharing, page_bytes},
    task::Sleeper,
};
use rustix::{
    fs::{Advice as FileAdvice, MemfdFlags, memfd_create},
    mm::Advice,
};

/// Touch memory of many kinds, print where it is, and wait for lines on stdin
#[derive(Parser)]
struct Args {
    /// Time in which a recorder may scan before memory changes again, in milliseconds
    #[arg(long, default_value_t = 1000)]
    pause_ms: u64,
    /// Directory on a disk, in which it makes files to map too
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Rounds of the stretch `refaulted`.
const ROUNDS: usize = 3;

fn main() -> io::Result<()> {
    let args = Args::parse();
    let pause = || thread::sleep(Duration::from_millis(args.pause_ms));
    let mut gifts = BTreeMap::new();
    let mut held = Vec::new();
    let mut note = |name: &str, memory: Mapping, touched: usize| {
        let area = memory.area(0);
        gifts.insert(name.to_owned(), Gift { start: area.start, end: area.end, touched: touched as u64 });
        held.push(memory);
    };
    pause();

    let small = Mapping::anonymous(300)?;
    small.write_all();
    note("small", small, 300);

    let huge = Mapping::huge(3)?;
    huge.write_all();
    note("huge", huge, 3);

    let memory = memfd_create(c"huge", MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&memory, 2 * (2 << 20))?;
    let of_file = Mapping::huge_of_file(&memory.into(), 2)?;
    of_file.write_all();
    note("huge_of_file", of_file, 2);

    let zero = Mapping::anonymous(200)?;
    zero.read_all();
    note("zero", zero, 200);

    let upgraded = Mapping::anonymous(100)?;
    upgraded.read_all();
    upgraded.write_all();
    note("upgraded", upgraded, 100);

    let refaulted = Mapping::anonymous(100)?;
    for round in 0..ROUNDS {
        refaulted.write_all();
        if round + 1 < ROUNDS {
            pause();
            refaulted.advise(Advice::LinuxDontNeed)?;
        }
    }
    note("refaulted", refaulted, ROUNDS * 100);

    note("populated", Mapping::populated(400)?, 0);

    let filled = Mapping::anonymous(64)?;
    filled.fill_from(&file(&env::temp_dir(), 64)?)?;
    note("filled", filled, 64);

    let own = Mapping::of_file(&file(&env::temp_dir(), 40)?, 40, Sharing::Private)?;
    own.write_all();
    note("own", own, 40);

    if let Some(dir) = &args.dir {
        let warm = file(dir, 160)?;
        io::copy(&mut &warm, &mut io::sink())?;
        let warm = Mapping::of_file(&warm, 160, Sharing::Private)?;
        warm.read_all();
        note("warm", warm, 160);

        let cold = file(dir, 160)?;
        rustix::fs::fadvise(&cold, 0, None, FileAdvice::DontNeed)?;
        let cold = Mapping::of_file(&cold, 160, Sharing::Private)?;
        cold.read_all();
        note("cold", cold, 160);
    }

    let shared = Mapping::anonymous(100)?;
    shared.write_all();
    pause();
    let child = Sleeper::fork_that_writes(&shared, 0..50)?;
    pause();
    shared.write_all();
    note("shared", shared, 100);
    pause();

    ledger::print(&Gifts { pid: process::id(), child: child.pid(), gifts })?;
    io::copy(&mut io::stdin().lock(), &mut io::sink()).map(drop)
}

/// A file without a name in `dir`, of `pages` pages that are on the disk, if there is one; rewound.
fn file(dir: &Path, pages: usize) -> io::Result<File> {
    let mut file = tempfile::tempfile_in(dir)?;
    io::copy(&mut io::repeat(1).take((pages * page_bytes()) as u64), &mut file)?;
    file.sync_all()?;
    file.rewind()?;
    Ok(file)
}
