//! `cargo xtask bench`: what tracing costs, side by side with the peers that are installed.
//!
//! Machines are noisy, so variants run in turn, round by round, each against the untraced run of the same
//! round; medians and ratios are printed with what they were measured on. Nothing here is a test.
#![expect(clippy::print_stdout, reason = "a table on stdout is what it is for")]

mod census;
mod focus;
mod latency;
mod maps;
mod scan;
mod storm;

use std::{fs, path::PathBuf};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use serde_json::Value;
use xshell::{Cmd, Shell, cmd};

use crate::{ebpf, privilege::Privilege, workspace};

/// A set of measurements.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Suite {
    /// Time per fault under each tracer: one thread, two threads
    Storm,
    /// Latencies of faults, against bpftrace pairing the same events
    Latency,
    /// Time per pair of mmap and munmap, and per other call, under each tracer
    Maps,
    /// Time to read the state of each page, against one read for each and against long reads that nobody decodes
    Scan,
    /// Time in scans while a part of a process is active, by the size of the process
    Focus,
    /// Time and memory to sum up the pages of a process, against page-types, thpmaps and `smaps_rollup`
    Census,
}

/// Runs `suite`, or all of them, with `rounds` rounds.
pub(crate) fn bench(suite: Option<Suite>, rounds: usize) -> anyhow::Result<()> {
    let shell = workspace::shell()?;
    if Privilege::find(&shell) != Privilege::Root {
        bail!("a benchmark traces as root: run it with sudo");
    }
    ebpf::refresh(&shell)?;
    cmd!(shell, "cargo build --release --package memtrace --package memtrace-tests --bins").run()?;
    let bench = Bench::new(shell, rounds)?;
    bench.print_host()?;
    match suite {
        Some(Suite::Storm) => storm::run(&bench),
        Some(Suite::Latency) => latency::run(&bench),
        Some(Suite::Maps) => maps::run(&bench),
        Some(Suite::Scan) => scan::run(&bench),
        Some(Suite::Focus) => focus::run(&bench),
        Some(Suite::Census) => census::run(&bench),
        None => {
            storm::run(&bench)?;
            latency::run(&bench)?;
            maps::run(&bench)?;
            scan::run(&bench)?;
            focus::run(&bench)?;
            census::run(&bench)
        }
    }
}

/// Where a benchmark runs and what it runs.
struct Bench {
    shell: Shell,
    rounds: usize,
    memtrace: PathBuf,
    storm: PathBuf,
    mapping: PathBuf,
    getppid: PathBuf,
    scan: PathBuf,
    layout: PathBuf,
    witness: PathBuf,
    scratch: PathBuf,
}

impl Bench {
    fn new(shell: Shell, rounds: usize) -> anyhow::Result<Self> {
        let target = workspace::target();
        let scratch = target.join("bench");
        fs::create_dir_all(&scratch)?;
        Ok(Self {
            shell,
            rounds,
            memtrace: target.join("release/memtrace"),
            storm: target.join("release/storm"),
            mapping: target.join("release/mapping"),
            getppid: target.join("release/getppid"),
            scan: target.join("release/scan"),
            layout: target.join("release/layout"),
            witness: target.join("release/witness"),
            scratch,
        })
    }

    /// Says what the numbers belong to.
    fn print_host(&self) -> anyhow::Result<()> {
        let Self { shell, rounds, .. } = self;
        let read = |command: Cmd<'_>| command.quiet().ignore_stderr().read();
        let commit = read(cmd!(shell, "git describe --always --dirty")).unwrap_or_default();
        let kernel = read(cmd!(shell, "uname -r"))?;
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
        let cpus = std::thread::available_parallelism()?;
        println!(
            "commit {commit}, kernel {kernel}, {cpus} CPUs ({}), medians of {rounds} rounds",
            model.unwrap_or("model unknown")
        );
        Ok(())
    }

    /// Samples of each variant, which take turns in every round.
    fn in_turn<V: Copy, S>(
        &self,
        variants: &[V],
        sample: impl Fn(V) -> anyhow::Result<S>,
    ) -> anyhow::Result<Vec<Vec<S>>> {
        let mut samples: Vec<Vec<S>> = variants.iter().map(|_| Vec::new()).collect();
        for _ in 0..self.rounds {
            for (variant, samples) in variants.iter().zip(&mut samples) {
                samples.push(sample(*variant)?);
            }
        }
        Ok(samples)
    }

    /// Whether the program `name` is installed; says so when it is not.
    fn has(&self, name: &str) -> bool {
        let found =
            cmd!(self.shell, "{name} --version").quiet().ignore_stderr().ignore_stdout().run().is_ok();
        if !found {
            println!("{name} is not installed: its rows are left out");
        }
        found
    }
}

/// Runs `command` and reads the ledger that a workload prints on a line of its own.
fn ledger(command: Cmd<'_>) -> anyhow::Result<Value> {
    let output = command.quiet().ignore_stderr().read()?;
    output
        .lines()
        .find(|line| line.starts_with('{'))
        .and_then(|line| serde_json::from_str(line).ok())
        .with_context(|| format!("no ledger in {output:?}"))
}

/// The middle of `values`; the mean of the two in the middle for an even number.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

/// The number that stands under `path` in `json`, keys separated by dots.
fn number(json: &Value, path: &str) -> anyhow::Result<f64> {
    path.split('.')
        .try_fold(json, |value, key| value.get(key))
        .and_then(Value::as_f64)
        .with_context(|| format!("no number at {path} in {json}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_value() {
        assert!((median(vec![9.0, 1.0, 5.0]) - 5.0).abs() < f64::EPSILON);
        assert!((median(vec![1.0, 2.0]) - 1.5).abs() < f64::EPSILON);
    }
}
