//! `cargo xtask check`: everything that can be said about the code without running it.

use xshell::{Shell, cmd};

use crate::{layers, workspace};

/// Runs all checks, the quick ones first; stops at the first that fails.
pub(crate) fn check() -> anyhow::Result<()> {
    let shell = workspace::shell()?;
    cmd!(shell, "cargo fmt --all --check").run()?;
    layers::check()?;
    cmd!(shell, "cargo clippy --workspace --all-targets -- -D warnings").run()?;
    // Without tracing memtrace still reads recordings, on any host.
    cmd!(shell, "cargo clippy --package memtrace --all-targets --no-default-features -- -D warnings")
        .run()?;
    cmd!(shell, "cargo doc --workspace --no-deps --document-private-items --quiet")
        .env("RUSTDOCFLAGS", "-D warnings")
        .run()?;
    licences(&shell)
}

fn licences(shell: &Shell) -> anyhow::Result<()> {
    if cmd!(shell, "cargo deny --version").quiet().ignore_stderr().read().is_err() {
        eprintln!(
            "licences of dependencies not checked: cargo-deny is not installed (cargo install cargo-deny)"
        );
        return Ok(());
    }
    Ok(cmd!(shell, "cargo deny check").run()?)
}
