//! Reads the state of the pages of another process in one of several ways, and says how long it took.
//!
//! Output: a line of [`Scan`].
//! Keeps: the memory that is read belongs to a child, so that the peak of this process is that of the reading.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader},
    os::{fd::AsFd as _, unix::fs::FileExt as _},
    process::{Child, Command, Stdio},
    time::Instant,
};

use clap::{Parser, ValueEnum};
use memtrace::{
    pagemap::PageCategories,
    probe::{
        budget::Budget,
        walk::{PageWalker, Wanted},
    },
    sys::scan::{Query, Scanner},
    units::{VirtAddr, VirtRange},
};
use memtrace_tests::{
    ledger::{self, Area, Scan},
    memory::{Mapping, page_bytes},
    scan::page_size,
};

/// Bits of a pagemap word: the frame, and whether it is there.
const FRAME: u64 = (1 << 55) - 1;
const PRESENT: u64 = 1 << 63;

/// Read the state of pages and print how long that takes
#[derive(Parser)]
struct Args {
    /// What the pages are like
    #[arg(value_enum)]
    shape: Shape,
    /// How to read them
    #[arg(long, value_enum, default_value = "walk")]
    how: How,
    /// MiB of address space
    #[arg(long, default_value_t = 2048)]
    mib: usize,
    /// Only make the memory, print where it is, and wait for the end of stdin
    #[arg(long, hide = true)]
    hold: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shape {
    /// Base pages, all there
    Small,
    /// Huge pages, all there
    Huge,
    /// A thousand base pages far from one another
    Sparse,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum How {
    /// memtrace's walk: words, flags and counts as runs
    Walk,
    /// `PAGEMAP_SCAN` and long reads of the same words, which nobody reads
    Bound,
    /// One read of pagemap for many pages, then one of flags and one of counts for each
    Pread,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    if args.hold {
        return hold(&args);
    }
    let (mut child, area) = spawn_holder()?;
    let range =
        VirtRange::new(VirtAddr::from_raw(area.start), VirtAddr::from_raw(area.end)).expect("not empty");
    let pagemap = File::open(format!("/proc/{}/pagemap", child.id()))?;
    let read = |how| match how {
        How::Walk => walk(&pagemap, range),
        How::Bound => bound(&pagemap, range),
        How::Pread => pread(&pagemap, range),
    };
    // The first reading warms caches.
    let _pages = read(args.how)?;
    let began = Instant::now();
    let pages = read(args.how)?;
    let ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
    drop(child.stdin.take());
    child.wait()?;
    ledger::print(&Scan { ns, pages, peak_bytes: peak_bytes()? })
}

/// The most memory that this process ever had at once.
fn peak_bytes() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
    let peak: u64 = peak.ok_or_else(|| io::Error::other("no VmHWM"))?;
    Ok(peak * 1024)
}

/// A child that holds the memory, and where it is.
fn spawn_holder() -> io::Result<(Child, Area)> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .arg("--hold")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line)?;
    Ok((child, serde_json::from_str(&line)?))
}

fn hold(args: &Args) -> io::Result<()> {
    const MIB: usize = 1 << 20;
    const HUGE_MIB: usize = 2;
    let pages = args.mib * (MIB / page_bytes());
    let mapping = match args.shape {
        Shape::Huge => Mapping::huge(args.mib / HUGE_MIB)?,
        Shape::Small => Mapping::anonymous(pages)?,
        Shape::Sparse => Mapping::reserved(pages)?,
    };
    match args.shape {
        Shape::Huge | Shape::Small => mapping.write_all(),
        Shape::Sparse => (0..1000).for_each(|page| mapping.write(page * (pages / 1000))),
    }
    ledger::print(&mapping.area(0))?;
    io::stdin().lock().read_line(&mut String::new()).map(drop)
}

fn walk(pagemap: &File, range: VirtRange) -> io::Result<u64> {
    let wanted = Wanted { flags: true, mapcount: true, cgroup: false };
    let mut walker =
        PageWalker::new(page_size(), true, wanted, Budget::default()).map_err(io::Error::other)?;
    let mut pages = 0;
    walker.walk(pagemap, range, |run| pages += run.entries.pages.get()).map_err(io::Error::other)?;
    Ok(pages)
}

fn bound(pagemap: &File, range: VirtRange) -> io::Result<u64> {
    let (flags, counts) = (File::open("/proc/kpageflags")?, File::open("/proc/kpagecount")?);
    let query =
        Query { any_of: PageCategories::PRESENT, wanted: PageCategories::PRESENT, ..Query::default() };
    let mut scanner = Scanner::new(page_size(), Budget::default().max_lock);
    let (mut bytes, mut frames, mut words) = (vec![0; 8 << 13], Vec::new(), vec![0; 8 << 13]);
    let (mut pages, mut rest) = (0, Some(range));
    while let Some(range) = rest {
        let (runs, left) = scanner.step(pagemap.as_fd(), range, query).map_err(io::Error::other)?;
        for run in runs {
            let (mut next, end) =
                (run.range.start().vpn(page_size()).as_raw(), run.range.end().vpn(page_size()).as_raw());
            while next < end {
                let len = bytes.len().min(usize::try_from(8 * (end - next)).unwrap_or(usize::MAX));
                let read = pagemap.read_at(&mut bytes[..len], 8 * next)?;
                frames.clear();
                frames
                    .extend(bytes[..read].as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word) & FRAME));
                frames.sort_unstable();
                for span in frames.chunk_by(|this, next| *next <= this + 1) {
                    let len = 8 * span.len();
                    flags.read_at(&mut words[..len], 8 * span[0])?;
                    counts.read_at(&mut words[..len], 8 * span[0])?;
                }
                pages += frames.len() as u64;
                next += (len / 8) as u64;
            }
        }
        rest = left;
    }
    Ok(pages)
}

fn pread(pagemap: &File, range: VirtRange) -> io::Result<u64> {
    let (flags, counts) = (File::open("/proc/kpageflags")?, File::open("/proc/kpagecount")?);
    let mut bytes = vec![0; 8 << 16];
    let (mut next, end) = (range.start().vpn(page_size()).as_raw(), range.end().vpn(page_size()).as_raw());
    let (mut pages, mut word) = (0, [0; 8]);
    while next < end {
        let len = bytes.len().min(usize::try_from(8 * (end - next)).unwrap_or(usize::MAX));
        let read = pagemap.read_at(&mut bytes[..len], 8 * next)?;
        for entry in bytes[..read].as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)) {
            if entry & PRESENT != 0 {
                flags.read_at(&mut word, 8 * (entry & FRAME))?;
                counts.read_at(&mut word, 8 * (entry & FRAME))?;
                pages += 1;
            }
        }
        next += (len / 8) as u64;
    }
    Ok(pages)
}
