//! The archive of files that a guest starts with.
//!
//! Input: paths of this machine. Output: a `newc` archive, as `Documentation/driver-api/early-userspace/buffer-format.rst`
//! of the kernel has it, with each at the same path.
//! Keeps: links stay links, with what they point to; nothing is ever written through one.
//! Not here: which files a guest needs (`guest`).

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufWriter, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Component, Path, PathBuf},
};

use anyhow::Context as _;
use cpio::newc::{Builder, ModeFileType, trailer};
use xshell::{Shell, cmd};

/// What a guest starts with, by path.
#[derive(Debug, Default)]
pub(super) struct Initramfs {
    entries: BTreeMap<PathBuf, Entry>,
}

#[derive(Debug)]
enum Entry {
    Directory {
        mode: u32,
    },
    Link {
        to: PathBuf,
    },
    /// The file of this machine with that path.
    Copy {
        of: PathBuf,
    },
    Text {
        text: String,
        mode: u32,
    },
}

impl Initramfs {
    /// Makes a directory, and those above it.
    pub(super) fn directory(&mut self, path: impl AsRef<Path>, mode: u32) {
        let path = path.as_ref();
        self.parents(path);
        let _ = self.entries.insert(path.to_owned(), Entry::Directory { mode });
    }

    /// Makes a link.
    pub(super) fn link(&mut self, path: impl AsRef<Path>, to: impl Into<PathBuf>) {
        self.parents(path.as_ref());
        let _ = self.entries.insert(path.as_ref().to_owned(), Entry::Link { to: to.into() });
    }

    /// Makes a file with that content.
    pub(super) fn text(&mut self, path: impl AsRef<Path>, text: impl Into<String>, mode: u32) {
        self.parents(path.as_ref());
        let _ = self.entries.insert(path.as_ref().to_owned(), Entry::Text { text: text.into(), mode });
    }

    /// Takes the file `of` at the place `path`, whose directories are taken as they are on this machine.
    pub(super) fn copy_as(&mut self, path: &Path, of: PathBuf) -> anyhow::Result<()> {
        let parent = path.parent().with_context(|| format!("{} is in no directory", path.display()))?;
        let _ = self.copy(parent)?;
        let _ = self.entries.insert(path.to_owned(), Entry::Copy { of });
        Ok(())
    }

    /// Takes `path`, links and directories on the way included, and says where it ends up. Of a directory only the
    /// directory itself is taken.
    pub(super) fn copy(&mut self, path: &Path) -> anyhow::Result<PathBuf> {
        let mut at = PathBuf::from("/");
        for component in path.components() {
            match component {
                Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
                Component::ParentDir => {
                    let _ = at.pop();
                }
                Component::Normal(name) => at = self.copy_component(at.join(name))?,
            }
        }
        Ok(at)
    }

    /// Takes `path`, in whose directory there is no link, and says what it stands for.
    fn copy_component(&mut self, path: PathBuf) -> anyhow::Result<PathBuf> {
        let metadata =
            fs::symlink_metadata(&path).with_context(|| format!("cannot take {}", path.display()))?;
        if metadata.is_symlink() {
            let to = fs::read_link(&path)?;
            let target = path.parent().unwrap_or(Path::new("/")).join(&to);
            let _ = self.entries.insert(path, Entry::Link { to });
            return self.copy(&target);
        }
        let _ = self.entries.entry(path.clone()).or_insert_with(|| {
            if metadata.is_dir() {
                Entry::Directory { mode: 0o755 }
            } else {
                Entry::Copy { of: path.clone() }
            }
        });
        Ok(path)
    }

    /// Takes a program or library and the libraries that it is linked with.
    pub(super) fn program(&mut self, shell: &Shell, path: &Path) -> anyhow::Result<()> {
        let path = self.copy(path)?;
        self.libraries(shell, &path)
    }

    /// Takes the libraries that `path` is linked with.
    pub(super) fn libraries(&mut self, shell: &Shell, path: &Path) -> anyhow::Result<()> {
        // It fails for what is not linked dynamically, scripts included.
        let listed = cmd!(shell, "ldd {path}").quiet().ignore_stderr().ignore_status().read()?;
        for library in libraries(&listed) {
            let _ = self.copy(Path::new(library))?;
        }
        Ok(())
    }

    /// Takes the tree at `path`, without that whose name begins as one of `leave`.
    pub(super) fn tree(&mut self, path: &Path, leave: &[&str]) -> anyhow::Result<()> {
        let path = self.copy(path)?;
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            if leave.iter().any(|begin| entry.file_name().to_string_lossy().starts_with(begin)) {
                continue;
            }
            if entry.file_type()?.is_dir() {
                self.tree(&entry.path(), leave)?;
            } else if entry.path().exists() {
                let _ = self.copy(&entry.path())?;
            }
        }
        Ok(())
    }

    fn parents(&mut self, path: &Path) {
        for parent in path.ancestors().skip(1) {
            let _ = self.entries.entry(parent.to_owned()).or_insert(Entry::Directory { mode: 0o755 });
        }
    }

    /// Writes the archive.
    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let mut out =
            BufWriter::new(File::create(path).with_context(|| format!("cannot write {}", path.display()))?);
        for (ino, (name, entry)) in (1..).zip(&self.entries) {
            let (kind, mode, content) = entry.content()?;
            let name = name.strip_prefix("/").unwrap_or(name);
            if name.as_os_str().is_empty() {
                continue;
            }
            let name = name.to_str().with_context(|| format!("not UTF-8: {}", name.display()))?;
            let size = u32::try_from(content.len()).with_context(|| format!("{name} is too large"))?;
            let header = Builder::new(name).ino(ino).mode(mode).set_mode_file_type(kind);
            let mut writer = header.write(&mut out, size);
            writer.write_all(&content)?;
            let _ = writer.finish()?;
        }
        trailer(&mut out)?.flush()?;
        Ok(())
    }
}

impl Entry {
    /// Its type, its permissions and its bytes.
    fn content(&self) -> anyhow::Result<(ModeFileType, u32, Vec<u8>)> {
        Ok(match self {
            Self::Directory { mode } => (ModeFileType::Directory, *mode, Vec::new()),
            Self::Link { to } => (ModeFileType::Symlink, 0o777, to.as_os_str().as_encoded_bytes().to_vec()),
            Self::Copy { of } => {
                let content = fs::read(of).with_context(|| format!("cannot read {}", of.display()))?;
                (ModeFileType::Regular, fs::metadata(of)?.permissions().mode() & 0o777, content)
            }
            Self::Text { text, mode } => (ModeFileType::Regular, *mode, text.clone().into_bytes()),
        })
    }
}

/// The paths in what `ldd` prints.
fn libraries(listed: &str) -> impl Iterator<Item = &str> {
    listed.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use cpio::newc::Reader;

    use super::*;

    /// Names and contents in the archive at `path`.
    fn read(path: &Path) -> BTreeMap<String, String> {
        let mut file = File::open(path).expect("the archive was written");
        let mut found = BTreeMap::new();
        loop {
            let mut reader = Reader::new(file).expect("an entry follows");
            if reader.entry().is_trailer() {
                return found;
            }
            let name = reader.entry().name().to_owned();
            let content = std::io::read_to_string(&mut reader).expect("the content is text");
            let _ = found.insert(name, content);
            file = reader.finish().expect("the entry ends");
        }
    }

    #[test]
    fn link_is_kept_and_what_it_points_to_is_taken() {
        let shell = Shell::new().expect("the current directory exists");
        let scratch = shell.create_temp_dir().expect("the temporary directory is writable");
        let directory = fs::canonicalize(scratch.path()).expect("it was just made");
        fs::create_dir(directory.join("real")).expect("the directory is writable");
        fs::write(directory.join("real/tool"), "tool").expect("the directory is writable");
        symlink("real", directory.join("bin")).expect("the directory is writable");
        symlink("tool", directory.join("real/alias")).expect("the directory is writable");

        let mut initramfs = Initramfs::default();
        let end = initramfs.copy(&directory.join("bin/../bin/alias")).expect("all of it exists");
        let archive = directory.join("archive");
        initramfs.write(&archive).expect("the directory is writable");

        assert_eq!(end, directory.join("real/tool"));
        let found = read(&archive);
        let content = |name: &str| {
            let path = directory.join(name);
            found.get(&path.display().to_string()[1..]).map(String::as_str)
        };
        assert_eq!(content("bin"), Some("real"));
        assert_eq!(content("real/alias"), Some("tool"));
        assert_eq!(content("real/tool"), Some("tool"));
        assert_eq!(content("real"), Some(""));
    }

    #[test]
    fn file_without_a_place_gets_its_directories() {
        let shell = Shell::new().expect("the current directory exists");
        let scratch = shell.create_temp_dir().expect("the temporary directory is writable");
        let archive = scratch.path().join("archive");

        let mut initramfs = Initramfs::default();
        initramfs.text("/a/b", "text", 0o644);
        initramfs.write(&archive).expect("the directory is writable");

        let names: Vec<_> = read(&archive).into_keys().collect();
        assert_eq!(names, ["a", "a/b"]);
    }

    #[test]
    fn libraries_are_the_paths_that_ldd_resolved() {
        let listed = "\tlinux-vdso.so.1 (0x00007fc8afc40000)
\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007fc8afb4f000)
\tlibabsent.so => not found
\t/lib64/ld-linux-x86-64.so.2 (0x00007fc8afc42000)
";

        let found: Vec<_> = libraries(listed).collect();

        assert_eq!(found, ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"]);
    }
}
