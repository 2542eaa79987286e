//! Names for what a task was doing while the kernel populated memory without events.
//!
//! Layer: codec. Input: [`UncountedCause`], the architecture. Output: a word.
//! Source: `arch/x86/entry/syscalls/syscall_64.tbl`, `include/uapi/asm-generic/unistd.h` (arm64 uses it).
//! Keeps: a call that is not in the table keeps its number.
//! Not here: which calls populate (the kernel decides; everything that happens is shown).

use crate::event::UncountedCause;

/// A system call that can populate memory: its name, and its number on x86-64 and on arm64.
type Call = (&'static str, Option<u32>, Option<u32>);

const CALLS: &[Call] = &[
    ("clone", Some(56), Some(220)),
    ("clone3", Some(435), Some(435)),
    ("exit", Some(60), Some(93)),
    ("exit_group", Some(231), Some(94)),
    ("fork", Some(57), None),
    ("futex", Some(202), Some(98)),
    ("io_submit", Some(209), Some(2)),
    ("io_uring_enter", Some(426), Some(426)),
    ("io_uring_register", Some(427), Some(427)),
    ("io_uring_setup", Some(425), Some(425)),
    ("ioctl", Some(16), Some(29)),
    ("mbind", Some(237), Some(235)),
    ("move_pages", Some(279), Some(239)),
    ("mprotect", Some(10), Some(226)),
    ("prctl", Some(157), Some(167)),
    ("pread64", Some(17), Some(67)),
    ("preadv", Some(295), Some(69)),
    ("preadv2", Some(327), Some(286)),
    ("process_vm_readv", Some(310), Some(270)),
    ("process_vm_writev", Some(311), Some(271)),
    ("ptrace", Some(101), Some(117)),
    ("pwrite64", Some(18), Some(68)),
    ("pwritev", Some(296), Some(70)),
    ("pwritev2", Some(328), Some(287)),
    ("read", Some(0), Some(63)),
    ("readv", Some(19), Some(65)),
    ("recvfrom", Some(45), Some(207)),
    ("recvmsg", Some(47), Some(212)),
    ("sendmsg", Some(46), Some(211)),
    ("sendto", Some(44), Some(206)),
    ("shmat", Some(30), Some(196)),
    ("splice", Some(275), Some(76)),
    ("vfork", Some(58), None),
    ("vmsplice", Some(278), Some(75)),
    ("write", Some(1), Some(64)),
    ("writev", Some(20), Some(66)),
];

/// Calls that replace the address space.
const EXEC: &[Call] = &[("execve", Some(59), Some(221)), ("execveat", Some(322), Some(281))];

/// Calls that populate on demand (`MAP_POPULATE`, `MADV_POPULATE_*`) or grow memory that is locked.
const POPULATE: &[Call] = &[
    ("brk", Some(12), Some(214)),
    ("madvise", Some(28), Some(233)),
    ("mmap", Some(9), Some(222)),
    ("mremap", Some(25), Some(216)),
    ("process_madvise", Some(440), Some(440)),
    ("remap_file_pages", Some(216), Some(234)),
];

/// Calls that lock, and so populate.
const MLOCK: &[Call] =
    &[("mlock", Some(149), Some(228)), ("mlock2", Some(325), Some(284)), ("mlockall", Some(151), Some(230))];

/// The word for `cause` on a host of the architecture `arch` (in the words of `uname -m`).
pub(super) fn name(cause: UncountedCause, arch: &str) -> String {
    let number = match cause {
        UncountedCause::Syscall(number) => number,
        UncountedCause::Exec => return "exec".to_owned(),
        UncountedCause::Exit => return "exit".to_owned(),
        UncountedCause::User => return "user".to_owned(),
        UncountedCause::UnknownCall => return "unknown".to_owned(),
        UncountedCause::Unseen => return "cpu_offline".to_owned(),
    };
    let is_this = |(_, x86_64, aarch64): &&Call| match arch {
        "x86_64" => *x86_64 == Some(number),
        "aarch64" => *aarch64 == Some(number),
        _ => false,
    };
    for (group, calls) in [("exec", EXEC), ("populate", POPULATE), ("mlock", MLOCK)] {
        if calls.iter().any(|call| is_this(&call)) {
            return group.to_owned();
        }
    }
    match CALLS.iter().find(is_this) {
        Some((name, _, _)) => (*name).to_owned(),
        None => format!("syscall_{number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_mean_what_the_architecture_says() {
        let name = |number, arch| name(UncountedCause::Syscall(number), arch);

        assert_eq!(name(9, "x86_64"), "populate");
        assert_eq!(name(222, "aarch64"), "populate");
        assert_eq!(name(149, "x86_64"), "mlock");
        assert_eq!(name(59, "x86_64"), "exec");
        assert_eq!(name(0, "x86_64"), "read");
        assert_eq!(name(63, "aarch64"), "read");
        assert_eq!(name(99_999, "x86_64"), "syscall_99999");
        assert_eq!(name(9, "riscv64"), "syscall_9");
    }

    #[test]
    fn no_number_has_two_names() {
        let all = || [CALLS, EXEC, POPULATE, MLOCK].into_iter().flatten();
        for column in [|call: &Call| call.1, |call: &Call| call.2] {
            let mut numbers: Vec<u32> = all().filter_map(column).collect();
            numbers.sort_unstable();
            assert!(numbers.windows(2).all(|pair| pair[0] != pair[1]), "{numbers:?}");
        }
    }
}
