//! Code of which the names are wanted when recording ends.
//!
//! Keeps: files stay open as they were mapped, so that names are theirs; code beyond a bound has no names.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    sync::Arc,
};

use super::perf_map::PerfMap;
use crate::{
    decode,
    event::{CodeFile, CodeSegment, SpaceId, Symbols, Tgid},
    pipeline::Code,
    symbolize::{Names, Unnamed},
    sys::clock,
    units::{Timestamp, VirtAddr},
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
    /// What just-in-time compilers made, by address space.
    compiled: BTreeMap<SpaceId, PerfMap>,
    places: usize,
}

/// Code of one file.
#[derive(Debug)]
struct SeenFile {
    file: Option<Arc<File>>,
    segments: Vec<CodeSegment>,
    /// By offset: bytes from the start of its function, if the unwind table has it.
    code: BTreeMap<u64, Option<u64>>,
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
        if self.places >= MOST {
            return;
        }
        let seen = self.files.entry(key).or_insert_with(|| SeenFile {
            file: file.cloned(),
            segments: table.segments().to_vec(),
            code: BTreeMap::new(),
        });
        self.places += usize::from(seen.code.insert(at, in_function).is_none());
    }

    /// Adds `place`, which is in memory without a file.
    pub(super) fn add_memory(&mut self, place: &Place<'_>) {
        let Place { space, process, addr, .. } = *place;
        if let Some(process) = process.filter(|_| self.places < MOST) {
            let map = self.compiled.entry(space).or_insert_with(|| PerfMap::of(process));
            self.places += usize::from(map.add_place(addr.as_raw()));
        }
    }

    /// Takes what just-in-time compilers have written by `now`; whether some code has got another name.
    pub(super) fn read_maps(&mut self, now: Timestamp) -> bool {
        self.compiled.values_mut().fold(false, |is_changed, map| map.read(now) | is_changed)
    }

    /// Adds the kernel code of which `records` are, which are those of a ring of faults.
    pub(super) fn add_kernel(&mut self, records: &[u8]) {
        for addr in decode::kernel_code(records) {
            if addr != std::mem::replace(&mut self.last_kernel, addr) && self.kernel.insert(addr) {
                self.places += 1;
            }
        }
    }

    /// What has names by now, and what is to be named.
    #[must_use]
    pub fn into_parts(self) -> (Vec<Symbols>, Vec<Unnamed>) {
        let now = clock::boottime();
        let compiled = self.compiled.into_iter().map(|(space, map)| Symbols {
            file: CodeFile::Memory(space),
            segments: Vec::new(),
            code: map.into_named(now),
        });
        let files = self.files.into_iter().map(|(key, SeenFile { file, segments, code })| Unnamed {
            file: key,
            names: file.map_or(Names::Nowhere, Names::Elf),
            segments,
            code,
        });
        let code: BTreeMap<_, _> = self.kernel.into_iter().map(|addr| (addr, None)).collect();
        let kernel = Unnamed { file: CodeFile::Kernel, names: Names::Kernel, segments: Vec::new(), code };
        let kernel = Some(kernel).filter(|kernel| !kernel.code.is_empty());
        (compiled.filter(|symbols| !symbols.code.is_empty()).collect(), files.chain(kernel).collect())
    }
}
