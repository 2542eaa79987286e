//! The call from which a stopped task has just returned, where it is one that tracing interferes with.
//!
//! Layer: shell. Input: thread IDs. Output: [`Call`]s; calls that are made again.
//! Source: `ptrace(2)`, `clone(2)`; `arch/x86/kernel/signal.c`, where the kernel has calls made again the same way.
//! Keeps: registers other than those of the call are untouched.
//! Not here: what follows from a call (`session::hold`).

use std::io;

use super::unless_gone;
use crate::event::Tid;

/// Whether calls can be made again on this architecture.
pub const IS_KNOWN: bool = cfg!(target_arch = "x86_64");

/// A call that tracing interferes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// It was refused `PTRACE_TRACEME`.
    TraceMe,
    /// It was refused to trace the task that has this ID in its PID namespace.
    Attach(i32),
    /// It made a task under `CLONE_UNTRACED`.
    Untraced,
}

/// The call that the stopped `task` has just returned from, if it is one of these.
pub fn last(task: Tid) -> io::Result<Option<Call>> {
    unless_gone(arch::last(task)).map(Option::flatten)
}

/// Has the stopped `task` make its last call again when it goes on.
pub fn repeat(task: Tid) -> io::Result<()> {
    unless_gone(arch::repeat(task)).map(drop)
}

#[cfg(target_arch = "x86_64")]
mod arch {
    use std::io;

    use super::Call;
    use crate::{
        event::Tid,
        sys::ptrace::{read, write},
    };

    /// Code segment of 32-bit programs.
    const USER32_CS: u64 = 0x23;
    /// Bytes of `syscall` and of `int $0x80`; `sysenter` returns to behind one of these.
    const INSTRUCTION: u64 = 2;
    /// `CLONE_UNTRACED` of `include/uapi/linux/sched.h`.
    const CLONE_UNTRACED: u64 = 0x80_0000;
    /// `ptrace`, `clone` and `clone3`.
    const NATIVE: [u64; 3] =
        [libc::SYS_ptrace.cast_unsigned(), libc::SYS_clone.cast_unsigned(), libc::SYS_clone3.cast_unsigned()];
    /// The same for 32-bit programs, of `arch/x86/entry/syscalls/syscall_32.tbl`.
    const COMPAT: [u64; 3] = [26, 120, 435];

    pub(super) fn last(task: Tid) -> io::Result<Option<Call>> {
        let registers = registers(task)?;
        let is_32_bit = registers.cs == USER32_CS;
        let (numbers, [first, second]) = if is_32_bit {
            (COMPAT, [registers.rbx & 0xffff_ffff, registers.rcx])
        } else {
            (NATIVE, [registers.rdi, registers.rsi])
        };
        let [ptrace, clone, clone3] = numbers;
        let result = registers.rax.cast_signed();
        let is_untraced = |flags: u64| (result > 0 && flags & CLONE_UNTRACED != 0).then_some(Call::Untraced);
        Ok(match registers.orig_rax {
            number if number == ptrace && result == -i64::from(libc::EPERM) => refused(first, second),
            number if number == clone => is_untraced(first),
            number if number == clone3 => is_untraced(read(libc::PTRACE_PEEKDATA.into(), task, first)?),
            _ => None,
        })
    }

    /// The request of `ptrace(2)`, if it begins to trace.
    fn refused(request: u64, pid: u64) -> Option<Call> {
        match u32::try_from(request).ok()? {
            libc::PTRACE_TRACEME => Some(Call::TraceMe),
            #[expect(clippy::cast_possible_truncation, reason = "the kernel takes a `pid_t`")]
            libc::PTRACE_ATTACH | libc::PTRACE_SEIZE => Some(Call::Attach(pid as i32)),
            _ => None,
        }
    }

    pub(super) fn repeat(task: Tid) -> io::Result<()> {
        let mut registers = registers(task)?;
        registers.rax = registers.orig_rax;
        registers.rip -= INSTRUCTION;
        // So that the kernel does not do it too.
        registers.orig_rax = u64::MAX;
        write(libc::PTRACE_SETREGS.into(), task, &registers)
    }

    fn registers(task: Tid) -> io::Result<libc::user_regs_struct> {
        read(libc::PTRACE_GETREGS.into(), task, 0)
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod arch {
    use std::io;

    use super::Call;
    use crate::event::Tid;

    pub(super) fn last(_task: Tid) -> io::Result<Option<Call>> {
        Ok(None)
    }

    pub(super) fn repeat(_task: Tid) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
