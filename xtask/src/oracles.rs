//! `cargo xtask oracles`: the kernel's own tools that read the state of pages, against which `memtrace snapshot` is held.
//!
//! Input: Debian's kernel sources. Output: `page-types`, `thpmaps` and `oracles.json`, which says what they were made from,
//! in `target/oracles`.
//! Source: `tools/mm/Makefile`, which links page-types with `tools/lib/api`.
//! Keeps: nothing is fetched while both are what the file says; of the sources, almost 2 GB, few files are unpacked, and none
//! stays.
//! Not here: running them (`tests/harness/oracle.rs`, `bench`).

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use xshell::{Shell, cmd};

use crate::{
    archive::{self, sha256},
    workspace,
};

const PAGE_TYPES: &str = "page-types";
const THPMAPS: &str = "thpmaps";
const MANIFEST: &str = "oracles.json";

/// What is compiled into page-types.
const UNITS: [&str; 4] =
    ["tools/mm/page-types.c", "tools/lib/api/fs/fs.c", "tools/lib/api/debug.c", "tools/lib/str_error_r.c"];

/// What these include.
const HEADERS: [&str; 6] = [
    "include/uapi/linux/magic.h",
    "include/uapi/linux/kernel-page-flags.h",
    "tools/lib/api/debug.h",
    "tools/lib/api/debug-internal.h",
    "tools/lib/api/fs/fs.h",
    "tools/lib/api/io.h",
];

const SCRIPT: &str = "tools/mm/thpmaps";

/// What making them takes: a file that tells of it, and its package.
const NEEDED: [(&str, &str); 2] = [("/usr/bin/gcc", "gcc"), ("/usr/bin/xz", "xz-utils")];

/// Leaves the tools in `target/oracles`.
pub(crate) fn oracles() -> anyhow::Result<()> {
    let directory = fetch(&workspace::shell()?)?;
    eprintln!("page-types and thpmaps are in {}", directory.display());
    Ok(())
}

/// The directory of the tools, which are fetched and compiled unless an earlier run has done so.
pub(crate) fn fetch(shell: &Shell) -> anyhow::Result<PathBuf> {
    let directory = workspace::target().join("oracles");
    let path = directory.join(MANIFEST);
    if Manifest::read(&path).is_some_and(|manifest| manifest.tells_of(&directory)) {
        return Ok(directory);
    }
    let scratch = directory.join("scratch");
    let manifest = make(shell, &scratch, &directory);
    if scratch.exists() {
        fs::remove_dir_all(&scratch)?;
    }
    let text = serde_json::to_string_pretty(&manifest?)? + "\n";
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(directory)
}

/// As [`fetch`], for tests, which go without what cannot be had: it is said, and `None`.
pub(crate) fn fetch_or_say(shell: &Shell) -> Option<PathBuf> {
    fetch(shell)
        .inspect_err(|failure| {
            eprintln!("xtask: tests against page-types and thpmaps will be skipped: {failure:#}");
            eprintln!("xtask: `cargo xtask oracles` tries again");
        })
        .ok()
}

/// A python that can run thpmaps: the one that comes first may be another than the distribution's.
pub(crate) fn python(shell: &Shell) -> Option<&'static str> {
    let has_numpy =
        |python: &&str| cmd!(shell, "{python} -c 'import numpy'").quiet().ignore_stderr().run().is_ok();
    ["python3", "/usr/bin/python3"].into_iter().find(has_numpy)
}

/// Makes the tools in `directory` from sources that are unpacked in `scratch`.
fn make(shell: &Shell, scratch: &Path, directory: &Path) -> anyhow::Result<Manifest> {
    archive::require("make page-types", &NEEDED)?;
    let (package, archive) = archive::kernel_sources(shell, scratch)?;
    let names: Vec<_> = UNITS.iter().chain(&HEADERS).chain([&SCRIPT]).copied().collect();
    let members = names.iter().map(|name| format!("{}/{name}", package.name));
    cmd!(shell, "tar --extract --file {archive} --directory {scratch} {members...}").quiet().run()?;

    let sources = scratch.join(&package.name);
    let (lib, units) = (sources.join("tools/lib"), UNITS.map(|unit| sources.join(unit)));
    let (api, program) = (lib.join("api"), directory.join(PAGE_TYPES));
    cmd!(shell, "gcc -O2 -w -I {lib} -I {api} -o {program} {units...}").quiet().run()?;
    fs::copy(sources.join(SCRIPT), directory.join(THPMAPS))?;
    Ok(Manifest {
        package: package.name,
        version: package.version,
        package_sha256: package.sha256,
        sources_sha256: hashes(&sources, &names)?,
        tools_sha256: hashes(directory, &[PAGE_TYPES, THPMAPS])?,
    })
}

/// The SHA-256 of each of the files `names` below `directory`.
fn hashes(directory: &Path, names: &[&str]) -> io::Result<BTreeMap<String, String>> {
    names.iter().map(|name| Ok(((*name).to_owned(), sha256(&fs::read(directory.join(name))?)))).collect()
}

/// What the tools were made from.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    /// The package with the sources.
    package: String,
    /// Its version.
    version: String,
    /// SHA-256 of the package, as the signed index has it.
    package_sha256: String,
    /// SHA-256 of each source, by its path in the kernel's.
    sources_sha256: BTreeMap<String, String>,
    /// SHA-256 of each tool, by its name.
    tools_sha256: BTreeMap<String, String>,
}

impl Manifest {
    /// The manifest at `path`, if one is there that can be read.
    fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Whether the tools in `directory` are those described.
    fn tells_of(&self, directory: &Path) -> bool {
        hashes(directory, &[PAGE_TYPES, THPMAPS]).is_ok_and(|found| found == self.tools_sha256)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_that_the_manifest_does_not_tell_of_are_made_anew() {
        let shell = Shell::new().expect("the current directory exists");
        let scratch = shell.create_temp_dir().expect("the temporary directory is writable");
        let directory = scratch.path();
        let write = |name, text| fs::write(directory.join(name), text).expect("the directory is writable");
        write(PAGE_TYPES, "program");
        write(THPMAPS, "script");
        let manifest = Manifest {
            package: "linux-source-1".to_owned(),
            version: "1".to_owned(),
            package_sha256: String::new(),
            sources_sha256: BTreeMap::new(),
            tools_sha256: hashes(directory, &[PAGE_TYPES, THPMAPS]).expect("both are there"),
        };

        assert!(manifest.tells_of(directory));
        write(THPMAPS, "torn");
        assert!(!manifest.tells_of(directory));
        fs::remove_file(directory.join(THPMAPS)).expect("it is there");
        assert!(!manifest.tells_of(directory));
    }
}
