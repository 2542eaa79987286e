//! What the report says of the code that faulted.

use std::fmt::{self, Formatter};

use super::{SHOWN, Share, Time, heading, more};
use crate::{
    event::StackEnd,
    report::{Report, calls, function::file_name},
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
        let all = sum(modules.iter().map(|(_, totals)| **totals));
        let rows = modules.iter().map(|(module, totals)| {
            let path = module.map(Module::name).filter(|path| path.starts_with(b"/"));
            Row { label: format!("{:.24}", file_name(*module)), totals: **totals, path }
        });
        section(f, "By module", rows, all)?;
        more(f, modules.len(), "report --json")
    }

    /// In which system calls the kernel faulted.
    pub(super) fn by_syscall(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let calls = self.syscalls();
        let rows = calls.iter().map(|(number, totals)| {
            let name = number.map(|number| calls::of_number(number, &self.header.host.arch));
            Row::new(name.unwrap_or_else(|| "unknown, or none".to_owned()), *totals)
        });
        section(f, "By system call", rows, sum(self.summary.modules.values().copied()))?;
        more(f, calls.len(), "report --json")
    }

    /// Which instructions faulted; for the kernel, which ones called it.
    pub(super) fn by_code(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let code = self.code();
        let rows = code.iter().map(|(place, totals)| Row::new(Place(place).to_string(), *totals));
        section(f, "By code", rows, self.with_stacks())?;
        more(f, code.len(), "report --json")
    }

    /// How far stacks reach, and whole ones, innermost frame first.
    pub(super) fn stacks(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let all = self.with_stacks();
        let rows = self.stack_ends().into_iter().map(|(end, totals)| {
            let end = match end {
                Some(StackEnd::Root) => "to the start of threads",
                Some(end) => end.name(),
                None => "unknown",
            };
            Row::new(end.to_owned(), totals)
        });
        section(f, "Stacks", rows, all)?;
        let mut stacks: Vec<&StackTotals> = self.summary.stacks.iter().collect();
        stacks.sort_by_key(|stack| (std::cmp::Reverse(stack.totals.latency_sum), stack.stack));
        for stack in stacks.into_iter().take(STACKS) {
            Row::new(format!("stack {}", stack.stack), stack.totals).write(f, all)?;
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

/// What some code cost.
struct Row<'a> {
    label: String,
    totals: CodeTotals,
    /// Behind the numbers.
    path: Option<&'a [u8]>,
}

impl Row<'_> {
    const fn new(label: String, totals: CodeTotals) -> Self {
        Self { label, totals, path: None }
    }

    /// Faults, major ones, their stall, and its share of the stall of `all`.
    fn write(&self, f: &mut Formatter<'_>, all: CodeTotals) -> fmt::Result {
        let CodeTotals { faults, latency_sum } = self.totals;
        let stall = Some(latency_sum.get()).filter(|stall| *stall > 0);
        let stall = stall.map_or(String::new(), |stall| Time(stall).to_string());
        let share = Share(latency_sum.get(), all.latency_sum.get());
        write!(f, "  {:<24}{:>12}{:>12}{stall:>12}{share:>12}", self.label, faults.total(), faults.major)?;
        match self.path {
            Some(path) => writeln!(f, "  {}", Printable::from_bytes(path)),
            None => writeln!(f),
        }
    }
}

/// The first of `rows` under a heading; nothing if there are none.
fn section<'a>(
    f: &mut Formatter<'_>,
    title: &str,
    rows: impl Iterator<Item = Row<'a>>,
    all: CodeTotals,
) -> fmt::Result {
    let mut rows = rows.take(SHOWN).peekable();
    if rows.peek().is_some() {
        heading(f, title, ["faults", "major", "stall", "share"])?;
    }
    rows.try_for_each(|row| row.write(f, all))
}

/// Sum of costs.
fn sum(totals: impl IntoIterator<Item = CodeTotals>) -> CodeTotals {
    totals.into_iter().fold(CodeTotals::default(), |mut sum, totals| {
        sum += totals;
        sum
    })
}

/// A place in code: the file and the offset in it, or an address.
struct Place<'a>(&'a CodePlace);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let file = file_name(self.0.module.as_ref());
        match self.0.position {
            CodePosition::InFile(offset) => write!(f, "{file}+{offset:#x}"),
            CodePosition::At(addr) => write!(f, "{file} {addr}"),
        }
    }
}
