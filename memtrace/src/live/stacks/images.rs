//! The ELF images behind code.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Write as _},
    os::unix::{ffi::OsStrExt as _, fs::FileExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use memtrace_ebpf::{BuildIdEvent, EventHeader, EventKind};
use object::read::ReadCache;
use rustix::fs::{MemfdFlags, memfd_create};

use crate::{
    event::{Device, Tgid},
    pipeline::Code,
    probe,
    sys::limits,
    unwind::UnwindTable,
};

/// What is behind code.
pub(super) enum Image {
    /// Memory without a file.
    None,
    /// A file that could not be read, or is no ELF image.
    Unreadable,
    /// An image; `is_new` if it has just been read.
    Known { known: KnownImage, is_new: bool },
}

/// An ELF image.
#[derive(Clone, Debug)]
pub(super) struct KnownImage {
    pub(super) table: Arc<UnwindTable>,
    /// The file, as long as few are open.
    pub(super) file: Option<Arc<File>>,
}

/// What distinguishes an image from others: its file; of one that is not known, its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    File(Device, u64),
    Name(Arc<[u8]>),
}

/// Images that have been read.
#[derive(Debug, Default)]
pub(super) struct Images {
    known: HashMap<Key, Option<KnownImage>>,
    /// Bytes of their tables.
    bytes: usize,
}

/// Images, and bytes of their tables, that are kept; beyond that all are read anew. A browser's table has 25 MiB.
const KEPT: usize = 1 << 10;
const KEPT_BYTES: usize = 512 << 20;

/// Files that can still be opened while those that have names stay open.
pub(super) const SPARE_FILES: usize = 64;

impl Images {
    /// The image behind `code`, which is mapped by `process`.
    pub(super) fn of(&mut self, code: &Code, process: Option<Tgid>) -> Image {
        let is_vdso = *code.name == *b"[vdso]";
        if code.file_offset.is_none() && !is_vdso {
            return Image::None;
        }
        let key = code
            .file
            .map_or_else(|| Key::Name(code.name.clone()), |(device, inode)| Key::File(device, inode));
        if let Some(known) = self.known.get(&key) {
            return known.clone().map_or(Image::Unreadable, |known| Image::Known { known, is_new: false });
        }
        let read = if is_vdso { read_vdso() } else { read_file(code, process) };
        let known = match read {
            Ok(known) => Some(known),
            Err(error) => {
                log::debug!("cannot unwind {}: {error}", String::from_utf8_lossy(&code.name));
                None
            }
        };
        if self.known.len() >= KEPT || self.bytes >= KEPT_BYTES {
            *self = Self::default();
        }
        self.bytes += known.as_ref().map_or(0, |known| known.table.bytes());
        self.known.insert(key, known.clone());
        known.map_or(Image::Unreadable, |known| Image::Known { known, is_new: true })
    }
}

/// The record of the build ID of the file behind `code`.
pub(super) fn build_id(header: &EventHeader, code: &Code, table: &UnwindTable) -> Option<BuildIdEvent> {
    let ((major, minor), inode) = code.file?;
    let id = table.build_id()?;
    let mut build_id = [0; 24];
    build_id.get_mut(..id.len())?.copy_from_slice(id);
    Some(BuildIdEvent {
        header: EventHeader {
            kind: EventKind::BUILD_ID,
            len: u16::try_from(BuildIdEvent::LEN).ok()?,
            ..*header
        },
        device: u64::from(major) << 20 | u64::from(minor),
        inode,
        build_id_len: id.len() as u64,
        build_id,
    })
}

fn read_file(code: &Code, process: Option<Tgid>) -> io::Result<KnownImage> {
    let file = open(code, process)?;
    let table = UnwindTable::parse(&ReadCache::new(&file)).map_err(io::Error::other)?;
    let may_stay = limits::check_files(SPARE_FILES).is_ok();
    Ok(KnownImage { table: Arc::new(table), file: may_stay.then(|| Arc::new(file)) })
}

/// Opens the file behind `code`: as it is mapped, so that it may be deleted or in another mount namespace; where that is gone, by
/// its path. Either may be another file by now.
fn open(code: &Code, process: Option<Tgid>) -> io::Result<File> {
    let path = Path::new(std::ffi::OsStr::from_bytes(&code.name));
    let of_process = process.into_iter().flat_map(|Tgid(process)| {
        let (start, end) = (code.range.start().as_raw(), code.range.end().as_raw());
        let mapped = PathBuf::from(format!("/proc/{process}/map_files/{start:x}-{end:x}"));
        let below_root = path.strip_prefix("/").ok();
        let named = below_root.map(|path| PathBuf::from(format!("/proc/{process}/root")).join(path));
        [Some(mapped), named]
    });
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for path in of_process.flatten().chain([path.to_owned()]) {
        match File::open(path).and_then(|file| Ok((file.metadata()?, file))) {
            Ok((metadata, file))
                if metadata.is_file() && code.file.is_none_or(|(_, inode)| inode == metadata.ino()) =>
            {
                return Ok(file);
            }
            Ok(_) => last = io::Error::other("another file is there now"),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The vDSO is the same for every 64-bit process: it is read from this one.
fn read_vdso() -> io::Result<KnownImage> {
    let own = probe::maps_of(Tgid(std::process::id())).ok_or(io::ErrorKind::NotFound)?;
    let vdso = own.vmas.iter().find(|vma| vma.name == b"[vdso]").ok_or(io::ErrorKind::NotFound)?;
    let len = usize::try_from(vdso.range.bytes()).map_err(io::Error::other)?;
    let mut image = vec![0; len];
    File::open("/proc/self/mem")?.read_exact_at(&mut image, vdso.range.start().as_raw())?;
    let table = UnwindTable::parse(&image[..]).map_err(io::Error::other)?;
    let mut file = File::from(memfd_create("", MemfdFlags::CLOEXEC)?);
    file.write_all(&image)?;
    Ok(KnownImage { table: Arc::new(table), file: Some(Arc::new(file)) })
}
