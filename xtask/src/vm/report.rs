//! Reads what a run of the tier wrote to its console.
//!
//! Input: the text of a console, in which `tier.sh` marks what follows. Output: [`Report`].
//! Keeps: a test executable that ended without a summary has failed, whatever it wrote before.

use serde_json::Value;

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
    pub(super) skips: Vec<String>,
    /// Programs, and the instructions of each that the verifier walked.
    pub(super) verified: Vec<(String, u32)>,
}

/// What a test executable told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Target {
    /// Its name.
    pub(super) name: String,
    /// How many tests passed, those included that returned early.
    pub(super) passed: usize,
    /// How many failed, as its summary has it.
    pub(super) failed: usize,
    /// Each failed test.
    pub(super) failures: Vec<Failure>,
    /// Each test that failed and passed when run again; counted as passed.
    pub(super) flaky: Vec<Failure>,
    /// Why it told less than all, if so.
    pub(super) problem: Option<String>,
}

/// Most characters of a failure that stand in one line.
const LINE: usize = 160;

/// A failed test.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// Its name.
    pub(super) name: String,
    /// What it printed.
    pub(super) text: String,
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
                "exit" => report.exit(rest),
                "skips" => report.skips = lines(body).map(str::to_owned).collect(),
                "verified" => report.verified = lines(body).filter_map(verified).collect(),
                _ => {}
            }
        }
        report
    }

    /// Notes how the last test executable ended: libtest says 101 for failed tests.
    fn exit(&mut self, code: &str) {
        let Some(target) = self.targets.last_mut() else {
            return;
        };
        if target.problem.is_some() || !matches!((code, target.failed), ("0", 0) | ("101", 1..)) {
            let meaning = if code == "124" { " (ran out of time)" } else { "" };
            target.problem = Some(format!("ended with {code}{meaning}"));
        }
    }

    /// The failed tests, each after its target.
    pub(super) fn failed(&self) -> impl Iterator<Item = (&str, &str)> {
        self.targets.iter().flat_map(|target| {
            target.failures.iter().map(|failure| (target.name.as_str(), failure.name.as_str()))
        })
    }

    /// Takes note of a second run, of the failed tests: what passed then is flaky.
    pub(super) fn add_rerun(&mut self, second: &Self) {
        // A test that was skipped counts as passed there.
        if !second.skips.is_empty() {
            return;
        }
        for target in &mut self.targets {
            if let Some(again) = second.targets.iter().find(|again| again.name == target.name) {
                target.add_rerun(again);
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

    /// Tests that passed when run again, and why they had failed, each in a line.
    pub(super) fn flaky(&self) -> impl Iterator<Item = String> {
        self.targets.iter().flat_map(|Target { name, flaky, .. }| {
            flaky.iter().map(move |it| format!("{name}: {}", it.line()))
        })
    }

    /// Why the run is not a success, each in a line.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for Target { name, failures, problem, .. } in &self.targets {
            problems.extend(failures.iter().map(|failure| format!("{name}: {}", failure.line())));
            problems.extend(problem.iter().map(|problem| format!("{name}: {problem}")));
        }
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

impl Target {
    /// Reads what libtest printed.
    fn parse(name: &str, text: &str) -> Self {
        let mut target = Self { name: name.to_owned(), ..Self::default() };
        let summary = text.lines().rev().find_map(|line| line.strip_prefix("test result: "));
        let Some((passed, failed)) = summary.and_then(counts) else {
            // Taken back by `exit` only if it ended as one that told all.
            return Self { problem: Some("told no result".to_owned()), ..target };
        };
        (target.passed, target.failed) = (passed, failed);
        let outputs = text.split_once("\nfailures:\n").map_or("", |(_, outputs)| outputs);
        let (outputs, names) = outputs.rsplit_once("\nfailures:\n").unwrap_or(("", outputs));
        let names = names.lines().map_while(|line| line.strip_prefix("    "));
        target.failures = names.map(|name| Failure::find(name, outputs)).collect();
        target
    }

    /// Takes note of a second run, of the failed tests.
    fn add_rerun(&mut self, again: &Self) {
        // One that ended early, or that knows a test by another name, tells nothing.
        if again.problem.is_some() || again.passed + again.failed < self.failures.len() {
            return;
        }
        let failed_again = |failure: &Failure| again.failures.iter().any(|other| other.name == failure.name);
        let (failures, flaky) = std::mem::take(&mut self.failures).into_iter().partition(failed_again);
        (self.failures, self.flaky) = (failures, flaky);
        self.failed -= self.flaky.len();
        self.passed += self.flaky.len();
    }
}

impl Failure {
    /// The output of the test `name` among those of all that failed.
    fn find(name: &str, outputs: &str) -> Self {
        let text = outputs
            .split_once(&format!("---- {name} stdout ----\n"))
            .map_or("", |(_, rest)| rest.split("\n---- ").next().unwrap_or_default());
        Self { name: name.to_owned(), text: text.trim().to_owned() }
    }

    /// Its name, and the line of its output that tells most.
    fn line(&self) -> String {
        let mut lines = self.text.lines().skip_while(|line| !line.contains("panicked at "));
        let from_memtrace = self.text.lines().find(|line| line.starts_with("memtrace: cannot "));
        match from_memtrace.or_else(|| lines.nth(1)) {
            Some(why) if why.chars().count() > LINE => {
                format!("{}: {}…", self.name, why.chars().take(LINE).collect::<String>())
            }
            Some(why) => format!("{}: {why}", self.name),
            None => self.name.clone(),
        }
    }
}

/// The passed and failed of `FAILED. 6 passed; 3 failed; 0 ignored; …`.
fn counts(summary: &str) -> Option<(usize, usize)> {
    let (_, numbers) = summary.split_once(". ")?;
    let mut numbers = numbers.split("; ").map(|part| part.split(' ').next()?.parse().ok());
    Some((numbers.next()??, numbers.next()??))
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
