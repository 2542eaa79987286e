//! Finds a cgroup: its hierarchy as the kernel numbers it, its number and path there, its members.
//!
//! Layer: shell. Input: a directory under a cgroup mount. Output: [`Cgroup`].
//! Source: `/proc/self/mountinfo`, `/proc/self/cgroup`; `cgroups(7)`. The unified hierarchy has number 0.
//! Keeps: version 1 and version 2 alike.
//! Not here: following tasks that move (the programs do).

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use memtrace_ebpf::CGROUP_PATH_MAX;
use rustix::io::Errno;

/// A cgroup that can be traced.
#[derive(Clone, Debug)]
pub struct Cgroup {
    /// Its directory.
    pub dir: PathBuf,
    /// Number of its hierarchy.
    pub hierarchy: u32,
    /// Its number there: the inode of the directory (`kernfs_ino` of `include/linux/kernfs.h`).
    pub id: u64,
    /// Path within the hierarchy as this cgroup namespace shows it, starting with `/`; empty for the root.
    pub path: String,
}

/// Why a cgroup cannot be traced.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// The directory cannot be read.
    #[error("cannot read the cgroup directory {dir}")]
    Unreadable {
        /// As given.
        dir: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The directory is no cgroup.
    #[error("{dir} is no cgroup: give a directory below a cgroup mount, such as /sys/fs/cgroup/NAME")]
    NoCgroup {
        /// As given.
        dir: PathBuf,
    },
    /// The programs compare paths of a bounded length.
    #[error("the path of the cgroup is longer than {CGROUP_PATH_MAX} bytes: {path}")]
    TooLong {
        /// Path in the hierarchy.
        path: String,
    },
}

impl Cgroup {
    /// The cgroup of the directory `dir`.
    pub fn find(dir: &Path) -> Result<Self, CgroupError> {
        let unreadable = |source| CgroupError::Unreadable { dir: dir.to_owned(), source };
        let no_cgroup = || CgroupError::NoCgroup { dir: dir.to_owned() };
        let real = dir.canonicalize().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => no_cgroup(),
            _ => unreadable(error),
        })?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(unreadable)?;
        let groups = fs::read_to_string("/proc/self/cgroup").map_err(unreadable)?;
        let (hierarchy, path) = locate(&real, &mounts, &groups).ok_or_else(no_cgroup)?;
        if path.len() >= CGROUP_PATH_MAX {
            return Err(CgroupError::TooLong { path });
        }
        let id = real.metadata().map_err(unreadable)?.ino();
        Ok(Self { dir: real, hierarchy, id, path })
    }

    /// Thread-group IDs of all members, those of cgroups below included.
    pub fn members(&self) -> io::Result<Vec<u32>> {
        let mut members = Vec::new();
        let mut dirs = vec![self.dir.clone()];
        while let Some(dir) = dirs.pop() {
            let procs = match fs::read_to_string(dir.join("cgroup.procs")) {
                Ok(procs) => procs,
                Err(error) if is_removal(&error) => continue,
                Err(error) => return Err(error),
            };
            members.extend(procs.lines().filter_map(|line| line.parse::<u32>().ok()));
            let entries = match fs::read_dir(&dir) {
                Ok(entries) => entries,
                Err(error) if is_removal(&error) => continue,
                Err(error) => return Err(error),
            };
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    dirs.push(entry.path());
                }
            }
        }
        members.sort_unstable();
        members.dedup();
        Ok(members)
    }
}

/// Whether the cgroup was removed meanwhile: before its file was opened, or after.
fn is_removal(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NODEV))
}

/// Hierarchy and path of the directory `dir`, from the text of `mountinfo` and of `/proc/self/cgroup`.
fn locate(dir: &Path, mounts: &str, groups: &str) -> Option<(u32, String)> {
    mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, mount_point) = (place.next()?, place.next()?);
        let mut kind = kind.split(' ');
        let (fs_type, options) = (kind.next()?, kind.nth(1)?);
        let below = dir.strip_prefix(mount_point).ok()?.to_str()?;
        let hierarchy = match fs_type {
            "cgroup2" => 0,
            "cgroup" => hierarchy_of(options, groups)?,
            _ => return None,
        };
        let path = format!("{}/{below}", root.trim_end_matches('/'));
        Some((hierarchy, path.trim_end_matches('/').to_owned()))
    })
}

/// Number of the version 1 hierarchy whose mount has these super-block options.
fn hierarchy_of(options: &str, groups: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, controllers) = (fields.next()?, fields.next()?);
        let all = !controllers.is_empty()
            && controllers.split(',').all(|name| options.split(',').any(|option| option == name));
        all.then(|| number.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 24 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
31 24 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n\
32 24 0:28 /box /mnt/cpu rw - cgroup cgroup rw,cpu,cpuacct\n";
    const GROUPS: &str = "7:memory:/\n3:cpu,cpuacct:/box\n0::/\n";

    #[test]
    fn version_1_mount_has_the_number_of_its_controllers() {
        let found = locate(Path::new("/sys/fs/cgroup/memory/a/b"), MOUNTS, GROUPS);

        assert_eq!(found, Some((7, "/a/b".to_owned())));
    }

    #[test]
    fn unified_hierarchy_is_number_0() {
        let found = locate(Path::new("/sys/fs/cgroup/unified"), MOUNTS, GROUPS);

        assert_eq!(found, Some((0, String::new())));
    }

    #[test]
    fn mount_of_a_subtree_keeps_the_path_in_the_hierarchy() {
        let found = locate(Path::new("/mnt/cpu/x"), MOUNTS, GROUPS);

        assert_eq!(found, Some((3, "/box/x".to_owned())));
    }

    #[test]
    fn other_directory_is_no_cgroup() {
        assert_eq!(locate(Path::new("/home"), MOUNTS, GROUPS), None);
    }
}
