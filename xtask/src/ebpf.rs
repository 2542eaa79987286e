//! Compiles the eBPF programs into the object that memtrace embeds.
//!
//! Input: `memtrace-ebpf` and a [`Toolchain`]. Output: `memtrace/ebpf/memtrace.bpf.o` and its manifest.
//! Source: paths reach BTF line information and symbol names, so the three prefixes that differ between
//! machines are remapped; with the same tools the bytes are then the same everywhere.
//! Keeps: DWARF is stripped; `.BTF` and `.BTF.ext` stay, for map pretty-printing and verifier line numbers.
//! Not here: finding tools (`toolchain`), embedding (`memtrace/build.rs`).

#[path = "../../memtrace/build/object.rs"]
mod object;

use std::{env::consts::ARCH, fs, path::Path};

use anyhow::{Context as _, bail};
use object::{MANIFEST, Manifest, OBJECT};
use xshell::{Shell, cmd};

use crate::{
    test,
    toolchain::{Toolchain, cargo_home},
    workspace,
};

const TARGET: &str = "bpfel-unknown-none";
const COMMITTED: &str = "memtrace/ebpf";

/// Compiles the programs and replaces the committed object and its manifest.
pub(crate) fn build() -> anyhow::Result<()> {
    let shell = workspace::shell()?;
    let toolchain = Toolchain::find(&shell)?;
    let manifest = build_into(&shell, &toolchain, &workspace::root().join(COMMITTED))?;
    let bytes = fs::metadata(workspace::root().join(COMMITTED).join(OBJECT))?.len();
    eprintln!("{COMMITTED}/{OBJECT}: {bytes} bytes, built by {}", manifest.rustc);
    Ok(())
}

/// Rebuilds when the committed object is stale and this machine can; else says why not.
///
/// Without a toolchain the stale object stays, and `memtrace/build.rs` refuses it with the remedy.
pub(crate) fn refresh(shell: &Shell) -> anyhow::Result<()> {
    if is_current()? {
        return Ok(());
    }
    match Toolchain::find(shell) {
        Ok(toolchain) => {
            eprintln!("the eBPF sources changed: rebuilding the object");
            build_into(shell, &toolchain, &workspace::root().join(COMMITTED)).map(drop)
        }
        Err(why) => {
            eprintln!("the eBPF sources changed, but the object cannot be rebuilt here: {why:#}");
            Ok(())
        }
    }
}

/// Compiles into a scratch directory and compares with the committed object.
///
/// The same tools must give the same bytes. Other tools give other bytes, so the fresh object has to load
/// and to pass the tests against the kernel.
pub(crate) fn check() -> anyhow::Result<()> {
    let shell = workspace::shell()?;
    if !is_current()? {
        bail!("{COMMITTED}/{OBJECT} was not built from this tree: cargo xtask build-ebpf");
    }
    let toolchain = Toolchain::find(&shell)?;
    let scratch = workspace::target().join("ebpf-check");
    let fresh = build_into(&shell, &toolchain, &scratch)?;
    let committed = committed_manifest()?;
    if fresh == committed {
        eprintln!("{COMMITTED}/{OBJECT}: reproduced byte for byte by {}", fresh.rustc);
        return Ok(());
    }
    let same_tools =
        Manifest { object_sha256: committed.object_sha256.clone(), ..fresh.clone() } == committed;
    if same_tools {
        bail!(
            "the same tools made another object: {} has SHA-256 {}, committed is {}",
            scratch.join(OBJECT).display(),
            fresh.object_sha256,
            committed.object_sha256
        );
    }
    eprintln!("the committed object was made by other tools, so its bytes cannot be compared:");
    eprintln!("  committed: {}, LLVM {}, {}", committed.rustc, committed.llvm, committed.bpf_linker);
    eprintln!("  here:      {}, LLVM {}, {}", fresh.rustc, fresh.llvm, fresh.bpf_linker);
    eprintln!("testing the fresh object against the kernel instead");
    let _object = shell.push_env("MEMTRACE_EBPF_DIR", &scratch);
    test::kernel(&shell)
}

/// Whether the committed object is whole and was made from this tree, for this machine's architecture.
fn is_current() -> anyhow::Result<bool> {
    let Ok(object) = fs::read(workspace::root().join(COMMITTED).join(OBJECT)) else {
        return Ok(false);
    };
    let source = object::source_sha256(workspace::root(), ARCH).context("cannot read the eBPF sources")?;
    Ok(committed_manifest().is_ok_and(|manifest| {
        manifest.object_sha256 == object::sha256(&object) && manifest.source_sha256 == source
    }))
}

fn committed_manifest() -> anyhow::Result<Manifest> {
    let path = workspace::root().join(COMMITTED).join(MANIFEST);
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("cannot read {}", path.display()))
}

/// Compiles, links and strips the programs, and writes object and manifest into `directory`.
fn build_into(shell: &Shell, toolchain: &Toolchain, directory: &Path) -> anyhow::Result<Manifest> {
    let Toolchain { compiler, linker, linker_version, objcopy } = toolchain;
    let source_sha256 = object::source_sha256(workspace::root(), ARCH)?;
    let flags = object::flags(ARCH);
    let target = workspace::target().join("ebpf");
    let cargo = &compiler.cargo;
    // Cargo does not notice another bpf-linker, so the last step is always taken afresh.
    cmd!(
        shell,
        "{cargo} clean --quiet --package memtrace-ebpf --profile ebpf --target {TARGET} --target-dir {target}"
    )
    .quiet()
    .run()?;
    // Cargo's own variables, inherited from `cargo xtask`, would name another toolchain.
    cmd!(shell, "{cargo} build --locked --profile ebpf --package memtrace-ebpf --features kernel")
        .args(["--bin", "memtrace-ebpf", "-Zbuild-std=core", "--target", TARGET])
        .arg("--target-dir")
        .arg(&target)
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO")
        .env("PATH", path_with(linker)?)
        .env("RUSTC", &compiler.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", [flags.clone(), remaps(toolchain)?].concat().join("\x1f"))
        .run()
        .with_context(|| {
            format!(
                "cannot build the eBPF programs with {} and {linker_version} \
                 (if it is the linking that failed, bpf-linker needs LLVM {})",
                compiler.version,
                compiler.llvm_major()
            )
        })?;

    let built = target.join(TARGET).join("ebpf/memtrace-ebpf");
    fs::create_dir_all(directory)?;
    let object = directory.join(OBJECT);
    cmd!(shell, "{objcopy} --strip-debug {built} {object}").run()?;
    let manifest = Manifest {
        object_sha256: object::sha256(&fs::read(&object)?),
        source_sha256,
        rustc: compiler.version.clone(),
        llvm: compiler.llvm.clone(),
        bpf_linker: linker_version.clone(),
        aya_ebpf: object::locked_crates(workspace::root())?,
        flags,
    };
    fs::write(directory.join(MANIFEST), serde_json::to_string_pretty(&manifest)? + "\n")?;
    Ok(manifest)
}

/// Flags that replace what differs between machines in the paths that reach the object.
fn remaps(toolchain: &Toolchain) -> anyhow::Result<Vec<String>> {
    let library = &toolchain.compiler.library;
    let cargo_home = cargo_home().context("neither CARGO_HOME nor HOME is set")?;
    let resolved = fs::canonicalize(library)?;
    Ok([
        (workspace::root(), "/memtrace"),
        (cargo_home.as_path(), "/cargo"),
        (library.as_path(), "/rust/library"),
        (resolved.as_path(), "/rust/library"),
    ]
    .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()))
    .to_vec())
}

/// `PATH` with the directory of `linker` first: rustc looks the linker up by name.
fn path_with(linker: &Path) -> anyhow::Result<std::ffi::OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directory = linker.parent().context("bpf-linker has no directory")?.to_owned();
    Ok(std::env::join_paths([directory].into_iter().chain(std::env::split_paths(&path)))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree with as much in it as the hash covers.
    fn tree(shell: &Shell) -> xshell::TempDir {
        let tree = shell.create_temp_dir().expect("the temporary directory is writable");
        let write = |name: &str, text: &str| {
            shell.write_file(tree.path().join(name), text).expect("the tree is writable");
        };
        write("Cargo.toml", "[workspace]\nresolver = \"3\"\n\n[profile.ebpf]\nlto = true\n");
        write(
            "Cargo.lock",
            "version = 4\n\n[[package]]\nname = \"aya\"\nversion = \"0.14.0\"\n\n\
             [[package]]\nname = \"aya-ebpf\"\nversion = \"0.2.1\"\n",
        );
        write("memtrace-ebpf/Cargo.toml", "[package]\n");
        write("memtrace-ebpf/src/main.rs", "#![no_main]\n");
        write("memtrace-ebpf/src/prog/fault.rs", "");
        tree
    }

    /// Whether replacing `from` by `to` in the file `name` changes the hash.
    fn change_matters(name: &str, from: &str, to: &str) -> bool {
        let shell = Shell::new().expect("the current directory exists");
        let tree = tree(&shell);
        let hash = || object::source_sha256(tree.path(), "x86_64").expect("the tree is readable");
        let before = hash();
        let path = tree.path().join(name);
        let text = shell.read_file(&path).expect("the tree is readable");
        assert!(text.contains(from), "{name} has no {from:?}");

        shell.write_file(&path, text.replacen(from, to, 1)).expect("the tree is writable");

        hash() != before
    }

    #[test]
    fn what_shapes_the_object_is_in_the_hash_and_the_rest_is_not() {
        assert!(change_matters("memtrace-ebpf/src/prog/fault.rs", "", "// new\n"));
        assert!(change_matters("memtrace-ebpf/Cargo.toml", "[package]", "[package]\nname = \"x\""));
        assert!(change_matters("Cargo.toml", "lto = true", "lto = false"));
        assert!(change_matters("Cargo.lock", "0.2.1", "0.2.2"));

        assert!(!change_matters("Cargo.toml", "resolver = \"3\"", "resolver = \"2\""));
        assert!(!change_matters("Cargo.lock", "0.14.0", "0.14.1"));
    }

    #[test]
    fn each_architecture_has_its_own_hash() {
        let shell = Shell::new().expect("the current directory exists");
        let tree = tree(&shell);
        let hash = |arch| object::source_sha256(tree.path(), arch).expect("the tree is readable");

        assert_ne!(hash("x86_64"), hash("aarch64"));
    }

    #[test]
    fn sha256_of_abc_is_that_of_fips_180() {
        assert_eq!(
            object::sha256(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
