//! Settings of the whole machine that a test changes.
//!
//! Input: paths below `/sys` and `/proc`. Output: numbers; guards, at whose end all is as before.
//! Source: `Documentation/admin-guide/mm/hugetlbpage.rst`, `Documentation/admin-guide/mm/transhuge.rst`.
//! Keeps: pools are only added to, so that others keep what they have.
//! Not here: swap areas (`swap`).

use std::{fs, io, path::Path};

/// The pool of huge pages of 2 MiB.
pub const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// The number in a file; `None` if there is no such file.
pub fn number(path: impl AsRef<Path>) -> Option<u64> {
    let text = fs::read_to_string(path.as_ref()).ok()?;
    Some(text.trim().parse().unwrap_or_else(|_| panic!("{}: {text:?}", path.as_ref().display())))
}

/// Huge pages for those who ask for them, where the kernel has such: `name` is a file below `transparent_hugepage`.
pub fn transparent_huge_pages(name: &str) -> Result<Setting, String> {
    Setting::change(&format!("/sys/kernel/mm/transparent_hugepage/{name}"), "madvise")
        .map_err(|error| format!("needs transparent_hugepage/{name}: {error}"))
}

/// A changed setting; what it was before comes back at the end.
#[derive(Debug)]
pub struct Setting {
    path: String,
    before: String,
}

impl Setting {
    /// Writes `value` to the file `path`.
    pub fn change(path: &str, value: &str) -> io::Result<Self> {
        let text = fs::read_to_string(path)?;
        // Of a choice, the one in brackets.
        let chosen = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
        let before = chosen.map_or(text.trim(), |(chosen, _)| chosen).to_owned();
        fs::write(path, value)?;
        Ok(Self { path: path.to_owned(), before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.path, &self.before) {
            eprintln!("{} is not {} again: {error}", self.path, self.before);
        }
    }
}

/// Huge pages of 2 MiB that were added to the pool (hugetlb); taken from it at the end.
#[derive(Debug)]
pub struct HugePages {
    added: u64,
}

impl HugePages {
    /// Adds `count` pages; or what is missing for that.
    pub fn add(count: u64) -> Result<Self, String> {
        let before = pool().ok_or("needs hugetlb pages of 2 MiB (CONFIG_HUGETLBFS)")?;
        resize(before + count).map_err(|error| format!("needs a larger pool of huge pages: {error}"))?;
        let pages = Self { added: pool().map_or(0, |now| now.saturating_sub(before)) };
        if pages.added == count {
            Ok(pages)
        } else {
            Err(format!("needs {} MiB in one piece each 2 MiB", 2 * count))
        }
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let left = pool().map(|now| resize(now.saturating_sub(self.added)));
        if !matches!(left, Some(Ok(()))) {
            eprintln!("{POOL} keeps {} more than before: {left:?}", self.added);
        }
    }
}

/// Pages that the pool is told to have: surplus pages are in its size, but not of it.
fn pool() -> Option<u64> {
    number(format!("{POOL}/nr_hugepages"))?.checked_sub(number(format!("{POOL}/surplus_hugepages"))?)
}

fn resize(pages: u64) -> io::Result<()> {
    fs::write(format!("{POOL}/nr_hugepages"), pages.to_string())
}
