//! Finds the memory cgroup of a page: from the inode in `/proc/kpagecgroup` to a path.
//!
//! Layer: shell. Input: a [`Root`]; inode numbers. Output: paths in the hierarchy.
//! Source: `Documentation/admin-guide/mm/pagemap.rst`; `mm/memcontrol.c` (`page_cgroup_ino`); `fs/kernfs/dir.c`: inode numbers
//! are given in turn, so that one that is not found is never that of a later cgroup.
//! Keeps: a path is that of a cgroup which is still there; the tree is walked when an unknown inode is asked for, once each.
//! Not here: reading `/proc/kpagecgroup` (`probe::walk`); cgroups as targets (`live::cgroup`).

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{DirEntryExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use super::{
    files::{self, FileError, Root},
    mounts::{self, Mount},
};

/// The hierarchy that counts memory, as far as it is mounted.
#[derive(Debug)]
pub struct MemoryCgroups {
    /// Where it is mounted.
    dir: PathBuf,
    /// The path, in the hierarchy, of the cgroup that is mounted there.
    top: PathBuf,
    /// Path below `top` by inode; `None` for those that were not there.
    known: BTreeMap<u64, Option<PathBuf>>,
}

impl MemoryCgroups {
    /// Finds the hierarchy; `None` if it is not mounted, or the kernel does not count memory by cgroup.
    ///
    /// It is that of version 1 if its controller `memory` is mounted, or else that of version 2 if it has this controller. Of
    /// several mounts it is that which shows most.
    pub fn find(root: &Root) -> Result<Option<Self>, FileError> {
        let mut best: Option<Mount> = None;
        for mount in mounts::mounts(root)? {
            let depth = |mount: &Mount| mount.top.components().count();
            if best.as_ref().is_none_or(|best| depth(&mount) < depth(best)) && counts_memory(root, &mount) {
                best = Some(mount);
            }
        }
        Ok(best.map(|Mount { point, top, .. }| Self { dir: root.path(point), top, known: BTreeMap::new() }))
    }

    /// The path of the cgroup of this inode, as `/proc/PID/cgroup` shows it.
    ///
    /// `None` if it was removed, is outside what is mounted or cannot be scanned; and for 0, which stands for no cgroup.
    pub fn path(&mut self, inode: u64) -> Option<PathBuf> {
        if inode == 0 {
            return None;
        }
        let is_there = |below: &PathBuf| is_of(&self.dir.join(below), inode);
        match self.known.get(&inode) {
            Some(None) => {}
            Some(Some(below)) if is_there(below) => {}
            _ => self.walk(inode),
        }
        let below = self.known.get(&inode)?.as_ref()?;
        // An empty path would leave a slash at the end.
        Some(self.top.join(below).components().collect())
    }

    /// Learns all cgroups that there are, and that `asked` is none if it is not among them.
    fn walk(&mut self, asked: u64) {
        self.known.retain(|_, below| below.is_none());
        let mut rest = vec![PathBuf::new()];
        if let Ok(top) = fs::metadata(&self.dir) {
            self.known.insert(top.ino(), Some(PathBuf::new()));
        }
        while let Some(below) = rest.pop() {
            // Removed meanwhile, or not for us.
            let Ok(entries) = fs::read_dir(self.dir.join(&below)) else {
                continue;
            };
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    let below = below.join(entry.file_name());
                    self.known.insert(entry.ino(), Some(below.clone()));
                    rest.push(below);
                }
            }
        }
        self.known.entry(asked).or_insert(None);
    }
}

/// Whether `mount` is of the hierarchy that counts memory.
fn counts_memory(root: &Root, mount: &Mount) -> bool {
    match mount.kind.as_str() {
        "cgroup" => mount.option("memory").is_some(),
        "cgroup2" => {
            // One that cannot be read, or that another is mounted over, is of no use.
            let controllers = files::text(&root.path(mount.point.join("cgroup.controllers")));
            let controllers = controllers.ok().flatten().unwrap_or_default();
            controllers.split_ascii_whitespace().any(|one| one == "memory")
        }
        _ => false,
    }
}

/// Whether the directory `dir` has this inode.
fn is_of(dir: &Path, inode: u64) -> bool {
    fs::metadata(dir).is_ok_and(|dir| dir.ino() == inode)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::{super::files::tests::tree, *};

    const VERSION_1: &str = "31 23 0:28 / /cg rw - tmpfs tmpfs rw\n\
        32 31 0:29 / /cg/cpu rw - cgroup cgroup rw,cpu\n\
        35 31 0:32 / /cg/memory rw - cgroup cgroup rw,memory\n\
        41 31 0:38 / /cg/unified rw - cgroup2 cgroup2 rw\n";

    /// A tree with this table of mounts, and these cgroups below `/cg`.
    fn mounted(table: &str, controllers: &[(&str, &str)], cgroups: &[&str]) -> (TempDir, Root) {
        let files = controllers.iter().copied().chain([("/proc/self/mountinfo", table)]);
        let (dir, root) = tree(files);
        for path in cgroups {
            fs::create_dir_all(root.path(path)).expect("room");
        }
        (dir, root)
    }

    fn inode(root: &Root, path: &str) -> u64 {
        fs::metadata(root.path(path)).expect("it was made").ino()
    }

    fn find(root: &Root) -> MemoryCgroups {
        MemoryCgroups::find(root).expect("a table").expect("memory is counted")
    }

    #[test]
    fn version_1_has_the_mount_of_its_controller() {
        let (_dir, root) = mounted(
            VERSION_1,
            &[("/cg/unified/cgroup.controllers", "hugetlb\n")],
            &["/cg/memory/a/b", "/cg/cpu/a"],
        );
        let mut cgroups = find(&root);

        assert_eq!(cgroups.path(inode(&root, "/cg/memory")), Some("/".into()));
        assert_eq!(cgroups.path(inode(&root, "/cg/memory/a")), Some("/a".into()));
        assert_eq!(cgroups.path(inode(&root, "/cg/memory/a/b")), Some("/a/b".into()));
        assert_eq!(cgroups.path(inode(&root, "/cg/cpu/a")), None);
        assert_eq!(cgroups.path(0), None);
    }

    #[test]
    fn version_2_has_it_if_it_has_the_controller() {
        let table = "30 23 0:26 / /cg rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let (_dir, root) =
            mounted(table, &[("/cg/cgroup.controllers", "cpuset cpu memory pids\n")], &["/cg/a b"]);
        let (_other_dir, without) = mounted(table, &[("/cg/cgroup.controllers", "cpu pids\n")], &[]);

        assert_eq!(find(&root).path(inode(&root, "/cg/a b")), Some("/a b".into()));
        assert!(MemoryCgroups::find(&without).expect("a table").is_none());
    }

    #[test]
    fn mount_of_a_subtree_tells_what_is_below_by_the_path_in_the_hierarchy() {
        let table = "35 31 0:32 /docker/box /cg rw - cgroup cgroup rw,memory\n";
        let (_dir, root) = mounted(table, &[], &["/cg/x"]);

        assert_eq!(find(&root).path(inode(&root, "/cg")), Some("/docker/box".into()));
        assert_eq!(find(&root).path(inode(&root, "/cg/x")), Some("/docker/box/x".into()));
    }

    #[test]
    fn of_two_mounts_the_one_that_shows_more_is_taken() {
        let table = "35 31 0:32 /a /part rw - cgroup cgroup rw,memory\n\
            36 31 0:32 / /whole rw - cgroup cgroup rw,memory\n";
        let (_dir, root) = mounted(table, &[], &["/part", "/whole/b"]);

        assert_eq!(find(&root).path(inode(&root, "/whole/b")), Some("/b".into()));
    }

    #[test]
    fn cgroup_that_was_removed_is_none_and_later_ones_are_found() {
        // Other file systems than that of cgroups use inodes again: the later one has its own before the first is gone.
        let (_dir, root) = mounted(VERSION_1, &[], &["/cg/memory/a", "/cg/memory/b", "/later"]);
        let (first, second) = (inode(&root, "/cg/memory/a"), inode(&root, "/cg/memory/b"));
        let mut cgroups = find(&root);
        assert_eq!(cgroups.path(first), Some("/a".into()));

        fs::remove_dir(root.path("/cg/memory/a")).expect("it is empty");
        fs::rename(root.path("/cg/memory/b"), root.path("/cg/memory/c")).expect("it is there");

        assert_eq!(cgroups.path(first), None);
        assert_eq!(cgroups.path(second), Some("/c".into()));
        fs::rename(root.path("/later"), root.path("/cg/memory/c/d")).expect("it is there");
        assert_eq!(cgroups.path(inode(&root, "/cg/memory/c/d")), Some("/c/d".into()));
    }

    #[test]
    fn without_a_mount_there_is_no_hierarchy() {
        let (_dir, root) = mounted("22 1 0:21 / /proc rw - proc proc rw\n", &[], &[]);

        assert!(MemoryCgroups::find(&root).expect("a table").is_none());
    }
}
