//! Faults that have begun and not ended.
//!
//! One user-mode fault and up to three kernel-mode faults of a task can be pending: the handler of a fault
//! may itself fault, and such an access must not end the outer one. A pending fault ends by its completion,
//! by the thread's next user-mode fault (no fault survives a return to user mode), or by the thread's exit.

use memtrace_ebpf::{FaultEvent, FaultFlags, FaultKind, Pending, TaskState};

use super::{config, current_ids, emit};

/// Ends whatever is pending: the thread is back in user mode, or gone.
#[inline(always)]
pub(crate) fn end_all(state: *mut TaskState, next: Option<u64>) {
    // SAFETY: `state` is the current task's own element, and the slots are fields of it.
    unsafe {
        end(&raw mut (*state).user, next);
        end(&raw mut (*state).kernel_0, next);
        end(&raw mut (*state).kernel_1, next);
        end(&raw mut (*state).kernel_2, next);
    }
}

/// Puts a kernel-mode fault into a free slot, or into that of the oldest one, which ends.
#[inline(always)]
pub(crate) fn enter_kernel(state: *mut TaskState, fault: Pending) {
    // SAFETY: `state` is the current task's own element, and the slots are fields of it.
    unsafe {
        let mut slot = &raw mut (*state).kernel_0;
        for other in [&raw mut (*state).kernel_1, &raw mut (*state).kernel_2] {
            if (*other).time_ns < (*slot).time_ns {
                slot = other;
            }
        }
        end(slot, Some(fault.addr));
        *slot = fault;
    }
}

/// Records a pending fault that did not complete: retried if `next` faults on the same page, else failed.
#[inline(always)]
fn end(slot: *mut Pending, next: Option<u64>) {
    // SAFETY: `slot` is a field of the current task's own element.
    if unsafe { (*slot).time_ns } == 0 {
        return;
    }
    // SAFETY: as above.
    let fault = unsafe { *slot };
    // SAFETY: as above.
    unsafe { (*slot).time_ns = 0 };
    let same_page = match next {
        Some(addr) => (addr ^ fault.addr) & !(config!(page_size) - 1) == 0,
        None => false,
    };
    emit::fault(FaultEvent {
        time_ns: emit::now(),
        addr: fault.addr,
        ip: fault.ip,
        tid: current_ids().0,
        latency_low: 0,
        cpu: emit::cpu() as u16,
        flags: fault.fault_flags(),
        kind: if same_page { FaultKind::RETRIED } else { FaultKind::FAILED },
        latency_high: [0; 3],
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
