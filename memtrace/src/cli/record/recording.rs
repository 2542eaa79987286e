//! The file that a session records into.
//!
//! Layer: top. Input: `-o` and `--force`. Output: an open file.
//! Keeps: an older recording of the default name becomes `.old`, and comes back if the set-up fails.
//! Not here: other files (`output`), what is written (`record`).

use std::{
    fs::{self, File},
    io::{self, IsTerminal as _},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use crate::{cli::output, record};

/// Name of the recording unless asked for another.
const DEFAULT: &str = "memtrace.mtrace";
/// What an older recording of that name becomes.
const OLD: &str = "memtrace.mtrace.old";

/// An open recording.
#[derive(Debug)]
pub(super) struct RecordingFile {
    /// Where the recording goes.
    pub(super) file: File,
    /// Its name; `None` for stdout.
    pub(super) path: Option<PathBuf>,
    /// Whether it was made here, so that a failed set-up leaves nothing behind.
    created: bool,
    /// Whether an older one was renamed.
    renamed: bool,
}

impl RecordingFile {
    /// Opens `path`, or the default name.
    pub(super) fn open(path: Option<&Path>, force: bool) -> anyhow::Result<Self> {
        match path {
            None => {
                let path = Path::new(DEFAULT);
                let renamed = path.exists();
                if renamed {
                    fs::rename(path, OLD).with_context(|| format!("cannot rename {DEFAULT} to {OLD}"))?;
                }
                Self::create(path, renamed)
            }
            Some(path) if path == "-" => Self::stdout(),
            Some(path) => {
                if !force {
                    refuse_foreign(path, &[&record::MAGIC], "recording")?;
                }
                Self::create(path, false)
            }
        }
    }

    fn stdout() -> anyhow::Result<Self> {
        if io::stdout().is_terminal() {
            bail!(
                "a recording is binary and stdout is a terminal: give -o FILE, or send stdout to a program"
            );
        }
        let stdout = io::stdout().as_fd().try_clone_to_owned().context("cannot duplicate stdout")?;
        Ok(Self { file: stdout.into(), path: None, created: false, renamed: false })
    }

    fn create(path: &Path, renamed: bool) -> anyhow::Result<Self> {
        let created = !path.exists();
        Ok(Self { file: output::open(path)?, path: Some(path.to_owned()), created, renamed })
    }

    /// Takes back what opening did; the error that led here says more than one of these could.
    pub(super) fn discard(&self) {
        if let Some(path) = self.path.as_ref().filter(|_| self.created) {
            let _left = fs::remove_file(path);
        }
        if self.renamed {
            let _left = fs::rename(OLD, DEFAULT);
        }
    }
}

/// Refuses to replace a regular file with content, unless that begins with one of `heads`.
pub(super) fn refuse_foreign(path: &Path, heads: &[&[u8]], what: &str) -> anyhow::Result<()> {
    let Ok(metadata) = fs::metadata(path) else { return Ok(()) };
    if metadata.is_dir() {
        bail!("cannot write {}: it is a directory; give the name of a file", path.display());
    }
    if !metadata.is_file() || metadata.len() == 0 || output::begins_with(path, heads)? {
        return Ok(());
    }
    bail!("{} is no {what}: give another name, or --force to replace it", path.display())
}
