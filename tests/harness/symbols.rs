//! Names of functions of programs and libraries.
//!
//! Input: an ELF file. Output: which of its functions hold a byte of it; what else a test reads there.

use std::fs;

use object::{Endianness, Object as _, ObjectSegment as _, ObjectSymbol as _, read::elf::ElfFile64};

/// What `read` makes of the ELF file at `path`.
#[track_caller]
pub fn in_elf<T>(path: &str, read: impl FnOnce(&ElfFile64<'_, Endianness>) -> T) -> T {
    let data = fs::read(path).unwrap_or_else(|cause| panic!("{path}: {cause}"));
    read(&ElfFile64::parse(&*data).expect("an ELF file"))
}

/// Names of functions of a file.
#[derive(Debug, Default)]
pub struct Symbols {
    /// In the file: first byte, length, and the address of the first byte.
    segments: Vec<(u64, u64, u64)>,
    /// Address, length and name.
    functions: Vec<(u64, u64, String)>,
}

impl Symbols {
    /// Those of the file at `path`.
    #[must_use]
    #[track_caller]
    pub fn of(path: &str) -> Self {
        in_elf(path, Self::of_file)
    }

    fn of_file(file: &ElfFile64<'_, Endianness>) -> Self {
        let segments = file.segments().map(|segment| {
            let (offset, len) = segment.file_range();
            (offset, len, segment.address())
        });
        let functions = file
            .symbols()
            .chain(file.dynamic_symbols())
            .filter_map(|symbol| Some((symbol.address(), symbol.size(), symbol.name().ok()?.to_owned())));
        Self { segments: segments.collect(), functions: functions.filter(|(_, size, _)| *size > 0).collect() }
    }

    /// The functions that hold the byte at `offset` in the file: aliases are several.
    #[must_use]
    pub fn at(&self, offset: u64) -> Vec<&str> {
        let holds =
            |(start, len): (u64, u64), place: u64| place.checked_sub(start).is_some_and(|at| at < len);
        let segment = self.segments.iter().find(|(start, len, _)| holds((*start, *len), offset));
        let Some((start, _, addr)) = segment else { return Vec::new() };
        let addr = offset - start + addr;
        let here = self.functions.iter().filter(|(start, len, _)| holds((*start, *len), addr));
        here.map(|(_, _, name)| name.as_str()).collect()
    }
}
