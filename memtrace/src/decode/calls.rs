//! System calls in the words of [`event`](crate::event).

use memtrace_ebpf::{Call, CallEvent};

use super::known_addr;
use crate::{
    event::{FileKind, Landmarks, MapCall, MapRequest, MappedFile},
    units::VirtAddr,
};

/// Unit of the offset of `mmap2`, in bytes.
const MMAP2_UNIT: u64 = 4096;

/// `PR_SET_MM` of `include/uapi/linux/prctl.h`.
const PR_SET_MM: u64 = 35;

/// Types of files (`include/uapi/linux/stat.h`).
const S_IFMT: u16 = 0o170_000;
const S_IFCHR: u16 = 0o020_000;
const S_IFBLK: u16 = 0o060_000;

/// File systems whose files are memory (`include/uapi/linux/magic.h`).
const TMPFS_MAGIC: u32 = 0x0102_1994;
const RAMFS_MAGIC: u32 = 0x8584_58f6;
const HUGETLBFS_MAGIC: u32 = 0x9584_58f6;
const SECRETMEM_MAGIC: u32 = 0x5345_434d;

/// `UFFDIO_REGISTER` of `include/uapi/linux/userfaultfd.h`.
const UFFDIO_REGISTER: u64 = 0xc020_aa00;

/// What the record `event` tells; `name` is that of `prctl(PR_SET_VMA)`. `None` if this build does not know the call.
pub(super) fn call(event: &CallEvent, name: &[u8]) -> Option<MapCall> {
    let CallEvent { call, result, arg_0, arg_1, arg_2, arg_3, arg_4, arg_5, .. } = *event;
    let addr = VirtAddr::from_raw(arg_0);
    // Of an argument that the call declares as `int` the kernel takes the lower half of the register.
    let int = |argument: u64| argument & u64::from(u32::MAX);
    let request = match call {
        Call::MMAP => MapRequest::Mmap { addr, length: arg_1, prot: arg_2, flags: arg_3, offset: arg_5 },
        Call::MMAP2 => {
            let offset = arg_5.wrapping_mul(MMAP2_UNIT);
            MapRequest::Mmap { addr, length: arg_1, prot: arg_2, flags: arg_3, offset }
        }
        Call::MUNMAP => MapRequest::Munmap { addr, length: arg_1 },
        Call::MREMAP => MapRequest::Mremap {
            old_addr: addr,
            old_size: arg_1,
            new_size: arg_2,
            flags: arg_3,
            new_addr: VirtAddr::from_raw(arg_4),
        },
        Call::BRK => MapRequest::Brk { addr },
        Call::MPROTECT => MapRequest::Mprotect { addr, length: arg_1, prot: arg_2, pkey: None },
        Call::PKEY_MPROTECT => {
            MapRequest::Mprotect { addr, length: arg_1, prot: arg_2, pkey: Some(int(arg_3)) }
        }
        Call::MADVISE => MapRequest::Madvise { addr, length: arg_1, advice: int(arg_2) },
        Call::PROCESS_MADVISE => MapRequest::ProcessMadvise { advice: int(arg_3) },
        Call::MLOCK => MapRequest::Mlock { addr, length: arg_1, flags: 0 },
        Call::MLOCK2 => MapRequest::Mlock { addr, length: arg_1, flags: int(arg_2) },
        Call::MUNLOCK => MapRequest::Munlock { addr, length: arg_1 },
        Call::MLOCKALL => MapRequest::Mlockall { flags: int(arg_0) },
        Call::MUNLOCKALL => MapRequest::Munlockall,
        Call::SHMAT => {
            MapRequest::Shmat { id: int(arg_0), addr: VirtAddr::from_raw(arg_1), flags: int(arg_2) }
        }
        Call::SHMDT => MapRequest::Shmdt { addr },
        Call::REMAP_FILE_PAGES => MapRequest::RemapFilePages { addr, size: arg_1, flags: arg_4 },
        Call::MSEAL => MapRequest::Mseal { addr, length: arg_1 },
        Call::PRCTL if int(arg_0) == PR_SET_MM => MapRequest::SetBounds {
            landmarks: Landmarks { start_brk: known_addr(arg_2), start_stack: known_addr(arg_4) },
            brk: known_addr(arg_3),
        },
        Call::PRCTL => {
            MapRequest::SetName { addr: VirtAddr::from_raw(arg_2), length: arg_3, name: name.to_vec() }
        }
        Call::IOCTL => {
            let (addr, length) = (VirtAddr::from_raw(arg_2), arg_3);
            if int(arg_1) == UFFDIO_REGISTER {
                MapRequest::UffdRegister { addr, length, mode: arg_4 }
            } else {
                MapRequest::UffdUnregister { addr, length }
            }
        }
        _ => return None,
    };
    let error = i32::try_from(result).ok().filter(|result| (-4095..0).contains(result));
    let result = match error {
        Some(error) => Err(-error),
        None => Ok(result.cast_unsigned()),
    };
    let is_mmap = matches!(request, MapRequest::Mmap { .. });
    let file = is_mmap.then(|| file(event)).flatten();
    Some(MapCall { request, result, may_have_resized: event.may_have_resized != 0, file, stack: None })
}

/// The file that an `mmap` mapped, if the programs could read it.
fn file(event: &CallEvent) -> Option<MappedFile> {
    /// Bits of the minor number in the kernel's `dev_t` (`include/linux/kdev_t.h`).
    const MINOR_BITS: u32 = 20;
    let CallEvent { file_mode, file_magic, arg_4: device, .. } = *event;
    if file_magic == 0 {
        return None;
    }
    let device = u32::try_from(device).ok()?;
    let kind = match (file_mode & S_IFMT, file_magic) {
        (S_IFCHR | S_IFBLK, _) => FileKind::Device,
        (_, TMPFS_MAGIC | RAMFS_MAGIC) => FileKind::Tmpfs,
        (_, HUGETLBFS_MAGIC) => FileKind::Hugetlb,
        (_, SECRETMEM_MAGIC) => FileKind::Secret,
        _ => FileKind::Other,
    };
    Some(MappedFile { device: (device >> MINOR_BITS, device & ((1 << MINOR_BITS) - 1)), kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(call: Call, result: i64) -> CallEvent {
        CallEvent {
            call,
            result,
            arg_0: 0x7000_0000,
            arg_1: 0x3000,
            arg_2: 3,
            arg_3: 0x22,
            arg_5: 2,
            ..CallEvent::default()
        }
    }

    #[test]
    fn mmap_of_32_bit_programs_counts_its_offset_in_units() {
        let call = call(&event(Call::MMAP2, 0x7000_0000), &[]).expect("a known call");

        let addr = VirtAddr::from_raw(0x7000_0000);
        let request = MapRequest::Mmap { addr, length: 0x3000, prot: 3, flags: 0x22, offset: 0x2000 };
        assert_eq!(
            call,
            MapCall { request, result: Ok(0x7000_0000), may_have_resized: false, file: None, stack: None }
        );
    }

    #[test]
    fn bounds_of_the_heap_are_those_after_the_call() {
        let event = CallEvent { arg_0: 35, arg_2: 0x5000, arg_3: 0x9000, arg_4: 0, ..event(Call::PRCTL, 0) };

        let call = call(&event, &[]).expect("a known call");

        let landmarks = Landmarks { start_brk: Some(VirtAddr::from_raw(0x5000)), start_stack: None };
        let request = MapRequest::SetBounds { landmarks, brk: Some(VirtAddr::from_raw(0x9000)) };
        assert_eq!(
            call,
            MapCall { request, result: Ok(0), may_have_resized: false, file: None, stack: None }
        );
    }

    #[test]
    fn small_negative_results_are_errors() {
        let result = |result| call(&event(Call::MUNMAP, result), &[]).expect("a known call").result;

        assert_eq!(result(-22), Err(22));
        assert_eq!(result(0), Ok(0));
        // A break or mapping of a 32-bit program lies in the upper half of 32 bits.
        assert_eq!(result(0xf7f0_0000), Ok(0xf7f0_0000));
        assert_eq!(result(-4096), Ok(0xffff_ffff_ffff_f000));
    }

    #[test]
    fn upper_half_of_an_int_is_not_part_of_it() {
        let event = CallEvent { arg_2: 0xdead_beef_0000_0004, ..event(Call::MADVISE, 0) };

        let request = call(&event, &[]).expect("a known call").request;

        let addr = VirtAddr::from_raw(event.arg_0);
        assert_eq!(request, MapRequest::Madvise { addr, length: event.arg_1, advice: 4 });
    }

    #[test]
    fn file_is_what_its_mode_and_its_file_system_say() {
        let file = |call, file_mode, file_magic| {
            // Major number 8, minor number 0x12345.
            let event = CallEvent { file_mode, file_magic, arg_4: 0x81_2345, ..event(call, 0x7000_0000) };
            super::call(&event, &[]).expect("a known call").file
        };
        let kind = |mode, magic| {
            let MappedFile { device, kind } = file(Call::MMAP, mode, magic).expect("it was read");
            assert_eq!(device, (8, 0x1_2345));
            kind
        };

        assert_eq!(kind(0o100_644, 0x0102_1994), FileKind::Tmpfs);
        assert_eq!(kind(0o100_644, 0x8584_58f6), FileKind::Tmpfs);
        assert_eq!(kind(0o100_600, 0x9584_58f6), FileKind::Hugetlb);
        assert_eq!(kind(0o100_600, 0x5345_434d), FileKind::Secret);
        assert_eq!(kind(0o020_666, 0x0102_1994), FileKind::Device);
        assert_eq!(kind(0o060_660, 0x0102_1994), FileKind::Device);
        assert_eq!(kind(0o100_644, 0xef53), FileKind::Other);
        assert_eq!(file(Call::MMAP, 0, 0), None, "it could not be read");
        assert_eq!(file(Call::MREMAP, 0o100_644, 0x0102_1994), None);
    }

    #[test]
    fn unknown_call_is_none() {
        assert_eq!(call(&event(Call(99), 0), &[]), None);
    }
}
