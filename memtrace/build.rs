//! Embeds the committed eBPF object, and refuses to embed one that other sources made.
//!
//! Input: `memtrace/ebpf`, or the directory that `MEMTRACE_EBPF_DIR` names. Output: the object in `OUT_DIR`.
//! Keeps: no build ever carries a stale or altered object.
//! Not here: compiling the programs (`cargo xtask build-ebpf`).

use std::{
    env, fs,
    path::{Path, PathBuf},
};

#[path = "build/object.rs"]
mod object;

use object::{MANIFEST, Manifest, OBJECT};

type Failure = Box<dyn std::error::Error>;

fn main() {
    if env::var_os("CARGO_FEATURE_LIVE").is_none() {
        println!("cargo::rerun-if-changed=build.rs");
        return;
    }
    if let Err(failure) = embed() {
        println!("cargo::error={failure}");
    }
}

fn embed() -> Result<(), Failure> {
    let package = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let directory = env::var_os("MEMTRACE_EBPF_DIR").map_or_else(|| package.join("ebpf"), PathBuf::from);
    println!("cargo::rerun-if-env-changed=MEMTRACE_EBPF_DIR");
    println!("cargo::rerun-if-changed={}", directory.display());

    let named = |path: &Path, cause: &dyn std::fmt::Display| {
        format!("cannot read {}: {cause}; build it with `cargo xtask build-ebpf`", path.display())
    };
    let object_path = directory.join(OBJECT);
    let object = fs::read(&object_path).map_err(|cause| named(&object_path, &cause))?;
    let manifest_path = directory.join(MANIFEST);
    let manifest = fs::read(&manifest_path).map_err(|cause| named(&manifest_path, &cause))?;
    let manifest: Manifest =
        serde_json::from_slice(&manifest).map_err(|cause| named(&manifest_path, &cause))?;

    if object::sha256(&object) != manifest.object_sha256 {
        return Err(format!(
            "{} is not the file that {MANIFEST} describes; rebuild it with `cargo xtask build-ebpf`",
            object_path.display()
        )
        .into());
    }
    // A published package carries the object without the sources of the programs.
    let workspace = package.parent().ok_or("the package has no parent directory")?;
    if workspace.join("memtrace-ebpf/src").is_dir() && workspace.join("Cargo.lock").is_file() {
        for input in ["memtrace-ebpf/src", "memtrace-ebpf/Cargo.toml", "Cargo.toml", "Cargo.lock"] {
            println!("cargo::rerun-if-changed={}", workspace.join(input).display());
        }
        let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
        if object::source_sha256(workspace, &arch)? != manifest.source_sha256 {
            return Err(format!(
                "{} was built from other eBPF sources, flags or crates than this tree has for {arch}; \
                 rebuild it with `cargo xtask build-ebpf`",
                object_path.display()
            )
            .into());
        }
    }
    fs::copy(&object_path, PathBuf::from(env::var("OUT_DIR")?).join(OBJECT))?;
    Ok(())
}
