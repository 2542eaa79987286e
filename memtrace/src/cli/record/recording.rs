//! The file that a session records into.
//!
//! Layer: top. Input: `-o` and `--force`. Output: an open file.
//! Keeps: an older recording of the default name becomes `.old`, and comes back if the set-up fails.
//! Not here: other files (`output`), what is written (`record`).

use std::{
    io::{self, IsTerminal as _},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use crate::{
    cli::output::{self, Output},
    record,
};

/// Name of the recording unless asked for another.
const DEFAULT: &str = "memtrace.mtrace";
/// What an older recording of that name becomes.
const OLD: &str = "memtrace.mtrace.old";

/// An open recording.
#[derive(Debug)]
pub(super) struct RecordingFile {
    /// Where the recording goes.
    pub(super) output: Output,
    /// Its name; `None` for stdout.
    pub(super) path: Option<PathBuf>,
    /// Whether an older one was renamed.
    renamed: bool,
}

impl RecordingFile {
    /// Opens `path`, or the default name.
    pub(super) fn open(path: Option<&Path>, force: bool) -> anyhow::Result<Self> {
        let renamed = path.is_none() && output::set_aside(DEFAULT, OLD)?;
        match path.unwrap_or(Path::new(DEFAULT)) {
            path if path == "-" => Self::stdout(),
            path => {
                let output = Output::open(path, only(force, record::is_recording, "recording"));
                let output = output.inspect_err(|_| put_back(renamed))?;
                Ok(Self { output, path: Some(path.to_owned()), renamed })
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
        Ok(Self { output: stdout.into(), path: None, renamed: false })
    }

    /// Takes back what opening did; the error that led here says more than one of these could.
    pub(super) fn discard(&self) {
        self.output.discard();
        put_back(self.renamed);
    }
}

/// Gives an older recording its name again, if it was `renamed`.
fn put_back(renamed: bool) {
    if renamed {
        let _left = output::put_back(DEFAULT, OLD);
    }
}

/// Refuses to replace a file, unless by its head it `is_one`, or by `force`.
pub(super) fn only(
    force: bool,
    is_one: impl Fn(&[u8]) -> bool,
    what: &str,
) -> impl Fn(&[u8]) -> anyhow::Result<()> {
    move |head| {
        if !force && !is_one(head) {
            bail!("it is no {what}: give another name, or --force to replace it");
        }
        Ok(())
    }
}
