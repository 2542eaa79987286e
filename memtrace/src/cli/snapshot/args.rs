//! What is typed after `memtrace snapshot`.

use std::path::PathBuf;

use clap::{ArgGroup, Args};

use crate::{
    select::{BitsFilter, Condition, PageRange},
    units::{ByteSize, CpuShare, Nanos},
};

/// Take a census of page state, now: of processes, of files in the page cache, or of all memory
#[derive(Args, Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "flags that people can give independently")]
#[command(group = ArgGroup::new("target").required(true).args(["pids", "cgroup", "files", "system", "describe"]))]
#[command(after_help = "\
Examples:
  memtrace snapshot -p 4242                         a process: regions, sums, folios, flags
  memtrace snapshot -p 4242,4243 --rollup           sums, and who shares what with whom
  memtrace snapshot --cgroup /sys/fs/cgroup/web     all processes of a cgroup
  memtrace snapshot --file /var/lib/db --rollup     what the page cache has of a tree
  memtrace snapshot --system -b anon,~lru -l        frames by their flags, as page-types does
  memtrace snapshot -p 4242 --where 'file & !huge'  just some pages
  memtrace snapshot -p 4242 --interval 1s --csv     a row per region every second

Words of --where: written, file, present, swapped, zero, huge, soft-dirty, guard, wpallowed, and flags (kpf:NAME).
Flags: memtrace snapshot -d 0xffffffffffffffff names them all.")]
pub(in crate::cli) struct SnapshotArgs {
    /// Scan these processes (PID,PID…)
    #[arg(short, long = "pid", value_name = "PID", value_delimiter = ',', help_heading = "Target")]
    pub(super) pids: Vec<u32>,

    /// Scan the processes of a cgroup (version 1 or 2) and of those below it; / is every process
    #[arg(long, value_name = "PATH", help_heading = "Target")]
    pub(super) cgroup: Option<PathBuf>,

    /// Scan what the page cache has of a file, or of all files below a directory
    #[arg(short, long = "file", value_name = "PATH", help_heading = "Target")]
    pub(super) files: Vec<PathBuf>,

    /// Scan all physical memory
    #[arg(long, help_heading = "Target")]
    pub(super) system: bool,

    /// Scan nothing, and say what flags mean: names or numbers
    #[arg(short, long, value_name = "FLAGS", help_heading = "Target")]
    pub(super) describe: Option<String>,

    /// Pages of these numbers: N, N+COUNT, N,END or N, or ,END; of frames with --system, within each file with --file
    #[arg(short, long, value_name = "SPEC", allow_hyphen_values = true, help_heading = "Pages")]
    pub(super) addr: Vec<PageRange>,

    /// Pages with such flags: A,B any; A,B=A masked; A,~B one without the other; =A,B exactly
    #[arg(short, long, value_name = "SPEC", allow_hyphen_values = true, help_heading = "Pages")]
    pub(super) bits: Vec<BitsFilter>,

    /// Pages for which this holds, such as 'written & !swapped & (present | huge)'
    #[arg(long = "where", value_name = "EXPR", allow_hyphen_values = true, help_heading = "Pages")]
    pub(super) condition: Option<Condition>,

    /// Pages charged to this memory cgroup: its directory, or @INODE
    #[arg(short, long, value_name = "CGROUP", help_heading = "Pages")]
    pub(super) charged: Option<String>,

    /// With --system: read flags from a copy of /proc/kpageflags
    #[arg(short = 'F', long, value_name = "FILE", help_heading = "Pages")]
    pub(super) kpageflags: Option<PathBuf>,

    /// Mark the pages idle, so that a later scan shows which were used since
    #[arg(short = 'i', long, help_heading = "Pages")]
    pub(super) mark_idle: bool,

    /// Raw flags: those for kernel developers too, bits with two meanings distinguished, and those of pagemap
    #[arg(short, long, help_heading = "Output")]
    pub(super) raw: bool,

    /// List the pages, neighbours that are alike in one line
    #[arg(short, long, conflicts_with_all = ["json", "csv"], help_heading = "Output")]
    pub(super) list: bool,

    /// List the pages one by one
    #[arg(short = 'L', long, conflicts_with_all = ["json", "csv"], help_heading = "Output")]
    pub(super) list_each: bool,

    /// Tell to which memory cgroup pages are charged: one more reading for each
    #[arg(short = 'C', long, help_heading = "Output")]
    pub(super) list_cgroup: bool,

    /// List how often pages are mapped
    #[arg(short = 'M', long, help_heading = "Output")]
    pub(super) list_mapcnt: bool,

    /// No sums
    #[arg(short = 'N', long, conflicts_with_all = ["json", "csv"], help_heading = "Output")]
    pub(super) no_summary: bool,

    /// Sums alone, no regions and no single files
    #[arg(long, conflicts_with = "csv", help_heading = "Output")]
    pub(super) rollup: bool,

    /// Count blocks of this size too, aligned as addresses and as frames: a power of two, such as 64K
    #[arg(long, value_name = "SIZE", help_heading = "Output")]
    pub(super) cont: Vec<ByteSize>,

    /// Show counters that are 0 too
    #[arg(long, help_heading = "Output")]
    pub(super) inc_empty: bool,

    /// Print JSON; with --interval one object per line
    #[arg(long, conflicts_with = "csv", help_heading = "Output")]
    pub(super) json: bool,

    /// Print CSV: a row for each region, file, or word of flags
    #[arg(long, help_heading = "Output")]
    pub(super) csv: bool,

    /// Scan again and again, such as every 1s
    #[arg(long, value_name = "TIME", help_heading = "Limits")]
    pub(super) interval: Option<Nanos>,

    /// With --interval: how often
    #[arg(long, value_name = "N", requires = "interval", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Limits")]
    pub(super) count: Option<u64>,

    /// Longest time for which a process is kept from changing its memory map, such as 500us
    #[arg(long, value_name = "TIME", default_value = "2ms", help_heading = "Limits")]
    pub(super) max_lock: Nanos,

    /// Share of one CPU to use at most, such as 5%, or 300% for three [default: four CPUs, if there are so many]
    #[arg(long, value_name = "SHARE", help_heading = "Limits")]
    pub(super) max_cpu: Option<CpuShare>,

    /// Declined: memtrace damages no memory
    #[arg(short = 'X', long, help_heading = "Declined")]
    pub(super) hwpoison: bool,

    /// Declined, too
    #[arg(short = 'x', long, help_heading = "Declined")]
    pub(super) unpoison: bool,
}
