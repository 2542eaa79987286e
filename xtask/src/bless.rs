//! `cargo xtask bless`: makes anew what is made from the code and kept in the tree.

use xshell::cmd;

use crate::workspace;

/// Rewrites the README's table of facilities; the test that compares it knows how.
pub(crate) fn bless() -> anyhow::Result<()> {
    let shell = workspace::shell()?;
    let test = "readme_has_the_facilities_of_the_program";
    let run = cmd!(shell, "cargo test --quiet --package memtrace-tests --test doctor -- --exact {test}");
    Ok(run.env("MEMTRACE_BLESS", "1").run()?)
}
