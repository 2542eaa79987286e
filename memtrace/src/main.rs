//! The `memtrace` program.
fn main() {}
