//! What a test executable printed.
//!
//! Input: the text. Output: [`Target`].
//! Source: libtest of the standard library, which promises none of it; an executable whose text is not understood has failed.

/// What a test executable printed, as far as it counts.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Target {
    /// Its name.
    pub(crate) name: String,
    /// How many tests passed, those included that returned early.
    pub(crate) passed: usize,
    /// How many failed, as its summary has it.
    pub(crate) failed: usize,
    /// Each failed test.
    pub(crate) failures: Vec<Failure>,
    /// Each test that failed and passed when run again; counted as passed.
    pub(crate) flaky: Vec<Failure>,
    /// Why its text is not whole, or not to be believed, if so.
    pub(crate) problem: Option<String>,
    /// How long it took, in seconds.
    pub(crate) seconds: f64,
    /// Tests, and how long each took, in seconds.
    pub(crate) times: Vec<(String, f64)>,
}

/// What makes libtest say how long each test took: on stable toolchains it does so only to whom builds them.
pub(crate) const TIMED: [&str; 3] = ["-Z", "unstable-options", "--report-time"];

/// The variable, and its value, without which it refuses [`TIMED`].
pub(crate) const TIMED_ENV: (&str, &str) = ("RUSTC_BOOTSTRAP", "1");

/// Most characters of a failure that stand in one line.
const LINE: usize = 160;

/// A failed test.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Its name.
    pub(crate) name: String,
    /// What it printed.
    pub(crate) text: String,
}

impl Target {
    /// Reads what libtest printed.
    pub(crate) fn parse(name: &str, text: &str) -> Self {
        let mut target = Self { name: name.to_owned(), ..Self::default() };
        let summary = text.lines().rev().find_map(|line| line.strip_prefix("test result: "));
        let Some((passed, failed)) = summary.and_then(counts) else {
            // `end` says in its place how the executable ended, if it did.
            return Self { problem: Some("printed no result".to_owned()), ..target };
        };
        (target.passed, target.failed) = (passed, failed);
        target.seconds = summary.and_then(|summary| seconds(summary.rsplit_once(' ')?.1)).unwrap_or_default();
        target.times = text.lines().filter_map(time).collect();
        let outputs = text.split_once("\nfailures:\n").map_or("", |(_, outputs)| outputs);
        let (outputs, names) = outputs.rsplit_once("\nfailures:\n").unwrap_or(("", outputs));
        let names = names.lines().map_while(|line| line.strip_prefix("    "));
        target.failures = names.map(|name| Failure::find(name, outputs)).collect();
        target
    }

    /// Notes how the executable ended: libtest says 101 for failed tests.
    pub(crate) fn end(&mut self, code: &str) {
        if self.problem.is_some() || !matches!((code, self.failed), ("0", 0) | ("101", 1..)) {
            let meaning = if code == "124" { " (ran out of time)" } else { "" };
            self.problem = Some(format!("ended with {code}{meaning}"));
        }
    }

    /// Why it is not a success, each in a line.
    pub(crate) fn problems(&self) -> impl Iterator<Item = String> {
        let failures = self.failures.iter().map(|failure| format!("{}: {}", self.name, failure.line()));
        failures.chain(self.problem.iter().map(|problem| format!("{}: {problem}", self.name)))
    }

    /// Takes note of a second run of the same tests, of which some were skipped.
    pub(crate) fn add_rerun(&mut self, again: &Self, is_skipped: impl Fn(&str) -> bool) {
        // One that ended early tells nothing.
        if again.problem.is_some() || again.passed + again.failed < self.passed + self.failed {
            return;
        }
        let failed_again = |failure: &Failure| {
            is_skipped(&failure.name) || again.failures.iter().any(|other| other.name == failure.name)
        };
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
    pub(crate) fn line(&self) -> String {
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

/// The test and its seconds of `test NAME ... ok <1.250s>`.
fn time(line: &str) -> Option<(String, f64)> {
    let (test, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let (_, time) = outcome.strip_suffix('>')?.split_once(" <")?;
    Some((test.to_owned(), seconds(time)?))
}

/// The number of `1.250s`.
fn seconds(text: &str) -> Option<f64> {
    text.strip_suffix('s')?.parse().ok()
}

/// The passed and failed of `FAILED. 6 passed; 3 failed; 0 ignored; …`.
fn counts(summary: &str) -> Option<(usize, usize)> {
    let (_, numbers) = summary.split_once(". ")?;
    let mut numbers = numbers.split("; ").map(|part| part.split(' ').next()?.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_of_a_failed_test_is_its_own() {
        let outputs = "\n---- a stdout ----\nfirst\n\n---- b stdout ----\nsecond\n";

        assert_eq!(Failure::find("a", outputs).text, "first");
        assert_eq!(Failure::find("b", outputs).text, "second");
    }

    #[test]
    fn words_of_memtrace_say_more_than_the_panic() {
        let text = "thread 'b' panicked at t.rs:1:1:\nno content\nstderr:\nmemtrace: cannot load: denied";
        let failure = Failure { name: "b".to_owned(), text: text.to_owned() };

        assert_eq!(failure.line(), "b: memtrace: cannot load: denied");
    }

    #[test]
    fn long_line_of_a_failure_is_cut() {
        let text = format!("thread 'b' panicked at t.rs:1:1:\n{}", "x".repeat(LINE + 1));
        let failure = Failure { name: "b".to_owned(), text };

        assert_eq!(failure.line(), format!("b: {}…", "x".repeat(LINE)));
    }
}
