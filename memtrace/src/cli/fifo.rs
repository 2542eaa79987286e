//! Opens files of which some, FIFOs, wait for whoever reads them.
//!
//! Layer: top. Input: how to open a path. Output: an open file.
//! Source: `fifo(7)`: opening one for writing blocks until it is open for reading.
//! Keeps: who waits knows for what; a signal ends the wait as it ends any other program.
//! Not here: what may be replaced (`output`).

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileTypeExt as _,
    path::Path,
    sync::mpsc::{RecvTimeoutError, channel},
    thread::Builder,
    time::Duration,
};

/// Time after which a wait is said.
const PATIENCE: Duration = Duration::from_secs(1);

/// Opens `path` as `options` say; if that has to wait for a reader, says so after a second, of what was called `name`.
pub(super) fn open(options: &OpenOptions, path: &Path, name: &Path) -> io::Result<File> {
    if !fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo()) {
        return options.open(path);
    }
    let (opened, waiting) = channel::<()>();
    let name = name.display().to_string();
    Builder::new().spawn(move || {
        // Nothing is ever sent; it ends when the other end is dropped.
        if waiting.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            log::warn!("{name} is a FIFO that nobody reads: waiting for a reader");
        }
    })?;
    let file = options.open(path);
    drop(opened);
    file
}
