//! The program under test, built with the tests so that cargo tells them its path.

use std::process::ExitCode;

use memtrace::sys::heap::Heap;

#[global_allocator]
static HEAP: Heap = Heap;

fn main() -> ExitCode {
    memtrace::cli::main()
}
