//! Memory of several kinds that goes without a call about its addresses: files that are punched or cut, and what others may reclaim.
//!
//! Output: a line of [`Vanishing`] when all memory is there. A line on stdin makes the files go; the end of stdin ends it.
//! Source: fallocate(2), ftruncate(2), `MADV_REMOVE` of madvise(2).
//! Keeps: nothing touches the memory after that line was printed.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead as _},
    path::PathBuf,
    process,
};

use clap::Parser;
use memtrace_tests::{
    ledger::{self, Stretch, Vanishing},
    memory::{Mapping, Sharing, page_bytes},
};
use rustix::{
    fs::{FallocateFlags, MemfdFlags, fallocate, ftruncate, memfd_create},
    mm::Advice,
};
use tempfile::NamedTempFile;

/// Pages of each kind.
const PAGES: usize = 64;

/// Touch memory of several kinds, print where it is, and let it go
#[derive(Parser)]
struct Args {
    /// Directory on a disk, in which it makes a file to map
    #[arg(long)]
    dir: Option<PathBuf>,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let bytes = (PAGES * page_bytes()) as u64;
    let (mut stretches, mut held) = (BTreeMap::new(), Vec::new());
    let mut keep = |name: &str, memory: Mapping| {
        let area = memory.area(0);
        stretches.insert(name.to_owned(), Stretch { start: area.start, end: area.end });
        held.push(memory);
    };
    let memory = |name: &str| -> io::Result<(File, Mapping)> {
        let file = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
        ftruncate(&file, bytes)?;
        let mapping = Mapping::of_file(&file, PAGES, Sharing::Shared)?;
        mapping.write_all();
        Ok((file, mapping))
    };
    let (punched, mapping) = memory("punched")?;
    keep("punched", mapping);
    let (cut, mapping) = memory("cut")?;
    keep("cut", mapping);
    let (removed, mapping) = memory("removed")?;
    keep("removed", mapping);
    // Elsewhere, so that the advice is about other addresses.
    let removed = Mapping::of_file(&removed, PAGES, Sharing::Shared)?;
    let private = Mapping::anonymous(PAGES)?;
    private.write_all();
    keep("private", private);
    if let Some(dir) = args.dir {
        let file = NamedTempFile::new_in(dir)?.into_file();
        rustix::io::pwrite(&file, &vec![1; PAGES * page_bytes()], 0)?;
        file.sync_all()?;
        let mapping = Mapping::of_file(&file, PAGES, Sharing::Private)?;
        mapping.read_all();
        keep("file", mapping);
    }
    ledger::print(&Vanishing { pid: process::id(), stretches })?;

    let mut stdin = io::stdin().lock();
    if stdin.read_line(&mut String::new())? > 0 {
        fallocate(&punched, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, bytes)?;
        ftruncate(&cut, 0)?;
        removed.advise(Advice::LinuxRemove)?;
    }
    io::copy(&mut stdin, &mut io::sink()).map(drop)
}
