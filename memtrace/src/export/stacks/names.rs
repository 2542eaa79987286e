//! What frames of stacks are called, in every format.
//!
//! Conventions are those of the scripts that make flame graphs of what perf records: frames of the kernel end in `_[k]`, and what
//! stands in place of a frame is in brackets.

use super::{Group, PlacedStack};
use crate::{
    event::{Comm, Function, Mode, StackEnd},
    timeline::{CodePlace, CodePosition, Module},
    units::Printable,
};

/// What is not known.
pub(in crate::export) const UNKNOWN: &str = "[unknown]";

/// The suffix of frames of the kernel.
const KERNEL: &str = "_[k]";

/// A frame of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::export) struct KernelFrame {
    /// The system call or the function.
    pub(in crate::export) name: String,
}

impl KernelFrame {
    /// What it is called among other frames.
    pub(in crate::export) fn label(&self) -> String {
        format!("{}{KERNEL}", self.name)
    }
}

/// Name of a process or of a thread.
pub(in crate::export) fn of_task(comm: Option<Comm>) -> String {
    comm.map_or_else(|| UNKNOWN.to_owned(), |comm| text(comm.as_bytes()))
}

/// The frame in place of those that are missing outside of `stack`; none if it is whole.
pub(in crate::export) fn of_end(stack: Option<&PlacedStack>) -> Option<String> {
    match stack.map(|stack| stack.end) {
        None => Some(UNKNOWN.to_owned()),
        Some(StackEnd::Root) => None,
        Some(end) => Some(format!("[{}]", end.name())),
    }
}

/// The frames at a place in code, inlined ones first.
pub(in crate::export) fn of_place(place: &CodePlace) -> Vec<String> {
    if place.functions.is_empty() {
        return vec![without_function(place)];
    }
    place.functions.iter().map(|function| of_function(function, place)).collect()
}

/// The name of `function` at `place`; where it has none, the place.
pub(in crate::export) fn of_function(function: &Function, place: &CodePlace) -> String {
    function.name.as_ref().map_or_else(|| without_function(place), |name| text(name))
}

/// The file and the offset in it. An address is other code in each process, so where there is no file it is left out.
fn without_function(place: &CodePlace) -> String {
    let Some(module) = &place.module else { return UNKNOWN.to_owned() };
    let file = match module {
        Module::Named(path) => text(path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)),
        Module::Kernel | Module::Anonymous => text(module.name()),
    };
    match place.position {
        CodePosition::InFile(offset) => format!("{file}+{offset:#x}"),
        CodePosition::At(_) => file,
    }
}

/// The frames of the kernel in which `group` faulted, outermost first: the call and the function, as far as they are known.
pub(in crate::export) fn of_kernel(group: &Group) -> Vec<KernelFrame> {
    if group.mode == Mode::User {
        return Vec::new();
    }
    let call = group.syscall.map(str::to_owned);
    let function = group.function.as_ref().map(|name| text(name));
    let mut names: Vec<_> = call.into_iter().chain(function).collect();
    if names.is_empty() {
        names.push(String::from_utf8_lossy(Module::Kernel.name()).into_owned());
    }
    names.into_iter().map(|name| KernelFrame { name }).collect()
}

/// Anybody's bytes in one line.
fn text(name: &[u8]) -> String {
    if name.is_empty() { UNKNOWN.to_owned() } else { Printable::from_bytes(name).to_string() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::units::VirtAddr;

    fn place(module: Option<&[u8]>, position: CodePosition, functions: &[Option<&[u8]>]) -> CodePlace {
        let function = |name: Option<&[u8]>| Function { name: name.map(Arc::from), ..Function::default() };
        CodePlace {
            module: module.map(|name| Module::of(name.into())),
            position,
            build_id: None,
            functions: functions.iter().copied().map(function).collect(),
        }
    }

    #[test]
    fn frame_without_a_name_is_a_file_and_an_offset() {
        let (offset, addr) = (CodePosition::InFile(0x1f0), CodePosition::At(VirtAddr::from_raw(0x7000)));

        assert_eq!(of_place(&place(Some(b"/usr/lib/libc.so.6"), offset, &[])), ["libc.so.6+0x1f0"]);
        assert_eq!(of_place(&place(Some(b"[vdso]"), addr, &[])), ["[vdso]"]);
        assert_eq!(of_place(&place(Some(b""), addr, &[])), ["[anon]"]);
        assert_eq!(of_place(&place(None, addr, &[])), ["[unknown]"]);
        assert_eq!(of_place(&place(Some(b"/a/b"), offset, &[Some(b"f"), None])), ["f", "b+0x1f0"]);
    }

    #[test]
    fn hostile_names_are_one_line_of_text() {
        let names: [&[u8]; 3] = [b"new\nline", b"\xff\x1b[2J", b""];
        let functions = names.map(Some);
        let position = CodePosition::InFile(0);

        let names = of_place(&place(Some(b"/a"), position, &functions));
        assert_eq!(names, ["new\\012line", "\\377\\033[2J", "[unknown]"]);
        assert_eq!(of_place(&place(Some(b"/a/"), position, &[])), ["[unknown]+0x0"]);
    }
}
