//! The privileged tier as programs: test executables, and what they start.
//!
//! Input: this work tree. Output: paths of executables, and the files by which `tier.sh` is told what to run.
//! Keeps: they are optimised, for emulated processors are slow.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::Deserialize;
use xshell::{Shell, cmd};

/// Runs the tier and prints what `report` reads.
pub(super) const SCRIPT: &str = include_str!("tier.sh");

/// The target whose tests take something from the machine for good: for guests alone, and the last one there.
const DISPOSABLE: &str = "disposable";

/// The executables of the tier.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tier {
    /// Name and path of each test executable.
    pub(super) tests: Vec<(String, PathBuf)>,
    /// Programs that the tests start.
    pub(super) programs: Vec<PathBuf>,
}

impl Tier {
    /// Builds it.
    pub(super) fn build(shell: &Shell) -> anyhow::Result<Self> {
        let messages = cmd!(
            shell,
            "cargo test --release --workspace --no-run --test kernel* --test {DISPOSABLE} --features memtrace-tests/disposable
             --message-format json-render-diagnostics"
        )
        .read()
        .context("cannot build the privileged tier")?;
        Ok(Self::from_messages(&messages))
    }

    /// Finds executables in what cargo prints with `--message-format json`.
    fn from_messages(messages: &str) -> Self {
        let mut tier = Self::default();
        let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<Artifact>(line).ok());
        for Artifact { target, executable } in artifacts {
            match executable {
                Some(executable) if target.kind.iter().any(|kind| kind == "test") => {
                    tier.tests.push((target.name, executable));
                }
                Some(executable) if target.kind.iter().any(|kind| kind == "bin") => {
                    tier.programs.push(executable);
                }
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

/// The part of cargo's messages that names executables.
#[derive(Deserialize)]
struct Artifact {
    target: Target,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_told_apart_from_libraries() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"memtrace"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"kernel"},"executable":"/t/deps/kernel-1"}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"memtrace-under-test"},"executable":"/t/memtrace-under-test"}
{"reason":"build-finished","success":true}"#;

        let tier = Tier::from_messages(messages);

        assert_eq!(tier.tests, [("kernel".to_owned(), PathBuf::from("/t/deps/kernel-1"))]);
        assert_eq!(tier.memtrace().expect("it is listed"), Path::new("/t/memtrace-under-test"));
        assert_eq!(tier.programs.len(), 1);
    }

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
