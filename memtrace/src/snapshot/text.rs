//! The census as people read it: kB as in smaps, the counters of thpmaps, the table of page-types.

use std::fmt::{self, Display, Formatter};

use super::{Known, Snapshot, Style, Subject, flags, thp};
use crate::{
    census::{Content, Counts, FileCensus, ProcessCensus, Sharers, Tally},
    units::{PageCount, Printable},
};

/// Width of the names of counters, with the colon, as in thpmaps.
const NAME_WIDTH: usize = 32;
/// Sets of sharers that are shown.
const SETS: usize = 20;

/// A snapshot as text.
#[derive(Debug)]
pub struct Text<'a> {
    snapshot: &'a Snapshot,
    style: Style,
}

impl Snapshot {
    /// The snapshot as text for people.
    #[must_use]
    pub const fn to_text(&self, style: Style) -> Text<'_> {
        Text { snapshot: self, style }
    }

    /// Pages in kB.
    fn kb(&self, pages: PageCount) -> u64 {
        pages.get().saturating_mul(self.rules.page.bytes()) >> 10
    }
}

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { snapshot, style } = self;
        if style.has_time {
            writeln!(f, "== {}", time(snapshot.realtime_ns))?;
        }
        match &snapshot.subject {
            Subject::Processes { processes, sharing, passed_over } => {
                for process in processes.iter().filter(|_| !style.is_rolled_up) {
                    self.process(f, process)?;
                }
                if let [process] = &processes[..] {
                    title(f, process)?;
                } else {
                    self.processes(f, processes)?;
                }
                self.sums(f, &snapshot.total)?;
                if let Some(sharing) = sharing {
                    self.sharing(f, processes, sharing)?;
                }
                tell_passed_over(f, *passed_over)?;
            }
            Subject::Files { files, passed_over } => {
                for file in files.iter().filter(|_| !style.is_rolled_up) {
                    self.file(f, file)?;
                }
                writeln!(f, "{} files", files.len())?;
                tell_passed_over(f, *passed_over)?;
                line(f, "Cached", snapshot.kb(snapshot.total.present))?;
                self.tables(f, &snapshot.total)?;
            }
            Subject::System => self.tables(f, &snapshot.total)?,
        }
        if snapshot.known.flags {
            let table =
                flags::table(&snapshot.total, style.is_raw, snapshot.rules.era.flags, snapshot.rules.page);
            write!(f, "{table}")?;
        }
        Ok(())
    }
}

impl Text<'_> {
    /// Several processes, a line each.
    fn processes(&self, f: &mut Formatter<'_>, processes: &[ProcessCensus]) -> fmt::Result {
        let snapshot = self.snapshot;
        writeln!(
            f,
            "{:>10} {:>10} {:>10} {:>10} {:>10} {:>12}  process",
            "PID", "Rss kB", "Pss kB", "Uss kB", "Swap kB", "SwapShare kB"
        )?;
        for process in processes {
            let Tally { resident, proportional, unique, .. } = &process.total;
            writeln!(
                f,
                "{:>10} {:>10} {:>10} {:>10} {:>10} {:>12}  {}",
                process.tgid.0,
                snapshot.kb(*resident),
                known(snapshot.known.mapcounts.then(|| proportional.bytes() >> 10)),
                snapshot.kb(*unique),
                self.swap(&process.total),
                known(snapshot.known.flags.then(|| process.swap_share.bytes() >> 10)),
                Printable::new(&process.comm),
            )?;
        }
        writeln!(f, "\n{} processes", processes.len())
    }

    /// A process by its VMAs.
    fn process(&self, f: &mut Formatter<'_>, process: &ProcessCensus) -> fmt::Result {
        let snapshot = self.snapshot;
        title(f, process)?;
        writeln!(
            f,
            "{:<33} perm {:>10} {:>10} {:>10} {:>10} {:>10} {:>8} {:>10}  name",
            "range", "Rss kB", "Pss kB", "Uss kB", "Anon kB", "Huge kB", "Swap kB", "Hugetlb kB"
        )?;
        for region in &process.regions {
            let Tally { resident, unique, anon, huge, hugetlb, proportional, .. } = &region.tally;
            let pss = snapshot.known.mapcounts.then(|| proportional.bytes() >> 10);
            let huge = snapshot.known.huge.then(|| snapshot.kb(*huge));
            writeln!(
                f,
                "{:<33} {} {:>10} {:>10} {:>10} {:>10} {:>10} {:>8} {:>10}  {}",
                region.vma.range.to_string(),
                Printable::from_bytes(&region.vma.perms),
                snapshot.kb(*resident),
                known(pss),
                snapshot.kb(*unique),
                snapshot.kb(*anon),
                known(huge),
                self.swap(&region.tally),
                snapshot.kb(*hugetlb),
                Printable::from_bytes(&region.vma.name),
            )?;
        }
        writeln!(f)
    }

    fn file(&self, f: &mut Formatter<'_>, file: &FileCensus) -> fmt::Result {
        let FileCensus { path, inode, bytes, cached, dirty } = file;
        let pages = bytes.div_ceil(self.snapshot.rules.page.bytes());
        writeln!(
            f,
            "{}\tInode: {inode}\tSize: {bytes} ({pages} pages)\tCached: {}\tDirty: {}",
            Printable::new(path),
            cached.get(),
            known(dirty.map(PageCount::get))
        )
    }

    /// The sums of `smaps_rollup`, and the tables.
    fn sums(&self, f: &mut Formatter<'_>, tally: &Tally) -> fmt::Result {
        let snapshot = self.snapshot;
        let Known { mapcounts, flags, huge, places, .. } = snapshot.known;
        line(f, "Rss", snapshot.kb(tally.resident))?;
        if mapcounts {
            line(f, "Pss", tally.proportional.bytes() >> 10)?;
        }
        line(f, "Uss", snapshot.kb(tally.unique))?;
        line(f, "Anonymous", snapshot.kb(tally.anon))?;
        line(f, "File", snapshot.kb(tally.file()))?;
        line(f, "Swap", self.swap(tally))?;
        if huge {
            line(f, "PmdMapped", snapshot.kb(tally.huge))?;
        }
        line(f, "Hugetlb", snapshot.kb(tally.hugetlb))?;
        if flags {
            line(f, "Zero", snapshot.kb(tally.zero))?;
        }
        if places {
            for counter in thp::counters(tally, &snapshot.rules.block_orders, snapshot.rules.page) {
                let whole = match counter.content {
                    Content::Anon => tally.anon,
                    Content::File => tally.file(),
                };
                if (self.style.has_zeros && (huge || !counter.is_by_pmd)) || counter.pages.get() > 0 {
                    line_of(f, &counter.name, snapshot.kb(counter.pages), snapshot.kb(whole))?;
                }
            }
        }
        self.tables(f, tally)
    }

    /// What is in swap in kB: from how much on if there may be more, and a hyphen if that is from 0 on.
    fn swap(&self, tally: &Tally) -> String {
        match (self.snapshot.kb(tally.all_swapped()), tally.is_swap_unknown) {
            (0, true) => known(None),
            (kb, true) => format!("≥ {kb}"),
            (kb, false) => kb.to_string(),
        }
    }

    /// What there is by key, each in one line.
    fn tables(&self, f: &mut Formatter<'_>, tally: &Tally) -> fmt::Result {
        let snapshot = self.snapshot;
        let kb = |pages| snapshot.kb(pages);
        if snapshot.known.mapcounts {
            counted(
                f,
                "mapped",
                &buckets(&tally.mapcounts),
                |(first, last)| if first == last { format!("{first}x") } else { format!("{first}-{last}x") },
                kb,
            )?;
        }
        counted(
            f,
            "contiguous",
            &tally.contiguous,
            |order| format!("{}kB+", (snapshot.rules.page.bytes() << order) >> 10),
            kb,
        )?;
        counted(f, "node", &tally.nodes, |node| node.to_string(), kb)?;
        counted(
            f,
            "memory cgroup",
            &tally.cgroups,
            |inode| match snapshot.cgroup_paths.get(&inode) {
                Some(path) => Printable::new(path).to_string(),
                None if inode == 0 => "none".to_owned(),
                None => format!("@{inode} (removed)"),
            },
            kb,
        )?;
        counted(f, "entries", &tally.others, str::to_owned, kb)?;
        for (area, used) in &tally.swap {
            writeln!(
                f,
                "swap area {area}: {} kB in {} stretches of slots, {:#x} to {:#x}",
                kb(used.pages),
                used.stretches,
                used.first,
                used.last
            )?;
        }
        Ok(())
    }

    fn sharing(
        &self,
        f: &mut Formatter<'_>,
        processes: &[ProcessCensus],
        sharing: &[(Sharers, PageCount)],
    ) -> fmt::Result {
        if processes.len() < 2 {
            return Ok(());
        }
        for (sharers, pages) in sharing.iter().take(SETS) {
            let pids = sharers.processes.iter().filter_map(|number| processes.get(*number as usize));
            let pids: Vec<_> = pids.map(|process| process.tgid.0.to_string()).collect();
            let others = if sharers.has_others { " and others" } else { "" };
            writeln!(f, "shared: {:>10} kB by {}{others}", self.snapshot.kb(*pages), pids.join(", "))?;
        }
        if let Some(rest) = sharing.get(SETS..).filter(|rest| !rest.is_empty()) {
            let pages = rest.iter().map(|(_, pages)| pages.get()).sum();
            let kb = self.snapshot.kb(PageCount::new(pages));
            writeln!(f, "shared: {kb:>10} kB by {} other sets of processes", rest.len())?;
        }
        Ok(())
    }
}

/// The first line about a process.
fn title(f: &mut Formatter<'_>, process: &ProcessCensus) -> fmt::Result {
    write!(f, "{} ({})", Printable::new(&process.comm), process.tgid.0)?;
    if let Some(cgroup) = &process.cgroup {
        write!(f, ", cgroup {}", Printable::new(cgroup))?;
    }
    if !process.is_complete {
        write!(f, "; it ended or executed a program meanwhile: this is what was seen until then")?;
    }
    writeln!(f)
}

/// A line as in smaps.
fn line(f: &mut Formatter<'_>, name: &str, kb: impl Display) -> fmt::Result {
    writeln!(f, "{:<NAME_WIDTH$}{kb:>8} kB", format!("{name}:"))
}

/// A line with its part of a whole as in thpmaps; of nothing there is none.
fn line_of(f: &mut Formatter<'_>, name: &str, kb: u64, whole: u64) -> fmt::Result {
    if whole == 0 {
        return line(f, name, kb);
    }
    let part = format!("{}%", (kb * 100 + whole / 2) / whole);
    writeln!(f, "{:<NAME_WIDTH$}{kb:>8} kB ({part:>3})", format!("{name}:"))
}

/// Says how many of what was found could not be scanned, if there are any.
fn tell_passed_over(f: &mut Formatter<'_>, passed_over: u64) -> fmt::Result {
    if passed_over > 0 {
        writeln!(f, "passed over: {passed_over} that could not be scanned")?;
    }
    Ok(())
}

/// A line for all that `counts` has, if it has anything.
fn counted<K: Copy + Ord>(
    f: &mut Formatter<'_>,
    title: &str,
    counts: &Counts<K>,
    name: impl Fn(K) -> String,
    kb: impl Fn(PageCount) -> u64,
) -> fmt::Result {
    if counts.is_empty() {
        return Ok(());
    }
    let items: Vec<_> = counts.iter().map(|(key, pages)| format!("{} {} kB", name(key), kb(pages))).collect();
    writeln!(f, "{title}: {}", items.join(", "))
}

/// Counts of mappings by powers of two: first and last of each.
fn buckets(mapcounts: &Counts<u64>) -> Counts<(u64, u64)> {
    let mut buckets = Counts::default();
    for (mapcount, pages) in mapcounts.iter() {
        let bucket = match mapcount.checked_ilog2() {
            None => (0, 0),
            Some(log) => (1 << log, ((1 << log) - 1) * 2 + 1),
        };
        buckets.add(bucket, pages);
    }
    buckets
}

/// The number, or a hyphen.
fn known(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

/// A moment as in RFC 3339.
fn time(realtime_ns: i128) -> String {
    jiff::Timestamp::from_nanosecond(realtime_ns)
        .map_or_else(|_| realtime_ns.to_string(), |time| time.to_string())
}
