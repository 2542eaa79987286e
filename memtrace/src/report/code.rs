//! Code that faulted, by what it has in common.

use std::{cmp::Reverse, collections::BTreeMap};

use serde_json::{Value, json};

use super::{Report, calls, function::FunctionLabel};
use crate::{
    event::{FaultCounts, StackEnd},
    timeline::{CodePlace, CodePosition, CodeTotals, Module, ResidentPages, StackTotals},
    units::Hexadecimal,
};

impl Report {
    /// Modules and what their faults cost, most stall first.
    pub(super) fn modules(&self) -> Vec<(Option<&Module>, &CodeTotals)> {
        let mut modules: Vec<_> =
            self.summary.modules.iter().map(|(module, totals)| (module.as_ref(), totals)).collect();
        modules.sort_by_key(|(_, totals)| dearness(totals));
        modules
    }

    /// System calls, if they are known, in which the kernel faulted, most stall first.
    pub(super) fn syscalls(&self) -> Vec<(Option<u32>, CodeTotals)> {
        let mut calls: Vec<_> =
            self.summary.syscalls.iter().map(|(number, totals)| (*number, *totals)).collect();
        calls.sort_by_key(|(_, totals)| dearness(totals));
        calls
    }

    /// Whether the names of some functions that faulted are known.
    pub(super) fn has_names(&self) -> bool {
        self.functions.iter().any(|(function, _)| function.has_name())
    }

    /// Whether most faults were in functions of which the names are known.
    pub(super) fn has_most_names(&self) -> bool {
        let faults = |is_counted: fn(&FunctionLabel) -> bool| -> u64 {
            let counted = self.functions.iter().filter(|(function, _)| is_counted(function));
            counted.map(|(_, totals)| totals.faults.total()).sum()
        };
        faults(FunctionLabel::has_name) >= faults(|function| !function.has_name())
    }

    /// Places of the innermost frames, most stall first.
    pub(super) fn code(&self) -> Vec<(&CodePlace, CodeTotals)> {
        let mut code: BTreeMap<&CodePlace, CodeTotals> = BTreeMap::new();
        for StackTotals { places, totals, .. } in &self.summary.stacks {
            if let Some(place) = places.first() {
                *code.entry(place).or_default() += *totals;
            }
        }
        let mut code: Vec<_> = code.into_iter().collect();
        code.sort_by_key(|(_, totals)| dearness(totals));
        code
    }

    /// How far stacks reach, most faults first; `None` for stacks that are not known. Empty if no stacks were recorded.
    pub(super) fn stack_ends(&self) -> Vec<(Option<StackEnd>, CodeTotals)> {
        if !self.header.capture.stacks {
            return Vec::new();
        }
        let mut ends: BTreeMap<Option<StackEnd>, CodeTotals> = BTreeMap::new();
        for StackTotals { end, totals, .. } in &self.summary.stacks {
            *ends.entry(Some(*end)).or_default() += *totals;
        }
        if self.summary.without_stack != CodeTotals::default() {
            ends.insert(None, self.summary.without_stack);
        }
        let mut ends: Vec<_> = ends.into_iter().collect();
        ends.sort_by_key(|(end, totals)| (Reverse(totals.faults.total()), *end));
        ends
    }

    /// All faults, with a stack that is known or not.
    pub(super) fn with_stacks(&self) -> CodeTotals {
        let stacks = self.summary.stacks.iter().map(|stack| stack.totals);
        stacks.fold(self.summary.without_stack, |mut sum, totals| {
            sum += totals;
            sum
        })
    }

    pub(super) fn modules_json(&self) -> Value {
        let name = |module: Option<&Module>| {
            module.map(|module| String::from_utf8_lossy(module.name()).into_owned())
        };
        self.modules()
            .into_iter()
            .map(|(module, totals)| cost(json!({ "module": name(module) }), totals))
            .collect()
    }

    pub(super) fn syscalls_json(&self) -> Value {
        let name = |number| calls::of_number(number, &self.header.host.arch);
        let calls = self.syscalls().into_iter();
        calls.map(|(number, totals)| cost(json!({ "syscall": number.map(name) }), &totals)).collect()
    }

    pub(super) fn functions_json(&self) -> Value {
        let has_names = self.has_names();
        let functions = self.functions.iter().filter(|_| has_names);
        functions.map(|(function, totals)| cost(flat(function), totals)).collect()
    }

    pub(super) fn code_json(&self) -> Value {
        self.code().into_iter().map(|(one, totals)| cost(place(one), &totals)).collect()
    }

    pub(super) fn stack_ends_json(&self) -> Value {
        let ends = self.stack_ends().into_iter();
        ends.map(|(end, totals)| cost(json!({ "end": end.map(StackEnd::name) }), &totals)).collect()
    }

    pub(super) fn stacks_json(&self) -> Value {
        let mut resident: BTreeMap<u64, u64> = BTreeMap::new();
        for ResidentPages { stack, pages, .. } in &self.summary.resident {
            *resident.entry(*stack).or_default() += pages.get();
        }
        let stacks = self.summary.stacks.iter().map(|stack| {
            let frames: Vec<_> = stack.places.iter().map(place).collect();
            let resident = resident.get(&stack.stack).copied().unwrap_or_default();
            let (number, end) = (stack.stack, stack.end.name());
            let head = json!({ "stack": number, "end": end, "frames": frames, "resident_pages": resident });
            cost(head, &stack.totals)
        });
        stacks.collect()
    }
}

/// Most stall first, then most faults.
pub(super) fn dearness(totals: &CodeTotals) -> Reverse<(crate::units::Nanos, u64)> {
    Reverse((totals.latency_sum, totals.faults.total()))
}

/// `head` with what the faults cost.
pub(super) fn cost(mut head: Value, totals: &CodeTotals) -> Value {
    let CodeTotals { faults: FaultCounts { minor, major }, latency_sum } = totals;
    if let Value::Object(fields) = &mut head {
        fields.insert("minor".to_owned(), (*minor).into());
        fields.insert("major".to_owned(), (*major).into());
        fields.insert("stall_ns".to_owned(), latency_sum.get().into());
    }
    head
}

/// A function with its name as `function`.
pub(super) fn flat(function: &FunctionLabel) -> Value {
    let mut fields = function.to_json();
    if let Value::Object(fields) = &mut fields {
        fields.remove("name");
        fields.insert("function".to_owned(), function.name_json());
    }
    fields
}

fn place(place: &CodePlace) -> Value {
    let (offset, addr) = match place.position {
        CodePosition::InFile(offset) => (Some(offset), None),
        CodePosition::At(addr) => (None, Some(addr.to_string())),
    };
    let id = place.build_id.as_ref();
    json!({
        "module": place.module.as_ref().map(|module| String::from_utf8_lossy(module.name())),
        "build_id": id.map(|id| Hexadecimal(id).to_string()),
        "file_offset_bytes": offset,
        "address": addr,
    })
}
