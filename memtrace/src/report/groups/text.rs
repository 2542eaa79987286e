//! Groups for people: a line each, numbers to the right.

use std::{
    fmt::{self, Display, Formatter},
    iter,
};

use super::{Costs, GroupReport, Grouping, Key};
use crate::{
    report::{
        numbers::{Share, Size, Time},
        text::{HEADING, LABEL, WIDEST_LABEL},
    },
    units::{Nanos, PageSize, TimeRange},
};

/// Width of the numbers.
const WIDTH: usize = 12;

impl Display for GroupReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.report.origin(f)?;
        self.report.losses(f)?;
        self.selection(f)?;
        if self.groups.by_values.is_empty() { Ok(()) } else { self.table(f) }
    }
}

impl GroupReport {
    /// Which faults these are, and what they add up to.
    fn selection(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let groups = &self.groups;
        let Grouping { pids, times: TimeRange { from, to }, .. } = &groups.grouping;
        write!(f, "\nCompleted faults")?;
        match &pids[..] {
            [] => {}
            [pid] => write!(f, " of process {}", pid.0)?,
            pids => {
                let pids: Vec<_> = pids.iter().map(|pid| pid.0.to_string()).collect();
                write!(f, " of processes {}", pids.join(", "))?;
            }
        }
        if let Some(from) = from {
            write!(f, ", from {from} on")?;
        }
        if let Some(to) = to {
            write!(f, ", before {to}")?;
        }
        let Costs { faults, stall, .. } = groups.total;
        writeln!(f, ": {}, {} of them major, stall {}", faults.total(), faults.major, Time(stall.get()))?;
        match groups.without_process {
            0 => Ok(()),
            left => writeln!(f, "{left} more, of which the process is not known, are left out"),
        }
    }

    fn table(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (groups, host) = (&self.groups, &self.report.header.host);
        let by = &groups.grouping.by;
        let (shown, hidden, rest) = self.shown();
        let labels: Vec<Vec<_>> = shown
            .iter()
            .map(|(values, _)| {
                let texts = values.iter().enumerate().map(|(column, value)| {
                    groups.text_of(value, shown.iter().map(|(values, _)| &values[column]), &host.arch)
                });
                texts.collect()
            })
            .collect();
        let widths: Vec<_> = (0..by.len())
            .map(|column| labels.iter().map(|texts| texts[column].chars().count()).max().unwrap_or(0))
            .map(|width| width.min(WIDEST_LABEL))
            .collect();
        let title = by.iter().map(|key| key.name()).collect::<Vec<_>>().join(", ");
        let title = format!("By {title}");
        let more = format!("… {hidden} more");
        // Two spaces stand between columns.
        let label = (widths.iter().sum::<usize>() + 2 * (by.len().max(1) - 1)).max(LABEL);
        let label = label.max(title.chars().count().saturating_sub(2));

        let has_members = by.contains(&Key::Process) || by.contains(&Key::Thread);
        write!(f, "\n{HEADING}{title}{HEADING:#}{:1$}", "", label + 2 - title.chars().count())?;
        if has_members {
            write!(f, "{:>WIDTH$}", "of")?;
        }
        for column in ["faults", "major", "stall", "share", "mean", "max", "bytes"] {
            write!(f, "{column:>WIDTH$}")?;
        }
        writeln!(f)?;
        let line = |f: &mut Formatter<'_>, text: &str, of: usize, costs: &Costs| {
            let of = Some(of).filter(|of| *of > 0).map_or(String::new(), |of| of.to_string());
            let columns = has_members.then_some(of).into_iter();
            let columns = columns.chain(numbers(costs, groups.total.stall, host.page));
            let padded =
                iter::once(format!("  {text:<label$}")).chain(columns.map(|text| format!("{text:>WIDTH$}")));
            writeln!(f, "{}", padded.collect::<String>().trim_end())
        };
        for (texts, (_, group)) in labels.iter().zip(&shown) {
            let padded = texts.iter().zip(&widths).map(|(text, width)| format!("{text:<width$}"));
            let text = padded.collect::<Vec<_>>().join("  ");
            line(f, text.trim_end(), group.members.len(), &group.costs)?;
        }
        match hidden {
            0 => Ok(()),
            _ => line(f, &more, 0, &rest),
        }
    }
}

/// The columns of numbers; what is not known is empty.
fn numbers(costs: &Costs, all: Nanos, page: PageSize) -> [String; 7] {
    let Costs { faults, stall, longest, timed, pages: _, sized } = *costs;
    let time = |nanos: Option<u64>| nanos.map_or(String::new(), |nanos| Time(nanos).to_string());
    let is_known = timed > 0;
    let bytes = costs.known_pages().map_or(String::new(), |pages| {
        let at_least = if sized < faults.total() { "≥ " } else { "" };
        format!("{at_least}{}", Size(pages.get().saturating_mul(page.bytes())))
    });
    [
        faults.total().to_string(),
        faults.major.to_string(),
        time(is_known.then_some(stall.get())),
        if is_known { Share(stall.get(), all.get()).to_string() } else { String::new() },
        time(costs.mean()),
        time(longest.map(Nanos::get)),
        bytes,
    ]
}
