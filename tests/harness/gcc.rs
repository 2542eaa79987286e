//! Programs of C that tests make.
//!
//! Input: their text. Output: an executable, or how gcc failed.

use std::{fs, path::Path};

use crate::run::{Finished, Run};

/// Makes a program of `source` in `directory`, and returns its path, or the end of a gcc that failed. There must be a gcc.
#[track_caller]
pub fn compile(directory: &Path, source: &str, options: &[&str]) -> Result<String, Finished> {
    let file = directory.join("source.c");
    fs::write(&file, source).expect("a file");
    let program = directory.join("program");
    let gcc = Run::new("gcc").args(options).arg("-o").arg(&program).arg(&file).finish();
    match gcc.code() {
        Some(0) => Ok(program.to_str().expect("a temporary path is text").to_owned()),
        _ => Err(gcc),
    }
}
