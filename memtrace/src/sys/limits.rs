//! Limits of this process: raised as far as it may, handed on as they were, and named where they do not suffice.
//!
//! Layer: shell. Input: the limits that this process was started with; what a system call said. Output: [`Shortage`].
//! Source: `getrlimit(2)`, with the errors that each limit leads to; `prlimit(1)`.
//! Keeps: what memtrace starts has the limits that memtrace was started with.
//! Not here: locked memory, which is lifted for a while only (`memlock`).

use std::{fmt, io, os::unix::process::CommandExt as _, process::Command, sync::OnceLock};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A limit that memtrace may run into.
#[derive(Debug)]
struct Limit {
    resource: Resource,
    /// What it counts.
    of: &'static str,
    /// What system calls say that would exceed it.
    errors: &'static [i32],
    /// The option of `prlimit` for it, with a value that suffices.
    remedy: &'static str,
}

/// What memtrace needs more of than most programs.
const RAISED: [Limit; 3] = [
    Limit {
        resource: Resource::Nofile,
        of: "open files",
        errors: &[libc::EMFILE],
        remedy: "--nofile=4096:4096",
    },
    Limit {
        resource: Resource::As,
        of: "bytes of address space",
        // A stack for a thread that finds no room is EAGAIN.
        errors: &[libc::ENOMEM, libc::EAGAIN],
        remedy: "--as=unlimited:unlimited",
    },
    Limit {
        resource: Resource::Data,
        of: "bytes of data",
        errors: &[libc::ENOMEM, libc::EAGAIN],
        remedy: "--data=unlimited:unlimited",
    },
];

/// What holds for the files of memtrace as for all others.
const FILE_SIZE: Limit = Limit {
    resource: Resource::Fsize,
    of: "bytes in a file",
    errors: &[libc::EFBIG],
    remedy: "--fsize=unlimited:unlimited",
};

/// What changes the limits of the shell that it is typed into.
const PRLIMIT: &str = "sudo prlimit --pid $$";

/// The limits in [`RAISED`] before they were raised.
static AT_START: OnceLock<[Rlimit; RAISED.len()]> = OnceLock::new();

/// Raises the soft limits of this process to the hard ones.
pub fn raise() {
    AT_START.get_or_init(|| {
        RAISED.map(|Limit { resource, .. }| {
            let before = getrlimit(resource);
            // A soft limit up to the hard one is never refused; if it were, the next shortage would name it.
            let _kept = setrlimit(resource, Rlimit { current: before.maximum, ..before });
            before
        })
    });
}

/// Lets `command` start with the limits that this process was started with.
pub fn as_at_start(command: &mut Command) -> &mut Command {
    let restore = || match AT_START.get() {
        None => Ok(()),
        Some(limits) => RAISED
            .iter()
            .zip(limits)
            .try_for_each(|(Limit { resource, .. }, before)| Ok(setrlimit(*resource, *before)?)),
    };
    // SAFETY: between fork and exec, `restore` only reads what is constant by then, and makes system calls.
    unsafe { command.pre_exec(restore) }
}

/// Makes sure that `count` more files could be open at once.
pub fn check_files(count: usize) -> io::Result<()> {
    let files: Result<Vec<_>, _> = (0..count).map(|_| rustix::io::dup(rustix::stdio::stderr())).collect();
    files.map(drop).map_err(io::Error::from)
}

/// A limit that stands in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    of: &'static str,
    most: u64,
    remedy: &'static str,
}

impl Shortage {
    /// The limit behind `error`, the number of an error of a system call; `None` if no limit explains it.
    #[must_use]
    pub fn behind(error: i32) -> Option<Self> {
        let mut limits = RAISED.iter().chain([&FILE_SIZE]).filter(|limit| limit.errors.contains(&error));
        limits.find_map(|Limit { resource, of, remedy, .. }| {
            Some(Self { of, most: getrlimit(*resource).current?, remedy })
        })
    }

    /// What is limited, and how far.
    #[must_use]
    pub fn limit(&self) -> String {
        format!("{} {}", self.most, self.of)
    }

    /// A line for the shell that lifts it.
    #[must_use]
    pub fn remedy(&self) -> String {
        format!("{PRLIMIT} {}", self.remedy)
    }
}

/// Allocates nothing: it may be memory that is short.
impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { of, most, remedy } = self;
        write!(f, "the limit is {most} {of}: {PRLIMIT} {remedy}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_that_no_limit_leads_to_is_no_shortage() {
        assert_eq!(Shortage::behind(libc::ENOENT), None);
    }

    #[test]
    fn limit_of_open_files_is_that_of_proc() {
        let limits = std::fs::read_to_string("/proc/self/limits").expect("proc is mounted");
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("a line");
        let soft = line.split_whitespace().next().expect("the soft limit");

        let shortage = Shortage::behind(libc::EMFILE).expect("the kernel has no unlimited number of files");

        assert_eq!(shortage.limit(), format!("{soft} open files"));
    }
}
