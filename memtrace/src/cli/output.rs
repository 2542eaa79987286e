//! Files that memtrace writes: where, whose, and what is not overwritten.
//!
//! Layer: top. Input: names that were typed. Output: open files.
//! Keeps: mode 0600; under sudo all is done with the rights of the invoking user, so that what is new is theirs and nothing is
//! written where they may not; what belongs to somebody else is left alone; nothing is emptied before there is something to
//! write; what stdout or stderr go to is written by them alone.
//! Not here: links on the way (`place`), what is written (`record`, `export`).
#![cfg_attr(not(feature = "live"), expect(dead_code, reason = "only `record` renames"))]

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _},
    },
    path::Path,
};

use anyhow::{Context as _, bail};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Stat, fcntl_getfl, openat, statat, unlinkat},
    io::Errno,
    process::geteuid,
};

mod place;

use place::{Found, Place};

use super::{fifo, streams};
#[cfg(feature = "live")]
use crate::session::Invoker;

/// Only for their owner: addresses and paths are nobody else's business.
const MODE: u32 = 0o600;

/// Bytes of a file that say what it is.
const HEAD: usize = 64;

/// A file that was opened for writing.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) file: File,
    /// Where it was made; `None` if it was there.
    made: Option<Place>,
}

impl From<OwnedFd> for Output {
    fn from(file: OwnedFd) -> Self {
        Self { file: file.into(), made: None }
    }
}

impl Output {
    /// Opens `path` for writing, made if it is not there; its content stays until somebody cuts it.
    ///
    /// `may_replace` is asked about a file with content, by how that begins.
    pub(super) fn open(
        path: &Path,
        may_replace: impl Fn(&[u8]) -> anyhow::Result<()> + Send,
    ) -> anyhow::Result<Self> {
        let output = as_invoker(|| Self::open_here(path, may_replace))
            .with_context(|| format!("cannot write {}{}", path.display(), behalf()))?;
        #[cfg(feature = "live")]
        if let Some(invoker) = Invoker::find().filter(|_| output.made.is_some()) {
            log::warn!("{} belongs to {}", path.display(), invoker.name());
        }
        Ok(output)
    }

    fn open_here(path: &Path, may_replace: impl Fn(&[u8]) -> anyhow::Result<()>) -> anyhow::Result<Self> {
        let place = Place::find(path)?;
        let Some(found) = &place.found else {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = openat(&place.dir, &place.name, flags, Mode::from_raw_mode(MODE));
            let file =
                file.context("no file can be made there: give the name of one in another directory")?;
            return Ok(Self { file: file.into(), made: Some(place) });
        };
        let is_regular = check(found)?;
        // The handle stands for the very file that was checked, whatever its name means by now.
        let file = fifo::open(OpenOptions::new().read(is_regular).write(true), &found.path(), path)?;
        if is_regular {
            let mut head = [0; HEAD];
            let len = file.read_at(&mut head, 0)?;
            if len > 0 {
                may_replace(&head[..len])?;
            }
            file.set_permissions(Permissions::from_mode(MODE))?;
        }
        Ok(Self { file, made: None })
    }

    /// Whether what is written to either would mix with the other's.
    pub(super) fn is_same(&self, other: &Self) -> io::Result<bool> {
        let (one, other) = (self.file.metadata()?, other.file.metadata()?);
        let is_device = FileType::from_raw_mode(one.mode()).is_char_device();
        Ok(!is_device && (one.dev(), one.ino()) == (other.dev(), other.ino()))
    }

    /// Removes the file if it was made here; the error that led to this says more than one of its own could.
    pub(super) fn discard(&self) {
        let Some(Place { dir, name, .. }) = &self.made else { return };
        let _left = as_invoker(|| {
            let (here, own) = (statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?, rustix::fs::fstat(&self.file)?);
            if (here.st_dev, here.st_ino) == (own.st_dev, own.st_ino) {
                unlinkat(dir, name, AtFlags::empty())?;
            }
            Ok(())
        });
    }
}

/// Writes to a file, in place of what it held before, which stays until there is something to put there; behind it, where the
/// user appends.
#[derive(Debug)]
pub(super) struct Replacement {
    file: File,
    is_begun: bool,
}

impl Replacement {
    /// Writes to `output`.
    pub(super) fn of(output: &Output) -> anyhow::Result<Self> {
        let file = output.file.try_clone().context("cannot duplicate a descriptor")?;
        Ok(Self { file, is_begun: false })
    }
}

impl io::Write for Replacement {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !std::mem::replace(&mut self.is_begun, true)
            && self.file.metadata()?.is_file()
            && !fcntl_getfl(&self.file)?.contains(OFlags::APPEND)
        {
            self.file.set_len(0)?;
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Renames the file `name` of the working directory, if there is one, to `old`, whose place it takes; whether there was one.
pub(super) fn set_aside(name: &str, old: &str) -> anyhow::Result<bool> {
    let set_aside = || {
        let here = |name| match statat(rustix::fs::CWD, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(None),
            stat => stat.map(Some),
        };
        let Some(stat) = here(name)? else { return Ok(false) };
        let check = |stat, name: &str| {
            check_owner(stat).and_then(|()| check_streams(stat)).with_context(|| name.to_owned())
        };
        check(&stat, name)?;
        if let Some(stat) = here(old)? {
            check(&stat, old)?;
        }
        fs::rename(name, old)?;
        Ok(true)
    };
    as_invoker(set_aside).with_context(|| format!("cannot rename {name} to {old}{}", behalf()))
}

/// Undoes what [`set_aside`] did.
pub(super) fn put_back(name: &str, old: &str) -> anyhow::Result<()> {
    as_invoker(|| Ok(fs::rename(old, name)?))
}

/// Whether what is there is a regular file; an error if it is not to be written.
fn check(found: &Found) -> anyhow::Result<bool> {
    let kind = FileType::from_raw_mode(found.stat.st_mode);
    if kind.is_dir() {
        bail!("it is a directory; give the name of a file");
    }
    let is_regular = kind.is_file();
    // Whoever started us opened what is inherited, and only root makes devices.
    if !found.is_inherited && (is_regular || kind.is_fifo()) {
        check_owner(&found.stat)?;
        check_streams(&found.stat)?;
        // Somebody may have linked a file of ours here.
        if found.stat.st_nlink > 1 {
            bail!("it has {} names: remove this one, or give another", found.stat.st_nlink);
        }
    }
    Ok(is_regular)
}

/// Fails if a file is not of the user who writes.
fn check_owner(stat: &Stat) -> anyhow::Result<()> {
    if stat.st_uid != geteuid().as_raw() {
        bail!("it belongs to user {}: remove it, or give another name", stat.st_uid);
    }
    Ok(())
}

/// Fails if stdout or stderr, which the command has too, go to a file.
fn check_streams(stat: &Stat) -> anyhow::Result<()> {
    if let Some(stream) = streams::going_to(stat) {
        bail!("{stream} goes to it: send that elsewhere, or give another name");
    }
    Ok(())
}

/// What `act` returns with the rights of the user behind sudo, if there is one.
fn as_invoker<T: Send>(act: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    #[cfg(feature = "live")]
    if let Some(invoker) = Invoker::find() {
        return invoker.act(act).with_context(|| format!("cannot act as {}", invoker.name()))?;
    }
    act()
}

/// Whose rights those of [`as_invoker`] are, for messages; nothing without sudo.
fn behalf() -> String {
    #[cfg(feature = "live")]
    if let Some(invoker) = Invoker::find() {
        return format!(" as {}, who called sudo", invoker.name());
    }
    String::new()
}
