//! What the programs remember about each traced task, in the map `TASKS`.

use super::fault::FaultKind;

/// Whether the instruction pointer `ip` is in the vsyscall page of x86-64: the only one of user mode in the kernel's half of the
/// addresses. Each fetch from there faults, and the kernel emulates it (`arch/x86/entry/vsyscall/vsyscall_64.c`).
#[must_use]
pub const fn is_vsyscall(ip: u64) -> bool {
    ip & !0xfff == 0xffff_ffff_ff60_0000
}

record! {
    /// The kernel's fault counters of one task against the events seen of it.
    ///
    /// `recorded + uncounted == last - base`, for minor and for major faults, whenever `last` was read.
    pub struct TaskAccount = 64 {
        /// `task->min_flt` when tracing of the task began.
        pub base_minor: u64,
        /// `task->maj_flt` when tracing of the task began.
        pub base_major: u64,
        /// `task->min_flt` when last read.
        pub last_minor: u64,
        /// `task->maj_flt` when last read.
        pub last_major: u64,
        /// Completions of minor faults that the programs saw, written to the ring or not.
        pub recorded_minor: u64,
        /// Completions of major faults that the programs saw, written to the ring or not.
        pub recorded_major: u64,
        /// Minor faults charged without an event.
        pub uncounted_minor: u64,
        /// Major faults charged without an event.
        pub uncounted_major: u64,
    }
}

record! {
    /// One task of the recorder's PID namespace, as the programs list them where that is not the initial one.
    pub struct TaskIds = 8 {
        /// Thread ID in the recorder's PID namespace; 0 if it is gone from there.
        pub tid: u32,
        /// Thread ID in the initial PID namespace: the key in `TASKS`.
        pub initial_tid: u32,
    }
}

record! {
    /// A fault that has begun and not ended.
    pub struct Pending = 32 {
        /// `bpf_ktime_get_boot_ns()` at entry; 0 if there is none.
        pub time_ns: u64,
        /// Faulting virtual address.
        pub addr: u64,
        /// Instruction pointer.
        pub ip: u64,
        /// Bits of [`FaultFlags`](crate::FaultFlags), [`USER`](crate::FaultFlags::USER) included.
        pub flags: u64,
    }
}

impl Pending {
    /// The flags as [`FaultEvent::flags`](crate::FaultEvent::flags) has them.
    #[must_use]
    pub const fn fault_flags(&self) -> u16 {
        let [low, high, ..] = self.flags.to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    /// How the fault ended if neither a completion nor a signal was seen: as `kind` says, but in the vsyscall page
    /// [`EMULATED`](FaultKind::EMULATED).
    #[must_use]
    pub const fn kind_or_emulated(&self, kind: FaultKind) -> FaultKind {
        if is_vsyscall(self.ip) { FaultKind::EMULATED } else { kind }
    }

    /// No fault.
    pub const NONE: Self = Self { time_ns: 0, addr: 0, ip: 0, flags: 0 };
}

record! {
    /// One traced task; the key is its thread ID in the initial PID namespace.
    pub struct TaskState = 256 {
        /// The kernel's `task_struct`, to tell a recycled thread ID; 0 until the task is first seen. Never recorded.
        pub task: u64,
        /// The kernel's `mm_struct`, to tell an exec; 0 if unknown. Never recorded.
        pub mm: u64,
        /// Address space: a number given at birth, join or exec, never reused.
        pub space: u64,
        /// When the task last got a lock on a memory map, in nanoseconds of `CLOCK_BOOTTIME`.
        pub locked_ns: u64,
        /// `mm->total_vm` when it last began to hold a memory map alone, in pages.
        pub total_vm: u64,
        /// When it last ended a section in which it alone held a memory map; 0 once a call has told.
        pub section_ns: u64,
        /// Thread ID in the recorder's PID namespace, as records have it.
        pub tid: u32,
        /// Thread-group ID in the recorder's PID namespace, as records have it.
        pub tgid: u32,
        /// Zero.
        pub pad: u32,
        /// Bits [`Self::BASE_KNOWN`] to [`Self::WALKED`].
        pub flags: u32,
        /// Counters.
        pub account: TaskAccount,
        /// The user-mode fault being handled.
        pub user: Pending,
        /// Kernel-mode faults being handled; more than one when a handler's own access faults.
        pub kernel_0: Pending,
        /// See [`Self::kernel_0`].
        pub kernel_1: Pending,
        /// See [`Self::kernel_0`].
        pub kernel_2: Pending,
    }
}

impl TaskState {
    /// Nothing known.
    pub const ZERO: Self = Self {
        task: 0,
        mm: 0,
        space: 0,
        locked_ns: 0,
        total_vm: 0,
        section_ns: 0,
        tid: 0,
        tgid: 0,
        pad: 0,
        flags: 0,
        account: TaskAccount {
            base_minor: 0,
            base_major: 0,
            last_minor: 0,
            last_major: 0,
            recorded_minor: 0,
            recorded_major: 0,
            uncounted_minor: 0,
            uncounted_major: 0,
        },
        user: Pending::NONE,
        kernel_0: Pending::NONE,
        kernel_1: Pending::NONE,
        kernel_2: Pending::NONE,
    };
    /// `base_*` of the account have been read.
    pub const BASE_KNOWN: u32 = 1 << 0;
    /// `sched_process_exit` was seen; the account began anew there, for what the kernel charges afterwards.
    pub const EXITED: u32 = 1 << 1;
    /// The task alone holds a memory map.
    pub const WRITING: u32 = 1 << 2;
    /// The call in flight has been told already.
    pub const CALL_TOLD: u32 = 1 << 3;
    /// The task is executing a program, and its new address space has been told.
    pub const SPACE_TOLD: u32 = 1 << 4;
    /// The number of mapped pages changed since a call was last told.
    pub const RESIZED: u32 = 1 << 5;
    /// A program reads the stack of the task; faults of that are not the task's.
    pub const WALKED: u32 = 1 << 6;
}
