//! What the programs write into the rings of faults.

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
    /// First of the bits above, which hold the number of the system call in flight on the traced architecture, plus one; 0 if
    /// there was none, or it is unknown.
    pub const SYSCALL_SHIFT: u32 = 6;

    /// The bits for the system call `number`; 0 if it has no room.
    #[must_use]
    pub const fn syscall(number: u64) -> u16 {
        let [low, high, ..] = number.wrapping_add(1).to_le_bytes();
        let bits = u16::from_le_bytes([low, high]);
        if number < (u16::MAX >> Self::SYSCALL_SHIFT) as u64 { bits << Self::SYSCALL_SHIFT } else { 0 }
    }
}

record! {
    /// A page fault that ended. Self-contained: no other record is needed to read it, so a loss costs
    /// only what was lost.
    pub struct FaultEvent = 48 {
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
        /// The stack of the thread in user mode, as a [`StackEvent`](crate::StackEvent) names it; 0 if it is unknown.
        pub stack: u64,
    }
}

impl FaultEvent {
    /// Number of the system call in flight on the traced architecture; `None` if there was none, or it is unknown.
    #[must_use]
    pub const fn syscall(&self) -> Option<u32> {
        (self.flags as u32 >> FaultFlags::SYSCALL_SHIFT).checked_sub(1)
    }

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
            stack: 0x1111_2222_3333_4444,
        };

        assert_eq!(FaultEvent::from_bytes(&event.to_bytes()), Some(event));
    }

    #[test]
    fn system_calls_have_the_bits_that_flags_leave() {
        let of =
            |number| FaultEvent { flags: FaultFlags::syscall(number), ..FaultEvent::default() }.syscall();
        assert_eq!(
            [of(0), of(9), of(1022), of(1023), of(u64::MAX)],
            [Some(0), Some(9), Some(1022), None, None]
        );
        assert_eq!(FaultEvent { flags: 0x3f, ..FaultEvent::default() }.syscall(), None);
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
