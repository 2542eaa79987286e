//! Files that stdout or stderr go to, under whatever name: nothing else may be written there, and nothing read.
//!
//! Layer: top. Input: a file. Output: the stream that goes to it.
//! Keeps: terminals and other devices, which take what comes, are nobody's file.
//! Not here: files that are written (`output`).

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
};

use anyhow::bail;
use rustix::fs::{FileType, Stat, fstat, stat};

/// The stream of this process that goes to the file or FIFO that `file` is of, if one does.
pub(super) fn going_to(file: &Stat) -> Option<&'static str> {
    let (stdout, stderr) = (io::stdout(), io::stderr());
    let streams = [("stdout", stdout.as_fd()), ("stderr", stderr.as_fd())];
    let goes = |stream: BorrowedFd<'_>| {
        let kind = FileType::from_raw_mode(file.st_mode);
        (kind.is_file() || kind.is_fifo())
            && fstat(stream).is_ok_and(|there| (there.st_dev, there.st_ino) == (file.st_dev, file.st_ino))
    };
    streams.into_iter().find_map(|(name, stream)| goes(stream).then_some(name))
}

/// Fails if what is printed goes to the file at `path`, which is to be read.
pub(super) fn check_input(path: &Path) -> anyhow::Result<()> {
    // What cannot be scanned is for whoever opens it to say.
    if let Some(stream) = stat(path).ok().as_ref().and_then(going_to) {
        bail!("cannot read {}: {stream} goes to it: send that elsewhere", path.display());
    }
    Ok(())
}
