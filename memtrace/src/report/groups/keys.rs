//! What faults can be grouped by, and what each of them has of it.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Groups;
use crate::{
    event::{Comm, Mode},
    report::{
        calls,
        function::{FunctionLabel, file_name},
    },
    timeline::{FaultRow, Module, RegionId},
    units::Printable,
};

/// What faults of a group have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Where the instruction lay.
    Library,
    /// The function that the instruction is of.
    Function,
    /// The stack of the thread.
    Stack,
    /// The system call in which the kernel faulted.
    Syscall,
    /// The name of the thread.
    Thread,
    /// The name of the process.
    Process,
    /// The region.
    Region,
    /// What the region is of.
    File,
    /// What the fault brought.
    Outcome,
    /// How its page had gone before.
    Refault,
}

/// Every key, in the order in which help shows them.
pub const KEYS: &[&Key] = &[
    &Key::Library,
    &Key::Function,
    &Key::Stack,
    &Key::Syscall,
    &Key::Thread,
    &Key::Process,
    &Key::Region,
    &Key::File,
    &Key::Outcome,
    &Key::Refault,
];

impl Key {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Library => "library",
            Self::Function => "function",
            Self::Stack => "stack",
            Self::Syscall => "syscall",
            Self::Thread => "thread",
            Self::Process => "process",
            Self::Region => "region",
            Self::File => "file",
            Self::Outcome => "outcome",
            Self::Refault => "refault",
        }
    }

    /// What it is, in one line.
    #[must_use]
    pub const fn doc(self) -> &'static str {
        match self {
            Self::Library => "file of the instruction, or [kernel]",
            Self::Function => "function of the instruction, and its file",
            Self::Stack => "stack of the thread, by its number in the table frames",
            Self::Syscall => "system call in which the kernel faulted; - in user mode",
            Self::Thread => "name of the thread, and how many threads have it",
            Self::Process => "name of the process, and how many processes have it",
            Self::Region => "region of the address",
            Self::File => "path or bracketed name of that region",
            Self::Outcome => "what the fault brought",
            Self::Refault => {
                "how the page had gone that was resident before; - if it is not known to have been"
            }
        }
    }

    /// What `row` has of it; `innermost` is the function in which its stack ends, if that is known.
    pub(super) fn value(self, row: &FaultRow, innermost: Option<&FunctionLabel>) -> KeyValue {
        let place = row.place.as_ref();
        let value = match self {
            Self::Library => row.module.clone().map(KeyValue::Library),
            Self::Function => Some(KeyValue::Function(FunctionLabel::of_fault(row, innermost))),
            Self::Stack => row.stack.map(KeyValue::Stack),
            Self::Syscall if row.fault.mode == Mode::User => Some(KeyValue::Word(NONE)),
            Self::Syscall => row.fault.syscall.map(KeyValue::Call),
            Self::Thread => row.comm.map(KeyValue::Name),
            Self::Process => row.process_comm.map(KeyValue::Name),
            Self::Region => place.map(|place| KeyValue::Region(place.region)),
            Self::File => place.map(|place| KeyValue::File(Arc::clone(&place.name))),
            Self::Outcome => row.outcome.map(|outcome| KeyValue::Word(outcome.kind.name())),
            Self::Refault => Some(KeyValue::Word(row.refault.map_or(NONE, |refault| refault.of.name()))),
        };
        value.unwrap_or(KeyValue::Unknown)
    }
}

/// What a fault has of a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum KeyValue {
    Library(Module),
    Function(FunctionLabel),
    Stack(u64),
    Call(u32),
    Name(Comm),
    Region(RegionId),
    File(Arc<[u8]>),
    Word(&'static str),
    Unknown,
}

/// In place of a word where there is none.
const NONE: &str = "-";

impl Groups {
    /// A value for people; of a library its name without the directory, unless others in `all` have the same.
    pub(super) fn text_of<'a>(
        &self,
        value: &KeyValue,
        all: impl IntoIterator<Item = &'a KeyValue>,
        arch: &str,
    ) -> String {
        match value {
            KeyValue::Library(module) => {
                let file = file_name(Some(module));
                let is_another = |other: &KeyValue| matches!(other, KeyValue::Library(other) if other != module && file_name(Some(other)) == file);
                if all.into_iter().any(is_another) {
                    Printable::from_bytes(module.name()).to_string()
                } else {
                    file
                }
            }
            KeyValue::Function(function) => function.to_string(),
            KeyValue::Stack(stack) => match self.innermost.get(stack) {
                Some(innermost) => format!("{stack} {innermost}"),
                None => stack.to_string(),
            },
            KeyValue::Call(number) => calls::of_number(*number, arch),
            KeyValue::Name(comm) => comm.to_string(),
            KeyValue::Region(id) => match self.regions.get(id) {
                Some(Some(label)) => {
                    let perms = Printable::from_bytes(&label.perms).to_string();
                    let name = Printable::from_bytes(name_of(&label.name)).to_string();
                    format!("{} {perms} {} {name}", id.0, label.range)
                }
                _ => id.0.to_string(),
            },
            KeyValue::File(name) => Printable::from_bytes(name_of(name)).to_string(),
            KeyValue::Word(word) => (*word).to_owned(),
            KeyValue::Unknown => "unknown".to_owned(),
        }
    }

    /// A value for programs; `null` is "not known".
    pub(super) fn json_of(&self, value: &KeyValue, arch: &str) -> Value {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into();
        match value {
            KeyValue::Library(module) => text(module.name()),
            KeyValue::Function(function) => function.to_json(),
            KeyValue::Stack(stack) => (*stack).into(),
            KeyValue::Call(number) => calls::of_number(*number, arch).into(),
            KeyValue::Name(comm) => text(comm.as_bytes()),
            KeyValue::Region(id) => {
                let label = self.regions.get(id).and_then(Option::as_ref);
                json!({
                    "region": id.0,
                    "start_addr": label.map(|label| label.range.start().to_string()),
                    "end_addr": label.map(|label| label.range.end().to_string()),
                    "perms": label.map(|label| String::from_utf8_lossy(&label.perms)),
                    "name": label.map(|label| String::from_utf8_lossy(name_of(&label.name))),
                })
            }
            KeyValue::File(name) => text(name_of(name)),
            KeyValue::Word(word) => (*word).into(),
            KeyValue::Unknown => Value::Null,
        }
    }
}

/// The path or bracketed name of a region, or what stands in place of one.
fn name_of(name: &[u8]) -> &[u8] {
    if name.is_empty() { Module::Anonymous.name() } else { name }
}
