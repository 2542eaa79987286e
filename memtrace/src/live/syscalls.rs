//! Which system-call numbers concern address spaces.
//!
//! Layer: shell. Input: none. Output: the table [`names::CALLS`](memtrace_ebpf::names::CALLS).
//! Source: `syscalls(2)`; for 32-bit programs `arch/x86/entry/syscalls/syscall_32.tbl`.
//! Keeps: a call without an entry that changes an address space all the same is noticed by the programs.
//! Not here: arguments (`decode`).

use memtrace_ebpf::Call;

/// Numbers on the architecture of this build.
const NATIVE: &[(libc::c_long, Call)] = &[
    (libc::SYS_mmap, Call::MMAP),
    (libc::SYS_munmap, Call::MUNMAP),
    (libc::SYS_mremap, Call::MREMAP),
    (libc::SYS_brk, Call::BRK),
    (libc::SYS_mprotect, Call::MPROTECT),
    (libc::SYS_pkey_mprotect, Call::PKEY_MPROTECT),
    (libc::SYS_madvise, Call::MADVISE),
    (libc::SYS_process_madvise, Call::PROCESS_MADVISE),
    (libc::SYS_mlock, Call::MLOCK),
    (libc::SYS_mlock2, Call::MLOCK2),
    (libc::SYS_munlock, Call::MUNLOCK),
    (libc::SYS_mlockall, Call::MLOCKALL),
    (libc::SYS_munlockall, Call::MUNLOCKALL),
    (libc::SYS_shmat, Call::SHMAT),
    (libc::SYS_shmdt, Call::SHMDT),
    (libc::SYS_remap_file_pages, Call::REMAP_FILE_PAGES),
    (libc::SYS_mseal, Call::MSEAL),
    (libc::SYS_prctl, Call::PRCTL),
    (libc::SYS_ioctl, Call::IOCTL),
    (libc::SYS_ptrace, Call::PTRACE),
    // What these change is told by task events and by perf, or does not show in maps.
    (libc::SYS_clone, Call::CLONE),
    (libc::SYS_clone3, Call::CLONE3),
    (libc::SYS_execve, Call::EXPLAINED),
    (libc::SYS_execveat, Call::EXPLAINED),
    (libc::SYS_exit, Call::EXPLAINED),
    (libc::SYS_exit_group, Call::EXPLAINED),
    (libc::SYS_io_setup, Call::EXPLAINED),
    (libc::SYS_mbind, Call::EXPLAINED),
    (libc::SYS_migrate_pages, Call::EXPLAINED),
    (libc::SYS_pkey_alloc, Call::EXPLAINED),
    (libc::SYS_pkey_free, Call::EXPLAINED),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_fork, Call::EXPLAINED),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_vfork, Call::EXPLAINED),
];

/// Numbers of 32-bit programs on x86-64. Calls through `ipc` and the `mmap` that takes its arguments from memory are
/// left to the notice of changes that nothing explains.
const COMPAT: &[(libc::c_long, Call)] = &[
    (192, Call::MMAP2),
    (91, Call::MUNMAP),
    (163, Call::MREMAP),
    (45, Call::BRK),
    (125, Call::MPROTECT),
    (380, Call::PKEY_MPROTECT),
    (219, Call::MADVISE),
    (440, Call::PROCESS_MADVISE),
    (150, Call::MLOCK),
    (376, Call::MLOCK2),
    (151, Call::MUNLOCK),
    (152, Call::MLOCKALL),
    (153, Call::MUNLOCKALL),
    (397, Call::SHMAT),
    (398, Call::SHMDT),
    (257, Call::REMAP_FILE_PAGES),
    (462, Call::MSEAL),
    (172, Call::PRCTL),
    (54, Call::IOCTL),
    (26, Call::PTRACE),
    (120, Call::CLONE),
    (435, Call::CLONE3),
    // execve, execveat, exit, exit_group, fork, vfork
    (11, Call::EXPLAINED),
    (358, Call::EXPLAINED),
    (1, Call::EXPLAINED),
    (252, Call::EXPLAINED),
    (2, Call::EXPLAINED),
    (190, Call::EXPLAINED),
];

/// The table for the programs: a byte for each number of this architecture, then one for each of 32-bit programs.
pub(super) fn table() -> [u8; 2 * Call::NUMBERS] {
    let mut table = [0; 2 * Call::NUMBERS];
    let (native, compat) = table.split_at_mut(Call::NUMBERS);
    let compat_calls = if cfg!(target_arch = "x86_64") { COMPAT } else { &[] };
    for (numbers, calls) in [(native, NATIVE), (compat, compat_calls)] {
        for (number, call) in calls {
            if let Some(entry) = usize::try_from(*number).ok().and_then(|number| numbers.get_mut(number)) {
                *entry = call.0;
            }
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_has_its_call() {
        let table = table();

        assert_eq!(table[usize::try_from(libc::SYS_munmap).expect("not negative")], Call::MUNMAP.0);
        assert_eq!(table[usize::try_from(libc::SYS_getpid).expect("not negative")], 0);
        if cfg!(target_arch = "x86_64") {
            assert_eq!(table[Call::NUMBERS + 192], Call::MMAP2.0);
        }
    }

    #[test]
    fn no_number_is_beyond_the_table() {
        for (number, call) in NATIVE.iter().chain(COMPAT) {
            assert!(usize::try_from(*number).is_ok_and(|number| number < Call::NUMBERS), "{call:?}");
        }
    }
}
