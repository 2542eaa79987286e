//! Reads what a run of the tier wrote to its console.
//!
//! Input: the text of a console, in which `tier.sh` marks what follows. Output: [`Report`].
//! Keeps: a test executable that ended without a summary has failed, whatever it wrote before.

use serde_json::Value;

use crate::{
    libtest::{Failure, Target},
    skips::{self, Skip},
};

/// What marks a line of `tier.sh`.
const MARK: &str = "memtrace-vm: ";

/// What a run of the tier told.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// What the kernel said of its end, if it panicked.
    pub(super) panic: Option<String>,
    /// Seconds from the start of the kernel to that of the tier.
    pub(super) begin: Option<f64>,
    /// Seconds from the start of the kernel to the end of the tier; absent if that was not reached.
    pub(super) end: Option<f64>,
    /// What `doctor --json` printed.
    pub(super) doctor: Option<Value>,
    /// The test executables that were started, in order.
    pub(super) targets: Vec<Target>,
    /// The tests that were skipped.
    pub(super) skips: Vec<Skip>,
    /// Programs, and the instructions of each that the verifier walked.
    pub(super) verified: Vec<(String, u32)>,
}

impl Report {
    /// Reads the text of a console.
    pub(super) fn parse(console: &str) -> Self {
        let console = console.replace('\r', "");
        let panic = console.lines().find_map(|line| Some(&line[line.find("Kernel panic")?..]));
        let mut report = Self { panic: panic.map(str::to_owned), ..Self::default() };
        for section in console.split(&format!("\n{MARK}")).skip(1) {
            let (head, body) = section.split_once('\n').unwrap_or((section, ""));
            let (word, rest) = head.split_once(' ').unwrap_or((head, ""));
            match word {
                "begin" => report.begin = rest.parse().ok(),
                "end" => report.end = rest.parse().ok(),
                "doctor" => report.doctor = first_value(body),
                "target" => report.targets.push(Target::parse(rest, body)),
                "exit" => {
                    if let Some(target) = report.targets.last_mut() {
                        target.end(rest);
                    }
                }
                "skips" => report.skips = skips::parse(body),
                "verified" => report.verified = lines(body).filter_map(verified).collect(),
                _ => {}
            }
        }
        report
    }

    /// The targets of which a test failed.
    pub(super) fn failed(&self) -> impl Iterator<Item = &str> {
        self.targets.iter().filter(|target| !target.failures.is_empty()).map(|target| target.name.as_str())
    }

    /// Takes note of a second run, of the targets in which a test failed: what passed then is flaky.
    pub(super) fn add_rerun(&mut self, second: &Self) {
        // libtest counts a test that was skipped as passed.
        let is_skipped =
            |test: &str| second.skips.iter().any(|skip| [test, ""].contains(&skip.test.as_str()));
        for target in &mut self.targets {
            if let Some(again) = second.targets.iter().find(|again| again.name == target.name) {
                target.add_rerun(again, is_skipped);
            }
        }
    }

    /// How many tests passed, of these not at once, failed, and were skipped.
    pub(super) fn counts(&self) -> [usize; 4] {
        let passed: usize = self.targets.iter().map(|target| target.passed).sum();
        let flaky = self.targets.iter().map(|target| target.flaky.len()).sum();
        let failed = self.targets.iter().map(|target| target.failed).sum();
        [passed.saturating_sub(self.skips.len()), flaky, failed, self.skips.len()]
    }

    /// Targets and the failures of tests that passed when run again.
    pub(super) fn flaky(&self) -> impl Iterator<Item = (&str, &Failure)> {
        self.targets
            .iter()
            .flat_map(|Target { name, flaky, .. }| flaky.iter().map(move |failure| (name.as_str(), failure)))
    }

    /// Why the run is not a success, each in a line.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems: Vec<_> = self.targets.iter().flat_map(Target::problems).collect();
        problems.extend(self.panic.clone());
        if self.end.is_none() {
            problems.push(match self.targets.last() {
                Some(target) => format!("the run ended in {}", target.name),
                None => "the run ended before the first test".to_owned(),
            });
        }
        problems
    }

    /// A string at the top of what `doctor --json` printed.
    pub(super) fn fact(&self, key: &str) -> Option<&str> {
        self.doctor.as_ref()?.get(key)?.as_str()
    }
}

/// The program and the number of `PROGRAM NUMBER`.
fn verified(line: &str) -> Option<(String, u32)> {
    let (program, instructions) = line.split_once(' ')?;
    Some((program.to_owned(), instructions.parse().ok()?))
}

fn lines(body: &str) -> impl Iterator<Item = &str> {
    body.lines().filter(|line| !line.is_empty())
}

/// The JSON that `text` begins with.
fn first_value(text: &str) -> Option<Value> {
    serde_json::Deserializer::from_str(text).into_iter().next()?.ok()
}

#[cfg(test)]
mod tests;
