//! What reading the state of pages costs: time per page for words, flags and counts, the reader's memory, and how long the
//! process that is read is kept from changing its memory map.

use anyhow::Context as _;
use serde_json::Value;
use xshell::cmd;

use super::{Bench, ledger, median, number};

/// Shape of the memory, MiB of address space, what it is, and ways to read it: the first is memtrace's.
const CASES: [(&str, &str, &str, &[&str]); 3] = [
    ("small", "2048", "2 GiB in pages of 4 KiB", &["walk", "bound", "pread"]),
    ("huge", "2048", "2 GiB in huge pages", &["walk", "bound", "pread"]),
    // One read per page would be of 268 million words.
    ("sparse", "1048576", "1 TiB with 1000 pages", &["walk", "bound"]),
];

/// What one reading took.
struct Sample {
    ms: f64,
    ns_per_page: f64,
    peak_mib: f64,
}

/// Measures each case.
pub(super) fn run(bench: &Bench) -> anyhow::Result<()> {
    for (shape, mib, title, ways) in CASES {
        let samples = bench.in_turn(ways, |how| {
            let scan = &bench.scan;
            let scan = ledger(cmd!(bench.shell, "{scan} {shape} --how {how} --mib {mib}"))?;
            let ns = number(&scan, "ns")?;
            Ok(Sample {
                ms: ns / 1e6,
                ns_per_page: ns / number(&scan, "pages")?,
                peak_mib: number(&scan, "peak_bytes")? / f64::from(1 << 20),
            })
        })?;
        println!("\n{title}");
        println!("{:<36} {:>9} {:>9} {:>9} {:>9}", "", "ms", "ns/page", "to walk", "peak MiB");
        for (how, samples_of_way) in ways.iter().zip(&samples) {
            let of = |value: fn(&Sample) -> f64| median(samples_of_way.iter().map(value).collect());
            let ratios = samples_of_way.iter().zip(&samples[0]).map(|(this, walk)| this.ms / walk.ms);
            println!(
                "{:<36} {:>9.2} {:>9.1} {:>9.2} {:>9.1}",
                name(how),
                of(|sample| sample.ms),
                of(|sample| sample.ns_per_page),
                median(ratios.collect()),
                of(|sample| sample.peak_mib),
            );
        }
    }
    longest_lock(bench)
}

/// Prints for how long the lock of a memory map was held at most, as the kernel's own tracepoints tell.
fn longest_lock(bench: &Bench) -> anyhow::Result<()> {
    const PROGRAM: &str = "\
        tracepoint:mmap_lock:mmap_lock_acquire_returned /pid == cpid && args->success && !args->write/ { \
            @began[tid, args->mm] = nsecs; } \
        tracepoint:mmap_lock:mmap_lock_released /@began[tid, args->mm]/ { \
            @longest = max(nsecs - @began[tid, args->mm]); delete(@began[tid, args->mm]); } \
        END { clear(@began); }";
    if !bench.has("bpftrace") {
        return Ok(());
    }
    println!("\nlongest time under the lock of the memory map, 4 GiB");
    let shapes = [("small", "pages of 4 KiB"), ("huge", "huge pages")];
    let shapes_only = shapes.map(|(shape, _)| shape);
    let samples = bench.in_turn(&shapes_only, |shape| {
        let command = format!("{} {shape} --how walk --mib 4096", bench.scan.display());
        let shell = &bench.shell;
        let output =
            cmd!(shell, "bpftrace -f json -e {PROGRAM} -c {command}").quiet().ignore_stderr().read()?;
        let maps = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let longest = maps.into_iter().find_map(|line| line.get("data")?.get("@longest")?.as_f64());
        longest.with_context(|| format!("no time in {output:?}"))
    })?;
    for ((_, title), ns) in shapes.iter().zip(samples) {
        let most = ns.iter().copied().fold(f64::NAN, f64::max);
        println!("{title:<36} {:>9.2} ms, median {:.2} ms", most / 1e6, median(ns) / 1e6);
    }
    Ok(())
}

fn name(how: &str) -> &'static str {
    match how {
        "walk" => "memtrace",
        "bound" => "PAGEMAP_SCAN and reads, not decoded",
        _ => "a read of flags and counts per page",
    }
}
