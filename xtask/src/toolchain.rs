//! Finds what compiles the eBPF programs, or says exactly what is missing and how to get it.
//!
//! Input: rustup, the distribution's packages, `PATH`, cargo's own bin directory. Output: [`Toolchain`].
//! Source: the programs need `core` built for `bpfel-unknown-none`, so the standard library's sources, and a
//! linker for LLVM bitcode (`bpf-linker`) whose LLVM is that of rustc or newer.
//! Not here: running them (`ebpf`).

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use xshell::{Shell, cmd};

/// The release of bpf-linker that the committed object is made with.
const BPF_LINKER: &str = "0.13.0";

/// Everything that takes part in building the object.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    /// The compiler and its cargo.
    pub(crate) compiler: Compiler,
    /// Path of `bpf-linker`.
    pub(crate) linker: PathBuf,
    /// What `bpf-linker --version` printed.
    pub(crate) linker_version: String,
    /// Path of an `objcopy` of the compiler's LLVM.
    pub(crate) objcopy: PathBuf,
}

/// A rustc that has the sources of its standard library.
#[derive(Clone, Debug)]
pub(crate) struct Compiler {
    /// Path of `cargo`.
    pub(crate) cargo: PathBuf,
    /// Path of `rustc`.
    pub(crate) rustc: PathBuf,
    /// What `rustc --version` printed.
    pub(crate) version: String,
    /// Version of its LLVM, such as `22.1.8`.
    pub(crate) llvm: String,
    /// Directory of the standard library's sources.
    pub(crate) library: PathBuf,
    /// Directory of the host's own tools inside the toolchain; need not exist.
    tools: PathBuf,
}

impl Toolchain {
    /// Takes the first compiler that will do, and the linker and objcopy that go with it.
    pub(crate) fn find(shell: &Shell) -> anyhow::Result<Self> {
        let compiler = Compiler::find(shell)?;
        let llvm = compiler.llvm_major();
        let (linker, linker_version) = find_linker(shell).with_context(|| {
            format!(
                "bpf-linker is not in PATH: LLVM_PREFIX=/usr/lib/llvm-{llvm} cargo install bpf-linker \
                 --version {BPF_LINKER} --no-default-features --features llvm-{llvm}"
            )
        })?;
        let objcopy = [
            compiler.tools.join("rust-objcopy"),
            PathBuf::from(format!("/usr/lib/llvm-{llvm}/bin/llvm-objcopy")),
        ]
        .into_iter()
        .find(|path| path.exists())
        .with_context(|| {
            format!(
                "no objcopy of LLVM {llvm}: apt-get install llvm-{llvm}, or rustup component add llvm-tools"
            )
        })?;
        Ok(Self { compiler, linker, linker_version, objcopy })
    }
}

impl Compiler {
    fn find(shell: &Shell) -> anyhow::Result<Self> {
        let nightly = rustup(shell, &["--toolchain", "nightly"]);
        let active = rustup(shell, &[]);
        let distribution = Some((PathBuf::from("/usr/bin/cargo"), PathBuf::from("/usr/bin/rustc")));
        let mut refusals = Vec::new();
        for (name, paths, remedy) in [
            ("rustup's nightly", nightly, "rustup toolchain install nightly --component rust-src"),
            ("rustup's active toolchain", active, "rustup component add rust-src"),
            (
                "the distribution's",
                distribution,
                "apt-get install rustc-web cargo-web rust-web-src (Debian 12), or its rustc, cargo and rust-src",
            ),
        ] {
            let found = paths.context("is not installed");
            match found.and_then(|(cargo, rustc)| Self::inspect(shell, cargo, rustc)) {
                Ok(compiler) => return Ok(compiler),
                Err(why) => refusals.push(format!("  {name} {why}: {remedy}")),
            }
        }
        bail!(
            "no Rust toolchain here can build the eBPF programs; any one of these will do\n{}",
            refusals.join("\n")
        )
    }

    fn inspect(shell: &Shell, cargo: PathBuf, rustc: PathBuf) -> anyhow::Result<Self> {
        if !cargo.exists() || !rustc.exists() {
            bail!("is not installed");
        }
        let verbose = cmd!(shell, "{rustc} -vV").quiet().read().context("does not run")?;
        let field = |key: &str| {
            verbose.lines().find_map(|line| line.strip_prefix(key)).context("has an unknown version format")
        };
        let sysroot = cmd!(shell, "{rustc} --print sysroot").quiet().read().context("does not run")?;
        let rustlib = Path::new(&sysroot).join("lib/rustlib");
        let library = rustlib.join("src/rust/library");
        if !library.join("core/Cargo.toml").exists() {
            bail!("has no sources of the standard library");
        }
        Ok(Self {
            version: verbose.lines().next().unwrap_or_default().to_owned(),
            llvm: field("LLVM version: ")?.to_owned(),
            tools: rustlib.join(field("host: ")?).join("bin"),
            cargo,
            rustc,
            library,
        })
    }

    /// The major version of its LLVM, as package names have it.
    pub(crate) fn llvm_major(&self) -> &str {
        self.llvm.split('.').next().unwrap_or_default()
    }
}

/// The paths of cargo and rustc in a toolchain of rustup, if there is one.
fn rustup(shell: &Shell, selection: &[&str]) -> Option<(PathBuf, PathBuf)> {
    let which = |program| {
        let path = cmd!(shell, "rustup which {selection...} {program}").quiet().ignore_stderr().read();
        path.ok().map(PathBuf::from)
    };
    Some((which("cargo")?, which("rustc")?))
}

/// The path and version of the bpf-linker in `PATH`, else in cargo's own bin directory.
fn find_linker(shell: &Shell) -> Option<(PathBuf, String)> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain([cargo_home()?.join("bin")])
        .map(|directory| directory.join("bpf-linker"))
        .find_map(|linker| {
            let version = cmd!(shell, "{linker} --version").quiet().ignore_stderr().read().ok()?;
            Some((linker, version))
        })
}

/// The directory where cargo keeps the sources of dependencies.
pub(crate) fn cargo_home() -> Option<PathBuf> {
    let home = || env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home)
}
