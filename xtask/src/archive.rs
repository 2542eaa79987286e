//! Takes packages from Debian's archive without touching what this machine has installed.
//!
//! Input: suites. Output: what the signed index says of a package, and files out of it.
//! Source: apt, under a configuration of its own (`apt.conf(5)`); it verifies indexes by the archive's keyring, and
//! packages by the indexes.
//! Keeps: nothing is installed; state, lists and cache are in the directory given.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use sha2::{Digest as _, Sha256};
use xshell::{Shell, cmd};

const MIRROR: &str = "http://deb.debian.org";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where the sources of kernels are, and which of them.
const KERNEL_SUITE: &str = "debian bookworm-backports";
const KERNEL_SOURCES: &str = "linux-source-6.12";

/// Some suites of the archive.
pub(crate) struct Archive<'a> {
    shell: &'a Shell,
    directory: PathBuf,
}

/// What the index says of a package.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// The version that apt prefers.
    pub(crate) version: String,
    /// SHA-256 of its file.
    pub(crate) sha256: String,
    /// Names of the packages that it depends on.
    depends: Vec<String>,
}

impl<'a> Archive<'a> {
    /// Reads the indexes of `sources`, each `archive suite`, into `directory`.
    pub(crate) fn open(shell: &'a Shell, directory: &Path, sources: &[&str]) -> anyhow::Result<Self> {
        if !Path::new(KEYRING).exists() {
            bail!("{KEYRING} is missing: apt-get install debian-archive-keyring");
        }
        let archive = Self { shell, directory: directory.to_owned() };
        for part in ["lists/partial", "cache/archives/partial", "preferences.d"] {
            fs::create_dir_all(directory.join(part))?;
        }
        fs::write(directory.join("status"), "")?;
        let sources: Vec<_> = sources
            .iter()
            .map(|source| format!("deb [arch=amd64 signed-by={KEYRING}] {MIRROR}/{source} main\n"))
            .collect();
        fs::write(directory.join("sources.list"), sources.concat())?;
        fs::write(archive.config(), configuration(directory))?;
        archive
            .apt(cmd!(shell, "apt-get update --quiet=2"))
            .run()
            .context("cannot read the archive's indexes")?;
        Ok(archive)
    }

    fn config(&self) -> PathBuf {
        self.directory.join("apt.conf")
    }

    /// `command`, under the configuration of this archive.
    fn apt<'s>(&self, command: xshell::Cmd<'s>) -> xshell::Cmd<'s> {
        command.env("APT_CONFIG", self.config()).env("LC_ALL", "C").quiet()
    }

    /// What the index says of the package `name`.
    pub(crate) fn show(&self, name: &str) -> anyhow::Result<Package> {
        let text = self.apt(cmd!(self.shell, "apt-cache show --no-all-versions {name}")).read()?;
        Package::parse(&text).with_context(|| format!("cannot make out what apt-cache says of {name}"))
    }

    /// Downloads `package`, which apt verifies, and says where it is.
    pub(crate) fn download(&self, package: &Package) -> anyhow::Result<PathBuf> {
        let Package { name, version, sha256: expected, depends: _ } = package;
        eprintln!("downloading {name} {version}");
        let _there = self.shell.push_dir(&self.directory);
        self.apt(cmd!(self.shell, "apt-get download --quiet=2 {name}={version}")).run()?;
        let begin = format!("{name}_");
        let deb = fs::read_dir(&self.directory)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| {
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&begin))
                    && path.extension().is_some_and(|extension| extension == "deb")
            })
            .with_context(|| format!("apt-get download left no {begin}*.deb"))?;
        let found = sha256(&fs::read(&deb)?);
        if found != *expected {
            bail!("{} has SHA-256 {found}, its index says {expected}", deb.display());
        }
        Ok(deb)
    }

    /// Where [`Self::extract`] puts files.
    pub(crate) fn extracted(&self) -> PathBuf {
        self.directory.join("extracted")
    }

    /// Takes the file whose path matches `pattern` out of `deb`, if there is one.
    pub(crate) fn extract(&self, deb: &Path, pattern: &str) -> anyhow::Result<Option<PathBuf>> {
        let directory = self.extracted();
        fs::create_dir_all(&directory)?;
        let mut unpack =
            Command::new("dpkg-deb").arg("--fsys-tarfile").arg(deb).stdout(Stdio::piped()).spawn()?;
        let archive = unpack.stdout.take().context("dpkg-deb has no stdout")?;
        // It fails if nothing matches, which is an answer.
        let tar = Command::new("tar")
            .args(["--extract", "--verbose", "--wildcards", "--file=-", "--directory"])
            .args([&directory, Path::new(pattern)])
            .stdin(archive)
            .stderr(Stdio::null())
            .output()?;
        if !unpack.wait()?.success() {
            bail!("dpkg-deb cannot read {}", deb.display());
        }
        let names = String::from_utf8(tar.stdout)?;
        Ok(names.lines().map(|name| directory.join(name)).find(|path| path.is_file()))
    }
}

impl Package {
    /// Reads the first paragraph of `text`, in the format of `deb822(5)`.
    fn parse(text: &str) -> Option<Self> {
        let paragraph = text.split("\n\n").next()?;
        let field = |name: &str| {
            paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
        };
        let depends = field("Depends").unwrap_or_default();
        let names = depends.split([',', '|']).filter_map(|one| one.split_whitespace().next());
        Some(Self {
            name: field("Package")?,
            version: field("Version")?,
            sha256: field("SHA256")?,
            depends: names.map(str::to_owned).collect(),
        })
    }

    /// The first package with that beginning that it depends on.
    pub(crate) fn dependency(&self, prefix: &str) -> Option<&str> {
        self.depends.iter().map(String::as_str).find(|name| name.starts_with(prefix))
    }
}

/// Downloads the sources of a kernel into `directory`: the package that they are in, and the compressed archive.
pub(crate) fn kernel_sources(shell: &Shell, directory: &Path) -> anyhow::Result<(Package, PathBuf)> {
    let archive = Archive::open(shell, directory, &[KERNEL_SUITE])?;
    let package = archive.show(KERNEL_SOURCES)?;
    let deb = archive.download(&package)?;
    let sources = archive.extract(&deb, "*/linux-source-*.tar.xz")?;
    fs::remove_file(&deb)?;
    let sources = sources.with_context(|| format!("no sources in {}", deb.display()))?;
    Ok((package, sources))
}

/// Fails unless all of `needed` are installed, each a file that tells of it and its package; `purpose` is what for.
pub(crate) fn require(purpose: &str, needed: &[(&str, &str)]) -> anyhow::Result<()> {
    let missing: Vec<_> =
        needed.iter().filter(|(file, _)| !Path::new(file).exists()).map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        bail!("cannot {purpose}: apt-get install {}", missing.join(" "));
    }
    Ok(())
}

/// The configuration of an apt whose world is `directory`.
fn configuration(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        r#"Dir::State "{directory}";
Dir::State::Lists "{directory}/lists";
Dir::State::status "{directory}/status";
Dir::Cache "{directory}/cache";
Dir::Etc::sourcelist "{directory}/sources.list";
Dir::Etc::sourceparts "-";
Dir::Etc::preferences "{directory}/preferences";
Dir::Etc::preferencesparts "{directory}/preferences.d";
APT::Architecture "amd64";
APT::Architectures "amd64";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
"#
    )
}

/// The SHA-256 of `bytes` in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "Package: linux-image-7.2.13+deb14-amd64
Source: linux-signed-amd64 (7.2.13+1)
Version: 7.2.13-1
Depends: dracut | initramfs-tools (>= 0.120+deb8u2), linux-binary-7.2.13+deb14-amd64 (= 7.2.13-1)
Description: Linux 7.2.13 for 64-bit PCs
SHA256: 28dc

Package: linux-image-7.2.13+deb14-amd64
Version: 7.2.12-1
SHA256: 3ccf
";

    #[test]
    fn first_paragraph_is_the_version_that_apt_prefers() {
        let package = Package::parse(SHOWN).expect("all fields are there");

        assert_eq!(package.name, "linux-image-7.2.13+deb14-amd64");
        assert_eq!(package.version, "7.2.13-1");
        assert_eq!(package.sha256, "28dc");
    }

    #[test]
    fn dependency_is_found_by_its_beginning_without_its_version() {
        let package = Package::parse(SHOWN).expect("all fields are there");

        assert_eq!(package.dependency("linux-binary-"), Some("linux-binary-7.2.13+deb14-amd64"));
        assert_eq!(package.dependency("initramfs"), Some("initramfs-tools"));
        assert_eq!(package.dependency("linux-image-"), None);
    }

    #[test]
    fn package_without_a_hash_is_refused() {
        assert_eq!(Package::parse("Package: a\nVersion: 1\n"), None);
    }
}
