//! Ties the committed eBPF object to the sources, tools and flags that it was built from.
//!
//! Shared by `memtrace/build.rs`, which embeds the object, and `cargo xtask build-ebpf`, which makes it.
//! Input: the work tree. Output: [`Manifest`], [`source_sha256`].
//! Keeps: whatever can change the object's bytes, apart from the tools, is in the hash.
//! Not here: building (`xtask`), embedding (`build.rs`).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// File name of the object.
pub(crate) const OBJECT: &str = "memtrace.bpf.o";
/// File name of its [`Manifest`].
pub(crate) const MANIFEST: &str = "memtrace.bpf.json";

/// Where an object came from; stored beside it as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// SHA-256 of the object, in hex.
    pub(crate) object_sha256: String,
    /// [`source_sha256`] of the tree that it was built from.
    pub(crate) source_sha256: String,
    /// What `rustc --version` printed.
    pub(crate) rustc: String,
    /// Version of the LLVM inside that rustc.
    pub(crate) llvm: String,
    /// What `bpf-linker --version` printed.
    pub(crate) bpf_linker: String,
    /// Locked crates that are compiled into the object, each `name version`.
    pub(crate) aya_ebpf: Vec<String>,
    /// Compiler flags, without the path prefixes of the machine.
    pub(crate) flags: Vec<String>,
}

/// The compiler flags that shape the object for machines of architecture `arch` (`x86_64`, `aarch64`).
pub(crate) fn flags(arch: &str) -> Vec<String> {
    vec![
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        "--check-cfg=cfg(bpf_target_arch,values(\"x86_64\",\"aarch64\"))".to_owned(),
        "-Clinker=bpf-linker".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
    ]
}

/// SHA-256, in hex.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// SHA-256, in hex, over everything in the tree at `workspace` that shapes the object for `arch`: the eBPF
/// sources and their manifest, the build profiles, the locked crates and the flags.
pub(crate) fn source_sha256(workspace: &Path, arch: &str) -> io::Result<String> {
    let package = workspace.join("memtrace-ebpf");
    let mut files = vec![package.join("Cargo.toml")];
    collect_files(&package.join("src"), &mut files)?;
    files.sort();

    let mut hash = Sha256::new();
    let mut part = |name: &str, content: &[u8]| {
        hash.update(format!("{name} {}\n", content.len()));
        hash.update(content);
    };
    for file in &files {
        let name = file.strip_prefix(&package).unwrap_or(file);
        part(&name.to_string_lossy(), &fs::read(file)?);
    }
    let manifest = fs::read_to_string(workspace.join("Cargo.toml"))?;
    part("profiles", profiles(&manifest).as_bytes());
    part("crates", locked_crates(workspace)?.join("\n").as_bytes());
    part("flags", flags(arch).join("\n").as_bytes());
    Ok(hex(&hash.finalize()))
}

/// The crates of `Cargo.lock` that are compiled into the object, each `name version`.
pub(crate) fn locked_crates(workspace: &Path) -> io::Result<Vec<String>> {
    let lock = fs::read_to_string(workspace.join("Cargo.lock"))?;
    let field = |package: &str, key: &str| {
        let line = package.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim_matches([' ', '=', '"']).to_owned())
    };
    Ok(lock
        .split("[[package]]")
        .filter_map(|package| Some((field(package, "name")?, field(package, "version")?)))
        .filter(|(name, _)| name.starts_with("aya-ebpf") || name.starts_with("aya-log-"))
        .map(|(name, version)| format!("{name} {version}"))
        .collect())
}

/// The `[profile.…]` sections of a Cargo manifest, as written.
fn profiles(manifest: &str) -> String {
    let mut inside = false;
    manifest
        .lines()
        .filter(|line| {
            if line.starts_with('[') {
                inside = line.starts_with("[profile.");
            }
            inside
        })
        .collect::<Vec<_>>()
        .join("\n")
}

fn collect_files(directory: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect_files(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
