//! Tests that are known to fail now and then on a kernel.
//!
//! Source: `tests/expected/flaky.csv`. Its other columns, the day on which it was seen and why nobody can mend it, are for
//! people: an entry goes when its reason does.

use anyhow::Context as _;
use serde::Deserialize;

use super::kernel::Kernel;
use crate::workspace;

/// A row of the file.
#[derive(Debug, Deserialize)]
struct Row {
    kernel: String,
    /// Its target and name, as in `kernel_maps::every_call_is_a_row`.
    test: String,
}

/// The tests that may fail once.
#[derive(Debug, Default)]
pub(super) struct Known(Vec<Row>);

impl Known {
    /// Reads the file.
    pub(super) fn read() -> anyhow::Result<Self> {
        let path = workspace::root().join("tests/expected/flaky.csv");
        let rows = csv::Reader::from_path(&path).and_then(|reader| reader.into_deserialize().collect());
        rows.map(Self).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Whether `test` of `target` is known to fail now and then on `kernel`.
    pub(super) fn has(&self, kernel: Kernel, target: &str, test: &str) -> bool {
        let is_it =
            |row: &Row| row.kernel == kernel.label() && row.test.split_once("::") == Some((target, test));
        self.0.iter().any(is_it)
    }
}
