//! Latencies of faults as memtrace measures them, against bpftrace pairing the same two events.

use anyhow::Context as _;
use serde_json::Value;
use xshell::cmd;

use super::{Bench, median, number};

/// Pairs entry and completion as memtrace does, into buckets of 50 ns up to 50 µs.
const PAIRING: &str = r#"
tracepoint:exceptions:page_fault_user { @start[tid] = nsecs; }
software:minor-faults:1 /comm == "storm"/ { @ns = lhist(nsecs - @start[tid], 0, 50000, 50); delete(@start[tid]); }
END { clear(@start); }
"#;

/// Memory that the storm touches; few pages, since bpftrace disturbs what it measures.
const ARGUMENTS: [&str; 6] = ["--threads", "1", "--bytes", "134217728", "--rounds", "2"];

/// Prints the medians of both tools' p50 and p99.
pub(super) fn run(bench: &Bench) -> anyhow::Result<()> {
    if !bench.has("bpftrace") {
        return Ok(());
    }
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for _ in 0..bench.rounds {
        ours.push(memtrace(bench)?);
        theirs.push(bpftrace(bench)?);
    }
    println!("\nlatency of a fault, entry to completion, ns");
    println!("{:<20} {:>8} {:>8} {:>8}", "", "memtrace", "bpftrace", "ratio");
    for (name, of) in [("p50", 0), ("p99", 1)] {
        let pick = |samples: &[[f64; 2]]| median(samples.iter().map(|sample| sample[of]).collect());
        let (ours, theirs) = (pick(&ours), pick(&theirs));
        println!("{name:<20} {ours:>8.0} {theirs:>8.0} {:>8.2}", ours / theirs);
    }
    Ok(())
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

fn bpftrace(bench: &Bench) -> anyhow::Result<[f64; 2]> {
    let Bench { shell, storm, .. } = bench;
    let command = format!("{} {}", storm.display(), ARGUMENTS.join(" "));
    let output = cmd!(shell, "bpftrace -f json -e {PAIRING} -c {command}").quiet().ignore_stderr().read()?;
    let histogram = output
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|line| line.get("data")?.get("@ns")?.as_array().cloned())
        .with_context(|| format!("no histogram in {output:?}"))?;
    let buckets = histogram.iter().map(|bucket| Ok((number(bucket, "min")?, number(bucket, "count")?)));
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
