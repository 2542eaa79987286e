//! Touches memory of many kinds, each in a mapping of its own, and says where; it goes on when a recorder has seen that.
//!
//! Output: a line of [`Gifts`] before memory changes that was touched, and when all is done; after each it waits for a line on
//! stdin, or its end.
//! Keeps: all memory is there until the end; what a stretch is given is what its name says.

use std::{
    collections::BTreeMap,
    env,
    fs::File,
    io::{self, Read as _, Seek as _},
    path::{Path, PathBuf},
    process,
};

use clap::Parser;
use memtrace::sys::clock;
use memtrace_tests::{
    ledger::{self, Gift, Gifts},
    memory::{Mapping, Sharing, page_bytes},
    task::{self, Sleeper},
};
use rustix::{
    fs::{Advice as FileAdvice, MemfdFlags, memfd_create},
    mm::Advice,
};

/// Touch memory of many kinds, print where it is, and wait for lines on stdin
#[derive(Parser)]
struct Args {
    /// Directory on a disk, in which it makes files to map too
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Touch pages of hugetlb too, of which five are free
    #[arg(long)]
    hugetlb: bool,
}

/// Rounds of the stretch `refaulted`.
const ROUNDS: usize = 3;

/// What was touched, and has not been said.
#[derive(Default)]
struct Said {
    gifts: BTreeMap<String, Gift>,
    /// What is there until the end.
    held: Vec<Mapping>,
}

impl Said {
    /// The process `pid` has just touched some of `memory`, so many pages by now.
    fn note(&mut self, name: &str, pid: u32, memory: &Mapping, touched: usize) {
        let time_ns = clock::boottime().as_nanos();
        let area = memory.area(0);
        let gift = Gift { pid, start: area.start, end: area.end, touched: touched as u64, time_ns };
        self.gifts.insert(name.to_owned(), gift);
    }

    /// So many pages of `memory` have just been touched, and it stays as it is.
    fn keep(&mut self, name: &str, memory: Mapping, touched: usize) {
        self.note(name, process::id(), &memory, touched);
        self.held.push(memory);
    }

    /// Says what was touched, and waits until somebody has seen it.
    fn pause(&mut self, are_all: bool) -> io::Result<()> {
        ledger::print(&Gifts { gifts: std::mem::take(&mut self.gifts), are_all })?;
        io::stdin().read_line(&mut String::new()).map(drop)
    }
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    task::stay_on_this_cpu()?;
    let mut said = Said::default();

    let small = Mapping::anonymous(300)?;
    small.write_all();
    said.keep("small", small, 300);

    let huge = Mapping::huge(3)?;
    huge.write_all();
    said.keep("huge", huge, 3);

    let memory = memfd_create(c"huge", MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&memory, 2 * (2 << 20))?;
    let of_file = Mapping::huge_of_file(&memory.into(), 2)?;
    of_file.write_all();
    said.keep("huge_of_file", of_file, 2);

    if args.hugetlb {
        let private = Mapping::hugetlb(2)?;
        private.write_all();
        said.keep("hugetlb", private, 2);

        let pool = File::from(memfd_create(
            c"pool",
            MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
        )?);
        pool.set_len(3 * (2 << 20))?;
        let pages = 3 * (2 << 20) / page_bytes();
        for name in ["hugetlb_made", "hugetlb_mapped"] {
            let shared = Mapping::of_file(&pool, pages, Sharing::Shared)?;
            shared.write_all();
            said.keep(name, shared, 3);
        }
    }

    let zero = Mapping::anonymous(200)?;
    zero.read_all();
    said.keep("zero", zero, 200);

    let upgraded = Mapping::anonymous(100)?;
    upgraded.read_all();
    upgraded.write_all();
    said.keep("upgraded", upgraded, 100);

    let refaulted = Mapping::anonymous(100)?;
    for round in 0..ROUNDS {
        refaulted.write_all();
        said.note("refaulted", process::id(), &refaulted, (round + 1) * 100);
        if round + 1 < ROUNDS {
            said.pause(false)?;
            refaulted.advise(Advice::LinuxDontNeed)?;
        }
    }

    said.keep("populated", Mapping::populated(400)?, 0);

    let filled = Mapping::anonymous(64)?;
    filled.fill_from(&file(&env::temp_dir(), 64)?)?;
    said.keep("filled", filled, 64);

    let own = Mapping::of_file(&file(&env::temp_dir(), 40)?, 40, Sharing::Private)?;
    own.write_all();
    said.keep("own", own, 40);

    if let Some(dir) = &args.dir {
        let warm = file(dir, 160)?;
        io::copy(&mut &warm, &mut io::sink())?;
        let warm = Mapping::of_file(&warm, 160, Sharing::Private)?;
        warm.read_all();
        said.keep("warm", warm, 160);

        let cold = file(dir, 160)?;
        rustix::fs::fadvise(&cold, 0, None, FileAdvice::DontNeed)?;
        let cold = Mapping::of_file(&cold, 160, Sharing::Private)?;
        cold.read_all();
        said.keep("cold", cold, 160);
    }

    let shared = Mapping::anonymous(100)?;
    shared.write_all();
    said.note("shared", process::id(), &shared, 100);
    said.pause(false)?;
    let child = Sleeper::fork_that_writes(&shared, 0..50)?;
    said.note("copied", child.pid(), &shared, 50);
    said.pause(false)?;
    shared.write_all();
    said.note("shared", process::id(), &shared, 200);
    said.pause(true)
}

/// A file without a name in `dir`, of `pages` pages that are on the disk, if there is one; rewound.
fn file(dir: &Path, pages: usize) -> io::Result<File> {
    let mut file = tempfile::tempfile_in(dir)?;
    io::copy(&mut io::repeat(1).take((pages * page_bytes()) as u64), &mut file)?;
    file.sync_all()?;
    file.rewind()?;
    Ok(file)
}
