//! Names for what a task was doing while the kernel populated memory without events.
//!
//! Layer: codec. Input: [`UncountedCause`], the architecture. Output: a word.
//! Source: the crate `syscalls`, which is made from the kernel's tables.
//! Keeps: a call without a name keeps its number.
//! Not here: which calls populate (the kernel decides; everything that happens is shown).

use crate::event::{UncountedCause, syscall_name};

/// The word for `cause` on a host of the architecture `arch` (in the words of `uname -m`).
pub(super) fn name(cause: UncountedCause, arch: &str) -> String {
    let number = match cause {
        UncountedCause::Syscall(number) => number,
        UncountedCause::Exec => return "exec".to_owned(),
        UncountedCause::Exit => return "exit".to_owned(),
        UncountedCause::CoreDump => return "core_dump".to_owned(),
        UncountedCause::User => return "user".to_owned(),
        UncountedCause::UnknownCall => return "unknown".to_owned(),
        UncountedCause::Unseen => return "cpu_offline".to_owned(),
    };
    match syscall_name(number, arch) {
        // Calls that replace the address space.
        Some("execve" | "execveat") => "exec".to_owned(),
        // Calls that populate on demand (`MAP_POPULATE`, `MADV_POPULATE_*`) or grow memory that is locked.
        Some("brk" | "madvise" | "mmap" | "mremap" | "process_madvise" | "remap_file_pages") => {
            "populate".to_owned()
        }
        // Calls that lock, and so populate.
        Some("mlock" | "mlock2" | "mlockall") => "mlock".to_owned(),
        _ => of_number(number, arch),
    }
}

/// The name of the system call `number` on the architecture `arch`; one that has no name keeps its number.
pub(super) fn of_number(number: u32, arch: &str) -> String {
    syscall_name(number, arch).map_or_else(|| format!("syscall_{number}"), str::to_owned)
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
        assert_eq!(name(11, "x86_64"), "munmap");
        assert_eq!(name(215, "aarch64"), "munmap");
        assert_eq!(name(234, "x86_64"), "tgkill");
        assert_eq!(name(99_999, "x86_64"), "syscall_99999");
        assert_eq!(name(9, "riscv64"), "syscall_9");
    }
}
