//! `cargo xtask test`: every tier that this machine can run, what was skipped and why, and what took how long.
//!
//! Targets of `memtrace-tests` whose names begin with `kernel` are the privileged tier: only they are started through sudo,
//! and one after another, since they share the kernel. The others run side by side. Tests that need something the machine
//! lacks append their name and the reason, one line each, to the file that `MEMTRACE_SKIPS` names. `MEMTRACE_ORACLES` names the directory of
//! the tools that some of them compare with, `MEMTRACE_CORPUS` the one for recordings that outlast them.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use xshell::{Cmd, Shell, cmd};

use crate::{
    corpus,
    executables::{self, Executable},
    libtest::{self, Target},
    oracles,
    privilege::Privilege,
    skips::{self, Skip},
    workspace,
};

/// How many of the slowest tests are named.
const SLOWEST: usize = 10;

/// Runs all tiers, or the tests whose names contain `filter`, to the end; fails if any test failed.
pub(crate) fn test(filter: Option<&str>) -> anyhow::Result<()> {
    let shell = workspace::shell()?;
    let (kernel, other): (Vec<_>, Vec<_>) =
        build(cmd!(shell, "cargo test --workspace --no-run"))?.into_iter().partition(is_privileged);
    let runner = Runner::new(&shell, filter.into_iter().collect())?;

    let mut targets =
        other.par_iter().map(|it| runner.run(it, Echo::AtTheEnd)).collect::<Result<Vec<_>, _>>()?;
    let docs = cmd!(shell, "cargo test --workspace --doc").arg("--").args(filter).run();
    targets.extend(runner.run_each(&kernel)?);
    runner.conclude(&targets)?;
    docs.context("examples in the documentation failed")
}

/// Runs the privileged tier alone.
pub(crate) fn kernel(shell: &Shell) -> anyhow::Result<()> {
    let tests = build(cmd!(shell, "cargo test --workspace --no-run --test kernel*"))?;
    let runner = Runner::new(shell, Vec::new())?;
    runner.conclude(&runner.run_each(&tests)?)
}

/// Runs all tests of the privileged target `name`, those too that the tiers leave out.
pub(crate) fn whole(name: &str, filter: Option<&str>) -> anyhow::Result<()> {
    let shell = workspace::shell()?;
    let tests = build(cmd!(shell, "cargo test --workspace --no-run --test {name}"))?;
    let runner = Runner::new(&shell, ["--include-ignored"].into_iter().chain(filter).collect())?;
    runner.conclude(&runner.run_each(&tests)?)
}

/// The test executables that `cargo` builds.
fn build(cargo: Cmd<'_>) -> anyhow::Result<Vec<Executable>> {
    let messages = cargo.args(executables::MESSAGES).read().context("cannot build the tests")?;
    let mut tests: Vec<_> = Executable::parse(&messages).into_iter().filter(|it| it.is_test).collect();
    // Cargo names them as it finished them.
    tests.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(tests)
}

fn is_privileged(executable: &Executable) -> bool {
    executable.kind == "test" && executable.name.starts_with("kernel")
}

/// When what an executable prints is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Echo {
    /// As it comes.
    AtOnce,
    /// In one piece: others print too.
    AtTheEnd,
}

/// How test executables are started.
struct Runner<'a> {
    privilege: Privilege,
    oracles: Option<PathBuf>,
    /// The file of reasons.
    skips: PathBuf,
    arguments: Vec<&'a str>,
}

impl<'a> Runner<'a> {
    fn new(shell: &Shell, arguments: Vec<&'a str>) -> anyhow::Result<Self> {
        let privilege = Privilege::find(shell);
        let oracles = if privilege == Privilege::None { None } else { oracles::fetch_or_say(shell) };
        let skips = workspace::target().join("skips.txt");
        fs::write(&skips, "").with_context(|| format!("cannot write {}", skips.display()))?;
        Ok(Self { privilege, oracles, skips, arguments })
    }

    /// Runs `executables` one after another.
    fn run_each(&self, executables: &[Executable]) -> anyhow::Result<Vec<Target>> {
        executables.iter().map(|executable| self.run(executable, Echo::AtOnce)).collect()
    }

    /// Runs the tests of `executable` to their end.
    fn run(&self, executable: &Executable, echo: Echo) -> anyhow::Result<Target> {
        let name = match executable.kind.as_str() {
            "test" => executable.name.clone(),
            kind => format!("{} ({kind})", executable.name),
        };
        let mut child = self
            .command(executable)
            .spawn()
            .with_context(|| format!("cannot start {}", executable.path.display()))?;
        let mut text = format!("== {name}\n");
        if echo == Echo::AtOnce {
            eprint!("{text}");
        }
        for line in BufReader::new(child.stdout.take().context("stdout is a pipe")?).lines() {
            let line = line?;
            if echo == Echo::AtOnce {
                eprintln!("{line}");
            }
            writeln!(text, "{line}")?;
        }
        if echo == Echo::AtTheEnd {
            eprint!("{text}");
        }
        let status = child.wait()?;
        let mut target = Target::parse(&name, &text);
        target.end(&status.code().map_or_else(|| status.to_string(), |code| code.to_string()));
        Ok(target)
    }

    fn command(&self, executable: &Executable) -> Command {
        let env = Path::new("env");
        let mut command =
            if is_privileged(executable) { self.privilege.command(env) } else { Command::new(env) };
        // A shell without job control ignores both for what it runs in the background, and tests of ^C would wait for ever.
        command.arg("--default-signal=INT,QUIT").arg(&executable.path);
        let (variable, value) = libtest::TIMED_ENV;
        command.env(variable, value).env("MEMTRACE_SKIPS", &self.skips);
        command.env("MEMTRACE_CORPUS", corpus::directory());
        if let Some(oracles) = &self.oracles {
            command.env("MEMTRACE_ORACLES", oracles);
        }
        command
            .args(libtest::TIMED)
            .args(&self.arguments)
            .current_dir(&executable.package)
            .stdout(Stdio::piped());
        command
    }

    /// Says what came of `targets`; fails if any test failed.
    fn conclude(&self, targets: &[Target]) -> anyhow::Result<()> {
        let skips = fs::read_to_string(&self.skips)?;
        eprint!("{}", summary(targets, &skips::parse(&skips)));
        if targets.iter().any(|target| target.problems().next().is_some()) {
            bail!("tests failed");
        }
        Ok(())
    }
}

/// Wall time by target, the slowest tests, skips by reason, failures, and counts.
fn summary(targets: &[Target], skips: &[Skip]) -> String {
    let mut lines = vec!["wall time by target:".to_owned()];
    let run = targets.iter().filter(|target| target.passed + target.failed > 0);
    lines.extend(run.map(|target| {
        format!("{:>8.1} s  {}: {} tests", target.seconds, target.name, target.passed + target.failed)
    }));

    let tests =
        targets.iter().flat_map(|target| target.times.iter().map(move |(test, time)| (target, test, *time)));
    let mut tests: Vec<_> = tests.collect();
    tests.sort_by(|(_, _, left), (_, _, right)| right.total_cmp(left));
    lines.push("slowest tests:".to_owned());
    let slowest = tests.iter().take(SLOWEST);
    lines.extend(slowest.map(|(target, test, time)| format!("{time:>8.1} s  {}: {test}", target.name)));

    lines.push(format!("skipped tests: {}", skips.len()));
    let reasons = skips::by_reason(skips);
    lines.extend(reasons.iter().map(|(reason, count)| format!("{count:>8}  {reason}")));

    let failures: Vec<_> = targets.iter().flat_map(Target::problems).collect();
    lines.push(format!("failures: {}", failures.len()));
    lines.extend(failures.iter().map(|failure| format!("          {failure}")));

    for (tier, is_kernel) in [("without privileges", false), ("against the kernel", true)] {
        let tier_targets = targets.iter().filter(|target| target.name.starts_with("kernel") == is_kernel);
        let (passed, failed) =
            tier_targets.fold((0, 0), |(passed, failed), it| (passed + it.passed, failed + it.failed));
        lines.push(format!("{tier}: {passed} passed, {failed} failed"));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_names_what_took_long_what_was_skipped_and_what_failed() {
        let target = |name: &str, text: &str, code: &str| {
            let mut target = Target::parse(name, text);
            target.end(code);
            target
        };
        let targets = [
            target(
                "xtask (bin)",
                "test a ... ok <0.001s>\ntest result: ok. 1 passed; 0 failed; finished in 0.06s",
                "0",
            ),
            target(
                "kernel",
                "test b ... FAILED <2.500s>\n\nfailures:\n\n---- b stdout ----\nthread 'b' panicked at k.rs:1:1:\nleft\n\n\nfailures:\n    b\n\ntest result: FAILED. 0 passed; 1 failed; finished in 2.51s",
                "101",
            ),
        ];

        assert_eq!(
            summary(&targets, &skips::parse("a\tneeds gcc\nc\tneeds gcc\n")),
            "wall time by target:\n     0.1 s  xtask (bin): 1 tests\n     2.5 s  kernel: 1 tests\n\
             slowest tests:\n     2.5 s  kernel: b\n     0.0 s  xtask (bin): a\n\
             skipped tests: 2\n       2  needs gcc\nfailures: 1\n          kernel: b: left\n\
             without privileges: 1 passed, 0 failed\nagainst the kernel: 0 passed, 1 failed\n"
        );
    }
}
