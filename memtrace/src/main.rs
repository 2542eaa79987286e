//! The `memtrace` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    memtrace::cli::main()
}
