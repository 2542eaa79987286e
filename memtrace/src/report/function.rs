//! Functions as reports distinguish them, by name or by where they are.
//!
//! Layer: codec. Input: [`CodePlace`], [`FaultRow`]. Output: [`FunctionLabel`], for people and for programs.
//! Keeps: what has no name is nobody else's: it is a place, or unknown.
//! Not here: sums (`groups`, `paths`).

use std::{
    fmt::{self, Display, Formatter},
    sync::Arc,
};

use serde_json::{Value, json};

use crate::{
    event::Mode,
    timeline::{CodePlace, CodePosition, FaultRow, Module},
    units::{Hexadecimal, Printable, VirtAddr},
};

/// A function, in the module that it is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct FunctionLabel {
    /// The module; `None` if no known region held the code.
    pub(super) module: Option<Module>,
    identity: Identity,
}

/// What distinguishes a function from others of its module.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Identity {
    /// Its name.
    Name(Arc<[u8]>),
    /// Where it begins, or code of it if that is not known; and the build ID of the file.
    Place(CodePosition, Option<Arc<[u8]>>),
    /// It is not known.
    Unknown,
}

impl FunctionLabel {
    /// The function called `name`.
    pub(super) const fn named(module: Option<Module>, name: Arc<[u8]>) -> Self {
        Self { module, identity: Identity::Name(name) }
    }

    /// The function, as it was compiled, that has the code at `place`.
    pub(super) fn at(place: &CodePlace) -> Self {
        let CodePlace { module, position, build_id, functions } = place;
        let module = module.clone();
        let function = functions.last();
        if let Some(name) = function.and_then(|function| function.name.as_ref()) {
            return Self::named(module, Arc::clone(name));
        }
        let start = function.and_then(|function| before(*position, function.offset?));
        Self { module, identity: Identity::Place(start.unwrap_or(*position), build_id.clone()) }
    }

    /// The function of the instruction that faulted; `innermost` is that in which the stack of the thread ends, if that is known.
    pub(super) fn of_fault(row: &FaultRow, innermost: Option<&Self>) -> Self {
        match (&row.function, innermost) {
            (Some(name), _) => Self::named(row.module.clone(), Arc::clone(name)),
            (None, Some(innermost)) if row.fault.mode == Mode::User => innermost.clone(),
            _ => Self { module: row.module.clone(), identity: Identity::Unknown },
        }
    }

    /// Whether its name is known.
    pub(super) const fn has_name(&self) -> bool {
        matches!(self.identity, Identity::Name(_))
    }

    /// Its name, if that is known.
    pub(super) fn name_json(&self) -> Value {
        match &self.identity {
            Identity::Name(name) => String::from_utf8_lossy(name).into(),
            Identity::Place(..) | Identity::Unknown => Value::Null,
        }
    }

    /// Its module, if that is known.
    pub(super) fn module_json(&self) -> Value {
        self.module.as_ref().map(|module| String::from_utf8_lossy(module.name())).into()
    }

    /// All that distinguishes it.
    pub(super) fn to_json(&self) -> Value {
        let (offset, addr, id) = match &self.identity {
            Identity::Place(CodePosition::InFile(offset), id) => (Some(offset), None, id.as_ref()),
            Identity::Place(CodePosition::At(addr), id) => (None, Some(addr.to_string()), id.as_ref()),
            Identity::Name(_) | Identity::Unknown => (None, None, None),
        };
        json!({
            "name": self.name_json(),
            "module": self.module_json(),
            "build_id": id.map(|id| Hexadecimal(id).to_string()),
            "file_offset_bytes": offset,
            "address": addr,
        })
    }
}

impl Display for FunctionLabel {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let file = file_name(self.module.as_ref());
        match (&self.identity, &self.module) {
            (Identity::Name(name), _) => write!(f, "{} ({file})", Printable::from_bytes(name)),
            (Identity::Place(CodePosition::InFile(offset), _), _) => write!(f, "{file}+{offset:#x}"),
            (Identity::Place(CodePosition::At(addr), _), _) => write!(f, "{file} {addr}"),
            (Identity::Unknown, Some(_)) => write!(f, "unknown ({file})"),
            (Identity::Unknown, None) => f.write_str("unknown"),
        }
    }
}

/// The position so many bytes before `position`; `None` if there is none.
fn before(position: CodePosition, bytes: u64) -> Option<CodePosition> {
    Some(match position {
        CodePosition::InFile(offset) => CodePosition::InFile(offset.checked_sub(bytes)?),
        CodePosition::At(addr) => CodePosition::At(VirtAddr::from_raw(addr.as_raw().checked_sub(bytes)?)),
    })
}

/// Name of the file of a module, or what stands in place of one.
pub(super) fn file_name(module: Option<&Module>) -> String {
    let path = module.map_or(&b"in no known region"[..], Module::name);
    let file = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    Printable::from_bytes(file).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Function;

    fn place(functions: &[Function]) -> CodePlace {
        CodePlace {
            module: Some(Module::Named(Arc::from(&b"/lib/libc.so.6"[..]))),
            position: CodePosition::InFile(0x1234),
            build_id: None,
            functions: functions.into(),
        }
    }

    #[test]
    fn function_without_a_name_is_where_it_begins() {
        let starts_at = |offset| Function { offset: Some(offset), ..Function::default() };
        let label = |functions: &[Function]| FunctionLabel::at(&place(functions)).to_string();

        assert_eq!(label(&[starts_at(0x34)]), "libc.so.6+0x1200");
        assert_eq!(label(&[]), "libc.so.6+0x1234");
        // No function begins before its file.
        assert_eq!(label(&[starts_at(0x2000)]), "libc.so.6+0x1234");
        let compiled = CodePlace {
            module: Some(Module::Anonymous),
            position: CodePosition::At(VirtAddr::from_raw(0x7f10)),
            ..place(&[starts_at(0x10)])
        };
        assert_eq!(FunctionLabel::at(&compiled).to_string(), "[anon] 0x7f00");
    }

    #[test]
    fn function_with_a_name_is_the_compiled_one() {
        let named = |name: &[u8]| Function { name: Some(name.into()), ..Function::default() };

        let label = FunctionLabel::at(&place(&[named(b"inlined"), named(b"memset\x1b[2J")]));

        assert_eq!(label.to_string(), r"memset\033[2J (libc.so.6)");
        assert_eq!(label.name_json(), "memset\u{1b}[2J");
    }
}
