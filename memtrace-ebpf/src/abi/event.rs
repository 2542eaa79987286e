//! What the programs write into the ring `CONTROL`.

use super::{field::Field, task::TaskAccount};

open_enum! {
    /// Which record follows an [`EventHeader`]. An open enumeration: user space skips what it does not
    /// know by [`EventHeader::len`], and counts it.
    pub struct EventKind(u16) {
        /// [`ForkEvent`]
        FORK = 1,
        /// [`LoadEvent`]
        EXEC = 2,
        /// [`EndEvent`]
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
        /// [`StackEvent`](crate::StackEvent)
        STACK = 15,
        /// A stack that is not complete, as [`Registers`](crate::Registers) tell; never recorded, user space makes a
        /// [`Self::STACK`] of it.
        DUMP = 16,
        /// [`BuildIdEvent`]; written by user space.
        BUILD_ID = 17,
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
        /// While the kernel wrote a core dump of the task.
        CORE_DUMP = 5,
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
        /// `ptrace`: never recorded, and changes no address space. One that fails because the recorder holds a task stops its caller.
        PTRACE = 21,
        /// `clone`: never recorded, as [`Self::EXPLAINED`]. One with `CLONE_UNTRACED` in a held task stops its caller.
        CLONE = 22,
        /// `clone3`: as [`Self::CLONE`].
        CLONE3 = 23,
        /// Never told: it may change an address space only in ways that other records tell, such as `clone`.
        EXPLAINED = 255,
    }
}

impl Call {
    /// System-call numbers of each of the two tables of [`CALLS`](crate::names::CALLS).
    pub const NUMBERS: usize = 512;
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

record! {
    /// A [`CallEvent`] as [`EventKind::CALL`] has it when stacks are recorded.
    pub struct StackedCallEvent = 104 {
        /// The call.
        pub call: CallEvent,
        /// The stack of the caller, as a [`StackEvent`](crate::StackEvent) names it; 0 if it is unknown.
        pub stack: u64,
    }
}

record! {
    /// What distinguishes a mapped file from others of its name.
    pub struct BuildIdEvent = 72 {
        /// Common fields.
        pub header: EventHeader,
        /// The device, as the kernel has it: the minor number is the low 20 bits.
        pub device: u64,
        /// Its inode there.
        pub inode: u64,
        /// Bytes of [`Self::build_id`] that count.
        pub build_id_len: u64,
        /// `NT_GNU_BUILD_ID`
        pub build_id: [u8; 24],
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
    /// An [`ExecEvent`] as [`EventKind::EXEC`] has it.
    pub struct LoadEvent = 96 {
        /// The exec.
        pub exec: ExecEvent,
        /// The most pages that the process had resident at once before; 0 if unknown.
        pub max_rss: u64,
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
    /// An [`ExitEvent`] as [`EventKind::EXIT`] has it. If the task was the last of its thread group, what the kernel has of the process.
    pub struct EndEvent = 128 {
        /// The end of the task.
        pub exit: ExitEvent,
        /// The most pages that the process had resident at once, in all its programs; 0 if unknown.
        pub max_rss: u64,
        /// The status that `wait` gives, plus one; 0 if unknown.
        pub status_plus_one: u64,
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
