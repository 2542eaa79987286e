//! Recordings that are read: files, and what comes through pipes.
//!
//! Layer: top. Input: a path, or `-`, which is stdin. Output: a [`Recording`].
//! Keeps: nothing is printed to what is read; every error names it. A file is read in place. What comes through a pipe can be read only
//! once, and the names of code stand behind what they are of, so that is kept in memory, as long as it is; no file comes of it.
//! Not here: files that are written (`output`).

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read, Seek as _},
    os::{fd::AsFd as _, unix::fs::FileTypeExt as _},
    path::Path,
};

use anyhow::{Context as _, bail};
use rustix::fs::{MemfdFlags, fstat, memfd_create};

use super::streams;
use crate::record::{MAGIC, RecordError, Recording};

/// In place of a path, stdin.
const STDIN: &str = "-";

/// Opens the recording at `path`.
pub(super) fn open(path: &Path) -> anyhow::Result<Recording<File>> {
    read(file(path)?, path)
}

/// Opens the recording in the file at `path`, whatever that is called.
#[cfg(feature = "live")]
pub(super) fn open_file(path: &Path) -> anyhow::Result<Recording<File>> {
    let recording = Recording::from_file(file_at(path)?);
    recording.with_context(|| format!("cannot read {}", path.display()))
}

/// The recording in `file`, which was opened at `path`.
pub(super) fn read(file: File, path: &Path) -> anyhow::Result<Recording<File>> {
    Recording::from_file(file).with_context(|| format!("cannot read {}", name(path)))
}

/// Opens the file at `path`, or what stands in its place where that can be read only once.
pub(super) fn file(path: &Path) -> anyhow::Result<File> {
    let file = if path == STDIN { stdin()? } else { file_at(path)? };
    let kept = if file.metadata().is_ok_and(|data| data.file_type().is_fifo() || data.file_type().is_socket())
    {
        keep(file)
    } else {
        Ok(file)
    };
    kept.with_context(|| format!("cannot read {}", name(path)))
}

fn file_at(path: &Path) -> anyhow::Result<File> {
    streams::check_input(path)?;
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let path = path.display();
            bail!("there is no {path}; to make it: memtrace record -o {path} -- CMD")
        }
        Err(source) => Err(RecordError::Open { path: path.to_owned(), source }.into()),
        Ok(file) => Ok(file),
    }
}

fn stdin() -> anyhow::Result<File> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        bail!("cannot read stdin: it is a terminal: send a recording there, or name a file");
    }
    if let Some(stream) = fstat(&stdin).ok().as_ref().and_then(streams::going_to) {
        bail!("cannot read stdin: {stream} goes to it: send that elsewhere");
    }
    Ok(stdin.as_fd().try_clone_to_owned().context("cannot read stdin")?.into())
}

/// A file in memory with all that comes of `source`, or with its first bytes if these are not those of a recording.
fn keep(mut source: File) -> io::Result<File> {
    let mut kept = File::from(memfd_create("recording", MemfdFlags::CLOEXEC)?);
    let head = io::copy(&mut source.by_ref().take(MAGIC.len() as u64), &mut kept)?;
    let mut magic = [0; MAGIC.len()];
    kept.rewind()?;
    if head == MAGIC.len() as u64 {
        kept.read_exact(&mut magic)?;
    }
    if magic == MAGIC {
        io::copy(&mut source, &mut kept)?;
    }
    kept.rewind()?;
    Ok(kept)
}

/// What messages call it.
fn name(path: &Path) -> String {
    if path == STDIN { "stdin".to_owned() } else { path.display().to_string() }
}
