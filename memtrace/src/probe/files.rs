//! Reads the kernel's small files: one number, one word or one list each.
//!
//! Layer: shell. Input: paths. Output: values; `None` for a file that is not there.
//! Source: `Documentation/filesystems/sysfs.rst` (one value a file), `sysfs-kernel-mm-transparent-hugepage` (brackets).
//! Keeps: what this kernel lacks, and what was removed meanwhile, is `None` and no error.
//! Not here: which files there are, and what they mean (`hugetlb`, `thp`, `ksm`, `cgroups`, `nodes`).

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use rustix::io::Errno;

/// The directory below which `/proc`, `/sys` and mount points are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    dir: PathBuf,
}

impl Root {
    /// The root of this system.
    #[must_use]
    pub fn system() -> Self {
        Self::at("/")
    }

    /// Another root: that of a tree with copies of files.
    #[must_use]
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Where the absolute `path` is below this root.
    pub(super) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.dir.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// Why a file of the kernel does not tell what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It is for more privileged users.
    #[error("cannot read {path}: needs root")]
    Denied {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused for another reason.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file is not there that belongs to others that are.
    #[error("{path} is missing: a root must have the files of one kernel")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The content is not what kernels are known to write.
    #[error("cannot understand '{text}' in {path}: memtrace may be older than the kernel")]
    Strange {
        /// The file.
        path: PathBuf,
        /// What is in it, or the part that was not understood.
        text: String,
    },
}

impl FileError {
    /// What the kernel said when `path` was to be read.
    pub(super) fn of(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        if source.kind() == io::ErrorKind::PermissionDenied {
            Self::Denied { path, source }
        } else {
            Self::Unreadable { path, source }
        }
    }
}

/// The bytes of the file `path`.
pub(super) fn bytes(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    present(path, fs::read(path))
}

/// The text of the file `path`.
pub(super) fn text(path: &Path) -> Result<Option<String>, FileError> {
    let bytes = bytes(path)?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// The value that `parse` finds in the file `path`, without blanks around it.
pub(super) fn parsed<T>(path: &Path, parse: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>, FileError> {
    let Some(text) = text(path)? else {
        return Ok(None);
    };
    let text = text.trim();
    let value = parse(text);
    value.map(Some).ok_or_else(|| FileError::Strange { path: path.to_owned(), text: text.to_owned() })
}

/// The number in the file `path`.
pub(super) fn number<T: FromStr>(path: &Path) -> Result<Option<T>, FileError> {
    parsed(path, |text| text.parse().ok())
}

/// As [`number`], of a file that is there if its directory is.
pub(super) fn needed<T: FromStr>(path: &Path) -> Result<T, FileError> {
    number(path)?.ok_or_else(|| FileError::Missing { path: path.to_owned() })
}

/// Whether the switch of the file `path` is on.
pub(super) fn switch(path: &Path) -> Result<Option<bool>, FileError> {
    parsed(path, |text| match text {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    })
}

/// The chosen one of the words in the file `path`, which stands in brackets.
pub(super) fn choice(path: &Path) -> Result<Option<String>, FileError> {
    parsed(path, |text| {
        let mut words = text.split_ascii_whitespace();
        words.find_map(|word| Some(word.strip_prefix('[')?.strip_suffix(']')?.to_owned()))
    })
}

/// The names in the directory `path`.
pub(super) fn names(path: &Path) -> Result<Option<Vec<OsString>>, FileError> {
    let names = fs::read_dir(path).and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect());
    present(path, names)
}

/// The entries of the directory `path` whose names `parse` knows, by what it makes of them, in ascending order.
pub(super) fn entries<T: Ord>(
    path: &Path,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<(T, PathBuf)>, FileError> {
    let names = names(path)?.unwrap_or_default();
    let known = names.iter().filter_map(|name| Some((parse(name.to_str()?)?, path.join(name))));
    let mut entries: Vec<_> = known.collect();
    entries.sort_unstable();
    Ok(entries)
}

/// What was read of `path`; `None` if it is not there.
fn present<T>(path: &Path, result: io::Result<T>) -> Result<Option<T>, FileError> {
    let path = || path.to_owned();
    match result {
        Ok(value) => Ok(Some(value)),
        // A process that died, and a cgroup that was removed, say it in their own way.
        Err(error)
            if matches!(
                Errno::from_io_error(&error),
                Some(Errno::NOENT | Errno::NOTDIR | Errno::SRCH | Errno::NODEV)
            ) =>
        {
            Ok(None)
        }
        Err(source) => Err(FileError::of(&path(), source)),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use tempfile::TempDir;

    use super::*;

    /// A tree with these files, absolute paths and texts; gone with the directory.
    pub(in super::super) fn tree<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> (TempDir, Root) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = Root::at(dir.path());
        for (path, text) in files {
            let path = root.path(path);
            fs::create_dir_all(path.parent().expect("a file is in a directory")).expect("room");
            fs::write(path, text).expect("room");
        }
        (dir, root)
    }

    #[test]
    fn file_that_is_not_there_is_none() {
        let (_dir, root) = tree([("/sys/one", "1\n")]);

        assert_eq!(number::<u64>(&root.path("/sys/two")).expect("no error"), None);
        assert_eq!(number::<u64>(&root.path("/sys/one/two")).expect("no error"), None);
        assert_eq!(names(&root.path("/sys/two")).expect("no error"), None);
        let error = needed::<u64>(&root.path("/sys/two")).expect_err("it is needed");
        assert!(error.to_string().ends_with("/sys/two is missing: a root must have the files of one kernel"));
    }

    #[test]
    fn chosen_word_stands_in_brackets() {
        let (_dir, root) = tree([("/a", "always defer defer+madvise [madvise] never\n"), ("/b", "never\n")]);

        assert_eq!(choice(&root.path("/a")).expect("a word").as_deref(), Some("madvise"));
        let error = choice(&root.path("/b")).expect_err("nothing is chosen");
        assert!(error.to_string().starts_with("cannot understand 'never' in "), "{error}");
    }

    #[test]
    fn other_text_than_a_number_is_an_error_with_the_path() {
        let (_dir, root) = tree([("/n", "-1\n")]);

        assert_eq!(number::<i64>(&root.path("/n")).expect("a number"), Some(-1));
        let error = number::<u64>(&root.path("/n")).expect_err("it is negative");
        assert!(
            matches!(error, FileError::Strange { path, text } if path == root.path("/n") && text == "-1")
        );
    }
}
