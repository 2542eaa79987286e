//! Reserve, fill, submit; and count what found no room.

use aya_ebpf::{
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_boot_ns},
    maps::ring_buf::RingBufEntry,
};
use memtrace_ebpf::{Counter, EventHeader, EventKind, FaultEvent, TaskState, counter_index};

use super::config;
use crate::{CONTROL, COUNTERS, reserve_fault};

/// Submit without waking the reader, who comes by a timer: a wake-up per event costs more than the fault itself.
pub(crate) const NO_WAKEUP: u64 = aya_ebpf::bindings::BPF_RB_NO_WAKEUP as u64;

/// Nanoseconds on `CLOCK_BOOTTIME`.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Number of this CPU.
#[inline(always)]
pub(crate) fn cpu() -> u32 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_smp_processor_id() }
}

/// Adds `by` to a counter of this CPU.
#[inline(always)]
pub(crate) fn count(counter: Counter, by: u64) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter_index(cpu(), counter)) {
        // SAFETY: the map returned a pointer to a live element, which only this CPU writes. `task_free` may do so
        // in an interrupt amid another count, but counts nothing that faults count.
        unsafe { *value += by };
    }
}

/// A number for a new address space, never used before: how many this CPU gave, then the CPU.
#[inline(always)]
pub(crate) fn new_space() -> u64 {
    let cpu = cpu();
    let Some(value) = COUNTERS.get_ptr_mut(counter_index(cpu, Counter::Spaces)) else {
        return 0;
    };
    // SAFETY: the map returned a pointer to a live element; only tasks on this CPU count here, one at a time.
    unsafe {
        *value += 1;
        (*value << 16) | cpu as u64
    }
}

/// Room for a `T` in `CONTROL`; counts the loss if there is none.
#[inline(always)]
pub(crate) fn control<T: 'static>() -> Option<RingBufEntry<T>> {
    let entry = CONTROL.reserve::<T>(0);
    if entry.is_none() {
        count(Counter::LostControl, 1);
    }
    entry
}

/// The first fields of a record in `CONTROL` about the task of `state`, a live element.
#[inline(always)]
pub(crate) fn header(kind: EventKind, len: usize, state: *const TaskState) -> EventHeader {
    // SAFETY: the map returned a pointer to a live element.
    let (tgid, tid) = unsafe { ((*state).tgid, (*state).tid) };
    EventHeader { time_ns: now(), tgid, tid, kind, len: len as u16, cpu: cpu() }
}

/// Writes a fault to the ring of this CPU, unless faults are only counted; counts the loss if there is no room.
#[inline(always)]
pub(crate) fn fault(event: FaultEvent) {
    if config!(full_detail) == 0 {
        return;
    }
    match reserve_fault(cpu() & (config!(event_rings) as u32).wrapping_sub(1)) {
        Some(mut entry) => {
            entry.write(event);
            entry.submit(NO_WAKEUP);
        }
        None => count(Counter::LostEvents, 1),
    }
}
