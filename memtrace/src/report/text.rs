//! The report for people: labelled rows, numbers to the right, as smaps and page-types print them.
//!
//! Layer: codec. Input: [`Report`]. Output: text with ANSI styles, which the writer strips where they are not wanted.
//! Keeps: a section that has nothing to say is left out.
//! Not here: what the numbers are (`report`).

use std::fmt::{self, Display, Formatter};

use anstyle::Style;

use super::{
    Report,
    numbers::{Difference, Share, Size, Time},
};
use crate::{
    event::{FaultCounts, Loss},
    pipeline::Detail,
    record::Availability,
    timeline::{
        AccessCounts, CompletedTotals, FaultTotals, ForkTax, OutcomeTotals, PageState, ProcessId,
        ProcessSummary, RegionSummary, ScanCount, ScanSummary, UnseenRegions,
    },
    units::{ByteSize, PageCount, Printable},
};

mod code;
mod maps;
mod paths;
mod residency;

pub(super) const HEADING: Style = Style::new().bold();
const WARNING: Style = Style::new().bold().fg_color(Some(anstyle::Color::Ansi(anstyle::AnsiColor::Yellow)));

/// Processes and regions shown; `--json` and `export` have all.
const SHOWN: usize = 15;

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.origin(f)?;
        self.losses(f)?;
        self.accounting(f)?;
        self.kinds(f)?;
        self.latency(f)?;
        self.by_module(f)?;
        self.by_syscall(f)?;
        self.by_function(f)?;
        self.by_code(f)?;
        self.stacks(f)?;
        self.found(f)?;
        self.processes(f)?;
        self.regions(f)?;
        self.address_spaces(f)?;
        self.ping_pong(f)?;
        self.mapping(f)?;
        self.advice(f)?;
        self.outcome(f)?;
        self.refaults(f)?;
        self.fork_tax(f)?;
        self.pages(f)?;
        self.rss_check(f)?;
        self.scans(f)?;
        self.cost(f)
    }
}

impl Report {
    /// What was recorded, where, and how it ended.
    pub(super) fn origin(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (host, capture) = (&self.header.host, &self.header.capture);
        let page = ByteSize::new(host.page.bytes());
        writeln!(f, "{HEADING}{}{HEADING:#}", Printable::new(&capture.to_string()))?;
        writeln!(
            f,
            "{} on Linux {} ({}, {} CPUs, pages of {page}), memtrace {}",
            Time(self.duration().get()),
            Printable::new(&host.kernel_release),
            Printable::new(&host.arch),
            host.cpus,
            Printable::new(&self.header.memtrace_version),
        )?;
        match &self.end {
            Some(end) => writeln!(f, "{end}"),
            None => Ok(()),
        }
    }

    pub(super) fn losses(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.is_complete() {
            return Ok(());
        }
        heading(f, "Losses: counts below are at least these", [])?;
        let start = self.header.host.start;
        for loss in self.summary.losses.iter().take(SHOWN) {
            let Loss { start: from, end, cpu, cause, count } = loss;
            let count = count.map_or("unknown".to_owned(), |count| count.to_string());
            let cpu = cpu.map_or(String::new(), |cpu| format!(" on CPU {}", cpu.0));
            let from = Time(from.since(start).get());
            let end = end.map_or("the end".to_owned(), |end| Time(end.since(start).get()).to_string());
            writeln!(f, "  {WARNING}{:<24}{count:>12}{WARNING:#}  from {from} to {end}{cpu}", cause.name())?;
        }
        more(f, self.summary.losses.len(), "export --table losses")?;
        if !self.recovery.complete {
            let recovery = self.recovery;
            writeln!(
                f,
                "  read {} chunks; {} stretches ({} bytes) could not be read",
                recovery.chunks_good, recovery.chunks_lost, recovery.bytes_lost,
            )?;
            if self.end.is_none() {
                let last = Time(self.duration().get());
                writeln!(f, "  the recorder was stopped from outside: nothing is known after {last}")?;
            }
        }
        Ok(())
    }

    /// recorded + lost + uncounted = kernel.
    fn accounting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        heading(f, "Faults", ["minor", "major"])?;
        let recorded = self.recorded();
        counts(f, "recorded", Some(recorded))?;
        let lost = self.only_counted();
        if lost.total() > 0 {
            counts(f, "lost, but counted", Some(lost))?;
        }
        let uncounted = self.uncounted();
        counts(f, "uncounted", uncounted)?;
        for (name, faults) in self.uncounted_by() {
            counts(f, &format!("  {name}"), Some(faults))?;
        }
        let kernel = self.kernel_counted();
        counts(f, "kernel", kernel)?;
        if kernel.is_none() {
            self.without_kernel_counters(f)?;
        }
        if let (Some(mut sum), Some(kernel)) = (uncounted, kernel) {
            sum += recorded;
            sum += lost;
            if sum == kernel {
                let lost = if lost.total() > 0 { " + lost" } else { "" };
                writeln!(
                    f,
                    "  recorded{lost} + uncounted = kernel (min_flt and maj_flt of the traced tasks)"
                )?;
            } else {
                let (minor, major) =
                    (Difference(sum.minor, kernel.minor), Difference(sum.major, kernel.major));
                let across = if self.is_complete() { "" } else { ", across the losses above" };
                writeln!(
                    f,
                    "  {WARNING}their sum differs from kernel by {minor} minor, {major} major{across}\
                     {WARNING:#}",
                )?;
            }
        }
        match self.summary.heat_overflow.total() {
            0 => Ok(()),
            overflow => {
                writeln!(f, "  {overflow} of them were counted without their place: the heat table was full")
            }
        }
    }

    fn kinds(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.header.capture.detail == Detail::Counts {
            return Ok(());
        }
        let FaultTotals { completed, failed, refused, emulated, retried, unfinished } = self.summary.faults;
        let CompletedTotals {
            user,
            kernel,
            access: AccessCounts { read, write, exec, cow, unknown },
            without_latency,
            latency_max: _,
        } = self.summary.completed;
        let rows = [
            ("user mode", user),
            ("kernel mode", kernel),
            ("read", read),
            ("write", write),
            ("  copy-on-write", cow),
            ("exec", exec),
            ("unknown access", unknown),
            ("without latency", without_latency),
        ];
        if completed.total() > 0 {
            heading(f, "Completed", ["faults", "share"])?;
        }
        for (label, count) in rows.into_iter().filter(|(_, count)| *count > 0) {
            writeln!(f, "  {label:<24}{count:>12}{:>12}", Share(count, completed.total()))?;
        }
        let rows = [
            ("failed", failed),
            ("refused", refused),
            ("emulated", emulated),
            ("retried", retried),
            ("unfinished", unfinished),
        ];
        if rows.iter().any(|(_, count)| *count > 0) {
            heading(f, "Not completed", ["faults"])?;
        }
        for (label, count) in rows.into_iter().filter(|(_, count)| *count > 0) {
            writeln!(f, "  {label:<24}{count:>12}")?;
        }
        Ok(())
    }

    /// Why the kernel's side is not known, and what comes nearest to it.
    fn without_kernel_counters(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(state) = self.header.feature("btf").filter(|state| **state != Availability::Usable) {
            writeln!(
                f,
                "  the kernel's counters were not read: btf is {}",
                Printable::new(&state.to_string())
            )?;
        }
        match self.charged_to_command() {
            Some(charged) => counts(f, "command, by wait4", Some(charged)),
            None => Ok(()),
        }
    }

    fn latency(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(max) = self.summary.completed.latency_max else {
            return Ok(());
        };
        heading(f, "Latency", ["p50", "p90", "p99", "max"])?;
        write!(f, "  {:<24}", "completed faults")?;
        let quantiles = [0.5, 0.9, 0.99].into_iter().filter_map(|quantile| self.latency_at(quantile));
        for nanos in quantiles.chain([max.get()]) {
            write!(f, "{:>12}", Time(nanos))?;
        }
        writeln!(f)
    }

    fn processes(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.summary.processes.is_empty() {
            return Ok(());
        }
        heading(f, "Processes", ["faults", "uncounted", "kernel", "peak RSS"])?;
        let mut processes: Vec<_> = self.summary.processes.iter().collect();
        processes.sort_by_key(|process| {
            let mut sum = process.faults;
            sum += process.uncounted.unwrap_or_default();
            std::cmp::Reverse(sum.total())
        });
        let page = self.header.host.page;
        for process in processes.iter().take(SHOWN) {
            let ProcessSummary { id, faults, uncounted, account, peak, .. } = process;
            let label = self.process_label(*id);
            let known = |count: Option<FaultCounts>| {
                count.map_or("unknown".to_owned(), |count| count.total().to_string())
            };
            let kernel = known(account.map(|account| account.kernel));
            let uncounted = known(*uncounted);
            let bytes = |pages: PageCount| Size(pages.get().saturating_mul(page.bytes()));
            let peak = match (peak.exact, peak.seen) {
                (Some(pages), _) => bytes(pages).to_string(),
                (None, Some(pages)) => format!(">= {}", bytes(pages)),
                (None, None) => "unknown".to_owned(),
            };
            writeln!(f, "  {label:<24}{:>12}{uncounted:>12}{kernel:>12}{peak:>12}", faults.total())?;
        }
        more(f, processes.len(), "report --json")
    }

    /// The ID of a process and its name, if that is known.
    fn process_label(&self, id: ProcessId) -> String {
        let processes = &self.summary.processes;
        match processes.binary_search_by_key(&id, |process| process.id) {
            Ok(index) => format!("{} {}", id.tgid.0, processes[index].comm),
            Err(_) => id.tgid.0.to_string(),
        }
    }

    fn regions(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let regions = &self.summary.regions;
        if regions.is_empty() && self.summary.without_region.total() == 0 {
            return Ok(());
        }
        heading(f, "Hottest regions", ["faults", "major", "mean", "present"])?;
        for RegionSummary { process, label, faults, latency_sum, peak_present, lower_bound, .. } in
            regions.iter().take(SHOWN)
        {
            let place = format!(
                "{} {} {}",
                process.tgid.0,
                Printable::from_bytes(&label.perms),
                label.backing.name()
            );
            let at_least = if *lower_bound { "≥ " } else { "" };
            let count = format!("{at_least}{}", faults.total());
            let mean = latency_sum.get().checked_div(faults.total()).filter(|mean| *mean > 0);
            let mean = mean.map_or(String::new(), |mean| Time(mean).to_string());
            let present = peak_present.map(|pages| pages.get().saturating_mul(self.header.host.page.bytes()));
            let present = present.map_or(String::new(), |bytes| format!("{} KiB", bytes / 1024));
            write!(
                f,
                "  {place:<24}{count:>12}{:>12}{mean:>12}{present:>12}  {}",
                faults.major, label.range
            )?;
            match &label.name[..] {
                [] => writeln!(f)?,
                name => writeln!(f, " {}", Printable::from_bytes(name))?,
            }
        }
        more(f, regions.len(), "report --json")?;
        match self.summary.without_region.total() {
            0 => Ok(()),
            faults => writeln!(
                f,
                "  {:<24}{faults:>12}  mapped too briefly for a reading of the maps",
                "in no known region"
            ),
        }
    }

    fn cost(&self, f: &mut Formatter<'_>) -> fmt::Result {
        heading(f, "Cost", [])?;
        if let Some(end) = &self.end {
            writeln!(f, "  {:<24}{:>12}", "CPU of the recorder", Time(end.cost.cpu_ns))?;
            writeln!(f, "  {:<24}{:>12}", "time in scans", Time(end.cost.lock_ns))?;
        }
        let ScanCount { scans, pages } = self.summary.scans.total();
        writeln!(f, "  {:<24}{scans:>12}", "scans")?;
        writeln!(f, "  {:<24}{:>12}", "pages scanned", pages.get())
    }

    /// The outcomes of faults, and what that took.
    fn outcome(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let outcome = &self.summary.outcome;
        if outcome.is_empty() {
            return Ok(());
        }
        heading(f, "Outcomes of faults", ["faults", "bytes", "fresh", "latency", "bytes/µs"])?;
        let bytes = |pages: PageCount| pages.get().saturating_mul(self.header.host.page.bytes());
        let size = |pages: Option<PageCount>| {
            pages.map_or(String::from("-"), |pages| Size(bytes(pages)).to_string())
        };
        for ((kind, pages), totals) in outcome {
            let OutcomeTotals { faults, sized, known_pages, latency_sum } = totals;
            let each = pages.map_or(String::new(), |pages| format!(" {}", Size(bytes(pages))));
            let label = format!("{}{each}", kind.name());
            let known = totals.pages().map(bytes);
            let rate = known.and_then(|bytes| bytes.saturating_mul(1000).checked_div(latency_sum.get()));
            let rate = rate.map_or(String::new(), |rate| rate.to_string());
            let of_known = Size(bytes(*known_pages));
            let all = match *sized {
                0 => "-".to_owned(),
                sized if sized == *faults => of_known.to_string(),
                _ => format!("≥ {of_known}"),
            };
            let fresh = size(kind.fresh(totals.pages()));
            let latency = Time(latency_sum.get()).to_string();
            writeln!(f, "  {label:<24}{faults:>12}{all:>12}{fresh:>12}{latency:>12}{rate:>12}")?;
        }
        for (why, faults) in &self.summary.outcome_unknown {
            writeln!(f, "  {:<24}{faults:>12}  {}", "unknown", why.doc())?;
        }
        Ok(())
    }

    /// What forks cost in faults.
    fn fork_tax(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let is_paid = |tax: &&ForkTax| tax.by_parent.faults + tax.by_children.faults > 0;
        let taxed: Vec<_> = self.summary.fork_tax.iter().filter(|(_, tax)| is_paid(tax)).collect();
        if taxed.is_empty() {
            return Ok(());
        }
        heading(f, "Fork tax", ["forks", "faults", "by children", "latency"])?;
        for (process, ForkTax { forks, by_parent, by_children }) in taxed.iter().take(SHOWN) {
            let label = self.process_label(**process);
            let mut latency = by_parent.latency_sum;
            latency += by_children.latency_sum;
            let latency = Time(latency.get()).to_string();
            let faults = by_parent.faults + by_children.faults;
            writeln!(f, "  {label:<24}{forks:>12}{faults:>12}{:>12}{latency:>12}", by_children.faults)?;
        }
        more(f, taxed.len(), "report --json")
    }

    /// Pages of processes at their end, as last seen.
    fn pages(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let states = self.summary.processes.iter().filter_map(|process| Some((process.id, process.pages?)));
        let mut states: Vec<_> = states.collect();
        if states.is_empty() {
            return Ok(());
        }
        states.sort_by_key(|(_, pages)| std::cmp::Reverse(pages.counts.present()));
        heading(f, "Pages at the end, as last seen", ["present", "swapped", "huge", "scanned"])?;
        let size = |pages: PageCount| Size(pages.get().saturating_mul(self.header.host.page.bytes()));
        let known =
            |pages: Option<PageCount>| pages.map_or("unknown".to_owned(), |pages| size(pages).to_string());
        for (process, PageState { scanned, counts }) in states.iter().take(SHOWN) {
            let label = self.process_label(*process);
            let [present, swapped, huge] = [counts.present(), counts.swapped(), counts.huge()].map(known);
            let scanned = Time(scanned.since(self.header.host.start).get());
            writeln!(f, "  {label:<24}{present:>12}{swapped:>12}{huge:>12}{scanned:>12}")?;
        }
        more(f, states.len(), "report --json")
    }

    /// Why pages were scanned, and what was not.
    fn scans(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let ScanSummary { by_reason, hot_slots, hot_slots_gone, hot_slots_scanned, unseen } =
            &self.summary.scans;
        if by_reason.is_empty() && *hot_slots == 0 {
            return Ok(());
        }
        heading(f, "Scans of pages", ["scans", "pages"])?;
        for (reason, ScanCount { scans, pages }) in by_reason {
            writeln!(f, "  {:<24}{scans:>12}{:>12}", reason.name(), pages.get())?;
        }
        let slots = ByteSize::new(1 << memtrace_ebpf::HEAT_SLOT_SHIFT);
        writeln!(f, "  faults made {slots} interesting {hot_slots} times:")?;
        let waited = hot_slots - hot_slots_gone - hot_slots_scanned;
        let share = self.header.capture.focus.max_cpu.percent();
        let fates = [
            (*hot_slots_scanned, "scanned before the next reading".to_owned()),
            (waited, format!("had to wait (--max-cpu {share}%), or the process ended first")),
            (*hot_slots_gone, "the process had ended".to_owned()),
        ];
        for (slots, fate) in fates.into_iter().filter(|(slots, _)| *slots > 0) {
            writeln!(f, "  {slots:>12}  {fate}")?;
        }
        let UnseenRegions { regions, bytes, brief } = unseen;
        if *regions > 0 {
            writeln!(
                f,
                "  never scanned: {regions} regions of {} together, {brief} of which lived for less than an interval ({})",
                Size(*bytes),
                self.header.capture.interval,
            )?;
        }
        Ok(())
    }
}

/// Least width of what stands before numbers.
pub(super) const LABEL: usize = 24;
/// Most width that is kept free for it; where it is wider, numbers stand further to the right.
pub(super) const WIDEST_LABEL: usize = 64;

/// The width at which all of these `labels` end, unless they are very wide.
fn label_width<'a>(labels: impl IntoIterator<Item = &'a str>) -> usize {
    let widest = labels.into_iter().map(|label| label.chars().count()).max();
    widest.unwrap_or(0).clamp(LABEL, WIDEST_LABEL)
}

/// An empty line, a title, and the titles of its columns.
fn heading<const N: usize>(f: &mut Formatter<'_>, title: &str, columns: [&str; N]) -> fmt::Result {
    heading_of(f, title, LABEL, columns)
}

/// A heading of lines in which labels have this `width`.
fn heading_of<const N: usize>(
    f: &mut Formatter<'_>,
    title: &str,
    width: usize,
    columns: [&str; N],
) -> fmt::Result {
    write!(f, "\n{HEADING}{title}{HEADING:#}")?;
    let mut gap = (width + 2).saturating_sub(title.len());
    for column in columns {
        write!(f, "{:gap$}{column:>12}", "")?;
        gap = 0;
    }
    writeln!(f)
}

fn counts(f: &mut Formatter<'_>, label: &str, faults: Option<FaultCounts>) -> fmt::Result {
    match faults {
        Some(FaultCounts { minor, major }) => writeln!(f, "  {label:<24}{minor:>12}{major:>12}"),
        None => writeln!(f, "  {label:<24}{:>12}{:>12}", "unknown", "unknown"),
    }
}

/// Says where the rows beyond [`SHOWN`] are.
fn more(f: &mut Formatter<'_>, rows: usize, verb: &str) -> fmt::Result {
    match rows.saturating_sub(SHOWN) {
        0 => Ok(()),
        hidden => writeln!(f, "  … {hidden} more: memtrace {verb}"),
    }
}
