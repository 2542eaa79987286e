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
    }
}

open_enum! {
    /// How a fault ended.
    pub struct FaultKind(u8) {
        /// Completed; the kernel charged it to `min_flt`.
        MINOR = 1,
        /// Completed; the kernel charged it to `maj_flt`: `VM_FAULT_MAJOR`, or a retry after the lock was dropped.
        MAJOR = 2,
        /// Never completed: the thread faulted elsewhere, returned from its system call, or exited.
        FAILED = 3,
        /// Never completed, and the thread faulted on the same page again.
        RETRIED = 4,
        /// Still being handled when tracing ended.
        UNFINISHED = 5,
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
    /// [`FaultEvent::latency_ns`] was measured; unset if tracing began during the fault, or it never completed.
    pub const LATENCY_KNOWN: u16 = 1 << 5;
}

record! {
    /// First fields of every record in the `CONTROL` ring.
    pub struct EventHeader = 24 {
        /// `bpf_ktime_get_boot_ns()` when the record was written, in nanoseconds.
        pub time_ns: u64,
        /// Thread-group ID in the initial PID namespace.
        pub tgid: u32,
        /// Thread ID in the initial PID namespace.
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
        /// Thread ID in the initial PID namespace; its process is known from the task events.
        pub tid: u32,
        /// Entry to completion in nanoseconds, saturating; see [`FaultFlags::LATENCY_KNOWN`].
        pub latency_ns: u32,
        /// CPU that the record was reserved on.
        pub cpu: u16,
        /// Bits of [`FaultFlags`].
        pub flags: u16,
        /// How the fault ended.
        pub kind: FaultKind,
        /// Zero.
        pub pad: [u8; 3],
    }
}

record! {
    /// A traced task made a new task; the header names the parent.
    pub struct ForkEvent = 72 {
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
    }
}

record! {
    /// A traced process replaced its address space; the header names the task after it.
    pub struct ExecEvent = 56 {
        /// Common fields.
        pub header: EventHeader,
        /// The new address space.
        pub space: u64,
        /// Thread ID before: differs from the header's if a thread other than the leader called `execve`.
        pub old_tid: u32,
        /// Zero.
        pub pad: u32,
        /// New name of the task; ends at the first zero byte.
        pub comm: [u8; 16],
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
            latency_ns: 1500,
            cpu: 3,
            flags: FaultFlags::WRITE | FaultFlags::USER,
            kind: FaultKind::MAJOR,
            pad: [0; 3],
        };

        assert_eq!(FaultEvent::from_bytes(&event.to_bytes()), Some(event));
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
