//! File systems of a test's own.
//!
//! Input: the kind and its options. Output: [`Mounted`], unmounted at its end.
//! Not here: what is mounted on the machine already (`cgroup`).

use std::{ffi::CString, path::Path};

use rustix::{
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
};
use tempfile::TempDir;

/// A file system that is mounted for a while.
#[derive(Debug)]
pub struct Mounted {
    dir: TempDir,
}

impl Mounted {
    /// Mounts a file system of this kind with these options.
    pub fn new(kind: &str, options: &str) -> Result<Self, Errno> {
        // Blanks are escaped in the table of mounts.
        let dir = TempDir::with_prefix("memtrace of\ttests-").expect("a temporary directory");
        let options = CString::new(options).expect("no zeros");
        mount("memtrace", dir.path(), kind, MountFlags::empty(), options.as_c_str())?;
        Ok(Self { dir })
    }

    /// Where.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // To panic at the end of a test that fails would end the others too.
        if let Err(error) = unmount(self.path(), UnmountFlags::empty()) {
            eprintln!("{} stays mounted: {error}", self.path().display());
        }
    }
}
