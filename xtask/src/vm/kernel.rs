//! The kernels that the privileged tier runs on, and where their images come from.
//!
//! Input: the kernels asked for. Output: the columns of the table, in order, and a verified image of each.
//! Keeps: an image is used only if it is the one that its manifest tells of; otherwise it is fetched anew.
//! Not here: asking the archive (`crate::archive`), compiling (`own`), booting (`boot`).

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use xshell::Shell;

use super::own;
use crate::{
    archive::{Archive, sha256},
    workspace,
};

/// What the tier runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kernel {
    /// Debian 11: the oldest that memtrace supports
    #[value(name = "5.10")]
    V5_10,
    /// Debian 12
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13, as it boots by itself; asking for it asks for its twin too
    #[value(name = "6.12")]
    V6_12,
    /// Debian 13, booted with full preemption
    #[value(name = "6.12-full")]
    V6_12Full,
    /// The newest that Debian has
    #[value(name = "LATEST")]
    Latest,
    /// Compiled here, with what distributions leave out and without type information
    #[value(name = "OWN")]
    Own,
    /// This machine, without a virtual machine
    #[value(name = "HOST")]
    Host,
}

/// Where a kernel is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The image that the package `linux-image-amd64` stands for in these sources: `suite components` each.
    Debian(&'static [&'static str]),
    /// Compiled from the distribution's sources.
    Compiled,
    /// Already running.
    Running,
}

impl Kernel {
    /// The kernels to run, in the order of the columns: all if none is asked for.
    pub(super) fn columns(asked: &[Self]) -> Vec<Self> {
        let mut columns = if asked.is_empty() { Self::value_variants().to_vec() } else { asked.to_vec() };
        if columns.contains(&Self::V6_12) {
            columns.push(Self::V6_12Full);
        }
        columns.sort_unstable();
        columns.dedup();
        columns
    }

    /// The name by which it is asked for.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::V5_10 => "5.10",
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::V6_12Full => "6.12-full",
            Self::Latest => "LATEST",
            Self::Own => "OWN",
            Self::Host => "HOST",
        }
    }

    /// Where it is taken from.
    pub(super) const fn source(self) -> Source {
        match self {
            Self::V5_10 => Source::Debian(&["debian bullseye", "debian-security bullseye-security"]),
            Self::V6_1 => Source::Debian(&["debian bookworm", "debian-security bookworm-security"]),
            Self::V6_12 | Self::V6_12Full => {
                Source::Debian(&["debian trixie", "debian-security trixie-security"])
            }
            Self::Latest => Source::Debian(&["debian sid"]),
            Self::Own => Source::Compiled,
            Self::Host => Source::Running,
        }
    }

    /// What is added to the kernel's command line.
    pub(super) const fn parameters(self) -> &'static str {
        match self {
            Self::V6_12Full => "preempt=full",
            Self::V5_10 | Self::V6_1 | Self::V6_12 | Self::Latest | Self::Own | Self::Host => "",
        }
    }

    /// Whether it runs in a virtual machine.
    pub(super) fn is_guest(self) -> bool {
        self != Self::Host
    }

    /// The directory of what a run on it leaves behind.
    pub(super) fn directory(self) -> PathBuf {
        workspace::target().join("vm").join(self.label())
    }

    /// The directory of its image: twins share theirs.
    fn image_directory(self) -> PathBuf {
        match self {
            Self::V6_12Full => Self::V6_12.directory(),
            _ => self.directory(),
        }
    }

    /// The path of its image, fetched or compiled unless an earlier run has done so; none for what runs already.
    pub(super) fn image(self, shell: &Shell) -> anyhow::Result<Option<PathBuf>> {
        let directory = self.image_directory();
        fs::create_dir_all(&directory)?;
        let image = directory.join(IMAGE);
        let manifest = directory.join(MANIFEST);
        let made_from = match self.source() {
            Source::Debian(_) => None,
            Source::Compiled => Some(own::config_sha256()),
            Source::Running => return Ok(None),
        };
        if Manifest::read(&manifest).is_some_and(|manifest| manifest.tells_of(&image, made_from.as_deref())) {
            return Ok(Some(image));
        }
        let manifest_of_image = match self.source() {
            Source::Debian(sources) => fetch(shell, &directory, sources, &image),
            Source::Compiled => own::compile(shell, &directory, &image),
            Source::Running => return Ok(None),
        };
        let text = serde_json::to_string_pretty(&manifest_of_image?)? + "\n";
        fs::write(&manifest, text).with_context(|| format!("cannot write {}", manifest.display()))?;
        Ok(Some(image))
    }
}

/// Names of the two files that are kept of a kernel.
const IMAGE: &str = "vmlinuz";
const MANIFEST: &str = "vmlinuz.json";

/// What an image was made from.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// The package with the image or the sources.
    pub(super) package: String,
    /// Its version.
    pub(super) version: String,
    /// SHA-256 of the package, as the signed index has it.
    pub(super) package_sha256: String,
    /// SHA-256 of the options, if the image was compiled here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) config_sha256: Option<String>,
    /// SHA-256 of the image.
    pub(super) image_sha256: String,
}

impl Manifest {
    /// The manifest at `path`, if one is there that can be read.
    fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Whether `image` is the one described, made with the options of that hash.
    fn tells_of(&self, image: &Path, config_sha256: Option<&str>) -> bool {
        self.config_sha256.as_deref() == config_sha256
            && fs::read(image).is_ok_and(|bytes| sha256(&bytes) == self.image_sha256)
    }
}

/// Takes the image out of the package that `linux-image-amd64` of `sources` stands for.
fn fetch(shell: &Shell, directory: &Path, sources: &[&str], image: &Path) -> anyhow::Result<Manifest> {
    let archive = Archive::open(shell, &directory.join("apt"), sources)?;
    let mut name = "linux-image-amd64".to_owned();
    // The package that depends on the kernel of the day; the kernel; in newer releases, a third with the image.
    for prefix in ["linux-image-", "linux-binary-"] {
        let package = archive.show(&name)?;
        let next = package.dependency(prefix).with_context(|| format!("{name} depends on no {prefix}*"))?;
        let package = archive.show(next)?;
        let deb = archive.download(&package)?;
        let found = archive.extract(&deb, "*/vmlinuz*");
        fs::remove_file(&deb)?;
        if let Some(found) = found? {
            fs::copy(&found, image)?;
            fs::remove_dir_all(archive.extracted())?;
            eprintln!("{}: {} {}", image.display(), package.name, package.version);
            return Ok(Manifest {
                image_sha256: sha256(&fs::read(image)?),
                package: package.name,
                version: package.version,
                package_sha256: package.sha256,
                config_sha256: None,
            });
        }
        name = package.name;
    }
    anyhow::bail!("no kernel image in the packages that linux-image-amd64 depends on")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_in_order_once_each() {
        assert_eq!(
            Kernel::columns(&[Kernel::Host, Kernel::V5_10, Kernel::Host]),
            [Kernel::V5_10, Kernel::Host]
        );
        assert_eq!(Kernel::columns(&[]).len(), 7);
    }

    #[test]
    fn twin_with_full_preemption_follows_its_kernel_and_comes_alone_too() {
        assert_eq!(Kernel::columns(&[Kernel::V6_12]), [Kernel::V6_12, Kernel::V6_12Full]);
        assert_eq!(Kernel::columns(&[Kernel::V6_12Full]), [Kernel::V6_12Full]);
    }

    #[test]
    fn label_is_the_name_on_the_command_line() {
        for kernel in Kernel::value_variants() {
            assert_eq!(Kernel::from_str(kernel.label(), false).as_ref(), Ok(kernel));
        }
    }

    #[test]
    fn image_that_its_manifest_does_not_tell_of_is_refused() {
        let shell = Shell::new().expect("the current directory exists");
        let scratch = shell.create_temp_dir().expect("the temporary directory is writable");
        let image = scratch.path().join(IMAGE);
        fs::write(&image, "kernel").expect("the directory is writable");
        let manifest = Manifest {
            package: "linux-image-1".to_owned(),
            version: "1".to_owned(),
            package_sha256: String::new(),
            config_sha256: None,
            image_sha256: sha256(b"kernel"),
        };

        assert!(manifest.tells_of(&image, None));
        assert!(!manifest.tells_of(&image, Some("other options")));
        fs::write(&image, "torn").expect("the directory is writable");
        assert!(!manifest.tells_of(&image, None));
    }
}
