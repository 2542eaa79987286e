//! Builds of memtrace that read recordings.
//!
//! Input: an executable, a revision, or the work tree. Output: [`Build`].
//! Keeps: a revision is built from what git has of it, so the work tree stays as it is; what is built reads and does not trace.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::Context as _;
use xshell::{Shell, cmd};

use super::view::{Offer, View};
use crate::workspace;

/// A build of memtrace.
pub(super) struct Build {
    /// What it is of.
    pub(super) name: String,
    /// Where it is.
    pub(super) program: PathBuf,
}

impl Build {
    /// The executable or the revision `which`; the work tree if it is `None`.
    pub(super) fn find(shell: &Shell, which: Option<&str>) -> anyhow::Result<Self> {
        let place = workspace::target().join("same");
        let Some(which) = which else {
            let program = place.join("work-tree");
            make(shell, workspace::root(), &program)?;
            return Ok(Self { name: "the work tree".to_owned(), program });
        };
        if Path::new(which).is_file() {
            return Ok(Self { name: which.to_owned(), program: fs::canonicalize(which)? });
        }
        let revision = format!("{which}^{{commit}}");
        let commit = cmd!(shell, "git rev-parse --verify --quiet {revision}").quiet().read();
        let commit = commit.with_context(|| format!("{which} is neither an executable nor a revision"))?;
        let program = place.join(&commit);
        if !program.is_file() {
            let (archive, sources) = (place.join("sources.tar"), place.join(format!("{commit}.sources")));
            fs::create_dir_all(&sources)?;
            cmd!(shell, "git archive --output {archive} {commit}").run()?;
            cmd!(shell, "tar --extract --file {archive} --directory {sources}").run()?;
            make(shell, &sources, &program)?;
            fs::remove_file(archive)?;
            fs::remove_dir_all(sources)?;
        }
        Ok(Self { name: format!("{which} ({commit})"), program })
    }

    /// What it can export.
    pub(super) fn offer(&self) -> anyhow::Result<Offer> {
        let output = self.run(Command::new(&self.program).args(["export", "-h"]))?;
        let help = String::from_utf8_lossy(&output.stdout);
        Offer::parse(&help, |format| self.is_of_stacks(format))
            .with_context(|| format!("{} offers no formats and tables:\n{help}", self.name))
    }

    /// Whether a table in `format` is a mistake of usage.
    fn is_of_stacks(&self, format: &str) -> bool {
        /// The code with which verbs that read end then.
        const USAGE: i32 = 2;
        let mut command = Command::new(&self.program);
        command.args(["export", "-f", format, "--table", "timeline", "/dev/null"]);
        self.run(&mut command).is_ok_and(|output| output.status.code() == Some(USAGE))
    }

    /// What it writes about `recording`.
    pub(super) fn read(&self, view: &View, recording: &Path) -> anyhow::Result<Output> {
        self.run(Command::new(&self.program).args(&view.words).arg(recording))
    }

    fn run(&self, command: &mut Command) -> anyhow::Result<Output> {
        command.output().with_context(|| format!("cannot start {}", self.program.display()))
    }
}

/// Builds memtrace from `sources`, and puts it at `program`.
fn make(shell: &Shell, sources: &Path, program: &Path) -> anyhow::Result<()> {
    let (manifest, target) = (sources.join("Cargo.toml"), workspace::target().join("same/target"));
    cmd!(shell, "cargo build --release --package memtrace --bin memtrace --no-default-features")
        .args(["--manifest-path".as_ref(), manifest.as_os_str(), "--target-dir".as_ref(), target.as_os_str()])
        .run()?;
    fs::copy(target.join("release/memtrace"), program)
        .with_context(|| format!("cannot write {}", program.display()))?;
    Ok(())
}
