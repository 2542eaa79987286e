//! Objects of the kernel as the programs read them: tasks and their memory maps.
//!
//! An object is known by its address; where its fields are stands in [`CONFIG`](crate::CONFIG). Nothing here knows what is traced.

use core::ffi::c_void;

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_current_task, bpf_probe_read_kernel_str_bytes, generated,
};

use super::config;

/// Reads a `T` at `offset` bytes from the kernel object at `base`; zero if it cannot be read.
///
/// What the helper returns is not looked at: it fills the value with zeros when it fails, and a branch for each read
/// would multiply the paths that the verifier walks.
#[inline(always)]
pub(crate) fn read_kernel<T: Copy + Default>(base: u64, offset: u64) -> T {
    let source = base.wrapping_add(offset) as *const c_void;
    let mut value = T::default();
    // SAFETY: `value` has room for the length; the helper checks the address.
    let _unreadable =
        unsafe { generated::bpf_probe_read_kernel((&raw mut value).cast(), size_of::<T>() as u32, source) };
    value
}

/// The `task_struct` of the current task.
#[inline(always)]
pub(crate) fn current_task() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_current_task() }
}

/// Thread ID and thread-group ID of the current task in the initial PID namespace, by which the tables find it.
#[inline(always)]
pub(crate) fn current_ids() -> (u32, u32) {
    let ids = bpf_get_current_pid_tgid();
    (ids as u32, (ids >> 32) as u32)
}

/// Thread ID and thread-group ID of `task` in the initial PID namespace.
#[inline(always)]
pub(crate) fn ids_of(task: u64) -> (u32, u32) {
    (read_kernel(task, config!(task_pid)), group_of(task))
}

/// Thread-group ID of `task` in the initial PID namespace.
#[inline(always)]
pub(crate) fn group_of(task: u64) -> u32 {
    read_kernel(task, config!(task_tgid))
}

/// `PF_*` of `include/linux/sched.h`.
#[inline(always)]
pub(crate) fn flags_of(task: u64) -> u32 {
    read_kernel(task, config!(task_flags))
}

/// `min_flt` and `maj_flt` of `task`.
#[inline(always)]
pub(crate) fn charged(task: u64) -> (u64, u64) {
    let (min_flt, maj_flt) = (config!(task_min_flt), config!(task_maj_flt));
    if maj_flt == min_flt + 8 {
        // Neighbours on every kernel so far: one read instead of two.
        let [minor, major] = read_kernel::<[u64; 2]>(task, min_flt);
        return (minor, major);
    }
    (read_kernel(task, min_flt), read_kernel(task, maj_flt))
}

/// Whether no task of the thread group of `task` is left but such as have come to their exit.
#[inline(always)]
pub(crate) fn is_group_dead(task: u64) -> bool {
    let signal: u64 = read_kernel(task, config!(task_signal));
    read_kernel::<u32>(signal, config!(signal_live)) == 0
}

/// The most pages that the process of `task` had resident at once, but for the program that it runs; that too if it is dead
/// (`setmax_mm_hiwater_rss`, as the last task exits and as a program is replaced). 0 if unknown.
#[inline(always)]
pub(crate) fn max_rss(task: u64) -> u64 {
    if config!(has_task_layout) == 0 {
        return 0;
    }
    let signal: u64 = read_kernel(task, config!(task_signal));
    read_kernel(signal, config!(signal_maxrss))
}

/// The status of the dead process of `task` as `wait_task_zombie` of `kernel/exit.c` has it.
#[inline(always)]
pub(crate) fn exit_status(task: u64) -> u32 {
    /// `SIGNAL_GROUP_EXIT` of `include/linux/sched/signal.h`.
    const GROUP_EXIT: u32 = 4;
    let signal: u64 = read_kernel(task, config!(task_signal));
    if read_kernel::<u32>(signal, config!(signal_flags)) & GROUP_EXIT != 0 {
        return read_kernel(signal, config!(signal_group_exit_code));
    }
    let leader: u64 = read_kernel(task, config!(task_group_leader));
    read_kernel(leader, config!(task_exit_code))
}

/// Whether `get_dumpable()` of `task` is `SUID_DUMP_USER`, or `TASK_DUMPABLE_OWNER`: its user may look into it.
#[inline(always)]
pub(crate) fn is_dumpable(task: u64) -> bool {
    const DUMPABLE_MASK: u32 = 3;
    const SUID_DUMP_USER: u32 = 1;
    let word: u32 = read_kernel(read_kernel(task, config!(task_dumpable)), config!(dumpable));
    word & DUMPABLE_MASK == SUID_DUMP_USER
}

/// The name of a task at the address `name`.
#[inline(always)]
pub(crate) fn comm_at(name: u64) -> [u8; 16] {
    let mut comm = [0; 16];
    // SAFETY: the helper checks the address and bounds the copy.
    let _unreadable = unsafe { bpf_probe_read_kernel_str_bytes(name as *const u8, &mut comm) };
    comm
}

/// The `mm_struct` of `task`.
#[inline(always)]
pub(crate) fn mm_of(task: u64) -> u64 {
    read_kernel(task, config!(task_mm))
}

/// Pages that are mapped in `mm`; 0 if unknown.
#[inline(always)]
pub(crate) fn total_vm(mm: u64) -> u64 {
    if config!(has_task_layout) == 0 { 0 } else { read_kernel(mm, config!(mm_total_vm)) }
}

/// Where the heap of `task` ends.
#[inline(always)]
pub(crate) fn brk_of(task: u64) -> u64 {
    read_kernel(mm_of(task), config!(mm_brk))
}

/// Where the heap of `task` begins, and an address in its first stack; 0 if unknown.
#[inline(always)]
pub(crate) fn landmarks(task: u64) -> (u64, u64) {
    if config!(has_task_layout) == 0 {
        return (0, 0);
    }
    let mm = mm_of(task);
    (read_kernel(mm, config!(mm_start_brk)), read_kernel(mm, config!(mm_start_stack)))
}
