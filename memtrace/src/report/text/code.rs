//! What the report says of the code that faulted.

use std::fmt::{self, Formatter};

use super::{SHOWN, Share, Time, heading, more};
use crate::{
    event::{StackEnd, syscall_name},
    report::Report,
    timeline::{CodePlace, CodePosition, CodeTotals, Module, StackTotals},
    units::Printable,
};

/// Stacks shown, and frames of each; `--json` and `export` have all.
const STACKS: usize = 5;
const FRAMES: usize = 16;

impl Report {
    /// Which code faulted, by where it lies.
    pub(super) fn by_module(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let modules = self.modules();
        if modules.is_empty() {
            return Ok(());
        }
        heading(f, "By module", ["faults", "major", "stall", "share"])?;
        let all = sum(modules.iter().map(|(_, totals)| **totals));
        for (module, totals) in modules.iter().take(SHOWN) {
            let path = module.map_or(&b"in no known region"[..], Module::name);
            write!(f, "  {:<24.24}", file_name(*module))?;
            costs(f, **totals, all)?;
            match path {
                [b'/', ..] => writeln!(f, "  {}", Printable::from_bytes(path))?,
                _ => writeln!(f)?,
            }
        }
        more(f, modules.len(), "report --json")
    }

    /// In which system calls the kernel faulted.
    pub(super) fn by_syscall(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let calls = self.syscalls();
        if calls.is_empty() {
            return Ok(());
        }
        heading(f, "By system call", ["faults", "major", "stall", "share"])?;
        let all = sum(self.summary.modules.values().copied());
        for (number, totals) in calls.iter().take(SHOWN) {
            let name = number.and_then(|number| syscall_name(number, &self.header.host.arch));
            let name = match (number, name) {
                (_, Some(name)) => name.to_owned(),
                (Some(number), None) => format!("syscall_{number}"),
                (None, None) => "unknown, or none".to_owned(),
            };
            write!(f, "  {name:<24.24}")?;
            costs(f, *totals, all)?;
            writeln!(f)?;
        }
        more(f, calls.len(), "report --json")
    }

    /// Which instructions faulted; for the kernel, which ones called it.
    pub(super) fn by_code(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let code = self.code();
        if code.is_empty() {
            return Ok(());
        }
        heading(f, "By code", ["faults", "major", "stall", "share"])?;
        let all = self.with_stacks();
        for (place, totals) in code.iter().take(SHOWN) {
            write!(f, "  {:<24}", Place(place))?;
            costs(f, *totals, all)?;
            writeln!(f)?;
        }
        more(f, code.len(), "report --json")
    }

    /// Whole stacks, innermost frame first, and how far they reach.
    pub(super) fn stacks(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let ends = self.stack_ends();
        if ends.is_empty() {
            return Ok(());
        }
        heading(f, "Stacks", ["faults", "major", "stall", "share"])?;
        let all = self.with_stacks();
        for (end, totals) in &ends {
            let end = match end {
                Some(StackEnd::Root) => "to the start of threads",
                Some(end) => end.name(),
                None => "unknown",
            };
            write!(f, "  {end:<24}")?;
            costs(f, *totals, all)?;
            writeln!(f)?;
        }
        let mut stacks: Vec<&StackTotals> = self.summary.stacks.iter().collect();
        stacks.sort_by_key(|stack| (std::cmp::Reverse(stack.totals.latency_sum), stack.stack));
        for stack in stacks.into_iter().take(STACKS) {
            write!(f, "  stack {:<18}", stack.stack)?;
            costs(f, stack.totals, all)?;
            writeln!(f)?;
            for place in stack.places.iter().take(FRAMES) {
                writeln!(f, "    {}", Place(place))?;
            }
            if stack.places.len() > FRAMES {
                writeln!(f, "    and {} more frames", stack.places.len() - FRAMES)?;
            }
        }
        Ok(())
    }
}

/// Sum of costs.
fn sum(totals: impl IntoIterator<Item = CodeTotals>) -> CodeTotals {
    totals.into_iter().fold(CodeTotals::default(), |mut sum, totals| {
        sum += totals;
        sum
    })
}

/// Faults, major ones, their stall, and its share of the stall of `all`.
fn costs(f: &mut Formatter<'_>, totals: CodeTotals, all: CodeTotals) -> fmt::Result {
    let CodeTotals { faults, latency_sum } = totals;
    let stall = Some(latency_sum.get()).filter(|stall| *stall > 0);
    let stall = stall.map_or(String::new(), |stall| Time(stall).to_string());
    let share = Share(latency_sum.get(), all.latency_sum.get());
    write!(f, "{:>12}{:>12}{stall:>12}{share:>12}", faults.total(), faults.major)
}

/// Name of the file of a module, or what stands in place of one.
fn file_name(module: Option<&Module>) -> String {
    let path = module.map_or(&b"in no known region"[..], Module::name);
    let file = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    Printable::from_bytes(file).to_string()
}

/// A place in code: the file and the offset in it, or an address.
struct Place<'a>(&'a CodePlace);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let file = file_name(self.0.module.as_ref());
        f.pad(&match self.0.position {
            CodePosition::InFile(offset) => format!("{file}+{offset:#x}"),
            CodePosition::At(addr) => format!("{file} {addr}"),
        })
    }
}
