//! Runs the privileged tier on other kernels: `cargo xtask test --vm`, `cargo xtask verifier`.
//!
//! Each kernel boots in a virtual machine whose whole file system is an archive of the tests and their programs; this
//! machine takes part as one more kernel. What each wrote becomes a column of a table.
//! Not here: the tier on this machine alone, as part of all tests (`test`).
#![expect(clippy::print_stdout, reason = "a table on stdout is what it is for")]

mod boot;
mod guest;
mod initramfs;
mod kernel;
mod own;
mod report;
mod table;
mod tier;
mod verified;

use std::{fs, path::PathBuf};

use anyhow::bail;
pub(crate) use kernel::Kernel;
use xshell::Shell;

use self::{report::Report, tier::Tier};
use crate::workspace;

/// What came of a kernel.
#[derive(Debug)]
struct Column {
    kernel: Kernel,
    report: Report,
    /// Why the run itself failed, whatever its tests say.
    problem: Option<String>,
}

/// Runs the tier, or the tests whose names contain `filter`, on `kernels`; fails if any test failed, in a guest twice.
pub(crate) fn test(kernels: &[Kernel], filter: Option<&str>) -> anyhow::Result<()> {
    let arguments: Vec<_> = filter.into_iter().collect();
    let columns = run(kernels, &arguments)?;
    print!("{}", table::summary(&columns));
    print!("\n{}", table::features(&columns));
    print!("\n{}", table::skips(&columns));
    verdict(&columns)
}

/// Counts what the verifier of each of `kernels` walks; with `record`, keeps the numbers in the tree.
pub(crate) fn verifier(kernels: &[Kernel], record: bool) -> anyhow::Result<()> {
    let columns = run(kernels, &["--exact", "programs_stay_within_the_verifier_budget"])?;
    print!("{}", verified::table(&columns));
    if record {
        verified::record(&columns)?;
    }
    verdict(&columns)
}

/// Runs `targets` of the tier with `arguments` of libtest on each of `kernels`.
fn run(kernels: &[Kernel], arguments: &[&str]) -> anyhow::Result<Vec<Column>> {
    let shell = workspace::shell()?;
    let kernels = Kernel::columns(kernels);
    let tier = Tier::build(&shell)?;
    let run = Run { shell: &shell, tier, arguments, name: "first" };
    if kernels.iter().any(|kernel| kernel.is_guest()) {
        if std::env::consts::ARCH != "x86_64" {
            bail!("the virtual machines are x86-64, this machine is {}", std::env::consts::ARCH);
        }
        boot::check(&shell)?;
        run.write_initramfs()?;
    }
    Ok(kernels.into_iter().map(|kernel| run.column(kernel)).collect())
}

/// Tests to run, whatever the kernel.
struct Run<'a> {
    shell: &'a Shell,
    tier: Tier,
    arguments: &'a [&'a str],
    /// What its consoles are named after.
    name: &'static str,
}

impl Run<'_> {
    /// Runs the tests on `kernel`, and what fails in a guest once more.
    fn column(&self, kernel: Kernel) -> Column {
        eprintln!("== {}", kernel.label());
        let mut column = self.once(kernel);
        if kernel.is_guest() && column.report.failed().next().is_some() {
            eprintln!("== {}: what failed, again", kernel.label());
            match self.again(&column) {
                Ok(second) => column.report.add_rerun(&second.report),
                Err(failure) => eprintln!("{}: {failure:#}", kernel.label()),
            }
        }
        column
    }

    /// Runs the tests of `first` that failed once more, in a guest of their own.
    ///
    /// Processors that are emulated, and those that emulate them, may stand still at any time and for long.
    fn again(&self, first: &Column) -> anyhow::Result<Column> {
        let failed: Vec<_> = first.report.failed().collect();
        let tier = self.tier.only(|name| failed.iter().any(|(target, _)| *target == name));
        let arguments: Vec<_> =
            std::iter::once("--exact").chain(failed.iter().map(|(_, test)| *test)).collect();
        let run = Run { shell: self.shell, tier, arguments: &arguments, name: "again" };
        run.write_initramfs()?;
        Ok(run.once(first.kernel))
    }

    /// Runs the tests on `kernel` and tells of failures at once.
    fn once(&self, kernel: Kernel) -> Column {
        let column = match self.console(kernel) {
            Ok(boot::Console { path, text, problem }) => {
                let report = Report::parse(&text);
                let failed = problem.is_some() || !report.problems().is_empty();
                if failed {
                    eprintln!("{}: the console is in {}", kernel.label(), path.display());
                }
                Column { kernel, report, problem }
            }
            Err(failure) => {
                Column { kernel, report: Report::default(), problem: Some(format!("{failure:#}")) }
            }
        };
        for target in &column.report.targets {
            for failure in &target.failures {
                eprintln!("---- {}: {}: {}\n{}\n", kernel.label(), target.name, failure.name, failure.text);
            }
        }
        for problem in column.problems() {
            eprintln!("{}: {problem}", kernel.label());
        }
        column
    }

    fn console(&self, kernel: Kernel) -> anyhow::Result<boot::Console> {
        let console = kernel.directory().join(format!("{}.log", self.name));
        if let Some(image) = kernel.image(self.shell)? {
            return boot::guest(kernel, &image, &self.initramfs(), console);
        }
        self.tier.write_orders(&kernel.directory(), self.arguments)?;
        boot::host(self.shell, &kernel.directory(), console)
    }

    /// The archive that guests start with.
    fn initramfs(&self) -> PathBuf {
        workspace::target().join("vm").join(format!("{}.cpio", self.name))
    }

    fn write_initramfs(&self) -> anyhow::Result<()> {
        let stripped = workspace::target().join("vm/stripped");
        guest::initramfs(self.shell, &self.tier, self.arguments, &stripped)?.write(&self.initramfs())?;
        fs::remove_dir_all(&stripped)?;
        Ok(())
    }
}

impl Column {
    /// Why this kernel is not a success, each in a line.
    fn problems(&self) -> Vec<String> {
        let Self { kernel: _, report, problem } = self;
        problem.iter().cloned().chain(report.problems()).collect()
    }
}

/// Fails unless every test passed on every kernel, those that are `known` be it the second time.
fn verdict(columns: &[Column]) -> anyhow::Result<()> {
    let failed: Vec<_> = columns
        .iter()
        .filter(|column| !column.problems().is_empty())
        .map(|column| column.kernel.label())
        .collect();
    if !failed.is_empty() {
        bail!("tests failed on {}", failed.join(", "));
    }
    Ok(())
}
