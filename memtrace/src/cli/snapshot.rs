//! `memtrace snapshot`: what was typed, what it means, and what is printed.
//!
//! Layer: top. Input: [`SnapshotArgs`]. Output: text, JSON or CSV on stdout.
//! Keeps: processes that were named are there or it is a failure; those that were found may go; only data goes to stdout.
//! Not here: scanning (`probe`), counting (`census`), words (`snapshot`).

use std::{
    fs,
    io::{self, Write as _},
    num::NonZero,
    os::unix::fs::MetadataExt as _,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

mod args;
mod lister;
mod subject;

pub(super) use args::SnapshotArgs;
use subject::Observer;

use crate::{
    host::{self, Facility, Features},
    pagemap::PageCategories,
    probe::{budget::Budget, idle::IdleMarker, walk::Wanted},
    select::{self, Condition, Selection},
    snapshot::{self, CsvRegions, Known, Listing, Style},
    units::{ByteSize, CpuShare, Nanos, PageSize},
};

/// What a census goes by on this host.
const FACILITIES: [Facility; 6] = [
    Facility::FrameNumbers,
    Facility::SoftDirty,
    Facility::PagemapScan,
    Facility::PageFlags,
    Facility::PageCounts,
    Facility::PageCgroups,
];

/// Shortest time under the lock of a memory map: below it calls cost more than what they read.
const MIN_LOCK: Nanos = Nanos::new(20_000);

/// CPUs that are used unless somebody says how many: more wait for one another in the kernel.
const MAX_CPUS: usize = 4;

/// Arguments that make no sense, which only more than one of them or this host tells.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct UsageError(String);

/// Takes censuses and prints them.
pub(super) fn run(args: &SnapshotArgs) -> anyhow::Result<ExitCode> {
    if let Some(text) = &args.describe {
        let flags = select::parse_flags(text).map_err(|error| UsageError(error.to_string()))?;
        let era = host::page_era_but_for_swap().flags;
        super::print(None, &snapshot::describe(flags, era))?;
        return Ok(ExitCode::SUCCESS);
    }
    args.check()?;
    let mut observer = Observer::open(args)?;
    let mut csv = args.csv.then(|| CsvRegions::new(io::stdout()));
    let mut taken = 0;
    let mut code = ExitCode::SUCCESS;
    loop {
        let began = Instant::now();
        let snapshot = observer.scan()?;
        taken += 1;
        if let Some(csv) = &mut csv {
            csv.write(&snapshot)?;
        } else if args.json && args.interval.is_some() {
            let mut out = io::stdout().lock();
            writeln!(out, "{}", snapshot.to_json(args.rollup)).context("cannot write to stdout")?;
        } else if args.json {
            super::print(Some(snapshot.to_json(args.rollup)), &"")?;
        } else if !args.no_summary {
            super::print(None, &snapshot.to_text(args.style()))?;
        }
        if observer.is_strict() && !snapshot.is_complete() {
            log::error!("a process ended while it was scanned: what is reported was seen until then");
            code = ExitCode::FAILURE;
        }
        let Some(interval) = args.interval.filter(|_| args.count.is_none_or(|count| taken < count)) else {
            return Ok(code);
        };
        thread::sleep(Duration::from_nanos(interval.get()).saturating_sub(began.elapsed()));
    }
}

impl SnapshotArgs {
    /// Refuses what makes no sense, and what memtrace does not do.
    fn check(&self) -> Result<(), UsageError> {
        let refuse = |message: String| Err(UsageError(message));
        if self.hwpoison || self.unpoison {
            return refuse(
                "memtrace reads memory and does not damage it: to poison pages or to heal them, use page-types of the \
                 kernel's tools/mm, or madvise(MADV_HWPOISON)"
                    .to_owned(),
            );
        }
        // A requirement would not do: it is waived where what is required conflicts with what is given.
        if self.kpageflags.is_some() && !self.system {
            return refuse("--kpageflags reads flags of frames: it goes with --system alone".to_owned());
        }
        if self.interval == Some(Nanos::new(0)) {
            return refuse(
                "--interval 0 is no time between scans: give one above zero, such as 100ms".to_owned(),
            );
        }
        if self.max_lock < MIN_LOCK {
            return refuse(format!("--max-lock {} is too short: give {MIN_LOCK} or more", self.max_lock));
        }
        Ok(())
    }

    fn budget(&self) -> Budget {
        let cpus = thread::available_parallelism().map_or(1, NonZero::get);
        let percent = |cpus: usize| u32::try_from(cpus * 100).unwrap_or(100);
        // Threads beyond the number of CPUs would only hold files open.
        let max_cpu_percent =
            self.max_cpu.map_or(percent(cpus.min(MAX_CPUS)), CpuShare::percent).min(percent(cpus));
        Budget { max_lock: Duration::from_nanos(self.max_lock.get()), max_cpu_percent }
    }

    fn style(&self) -> Style {
        Style {
            is_raw: self.raw,
            is_rolled_up: self.rollup || self.is_listing(),
            has_zeros: self.inc_empty,
            has_time: self.interval.is_some(),
        }
    }

    const fn is_listing(&self) -> bool {
        self.list || self.list_each
    }

    /// What is listed, if anything; `offset` is the name of the column of numbers of pages.
    fn listing(&self, offset: Option<&'static str>) -> Option<Listing> {
        self.is_listing().then_some(Listing {
            is_each: self.list_each,
            offset,
            has_cgroup: self.list_cgroup,
            has_mapcount: self.list_mapcnt,
            is_raw: self.raw,
        })
    }

    fn selection(&self) -> anyhow::Result<Selection> {
        Ok(Selection {
            is_raw: self.raw,
            bits: self.bits.clone(),
            charged: self.charged.as_deref().map(charged).transpose()?,
            condition: self.condition.clone(),
            ranges: self.addr.clone(),
        })
    }

    /// Whether nobody asks for single regions.
    const fn forgets_regions(&self) -> bool {
        self.rollup || self.is_listing() || self.no_summary
    }

    /// Whether neighbouring pages are counted, though maybe not from the first to the last.
    const fn takes_neighbours(&self) -> bool {
        self.bits.is_empty() && self.condition.is_none() && self.charged.is_none()
    }

    /// Orders of the blocks that are to be counted, ascending.
    fn block_orders(&self, page: PageSize) -> Result<Vec<u32>, UsageError> {
        let largest = page.bytes() << page.pmd_order();
        let mut orders = Vec::new();
        for size in &self.cont {
            let bytes = size.get();
            if !bytes.is_power_of_two() || bytes <= page.bytes() || bytes > largest {
                return Err(UsageError(format!(
                    "--cont {size} is no size of blocks: give a power of two from {} to {}",
                    ByteSize::new(page.bytes() * 2),
                    ByteSize::new(largest)
                )));
            }
            orders.push((bytes / page.bytes()).ilog2());
        }
        orders.sort_unstable();
        orders.dedup();
        Ok(orders)
    }

    /// The words that need flags of frames to mean anything.
    fn needs_flags(&self) -> Option<&'static str> {
        let options = [
            ("--bits", !self.bits.is_empty()),
            ("--list", self.is_listing()),
            ("--raw", self.raw),
            ("--cont", !self.cont.is_empty()),
            ("--list-cgroup", self.list_cgroup),
            ("--list-mapcnt", self.list_mapcnt),
            ("--charged", self.charged.is_some()),
            ("--mark-idle", self.mark_idle),
            ("--system", self.system),
            ("--where", self.condition.as_ref().is_some_and(Condition::needs_flags)),
        ];
        options.into_iter().find_map(|(option, is_given)| is_given.then_some(option))
    }

    /// What to read of frames, and what can then be told; says what cannot, once.
    fn wanted(&self, features: &Features, scan: PageCategories) -> anyhow::Result<(Wanted, Known)> {
        let has_frames =
            [Facility::FrameNumbers, Facility::PageFlags].iter().all(|one| features.is_usable(*one));
        if let Some(option) = self.needs_flags().filter(|_| !has_frames) {
            bail!("{option} needs frame numbers and /proc/kpageflags: run as root (CAP_SYS_ADMIN)");
        }
        if !has_frames {
            log::warn!(
                "no frame numbers without CAP_SYS_ADMIN: flags, PSS, folios, nodes and sharing are not known, and RSS counts \
                 pages of devices too; run as root"
            );
        }
        let wants_cgroups = self.list_cgroup || self.charged.is_some();
        if wants_cgroups && !features.is_usable(Facility::PageCgroups) {
            bail!("this kernel does not tell the memory cgroup of a page: needs CONFIG_MEMCG=y");
        }
        let mapcounts = has_frames && features.is_usable(Facility::PageCounts);
        let wanted = Wanted { flags: has_frames, mapcount: mapcounts, cgroup: wants_cgroups };
        let huge = scan.contains(PageCategories::HUGE);
        let places = has_frames && self.takes_neighbours();
        Ok((wanted, Known { flags: has_frames, mapcounts, cgroups: wants_cgroups, huge, places }))
    }

    /// Refuses a condition on anything but flags and the categories in `tells`.
    fn check_condition(&self, tells: PageCategories) -> anyhow::Result<()> {
        let asked = self.condition.as_ref().map_or(PageCategories::empty(), Condition::categories);
        let missing: Vec<_> = asked.difference(tells).iter().filter_map(select::category_name).collect();
        if !missing.is_empty() {
            bail!(
                "--where: it cannot be known here which pages are {}: that takes a process, and PAGEMAP_SCAN of Linux 6.7 \
                 (soft-dirty 6.8, guard 6.16)",
                missing.join(" or ")
            );
        }
        Ok(())
    }

    /// Says what of the condition the kernel, whose scan takes the categories `can`, does not answer by itself.
    fn tell_what_is_filtered(&self, can: PageCategories) {
        let filtered = self.condition.as_ref().map(|condition| condition.filtered(can)).unwrap_or_default();
        if !filtered.is_empty() {
            log::warn!("the kernel does not answer {}: memtrace sorts these out", filtered.join(" and "));
        }
    }

    /// What is read of a copy of flags, and what can then be told.
    fn wanted_of_copy(&self) -> anyhow::Result<(Wanted, Known)> {
        if self.list_mapcnt || self.list_cgroup || self.charged.is_some() || self.mark_idle {
            bail!("a copy of /proc/kpageflags has flags alone: leave out -M, -C, -c and -i");
        }
        let wanted = Wanted { flags: true, mapcount: false, cgroup: false };
        let known = Known { flags: true, mapcounts: false, cgroups: false, huge: false, places: false };
        Ok((wanted, known))
    }

    fn idle(&self) -> anyhow::Result<Option<IdleMarker>> {
        Ok(self.mark_idle.then(IdleMarker::open).transpose()?)
    }
}

/// The inode of a memory cgroup: `@INODE`, or the directory.
fn charged(text: &str) -> anyhow::Result<u64> {
    if let Some(inode) = text.strip_prefix('@') {
        let inode = inode.parse();
        return Ok(inode.map_err(|_| UsageError(format!("--charged {text}: no inode number after @")))?);
    }
    let dir = fs::metadata(text).with_context(|| format!("--charged {text}"))?;
    if !dir.is_dir() {
        bail!("--charged {text} is no directory: give that of a memory cgroup, or @INODE");
    }
    Ok(dir.ino())
}
