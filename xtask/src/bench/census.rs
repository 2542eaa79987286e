//! What a census of the pages of one process costs: wall time and memory of memtrace, of the kernel's own tools, and of the
//! kernel's sums alone.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::Context as _;
use serde_json::Value;
use xshell::cmd;

use super::{Bench, median, number};
use crate::oracles;

/// MiB of memory, so much that programs take longer to read than to start.
const MIB: u64 = 4096;

/// Bytes of a page.
const PAGE_BYTES: u64 = 4096;

/// Kind of memory and its title.
const CASES: [(&str, &str); 2] = [("small", "4 GiB in pages of 4 KiB"), ("huge", "4 GiB in huge pages")];

/// Who sums up pages; the first is what the others are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Memtrace,
    PageTypes,
    /// By the python of that name.
    Thpmaps(&'static str),
    SmapsRollup,
    /// Words of as many frames as there are pages, the first ones: what the kernel takes for them at least.
    Words,
}

/// What one census took.
struct Sample {
    ms: f64,
    peak_mib: f64,
}

/// Measures each case.
pub(super) fn run(bench: &Bench) -> anyhow::Result<()> {
    let directory = oracles::fetch(&bench.shell)?;
    let mut readers = vec![Reader::Memtrace, Reader::PageTypes];
    match oracles::python(&bench.shell) {
        Some(python) => readers.push(Reader::Thpmaps(python)),
        None => println!("python3 has no numpy: the rows of thpmaps are left out"),
    }
    readers.extend([Reader::SmapsRollup, Reader::Words]);
    for (kind, title) in CASES {
        let holder = Holder::start(bench, kind)?;
        let samples = bench.in_turn(&readers, |reader| {
            let pid = &holder.pid();
            let command = match reader {
                Reader::Memtrace => command(&bench.memtrace, &["snapshot", "-p", pid, "--rollup"]),
                Reader::PageTypes => command(&directory.join("page-types"), &["-p", pid]),
                Reader::Thpmaps(python) => {
                    let script = directory.join("thpmaps").display().to_string();
                    command(Path::new(python), &[&script, "--pid", pid, "--rollup"])
                }
                Reader::SmapsRollup => command(Path::new("cat"), &[&format!("/proc/{pid}/smaps_rollup")]),
                Reader::Words => {
                    let bytes = (MIB << 20) / PAGE_BYTES * size_of::<u64>() as u64;
                    command(Path::new("head"), &["-c", &bytes.to_string(), "/proc/kpageflags"])
                }
            };
            sample(bench, &command)
        })?;
        println!("\n{title}");
        println!("{:<36} {:>9} {:>11} {:>9}", "", "ms", "to memtrace", "peak MiB");
        for (reader, samples_of_reader) in readers.iter().zip(&samples) {
            let of = |value: fn(&Sample) -> f64| median(samples_of_reader.iter().map(value).collect());
            let ratios = samples_of_reader.iter().zip(&samples[0]).map(|(this, first)| this.ms / first.ms);
            println!(
                "{:<36} {:>9.2} {:>11.2} {:>9.1}",
                name(*reader),
                of(|sample| sample.ms),
                median(ratios.collect()),
                of(|sample| sample.peak_mib),
            );
        }
    }
    println!("peaks are not less than that of the program that measures them, some 2 MiB");
    Ok(())
}

/// Runs `command`, words of a command line, below `witness`, and takes down what that says of it.
fn sample(bench: &Bench, command: &[String]) -> anyhow::Result<Sample> {
    let Bench { shell, witness, scratch, .. } = bench;
    let out = scratch.join("testimony.json");
    cmd!(shell, "{witness} --out {out} -- {command...}").quiet().ignore_stdout().run()?;
    let testimony: Value = serde_json::from_str(&fs::read_to_string(&out)?)?;
    Ok(Sample {
        ms: number(&testimony, "ns")? / 1e6,
        peak_mib: number(&testimony, "peak_bytes")? / f64::from(1 << 20),
    })
}

fn command(program: &Path, args: &[&str]) -> Vec<String> {
    let args = args.iter().map(|arg| (*arg).to_owned());
    std::iter::once(program.display().to_string()).chain(args).collect()
}

/// A process that holds memory and is stopped; ended when this is dropped.
struct Holder {
    process: Child,
}

impl Holder {
    fn start(bench: &Bench, kind: &str) -> anyhow::Result<Self> {
        let mut command = Command::new(&bench.layout);
        command.args([kind, "--mib", &MIB.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = Self { process: command.spawn()? };
        let stdout = holder.process.stdout.take().context("it is piped")?;
        // The memory is there once this line is.
        BufReader::new(stdout).read_line(&mut String::new())?;
        let pid = holder.pid();
        cmd!(bench.shell, "kill -STOP {pid}").quiet().run()?;
        Ok(holder)
    }

    fn pid(&self) -> String {
        self.process.id().to_string()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

fn name(reader: Reader) -> &'static str {
    match reader {
        Reader::Memtrace => "memtrace snapshot --rollup",
        Reader::PageTypes => "page-types",
        Reader::Thpmaps(_) => "thpmaps --rollup",
        Reader::SmapsRollup => "smaps_rollup, its sums alone",
        Reader::Words => "head -c of kpageflags, as many words",
    }
}
