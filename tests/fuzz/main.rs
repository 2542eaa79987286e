//! Mutates recordings and reads them with every verb: none may panic, hang, or take more memory than its file is worth.
//!
//! Input: the recordings below `tests/fuzz/corpus`, a time to spend, a seed. Output: what went wrong, each with its file.
//! Keeps: the same seed makes the same recordings in the same order.
//! Not here: what a reader may take (`memtrace_tests::reader`).
#![expect(clippy::print_stdout, reason = "what was found is what it is for")]

mod container;
mod fields;
mod mutate;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use fastrand::Rng;
use memtrace_tests::reader::{self, Outcome};

use container::{Container, FRAMES};
use fields::Payload;

/// Mutate recordings and read them
#[derive(Parser)]
struct Args {
    /// The memtrace that reads
    #[arg(long)]
    memtrace: PathBuf,
    /// Directory of the recordings to start from
    #[arg(long)]
    corpus: PathBuf,
    /// Where recordings go that did harm
    #[arg(long)]
    found: PathBuf,
    /// How long to go on
    #[arg(long)]
    seconds: u64,
    /// Which mutations
    #[arg(long)]
    seed: u64,
}

fn main() -> ExitCode {
    let Args { memtrace, corpus, found, seconds, seed } = Args::parse();
    let corpus = read_corpus(&corpus);
    fs::create_dir_all(&found).expect("a directory for what is found");
    let path = found.join(format!("now-{seed}.mtrace"));
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut harm: BTreeMap<String, u64> = BTreeMap::new();
    let mut case = 0;
    while Instant::now() < until {
        // A generator of its own, so that a case does not depend on how many there were before.
        let mut rng = Rng::with_seed(seed << 32 | case);
        let bytes = mutate::recording(&corpus, &mut rng);
        fs::write(&path, &bytes).expect("room for a recording");
        // Tables differ only in which rows they print: one of them will do for each recording.
        let table = reader::TABLES[rng.usize(..reader::TABLES.len())];
        for verb in reader::SUMMARIES.into_iter().chain([table]) {
            let outcome = reader::read(&memtrace, verb, &path);
            if outcome == Outcome::Done {
                continue;
            }
            let kept = found.join(format!("{seed}-{case}.mtrace"));
            fs::copy(&path, &kept).expect("room for a recording");
            println!("{} ({} bytes): {verb:?}: {outcome}", kept.display(), bytes.len());
            *harm.entry(outcome.to_string()).or_default() += 1;
            break;
        }
        case += 1;
    }
    fs::remove_file(&path).expect("it was written");
    println!("{case} recordings, {} did harm", harm.values().sum::<u64>());
    for (outcome, count) in &harm {
        println!("{count:6} {outcome}");
    }
    if harm.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// All recordings in `directory`, by name.
fn read_corpus(directory: &Path) -> Vec<Container> {
    let entries = fs::read_dir(directory).expect("a directory of recordings");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.iter().map(|path| read_recording(path)).collect()
}

/// The recording at `path`, which must come apart, or nothing in it would be mutated.
fn read_recording(path: &Path) -> Container {
    let recording = Container::parse(&fs::read(path).expect("a recording"));
    for chunk in recording.chunks.iter().filter(|chunk| chunk.kind == FRAMES) {
        let payload = Payload::parse(&chunk.plain, chunk.items).expect("frames in the layout of the day");
        assert!(payload.to_bytes() == chunk.plain, "{} comes together as it was", path.display());
    }
    recording
}
