//! Files that memtrace writes: where, whose, and what is not overwritten.
//!
//! Layer: top. Input: names that were typed. Output: open files.
//! Keeps: mode 0600; under sudo a new file belongs to the invoking user; nothing is emptied before there is
//! something to write.
//! Not here: what is written (`record`, `export`).

use std::{
    fs::{File, OpenOptions, Permissions},
    io::Read as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use anyhow::Context as _;

/// Only for their owner: addresses and paths are nobody else's business.
const MODE: u32 = 0o600;

/// Opens `path` for writing, made if it is not there; its content stays until somebody cuts it.
pub(super) fn open(path: &Path) -> anyhow::Result<File> {
    #[cfg(feature = "live")]
    let is_new = !path.exists();
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(MODE);
    let file = options.open(path).with_context(|| hint(path))?;
    if file.metadata()?.is_file() {
        file.set_permissions(Permissions::from_mode(MODE)).with_context(|| hint(path))?;
        #[cfg(feature = "live")]
        if is_new {
            give_to_invoker(&file, path)?;
        }
    }
    Ok(file)
}

/// Whether the file at `path` begins with one of `heads`.
pub(super) fn begins_with(path: &Path, heads: &[&[u8]]) -> anyhow::Result<bool> {
    let longest = heads.iter().map(|head| head.len()).max().unwrap_or(0);
    let mut start = Vec::new();
    File::open(path)
        .and_then(|file| file.take(longest as u64).read_to_end(&mut start))
        .with_context(|| format!("cannot replace {}", path.display()))?;
    Ok(heads.iter().any(|head| start.starts_with(head)))
}

/// Under sudo, makes a new file that of the invoking user, and says so.
#[cfg(feature = "live")]
fn give_to_invoker(file: &File, path: &Path) -> anyhow::Result<()> {
    let Some(invoker) = crate::session::Invoker::find() else { return Ok(()) };
    invoker.own(file).with_context(|| format!("cannot give {} to {}", path.display(), invoker.name()))?;
    log::warn!("{} belongs to {}", path.display(), invoker.name());
    Ok(())
}

/// What could not be written, and what to do about a missing directory.
fn hint(path: &Path) -> String {
    let (path, parent) = (path.display(), path.parent().filter(|parent| !parent.as_os_str().is_empty()));
    match parent {
        Some(parent) if !parent.exists() => {
            format!("cannot write {path}: make the directory first: mkdir -p {}", parent.display())
        }
        _ => format!("cannot write {path}"),
    }
}
