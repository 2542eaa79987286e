//! The program under test, built with the tests so that cargo tells them its path.

use std::process::ExitCode;

fn main() -> ExitCode {
    memtrace::cli::main()
}
