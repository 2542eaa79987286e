//! What the programs write into the two rings.

use super::{field::Field, task::TaskAccount};

macro_rules! open_enum {
    (
        $(#[$meta:meta])*
        pub struct $name:ident($ty:ty) { $($(#[$value_meta:meta])* $value:ident = $number:literal,)* }
    ) => {
        $(#[$meta])*
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name(pub $ty);

        impl $name {
            $($(#[$value_meta])* pub const $value: Self = Self($number);)*
        }

        impl Field for $name {
            fn take(rest: &mut &[u8]) -> Option<Self> {
                <$ty>::take(rest).map(Self)
            }

            fn put(&self, bytes: &mut [u8], at: &mut usize) {
                self.0.put(bytes, at);
            }
        }
    };
}

open_enum! {
    /// Which record follows an [`EventHeader`]. An open enumeration: user space skips what it does not
    /// know by [`EventHeader::len`], and counts it.
    pub struct EventKind(u16) {
        /// [`ForkEvent`]
        FORK = 1,
        /// [`ExecEvent`]
        EXEC = 2,
        /// [`ExitEvent`]
        EXIT = 3,
        /// [`CommEvent`]
        COMM = 4,
        /// [`UncountedEvent`]
        UNCOUNTED = 5,
        /// [`JoinEvent`]
        JOIN = 6,
        /// [`LeaveEvent`]
        LEAVE = 7,
        /// [`ExitEvent`] for a task that was alive when tracing ended; written by user space.
        ALIVE = 8,
        /// [`ExitEvent`] that adds what was charged to a task between its [`Self::EXIT`] and its end.
        LATE = 9,
        /// [`CallEvent`]
        CALL = 10,
        /// [`NameEvent`]
        NAME = 11,
        /// [`SpaceEvent`]
        SPACE = 12,
        /// [`SectionEvent`]
        SECTION = 13,
        /// [`TrimEvent`]
        TRIM = 14,
    }
}

open_enum! {
    /// How a fault ended.
    pub struct FaultKind(u8) {
        /// Completed; the kernel charged it to `min_flt`.
        MINOR = 1,
        /// Completed; the kernel charged it to `maj_flt`: `VM_FAULT_MAJOR`, or a retry after the lock was dropped.
        MAJOR = 2,
        /// Never completed: the kernel forced SIGSEGV or SIGBUS on the thread.
        FAILED = 3,
        /// Never completed, without such a signal: the kernel returned to the instruction, to be executed again.
        RETRIED = 4,
        /// Had not ended when the thread did, or tracing.
        UNFINISHED = 5,
        /// An access of the kernel's own that never completed: the kernel went on by its exception table.
        REFUSED = 6,
        /// An instruction fetch from the vsyscall page: the kernel did what is called there, and brought no page.
        EMULATED = 7,
    }
}

open_enum! {
    /// Where a jump of `min_flt` or `maj_flt` without events was noticed.
    pub struct UncountedCause(u32) {
        /// At the end of the system call in [`UncountedEvent::syscall_plus_one`], or at a fault inside it.
        SYSCALL = 1,
        /// At `sched_process_exec`: the argument and environment pages that `execve` copied.
        EXEC = 2,
        /// At the exit of the task.
        EXIT = 3,
        /// At the completion of a fault in user mode, with no system call in flight.
        USER = 4,
    }
}

open_enum! {
    /// A system call that concerns an address space, whatever its number on the traced architecture.
    pub struct Call(u8) {
        /// `mmap`
        MMAP = 1,
        /// `mmap2` of 32-bit programs: the offset counts units of 4096 bytes.
        MMAP2 = 2,
        /// `munmap`
        MUNMAP = 3,
        /// `mremap`
        MREMAP = 4,
        /// `brk`
        BRK = 5,
        /// `mprotect`
        MPROTECT = 6,
        /// `pkey_mprotect`
        PKEY_MPROTECT = 7,
        /// `madvise`
        MADVISE = 8,
        /// `process_madvise`
        PROCESS_MADVISE = 9,
        /// `mlock`
        MLOCK = 10,
        /// `mlock2`
        MLOCK2 = 11,
        /// `munlock`
        MUNLOCK = 12,
        /// `mlockall`
        MLOCKALL = 13,
        /// `munlockall`
        MUNLOCKALL = 14,
        /// `shmat`
        SHMAT = 15,
        /// `shmdt`
        SHMDT = 16,
        /// `remap_file_pages`
        REMAP_FILE_PAGES = 17,
        /// `mseal`
        MSEAL = 18,
        /// `prctl`; recorded are `PR_SET_VMA`, as a [`NameEvent`], and `PR_SET_MM`: arguments 3 to 5 are `start_brk`, `brk`
        /// and `start_stack` of `mm_struct` after it, 0 if unknown.
        PRCTL = 19,
        /// `ioctl`; only `UFFDIO_REGISTER` and `UFFDIO_UNREGISTER` are told: arguments 2 to 4 are start, length in bytes
        /// and mode.
        IOCTL = 20,
        /// Never told: it may change an address space only in ways that other records tell, such as `clone`.
        EXPLAINED = 255,
    }
}

impl Call {
    /// System-call numbers of each of the two tables of [`CALLS`](crate::names::CALLS).
    pub const NUMBERS: usize = 512;
}

/// What is known of a fault besides how it ended; bits of [`FaultEvent::flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultFlags;

impl FaultFlags {
    /// The access was a write; without it and [`Self::EXEC`] a read.
    pub const WRITE: u16 = 1 << 0;
    /// The access was an instruction fetch.
    pub const EXEC: u16 = 1 << 1;
    /// The fault was taken in user mode.
    pub const USER: u16 = 1 << 2;
    /// A page was present and its protection refused the access: copy-on-write, write-protection, NUMA hinting.
    pub const PROTECTION: u16 = 1 << 3;
    /// [`Self::WRITE`], [`Self::EXEC`] and [`Self::PROTECTION`] are known; else the entry hook could not tell.
    pub const ACCESS_KNOWN: u16 = 1 << 4;
    /// The latency was measured; unset if tracing began during the fault, or it never completed. See
    /// [`FaultEvent::latency_ns`].
    pub const LATENCY_KNOWN: u16 = 1 << 5;
}

record! {
    /// First fields of every record in the `CONTROL` ring.
    pub struct EventHeader = 24 {
        /// `bpf_ktime_get_boot_ns()` when the record was written, in nanoseconds.
        pub time_ns: u64,
        /// Thread-group ID in the recorder's PID namespace.
        pub tgid: u32,
        /// Thread ID in the recorder's PID namespace.
        pub tid: u32,
        /// Which record this is.
        pub kind: EventKind,
        /// Bytes in the whole record, this header included.
        pub len: u16,
        /// CPU that the record was reserved on.
        pub cpu: u32,
    }
}

record! {
    /// A page fault that ended. Self-contained: no other record is needed to read it, so a loss costs
    /// only what was lost.
    pub struct FaultEvent = 40 {
        /// `bpf_ktime_get_boot_ns()` at completion; if the fault never completed, when that became known.
        pub time_ns: u64,
        /// Faulting virtual address, not page-aligned.
        pub addr: u64,
        /// Instruction pointer at the fault; in the kernel's half for kernel-mode faults.
        pub ip: u64,
        /// Thread ID in the recorder's PID namespace; its process is known from the task events.
        pub tid: u32,
        /// Low 32 bits of [`Self::latency_bits`].
        pub latency_low: u32,
        /// CPU that the record was reserved on.
        pub cpu: u16,
        /// Bits of [`FaultFlags`].
        pub flags: u16,
        /// How the fault ended.
        pub kind: FaultKind,
        /// High 24 bits of [`Self::latency_bits`], the lowest byte first.
        pub latency_high: [u8; 3],
    }
}

impl FaultEvent {
    /// Longest latency that the record has room for, in nanoseconds: 56 bits, two years.
    pub const LATENCY_MAX: u64 = (1 << 56) - 1;

    /// Entry to completion in nanoseconds; `None` if it is not known.
    #[must_use]
    pub const fn latency_ns(&self) -> Option<u64> {
        if self.flags & FaultFlags::LATENCY_KNOWN == 0 { None } else { Some(self.latency_bits()) }
    }

    /// The same record with this latency; not known if there is no room for it.
    #[must_use]
    pub const fn with_latency_ns(mut self, latency: u64) -> Self {
        self.flags |= FaultFlags::LATENCY_KNOWN;
        match self.with_latency_bits(latency) {
            Some(record) => record,
            None => Self { flags: self.flags & !FaultFlags::LATENCY_KNOWN, ..self },
        }
    }

    /// What the record has in place of a latency, known or not.
    #[must_use]
    pub const fn latency_bits(&self) -> u64 {
        let [low, middle, high] = self.latency_high;
        (u32::from_le_bytes([low, middle, high, 0]) as u64) << 32 | self.latency_low as u64
    }

    /// The same record with these bits in place of a latency; `None` if there is no room for them.
    #[must_use]
    pub const fn with_latency_bits(self, bits: u64) -> Option<Self> {
        if bits > Self::LATENCY_MAX {
            return None;
        }
        let [a, b, c, d, low, middle, high, _] = bits.to_le_bytes();
        Some(Self {
            latency_low: u32::from_le_bytes([a, b, c, d]),
            latency_high: [low, middle, high],
            ..self
        })
    }
}

record! {
    /// A traced task made a new task; the header names the parent.
    pub struct ForkEvent = 96 {
        /// Common fields.
        pub header: EventHeader,
        /// Thread-group ID of the new task.
        pub child_tgid: u32,
        /// Thread ID of the new task.
        pub child_tid: u32,
        /// `CLONE_*` flags of the call.
        pub clone_flags: u64,
        /// Address space of the new task: the parent's under `CLONE_VM`, else a new one.
        pub space: u64,
        /// Name of the parent, which the child inherits; ends at the first zero byte.
        pub comm: [u8; 16],
        /// Address space of the parent.
        pub parent_space: u64,
        /// When the parent's address space was copied, on the clock of the header; 0 if unknown.
        pub copied_ns: u64,
        /// End of the heap in the copy; 0 if unknown. The kernel copies it a little before the heap itself.
        pub brk: u64,
        /// `total_vm` of the copy, in pages; 0 if unknown or under `CLONE_VM`.
        pub total_vm: u64,
    }
}

record! {
    /// A traced process replaced its address space; the header names the task after it.
    pub struct ExecEvent = 88 {
        /// Common fields.
        pub header: EventHeader,
        /// The new address space.
        pub space: u64,
        /// Thread ID before: differs from the header's if a thread other than the leader called `execve`.
        pub old_tid: u32,
        /// 1 if a [`SpaceEvent`] told when the new address space began to fill, else 0.
        pub is_space_told: u32,
        /// New name of the task; ends at the first zero byte.
        pub comm: [u8; 16],
        /// Where the heap begins; 0 if unknown.
        pub start_brk: u64,
        /// An address in the stack of the main thread; 0 if unknown.
        pub start_stack: u64,
        /// 1 if the kernel took the events of perf that follow this task away from it: the program runs with the privileges
        /// of another user, or may not be read.
        pub is_hidden: u64,
        /// `total_vm` of the new address space, in pages; 0 if unknown.
        pub total_vm: u64,
    }
}

record! {
    /// A traced task is executing a program: it lives in a new address space, which fills from now on.
    pub struct SpaceEvent = 32 {
        /// Common fields.
        pub header: EventHeader,
        /// The new address space.
        pub space: u64,
    }
}

record! {
    /// A task that is executing a program unmapped pages of its new address space. The kernel maps an ELF file from its first
    /// to its last segment at once, and then unmaps what lies behind the first (`elf_load` of `fs/binfmt_elf.c`).
    pub struct TrimEvent = 40 {
        /// Common fields; the time is when it took effect.
        pub header: EventHeader,
        /// The new address space.
        pub space: u64,
        /// Pages that are no longer mapped: the last ones of what was mapped just before.
        pub pages: u64,
    }
}

record! {
    /// A system call ended that concerns an address space, or a request of `io_uring` that does the same. The header's time is when
    /// a change took effect, within the section in which the task alone held the memory map, as far as that is known; else when
    /// the call returned.
    pub struct CallEvent = 96 {
        /// Common fields.
        pub header: EventHeader,
        /// Address space of the task.
        pub space: u64,
        /// Which call.
        pub call: Call,
        /// 0 if as many pages are mapped as before the call, 1 if not, or if nobody knows.
        pub may_have_resized: u8,
        /// Type and permissions of the file that `mmap` mapped (`i_mode`); 0 if there is none, or it is unknown.
        pub file_mode: u16,
        /// The magic number of its file system (`include/uapi/linux/magic.h`); 0 if there is none, or it is unknown.
        pub file_magic: u32,
        /// What it returned: below 0 the error number.
        pub result: i64,
        /// First argument.
        pub arg_0: u64,
        /// Second argument.
        pub arg_1: u64,
        /// Third argument.
        pub arg_2: u64,
        /// Fourth argument.
        pub arg_3: u64,
        /// Fifth argument; where [`Self::file_magic`] is known, the device of the file as the kernel has it: the minor number
        /// is the low 20 bits.
        pub arg_4: u64,
        /// Sixth argument.
        pub arg_5: u64,
    }
}

/// A name of anonymous memory: at most 79 bytes and a zero byte (`ANON_VMA_NAME_MAX_LEN` of `mm/madvise.c`).
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmaName(pub [u8; 80]);

impl Default for VmaName {
    fn default() -> Self {
        Self([0; 80])
    }
}

impl Field for VmaName {
    fn take(rest: &mut &[u8]) -> Option<Self> {
        <[u8; 80]>::take(rest).map(Self)
    }

    fn put(&self, bytes: &mut [u8], at: &mut usize) {
        self.0.put(bytes, at);
    }
}

record! {
    /// `prctl(PR_SET_VMA)` ended.
    pub struct NameEvent = 176 {
        /// The call.
        pub call: CallEvent,
        /// The name that it gave; ends at the first zero byte, empty if it took one away.
        pub name: VmaName,
    }
}

record! {
    /// A traced task changed its address space in a way that no other record tells.
    pub struct SectionEvent = 40 {
        /// Common fields.
        pub header: EventHeader,
        /// Address space of the task.
        pub space: u64,
        /// Number of the system call in flight on the traced architecture.
        pub syscall: u64,
    }
}

record! {
    /// A traced task ended, or tracing of it did ([`EventKind::ALIVE`]).
    pub struct ExitEvent = 112 {
        /// Common fields.
        pub header: EventHeader,
        /// Its address space.
        pub space: u64,
        /// 1 if it was the last task of its thread group, else 0. Without the layout of `task_struct` the leader
        /// passes for the last one.
        pub group_dead: u64,
        /// 1 if the kernel's counters were read; else the account means nothing.
        pub is_charge_known: u64,
        /// What the kernel charged to it while it was traced.
        pub account: TaskAccount,
    }
}

record! {
    /// A traced task got another name by `prctl`, `pthread_setname_np` or a write to its `comm` file.
    pub struct CommEvent = 40 {
        /// Common fields; `tid` and `tgid` are those of the renamed task.
        pub header: EventHeader,
        /// The new name; ends at the first zero byte.
        pub comm: [u8; 16],
    }
}

record! {
    /// The kernel charged faults to a task without raising an event for them.
    pub struct UncountedEvent = 56 {
        /// Common fields; the time is when the jump was noticed.
        pub header: EventHeader,
        /// Faults added to `min_flt`.
        pub minor: u64,
        /// Faults added to `maj_flt`.
        pub major: u64,
        /// Where it was noticed.
        pub cause: UncountedCause,
        /// Number of the system call in flight on the traced architecture, plus one; 0 if there was none.
        pub syscall_plus_one: u32,
        /// Address space of the task at that time.
        pub space: u64,
    }
}

record! {
    /// A task became traced other than by birth: it was there at the start, or moved into the cgroup.
    pub struct JoinEvent = 56 {
        /// Common fields.
        pub header: EventHeader,
        /// Its address space.
        pub space: u64,
        /// Thread-group ID of its parent; 0 if unknown.
        pub parent_tgid: u32,
        /// Zero.
        pub pad: u32,
        /// Its name; ends at the first zero byte.
        pub comm: [u8; 16],
    }
}

record! {
    /// A task is no longer traced though it lives: it moved out of the cgroup.
    pub struct LeaveEvent = 96 {
        /// Common fields.
        pub header: EventHeader,
        /// As [`ExitEvent::is_charge_known`].
        pub is_charge_known: u64,
        /// What the kernel charged to it while it was traced.
        pub account: TaskAccount,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_event_survives_bytes() {
        let event = FaultEvent {
            time_ns: 0x0102_0304_0506_0708,
            addr: 0x7fff_1234_5678,
            ip: 0xffff_ffff_8100_0000,
            tid: 4242,
            latency_low: 1500,
            cpu: 3,
            flags: FaultFlags::WRITE | FaultFlags::USER,
            kind: FaultKind::MAJOR,
            latency_high: [1, 2, 3],
        };

        assert_eq!(FaultEvent::from_bytes(&event.to_bytes()), Some(event));
    }

    #[test]
    fn latency_has_56_bits() {
        // 6 s and two years are beyond 32 bits.
        for latency in [0, 1500, 6_000_146_064, FaultEvent::LATENCY_MAX] {
            let event = FaultEvent::default().with_latency_ns(latency);

            assert_eq!(event.latency_ns(), Some(latency));
        }
        let event = FaultEvent::default().with_latency_ns(0x0011_2233_4455_6677);
        assert_eq!((event.latency_high, event.latency_low), ([0x33, 0x22, 0x11], 0x4455_6677));
    }

    #[test]
    fn latency_without_room_is_unknown() {
        // A clock that went back by a nanosecond.
        for latency in [FaultEvent::LATENCY_MAX + 1, u64::MAX] {
            assert_eq!(FaultEvent::default().with_latency_ns(latency).latency_ns(), None);
            assert_eq!(FaultEvent::default().with_latency_bits(latency), None);
        }
        assert_eq!(FaultEvent::default().latency_ns(), None);
    }

    #[test]
    fn fields_stand_where_repr_c_puts_them() {
        let event = FaultEvent { tid: 0x1122_3344, flags: 0x5566, ..FaultEvent::default() };
        let bytes = event.to_bytes();

        let tid = core::mem::offset_of!(FaultEvent, tid);
        let flags = core::mem::offset_of!(FaultEvent, flags);
        assert_eq!(bytes[tid..tid + 4], 0x1122_3344_u32.to_ne_bytes());
        assert_eq!(bytes[flags..flags + 2], 0x5566_u16.to_ne_bytes());
    }

    #[test]
    fn short_bytes_are_no_record() {
        assert_eq!(FaultEvent::from_bytes(&[0; FaultEvent::LEN - 1]), None);
    }
}
