//! The symbol table that some distributions put into stripped files, compressed.
//!
//! Source: GDB's manual, "MiniDebugInfo": a section `.gnu_debugdata` is an ELF file in the form of xz.

use std::{
    fs::File,
    io::{self, BufReader, Write},
};

use object::{
    Endianness,
    elf::FileHeader64,
    read::{
        ReadCache,
        elf::{FileHeader as _, SectionHeader as _},
    },
};
use rustix::fs::{MemfdFlags, memfd_create};

/// Bytes of the section, and of what is in it, that are read at most.
const MOST_PACKED: u64 = 64 << 20;
const MOST: usize = 512 << 20;

/// The file in that section of `file`, if it has one.
pub(super) fn of(file: &File) -> Option<File> {
    let cache = ReadCache::new(file);
    let header = FileHeader64::<Endianness>::parse(&cache).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.sections(endian, &cache).ok()?;
    let (_, section) = sections.section_by_name(endian, b".gnu_debugdata")?;
    if section.sh_size(endian) > MOST_PACKED {
        return None;
    }
    let packed = section.data(endian, &cache).ok()?;
    unpack(packed).inspect_err(|error| log::debug!("cannot unpack .gnu_debugdata: {error}")).ok()
}

/// What is packed in `bytes`, as a file without a name.
fn unpack(bytes: &[u8]) -> io::Result<File> {
    let mut unpacked = Bounded(File::from(memfd_create("", MemfdFlags::CLOEXEC)?), MOST);
    lzma_rs::xz_decompress(&mut BufReader::new(bytes), &mut unpacked).map_err(io::Error::other)?;
    Ok(unpacked.0)
}

/// A file that takes so many more bytes.
struct Bounded(File, usize);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1 = self.1.checked_sub(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        self.0.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
