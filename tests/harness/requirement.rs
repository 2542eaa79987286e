//! What a test needs of the machine, and what is said where it is missing.
//!
//! Input: the machine. Output: `skipped: <reason>`, and the test and the reason as a line in the file that
//! `MEMTRACE_SKIPS` names, from which `cargo xtask test` counts.
//! Keeps: a requirement is found by trying wherever that does not take the code under test.

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::Write as _,
    thread,
};

use rustix::{
    process::geteuid,
    thread::{CapabilitySet, capabilities},
};

/// Ends the test early, and says so, unless the machine has what is named: `root`, `bpf`, `btf`, `kernel "6.7"`,
/// `program "sqlite3" of "sqlite3"` (the second is the package to install).
#[macro_export]
macro_rules! require {
    (root) => {
        $crate::require!(@ $crate::requirement::root())
    };
    (bpf) => {
        $crate::require!(@ $crate::requirement::bpf())
    };
    (btf) => {
        $crate::require!(@ $crate::requirement::btf())
    };
    (kernel $release:literal) => {
        $crate::require!(@ $crate::requirement::kernel($release))
    };
    (program $program:literal of $package:literal) => {
        $crate::require!(@ $crate::requirement::program($program, $package))
    };
    (@ $missing:expr) => {
        if let Some(reason) = $missing {
            $crate::requirement::skip(&reason);
            return;
        }
    };
}

/// What a test needs was made, or the test ends early, and says why.
#[macro_export]
macro_rules! made {
    ($made:expr) => {
        match $made {
            Ok(made) => made,
            Err(reason) => return $crate::requirement::skip(&reason.to_string()),
        }
    };
}

/// What is missing to be root, if anything.
#[must_use]
pub fn root() -> Option<String> {
    (!geteuid().is_root()).then(|| "needs root: run `cargo xtask test` as root or install sudo".to_owned())
}

/// What is missing to load programs into the kernel, if anything.
#[must_use]
pub fn bpf() -> Option<String> {
    let needed = CapabilitySet::SYS_ADMIN;
    (!capabilities(None).is_ok_and(|own| own.effective.contains(needed)))
        .then(|| "needs CAP_SYS_ADMIN: run `cargo xtask test` as root".to_owned())
}

/// What is missing to read the kernel's own fault counters, if anything.
#[must_use]
pub fn btf() -> Option<String> {
    File::open("/sys/kernel/btf/vmlinux")
        .err()
        .map(|cause| format!("needs the kernel's type information (CONFIG_DEBUG_INFO_BTF): {cause}"))
}

/// What is missing if this kernel is older than `release`, such as `6.7`: for what only using it would tell.
#[must_use]
pub fn kernel(release: &str) -> Option<String> {
    let number = |text: &str| -> Vec<u32> {
        text.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse().ok()).take(2).collect()
    };
    let running = rustix::system::uname().release().to_string_lossy().into_owned();
    (number(&running) < number(release)).then(|| format!("needs Linux {release}"))
}

/// Whether this kernel is of `release` or later.
#[must_use]
pub fn since(release: &str) -> bool {
    kernel(release).is_none()
}

/// What is missing to run `program`, if anything; it comes with `package`.
#[must_use]
pub fn program(program: &str, package: &str) -> Option<String> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).any(|directory| directory.join(program).is_file());
    (!found).then(|| format!("needs {program}: apt-get install {package}"))
}

/// What is missing to do much in little time: a processor that no program emulates.
#[must_use]
pub fn processor() -> Option<String> {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    processor.contains("QEMU TCG").then(|| "needs a processor that is not emulated".to_owned())
}

/// Says that a test was skipped, and why.
pub fn skip(reason: &str) {
    eprintln!("skipped: {reason}");
    let Some(path) = env::var_os("MEMTRACE_SKIPS") else {
        return;
    };
    let mut skips = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .expect("the file named by MEMTRACE_SKIPS can be written");
    // libtest names the thread of a test after it.
    let thread = thread::current();
    let test = thread.name().filter(|name| *name != "main").unwrap_or_default();
    // In one piece: other tests write to it too.
    skips
        .write_all(format!("{test}\t{reason}\n").as_bytes())
        .expect("the file named by MEMTRACE_SKIPS can be written");
}
