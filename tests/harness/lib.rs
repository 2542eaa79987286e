//! What the tests share: programs with known memory behaviour, and ways to run memtrace on them and read what it says.
//!
//! Input: the programs of this package. Output: exit states, ledgers, tables.
//! Keeps: ground truth comes from the program that touched the memory, or from the kernel, never from memtrace.
//! Not here: the tests themselves; each target has one theme.
#![expect(clippy::missing_panics_doc, reason = "the harness panics wherever a test must fail")]

use std::{
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::statfs;
use tempfile::{NamedTempFile, TempDir};

pub mod agreement;
pub mod census;
pub mod cgroup;
pub mod fixture;
pub mod follow;
pub mod frozen;
pub mod gcc;
pub mod ledger;
pub mod maps;
pub mod memory;
pub mod mounted;
pub mod oracle;
pub mod protobuf;
pub mod reader;
pub mod recording;
pub mod requirement;
pub mod rows;
pub mod run;
pub mod scan;
pub mod setting;
pub mod stacks;
pub mod swap;
pub mod symbols;
pub mod tables;
pub mod task;
pub mod trap;
pub mod uffd;

/// The path of a program of this package.
#[macro_export]
macro_rules! program {
    ($name:literal) => {
        env!(concat!("CARGO_BIN_EXE_", $name))
    };
}

/// A directory of a test's own, gone at its end.
#[must_use]
pub fn directory() -> TempDir {
    TempDir::with_prefix("memtrace-").expect("a temporary directory")
}

/// A file on a disk, which has a page cache that can be dropped; or what is missing for that.
pub fn file_on_disk() -> Result<NamedTempFile, String> {
    on_disk().map(|place| NamedTempFile::new_in(place).expect("room"))
}

/// A directory on a disk, gone at its end; or what is missing for that.
pub fn directory_on_disk() -> Result<TempDir, String> {
    on_disk().map(|place| TempDir::with_prefix_in("memtrace-", place).expect("room"))
}

fn on_disk() -> Result<&'static Path, String> {
    let place = Path::new("/var/tmp");
    if backing_of_files(place) == "file" {
        Ok(place)
    } else {
        Err(format!("needs {} on a disk", place.display()))
    }
}

/// What stands behind files at `path`: `file`, or `shmem` where they lie in memory alone, as all do in a guest.
#[must_use]
#[track_caller]
pub fn backing_of_files(path: &Path) -> &'static str {
    /// `TMPFS_MAGIC`, `RAMFS_MAGIC`
    const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];
    let magic = u64::try_from(statfs(path).expect("it is there").f_type);
    if magic.is_ok_and(|magic| IN_MEMORY.contains(&magic)) { "shmem" } else { "file" }
}

/// Waits until no other test of this executable has a turn: settings of the machine are common to them all, and a fork in one
/// shares the pages of the others.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `is_done`, for a minute at most; whether it is.
pub fn wait_until(mut is_done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + Duration::from_mins(1);
    loop {
        if is_done() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
}
