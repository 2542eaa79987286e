//! Holds memory whose pages are of one kind, and says what it knows of them.
//!
//! Output: a line of [`Layout`]; when a line comes on stdin, `moved` moves and `swapped` is read; the end of stdin ends it.
//! Keeps: settings of the machine that a kind takes are the caller's to make: sizes of folios, pools, merging, swap areas.

use std::{
    io::{self, BufRead as _, Read as _, Seek as _, Write as _},
    path::PathBuf,
    process,
};

use clap::{Parser, ValueEnum};
use memtrace_tests::{
    ledger::{self, Layout, Stretch},
    memory::{Mapping, Sharing, drain_batches, page_bytes},
    task::Sleeper,
    wait_until,
};
use rustix::mm::Advice;

const MIB: usize = 1 << 20;
const HUGE_MIB: usize = 2;

/// Hold memory of one kind, print where it is, and wait for the end of stdin
#[derive(Parser)]
struct Args {
    /// What the pages are like
    #[arg(value_enum)]
    kind: Kind,
    /// MiB of address space
    #[arg(long, default_value_t = 8)]
    mib: usize,
    /// Directory of the file that the kind `file` makes
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Base pages
    Small,
    /// Transparent huge pages
    Huge,
    /// Transparent huge pages, each without the page in its middle
    Torn,
    /// Folios of the sizes that the machine is set to give
    Mthp,
    /// Base pages that a forked child shares, but for the half that it wrote to
    Cow,
    /// Huge pages that a child shares in part
    Lent,
    /// Base pages of one content, merged if the machine does that
    Ksm,
    /// Huge pages of the pool
    Hugetlb,
    /// Shared memory, every other page of which is there
    Shmem,
    /// A file, the first half written to
    File,
    /// Base pages that the call populates which maps them
    Populated,
    /// Nothing: no page is touched
    Untouched,
    /// Nothing but the first page, and address space that takes no memory
    Reserved,
    /// The first page of a file without any other
    Sparse,
    /// Base pages, the first half swapped out if the machine has room for it, and all read when a line comes on stdin
    Swapped,
    /// Base pages, which move to another address when a line comes on stdin
    Moved,
}

/// What is held until the end.
#[derive(Default)]
struct Held {
    mappings: Vec<Mapping>,
    child: Option<Sleeper>,
    touched_pages: usize,
    swapped_pages: usize,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let mut held = hold(&args)?;
    let stretch = |mapping: &Mapping| {
        let area = mapping.area(0);
        Stretch { start: area.start, end: area.end }
    };
    ledger::print(&Layout {
        pid: process::id(),
        child: held.child.as_ref().map(Sleeper::pid),
        stretches: held.mappings.iter().map(stretch).collect(),
        touched_pages: held.touched_pages as u64,
        swapped_pages: held.swapped_pages as u64,
    })?;
    let mut stdin = io::stdin().lock();
    let is_asked = stdin.read_line(&mut String::new())? > 0;
    if is_asked && args.kind == Kind::Moved {
        held.mappings.iter_mut().try_for_each(Mapping::relocate)?;
    } else if is_asked && args.kind == Kind::Swapped {
        held.mappings.iter().for_each(Mapping::read_all);
    }
    io::copy(&mut stdin, &mut io::sink()).map(drop)
}

fn hold(args: &Args) -> io::Result<Held> {
    let pages = args.mib * (MIB / page_bytes());
    match args.kind {
        Kind::Small => Ok(written(Mapping::anonymous(pages)?)),
        Kind::Huge => Ok(written(Mapping::huge(args.mib / HUGE_MIB)?)),
        Kind::Torn => torn(args.mib / HUGE_MIB),
        Kind::Mthp => {
            let mapping = Mapping::unadvised(pages)?;
            mapping.advise(Advice::LinuxHugepage)?;
            Ok(written(mapping))
        }
        Kind::Cow => {
            let held = written(Mapping::anonymous(pages)?);
            let child = Sleeper::fork_that_writes(&held.mappings[0], 0..pages / 2)?;
            Ok(Held { child: Some(child), ..held })
        }
        Kind::Lent => lent(args.mib / HUGE_MIB),
        Kind::Ksm => merged(pages),
        Kind::Hugetlb => Ok(written(Mapping::hugetlb(args.mib / HUGE_MIB)?)),
        Kind::Shmem => {
            let mapping = Mapping::shared(pages)?;
            (0..pages).step_by(2).for_each(|page| mapping.write(page));
            Ok(Held { mappings: vec![mapping], touched_pages: pages.div_ceil(2), ..Held::default() })
        }
        Kind::File => file(args, pages),
        Kind::Populated => {
            let mapping = Mapping::populated(pages)?;
            Ok(Held { mappings: vec![mapping], touched_pages: pages, ..Held::default() })
        }
        Kind::Untouched => Ok(Held { mappings: vec![Mapping::anonymous(pages)?], ..Held::default() }),
        Kind::Reserved => Ok(with_first_page(Mapping::reserved(pages)?)),
        Kind::Sparse => {
            let file = tempfile::tempfile_in(&args.dir)?;
            file.set_len((pages * page_bytes()) as u64)?;
            Ok(with_first_page(Mapping::of_file(&file, pages, Sharing::Shared)?))
        }
        Kind::Swapped => swapped(pages),
        Kind::Moved => {
            let mut mapping = Mapping::anonymous(pages)?;
            // Away from memory like it.
            mapping.relocate()?;
            Ok(written(mapping))
        }
    }
}

/// All of `mapping`, each page written to.
fn written(mapping: Mapping) -> Held {
    mapping.write_all();
    let touched_pages = mapping.pages();
    Held { mappings: vec![mapping], touched_pages, ..Held::default() }
}

/// `mapping`, its first page written to.
fn with_first_page(mapping: Mapping) -> Held {
    mapping.write(0);
    Held { mappings: vec![mapping], touched_pages: 1, ..Held::default() }
}

/// Huge pages with holes, which the kernel does not mend.
fn torn(count: usize) -> io::Result<Held> {
    let pages_each = HUGE_MIB * MIB / page_bytes();
    let held = written(Mapping::huge(count)?);
    let mapping = &held.mappings[0];
    mapping.advise(Advice::LinuxNoHugepage)?;
    for huge in 0..count {
        let middle = huge * pages_each + pages_each / 2;
        mapping.advise_part(middle..middle + 1, Advice::LinuxDontNeed)?;
    }
    Ok(Held { touched_pages: held.touched_pages - count, ..held })
}

/// Huge pages that a child shares, but for the first and the last base page of each, of which it has copies.
fn lent(count: usize) -> io::Result<Held> {
    let pages_each = HUGE_MIB * MIB / page_bytes();
    let held = written(Mapping::huge(count)?);
    let is_edge = |page: &usize| [0, pages_each - 1].contains(&(page % pages_each));
    let child = Sleeper::fork_that_writes(&held.mappings[0], (0..count * pages_each).filter(is_edge))?;
    Ok(Held { child: Some(child), ..held })
}

/// Two mappings of half of `pages` each, all of the same content.
fn merged(pages: usize) -> io::Result<Held> {
    // No other program has it: virtual machines offer their memory for merging, too.
    let content = format!("layout {} ", process::id());
    let page: Vec<_> = content.bytes().cycle().take(page_bytes()).collect();
    let mut file = tempfile::tempfile()?;
    file.write_all(&page.repeat(pages / 2))?;
    let mut mappings = Vec::new();
    for _half in 0..2 {
        let mapping = Mapping::anonymous(pages / 2)?;
        file.rewind()?;
        mapping.fill_from(&file)?;
        mapping.advise(Advice::LinuxMergeable)?;
        mappings.push(mapping);
    }
    Ok(Held { mappings, touched_pages: pages / 2 * 2, ..Held::default() })
}

/// A file without a name that was written back, and then the first half of it written to anew.
fn file(args: &Args, pages: usize) -> io::Result<Held> {
    let mut file = tempfile::tempfile_in(&args.dir)?;
    io::copy(&mut io::repeat(1).take((pages * page_bytes()) as u64), &mut file)?;
    file.sync_all()?;
    let mapping = Mapping::of_file(&file, pages, Sharing::Shared)?;
    mapping.read_all();
    (0..pages / 2).for_each(|page| mapping.write(page));
    Ok(Held { mappings: vec![mapping], touched_pages: pages, ..Held::default() })
}

fn swapped(pages: usize) -> io::Result<Held> {
    let held = written(Mapping::anonymous(pages)?);
    let mapping = &held.mappings[0];
    let mut swapped_pages = 0;
    let _all = wait_until(|| {
        // Pages that wait in the batch of another processor are left out.
        drain_batches();
        let asked = mapping.advise_part(0..pages / 2, Advice::LinuxPageOut).and_then(|()| mapping.resident());
        swapped_pages = asked.map_or(0, |resident| resident.iter().filter(|is_there| !**is_there).count());
        swapped_pages == pages / 2
    });
    Ok(Held { swapped_pages, ..held })
}
