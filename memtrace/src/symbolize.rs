//! Finds the names of code.
//!
//! Layer: shell. Input: [`Unnamed`] code, with the file that it is of. Output: [`Symbols`].
//! Source: the symbol tables and the debug information of ELF files, `/proc/kallsyms`, maps of just-in-time compilers.
//! Keeps: a name is of a function that holds the code; what is in none has no name.
//! Not here: which code is of interest (`live`, `cli`), what names are used for (`pipeline`).

mod debug_data;

use std::{
    collections::BTreeMap,
    fs::File,
    iter,
    os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _},
    panic,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use blazesym::{
    MaybeDefault,
    symbolize::{
        CodeInfo, Input, Sym, Symbolized, Symbolizer,
        source::{Elf, Kernel, Source},
    },
};
use object::{
    Endianness,
    elf::FileHeader64,
    read::{ReadCache, elf::FileHeader as _},
};

use crate::{
    event::{CodeFile, CodeSegment, Function, NamedCode, Symbols},
    units::{Hexadecimal, Timestamp},
    unwind::UnwindTable,
};

/// Code of one file, of which the names are wanted.
#[derive(Debug)]
pub struct Unnamed {
    /// Which file.
    pub file: CodeFile,
    /// Where its names are.
    pub names: Names,
    /// Where its code is linked.
    pub segments: Vec<CodeSegment>,
    /// The code, by offset in the file or by address: bytes from the start of its function, if the unwind table has it.
    pub code: BTreeMap<u64, Option<u64>>,
}

impl Unnamed {
    /// Whether the names are gone when this machine starts anew.
    #[must_use]
    pub const fn is_of_machine(&self) -> bool {
        matches!(self.file, CodeFile::Kernel | CodeFile::Vdso)
    }

    /// Whether its file is found by its build ID.
    const fn has_build_id(&self) -> bool {
        matches!(self.file, CodeFile::BuildId(_))
    }
}

/// Where packages put files with debug information.
#[must_use]
pub fn debug_dirs() -> Vec<PathBuf> {
    ["/usr/lib/debug", "/lib/debug"].map(PathBuf::from).to_vec()
}

/// Where names are.
#[derive(Debug)]
pub enum Names {
    /// In this ELF file, or in one with debug information that belongs to it.
    Elf(Arc<File>),
    /// In the running kernel.
    Kernel,
    /// Nowhere: the file is not there any more.
    Nowhere,
}

/// The names of `code`, as far as they are found before `stop` is set; debug information is searched for in `debug_dirs` too. Those come
/// first that nobody finds later.
pub fn name(mut code: Vec<Unnamed>, debug_dirs: &[PathBuf], stop: &AtomicBool) -> Vec<Symbols> {
    code.sort_by_key(|unnamed| (!unnamed.is_of_machine(), unnamed.has_build_id()));
    let mut symbols = Vec::new();
    for unnamed in code {
        if stop.load(Ordering::Relaxed) {
            let later = if unnamed.has_build_id() { ": `memtrace symbolize` adds them" } else { "" };
            log::warn!("not all code has names, as a signal came{later}");
            break;
        }
        // Files are anybody's, and a recording is not to be lost for its names.
        match panic::catch_unwind(|| name_one(unnamed, debug_dirs)) {
            Ok(named) => symbols.extend(named),
            Err(_) => log::warn!("code of one file has no names: its debug information is damaged"),
        }
    }
    symbols
}

/// The names of code of one file; `None` if there are none.
fn name_one(unnamed: Unnamed, debug_dirs: &[PathBuf]) -> Option<Symbols> {
    let Unnamed { file, names, segments, code } = unnamed;
    let linked =
        |offset: &u64| segments.iter().find_map(|segment| segment.linked(*offset)).unwrap_or(u64::MAX);
    let found: Vec<Vec<Function>> = match &names {
        Names::Elf(elf) => {
            let debug = match &file {
                CodeFile::BuildId(id) => debug_file(id, debug_dirs),
                _ => None,
            };
            of_elf(elf, debug.as_ref(), &code.keys().map(linked).collect::<Vec<_>>())
        }
        Names::Kernel => of_kernel(&code.keys().copied().collect::<Vec<_>>()),
        Names::Nowhere => Vec::new(),
    };
    let found = found.into_iter().chain(iter::repeat(Vec::new()));
    let named = code.into_iter().zip(found).filter_map(|((at, in_function), mut functions)| {
        let start = || Function { offset: in_function, ..Function::default() };
        // A symbol without a size is taken to reach to the next one: not where the unwind table knows better.
        let offset = functions.last().and_then(|function| function.offset);
        if functions.is_empty() && in_function.is_some()
            || in_function.is_some_and(|known| offset > Some(known))
        {
            functions = vec![start()];
        }
        let functions = Arc::from(functions);
        Some(NamedCode { at, since: Timestamp::default(), functions })
            .filter(|named| !named.functions.is_empty())
    });
    let code: Vec<_> = named.collect();
    (!code.is_empty()).then_some(Symbols { file, segments, code })
}

/// The file with debug information of the one with this build ID, where packages put it.
#[must_use]
pub fn debug_file(id: &[u8], debug_dirs: &[PathBuf]) -> Option<File> {
    let hex = Hexadecimal(id).to_string();
    let (dir, name) = hex.split_at_checked(2)?;
    let below = format!(".build-id/{dir}/{name}.debug");
    debug_dirs.iter().find_map(|debug| {
        let file = File::open(debug.join(&below)).ok()?;
        let table = UnwindTable::parse(&ReadCache::new(&file)).ok()?;
        (table.build_id() == Some(id)).then_some(file)
    })
}

/// The functions at these addresses, as an ELF file is linked that may have a file with debug information.
///
/// Debug information has lines and what was inlined, but of some languages names without the module or class that they are in.
/// Symbol tables have those whole, and of several names of a function the public one.
fn of_elf(file: &File, debug: Option<&File>, addrs: &[u64]) -> Vec<Vec<Function>> {
    let tables = |file: &File| {
        let elf = Elf { debug_syms: false, ..Elf::new(path_of(file)) };
        of_source(&Source::Elf(elf), Input::VirtOffset(addrs))
    };
    let mut found = match debug.or_else(|| (!names_another(file)).then_some(file)) {
        Some(file) => of_source(&Source::Elf(Elf::new(path_of(file))), Input::VirtOffset(addrs)),
        None => Vec::new(),
    };
    found.resize(addrs.len(), Vec::new());
    let own = tables(file);
    let others = debug.map(tables).unwrap_or_default();
    let all = own.into_iter().zip(others.into_iter().chain(iter::repeat(Vec::new())));
    for (found, (own, other)) in found.iter_mut().zip(all) {
        add_symbol(found, if own.is_empty() { other } else { own });
    }
    if found.iter().any(Vec::is_empty)
        && let Some(more) = debug_data::of(file)
    {
        for (found, symbol) in found.iter_mut().zip(tables(&more)) {
            if found.is_empty() {
                *found = symbol;
            }
        }
    }
    found
}

/// Whether `file` names another one with debug information. A name may be of anything, as of a pipe that nobody writes to: the build ID is
/// what such a file is found by.
fn names_another(file: &File) -> bool {
    let cache = ReadCache::new(file);
    let has_link = || {
        let header = FileHeader64::<Endianness>::parse(&cache).ok()?;
        let endian = header.endian().ok()?;
        let sections = header.sections(endian, &cache).ok()?;
        let links: [&[u8]; 2] = [b".gnu_debuglink", b".gnu_debugaltlink"];
        Some(links.iter().any(|link| sections.section_by_name(endian, link).is_some()))
    };
    has_link().unwrap_or(true)
}

/// Adds what a symbol table has to what debug information has of one address.
fn add_symbol(found: &mut Vec<Function>, symbol: Vec<Function>) {
    let Some(symbol) = symbol.into_iter().next_back() else { return };
    match found.last_mut() {
        Some(Function { name, offset, .. }) => (*name, *offset) = (symbol.name, symbol.offset),
        None => found.push(symbol),
    }
}

/// The functions of the running kernel at these addresses.
fn of_kernel(addrs: &[u64]) -> Vec<Vec<Function>> {
    let kernel = Kernel { vmlinux: MaybeDefault::None, debug_syms: false, ..Kernel::default() };
    of_source(&Source::Kernel(kernel), Input::AbsAddr(addrs))
}

/// A path under which this process opens `file` again, whatever became of its name.
fn path_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn of_source(source: &Source<'_>, input: Input<&[u64]>) -> Vec<Vec<Function>> {
    // A new one for each file, so that what it keeps of one is not there while the next is read.
    let symbolizer = Symbolizer::builder().enable_auto_reload(false).build();
    match symbolizer.symbolize(source, input) {
        Ok(found) => found.iter().map(functions).collect(),
        Err(error) => {
            log::debug!("no names from {source:?}: {error:#}");
            Vec::new()
        }
    }
}

/// The functions at one address, innermost first.
fn functions(symbolized: &Symbolized<'_>) -> Vec<Function> {
    let Symbolized::Sym(Sym { name, offset, code_info, inlined, .. }) = symbolized else {
        return Vec::new();
    };
    let compiled = function(name, Some(*offset as u64), code_info.as_deref());
    let inlined = inlined.iter().rev().map(|one| function(&one.name, None, one.code_info.as_ref()));
    let inlined = inlined.take(NamedCode::MOST_FUNCTIONS - 1);
    inlined.chain([compiled]).collect()
}

fn function(name: &str, offset: Option<u64>, source: Option<&CodeInfo<'_>>) -> Function {
    let bytes = |path: &Path| Arc::from(path.as_os_str().as_bytes());
    Function {
        name: Some(name.as_bytes().into()),
        offset,
        source_file: source.map(|source| bytes(&source.to_path())),
        line: source.and_then(|source| source.line),
    }
}

#[cfg(test)]
mod tests;
