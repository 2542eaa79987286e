//! `cargo xtask run`: from a clone to a first timeline in one command.
//!
//! Builds as the user and gives privileges to `memtrace` alone.

use std::{ffi::OsString, fs, os::unix::process::CommandExt as _, path::Path, process::Command};

use anyhow::{Context as _, bail};
use xshell::cmd;

use crate::{ebpf, privilege::Privilege, workspace};

/// Runs `memtrace` with `args`, in its place, or the demonstration when there are none.
pub(crate) fn run(args: &[OsString]) -> anyhow::Result<()> {
    let shell = workspace::shell()?;
    ebpf::refresh(&shell)?;
    let privilege = Privilege::find(&shell);
    let memtrace = workspace::target().join("release/memtrace");
    if args.is_empty() {
        cmd!(
            shell,
            "cargo build --release --package memtrace --package memtrace-tests --bin memtrace --bin demo"
        )
        .run()?;
        return demonstrate(privilege, &memtrace);
    }
    cmd!(shell, "cargo build --release --package memtrace --bin memtrace").run()?;
    let cause = privilege.command(&memtrace).args(args).exec();
    Err(cause).with_context(|| format!("cannot start {}", memtrace.display()))
}

/// Records the demonstration workload, reports on it and names what can be typed next.
fn demonstrate(privilege: Privilege, memtrace: &Path) -> anyhow::Result<()> {
    let directory = workspace::target().join("demo");
    fs::create_dir_all(&directory)?;
    let recording = directory.join("memtrace.mtrace");
    let timeline = directory.join("timeline.csv");

    let mut record = privilege.command(memtrace);
    record.arg("record").arg("-o").arg(&recording).arg("--csv").arg(&timeline);
    finish(record.arg("--").arg(workspace::target().join("release/demo")))?;
    finish(Command::new(memtrace).arg("report").arg(&recording))?;

    let (memtrace, recording) = (memtrace.display(), recording.display());
    eprintln!("\ntimeline: {}", timeline.display());
    eprintln!("next:");
    eprintln!("  {memtrace} export {recording} -f csv --table faults | head");
    eprintln!("  {memtrace} info {recording}");
    eprintln!("  cargo xtask run -- doctor");
    eprintln!("  cargo xtask run -- record -- COMMAND");
    Ok(())
}

fn finish(command: &mut Command) -> anyhow::Result<()> {
    let line = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot start {line}"))?;
    if !status.success() {
        bail!("{line} ended with {status}");
    }
    Ok(())
}
