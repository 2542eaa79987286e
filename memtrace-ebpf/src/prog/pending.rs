//! Faults that have begun and not ended.
//!
//! One user-mode fault and up to three kernel-mode faults of a task can be pending: the handler of a fault
//! may itself fault, and such an access must not end the outer one. A pending fault ends by its completion,
//! by the signal that the kernel forces on the thread for it, by the thread's next user-mode fault (no fault survives a
//! return to user mode), or by the thread's exit.
//!
//! An access of the kernel's own that does not complete goes on by the exception table, whatever made it fail
//! (`kernelmode_fixup_or_oops` of `arch/x86/mm/fault.c`): it was refused. One in user mode without such a signal is made again
//! when the kernel returns: another signal interrupted it, or memory was short.

use memtrace_ebpf::{FaultEvent, FaultFlags, FaultKind, Pending, TaskState};

use super::emit;

/// Ends whatever is pending, as `user` or `kernel` says by its mode: the thread is back in user mode, or gone, or traced no
/// longer.
#[inline(always)]
pub(crate) fn end_all(state: *mut TaskState, user: FaultKind, kernel: FaultKind) {
    // SAFETY: `state` is the current task's own element, and the slots are fields of it.
    unsafe {
        let user = (*state).user.kind_or_emulated(user);
        end(&raw mut (*state).user, (*state).tid, user, 0);
        end(&raw mut (*state).kernel_0, (*state).tid, kernel, 0);
        end(&raw mut (*state).kernel_1, (*state).tid, kernel, 0);
        end(&raw mut (*state).kernel_2, (*state).tid, kernel, 0);
    }
}

/// Ends the user-mode fault, if there is one: the kernel forces a signal on the thread, which has this stack.
#[inline(always)]
pub(crate) fn fail(state: *mut TaskState, stack: impl FnOnce() -> u64) {
    // SAFETY: `state` is the current task's own element, and the slot is a field of it.
    let stack = if unsafe { (*state).user.time_ns } != 0 { stack() } else { 0 };
    // SAFETY: as above.
    unsafe { end(&raw mut (*state).user, (*state).tid, FaultKind::FAILED, stack) };
}

/// Puts a kernel-mode fault into the slot of one at the same address, which is over, or a free slot, or that of the oldest one;
/// whatever was there ends.
#[inline(always)]
pub(crate) fn enter_kernel(state: *mut TaskState, fault: Pending) {
    // Of two at one address `take` finds the first; a slot behind that of a new fault may keep an old one.
    let age = |slot: *mut Pending| {
        // SAFETY: `slot` is a field of the current task's own element.
        unsafe { if (*slot).addr == fault.addr { 0 } else { (*slot).time_ns } }
    };
    // SAFETY: `state` is the current task's own element, and the slots are fields of it.
    unsafe {
        let mut slot = &raw mut (*state).kernel_0;
        for other in [&raw mut (*state).kernel_1, &raw mut (*state).kernel_2] {
            if age(other) < age(slot) {
                slot = other;
            }
        }
        end(slot, (*state).tid, FaultKind::REFUSED, 0);
        *slot = fault;
    }
}

/// Records a pending fault of thread `tid` that did not complete, how it ended, and its stack, or 0: the thread may be elsewhere by now.
#[inline(always)]
fn end(slot: *mut Pending, tid: u32, kind: FaultKind, stack: u64) {
    // SAFETY: `slot` is a field of the current task's own element.
    if unsafe { (*slot).time_ns } == 0 {
        return;
    }
    // SAFETY: as above.
    let fault = unsafe { *slot };
    // SAFETY: as above.
    unsafe { (*slot).time_ns = 0 };
    emit::fault(FaultEvent {
        time_ns: emit::now(),
        addr: fault.addr,
        ip: fault.ip,
        tid,
        latency_low: 0,
        cpu: emit::cpu() as u16,
        flags: fault.fault_flags(),
        kind,
        latency_high: [0; 3],
        stack,
    });
}

/// Whether a kernel-mode fault of the task is being handled, or has ended without a completion since it was in user mode.
#[inline(always)]
pub(crate) fn in_kernel(state: *const TaskState) -> bool {
    // SAFETY: `state` is the current task's own element.
    unsafe { (*state).kernel_0.time_ns | (*state).kernel_1.time_ns | (*state).kernel_2.time_ns != 0 }
}

/// Takes the pending fault that completes: the one of this mode and address.
#[inline(always)]
pub(crate) fn take(state: *mut TaskState, addr: u64, mode: u16) -> Option<Pending> {
    // SAFETY: `state` is the current task's own element, and the slots are fields of it.
    unsafe {
        if mode & FaultFlags::USER != 0 {
            return take_slot(&raw mut (*state).user, addr);
        }
        take_slot(&raw mut (*state).kernel_0, addr)
            .or_else(|| take_slot(&raw mut (*state).kernel_1, addr))
            .or_else(|| take_slot(&raw mut (*state).kernel_2, addr))
    }
}

/// Empties `slot` if the fault in it is at `addr`.
#[inline(always)]
fn take_slot(slot: *mut Pending, addr: u64) -> Option<Pending> {
    // SAFETY: `slot` is a field of the current task's own element.
    unsafe {
        if (*slot).time_ns == 0 || (*slot).addr != addr {
            return None;
        }
        let fault = *slot;
        (*slot).time_ns = 0;
        Some(fault)
    }
}
