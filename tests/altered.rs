//! Recordings that somebody altered are read, or refused: no reader panics, hangs, or takes more memory than they are worth.
//!
//! The files are what `cargo xtask fuzz` found. Their checksums are right.

use std::{
    fs,
    path::{Path, PathBuf},
};

use memtrace_tests::{
    memtrace, program,
    reader::{self, Outcome},
};
use serde_json::Value;

/// The recordings in a directory of `tests/fuzz`; at least one.
fn recordings(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(directory);
    let entries = fs::read_dir(directory).expect("the recordings are in the tree");
    let files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    assert!(!files.is_empty());
    files
}

#[test]
fn altered_recordings_do_no_harm() {
    let memtrace = Path::new(program!("memtrace-under-test"));
    for file in recordings("found") {
        for verb in reader::SUMMARIES.into_iter().chain(reader::TABLES) {
            let outcome = reader::read(memtrace, verb, &file);
            assert_eq!(outcome, Outcome::Done, "{verb:?} of {}", file.display());
        }
    }
}

/// Else the fuzzer would mutate files that are refused whatever is in them.
#[test]
fn corpus_is_read_to_its_end() {
    for file in recordings("corpus") {
        let info = memtrace!().run(["info", "--json"]).arg(&file).finish().expect_code(0);
        let info: Value = serde_json::from_str(&info.stdout).expect("JSON");
        assert_eq!(info["recovery"]["complete"], true, "{}", file.display());
    }
}
