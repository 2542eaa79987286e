//! A process that holds memory of one kind and does not run.
//!
//! Input: the program `layout`, a kind of it. Output: [`Frozen`].
//! Keeps: nothing that the process did is under way: it stands still, and its pages are on the lists of reclaim. It has copies of
//! the libraries, for of those that all use, each reader raises the map counts while it reads.
//! Not here: settings of the machine that a kind takes (`setting`, `swap`).

use std::{
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::{
    directory,
    ledger::Layout,
    memory::drain_batches,
    run::{Run, Running},
    wait_until,
};

/// Such a process; ended when this is dropped.
#[derive(Debug)]
pub struct Frozen {
    /// What it says of itself.
    pub layout: Layout,
    _running: Running,
    _libraries: TempDir,
}

impl Frozen {
    /// One that holds `mib` MiB of `kind`; `program` is `layout`.
    #[must_use]
    #[track_caller]
    pub fn start(program: &str, kind: &str, mib: u64) -> Self {
        Self::when(program, kind, mib, |_| true)
    }

    /// As [`Self::start`], but stopped only when `is_ready` of its process ID.
    #[must_use]
    #[track_caller]
    pub fn when(program: &str, kind: &str, mib: u64, is_ready: impl Fn(u32) -> bool) -> Self {
        let libraries = directory();
        let loader = copy_libraries(libraries.path());
        let run = Run::new(loader).arg("--library-path").arg(libraries.path());
        let mut running = run.args([program, kind, "--mib", &mib.to_string()]).with_stdin().start();
        let layout: Layout = serde_json::from_str(&running.first_line()).expect("a ledger");
        assert!(wait_until(|| is_ready(layout.pid)), "{layout:?} is not as it should be");
        running.freeze(&[&[layout.pid], layout.child.as_slice()].concat());
        drain_batches();
        Self { layout, _running: running, _libraries: libraries }
    }

    /// Process IDs of it and of its child.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        [Some(self.layout.pid), self.layout.child].into_iter().flatten()
    }
}

/// Copies the libraries of this process into `directory`, and returns the copy of what loads them.
///
/// Another program writes them: a child that a second test starts here meanwhile would inherit a file that is open for writing,
/// and until that child's exec, none of such a file succeeds (`ETXTBSY`).
fn copy_libraries(directory: &Path) -> PathBuf {
    let maps = fs::read_to_string("/proc/self/maps").expect("own maps");
    let mut loader = None;
    for path in maps.lines().filter_map(|row| row.find('/').map(|at| Path::new(&row[at..]))) {
        let name = path.file_name().expect("a file").to_string_lossy();
        if name.contains(".so") {
            let copy = directory.join(&*name);
            let _copied = Run::new("cp").args([path, copy.as_path()]).finish().expect_code(0);
            if name.starts_with("ld-") {
                loader = Some(copy);
            }
        }
    }
    loader.expect("it was loaded")
}
