//! What scans cost while a part of a process is active: it should follow the part, and not the process.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde_json::Value;
use xshell::cmd;

use super::{Bench, median, number};

/// GiB of the process.
const SIZES: [u64; 3] = [1, 8, 16];

/// Bytes of a page.
const PAGE_BYTES: u64 = 4096;

/// Bytes of it that are active: all of them freed and touched anew, again and again.
const ACTIVE_BYTES: u64 = 64 << 20;

/// Seconds of recording. The first visit, to everything, is over after the shorter time; rotation begins anew within the longer.
const SECONDS: [u32; 2] = [4, 24];

/// Intervals of a second.
const INTERVALS: f64 = 10.0;

/// What scans took, in milliseconds.
struct Sample {
    /// For each interval in the steady state.
    scans: f64,
    /// For the first visit, beyond that.
    first: f64,
    /// What everything takes instead: a walk with flags and counts, and the kernel's sums.
    snapshot: f64,
    rollup: f64,
}

/// Measures each size.
pub(super) fn run(bench: &Bench) -> anyhow::Result<()> {
    println!("\n64 MiB active in a process of pages of 4 KiB, scanned every 100 ms");
    println!(
        "{:<12} {:>18} {:>12} {:>15} {:>14} {:>16}",
        "", "scans, ms/interval", "to smallest", "first visit, ms", "snapshot, ms", "smaps_rollup, ms"
    );
    let samples = bench.in_turn(&SIZES, |gib| sample(bench, gib))?;
    for (gib, of_size) in SIZES.iter().zip(&samples) {
        let of = |value: fn(&Sample) -> f64| median(of_size.iter().map(value).collect());
        let ratios = of_size.iter().zip(&samples[0]).map(|(this, first)| this.scans / first.scans);
        println!(
            "{:<12} {:>18.3} {:>12.2} {:>15.1} {:>14.1} {:>16.1}",
            format!("{gib} GiB"),
            of(|sample| sample.scans),
            median(ratios.collect()),
            of(|sample| sample.first),
            of(|sample| sample.snapshot),
            of(|sample| sample.rollup),
        );
    }
    Ok(())
}

fn sample(bench: &Bench, gib: u64) -> anyhow::Result<Sample> {
    let active = Active::start(bench, gib)?;
    let [short, long] = SECONDS.map(|seconds| scans_ms(bench, &active, seconds));
    let (short, long) = (short?, long?);
    let intervals = SECONDS.map(|seconds| f64::from(seconds) * INTERVALS);
    let scans = (long - short) / (intervals[1] - intervals[0]);
    let pid = &active.pid();
    Ok(Sample {
        scans,
        first: short - scans * intervals[0],
        snapshot: wall_ms(&bench.memtrace, &["snapshot", "-p", pid, "--rollup"])?,
        rollup: wall_ms(Path::new("cat"), &[&format!("/proc/{pid}/smaps_rollup")])?,
    })
}

/// Time in scans of a recording of so many seconds.
fn scans_ms(bench: &Bench, active: &Active, seconds: u32) -> anyhow::Result<f64> {
    let Bench { shell, memtrace, scratch, .. } = bench;
    let (recording, pid, duration) = (scratch.join("focus.mtrace"), active.pid(), format!("{seconds}s"));
    cmd!(shell, "{memtrace} record -q --detail counts -o {recording} -p {pid} --duration {duration}")
        .quiet()
        .run()?;
    let report = cmd!(shell, "{memtrace} report --json {recording}").quiet().read()?;
    let report: Value = serde_json::from_str(&report)?;
    Ok(number(report.get("cost").context("a report has the cost")?, "lock_ns")? / 1e6)
}

fn wall_ms(program: &Path, args: &[&str]) -> anyhow::Result<f64> {
    let begin = Instant::now();
    let status = Command::new(program).args(args).stdout(Stdio::null()).status()?;
    anyhow::ensure!(status.success(), "{} failed", program.display());
    Ok(begin.elapsed().as_secs_f64() * 1e3)
}

/// A process with memory of which a part is active; ended when this is dropped.
struct Active {
    process: Child,
}

impl Active {
    fn start(bench: &Bench, gib: u64) -> anyhow::Result<Self> {
        let beside = (gib << 30) - ACTIVE_BYTES;
        let mut command = Command::new(&bench.storm);
        command.args([
            "--bytes",
            &ACTIVE_BYTES.to_string(),
            "--beside",
            &beside.to_string(),
            "--seconds",
            "3600",
        ]);
        let active = Self { process: command.stdout(Stdio::null()).spawn()? };
        while active.resident_bytes()? < beside {
            thread::sleep(Duration::from_millis(10));
        }
        Ok(active)
    }

    fn resident_bytes(&self) -> anyhow::Result<u64> {
        let statm = fs::read_to_string(format!("/proc/{}/statm", self.pid()))?;
        let pages: u64 = statm.split(' ').nth(1).context("statm has no resident pages")?.parse()?;
        Ok(pages * PAGE_BYTES)
    }

    fn pid(&self) -> String {
        self.process.id().to_string()
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}
