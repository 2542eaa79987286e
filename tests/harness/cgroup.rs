//! Where cgroups are, which are those of this process, and some of a test's own.
//!
//! Input: `/proc/mounts`, `/proc/self/cgroup`. Output: mounts of hierarchies, paths in them.
//! Source: `Documentation/admin-guide/cgroup-v2.rst`, cgroups(7).
//! Not here: settings of cgroups, which each target has for another controller.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
};

use crate::wait_until;

/// Where a hierarchy is mounted whose kind and options satisfy `is_it`.
#[must_use]
pub fn hierarchy(is_it: impl Fn(&str, &str) -> bool) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").expect("/proc is mounted");
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        is_it(kind, options).then(|| point.into())
    })
}

/// The path of this process in the hierarchy whose controllers satisfy `is_it`.
#[must_use]
pub fn own_path(is_it: impl Fn(&str) -> bool) -> String {
    let text = fs::read_to_string("/proc/self/cgroup").expect("/proc is mounted");
    let mut lines = text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    lines.find_map(|(controllers, path)| is_it(controllers).then(|| path.to_owned())).expect("it is in one")
}

/// Where memory is counted by cgroup, and the path of this process there; or what is missing.
pub fn of_memory() -> Result<(PathBuf, String), String> {
    let is_memory = |list: &str| list.split(',').any(|one| one == "memory");
    if let Some(top) = hierarchy(|kind, options| kind == "cgroup" && is_memory(options)) {
        return Ok((top, own_path(is_memory)));
    }
    let top = hierarchy(|kind, _| kind == "cgroup2").filter(|top| {
        let controllers = fs::read_to_string(top.join("cgroup.controllers")).unwrap_or_default();
        controllers.split_whitespace().any(|one| one == "memory")
    });
    let top = top.ok_or("needs a mount of the cgroup controller memory")?;
    // Memory is counted in the nearest cgroup for which that is enabled.
    let mut path = PathBuf::from(own_path(str::is_empty));
    while path != Path::new("/")
        && !top.join(path.strip_prefix("/").expect("absolute")).join("memory.current").exists()
    {
        path.pop();
    }
    Ok((top, path.to_str().expect("UTF-8").to_owned()))
}

/// A cgroup of a test's own, gone at the end; its members must end before.
#[derive(Debug)]
pub struct Cgroup {
    /// Its directory.
    pub dir: PathBuf,
}

impl Cgroup {
    /// One below that at `dir`.
    #[must_use]
    pub fn below(dir: &Path, name: &str) -> Self {
        let dir = dir.join(format!("memtrace-{name}-{}", process::id()));
        fs::create_dir(&dir).expect("root may");
        Self { dir }
    }

    /// Moves a process into it.
    pub fn adopt(&self, pid: u32) {
        fs::write(self.dir.join("cgroup.procs"), pid.to_string()).expect("a process can be moved");
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &str {
        self.dir.to_str().expect("UTF-8")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Busy until the kernel is done with its members.
        if !wait_until(|| fs::remove_dir(&self.dir).is_ok()) {
            eprintln!("{} stays", self.path());
        }
    }
}
