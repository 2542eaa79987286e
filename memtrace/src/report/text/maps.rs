//! What became of address spaces, for people.

use std::{
    cmp::Reverse,
    collections::BTreeSet,
    fmt::{self, Formatter},
};

use super::{SHOWN, WARNING, heading, more};
use crate::{
    event::LossCause,
    report::{
        Report,
        findings::{Finding, mean_lifetime},
        numbers::{Difference, Size, Time},
    },
    timeline::{Advised, Churn, MapFlags, MapIdentity, MappingProcess},
};

/// Fewer mappings of one size come and go wherever a program starts, loads libraries and reads files; a line is worth
/// what a loop does.
const LOOPED: u64 = 16;

impl Report {
    pub(super) fn address_spaces(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let maps = &self.summary.maps;
        if self.header.capture.follows_maps {
            heading(f, "Address spaces", ["done", "failed"])?;
            let kinds: BTreeSet<_> = maps.calls.keys().chain(maps.failed.keys()).collect();
            for kind in kinds {
                let [done, failed] = [&maps.calls, &maps.failed].map(|by| by.get(kind).copied().unwrap_or(0));
                writeln!(f, "  {:<24}{done:>12}{failed:>12}", kind.name())?;
            }
        } else {
            heading(f, "Address spaces", [])?;
            writeln!(f, "  changes were not followed: regions are those of readings of maps")?;
        }
        writeln!(f, "  {:<24}{:>12}", "regions that came to be", self.summary.regions_born)?;
        self.identity(f)
    }

    fn identity(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let MapIdentity { checks, contradictions, inconclusive, resyncs, unverified } =
            self.summary.maps.identity;
        let plural = |count: u64| if count == 1 { "" } else { "s" };
        let outcome = format!(
            "{checks} check{}, {contradictions} contradiction{}",
            plural(checks),
            plural(contradictions)
        );
        if contradictions == 0 {
            writeln!(f, "  {:<24}{outcome}", "compared with maps")?;
        } else {
            writeln!(f, "  {WARNING}{:<24}{outcome}{WARNING:#}", "compared with maps")?;
            writeln!(
                f,
                "    there maps showed something else than the events had known, and were believed: see the rows \
                 'contradiction' of memtrace export --table maps"
            )?;
        }
        if inconclusive > 0 {
            writeln!(
                f,
                "  {:<24}{inconclusive} reading{} of maps",
                "could not be compared",
                plural(inconclusive)
            )?;
        }
        if resyncs > 0 {
            writeln!(f, "  {:<24}{resyncs} reading{} of maps", "regions read anew from", plural(resyncs))?;
        }
        match unverified {
            None | Some(0) => Ok(()),
            Some(1) => writeln!(f, "  {:<24}1 process that ended", "not held at its exit"),
            Some(count) => writeln!(f, "  {:<24}{count} processes that ended", "not held at their exit"),
        }
    }

    pub(super) fn ping_pong(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut churn = self.churn();
        churn.retain(|(_, _, churn)| churn.count >= LOOPED);
        if churn.is_empty() {
            return Ok(());
        }
        heading(f, "Mapped and unmapped again", ["size", "times", "mean life", "shortest", "longest"])?;
        for (process, bytes, churn) in churn.iter().take(SHOWN) {
            let Churn { count, lifetime_sum: _, shortest, longest } = churn;
            let process = self.process_label(*process);
            write!(f, "  {process:<24}{:>12}{count:>12}", Size(*bytes))?;
            for nanos in [mean_lifetime(churn), shortest.get(), longest.get()] {
                write!(f, "{:>12}", Time(nanos))?;
            }
            writeln!(f)?;
        }
        more(f, churn.len(), "report --json")
    }

    pub(super) fn mapping(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut processes: Vec<_> = self.summary.maps.processes.iter().collect();
        if processes.is_empty() {
            return Ok(());
        }
        processes.sort_by_key(|(_, process)| Reverse(process.mapped));
        heading(f, "Who maps most", ["calls", "mapped", "unmapped", "net"])?;
        let misses_calls = self.misses_calls();
        for (process, MappingProcess { calls, mapped, unmapped, lower_bound }) in processes.iter().take(SHOWN)
        {
            let process = self.process_label(**process);
            let net = Difference(*mapped, *unmapped);
            let net = match net.size() {
                _ if misses_calls || *lower_bound => "unknown".to_owned(),
                0 => "0 B".to_owned(),
                size => format!("{}{}", net.sign(), Size(size)),
            };
            let [mapped, unmapped] = [*mapped, *unmapped].map(|bytes| at_least(bytes, *lower_bound));
            writeln!(f, "  {process:<24}{calls:>12}{mapped:>12}{unmapped:>12}{net:>12}")?;
        }
        more(f, processes.len(), "report --json")?;
        writeln!(
            f,
            "  by calls: what another mapping replaced is unmapped; exec, fork, exit and the growth of stacks are left out"
        )
    }

    /// Whether a loss may have taken calls that change address spaces: then a difference of their sums says nothing.
    fn misses_calls(&self) -> bool {
        let touches_calls = |cause| match cause {
            LossCause::EventsRing | LossCause::SideBand | LossCause::CpuOffline => false,
            LossCause::ControlRing
            | LossCause::TaskTable
            | LossCause::HiddenProgram
            | LossCause::Late
            | LossCause::TornTail
            | LossCause::UnknownKind
            | LossCause::Skipped
            | LossCause::NoEvents => true,
        };
        !self.recovery.complete || self.summary.losses.iter().any(|loss| touches_calls(loss.cause))
    }

    pub(super) fn advice(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut advice: Vec<_> = self.summary.maps.advice.iter().collect();
        if advice.is_empty() {
            return Ok(());
        }
        advice.sort_by_key(|(_, advised)| Reverse(advised.calls));
        heading(f, "Advice by madvise", ["calls", "bytes"])?;
        for ((process, advice), Advised { calls, bytes, lower_bound }) in advice.iter().take(SHOWN) {
            let process = self.process_label(*process);
            let advice = MapFlags::Advice(*advice);
            let bytes = at_least(*bytes, *lower_bound);
            writeln!(f, "  {process:<24}{calls:>12}{bytes:>12}  {advice}")?;
        }
        more(f, advice.len(), "report --json")
    }

    pub(super) fn found(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let findings = self.findings();
        if findings.is_empty() {
            return Ok(());
        }
        heading(f, "Findings", [])?;
        for Finding { kind, process, seen, remedy } in findings.iter().take(SHOWN) {
            writeln!(f, "  {WARNING}{kind}{WARNING:#} in {}: {seen}", self.process_label(*process))?;
            writeln!(f, "    {remedy}")?;
        }
        more(f, findings.len(), "report --json")
    }
}

/// A size of which no more may be known than that it is not less.
fn at_least(bytes: u64, is_lower_bound: bool) -> String {
    format!("{}{}", if is_lower_bound { "≥ " } else { "" }, Size(bytes))
}
