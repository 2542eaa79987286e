//! What memtrace and the kernel's own readers say of the same pages, and that it is the same.
//!
//! Input: arguments that `memtrace snapshot` shares with page-types, process IDs. Output: none; a difference ends the test.
//! Keeps: pages get on lists of reclaim and are written back even while a process is stopped, so what memtrace says must be what
//! the oracle said just before, or just after.
//! Not here: what the oracles print (`oracle`).

use std::{collections::BTreeSet, fs, ops::Range, path::Path};

use serde_json::Value;

use crate::{
    memory::{drain_batches, page_bytes},
    oracle::{Counters, Oracles, Rollup, counter_rows, flag_rows, vma_counters},
    requirement,
    run::Run,
};

/// Readings before a difference counts.
const ATTEMPTS: usize = 5;

/// memtrace and the oracles.
#[derive(Debug)]
pub struct Readers {
    /// page-types and thpmaps.
    pub oracles: Oracles,
    memtrace: &'static str,
}

impl Readers {
    /// The program `memtrace` and the oracles; or what is missing.
    pub fn find(memtrace: &'static str) -> Result<Self, String> {
        Ok(Self { oracles: Oracles::find()?, memtrace })
    }

    /// What `memtrace snapshot` prints.
    #[must_use]
    #[track_caller]
    pub fn snapshot(&self, args: &[&str]) -> String {
        Run::new(self.memtrace).arg("snapshot").args(args).finish().expect_code(0).stdout
    }

    fn census(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.snapshot(args)).expect("JSON")
    }

    /// Checks that both print the same table of flags for `args`.
    #[track_caller]
    pub fn expect_same_flags(&self, args: &[&str]) {
        let theirs = || flag_rows(&self.oracles.page_types(args));
        expect_agreement(&args.join(" "), theirs, || flag_rows(&self.snapshot(args)));
    }

    /// Checks that both print the same for `args`, which ask for a list, without a table.
    #[track_caller]
    pub fn expect_same_list(&self, args: &[&str]) {
        let args = &[args, &["-N"]].concat();
        let theirs = || lines(&self.oracles.page_types(args));
        expect_agreement(&args.join(" "), theirs, || lines(&self.snapshot(args)));
    }

    /// Checks all that the oracles tell of process `pid`.
    #[track_caller]
    pub fn expect_same_process(&self, pid: u32) {
        let number = pid.to_string();
        // Every process that is born maps the vDSO once more, and every one that ends may leave it referenced.
        let vdso = vdso(pid);
        let (below, above) = (format!(",{:#x}", vdso.start), format!("{:#x},", vdso.end));
        let of_process = ["-p", &number, "-a", &below, "-a", &above];
        self.expect_same_flags(&of_process);
        self.expect_same_flags(&[&of_process[..], &["-r"]].concat());
        for list in lists() {
            self.expect_same_list(&[&of_process[..], &list].concat());
        }
        self.expect_same_sums(pid);
        if let Err(reason) = self.oracles.thpmaps(&["--pid", &number, "--rollup"]) {
            return requirement::skip(&reason);
        }
        self.expect_same_counters(&number);
        self.expect_same_counters_by_vma(&number);
    }

    fn thpmaps(&self, pid: &str, options: &[&str]) -> String {
        self.oracles.thpmaps(&[&["--pid", pid], options].concat()).expect("it ran before")
    }

    #[track_caller]
    fn expect_same_counters(&self, pid: &str) {
        let options = ["--rollup", "--cont", "64K", "--cont", "2M", "--inc-empty"];
        let ours = || counter_rows(&self.snapshot(&[&["-p", pid], &options[..]].concat()));
        expect_agreement("thpmaps", || counter_rows(&self.thpmaps(pid, &options)), ours);
    }

    #[track_caller]
    fn expect_same_counters_by_vma(&self, pid: &str) {
        let regions = || -> Vec<(u64, u64, Counters)> {
            let census = self.census(&["-p", pid, "--json", "--cont", "64K"]);
            census["regions"].as_array().expect("regions").iter().map(region_counters).collect()
        };
        let row = |start: u64, end: u64, counters: &Counters| format!("{start:x}-{end:x} {counters:?}");
        // A region may be of several VMAs.
        let places: Vec<_> = regions().into_iter().map(|(start, end, _)| (start, end)).collect();
        let theirs = || {
            let vmas = vma_counters(&self.thpmaps(pid, &["--cont", "64K"]));
            let of_regions =
                places.iter().map(|(start, end)| (*start, *end, sum_within(*start, *end, &vmas)));
            let is_known = |vma: &(u64, u64, Counters)| {
                places.iter().any(|(start, end)| *start <= vma.0 && vma.1 <= *end)
            };
            let unknown = vmas.iter().filter(|vma| !vma.2.is_empty() && !is_known(vma)).cloned();
            of_regions.chain(unknown).map(|(start, end, counters)| row(start, end, &counters)).collect()
        };
        let ours = || regions().iter().map(|(start, end, counters)| row(*start, *end, counters)).collect();
        expect_agreement("thpmaps by VMA", theirs, ours);
    }

    /// Checks RSS, PSS and USS of process `pid` against the kernel's own sums, and prints both.
    #[track_caller]
    fn expect_same_sums(&self, pid: u32) {
        // The kernel cuts off a fraction of each page, and then one of a KiB.
        const MOST_KIB: u64 = 4;
        let mut seen = String::new();
        let is_same = (0..ATTEMPTS).any(|_| {
            let before = Rollup::of(pid);
            let census = self.census(&["-p", &pid.to_string(), "--json", "--rollup"]);
            let number = |key: &str| census[key].as_u64().unwrap_or_else(|| panic!("no {key} in {census}"));
            let kib_each = page_bytes() as u64 / 1024;
            let ours = Rollup {
                rss: number("rss_pages") * kib_each,
                pss: number("pss_bytes") / 1024,
                uss: number("uss_pages") * kib_each,
            };
            seen = format!("process {pid}: memtrace {ours:?}, kernel {before:?}");
            let is_close = |kernel: Rollup| {
                (ours.rss, ours.uss) == (kernel.rss, kernel.uss) && ours.pss.abs_diff(kernel.pss) <= MOST_KIB
            };
            is_close(before) || is_close(Rollup::of(pid))
        });
        eprintln!("{seen}");
        assert!(is_same, "{seen}");
    }
}

/// The pages of the code that the kernel maps into process `pid`, by number.
#[must_use]
pub fn vdso(pid: u32) -> Range<u64> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("it lives");
    let row = maps.lines().find(|row| row.ends_with("[vdso]")).expect("every process has one");
    let (start, rest) = row.split_once('-').expect("a row of maps");
    let (end, _) = rest.split_once(' ').expect("a row of maps");
    let page = |text| u64::from_str_radix(text, 16).expect("hexadecimal") / page_bytes() as u64;
    page(start)..page(end)
}

/// The ways to list pages, as far as the kernel has what they show.
#[must_use]
pub fn lists() -> Vec<Vec<&'static str>> {
    let all = [
        vec!["-l"],
        vec!["-L"],
        vec!["-r", "-l"],
        vec!["-l", "-M"],
        vec!["-L", "-C"],
        vec!["-r", "-l", "-C", "-M"],
    ];
    let has_cgroups = Path::new("/proc/kpagecgroup").exists();
    all.into_iter().filter(|list| has_cgroups || !list.contains(&"-C")).collect()
}

/// The lines of a text.
#[must_use]
pub fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

/// Checks that `ours` is what `theirs` was before or after it; both are of `what`.
#[track_caller]
pub fn expect_agreement(
    what: &str,
    mut theirs: impl FnMut() -> Vec<String>,
    mut ours: impl FnMut() -> Vec<String>,
) {
    let mut difference = String::new();
    for _ in 0..ATTEMPTS {
        let before = theirs();
        let seen = ours();
        if seen == before || seen == theirs() {
            return;
        }
        difference = tell_difference(&before, &seen);
        drain_batches();
    }
    panic!("{what}: {difference}");
}

/// The first lines that only one of two texts has.
#[must_use]
pub fn tell_difference(theirs: &[String], ours: &[String]) -> String {
    const MOST: usize = 10;
    let only = |these: &[String], those: &[String]| {
        let those: BTreeSet<_> = those.iter().collect();
        let only: Vec<_> = these.iter().filter(|line| !those.contains(line)).collect();
        let first: Vec<_> = only.iter().take(MOST).map(|line| format!("  {line}\n")).collect();
        format!("{} lines\n{}", only.len(), first.concat())
    };
    format!(
        "{} lines, and {} of memtrace; only the oracle has {}only memtrace has {}",
        theirs.len(),
        ours.len(),
        only(theirs, ours),
        only(ours, theirs)
    )
}

/// The counters of all of `vmas` that lie between two addresses, without those that are 0.
fn sum_within(start: u64, end: u64, vmas: &[(u64, u64, Counters)]) -> Counters {
    let mut sum = Counters::new();
    for (_, _, counters) in vmas.iter().filter(|vma| start <= vma.0 && vma.1 <= end) {
        for (name, kib) in counters.iter().filter(|(_, kib)| **kib > 0) {
            *sum.entry(name.clone()).or_default() += kib;
        }
    }
    sum
}

/// A region of a census: its addresses, and its counters under the names that thpmaps has for them, without those that are 0.
fn region_counters(region: &Value) -> (u64, u64, Counters) {
    let address = |key: &str| {
        let text = region[key].as_str().unwrap_or_else(|| panic!("no {key} in {region}"));
        u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("hexadecimal")
    };
    let kib_each = page_bytes() as u64 / 1024;
    let mut counters = Counters::new();
    let mut add = |name: String, pages: &Value| {
        let kib = pages.as_u64().expect("pages") * kib_each;
        if kib > 0 {
            *counters.entry(name).or_default() += kib;
        }
    };
    for (kind, orders) in region["folios"].as_object().expect("folios") {
        for (order, pages) in orders.as_object().expect("orders") {
            let kib = kib_each << order.parse::<u32>().expect("an order");
            add(format!("{kind}-thp-pmd-aligned-{kib}kB"), &pages["pmd"]);
            add(format!("{kind}-thp-pte-partial"), &pages["partial"]);
            // thpmaps leaves out folios of two pages.
            if order != "1" {
                add(format!("{kind}-thp-pte-aligned-{kib}kB"), &pages["aligned"]);
                add(format!("{kind}-thp-pte-unaligned-{kib}kB"), &pages["unaligned"]);
            }
        }
    }
    for (kind, sizes) in region["cont"].as_object().expect("blocks") {
        for (bytes, pages) in sizes.as_object().expect("sizes") {
            let kib = bytes.parse::<u64>().expect("bytes") / 1024;
            add(format!("{kind}-cont-pmd-aligned-{kib}kB"), &pages["pmd"]);
            add(format!("{kind}-cont-pte-aligned-{kib}kB"), &pages["pte"]);
        }
    }
    (address("start"), address("end"), counters)
}
