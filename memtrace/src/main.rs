//! The `memtrace` program.

use std::process::ExitCode;

#[cfg(feature = "live")]
#[global_allocator]
static HEAP: memtrace::sys::heap::Heap = memtrace::sys::heap::Heap;

fn main() -> ExitCode {
    memtrace::cli::main()
}
