//! The kernel's own readers of page state, and what they print: page-types, thpmaps, `smaps_rollup`.
//!
//! Input: the directory that `MEMTRACE_ORACLES` names, which `cargo xtask oracles` fills. Output: texts and their parts.
//! Source: `tools/mm/page-types.c`, `tools/mm/thpmaps`; `Documentation/filesystems/proc.rst`.
//! Keeps: rows stay text wherever memtrace prints the same ones, so that widths and names are compared as well.

use std::{
    collections::BTreeMap,
    env, fs, iter,
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::run::Run;

/// Counters of thpmaps in KiB, by their name.
pub type Counters = BTreeMap<String, u64>;

/// page-types and thpmaps.
#[derive(Debug)]
pub struct Oracles {
    directory: PathBuf,
}

impl Oracles {
    /// Those that the runner of tests has made; or what is missing.
    pub fn find() -> Result<Self, String> {
        let directory = env::var_os("MEMTRACE_ORACLES").map(PathBuf::from);
        directory
            .filter(|directory| directory.join("page-types").exists())
            .map(|directory| Self { directory })
            .ok_or_else(|| "needs page-types and thpmaps: cargo xtask oracles".to_owned())
    }

    /// What page-types prints.
    #[must_use]
    #[track_caller]
    pub fn page_types(&self, args: &[&str]) -> String {
        Run::new(self.directory.join("page-types")).args(args).finish().expect_code(0).stdout
    }

    /// What thpmaps prints; or what is missing to run it.
    #[track_caller]
    pub fn thpmaps(&self, args: &[&str]) -> Result<String, String> {
        let python = python().ok_or("needs numpy: apt-get install python3-numpy")?;
        let script = self.directory.join("thpmaps");
        Ok(Run::new(python).arg(script).args(args).finish().expect_code(0).stdout)
    }
}

/// A python that has numpy: the one that comes first may be another than the distribution's.
fn python() -> Option<&'static str> {
    let has_numpy = |python: &&str| {
        let mut command = Command::new(python);
        command.args(["-c", "import numpy"]).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    ["python3", "/usr/bin/python3"].into_iter().find(has_numpy)
}

/// The table of flags in a text of page-types: its header, rows and total, sorted, for page-types has them in no order.
#[must_use]
pub fn flag_rows(text: &str) -> Vec<String> {
    let is_header = |line: &&str| line.trim_start().starts_with("flags\tpage-count");
    let is_total = |line: &str| line.trim_start().starts_with("total\t");
    let table = text.lines().skip_while(|line| !is_header(line));
    let end = table.clone().position(is_total).expect("a table of flags has a total");
    let mut rows: Vec<_> = table.take(end + 1).map(str::to_owned).collect();
    rows.sort();
    rows
}

/// The ranges in a list of frames, neighbours with the same flags as one.
///
/// page-types means to merge them, but goes by map counts, too, which it reads from memory of any content unless asked for them.
#[must_use]
pub fn merged_ranges(text: &str) -> Vec<String> {
    let number = |text: &str| u64::from_str_radix(text, 16).expect("hexadecimal");
    let mut lines = text.lines();
    let header = lines.next().expect("a list has a header");
    let mut ranges: Vec<(u64, u64, &str)> = Vec::new();
    for line in lines {
        let mut columns = line.split('\t');
        let (Some(start), Some(len), Some(flags)) = (columns.next(), columns.next(), columns.next()) else {
            panic!("no range in {line:?}");
        };
        let (start, len) = (number(start), number(len));
        match ranges.last_mut() {
            Some(last) if last.0 + last.1 == start && last.2 == flags => last.1 += len,
            _ => ranges.push((start, len, flags)),
        }
    }
    let rows = ranges.iter().map(|(start, len, flags)| format!("{start:x}\t{len:x}\t{flags}"));
    iter::once(header.to_owned()).chain(rows).collect()
}

/// The counters in a text of thpmaps for all of a process, as they stand there but for the blanks between name and number.
#[must_use]
pub fn counter_rows(text: &str) -> Vec<String> {
    let rows = text.lines().filter_map(counter);
    let mut rows: Vec<_> = rows.map(|(name, value)| format!("{name}: {}", value.trim())).collect();
    rows.sort();
    rows
}

/// Name and value of a row of thpmaps.
fn counter(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(':')?;
    (name.contains("-thp-") || name.contains("-cont-")).then_some((name, value))
}

/// First address, first address behind, and counters of each VMA in a text of thpmaps.
#[must_use]
pub fn vma_counters(text: &str) -> Vec<(u64, u64, Counters)> {
    let mut vmas = Vec::new();
    for line in text.lines().skip(1) {
        if let Some((name, value)) = counter(line) {
            let (_, _, counters): &mut (_, _, Counters) = vmas.last_mut().expect("a VMA comes first");
            counters.insert(name.to_owned(), kib(value));
        } else {
            let range = line.split_whitespace().nth(1).and_then(|range| range.split_once('-'));
            let (start, end) = range.unwrap_or_else(|| panic!("no addresses in {line:?}"));
            let address = |text| u64::from_str_radix(text, 16).expect("hexadecimal");
            vmas.push((address(start), address(end), Counters::new()));
        }
    }
    vmas
}

/// The number in front of `kB`.
fn kib(value: &str) -> u64 {
    let number = value.split_once("kB").map(|(number, _)| number.trim().parse());
    number.and_then(Result::ok).unwrap_or_else(|| panic!("no size in {value:?}"))
}

/// What `smaps_rollup` says of a process, in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rollup {
    /// Its pages, without those of hugetlb and the zero page.
    pub rss: u64,
    /// The same, each divided by those who share it.
    pub pss: u64,
    /// Those of them that nobody shares.
    pub uss: u64,
}

impl Rollup {
    /// That of process `pid`.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("it lives"))
    }

    /// From the text of such a file.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let size = |name: &str| {
            let row = text.lines().find_map(|row| row.strip_prefix(name)?.strip_prefix(':'));
            kib(row.unwrap_or_else(|| panic!("no {name} in {text}")))
        };
        let uss = size("Private_Clean") + size("Private_Dirty");
        Self { rss: size("Rss"), pss: size("Pss"), uss }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_of_flags_ends_with_its_total_wherever_it_stands() {
        let text = "offset\tflags\n10\t__U\n\n\n             flags\tpage-count       MB  symbolic-flags\n\
                    0x02\t         1        0  __U\tuptodate\n0x01\t         2        0  L__\tlocked\n             \
                    total\t         3        0\nmore\n";

        assert_eq!(
            flag_rows(text),
            [
                "             flags\tpage-count       MB  symbolic-flags",
                "             total\t         3        0",
                "0x01\t         2        0  L__\tlocked",
                "0x02\t         1        0  __U\tuptodate",
            ]
        );
    }

    #[test]
    fn neighbours_with_the_same_flags_are_one_range() {
        let text = "offset\tlen\tflags\n10\t2\t__U\n12\te\t__U\n20\t1\tL__\n22\t1\tL__\n";

        assert_eq!(merged_ranges(text), ["offset\tlen\tflags", "10\t10\t__U", "20\t1\tL__", "22\t1\tL__"]);
    }

    #[test]
    fn counters_keep_their_percentage() {
        let text = "Rss:      8 kB\nfile-thp-pte-partial:          0 kB\nanon-cont-pte-aligned-64kB:     64 kB ( 1%)\n";

        assert_eq!(
            counter_rows(text),
            ["anon-cont-pte-aligned-64kB: 64 kB ( 1%)", "file-thp-pte-partial: 0 kB"]
        );
    }

    #[test]
    fn counters_belong_to_the_vma_above_them() {
        let text = "       PID             START              END PROT   OFFSET   DEV    INODE OBJECT\n\
                    0000000001: 0000000000001000-0000000000003000 rw-p 00000000 00:00 00000000 \n\
                    anon-thp-pte-partial:                  4 kB (50%)\n\
                    0000000001: 0000000000004000-0000000000005000 r--p 00000000 fe:00 00000007 /a b\n";

        let partial = Counters::from([("anon-thp-pte-partial".to_owned(), 4)]);
        assert_eq!(vma_counters(text), [(0x1000, 0x3000, partial), (0x4000, 0x5000, Counters::new())]);
    }

    #[test]
    fn private_memory_is_clean_or_dirty() {
        let text = "1000-2000 ---p 00000000 00:00 0  [rollup]\nRss:  9 kB\nPss:  8 kB\nPss_Dirty:  1 kB\n\
                    Private_Clean:  3 kB\nPrivate_Dirty:  4 kB\n";

        assert_eq!(Rollup::parse(text), Rollup { rss: 9, pss: 8, uss: 7 });
    }
}
