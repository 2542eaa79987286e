//! Time per fault of a program that does nothing but fault, under each tracer.

use std::{fs, path::Path};

use serde_json::Value;
use xshell::cmd;

use super::{Bench, ledger, median, number};

/// Memory that each thread touches in one round of the storm, and how often.
const BYTES: &str = "268435456";
const ROUNDS: &str = "8";

/// A way to run the storm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    Untraced,
    Full,
    Counts,
    Perf,
    Bpftrace,
}

impl Variant {
    const fn name(self) -> &'static str {
        match self {
            Self::Untraced => "untraced",
            Self::Full => "memtrace record",
            Self::Counts => "memtrace record --detail counts",
            Self::Perf => "perf record -e page-faults -c 1 -d",
            Self::Bpftrace => "bpftrace count()",
        }
    }
}

/// What one run gave.
struct Sample {
    ns_per_fault: f64,
    lost: Option<f64>,
    bytes_per_fault: Option<f64>,
    /// CPU time of the recorder over that of the program.
    cpu: Option<f64>,
}

/// Measures one thread, then two.
pub(super) fn run(bench: &Bench) -> anyhow::Result<()> {
    let mut variants = vec![Variant::Untraced, Variant::Full, Variant::Counts];
    if bench.has("perf") {
        variants.push(Variant::Perf);
    }
    if bench.has("bpftrace") {
        variants.push(Variant::Bpftrace);
    }
    for threads in [1, 2] {
        let samples = bench.in_turn(&variants, |variant| sample(bench, variant, threads))?;
        println!("\nfault storm, threads: {threads}");
        println!(
            "{:<36} {:>9} {:>9} {:>6} {:>8} {:>11} {:>12}",
            "", "ns/fault", "added ns", "ratio", "lost", "bytes/fault", "recorder CPU"
        );
        let base: Vec<f64> = samples[0].iter().map(|sample| sample.ns_per_fault).collect();
        for (variant, samples) in variants.iter().zip(&samples) {
            print_row(*variant, samples, &base);
        }
    }
    Ok(())
}

fn print_row(variant: Variant, samples: &[Sample], base: &[f64]) {
    let pairs = || samples.iter().map(|sample| sample.ns_per_fault).zip(base);
    let text = |values: Vec<f64>, digits| {
        if values.is_empty() { String::from("-") } else { format!("{:.digits$}", median(values)) }
    };
    println!(
        "{:<36} {:>9.0} {:>9.0} {:>6.2} {:>8} {:>11} {:>12}",
        variant.name(),
        median(samples.iter().map(|sample| sample.ns_per_fault).collect()),
        median(pairs().map(|(value, base)| value - base).collect()),
        median(pairs().map(|(value, base)| value / base).collect()),
        text(samples.iter().filter_map(|sample| sample.lost).collect(), 0),
        text(samples.iter().filter_map(|sample| sample.bytes_per_fault).collect(), 1),
        text(samples.iter().filter_map(|sample| sample.cpu).collect(), 2),
    );
}

fn sample(bench: &Bench, variant: Variant, threads: u32) -> anyhow::Result<Sample> {
    let Bench { shell, memtrace, storm, scratch, .. } = bench;
    let file = scratch.join("storm.mtrace");
    let count = threads.to_string();
    let arguments = ["--threads", &count, "--bytes", BYTES, "--rounds", ROUNDS];
    match variant {
        Variant::Untraced => Ok(Sample {
            ns_per_fault: per_fault(&ledger(cmd!(shell, "{storm} {arguments...}"))?, threads)?,
            lost: None,
            bytes_per_fault: None,
            cpu: None,
        }),
        Variant::Full | Variant::Counts => {
            let detail = if variant == Variant::Full { "full" } else { "counts" };
            let ledger = ledger(cmd!(
                shell,
                "{memtrace} record -q --force --detail {detail} -o {file} -- {storm} {arguments...}"
            ))?;
            let report = cmd!(shell, "{memtrace} report --json {file}").quiet().read()?;
            let report: Value = serde_json::from_str(&report)?;
            Ok(Sample {
                ns_per_fault: per_fault(&ledger, threads)?,
                lost: Some(number(&report, "losses.events")?),
                bytes_per_fault: (variant == Variant::Full)
                    .then(|| bytes_per_fault(&file, &ledger))
                    .transpose()?,
                cpu: Some(number(&report, "cost.cpu_ns")? / number(&ledger, "ns")? / f64::from(threads)),
            })
        }
        Variant::Perf => {
            let file = scratch.join("storm.perf");
            let ledger = ledger(cmd!(
                shell,
                "perf record -q -e page-faults -c 1 -d -o {file} -- {storm} {arguments...}"
            ))?;
            Ok(Sample {
                ns_per_fault: per_fault(&ledger, threads)?,
                lost: None,
                bytes_per_fault: Some(bytes_per_fault(&file, &ledger)?),
                cpu: None,
            })
        }
        Variant::Bpftrace => {
            let program = "tracepoint:exceptions:page_fault_user /comm == \"storm\"/ { @ = count(); }";
            let command = format!("{} {}", storm.display(), arguments.join(" "));
            let ledger = ledger(cmd!(shell, "bpftrace -e {program} -c {command}"))?;
            let ns_per_fault = per_fault(&ledger, threads)?;
            Ok(Sample { ns_per_fault, lost: None, bytes_per_fault: None, cpu: None })
        }
    }
}

/// Wall time over the faults of one thread, in nanoseconds.
fn per_fault(ledger: &Value, threads: u32) -> anyhow::Result<f64> {
    Ok(number(ledger, "ns")? * f64::from(threads) / number(ledger, "faults")?)
}

#[expect(clippy::cast_precision_loss, reason = "a file of 2^53 bytes does not occur")]
fn bytes_per_fault(file: &Path, ledger: &Value) -> anyhow::Result<f64> {
    Ok(fs::metadata(file)?.len() as f64 / number(ledger, "faults")?)
}
