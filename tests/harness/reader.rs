//! Reads a file with memtrace as a stranger's should be read: under limits of time and memory.
//!
//! Input: a file, a verb. Output: [`Outcome`].
//! Not here: which files there are (`fuzz`, the test target `altered`).

use std::{
    fmt,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Command, Stdio},
};

/// What sums a recording up.
pub const SUMMARIES: [&[&str]; 2] = [&["info", "--json"], &["report"]];

/// What prints a part of it: row by row, or stack by stack.
pub const TABLES: [&[&str]; 9] = [
    &["report", "--json"],
    &["export", "-f", "csv", "--table", "timeline", "-o", "-"],
    &["export", "-f", "csv", "--table", "faults", "-o", "-"],
    &["export", "-f", "csv", "--table", "maps", "-o", "-"],
    &["export", "-f", "csv", "--table", "regions", "-o", "-"],
    &["export", "-f", "csv", "--table", "pages", "-o", "-"],
    &["export", "-f", "csv", "--table", "losses", "-o", "-"],
    &["export", "-f", "folded", "--weight", "faults", "-o", "-"],
    &["export", "-f", "pprof", "-o", "-"],
];

/// Memory that a reader may take whatever it reads, in bytes.
const MEMORY: u64 = 64 << 20;

/// Memory that it may take beyond that for each byte of the file.
const MEMORY_FACTOR: u64 = 4 << 10;

/// CPU time that it may take for each mebibyte of the file that was begun, in seconds; builds without optimisation take most.
const SECONDS: u64 = 10;

/// The code with which a panic ends a Rust program.
const PANICKED: i32 = 101;

/// How reading ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With an answer, or a refusal.
    Done,
    /// By a panic, with this message.
    Panicked(String),
    /// It took too long.
    Hung,
    /// It took too much memory, or died for another reason.
    Died(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Panicked(message) => write!(f, "panicked: {message}"),
            Self::Hung => write!(f, "took more than {SECONDS} s a MiB"),
            Self::Died(message) => write!(f, "died: {message}"),
        }
    }
}

/// Lets `memtrace` read `file` with `verb`.
#[must_use]
pub fn read(memtrace: &Path, verb: &[&str], file: &Path) -> Outcome {
    let bytes = file.metadata().expect("the file is there").len();
    let memory = MEMORY + MEMORY_FACTOR * bytes;
    let seconds = SECONDS * (1 + (bytes >> 20));
    let output = Command::new("prlimit")
        .args([format!("--data={memory}"), format!("--cpu={seconds}"), "--core=0".to_owned()])
        .arg(memtrace)
        .args(verb)
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .expect("prlimit of util-linux starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let first = |text: &str| stderr.lines().find(|line| line.contains(text)).unwrap_or_default().to_owned();
    match (output.status.code(), output.status.signal()) {
        (Some(PANICKED), _) => Outcome::Panicked(first("panicked at")),
        (Some(0 | 1), _) => Outcome::Done,
        (None, Some(libc::SIGKILL | libc::SIGXCPU)) => Outcome::Hung,
        _ => Outcome::Died(format!("{}: {}", output.status, first(""))),
    }
}
