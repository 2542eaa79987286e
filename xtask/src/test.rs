//! `cargo xtask test`: every tier that this machine can run, and what was skipped and why.
//!
//! Tests that need something the machine lacks append the reason, one line each, to the file that
//! `MEMTRACE_SKIPS` names; the targets of `memtrace-tests` whose names begin with `kernel` are the
//! privileged tier, and only they run through sudo. Cargo itself never does. `MEMTRACE_ORACLES` names the directory of the
//! tools that some of them compare with.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use xshell::{Cmd, Shell, cmd};

use crate::{oracles, privilege::Privilege, workspace};

/// Runs all tiers, or the tests whose names contain `filter`, to the end; fails if any test failed.
pub(crate) fn test(filter: Option<&str>) -> anyhow::Result<()> {
    let shell = workspace::shell()?;
    let skips = workspace::target().join("skips.txt");
    fs::create_dir_all(workspace::target())?;
    fs::write(&skips, "").with_context(|| format!("cannot write {}", skips.display()))?;
    let _skips = shell.push_env("MEMTRACE_SKIPS", &skips);

    let other = other_targets(&shell)?;
    let outcomes = [
        cmd!(shell, "cargo test --workspace --no-fail-fast --lib --bins {other...}")
            .arg("--")
            .args(filter)
            .run(),
        cmd!(shell, "cargo test --workspace --no-fail-fast --doc").arg("--").args(filter).run(),
    ];
    let kernel_outcome = kernel(&shell, filter);
    report_skips(&fs::read_to_string(&skips)?);
    if outcomes.iter().any(Result::is_err) {
        bail!("tests failed");
    }
    kernel_outcome
}

/// Runs the privileged tier alone.
pub(crate) fn kernel(shell: &Shell, filter: Option<&str>) -> anyhow::Result<()> {
    privileged(
        shell,
        cmd!(shell, "cargo test --workspace --no-fail-fast --test kernel*").arg("--").args(filter),
    )
}

/// Runs all programs of others that are traced, of which the tiers run a selection.
pub(crate) fn strangers(filter: Option<&str>) -> anyhow::Result<()> {
    let shell = workspace::shell()?;
    let tests = cmd!(shell, "cargo test --package memtrace-tests --no-fail-fast --test kernel_strangers");
    privileged(&shell, tests.args(["--", "--include-ignored"]).args(filter))
}

/// Runs `tests` with the privileges that there are.
fn privileged<'a>(shell: &'a Shell, tests: Cmd<'a>) -> anyhow::Result<()> {
    let privilege = Privilege::find(shell);
    let tests = match privilege {
        Privilege::Root | Privilege::None => tests,
        Privilege::Sudo => tests.env(runner_variable(shell)?, "sudo -E"),
    };
    let tests = match privilege {
        Privilege::Root | Privilege::Sudo => with_oracles(shell, tests),
        Privilege::None => tests,
    };
    tests.run().context("tests against the kernel failed")
}

/// `tests`, told where the oracles are, if they can be had.
fn with_oracles<'a>(shell: &Shell, tests: Cmd<'a>) -> Cmd<'a> {
    match oracles::fetch_or_say(shell) {
        Some(directory) => tests.env("MEMTRACE_ORACLES", directory),
        None => tests,
    }
}

/// The test targets of `memtrace-tests` outside the privileged tier, each as `--test` and its name.
fn other_targets(shell: &Shell) -> anyhow::Result<Vec<String>> {
    let metadata = cmd!(shell, "cargo metadata --no-deps --format-version 1").quiet().read()?;
    let metadata: Metadata = serde_json::from_str(&metadata)?;
    Ok(metadata
        .packages
        .into_iter()
        .filter(|package| package.name == "memtrace-tests")
        .flat_map(|package| package.targets)
        .filter(|target| target.kind.iter().any(|kind| kind == "test"))
        .filter(|target| !target.name.starts_with("kernel") && target.required_features.is_empty())
        .flat_map(|target| ["--test".to_owned(), target.name])
        .collect())
}

/// The part of `cargo metadata` that names targets.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
    /// Features that only some builds have: these targets are not for every machine.
    #[serde(default, rename = "required-features")]
    required_features: Vec<String>,
}

/// The variable by which cargo is told what to start test programs with on this host.
fn runner_variable(shell: &Shell) -> anyhow::Result<String> {
    let version = cmd!(shell, "rustc -vV").quiet().read()?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    Ok(format!("CARGO_TARGET_{}_RUNNER", host.replace('-', "_").to_uppercase()))
}

/// Prints how many tests were skipped, and for each reason how many.
fn report_skips(lines: &str) {
    let mut reasons = BTreeMap::<&str, usize>::new();
    for reason in lines.lines() {
        *reasons.entry(reason).or_default() += 1;
    }
    eprintln!("skipped tests: {}", reasons.values().sum::<usize>());
    for (reason, count) in reasons {
        eprintln!("  {count:>4}  {reason}");
    }
}
