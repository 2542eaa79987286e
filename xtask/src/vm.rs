//! Runs the privileged tier on other kernels: `cargo xtask test --vm`, `cargo xtask verifier`.
//!
//! Each kernel boots in a virtual machine whose whole file system is an archive of the tests and their programs; this
//! machine takes part as one more kernel. What each wrote becomes a column of a table. Guests run side by side, since each
//! takes one processor (`boot`); this machine runs the tests when they have ended.
//! Not here: the tier on this machine alone, as part of all tests (`test`).
#![expect(clippy::print_stdout, reason = "a table on stdout is what it is for")]

mod boot;
mod flaky;
mod guest;
mod initramfs;
mod kernel;
mod own;
mod report;
mod table;
mod tier;
mod verified;

use std::{
    fs,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::bail;
pub(crate) use kernel::Kernel;
use rayon::iter::{IntoParallelIterator as _, ParallelIterator as _};
use xshell::Shell;

use self::{flaky::Known, report::Report, tier::Tier};
use crate::workspace;

/// What came of a kernel.
#[derive(Debug)]
struct Column {
    kernel: Kernel,
    report: Report,
    /// Why the run itself failed, whatever its tests say.
    problem: Option<String>,
}

/// Runs the tier, or what of it is smoke, or the tests whose names contain `filter`, on `kernels`; fails if any test failed,
/// unless it is known to fail now and then in that guest, and failed once.
pub(crate) fn test(kernels: &[Kernel], is_smoke: bool, filter: Option<&str>) -> anyhow::Result<()> {
    let targets = if is_smoke { tier::SMOKE } else { tier::WHOLE };
    let arguments: Vec<_> = filter.into_iter().collect();
    let columns = run(kernels, targets, &arguments)?;
    print!("{}", table::summary(&columns));
    print!("\n{}", table::times(&columns));
    print!("\n{}", table::features(&columns));
    print!("\n{}", table::skips(&columns));
    verdict(&columns, &Known::read()?)
}

/// Counts what the verifier of each of `kernels` walks; with `record`, keeps the numbers in the tree.
pub(crate) fn verifier(kernels: &[Kernel], record: bool) -> anyhow::Result<()> {
    let columns =
        run(kernels, &["kernel_verifier"], &["--exact", "programs_stay_within_the_verifier_budget"])?;
    print!("{}", verified::table(&columns));
    if record {
        verified::record(&columns)?;
    }
    verdict(&columns, &Known::default())
}

/// Runs `targets` of the tier with `arguments` of libtest on each of `kernels`.
fn run(kernels: &[Kernel], targets: &[&str], arguments: &[&str]) -> anyhow::Result<Vec<Column>> {
    let shell = workspace::shell()?;
    let kernels = Kernel::columns(kernels);
    let tier = Tier::build(&shell, targets)?;
    let (guests, host): (Vec<_>, Vec<_>) = kernels.into_iter().partition(|kernel| kernel.is_guest());
    if !guests.is_empty() {
        if std::env::consts::ARCH != "x86_64" {
            bail!("the virtual machines are x86-64, this machine is {}", std::env::consts::ARCH);
        }
        boot::check(&shell)?;
    }
    let initramfs = workspace::target().join("vm/first.cpio");
    let run = Run { shell: &Mutex::new(shell), tier, arguments, name: "first", initramfs };
    if !guests.is_empty() {
        run.write_initramfs()?;
    }
    let mut columns: Vec<_> = guests.into_par_iter().map(|kernel| run.column(kernel)).collect();
    columns.extend(host.into_iter().map(|kernel| run.column(kernel)));
    Ok(columns)
}

/// Tests to run, whatever the kernel.
struct Run<'a> {
    /// Whoever has it works alone: twins share their image, and all archives the scratch directory that they are made in.
    shell: &'a Mutex<Shell>,
    tier: Tier,
    arguments: &'a [&'a str],
    /// What its consoles are named after.
    name: &'static str,
    /// The archive that guests start with.
    initramfs: PathBuf,
}

impl Run<'_> {
    /// Runs the tests on `kernel`, and in a guest the targets in which some fail once more.
    fn column(&self, kernel: Kernel) -> Column {
        eprintln!("== {}", kernel.label());
        let mut column = self.once(kernel);
        if kernel.is_guest() && column.report.failed().next().is_some() {
            eprintln!("== {}: targets in which a test failed, again", kernel.label());
            match self.again(&column) {
                Ok(second) => column.report.add_rerun(&second.report),
                Err(failure) => eprintln!("{}: {failure:#}", kernel.label()),
            }
        }
        column
    }

    /// Runs the targets of `first` in which a test failed once more, in a guest of their own, all of their tests: a test that
    /// fails beside others may pass alone.
    ///
    /// Processors that are emulated, and those that emulate them, may stand still at any time and for long.
    fn again(&self, first: &Column) -> anyhow::Result<Column> {
        let tier = self.tier.only(|name| first.report.failed().any(|target| target == name));
        let initramfs = first.kernel.directory().join("again.cpio");
        let run = Run { shell: self.shell, tier, arguments: self.arguments, name: "again", initramfs };
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
        let image = kernel.image(&self.shell())?;
        if let Some(image) = image {
            return boot::guest(kernel, &image, &self.initramfs, console);
        }
        self.tier.write_orders(&kernel.directory(), self.arguments)?;
        boot::host(&self.shell(), &kernel.directory(), console)
    }

    fn shell(&self) -> MutexGuard<'_, Shell> {
        self.shell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_initramfs(&self) -> anyhow::Result<()> {
        let stripped = workspace::target().join("vm/stripped");
        let shell = self.shell();
        guest::initramfs(&shell, &self.tier, self.arguments, &stripped)?.write(&self.initramfs)?;
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
fn verdict(columns: &[Column], known: &Known) -> anyhow::Result<()> {
    let failed: Vec<_> = columns
        .iter()
        .filter(|column| !column.problems().is_empty())
        .map(|column| column.kernel.label())
        .collect();
    if !failed.is_empty() {
        bail!("tests failed on {}", failed.join(", "));
    }
    let flaky = columns.iter().flat_map(|column| {
        let flaky = column.report.flaky().map(|(target, test)| (target, test.name.as_str()));
        let unknown = flaky.filter(|(target, test)| !known.has(column.kernel, target, test));
        unknown.map(|(target, test)| format!("{target}::{test} on {}", column.kernel.label()))
    });
    let flaky: Vec<_> = flaky.collect();
    if !flaky.is_empty() {
        bail!("failed once, and not listed in tests/expected/flaky.csv: {}", flaky.join(", "));
    }
    Ok(())
}
