//! Code of which the names are wanted when recording ends.
//!
//! Keeps: files stay open as they were mapped, so that names are theirs; code beyond a bound has no names.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File, OpenOptions},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::PathBuf,
    sync::Arc,
};

use rustix::fs::OFlags;

use crate::{
    decode,
    event::{CodeFile, CodeSegment, SpaceId, Tgid},
    pipeline::Code,
    symbolize::{Names, Unnamed},
    units::VirtAddr,
    unwind::UnwindTable,
};

/// Places in code of which names are wanted at most.
const MOST: usize = 1 << 20;

/// An instruction, and the code that it is part of.
pub(super) struct Place<'a> {
    pub(super) space: SpaceId,
    pub(super) process: Option<Tgid>,
    pub(super) addr: VirtAddr,
    pub(super) code: &'a Code,
}

/// Code that stacks led through, and kernel code that faulted.
#[derive(Debug, Default)]
pub struct SeenCode {
    files: BTreeMap<CodeFile, SeenFile>,
    kernel: BTreeSet<u64>,
    /// The address of kernel code that faulted last: it comes in runs.
    last_kernel: u64,
    places: usize,
    perf_maps: HashMap<Tgid, PerfMapFile>,
}

/// Code of one file.
#[derive(Debug)]
struct SeenFile {
    source: Source,
    segments: Vec<CodeSegment>,
    /// By offset or address: bytes from the start of its function, if the unwind table has it.
    code: BTreeMap<u64, Option<u64>>,
}

/// What has the names.
#[derive(Debug)]
enum Source {
    /// The file itself, if it is open.
    File(Option<Arc<File>>),
    /// What a just-in-time compiler in this process writes.
    Compiler(Option<Tgid>),
}

impl SeenCode {
    /// Adds `place`, which is in `file` with this table, so many bytes behind the start of its function.
    pub(super) fn add(
        &mut self,
        place: &Place<'_>,
        table: &UnwindTable,
        file: Option<&Arc<File>>,
        in_function: Option<u64>,
    ) {
        let Place { space, addr, code, .. } = *place;
        let build_id = table.build_id().filter(|_| code.file.is_some()).map(Arc::from);
        let (key, at) = code.symbols_at(space, addr, build_id.as_ref());
        self.add_to(key, (at, in_function), || (Source::File(file.cloned()), table.segments().to_vec()));
    }

    /// Adds `place`, which is in memory without a file.
    pub(super) fn add_memory(&mut self, place: &Place<'_>) {
        let Place { space, process, addr, code } = *place;
        if let Some(process) = process {
            self.perf_maps.entry(process).or_insert_with(|| PerfMapFile::of(process)).open();
        }
        let (key, at) = code.symbols_at(space, addr, None);
        self.add_to(key, (at, None), || (Source::Compiler(process), Vec::new()));
    }

    /// Adds the kernel code of which `records` are, which are those of a ring of faults.
    pub(super) fn add_kernel(&mut self, records: &[u8]) {
        for addr in decode::kernel_code(records) {
            if addr != std::mem::replace(&mut self.last_kernel, addr) && self.kernel.insert(addr) {
                self.places += 1;
            }
        }
    }

    fn add_to(
        &mut self,
        file: CodeFile,
        (at, in_function): (u64, Option<u64>),
        describe: impl FnOnce() -> (Source, Vec<CodeSegment>),
    ) {
        if self.places >= MOST {
            return;
        }
        let file = self.files.entry(file).or_insert_with(|| {
            let (source, segments) = describe();
            SeenFile { source, segments, code: BTreeMap::new() }
        });
        if file.code.insert(at, in_function).is_none() {
            self.places += 1;
        }
    }

    /// All of it, with where its names are by now.
    #[must_use]
    pub fn into_unnamed(mut self) -> Vec<Unnamed> {
        self.perf_maps.values_mut().for_each(PerfMapFile::open);
        let files = self.files.into_iter().map(|(file, SeenFile { source, segments, code })| {
            let names = match source {
                Source::File(Some(file)) => Names::Elf(file),
                Source::File(None) => Names::Nowhere,
                Source::Compiler(process) => {
                    let map = process.and_then(|process| self.perf_maps.get(&process));
                    map.and_then(|map| map.file.clone()).map_or(Names::Nowhere, Names::PerfMap)
                }
            };
            Unnamed { file, names, segments, code }
        });
        let mut unnamed: Vec<_> = files.collect();
        if !self.kernel.is_empty() {
            let code = self.kernel.into_iter().map(|addr| (addr, None)).collect();
            unnamed.push(Unnamed {
                file: CodeFile::Kernel,
                names: Names::Kernel,
                segments: Vec::new(),
                code,
            });
        }
        unnamed
    }
}

/// The file in which the just-in-time compiler of a process names what it made, if it does.
#[derive(Debug)]
struct PerfMapFile {
    path: PathBuf,
    /// Who may have written it, besides root.
    owner: u32,
    file: Option<Arc<File>>,
}

impl PerfMapFile {
    fn of(Tgid(process): Tgid) -> Self {
        let status =
            procfs::process::Process::new(process.cast_signed()).and_then(|process| process.status());
        let inner = status.ok().and_then(|status| status.nspid?.last().copied());
        let name = format!("tmp/perf-{}.map", inner.unwrap_or(process.cast_signed()));
        let owner = fs::metadata(format!("/proc/{process}")).map_or(0, |metadata| metadata.uid());
        let root = PathBuf::from(format!("/proc/{process}/root"));
        // Where the process has the root directory of this one, the file outlives it under its own name.
        let is_own = fs::read_link(&root).is_ok_and(|root| root.as_os_str() == "/");
        Self { path: if is_own { PathBuf::from("/") } else { root }.join(name), owner, file: None }
    }

    /// Opens it, if it is there by now.
    fn open(&mut self) {
        if self.file.is_some() {
            return;
        }
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(&self.path);
        let Ok((metadata, file)) = opened.and_then(|file| Ok((file.metadata()?, file))) else { return };
        // It lies in a directory in which anybody may write.
        if metadata.is_file() && [0, self.owner].contains(&metadata.uid()) {
            self.file = Some(Arc::new(file));
        }
    }
}
