//! Programs of C that tests make.
//!
//! Input: their text. Output: an executable, or how gcc failed.

use std::{fs, iter, path::Path};

use crate::{
    requirement,
    run::{Finished, Run},
};

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

/// Makes a program of C, optimised and with `options`, which are parted by spaces; or says what is missing for that.
#[track_caller]
pub fn optimised(directory: &Path, source: &str, options: &str) -> Result<String, String> {
    if let Some(reason) = requirement::program("gcc", "gcc") {
        return Err(reason);
    }
    let options: Vec<_> = iter::once("-O2").chain(options.split(' ')).collect();
    let mut headers = source.lines().filter_map(|line| line.strip_prefix("#include <")?.strip_suffix('>'));
    compile(directory, source, &options).map_err(|gcc| {
        assert!(headers.any(|header| gcc.stderr.contains(header)), "{gcc:#?}");
        "needs the headers of the C library: apt-get install libc6-dev".to_owned()
    })
}
