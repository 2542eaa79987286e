//! The developer verbs of memtrace: `cargo xtask …`.
//!
//! Each verb is a module. They run cargo, find toolchains and ask for privileges; no package depends on them.
//! Not here: anything that users of memtrace need.

mod archive;
mod bench;
mod bless;
mod check;
mod corpus;
mod ebpf;
mod executables;
mod fuzz;
mod layers;
mod libtest;
mod oracles;
mod privilege;
mod run;
mod same;
mod skips;
mod test;
mod toolchain;
mod vm;
mod workspace;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::Parser;

/// Developer verbs of memtrace
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
enum Verb {
    /// Build memtrace and run it with privileges; without ARGS record a demonstration and show what it did
    Run {
        /// Arguments of memtrace
        #[arg(last = true)]
        args: Vec<OsString>,
    },
    /// Run every test that this machine can run, and count the rest by reason
    Test {
        /// Run only the privileged tier, in virtual machines with these kernels; all if none is named
        #[arg(long, value_name = "KERNEL", num_args = 0..)]
        vm: Option<Vec<vm::Kernel>>,
        /// Of that tier, run only what shows within minutes that a kernel is served
        #[arg(long, requires = "vm")]
        smoke: bool,
        /// Run only the programs of others that are traced, and all of them
        #[arg(long, conflicts_with = "vm")]
        strangers: bool,
        /// Run only tests whose name contains this
        #[arg(last = true)]
        filter: Option<String>,
    },
    /// Check formatting, lints, the build without tracing, docs, layers and licences
    Check,
    /// Compile the eBPF programs into the object that memtrace embeds
    BuildEbpf {
        /// Compile into a scratch directory and compare with the committed object
        #[arg(long)]
        check: bool,
    },
    /// Fetch and compile the kernel's own tools that read the state of pages, against which `snapshot` is tested
    Oracles,
    /// Make anew what is made from the code: the README's table of kernel facilities
    Bless,
    /// Count the instructions that the verifier walks, by program and kernel
    Verifier {
        /// Kernels whose verifiers are asked
        #[arg(default_value = "HOST")]
        kernels: Vec<vm::Kernel>,
        /// Keep the numbers in tests/expected/verifier.csv
        #[arg(long)]
        record: bool,
    },
    /// Measure what tracing costs, beside the peers that are installed
    Bench {
        /// Run only this suite
        suite: Option<bench::Suite>,
        /// Runs of each variant
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// Mutate recordings and read them: none may panic, hang, or take memory without bound
    Fuzz {
        /// How long to go on
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Which mutations; the same seed makes the same ones
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Make the corpus: small recordings, one of each thing that happens to programs and to recorders, for `same`
    Corpus,
    /// Compare what two builds of memtrace say of recordings: every table and every report, byte for byte
    Same {
        /// An executable, or a revision, which is built
        old: String,
        /// The same; without it the work tree is built
        new: Option<String>,
        /// Recordings, or directories of recordings, to read instead of the corpus
        #[arg(long, value_name = "PATH", num_args = 1..)]
        over: Vec<PathBuf>,
    },
    /// Check that no module uses one of a higher layer, and that unsafe code stays where it belongs
    Layers,
}

fn main() -> ExitCode {
    let outcome = match Verb::parse() {
        Verb::Run { args } => run::run(&args),
        Verb::Test { strangers: true, filter, .. } => test::whole("kernel_strangers", filter.as_deref()),
        Verb::Test { vm: None, filter, .. } => test::test(filter.as_deref()),
        Verb::Test { vm: Some(kernels), smoke, filter, .. } => vm::test(&kernels, smoke, filter.as_deref()),
        Verb::Check => check::check(),
        Verb::BuildEbpf { check: false } => ebpf::build(),
        Verb::BuildEbpf { check: true } => ebpf::check(),
        Verb::Oracles => oracles::oracles(),
        Verb::Bless => bless::bless(),
        Verb::Verifier { kernels, record } => vm::verifier(&kernels, record),
        Verb::Bench { suite, rounds } => bench::bench(suite, rounds),
        Verb::Fuzz { seconds, seed } => fuzz::fuzz(seconds, seed),
        Verb::Corpus => corpus::corpus(),
        Verb::Same { old, new, over } => same::same(&old, new.as_deref(), &over),
        Verb::Layers => layers::check(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure:#}");
            ExitCode::FAILURE
        }
    }
}
