//! What the report says of the code that faulted.

use std::fmt::{self, Formatter};

use super::{LABEL, SHOWN, Share, Time, heading_of, label_width, more};
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

    /// Which functions faulted, if names are known.
    pub(super) fn by_function(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if !self.has_names() {
            return Ok(());
        }
        let shown = self.functions.iter().take(SHOWN);
        let rows: Vec<_> = shown.map(|(function, totals)| Row::new(function.to_string(), *totals)).collect();
        let width = label_width(rows.iter().map(|row| &row.label[..]));
        section_of(f, "By function", width, rows.into_iter(), self.with_stacks())?;
        more(f, self.functions.len(), "report --by function")
    }

    /// Which instructions faulted; for the kernel, which ones called it. Nothing if functions say that already.
    pub(super) fn by_code(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.has_names() && self.has_most_names() {
            return Ok(());
        }
        let code = self.code();
        let rows = code.iter().map(|(place, totals)| Row::new(Place(place).to_string(), *totals));
        section(f, "By code", rows, self.with_stacks())?;
        more(f, code.len(), "report --json")
    }

    /// How far stacks reach; and who called whom, or if no names are known whole stacks, innermost frame first.
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
        if self.call_paths(f)? {
            return self.resident_paths(f);
        }
        let mut stacks: Vec<&StackTotals> = self.summary.stacks.iter().collect();
        stacks.sort_by_key(|stack| (std::cmp::Reverse(stack.totals.latency_sum), stack.stack));
        for stack in stacks.into_iter().take(STACKS) {
            Row::new(format!("stack {}", stack.stack), stack.totals).write(f, LABEL, all)?;
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
    fn write(&self, f: &mut Formatter<'_>, width: usize, all: CodeTotals) -> fmt::Result {
        let CodeTotals { faults, latency_sum } = self.totals;
        let stall = Some(latency_sum.get()).filter(|stall| *stall > 0);
        let stall = stall.map_or(String::new(), |stall| Time(stall).to_string());
        let share = Share(latency_sum.get(), all.latency_sum.get());
        write!(f, "  {:<width$}{:>12}{:>12}", self.label, faults.total(), faults.major)?;
        write!(f, "{stall:>12}{share:>12}")?;
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
    section_of(f, title, LABEL, rows, all)
}

/// A section of which labels have this `width`.
fn section_of<'a>(
    f: &mut Formatter<'_>,
    title: &str,
    width: usize,
    rows: impl Iterator<Item = Row<'a>>,
    all: CodeTotals,
) -> fmt::Result {
    let mut rows = rows.take(SHOWN).peekable();
    if rows.peek().is_some() {
        heading_of(f, title, width, ["faults", "major", "stall", "share"])?;
    }
    rows.try_for_each(|row| row.write(f, width, all))
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
