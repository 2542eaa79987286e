//! `cargo xtask fuzz`: reads recordings that somebody mutated, of which none may do harm.
//!
//! Builds with overflow checks, and hands over to the program `fuzz` of `memtrace-tests`.

use xshell::cmd;

use crate::workspace;

/// Mutates recordings for `seconds`; the same `seed` makes the same ones. Those that did harm are kept in `target/fuzz`.
pub(crate) fn fuzz(seconds: u64, seed: u64) -> anyhow::Result<()> {
    let shell = workspace::shell()?;
    // As the tests are built, with all programs: `cargo build` takes other features of what both depend on.
    cmd!(shell, "cargo test --workspace --no-run --quiet --test recordings").run()?;
    let programs = workspace::target().join("debug");
    let (fuzz, memtrace) = (programs.join("fuzz"), programs.join("memtrace-under-test"));
    let (corpus, found) = (workspace::root().join("tests/fuzz/corpus"), workspace::target().join("fuzz"));
    let (seconds, seed) = (seconds.to_string(), seed.to_string());
    cmd!(
        shell,
        "{fuzz} --memtrace {memtrace} --corpus {corpus} --found {found} --seconds {seconds} --seed {seed}"
    )
    .run()?;
    Ok(())
}
