//! Latencies of faults as memtrace measures them, against bpftrace pairing entry and completion.

use anyhow::Context as _;
use serde_json::Value;
use xshell::cmd;

use super::{Bench, median, number};

/// Where a fault can be seen to begin: where memtrace sees it, and the software event a little later, whose hook
/// costs less time within the interval that is measured.
const ENTRIES: [(&str, &str); 2] = [
    ("bpftrace, tracepoint", "tracepoint:exceptions:page_fault_user"),
    ("bpftrace, page-faults", "software:page-faults:1"),
];

/// Pairs an entry with the completion that memtrace pairs it with, into buckets of 50 ns up to 50 µs.
fn pairing(entry: &str) -> String {
    format!(
        "{entry} {{ @start[tid] = nsecs; }} \
         software:minor-faults:1 /comm == \"storm\"/ {{ \
             @ns = lhist(nsecs - @start[tid], 0, 50000, 50); delete(@start[tid]); }} \
         END {{ clear(@start); }}"
    )
}

/// Memory that the storm touches; few pages, since bpftrace disturbs what it measures.
const ARGUMENTS: [&str; 6] = ["--threads", "1", "--bytes", "134217728", "--rounds", "2"];

/// Prints the medians of each tool's p50 and p99, and how far memtrace is from the others.
pub(super) fn run(bench: &Bench) -> anyhow::Result<()> {
    if !bench.has("bpftrace") {
        return Ok(());
    }
    let mut ours = Vec::new();
    let mut theirs = ENTRIES.map(|_| Vec::new());
    for _ in 0..bench.rounds {
        ours.push(memtrace(bench)?);
        for ((_, entry), samples) in ENTRIES.iter().zip(&mut theirs) {
            samples.push(bpftrace(bench, entry)?);
        }
    }
    println!("\nlatency of a fault, entry to completion, ns");
    println!("{:<24} {:>8} {:>8} {:>18} {:>8}", "", "p50", "p99", "memtrace's p50", "p99");
    let [p50, p99] = medians(&ours);
    println!("{:<24} {p50:>8.0} {p99:>8.0}", "memtrace");
    for ((name, _), samples) in ENTRIES.iter().zip(&theirs) {
        let [their_p50, their_p99] = medians(samples);
        let [p50, p99] = [p50 / their_p50, p99 / their_p99];
        println!("{name:<24} {their_p50:>8.0} {their_p99:>8.0} {p50:>17.2}x {p99:>7.2}x");
    }
    Ok(())
}

/// The medians of p50 and of p99.
fn medians(samples: &[[f64; 2]]) -> [f64; 2] {
    [0, 1].map(|of| median(samples.iter().map(|sample| sample[of]).collect()))
}

fn memtrace(bench: &Bench) -> anyhow::Result<[f64; 2]> {
    let Bench { shell, memtrace, storm, scratch, .. } = bench;
    let file = scratch.join("latency.mtrace");
    cmd!(shell, "{memtrace} record -q --force -o {file} -- {storm} {ARGUMENTS...}")
        .quiet()
        .ignore_stdout()
        .run()?;
    let report = cmd!(shell, "{memtrace} report --json {file}").quiet().read()?;
    let report: Value = serde_json::from_str(&report)?;
    Ok([number(&report, "latency_ns.p50")?, number(&report, "latency_ns.p99")?])
}

fn bpftrace(bench: &Bench, entry: &str) -> anyhow::Result<[f64; 2]> {
    let Bench { shell, storm, .. } = bench;
    let command = format!("{} {}", storm.display(), ARGUMENTS.join(" "));
    let program = pairing(entry);
    let output = cmd!(shell, "bpftrace -f json -e {program} -c {command}").quiet().ignore_stderr().read()?;
    let histogram = output
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|line| line.get("data")?.get("@ns")?.as_array().cloned())
        .with_context(|| format!("no histogram in {output:?}"))?;
    let buckets = histogram.iter().map(|bucket| {
        // A bucket of all that is shorter has no lower end.
        Ok((number(bucket, "min").unwrap_or(0.0), number(bucket, "count")?))
    });
    let buckets: Vec<_> = buckets.collect::<anyhow::Result<_>>()?;
    Ok([quantile(&buckets, 0.50), quantile(&buckets, 0.99)])
}

/// The middle of the bucket below which the share `q` of all counts lies.
fn quantile(buckets: &[(f64, f64)], q: f64) -> f64 {
    let total: f64 = buckets.iter().map(|(_, count)| count).sum();
    let mut below = 0.0;
    for (min, count) in buckets {
        below += count;
        if below >= total * q {
            return min + 25.0;
        }
    }
    f64::NAN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantile_is_in_the_bucket_that_reaches_it() {
        let buckets = [(0.0, 49.0), (50.0, 2.0), (100.0, 49.0)];

        assert!((quantile(&buckets, 0.50) - 75.0).abs() < f64::EPSILON);
        assert!((quantile(&buckets, 0.99) - 125.0).abs() < f64::EPSILON);
    }
}
