//! What reading the state of pages costs: time per page for words, flags and counts, and the reader's memory.

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
    Ok(())
}

fn name(how: &str) -> &'static str {
    match how {
        "walk" => "memtrace",
        "bound" => "PAGEMAP_SCAN and reads, not decoded",
        _ => "a read of flags and counts per page",
    }
}
