//! Names of the flags, modes and advice that calls are given.
//!
//! Layer: codec. Input: [`MapFlags`]. Output: text such as `MAP_PRIVATE|MAP_ANONYMOUS`.
//! Source: `include/uapi/asm-generic/mman-common.h`, `include/uapi/linux/mman.h`, `include/uapi/linux/shm.h`,
//! `include/uapi/linux/userfaultfd.h`.
//! Keeps: bits without a name stay, as a hexadecimal number.
//! Not here: what flags do (`region`).

use std::fmt;

use crate::timeline::MapFlags;

type Names = &'static [(u64, &'static str)];

const MAP: Names = &[
    (0x10, "MAP_FIXED"),
    (0x20, "MAP_ANONYMOUS"),
    (0x40, "MAP_32BIT"),
    (0x100, "MAP_GROWSDOWN"),
    (0x800, "MAP_DENYWRITE"),
    (0x1000, "MAP_EXECUTABLE"),
    (0x2000, "MAP_LOCKED"),
    (0x4000, "MAP_NORESERVE"),
    (0x8000, "MAP_POPULATE"),
    (0x1_0000, "MAP_NONBLOCK"),
    (0x2_0000, "MAP_STACK"),
    (0x4_0000, "MAP_HUGETLB"),
    (0x8_0000, "MAP_SYNC"),
    (0x10_0000, "MAP_FIXED_NOREPLACE"),
];
/// Values of the lowest four bits.
const MAP_TYPE: Names =
    &[(1, "MAP_SHARED"), (2, "MAP_PRIVATE"), (3, "MAP_SHARED_VALIDATE"), (8, "MAP_DROPPABLE")];
const REMAP: Names = &[(1, "MREMAP_MAYMOVE"), (2, "MREMAP_FIXED"), (4, "MREMAP_DONTUNMAP")];
const LOCK: Names = &[(1, "MLOCK_ONFAULT")];
const LOCK_ALL: Names = &[(1, "MCL_CURRENT"), (2, "MCL_FUTURE"), (4, "MCL_ONFAULT")];
const ATTACH: Names =
    &[(0o10000, "SHM_RDONLY"), (0o20000, "SHM_RND"), (0o40000, "SHM_REMAP"), (0o100_000, "SHM_EXEC")];
const WATCH: Names =
    &[(1, "UFFDIO_REGISTER_MODE_MISSING"), (2, "UFFDIO_REGISTER_MODE_WP"), (4, "UFFDIO_REGISTER_MODE_MINOR")];
const ADVICE: Names = &[
    (0, "MADV_NORMAL"),
    (1, "MADV_RANDOM"),
    (2, "MADV_SEQUENTIAL"),
    (3, "MADV_WILLNEED"),
    (4, "MADV_DONTNEED"),
    (8, "MADV_FREE"),
    (9, "MADV_REMOVE"),
    (10, "MADV_DONTFORK"),
    (11, "MADV_DOFORK"),
    (12, "MADV_MERGEABLE"),
    (13, "MADV_UNMERGEABLE"),
    (14, "MADV_HUGEPAGE"),
    (15, "MADV_NOHUGEPAGE"),
    (16, "MADV_DONTDUMP"),
    (17, "MADV_DODUMP"),
    (18, "MADV_WIPEONFORK"),
    (19, "MADV_KEEPONFORK"),
    (20, "MADV_COLD"),
    (21, "MADV_PAGEOUT"),
    (22, "MADV_POPULATE_READ"),
    (23, "MADV_POPULATE_WRITE"),
    (24, "MADV_DONTNEED_LOCKED"),
    (25, "MADV_COLLAPSE"),
    (100, "MADV_HWPOISON"),
    (101, "MADV_SOFT_OFFLINE"),
    (102, "MADV_GUARD_INSTALL"),
    (103, "MADV_GUARD_REMOVE"),
];

impl fmt::Display for MapFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Map(flags) => {
                const TYPE: u64 = 0xf;
                write_value(f, flags & TYPE, MAP_TYPE)?;
                let rest = flags & !TYPE;
                if rest != 0 {
                    f.write_str("|")?;
                    write_bits(f, rest, MAP)?;
                }
                Ok(())
            }
            Self::Remap(flags) => write_bits(f, flags, REMAP),
            Self::Advice(advice) => write_value(f, advice, ADVICE),
            Self::Lock(flags) => write_bits(f, flags, LOCK),
            Self::LockAll(flags) => write_bits(f, flags, LOCK_ALL),
            Self::Attach(flags) => write_bits(f, flags, ATTACH),
            Self::Watch(mode) => write_bits(f, mode, WATCH),
            Self::During(number) => write!(f, "syscall_{number}"),
        }
    }
}

/// The name of `value`, or the number.
fn write_value(f: &mut fmt::Formatter<'_>, value: u64, names: Names) -> fmt::Result {
    match names.iter().find(|(named, _)| *named == value) {
        Some((_, name)) => f.write_str(name),
        None => write!(f, "{value:#x}"),
    }
}

/// The names of the bits that are set, and what is left as a number.
fn write_bits(f: &mut fmt::Formatter<'_>, bits: u64, names: Names) -> fmt::Result {
    let mut rest = bits;
    let mut separator = "";
    for (bit, name) in names.iter().filter(|(bit, _)| bits & bit != 0) {
        write!(f, "{separator}{name}")?;
        rest &= !bit;
        separator = "|";
    }
    if rest != 0 || bits == 0 {
        write!(f, "{separator}{rest:#x}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_mmap_have_a_type_and_bits() {
        assert_eq!(MapFlags::Map(0x22).to_string(), "MAP_PRIVATE|MAP_ANONYMOUS");
        assert_eq!(MapFlags::Map(0x1).to_string(), "MAP_SHARED");
        let huge_2_mib = 21 << 26;
        assert_eq!(
            MapFlags::Map(0x4_0022 | huge_2_mib).to_string(),
            "MAP_PRIVATE|MAP_ANONYMOUS|MAP_HUGETLB|0x54000000"
        );
    }

    #[test]
    fn advice_is_one_value() {
        assert_eq!(MapFlags::Advice(4).to_string(), "MADV_DONTNEED");
        assert_eq!(MapFlags::Advice(77).to_string(), "0x4d");
    }

    #[test]
    fn no_flags_are_a_number() {
        assert_eq!(MapFlags::Remap(0).to_string(), "0x0");
    }
}
