//! The privileged tier as programs: test executables, and what they start.
//!
//! Input: this work tree. Output: paths of executables, and the files by which `tier.sh` is told what to run.
//! Keeps: they are optimised, for emulated processors are slow.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use xshell::{Shell, cmd};

use crate::executables::{self, Executable};

/// Runs the tier and prints what `report` reads.
pub(super) const SCRIPT: &str = include_str!("tier.sh");

/// The target whose tests take something from the machine for good: for guests alone, and the last one there.
const DISPOSABLE: &str = "disposable";

/// All targets of the tier, as cargo is asked for them.
pub(super) const WHOLE: &[&str] = &["kernel*", DISPOSABLE];

/// Those that show within minutes that a kernel is served: what is recorded is what the kernel counted, maps are followed,
/// nothing is left behind by whoever is killed, what is missing is said, frames are read as the kernel's own tools read
/// them, and the verifier has room.
pub(super) const SMOKE: &[&str] = &[
    "kernel",
    "kernel_command",
    "kernel_degrade",
    "kernel_maps",
    "kernel_rss",
    "kernel_snapshot_oracles",
    "kernel_verifier",
];

/// The executables of the tier.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tier {
    /// Name and path of each test executable.
    pub(super) tests: Vec<(String, PathBuf)>,
    /// Programs that the tests start.
    pub(super) programs: Vec<PathBuf>,
}

impl Tier {
    /// Builds `targets` of it, [`WHOLE`] or [`SMOKE`].
    pub(super) fn build(shell: &Shell, targets: &[&str]) -> anyhow::Result<Self> {
        let targets = targets.iter().flat_map(|target| ["--test", target]);
        let messages =
            cmd!(shell, "cargo test --workspace --no-run {targets...} --features memtrace-tests/disposable")
                .args(executables::MESSAGES)
                .read()
                .context("cannot build the privileged tier")?;
        Ok(Self::of(Executable::parse(&messages)))
    }

    fn of(executables: Vec<Executable>) -> Self {
        let mut tier = Self::default();
        for Executable { name, kind, path, .. } in executables {
            match kind.as_str() {
                "test" => tier.tests.push((name, path)),
                "bin" => tier.programs.push(path),
                _ => {}
            }
        }
        tier.tests.sort_by_key(|(name, _)| (name == DISPOSABLE, name.clone()));
        tier.programs.sort();
        tier
    }

    /// The test executables that `is_wanted` wants by name, and all programs.
    pub(super) fn only(&self, is_wanted: impl Fn(&str) -> bool) -> Self {
        let tests = self.tests.iter().filter(|(name, _)| is_wanted(name)).cloned().collect();
        Self { tests, programs: self.programs.clone() }
    }

    /// The program under test.
    pub(super) fn memtrace(&self) -> anyhow::Result<&Path> {
        let found = self.programs.iter().find(|program| program.ends_with("memtrace-under-test"));
        found.map(PathBuf::as_path).context("memtrace-under-test was not built")
    }

    /// What `tier.sh` reads on `machine`, as names and texts: `arguments` are those of each test executable.
    pub(super) fn orders(
        &self,
        machine: Machine,
        arguments: &[&str],
    ) -> anyhow::Result<[(&'static str, String); 4]> {
        let tests = self.tests.iter().filter(|(name, _)| machine == Machine::Guest || name != DISPOSABLE);
        let tests: Vec<_> = tests.map(|(name, path)| format!("{name} {}\n", path.display())).collect();
        let arguments: Vec<_> = arguments.iter().map(|argument| format!("{argument}\n")).collect();
        Ok([
            ("tier.sh", SCRIPT.to_owned()),
            ("tests", tests.concat()),
            ("arguments", arguments.concat()),
            ("memtrace", format!("{}\n", self.memtrace()?.display())),
        ])
    }

    /// Writes [`Self::orders`] for this machine into `directory`.
    pub(super) fn write_orders(&self, directory: &Path, arguments: &[&str]) -> anyhow::Result<()> {
        fs::create_dir_all(directory)?;
        for (name, text) in self.orders(Machine::Host, arguments)? {
            fs::write(directory.join(name), text)?;
        }
        Ok(())
    }
}

/// What the tier runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Machine {
    /// A virtual machine, which is thrown away afterwards.
    Guest,
    /// This one.
    Host,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_name_one_test_or_argument_per_line() {
        let tier = Tier {
            tests: vec![("kernel".to_owned(), "/t/kernel-1".into()), (DISPOSABLE.to_owned(), "/t/b".into())],
            programs: vec!["/t/memtrace-under-test".into()],
        };
        let orders =
            |machine| tier.orders(machine, &["--exact", "name"]).expect("the program under test is there");

        let [_, tests, arguments, _] = orders(Machine::Guest);
        assert_eq!(tests, ("tests", "kernel /t/kernel-1\ndisposable /t/b\n".to_owned()));
        assert_eq!(arguments, ("arguments", "--exact\nname\n".to_owned()));
        assert_eq!(orders(Machine::Host)[1], ("tests", "kernel /t/kernel-1\n".to_owned()));
    }
}
