//! What following an address space costs: time per pair of mmap(2) and munmap(2) under each tracer, and time per call
//! that none of them is asked for, since all calls pass their hooks.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use xshell::{Cmd, cmd};

use super::{Bench, ledger, median, number};

/// The four events of a pair, as `perf trace` takes them too.
const PERF_EVENTS: &str = "syscalls:sys_enter_mmap,syscalls:sys_exit_mmap,\
    syscalls:sys_enter_munmap,syscalls:sys_exit_munmap";

/// A way to run a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    Untraced,
    Memtrace,
    /// Untraced, while memtrace records another program.
    Beside,
    PerfRecord,
    PerfTrace,
    Strace,
}

impl Variant {
    const fn name(self) -> &'static str {
        match self {
            Self::Untraced => "untraced",
            Self::Memtrace => "memtrace record",
            Self::Beside => "untraced, beside memtrace record",
            Self::PerfRecord => "perf record -e syscalls:sys_*map",
            Self::PerfTrace => "perf trace -e mmap,munmap",
            Self::Strace => "strace -f -e trace=%memory",
        }
    }

    /// Whether the program waits for the tracer or for what it takes from its CPU: fewer turns are enough.
    const fn is_slow(self) -> bool {
        matches!(self, Self::PerfTrace | Self::Strace)
    }
}

/// What one run gave.
struct Sample {
    ns_per_turn: f64,
    output: Option<Output>,
}

/// What a tracer wrote about one run.
struct Output {
    /// Records that it knows to be missing; `None` for a tracer that does not say.
    lost: Option<f64>,
    /// Calls that it tells, as a share of those of all turns. The loader's come on top.
    told: f64,
    bytes_per_turn: f64,
}

/// Measures pairs, untouched and touched, then calls.
pub(super) fn run(bench: &Bench) -> anyhow::Result<()> {
    let mut variants = vec![Variant::Untraced, Variant::Memtrace];
    if bench.has("perf") {
        variants.push(Variant::PerfRecord);
        if can_perf_trace(bench)? {
            variants.push(Variant::PerfTrace);
        }
    }
    if bench.has("strace") {
        variants.push(Variant::Strace);
    }
    for (pages, touch) in [("untouched", None), ("each touched", Some("--touch"))] {
        let samples = bench.in_turn(&variants, |variant| pair(bench, variant, touch))?;
        print_table(&format!("mmap and munmap of 4 pages, {pages}"), "pair", &variants, &samples);
    }
    variants.insert(2, Variant::Beside);
    let samples = bench.in_turn(&variants, |variant| call(bench, variant))?;
    print_table("getppid, which no tracer is asked for", "call", &variants, &samples);
    Ok(())
}

/// Whether `perf trace` runs here; says why when it does not.
fn can_perf_trace(bench: &Bench) -> anyhow::Result<bool> {
    let program = traced(bench, Variant::PerfTrace, Path::new("true"), &[]);
    let trial = program.quiet().ignore_status().output()?;
    let runs = trial.status.success();
    if !runs {
        let why = String::from_utf8_lossy(&trial.stderr);
        println!("perf trace does not run, and its rows are left out: {}", why.trim());
    }
    Ok(runs)
}

fn print_table(title: &str, turn: &str, variants: &[Variant], samples: &[Vec<Sample>]) {
    println!("\n{title}");
    println!(
        "{:<36} {:>9} {:>9} {:>7} {:>7} {:>5} {:>11}",
        "",
        format!("ns/{turn}"),
        "added ns",
        "ratio",
        "lost",
        "told",
        format!("bytes/{turn}")
    );
    let base: Vec<f64> = samples[0].iter().map(|sample| sample.ns_per_turn).collect();
    for (variant, samples) in variants.iter().zip(samples) {
        print_row(*variant, samples, &base);
    }
}

fn print_row(variant: Variant, samples: &[Sample], base: &[f64]) {
    let against = || samples.iter().map(|sample| sample.ns_per_turn).zip(base);
    let known = |of: fn(&Output) -> Option<f64>, digits: usize| {
        let values: Vec<f64> = samples.iter().filter_map(|sample| of(sample.output.as_ref()?)).collect();
        if values.is_empty() { String::from("-") } else { format!("{:.digits$}", median(values)) }
    };
    println!(
        "{:<36} {:>9.0} {:>9.0} {:>7.2} {:>7} {:>5} {:>11}",
        variant.name(),
        median(samples.iter().map(|sample| sample.ns_per_turn).collect()),
        median(against().map(|(value, base)| value - base).collect()),
        median(against().map(|(value, base)| value / base).collect()),
        known(|output| output.lost, 0),
        known(|output| Some(output.told), 2),
        known(|output| Some(output.bytes_per_turn), 1),
    );
}

fn pair(bench: &Bench, variant: Variant, touch: Option<&str>) -> anyhow::Result<Sample> {
    let pairs = if variant.is_slow() { "20000" } else { "100000" };
    let mut arguments = vec!["--pairs", pairs];
    arguments.extend(touch);
    let cost = ledger(traced(bench, variant, &bench.mapping, &arguments))?;
    let turns = number(&cost, "turns")?;
    let ns_per_turn = number(&cost, "ns")? / turns;
    let file = file(bench, variant);
    let (told, lost) = match variant {
        Variant::Untraced | Variant::Beside => return Ok(Sample { ns_per_turn, output: None }),
        Variant::Memtrace => told_by_memtrace(bench, &file)?,
        Variant::PerfRecord => (told_by_perf_record(bench, &file)?, None),
        Variant::PerfTrace | Variant::Strace => {
            let (told, lost) = told_by_lines(&fs::read_to_string(&file)?)?;
            (told, Some(lost))
        }
    };
    let output = Output { lost, told: told / (2.0 * turns), bytes_per_turn: bytes(&file)? / turns };
    Ok(Sample { ns_per_turn, output: Some(output) })
}

fn call(bench: &Bench, variant: Variant) -> anyhow::Result<Sample> {
    let calls = if variant.is_slow() { "100000" } else { "5000000" };
    let other = (variant == Variant::Beside).then(|| Other::record(bench)).transpose()?;
    let cost = ledger(traced(bench, variant, &bench.getppid, &["--calls", calls]))?;
    if let Some(other) = other {
        other.end()?;
    }
    Ok(Sample { ns_per_turn: number(&cost, "ns")? / number(&cost, "turns")?, output: None })
}

/// The file that the tracer of `variant` writes.
fn file(bench: &Bench, variant: Variant) -> PathBuf {
    bench.scratch.join(format!("maps.{variant:?}"))
}

/// Runs `program` in the way of `variant`.
fn traced<'a>(bench: &'a Bench, variant: Variant, program: &Path, arguments: &[&str]) -> Cmd<'a> {
    let Bench { shell, memtrace, .. } = bench;
    let file = file(bench, variant);
    match variant {
        Variant::Untraced | Variant::Beside => cmd!(shell, "{program} {arguments...}"),
        Variant::Memtrace => {
            cmd!(shell, "{memtrace} record -q --force -o {file} -- {program} {arguments...}")
        }
        Variant::PerfRecord => {
            cmd!(shell, "perf record -q -e {PERF_EVENTS} -o {file} -- {program} {arguments...}")
        }
        Variant::PerfTrace => {
            cmd!(shell, "perf trace -e mmap,munmap -o {file} -- {program} {arguments...}")
        }
        Variant::Strace => {
            cmd!(shell, "strace -f -e trace=%memory -o {file} -- {program} {arguments...}")
        }
    }
}

/// Calls that `recording` tells, and records that it lacks, for whatever cause.
fn told_by_memtrace(bench: &Bench, recording: &Path) -> anyhow::Result<(f64, Option<f64>)> {
    let Bench { shell, memtrace, .. } = bench;
    let report = cmd!(shell, "{memtrace} report --json {recording}").quiet().read()?;
    let report: Value = serde_json::from_str(&report)?;
    let causes = report["losses"].as_object().context("no losses in the report")?;
    // Gaps are not records: they say how often some were lost.
    let causes = causes.iter().filter(|(cause, _)| *cause != "gaps");
    let lost = causes.map(|(cause, count)| count.as_f64().with_context(|| format!("{cause} is unknown")));
    let told = number(&report, "maps.mmap")? + number(&report, "maps.munmap")?;
    Ok((told, Some(lost.sum::<anyhow::Result<f64>>()?)))
}

/// Calls of which `file` has both events.
fn told_by_perf_record(bench: &Bench, file: &Path) -> anyhow::Result<f64> {
    let statistics = cmd!(bench.shell, "perf report --stats -i {file}").quiet().ignore_stderr().read()?;
    // The first count is that of all events together.
    let samples = statistics.lines().find_map(|line| line.trim().strip_prefix("SAMPLE events:"));
    let samples = samples.and_then(|counts| counts.split_whitespace().next());
    let samples: f64 = samples.context("no count of samples from perf report --stats")?.parse()?;
    Ok(samples / 2.0)
}

/// Calls that have a line in `text`, and records that it says were lost.
fn told_by_lines(text: &str) -> anyhow::Result<(f64, f64)> {
    let (mut told, mut lost) = (0.0, 0.0);
    for line in text.lines() {
        if line.contains("mmap(") || line.contains("munmap(") {
            told += 1.0;
        } else if let Some(events) = line.strip_prefix("LOST ") {
            let events: f64 = events.trim_end_matches(" events!").parse()?;
            lost += events;
        }
    }
    Ok((told, lost))
}

#[expect(clippy::cast_precision_loss, reason = "a file of 2^53 bytes does not occur")]
fn bytes(file: &Path) -> anyhow::Result<f64> {
    Ok(fs::metadata(file)?.len() as f64)
}

/// memtrace as it records a program that waits for its stdin to end.
struct Other {
    memtrace: Child,
}

impl Other {
    /// Starts it, and waits until the program runs: by then everything is attached.
    fn record(bench: &Bench) -> anyhow::Result<Self> {
        let mut memtrace = Command::new(&bench.memtrace)
            .args(["record", "-q", "--force", "-o"])
            .arg(file(bench, Variant::Beside))
            .args(["--", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run memtrace")?;
        memtrace.stdin.as_mut().context("stdin is piped")?.write_all(b"ready\n")?;
        let mut echo = String::new();
        BufReader::new(memtrace.stdout.as_mut().context("stdout is piped")?).read_line(&mut echo)?;
        ensure!(echo == "ready\n", "memtrace did not start cat");
        Ok(Self { memtrace })
    }

    fn end(mut self) -> anyhow::Result<()> {
        drop(self.memtrace.stdin.take());
        let status = self.memtrace.wait()?;
        ensure!(status.success(), "memtrace record -- cat: {status}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_tell_calls_of_either_kind_and_losses() {
        let text = "0.000 ( 0.039 ms): mapping/7 mmap(len: 16384) = 0x7fd980513000\n\
                    LOST 12 events!\n\
                    7 munmap(0x7fd980513000, 16384) = 0\n\
                    LOST 30 events!\n\
                    7 +++ exited with 0 +++\n";

        assert_eq!(told_by_lines(text).expect("both counts are numbers"), (2.0, 42.0));
    }
}
