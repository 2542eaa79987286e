//! `cargo xtask same`: whether two builds of memtrace say the same of recordings, byte for byte.
//!
//! Input: two builds, recordings. Output: what differs, and where.
//! Keeps: exit codes and stderr count too; what both refuse to read has not been compared, and is no success.
//! Not here: which recordings there are (`corpus`).
#![expect(clippy::print_stdout, reason = "what differs is what it is for")]

mod build;
mod difference;
mod view;

use std::{iter, path::PathBuf, process::Output};

use anyhow::bail;
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};

use crate::{corpus, workspace};
use build::Build;
use view::{Form, View};

/// Lets the build `old`, and the build `new` or that of the work tree, read the recordings at `over`, or the corpus; fails if
/// they do not say the same.
pub(crate) fn same(old: &str, new: Option<&str>, over: &[PathBuf]) -> anyhow::Result<()> {
    let shell = workspace::shell()?;
    let recordings = recordings_of(over)?;
    let (old, new) = (Build::find(&shell, Some(old))?, Build::find(&shell, new)?);
    println!("OLD: {}\nNEW: {}", old.name, new.name);

    let (views, mut differences) = view::of_both(&old.offer()?, &new.offer()?);
    for difference in &differences {
        println!("{difference}");
    }
    for recording in &recordings {
        let compare = |view: &View| {
            let [old, new] = [&old, &new].map(|build| build.read(view, recording));
            anyhow::Ok(compare(view, &old?, &new?))
        };
        let found = views.par_iter().map(compare).collect::<anyhow::Result<Vec<_>>>()?.concat();
        println!("{}:{}", recording.display(), if found.is_empty() { " the same" } else { "" });
        for line in &found {
            println!("  {line}");
        }
        differences.extend(found);
    }
    if !differences.is_empty() {
        bail!("the builds differ, or could not be compared");
    }
    println!("{} recordings, {} outputs of each", recordings.len(), views.len());
    Ok(())
}

/// The recordings at `over`, or those of the corpus.
fn recordings_of(over: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let corpus = [corpus::directory()];
    let over = if over.is_empty() { &corpus } else { over };
    let mut recordings = Vec::new();
    for path in over {
        recordings.extend(if path.is_dir() { corpus::recordings(path)? } else { vec![path.clone()] });
    }
    if recordings.is_empty() {
        bail!("no recordings in {over:?}: `cargo xtask corpus` makes some");
    }
    Ok(recordings)
}

/// What differs between two outputs, in lines; nothing if they are the same.
fn compare(view: &View, old: &Output, new: &Output) -> Vec<String> {
    if old == new {
        // Two that refuse alike have said nothing of the recording.
        let refusal = String::from_utf8_lossy(&old.stderr);
        let refusal = (!old.status.success()).then(|| format!("{view}: both refuse: {}", refusal.trim_end()));
        return refusal.into_iter().collect();
    }
    let mut lines = Vec::new();
    if old.status != new.status {
        lines.push(format!("OLD ended with {}, NEW with {}", old.status, new.status));
    }
    if old.stderr != new.stderr {
        lines.push("stderr:".to_owned());
        lines.extend(difference::of_lines(&old.stderr, &new.stderr));
    }
    let (old, new) = (&old.stdout, &new.stdout);
    if old != new {
        lines.extend(match view.form() {
            Form::Bytes => difference::of_bytes(old, new),
            Form::Csv | Form::Json | Form::Text => difference::of_lines(old, new),
        });
        lines.extend(match view.form() {
            Form::Csv => difference::of_tables(old, new),
            Form::Json => difference::of_json(old, new),
            Form::Bytes | Form::Text => Vec::new(),
        });
    }
    iter::once(format!("{view}:")).chain(lines.iter().map(|line| format!("  {line}"))).collect()
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt as _, process::ExitStatus};

    use super::*;

    /// What a program writes that ends with `code`.
    fn output(code: i32, stdout: &str, stderr: &str) -> Output {
        let status = ExitStatus::from_raw(code << 8);
        Output { status, stdout: stdout.into(), stderr: stderr.into() }
    }

    #[test]
    fn outputs_that_are_equal_differ_in_nothing() {
        let output = || output(0, "a\n", "b\n");

        assert_eq!(compare(&View::new(&["report"]), &output(), &output()), [""; 0]);
    }

    #[test]
    fn column_that_is_wrong_by_one_is_named_with_its_line() {
        let view = View::new(&["export", "-f", "csv", "--table", "pages"]);
        let (old, new) = (output(0, "addr,pages\n0x1000,3\n", ""), output(0, "addr,pages\n0x1000,4\n", ""));

        assert_eq!(
            compare(&view, &old, &new),
            [
                "export -f csv --table pages:",
                "  from line 2 on: 1 lines of OLD, 1 of NEW",
                "  OLD 0x1000,3",
                "  NEW 0x1000,4",
                "  column pages: in 1 of 1 rows, first in line 2: OLD \"3\", NEW \"4\"",
            ]
        );
    }

    #[test]
    fn exit_code_and_stderr_count_too() {
        assert_eq!(
            compare(&View::new(&["report"]), &output(0, "a", ""), &output(3, "a", "lost\n")),
            [
                "report:",
                "  OLD ended with exit status: 0, NEW with exit status: 3",
                "  stderr:",
                "  from line 1 on: 0 lines of OLD, 1 of NEW",
                "  NEW lost",
            ]
        );
    }

    #[test]
    fn refusal_of_both_is_no_comparison() {
        let refusal = || output(1, "", "memtrace: cannot read x\n");

        assert_eq!(
            compare(&View::new(&["info"]), &refusal(), &refusal()),
            ["info: both refuse: memtrace: cannot read x"]
        );
    }
}
