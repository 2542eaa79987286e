//! What the tests share: programs with known memory behaviour, and ways to run memtrace on them and read what it says.
//!
//! Input: the programs of this package. Output: exit states, ledgers, tables.
//! Keeps: ground truth comes from the program that touched the memory, or from the kernel, never from memtrace.
//! Not here: the tests themselves; each target has one theme.
#![expect(clippy::missing_panics_doc, reason = "the harness panics wherever a test must fail")]

use tempfile::TempDir;

pub mod fixture;
pub mod ledger;
pub mod maps;
pub mod memory;
pub mod recording;
pub mod requirement;
pub mod run;
pub mod task;

/// The path of a program of this package.
#[macro_export]
macro_rules! program {
    ($name:literal) => {
        env!(concat!("CARGO_BIN_EXE_", $name))
    };
}

/// A directory of a test's own, gone at its end.
#[must_use]
pub fn directory() -> TempDir {
    TempDir::with_prefix("memtrace-").expect("a temporary directory")
}
