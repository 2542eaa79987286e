//! Compiles the kernel with what distributions leave out.
//!
//! Input: Debian's kernel sources and `xtask/kernel.config`. Output: a bootable image.
//! Source: `scripts/kconfig/merge_config.sh` drops options whose dependencies are not met and goes on, so the result
//! is compared with what was asked for.
//! Keeps: the build tree, almost 2 GB, is removed once there is an image.

use std::{fs, path::Path};

use anyhow::bail;
use xshell::{Shell, cmd};

use super::kernel::Manifest;
use crate::archive::{self, sha256};

/// Options over those of `make tinyconfig`.
const CONFIG: &str = include_str!("../../kernel.config");

/// What compiling takes: a file that tells of it, and its package.
const NEEDED: [(&str, &str); 8] = [
    ("/usr/bin/make", "make"),
    ("/usr/bin/gcc", "gcc"),
    ("/usr/bin/flex", "flex"),
    ("/usr/bin/bison", "bison"),
    ("/usr/bin/bc", "bc"),
    ("/usr/bin/xz", "xz-utils"),
    ("/usr/include/gelf.h", "libelf-dev"),
    ("/usr/include/openssl/ssl.h", "libssl-dev"),
];

/// The SHA-256 of the options.
pub(super) fn config_sha256() -> String {
    sha256(CONFIG.as_bytes())
}

/// Compiles the kernel in `directory` and leaves its image at `image`.
pub(super) fn compile(shell: &Shell, directory: &Path, image: &Path) -> anyhow::Result<Manifest> {
    archive::require("compile a kernel", &NEEDED)?;
    let (package, sources) = archive::kernel_sources(shell, &directory.join("apt"))?;

    let build = directory.join("build");
    if build.exists() {
        fs::remove_dir_all(&build)?;
    }
    fs::create_dir_all(&build)?;
    cmd!(shell, "tar --extract --file {sources} --directory {build} --strip-components 1").run()?;
    fs::remove_file(&sources)?;

    eprintln!("compiling {} {}: some minutes", package.name, package.version);
    let there = shell.push_dir(&build);
    shell.write_file("memtrace.config", CONFIG)?;
    cmd!(shell, "make --quiet tinyconfig").run()?;
    cmd!(shell, "scripts/kconfig/merge_config.sh -m .config memtrace.config")
        .quiet()
        .ignore_stdout()
        .run()?;
    cmd!(shell, "make --quiet olddefconfig").run()?;
    let dropped = dropped(CONFIG, &shell.read_file(".config")?);
    if !dropped.is_empty() {
        bail!("options of xtask/kernel.config that this kernel does not have: {}", dropped.join(" "));
    }
    let jobs = std::thread::available_parallelism()?.to_string();
    cmd!(shell, "make --quiet --jobs {jobs} bzImage").run()?;
    shell.copy_file("arch/x86/boot/bzImage", image)?;
    drop(there);
    fs::remove_dir_all(&build)?;
    Ok(Manifest {
        image_sha256: sha256(&fs::read(image)?),
        package: package.name,
        version: package.version,
        package_sha256: package.sha256,
        config_sha256: Some(config_sha256()),
    })
}

/// The settings of `asked` that are not in `configured`; an option that does not exist is as good as switched off.
fn dropped<'a>(asked: &'a str, configured: &str) -> Vec<&'a str> {
    let is_set = |setting: &str| configured.lines().any(|line| line == setting);
    asked
        .lines()
        .filter(|line| line.starts_with("CONFIG_"))
        .filter(|line| match line.strip_suffix("=n") {
            Some(option) => is_set(&format!("{option}=y")),
            None => !is_set(line),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_that_the_kernel_dropped_is_named() {
        let asked = "# Why.\nCONFIG_A=y\nCONFIG_B=y\nCONFIG_C=n\nCONFIG_D=n\nCONFIG_E=\"x\"\n";
        let configured = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_D=y\nCONFIG_E=\"x\"\n";

        assert_eq!(dropped(asked, configured), ["CONFIG_B=y", "CONFIG_D=n"]);
    }
}
