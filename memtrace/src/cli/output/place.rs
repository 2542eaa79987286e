//! Finds the directory and the name that a path means, without following links of others.
//!
//! Layer: top. Input: a path. Output: [`Place`].
//! Source: `path_resolution(7)`; `may_follow_link` of `fs/namei.c` (Linux 3.6): what `fs.protected_symlinks` asks of links in
//! sticky directories is asked of every link here; `open(2)` for `O_PATH`.
//! Keeps: a link is followed only if root or the user who writes made it; nothing is opened for reading or writing.
//! Not here: who that user is, and which files may be written (`output`).

use std::{
    ffi::{OsStr, OsString},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Path, PathBuf},
};

use anyhow::bail;
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, PROC_SUPER_MAGIC, Stat, fstat, fstatfs, openat, readlinkat},
    io::Errno,
    process::geteuid,
};

/// Links on one path that are followed, as in the kernel.
const MAX_LINKS: u32 = 40;

/// A handle that only stands for a file.
const HANDLE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// A name in a directory.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) dir: OwnedFd,
    pub(super) name: OsString,
    /// What has that name, if anything has.
    pub(super) found: Option<Found>,
}

/// A file that is there.
#[derive(Debug)]
pub(super) struct Found {
    handle: OwnedFd,
    pub(super) stat: Stat,
    /// Whether it was found by a link of procfs, as `/dev/stdout` is: then some process has it open.
    pub(super) is_inherited: bool,
}

impl Found {
    fn new(handle: OwnedFd, is_inherited: bool) -> Result<Self, Errno> {
        Ok(Self { stat: fstat(&handle)?, handle, is_inherited })
    }

    /// A path that means this file alone, for as long as `self` lives.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.handle.as_raw_fd()).into()
    }
}

impl Place {
    /// Where `path` leads.
    pub(super) fn find(path: &Path) -> anyhow::Result<Self> {
        if [&b"/"[..], b"/."].iter().any(|end| path.as_os_str().as_bytes().ends_with(end)) {
            bail!("it is the name of a directory; give that of a file");
        }
        let mut dir = openat(CWD, ".", HANDLE | OFlags::DIRECTORY, Mode::empty())?;
        let mut rest = names(path);
        let mut links = 0;
        while let Some(name) = rest.pop() {
            let handle = match openat(&dir, &name, HANDLE | OFlags::NOFOLLOW, Mode::empty()) {
                Err(Errno::NOENT) if rest.is_empty() => return Ok(Self { dir, name, found: None }),
                Err(Errno::NOENT) => bail!("make the directory first: mkdir -p {}", parent(path).display()),
                handle => handle?,
            };
            let mut found = Found::new(handle, false)?;
            if FileType::from_raw_mode(found.stat.st_mode).is_symlink() {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP.into());
                }
                if fstatfs(&found.handle)?.f_type == PROC_SUPER_MAGIC {
                    // Nobody can plant one there, and its text is not where it leads.
                    found = Found::new(openat(&dir, &name, HANDLE, Mode::empty())?, true)?;
                } else {
                    check(&found.stat, &name)?;
                    let target = readlinkat(&found.handle, "", Vec::new())?;
                    rest.extend(names(Path::new(&OsString::from_vec(target.into_bytes()))));
                    continue;
                }
            }
            if rest.is_empty() {
                return Ok(Self { dir, name, found: Some(found) });
            }
            dir = found.handle;
        }
        Err(Errno::NOENT.into())
    }
}

/// The parts of `path`, the first one last.
fn names(path: &Path) -> Vec<OsString> {
    path.iter().rev().map(OsStr::to_owned).collect()
}

/// The directory that `path` names.
fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// Fails if a link is of somebody else.
fn check(link: &Stat, name: &OsStr) -> anyhow::Result<()> {
    if link.st_uid != 0 && link.st_uid != geteuid().as_raw() {
        bail!("{} is a link that user {} made: give the name to which it leads", name.display(), link.st_uid);
    }
    Ok(())
}
