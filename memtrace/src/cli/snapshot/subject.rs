//! What is scanned, again and again.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail};

use super::{FACILITIES, SnapshotArgs, lister::Lister};
use crate::{
    census::{Rules, Tally},
    cli::streams,
    event::Tgid,
    host::{self, Facility, Features},
    live::Cgroup,
    pagemap::PageCategories,
    probe::{
        census::{CensusTaker, FileCensusTaker, FrameCensusTaker},
        cgroups::MemoryCgroups,
        files::Root,
        physical::PhysicalReader,
        tree,
    },
    snapshot::{Known, Listing, Snapshot, Subject},
    sys::{clock, limits},
};

/// Takes one census after the other.
pub(super) struct Observer {
    known: Known,
    cgroups: Option<MemoryCgroups>,
    listing: Option<Listing>,
    target: Target,
}

/// What is scanned.
enum Target {
    /// Processes that were named.
    Named(CensusTaker, Vec<Tgid>),
    /// Processes that are found in a cgroup.
    Members(CensusTaker, Cgroup),
    /// Every process.
    Everyone(CensusTaker),
    Files(Box<FileCensusTaker>, Vec<PathBuf>),
    System(FrameCensusTaker),
}

/// Files that are open at once at most; a facility for which there was no room would pass for one that is missing.
const FILES: usize = 16;

impl Observer {
    /// Opens what the arguments ask for.
    pub(super) fn open(args: &SnapshotArgs) -> anyhow::Result<Self> {
        limits::check_files(FILES).context("cannot take a snapshot")?;
        let features = Features::of(&FACILITIES);
        let mut era = host::page_era_but_for_swap();
        if !features.is_usable(Facility::PagemapScan) {
            era.scan = PageCategories::empty();
        }
        if !features.is_usable(Facility::SoftDirty) {
            // The scan takes it all the same, and no page ever has it.
            era.scan.remove(PageCategories::SOFT_DIRTY);
        }
        let page = host::facts()?.page;
        let rules = Rules { page, era, block_orders: args.block_orders(page)? };
        let selection = args.selection()?;
        let (wanted, mut known) = match &args.kpageflags {
            Some(_) => args.wanted_of_copy()?,
            None => args.wanted(&features, era.scan)?,
        };
        let (budget, idle) = (args.budget(), args.idle()?);
        let (target, offset) = if args.system {
            // Of frames nobody knows where they are mapped.
            args.check_condition(PageCategories::empty())?;
            let reader = match &args.kpageflags {
                Some(path) => {
                    streams::check_input(path)?;
                    PhysicalReader::of_copy(path)?
                }
                None => PhysicalReader::open(wanted, budget)?,
            };
            known.huge = false;
            (Target::System(FrameCensusTaker::new(rules, selection, reader, idle)), None)
        } else if !args.files.is_empty() {
            args.check_condition(FileCensusTaker::TELLS)?;
            known.huge = false;
            let taker = FileCensusTaker::new(rules, selection, wanted, budget, idle)?;
            (Target::Files(Box::new(taker), distinct_files(&args.files)), Some("foffset"))
        } else {
            args.check_condition(if era.scan.is_empty() { PageCategories::OF_WORDS } else { era.scan })?;
            args.tell_what_is_filtered(era.scan);
            let mut taker = CensusTaker::new(rules, selection, wanted, budget, idle)?;
            if args.forgets_regions() {
                taker = taker.without_regions();
            }
            let named = named(&args.pids)?;
            if named.len() != 1 {
                taker = taker.with_sharing();
            }
            let target = match &args.cgroup {
                Some(dir) if dir == Path::new("/") => Target::Everyone(taker),
                Some(dir) => Target::Members(taker, Cgroup::find(dir)?),
                None => Target::Named(taker, named),
            };
            (target, Some("voffset"))
        };
        let cgroups = if known.cgroups { MemoryCgroups::find(&Root::system())? } else { None };
        Ok(Self { known, cgroups, listing: args.listing(offset), target })
    }

    /// Whether what is scanned was named, so that it must be there.
    pub(super) const fn is_strict(&self) -> bool {
        matches!(self.target, Target::Named(..))
    }

    /// Scans now, and lists pages if that is asked for.
    pub(super) fn scan(&mut self) -> anyhow::Result<Snapshot> {
        let (time, realtime_ns) = (clock::boottime(), realtime_ns());
        let rules = self.target.rules();
        let mut list = Lister::begin(self.listing, rules.era.flags)?;
        let (subject, total) = self.target.scan(&mut list)?;
        list.end()?;
        let rules = self.target.rules().clone();
        let cgroup_paths = self.paths(&total);
        Ok(Snapshot { time, realtime_ns, rules, known: self.known, subject, total, cgroup_paths })
    }

    /// The paths of the memory cgroups that pages are charged to.
    fn paths(&mut self, total: &Tally) -> BTreeMap<u64, String> {
        let Some(cgroups) = &mut self.cgroups else { return BTreeMap::new() };
        let inodes = total.cgroups.iter().map(|(inode, _)| inode);
        inodes
            .filter_map(|inode| Some((inode, cgroups.path(inode)?.to_string_lossy().into_owned())))
            .collect()
    }
}

impl Target {
    const fn rules(&self) -> &Rules {
        match self {
            Self::Named(taker, _) | Self::Members(taker, _) | Self::Everyone(taker) => taker.rules(),
            Self::Files(taker, _) => taker.rules(),
            Self::System(taker) => taker.rules(),
        }
    }

    fn scan(&mut self, list: &mut Lister) -> anyhow::Result<(Subject, Tally)> {
        match self {
            Self::Named(taker, tgids) => scan_processes(taker, tgids, true, list),
            Self::Members(taker, cgroup) => {
                let tgids: Vec<_> = cgroup.members()?.into_iter().map(Tgid).collect();
                scan_processes(taker, &tgids, false, list)
            }
            Self::Everyone(taker) => scan_processes(taker, &everyone()?, false, list),
            Self::Files(taker, paths) => scan_files(taker, paths, list),
            Self::System(taker) => Ok((Subject::System, taker.take(|run| list.frames(run))?)),
        }
    }
}

/// Processes that were named must be there; of others those that may not be scanned are reported, and those that have gone are not.
fn scan_processes(
    taker: &mut CensusTaker,
    tgids: &[Tgid],
    is_named: bool,
    list: &mut Lister,
) -> anyhow::Result<(Subject, Tally)> {
    let mut processes = Vec::new();
    let mut total = Tally::default();
    let mut passed = Passed::default();
    for tgid in tgids {
        match taker.take(*tgid, |run| list.pages(run)) {
            Ok(census) => {
                total.merge(&census.total);
                processes.push(census);
            }
            Err(error) if is_named => return Err(error.into()),
            Err(error) if error.is_absence() => {}
            Err(error) => passed.add(&error.into()),
        }
    }
    taker.share_swap(&mut processes);
    let sharing = taker.take_sharing();
    Ok((Subject::Processes { processes, sharing, passed_over: passed.count }, total))
}

/// What was found and could not be scanned.
#[derive(Default)]
struct Passed {
    count: u64,
}

impl Passed {
    /// How many are told, each with its reason.
    const TOLD: u64 = 10;

    fn add(&mut self, error: &anyhow::Error) {
        self.count += 1;
        match self.count.cmp(&Self::TOLD) {
            Ordering::Less => log::warn!("{error:#}"),
            Ordering::Equal => log::warn!("{error:#}; others that cannot be scanned are counted alone"),
            Ordering::Greater => {}
        }
    }
}

/// Every process there is, in the order of their numbers.
fn everyone() -> anyhow::Result<Vec<Tgid>> {
    let entries = fs::read_dir("/proc").context("cannot read /proc")?;
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut tgids: Vec<_> = numbers.map(Tgid).collect();
    tgids.sort_unstable_by_key(|tgid| tgid.0);
    Ok(tgids)
}

/// A path that was named must be one that can be scanned; of files below it those that cannot are reported and passed over, and
/// those that are gone are not told.
fn scan_files(
    taker: &mut FileCensusTaker,
    paths: &[PathBuf],
    list: &mut Lister,
) -> anyhow::Result<(Subject, Tally)> {
    let mut files = Vec::new();
    let mut total = Tally::default();
    let mut passed = Passed::default();
    for named in paths {
        let kind = fs::metadata(named).with_context(|| format!("cannot read {}", named.display()))?;
        if kind.is_dir() {
            let _readable =
                fs::read_dir(named).with_context(|| format!("cannot read {}", named.display()))?;
        }
        for path in tree::files(named) {
            let census = path
                .map_err(anyhow::Error::new)
                .and_then(|path| Ok(taker.take(&path, |run| list.cached(run))?));
            match census {
                Ok((census, tally)) => {
                    total.merge(&tally);
                    if census.cached.get() > 0 {
                        files.push(census);
                    }
                }
                Err(error) if !kind.is_dir() => return Err(error),
                Err(error) if is_missing(&error) => {}
                Err(error) => passed.add(&error),
            }
        }
    }
    Ok((Subject::Files { files, passed_over: passed.count }, total))
}

/// Whether something was removed after it had been found.
fn is_missing(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| cause.kind() == io::ErrorKind::NotFound)
}

/// The processes of `pids`, each once, in the order in which they were named.
fn named(pids: &[u32]) -> anyhow::Result<Vec<Tgid>> {
    let mut distinct: Vec<Tgid> = Vec::new();
    for pid in pids {
        if let Some(process) = process_of(*pid).filter(|process| process != pid) {
            bail!("{pid} is a thread of process {process}: use -p {process}");
        }
        if !distinct.contains(&Tgid(*pid)) {
            distinct.push(Tgid(*pid));
        }
    }
    Ok(distinct)
}

/// The process that the task `tid` belongs to, if there is such a task.
fn process_of(tid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// The paths of `paths` that lead to different files, in the order in which they were named.
fn distinct_files(paths: &[PathBuf]) -> Vec<PathBuf> {
    let mut seen = BTreeSet::new();
    let mut is_new = |path: &&PathBuf| seen.insert(path.canonicalize().unwrap_or_else(|_| (*path).clone()));
    paths.iter().filter(|path| is_new(path)).cloned().collect()
}

/// Nanoseconds since 1970.
fn realtime_ns() -> i128 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i128::try_from(now.as_nanos()).unwrap_or(i128::MAX)
}
