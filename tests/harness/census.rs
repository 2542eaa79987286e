//! What `memtrace snapshot` says of memory that a test knows.
//!
//! Input: a command line, a mapping of this process. Output: a run, the JSON of a census.
//! Keeps: a census about which memtrace has something to say on stderr is no census.
//! Not here: what other readers of the same pages say (`agreement`).

use serde_json::{Value, json};

use crate::{memory::Mapping, recording::Memtrace, run::Run, scan::first_page};

impl Memtrace {
    /// `memtrace snapshot` with these arguments.
    #[must_use]
    pub fn snapshot(self, args: &[&str]) -> Run {
        self.run(["snapshot"]).args(args)
    }

    /// The JSON of a snapshot about which there is nothing to say.
    #[must_use]
    #[track_caller]
    pub fn census(self, args: &[&str]) -> Value {
        let run = self.snapshot(&[args, &["--json"]].concat()).finish().expect_code(0);
        assert_eq!(run.stderr, "", "{args:?}");
        serde_json::from_str(&run.stdout).expect("JSON")
    }

    /// The JSON of the pages of `mapping` in this process.
    #[must_use]
    #[track_caller]
    pub fn census_of(self, mapping: &Mapping, more: &[&str]) -> Value {
        let only = only(mapping);
        let args: Vec<_> = only.iter().map(String::as_str).chain(more.iter().copied()).collect();
        self.census(&args)
    }
}

/// This process, and the pages of `mapping` alone: the kernel may make one VMA of it and its neighbours.
#[must_use]
pub fn only(mapping: &Mapping) -> [String; 4] {
    let pages = format!("{}+{}", first_page(mapping), mapping.pages());
    ["-p".to_owned(), std::process::id().to_string(), "-a".to_owned(), pages]
}

/// Checks these sums, which `json` has by name.
#[track_caller]
pub fn expect_sums(json: &Value, sums: &[(&str, usize)]) {
    let found: Vec<_> = sums.iter().map(|(name, _)| (*name, &json[name])).collect();
    let expected: Vec<_> = sums.iter().map(|(name, pages)| (*name, json!(pages))).collect();
    assert!(
        found.iter().map(|(_, value)| *value).eq(expected.iter().map(|(_, value)| value)),
        "{found:?}, not {expected:?}"
    );
}
