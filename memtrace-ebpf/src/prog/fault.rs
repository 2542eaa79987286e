//! Pairs the entry of a fault with its completion.

use aya_ebpf::{
    macros::perf_event,
    programs::{PerfEventContext, TracePointContext},
};
use memtrace_ebpf::{FaultEvent, FaultFlags, FaultKind, Pending, Registers, TaskState, is_vsyscall};

use super::{
    account, call, config, emit, filter, heat,
    kernel::{self, read_kernel},
    known, pending, record_field, stack, twins,
};

twins! {
    /// Entry of a user-mode fault: `page_fault_user(address, regs, error_code)`.
    FAULT_ENTER_USER at "page_fault_user"
    fn fault_enter_user(ctx) {
        enter(ctx.arg(0), || ip_of(ctx.arg(1)), access_of(ctx.arg(2)) | FaultFlags::USER)
    }
    fn fault_enter_user_record(record) { enter_by_record(&record, FaultFlags::USER) }
}

twins! {
    /// Entry of a kernel-mode fault: `page_fault_kernel(address, regs, error_code)`.
    FAULT_ENTER_KERNEL at "page_fault_kernel"
    fn fault_enter_kernel(ctx) { enter(ctx.arg(0), || ip_of(ctx.arg(1)), access_of(ctx.arg(2))) }
    fn fault_enter_kernel_record(record) { enter_by_record(&record, 0) }
}

/// A fault begins in this `mode`, as the record of either tracepoint has it.
#[inline(always)]
fn enter_by_record(record: &TracePointContext, mode: u16) -> i32 {
    enter(
        record_field(record, config!(fault_address)),
        || record_field(record, config!(fault_ip)),
        access_of(record_field(record, config!(fault_error))) | mode,
    )
}

/// Entry of any fault by the software event `page-faults`, where the tracepoints are missing.
#[perf_event]
fn fault_enter_software(ctx: PerfEventContext) -> i32 {
    let (addr, ip) = sample_of(&ctx);
    enter(addr, || ip, mode_of(ip))
}
known!(FAULT_ENTER_SOFTWARE, fault_enter_software);

twins! {
    /// A signal for a task: `signal_generate(sig, info, task, group, result)`.
    SIGNAL_GENERATED at "signal_generate"
    fn signal_generated(ctx) {
        let is_current = || kernel::current_task() == ctx.arg::<u64>(2);
        signalled(ctx.arg::<u64>(0) as i32, is_current, || signal_code(ctx.arg(1)))
    }
    fn signal_generated_record(record) {
        let is_current = || record_field::<u32>(&record, config!(signal_pid)) == kernel::current_ids().0;
        let code = || record_field(&record, config!(signal_code));
        signalled(record_field(&record, config!(signal_number)), is_current, code)
    }
}

/// Completion of a minor fault: software event `minor-faults`.
#[perf_event]
fn fault_minor(ctx: PerfEventContext) -> i32 {
    let (addr, ip) = sample_of(&ctx);
    complete(&ctx, addr, ip, FaultKind::MINOR)
}
known!(FAULT_MINOR, fault_minor);

/// Completion of a major fault: software event `major-faults`.
#[perf_event]
fn fault_major(ctx: PerfEventContext) -> i32 {
    let (addr, ip) = sample_of(&ctx);
    complete(&ctx, addr, ip, FaultKind::MAJOR)
}
known!(FAULT_MAJOR, fault_major);

/// The instruction pointer in the `pt_regs` at `regs`.
#[inline(always)]
fn ip_of(regs: u64) -> u64 {
    read_kernel(regs, config!(regs_ip))
}

/// What the hardware's error code says of the access; the mode is left out, the hook knows it.
#[inline(always)]
fn access_of(error_code: u64) -> u16 {
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
fn mode_of(ip: u64) -> u16 {
    if (ip as i64) < 0 && !is_vsyscall(ip) { 0 } else { FaultFlags::USER }
}

/// Faulting address and instruction pointer of a software event.
#[inline(always)]
fn sample_of(ctx: &PerfEventContext) -> (u64, u64) {
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
fn enter(addr: u64, ip: impl FnOnce() -> u64, flags: u16) -> i32 {
    let Some(state) = filter::traced() else {
        return 0;
    };
    // SAFETY: `state` is the current task's own element.
    if config!(rule_buckets) != 0 && unsafe { (*state).flags } & TaskState::WALKED != 0 {
        return 0;
    }
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
fn complete(ctx: &PerfEventContext, addr: u64, ip: u64, kind: FaultKind) -> i32 {
    let Some(state) = filter::traced() else {
        return 0;
    };
    if !account::completed(state, kind) {
        return 0;
    }
    let mode = mode_of(ip);
    // SAFETY: `state` is the current task's own element.
    let (tid, space) = unsafe { ((*state).tid, (*state).space) };
    // Before it is counted: a scan that the count gives rise to begins after the fault then.
    let now = emit::now();
    heat::count(space, addr, kind);
    let is_user = mode & FaultFlags::USER != 0;
    let syscall = if is_user { 0 } else { syscall_in_flight() };
    let stack = if config!(rule_buckets) == 0 {
        0
    } else if is_user {
        // SAFETY: the kernel passes a valid `bpf_perf_event_data`.
        stack::of(state, now, unsafe { call::registers_in(&(*ctx.ctx).regs) })
    } else {
        stack::of(state, now, caller())
    };
    let event = FaultEvent {
        time_ns: now,
        addr,
        ip,
        tid,
        latency_low: 0,
        cpu: emit::cpu() as u16,
        flags: mode | syscall,
        kind,
        latency_high: [0; 3],
        stack,
    };
    emit::fault(match pending::take(state, addr, mode) {
        // The clock may go back a little between two CPUs.
        Some(entry) => FaultEvent { flags: entry.fault_flags() | syscall, ..event }
            .with_latency_ns(now.wrapping_sub(entry.time_ns)),
        None => event,
    });
    0
}

/// The system call in which the kernel faults, as flags of the fault have it.
#[inline(always)]
fn syscall_in_flight() -> u16 {
    match call::registers() {
        // The number is of another table for a 32-bit program.
        Some(regs) if call::is_64_bit(regs) => FaultFlags::syscall(call::number(regs)),
        _ => 0,
    }
}

/// The registers with which the current task entered the kernel.
#[inline(always)]
fn caller() -> Registers {
    call::registers().map_or(Registers::NONE, call::registers_at)
}

/// The `si_code` in the `kernel_siginfo` at `info`, which begins as `include/uapi/asm-generic/siginfo.h` has it. 0 where the kernel
/// passes a number instead of an address: a process sends the signal, or the kernel without a reason.
#[inline(always)]
fn signal_code(info: u64) -> i32 {
    const SI_CODE: u64 = 8;
    read_kernel(info, SI_CODE)
}

/// The kernel sends `signal` to a task: the current one if `is_current`, with `si_code` as `code` says. Both are asked for only if
/// it is one of the two signals by which a fault fails.
#[inline(always)]
fn signalled(signal: i32, is_current: impl FnOnce() -> bool, code: impl FnOnce() -> i32) -> i32 {
    const SIGBUS: i32 = 7;
    const SIGSEGV: i32 = 11;
    // What a process sends has a code of 0 or less.
    if (signal != SIGSEGV && signal != SIGBUS) || !is_current() || code() <= 0 {
        return 0;
    }
    if let Some(state) = filter::traced() {
        pending::fail(state, || stack::of(state, emit::now(), caller()));
    }
    0
}
