//! Pairs the entry of a fault with its completion.

use aya_ebpf::{helpers::bpf_get_current_task, programs::PerfEventContext};
use memtrace_ebpf::{FaultEvent, FaultFlags, FaultKind, Pending, UncountedCause, is_vsyscall};

use super::{account, config, emit, filter, heat, pending, read_kernel, vma};

/// The instruction pointer in the `pt_regs` at `regs`.
#[inline(always)]
pub(crate) fn ip_of(regs: u64) -> u64 {
    read_kernel(regs, config!(regs_ip))
}

/// What the hardware's error code says of the access; the mode is left out, the hook knows it.
#[inline(always)]
pub(crate) fn access_of(error_code: u64) -> u16 {
    #[cfg(bpf_target_arch = "x86_64")]
    {
        // Intel SDM volume 3, 4.7: bit 0 protection, bit 1 write, bit 4 instruction fetch.
        let mut flags = FaultFlags::ACCESS_KNOWN;
        if error_code & 1 != 0 {
            flags |= FaultFlags::PROTECTION;
        }
        if error_code & 1 << 1 != 0 {
            flags |= FaultFlags::WRITE;
        }
        if error_code & 1 << 4 != 0 {
            flags |= FaultFlags::EXEC;
        }
        flags
    }
    #[cfg(not(bpf_target_arch = "x86_64"))]
    {
        let _ = error_code;
        0
    }
}

/// The mode that an instruction pointer belongs to: the kernel has the upper half of the addresses, but for the vsyscall page.
#[inline(always)]
pub(crate) fn mode_of(ip: u64) -> u16 {
    if (ip as i64) < 0 && !is_vsyscall(ip) { 0 } else { FaultFlags::USER }
}

/// Faulting address and instruction pointer of a software event.
#[inline(always)]
pub(crate) fn sample_of(ctx: &PerfEventContext) -> (u64, u64) {
    // SAFETY: the kernel passes a valid `bpf_perf_event_data`.
    unsafe {
        #[cfg(bpf_target_arch = "x86_64")]
        let ip = (*ctx.ctx).regs.rip;
        #[cfg(bpf_target_arch = "aarch64")]
        let ip = (*ctx.ctx).regs.pc;
        ((*ctx.ctx).addr, ip)
    }
}

/// A fault of the current task begins; `ip` is asked for only if it is traced.
#[inline(always)]
pub(crate) fn enter(addr: u64, ip: impl FnOnce() -> u64, flags: u16) -> i32 {
    let Some(state) = filter::traced() else {
        return 0;
    };
    let ip = ip();
    let fault = Pending { time_ns: emit::now(), addr, ip, flags: u64::from(flags) };
    if flags & FaultFlags::USER != 0 {
        pending::end_all(state, FaultKind::RETRIED, FaultKind::REFUSED);
        // SAFETY: `state` is the current task's own element.
        unsafe { (*state).user = fault };
    } else {
        pending::enter_kernel(state, fault);
    }
    0
}

/// A fault of the current task completed.
#[inline(always)]
pub(crate) fn complete(addr: u64, ip: u64, kind: FaultKind) -> i32 {
    let Some(state) = filter::traced() else {
        return 0;
    };
    if !account::completed(state, kind) {
        return 0;
    }
    let mode = mode_of(ip);
    // SAFETY: `state` is the current task's own element.
    let (tid, space) = unsafe { ((*state).tid, (*state).space) };
    heat::count(space, addr, kind);
    let now = emit::now();
    let event = FaultEvent {
        time_ns: now,
        addr,
        ip,
        tid,
        latency_low: 0,
        cpu: emit::cpu() as u16,
        flags: mode,
        kind,
        latency_high: [0; 3],
    };
    emit::fault(match pending::take(state, addr, mode) {
        // The clock may go back a little between two CPUs.
        Some(entry) => FaultEvent { flags: entry.fault_flags(), ..event }
            .with_latency_ns(now.wrapping_sub(entry.time_ns)),
        None => event,
    });
    0
}

/// The `si_code` in the `kernel_siginfo` at `info`, which begins as `include/uapi/asm-generic/siginfo.h` has it. 0 where the kernel
/// passes a number instead of an address: a process sends the signal, or the kernel without a reason.
#[inline(always)]
pub(crate) fn signal_code(info: u64) -> i32 {
    const SI_CODE: u64 = 8;
    read_kernel(info, SI_CODE)
}

/// The kernel sends `signal` to a task: the current one if `is_current`, with `si_code` as `code` says. Both are asked for only if
/// it is one of the two signals by which a fault fails.
#[inline(always)]
pub(crate) fn signalled(signal: i32, is_current: impl FnOnce() -> bool, code: impl FnOnce() -> i32) -> i32 {
    const SIGBUS: i32 = 7;
    const SIGSEGV: i32 = 11;
    // What a process sends has a code of 0 or less.
    if (signal != SIGSEGV && signal != SIGBUS) || !is_current() || code() <= 0 {
        return 0;
    }
    if let Some(state) = filter::traced() {
        pending::fail(state);
    }
    0
}

/// The current task lets go of the memory map `mm`, which it may have populated without an event, and which it held `alone` or
/// with others.
#[inline(always)]
pub(crate) fn unlocked(mm: u64, alone: bool) -> i32 {
    let Some(state) = filter::traced() else {
        return 0;
    };
    if config!(has_task_layout) != 0 {
        // SAFETY: the helper has no preconditions.
        let task = unsafe { bpf_get_current_task() };
        account::settle(state, task, UncountedCause::SYSCALL);
    }
    if alone {
        vma::section_ends(state, mm);
    }
    0
}
