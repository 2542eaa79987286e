//! `memtrace symbolize`: adds names of functions to a recording, from files of this machine.
//!
//! Layer: top. Input: [`SymbolizeArgs`]. Output: names behind the recording; on stderr what has none, and why.
//! Keeps: a file serves only if its build ID is that of the code; names that are there stay, unless better ones are found.
//! Not here: finding names (`symbolize`), their form (`record`).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::OsStr,
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{Seek as _, SeekFrom},
    os::unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
};

use anyhow::{Context as _, bail};
use object::read::ReadCache;
use rustix::fs::OFlags;

use super::{args::SymbolizeArgs, input, output::Output};
use crate::{
    event::{CodeFile, CodeSegment, Function, NamedCode, Symbols},
    export::{ExportError, Sink},
    record::{self, MAGIC, Recording},
    symbolize::{self, Names, Unnamed},
    timeline::{CodePosition, FrameRow, Row, RowSet},
    units::{Hexadecimal, Printable},
    unwind::UnwindTable,
};

type BuildId = Arc<[u8]>;

pub(super) fn run(args: &SymbolizeArgs, quiet: bool) -> anyhow::Result<ExitCode> {
    let mut recording = input::open_file(&args.file)?;
    if !recording.header().capture.stacks {
        bail!("{} has no stacks, whose code could have names: record with -g", args.file.display());
    }
    let (known, known_places) = (Known::of(recording.symbols()), places(recording.symbols()));
    let mut code = Code::default();
    let summary = record::replay(&mut recording, &mut code)?;
    drop(summary);
    let mut debug_dirs = args.debug_dirs.clone();
    debug_dirs.extend(symbolize::debug_dirs());
    let (mut better, mut missing) = (Vec::new(), Vec::new());
    for (id, seen) in code.files {
        let Some(unnamed) = find(&id, &seen, &known, &debug_dirs) else {
            missing.push((id, seen));
            continue;
        };
        let found = symbolize::name(vec![unnamed], &debug_dirs, &AtomicBool::new(false));
        better.extend(found.into_iter().filter_map(|symbols| known.improved(symbols)));
    }
    let added = places(&better);
    if added > 0 {
        append(&args.file, &better, known_places)?;
    }
    if !quiet {
        // Nobody is left to read it.
        let _gone = std::io::Write::write_all(&mut anstream::stderr(), said(added, &missing).as_bytes());
    }
    Ok(ExitCode::SUCCESS)
}

/// How many places in code have names.
fn places(symbols: &[Symbols]) -> usize {
    symbols.iter().map(|symbols| symbols.code.len()).sum()
}

/// Writes `symbols` behind the recording at `path`, in which so many places have names.
fn append(path: &Path, symbols: &[Symbols], known: usize) -> anyhow::Result<()> {
    let output = Output::open(path, |head| {
        if !head.starts_with(&MAGIC) {
            bail!("it is no recording any more");
        }
        Ok(())
    })?;
    let mut file = &output.file;
    let len = file.seek(SeekFrom::End(0)).context("names can only be added to a file")?;
    record::add_symbols(file, symbols)?;
    // Behind a chunk that was cut, they are taken for the rest of it.
    if places(Recording::open(path)?.symbols()) != known + places(symbols) {
        file.set_len(len).context("names that cannot be read are behind the recording")?;
        bail!("{} is cut: names behind it could not be read, and none were added", path.display());
    }
    Ok(())
}

/// What was done, and for which files there was nothing.
fn said(added: usize, missing: &[(BuildId, SeenFile)]) -> String {
    let mut text = format!("memtrace: added names of {added} places in code\n");
    for (id, seen) in missing {
        let paths: Vec<_> = seen.paths.iter().map(|path| Printable::from_bytes(path).to_string()).collect();
        let (id, places) = (Hexadecimal(id), seen.offsets.len());
        let _fits = writeln!(
            text,
            "memtrace: no file with build ID {id}, for {places} places in {}: install it or its debug package, or give --debug-dir",
            paths.join(", "),
        );
    }
    text
}

/// The file of the code of `seen`, or one with its debug information, with what is to be named.
fn find(id: &BuildId, seen: &SeenFile, known: &Known, debug_dirs: &[PathBuf]) -> Option<Unnamed> {
    let file = CodeFile::BuildId(Arc::clone(id));
    let unnamed = |elf, segments: &[CodeSegment]| Unnamed {
        file: file.clone(),
        names: Names::Elf(Arc::new(elf)),
        segments: segments.to_vec(),
        code: seen.offsets.iter().map(|offset| (*offset, None)).collect(),
    };
    let own = seen.paths.iter().map(|path| Path::new(OsStr::from_bytes(path)));
    for path in own {
        if let Some((elf, table)) = open(path, id) {
            return Some(unnamed(elf, table.segments()));
        }
    }
    // Offsets in a file with nothing but debug information are its own.
    let segments = known.segments.get(&file).filter(|segments| !segments.is_empty())?;
    Some(unnamed(symbolize::debug_file(id, debug_dirs)?, segments))
}

/// The ELF file at `path`, if it has this build ID. The path may be any that a recording names: nothing else than a file is opened.
fn open(path: &Path, id: &BuildId) -> Option<(File, UnwindTable)> {
    fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    let nonblock = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path).ok()?;
    let table = UnwindTable::parse(&ReadCache::new(&file)).ok()?;
    (table.build_id() == Some(id)).then_some((file, table))
}

/// What names are in the recording.
#[derive(Debug, Default)]
struct Known {
    segments: HashMap<CodeFile, Vec<CodeSegment>>,
    code: HashMap<(CodeFile, u64), Arc<[Function]>>,
}

impl Known {
    fn of(symbols: &[Symbols]) -> Self {
        let mut known = Self::default();
        for Symbols { file, segments, code } in symbols {
            known.segments.insert(file.clone(), segments.clone());
            known.code.extend(code.iter().map(|code| ((file.clone(), code.at), Arc::clone(&code.functions))));
        }
        known
    }

    /// Those of `symbols` that say more than what is known; `None` if none does.
    fn improved(&self, symbols: Symbols) -> Option<Symbols> {
        let Symbols { file, segments, code } = symbols;
        let is_better = |code: &NamedCode| {
            let before = self.code.get(&(file.clone(), code.at));
            says(&code.functions) > before.map_or((false, false, 0), |before| says(before))
        };
        let code: Vec<_> = code.into_iter().filter(is_better).collect();
        (!code.is_empty()).then_some(Symbols { file, segments, code })
    }
}

/// How much is known of the functions at one place.
fn says(functions: &[Function]) -> (bool, bool, usize) {
    let last = functions.last();
    let has_name = last.is_some_and(|last| last.name.is_some());
    (has_name, last.is_some_and(|last| last.line.is_some()), functions.len())
}

/// The code that stacks of a recording lead through, of files with a build ID.
#[derive(Debug, Default)]
struct Code {
    files: BTreeMap<BuildId, SeenFile>,
}

/// Code of one file.
#[derive(Debug, Default)]
struct SeenFile {
    /// Names of its regions.
    paths: BTreeSet<Arc<[u8]>>,
    /// Where it is in the file.
    offsets: BTreeSet<u64>,
}

impl Sink for Code {
    fn wants(&self) -> RowSet {
        RowSet::FRAMES
    }

    fn row(&mut self, row: &Row) -> Result<(), ExportError> {
        if let Row::Frame(FrameRow { place, .. }) = row
            && let (Some(id), CodePosition::InFile(offset)) = (&place.build_id, place.position)
        {
            let file = self.files.entry(Arc::clone(id)).or_default();
            file.paths.extend(place.module.iter().map(|module| Arc::from(module.name())));
            file.offsets.insert(offset);
        }
        Ok(())
    }
}
