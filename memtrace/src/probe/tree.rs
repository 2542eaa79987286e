//! Finds the files below a directory.
//!
//! Layer: shell. Input: a path. Output: paths of regular files.
//! Source: `walk_page_cache` of `tools/mm/page-types.c`, whose choice of files this is.
//! Keeps: symbolic links below the path are not followed, nor are directories of other file systems entered; memory is bounded by
//! the depth of the tree, up to a depth of 64, and not by the number of files.
//! Not here: opening files (`object`).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use walkdir::WalkDir;

use super::files::FileError;

/// Directories that are open at a time; of others all names are kept in memory.
const MAX_OPEN: usize = 64;

/// The regular files below the directory `path`, in no order; or `path` itself, whatever it is, if it is no directory.
///
/// If it is a symbolic link, what that leads to is meant. A directory that cannot be read is an error among the files, and the
/// rest is found all the same. Files may be gone when they are opened.
pub fn files(path: &Path) -> impl Iterator<Item = Result<PathBuf, FileError>> + use<> {
    let target = if path.is_symlink() { fs::canonicalize(path).ok() } else { None };
    let path = target.unwrap_or_else(|| path.to_owned());
    let entries = WalkDir::new(&path).max_open(MAX_OPEN).same_file_system(true);
    entries.into_iter().filter_map(move |entry| match entry {
        Ok(entry) => {
            let kind = entry.file_type();
            let is_meant = kind.is_file() || entry.depth() == 0 && !kind.is_dir();
            is_meant.then(|| Ok(entry.into_path()))
        }
        Err(error) => {
            let path = error.path().unwrap_or(&path).to_owned();
            // Only links that are followed have another cause.
            let cause = error.into_io_error().unwrap_or_else(|| io::ErrorKind::Other.into());
            Some(Err(FileError::of(&path, cause)))
        }
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use tempfile::TempDir;

    use super::*;

    /// A directory with the files `a`, `sub/b` and `sub/deep/c`, a socket, and links to a file, to the outside and to itself.
    fn directory() -> TempDir {
        let dir = tempfile::tempdir().expect("room");
        let path = |name: &str| dir.path().join(name);
        fs::create_dir_all(path("sub/deep")).expect("room");
        for name in ["a", "sub/b", "sub/deep/c"] {
            fs::write(path(name), name).expect("room");
        }
        UnixListener::bind(path("socket")).expect("room");
        symlink("a", path("link")).expect("room");
        symlink("/usr", path("sub/outside")).expect("room");
        symlink("..", path("sub/loop")).expect("room");
        dir
    }

    /// The files below `path`, relative to it and sorted.
    fn names(path: &Path) -> Vec<PathBuf> {
        let name = |file: PathBuf| file.strip_prefix(path).expect("below it").to_owned();
        let mut names: Vec<_> = files(path).map(|file| name(file.expect("our own"))).collect();
        names.sort();
        names
    }

    fn only(path: &Path) -> PathBuf {
        let mut files = files(path);
        let file = files.next().expect("one").expect("no error");
        assert!(files.next().is_none());
        file
    }

    #[test]
    fn regular_files_are_found_and_links_are_not_followed() {
        let dir = directory();

        assert_eq!(names(dir.path()), ["a", "sub/b", "sub/deep/c"].map(PathBuf::from));
    }

    #[test]
    fn path_that_is_no_directory_is_what_is_found() {
        let dir = directory();

        for name in ["a", "socket"] {
            let path = dir.path().join(name);
            assert_eq!(only(&path), path);
        }
    }

    #[test]
    fn link_stands_for_what_it_leads_to() {
        let dir = directory();
        let top = fs::canonicalize(dir.path()).expect("it is there");

        assert_eq!(only(&dir.path().join("link")), top.join("a"));
        let mut below: Vec<_> = files(&dir.path().join("sub/loop")).flatten().collect();
        below.sort();
        assert_eq!(below, ["a", "sub/b", "sub/deep/c"].map(|name| top.join(name)));
    }

    #[test]
    fn path_that_is_not_there_is_an_error_with_its_name() {
        let dir = directory();
        symlink("nowhere", dir.path().join("dangling")).expect("room");

        for name in ["nowhere", "dangling"] {
            let missing = dir.path().join(name);
            let found: Vec<_> = files(&missing).collect();
            assert!(
                matches!(&found[..], [Err(FileError::Unreadable { path, .. })] if *path == missing),
                "{found:?}"
            );
        }
    }
}
