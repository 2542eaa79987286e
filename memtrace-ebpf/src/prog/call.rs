//! System calls, as the registers of their callers have them.
//!
//! Which number is which call is in a table that user space fills ([`CALLS`]); where arguments are depends on the architecture,
//! and on whether the caller is a 32-bit program.

use aya_ebpf::helpers::{bpf_get_current_task_btf, bpf_probe_read_user, bpf_task_pt_regs};
use memtrace_ebpf::{Call, Registers};

use super::{config, kernel::read_kernel};
use crate::CALLS;

/// `PR_SET_VMA` of `include/uapi/linux/prctl.h`.
const PR_SET_VMA: u32 = 0x5356_4d41;
/// `PR_SET_MM` of `include/uapi/linux/prctl.h`.
const PR_SET_MM: u32 = 35;
/// `PR_SET_THP_DISABLE` and `PR_SET_MEMORY_MERGE` of `include/uapi/linux/prctl.h`: what they set does not show in maps.
const PR_UNSEEN: [u32; 2] = [41, 67];
/// `MAP_ANONYMOUS`
const MAP_ANONYMOUS: u64 = 0x20;
/// `UFFDIO_REGISTER` and `UFFDIO_UNREGISTER` of `include/uapi/linux/userfaultfd.h`.
const UFFDIO: [u32; 2] = [0xc020_aa00, 0x8010_aa01];

/// `MADV_DONTFORK`, `MADV_DOFORK`, `MADV_WIPEONFORK` and `MADV_KEEPONFORK`: what a fork copies depends on them.
pub(crate) const FORK_ADVICE: [u32; 4] = [10, 11, 18, 19];

/// A system call as the registers of its caller have it.
#[derive(Clone, Copy)]
pub(crate) struct Request {
    /// Its number on the architecture of the caller.
    pub(crate) number: u64,
    pub(crate) call: Call,
    /// The `pt_regs`.
    regs: u64,
    is_32_bit: bool,
}

/// The registers that the current task had in user mode; `None` if the kernel has no helper for them.
#[inline(always)]
pub(crate) fn registers() -> Option<u64> {
    if config!(has_task_pt_regs) == 0 {
        return None;
    }
    // SAFETY: the first helper returns the current task, which is what the second one takes.
    Some(unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as u64)
}

/// The number of the system call in flight in the `pt_regs` at `regs`.
#[inline(always)]
pub(crate) fn number(regs: u64) -> u64 {
    read_kernel(regs, config!(regs_syscall))
}

/// Which call `number` is: on this architecture, or for 32-bit programs.
#[inline(always)]
fn call_of(number: u64, is_32_bit: bool) -> Call {
    if number >= Call::NUMBERS as u64 {
        return Call(0);
    }
    let table = if is_32_bit { Call::NUMBERS } else { 0 };
    let index = table + (number as usize & (Call::NUMBERS - 1));
    // SAFETY: `index` is below the length of the static. Volatile, so that the compiler does not take the zeros of
    // the build for constants.
    Call(unsafe { core::ptr::read_volatile((&raw const CALLS).cast::<u8>().add(index)) })
}

impl Request {
    /// The system call in the registers `regs`.
    #[inline(always)]
    pub(crate) fn of(regs: u64) -> Self {
        let number = number(regs);
        // Most numbers are nothing in either table, and every system call of every process comes here.
        if call_of(number, false) == Call(0) && call_of(number, true) == Call(0) {
            return Self { number, call: Call(0), regs, is_32_bit: false };
        }
        let is_32_bit = arch::is_32_bit(regs);
        Self { number, call: call_of(number, is_32_bit), regs, is_32_bit }
    }

    /// Whether a change of the address space in this call is in the record of the call, or in that of others of its kind, or shows
    /// nowhere.
    #[inline(always)]
    pub(crate) fn explains(self) -> bool {
        match self.call {
            Call(0) | Call::PTRACE => false,
            Call::PRCTL => self.is_told() || PR_UNSEEN.contains(&self.int(0)),
            Call::IOCTL => self.is_told(),
            _ => true,
        }
    }

    /// Whether the end of this call is recorded.
    #[inline(always)]
    pub(crate) fn is_told(self) -> bool {
        match self.call {
            Call(0) | Call::EXPLAINED | Call::PTRACE | Call::CLONE | Call::CLONE3 => false,
            Call::PRCTL => matches!(self.int(0), PR_SET_VMA | PR_SET_MM),
            Call::IOCTL => UFFDIO.contains(&self.int(1)),
            _ => true,
        }
    }

    /// Whether it is `prctl(PR_SET_VMA)`.
    #[inline(always)]
    pub(crate) fn names(self) -> bool {
        self.call == Call::PRCTL && self.int(0) == PR_SET_VMA
    }

    #[inline(always)]
    pub(crate) fn argument(self, index: usize) -> u64 {
        arch::argument(self.regs, index, self.is_32_bit)
    }

    /// The registers of the caller, for its stack.
    #[inline(always)]
    pub(crate) fn registers(self) -> Registers {
        registers_at(self.regs)
    }

    /// The first word of what the first argument points at; 0 if it cannot be read.
    #[inline(always)]
    pub(crate) fn pointed(self) -> u64 {
        // SAFETY: the helper checks the address and returns an error for a bad one.
        unsafe { bpf_probe_read_user(self.argument(0) as *const u64) }.unwrap_or_default()
    }

    /// An argument that the call declares as `int`: the kernel takes the lower half of the register.
    #[inline(always)]
    pub(crate) fn int(self, index: usize) -> u32 {
        self.argument(index) as u32
    }

    /// Whether it maps what is behind a descriptor.
    #[inline(always)]
    pub(crate) fn maps_file(self) -> bool {
        matches!(self.call, Call::MMAP | Call::MMAP2) && self.argument(3) & MAP_ANONYMOUS == 0
    }
}

/// The registers by which a stack is walked: of 64-bit code in user mode, none of any other.
pub(crate) use arch::{is_64_bit, registers_at, registers_in};

/// Where an architecture keeps the arguments of a system call.
#[cfg(bpf_target_arch = "x86_64")]
mod arch {
    use core::mem::offset_of;

    use aya_ebpf::bindings::pt_regs;
    use memtrace_ebpf::Registers;

    use super::read_kernel;

    /// Code segment of 64-bit programs.
    const USER_CS: u64 = 0x33;

    /// Code segment of 32-bit programs.
    const USER32_CS: u64 = 0x23;

    const NATIVE: [usize; 6] = [
        offset_of!(pt_regs, rdi),
        offset_of!(pt_regs, rsi),
        offset_of!(pt_regs, rdx),
        offset_of!(pt_regs, r10),
        offset_of!(pt_regs, r8),
        offset_of!(pt_regs, r9),
    ];
    const COMPAT: [usize; 6] = [
        offset_of!(pt_regs, rbx),
        offset_of!(pt_regs, rcx),
        offset_of!(pt_regs, rdx),
        offset_of!(pt_regs, rsi),
        offset_of!(pt_regs, rdi),
        offset_of!(pt_regs, rbp),
    ];

    /// Whether the `pt_regs` at `regs` are those of 64-bit code in user mode.
    #[inline(always)]
    pub(crate) fn is_64_bit(regs: u64) -> bool {
        read_kernel::<u64>(regs, offset_of!(pt_regs, cs) as u64) == USER_CS
    }

    #[inline(always)]
    pub(crate) fn registers_in(regs: &pt_regs) -> Registers {
        if regs.cs == USER_CS {
            Registers { ip: regs.rip, sp: regs.rsp, bp: regs.rbp, is_return: 0 }
        } else {
            Registers::NONE
        }
    }

    #[inline(always)]
    pub(crate) fn registers_at(regs: u64) -> Registers {
        if !is_64_bit(regs) {
            return Registers::NONE;
        }
        Registers {
            ip: read_kernel(regs, offset_of!(pt_regs, rip) as u64),
            sp: read_kernel(regs, offset_of!(pt_regs, rsp) as u64),
            bp: read_kernel(regs, offset_of!(pt_regs, rbp) as u64),
            is_return: 0,
        }
    }

    #[inline(always)]
    pub(super) fn is_32_bit(regs: u64) -> bool {
        read_kernel::<u64>(regs, offset_of!(pt_regs, cs) as u64) == USER32_CS
    }

    #[inline(always)]
    pub(super) fn argument(regs: u64, index: usize, is_32_bit: bool) -> u64 {
        if is_32_bit {
            read_kernel::<u64>(regs, COMPAT[index] as u64) & 0xffff_ffff
        } else {
            read_kernel(regs, NATIVE[index] as u64)
        }
    }
}

/// Where an architecture keeps the arguments of a system call.
#[cfg(bpf_target_arch = "aarch64")]
mod arch {
    use aya_ebpf::bindings::user_pt_regs;
    use memtrace_ebpf::Registers;

    use super::read_kernel;

    /// There is no other code, but for the kernel's.
    #[inline(always)]
    pub(crate) fn is_64_bit(_regs: u64) -> bool {
        true
    }

    /// There are no rules for this architecture.
    #[inline(always)]
    pub(crate) fn registers_in(_regs: &user_pt_regs) -> Registers {
        Registers::NONE
    }

    #[inline(always)]
    pub(crate) fn registers_at(_regs: u64) -> Registers {
        Registers::NONE
    }

    /// The first argument as it was before the result took its register: behind 31 registers, sp, pc and pstate.
    const ORIG_X0: u64 = 34 * 8;

    #[inline(always)]
    pub(super) fn is_32_bit(_regs: u64) -> bool {
        false
    }

    #[inline(always)]
    pub(super) fn argument(regs: u64, index: usize, _is_32_bit: bool) -> u64 {
        read_kernel(regs, if index == 0 { ORIG_X0 } else { index as u64 * 8 })
    }
}
