//! Runs a command and tells what the kernel charged to it: the oracle of the accounting identity. Tells its time and memory, too.
//!
//! Output: a line of [`Testimony`] on stderr or in `--out`; the exit code of the command, 128 more than the
//! signal if it died of one.
//! Source: wait4(2), which adds the descendants that the command itself waited for.

use std::{
    ffi::OsString,
    fs,
    io::{self, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{Command, ExitCode},
    time::Instant,
};

use clap::Parser;
use memtrace_tests::{ledger::Testimony, task};

/// Run a command and print the faults that the kernel charged to it, its time and its memory
#[derive(Parser)]
struct Args {
    /// File for the testimony, instead of stderr
    #[arg(long)]
    out: Option<PathBuf>,
    /// Command and its arguments
    #[arg(required = true, last = true)]
    command: Vec<OsString>,
}

fn main() -> io::Result<ExitCode> {
    let Args { out, command } = Args::parse();
    let (program, rest) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let began = Instant::now();
    let pid = Command::new(program).args(rest).spawn()?.id();
    let (status, charged, peak_bytes) = task::wait4_with_peak(pid)?;
    let ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let testimony = Testimony { pid, minflt: charged.minor, majflt: charged.major, peak_bytes, ns };
    let mut line = serde_json::to_string(&testimony)?;
    line.push('\n');
    match out {
        Some(path) => fs::write(path, line)?,
        None => io::stderr().write_all(line.as_bytes())?,
    }
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
