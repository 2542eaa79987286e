//! `cargo xtask corpus`: small recordings, one of each thing that happens to programs and to recorders, for `cargo xtask same` to read.
//!
//! The test target `kernel_corpus` makes them, in the directory that `MEMTRACE_CORPUS` names.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use crate::{test, workspace};

/// Makes all recordings that this machine can make, in the place of older ones, and says which, how large, and why others are
/// missing.
pub(crate) fn corpus() -> anyhow::Result<()> {
    let directory = directory();
    for recording in recordings(&directory).unwrap_or_default() {
        fs::remove_file(&recording)?;
    }
    fs::create_dir_all(&directory)?;
    let made = test::whole("kernel_corpus", None);
    let mut total = 0;
    for recording in recordings(&directory)? {
        let bytes = fs::metadata(&recording)?.len();
        eprintln!("{bytes:>8} bytes  {}", recording.display());
        total += bytes;
    }
    eprintln!("{total:>8} bytes");
    made
}

/// Where they are.
pub(crate) fn directory() -> PathBuf {
    workspace::target().join("corpus")
}

/// The recordings in `directory`, by name.
pub(crate) fn recordings(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "mtrace"));
    paths.sort();
    Ok(paths)
}
