//! The eBPF programs of memtrace: maps and entry points.
//!
//! Each entry point takes its arguments apart and calls into `prog`. Layouts are the library's.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "programs read kernel memory and write map values through raw pointers")]

use aya_ebpf::{
    EbpfContext as _,
    bindings::BPF_F_MMAPABLE,
    helpers::bpf_get_current_task,
    macros::{map, perf_event, raw_tracepoint, tracepoint},
    maps::{Array, HashMap, RingBuf, ring_buf::RingBufEntry},
    programs::{PerfEventContext, RawTracePointContext, TracePointContext},
};
use memtrace_ebpf::{Call, Config, FaultEvent, FaultFlags, FaultKind, HeatCell, TaskState};

mod prog;

use prog::{config, namespace::IteratorContext};

#[map]
static CONTROL: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Declares the rings of faults, and the function that finds room in one of them.
macro_rules! fault_rings {
    ($($number:literal: $ring:ident),*) => {
        $(
            #[map]
            static $ring: RingBuf = RingBuf::with_byte_size(1 << 12, 0);
        )*

        /// Room for a fault in ring `number`.
        #[inline(always)]
        fn reserve_fault(number: u32) -> Option<RingBufEntry<FaultEvent>> {
            match number {
                $($number => $ring.reserve(0),)*
                _ => None,
            }
        }
    };
}

fault_rings! {
    0: EVENTS_0, 1: EVENTS_1, 2: EVENTS_2, 3: EVENTS_3, 4: EVENTS_4, 5: EVENTS_5, 6: EVENTS_6, 7: EVENTS_7
}

#[map]
static TASKS: HashMap<u32, TaskState> = HashMap::with_max_entries(1 << 15, 0);

#[map]
static GROUPS: HashMap<u32, u64> = HashMap::with_max_entries(1 << 15, 0);

#[map]
static HEAT: Array<HeatCell> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
static COUNTERS: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Set by user space before loading; the verifier sees constants and drops the branches they close.
#[unsafe(no_mangle)]
static CONFIG: Config = Config::ZERO;

/// Path of the traced cgroup within its hierarchy; `Config::cgroup_path_len` bytes of it count.
#[unsafe(no_mangle)]
static CGROUP_PATH: [u8; memtrace_ebpf::CGROUP_PATH_MAX] = [0; memtrace_ebpf::CGROUP_PATH_MAX];

/// Which [`Call`] each system-call number is: those of the architecture, then those of 32-bit programs.
#[unsafe(no_mangle)]
static CALLS: [u8; 2 * Call::NUMBERS] = [0; 2 * Call::NUMBERS];

/// An argument that is a `bool`: only its low byte is defined.
#[inline(always)]
fn truth(argument: u64) -> bool {
    argument as u8 != 0
}

/// Entry of a user-mode fault: `page_fault_user(address, regs, error_code)`.
#[raw_tracepoint(tracepoint = "page_fault_user")]
fn fault_enter_user(ctx: RawTracePointContext) -> i32 {
    prog::fault::enter(
        ctx.arg(0),
        || prog::fault::ip_of(ctx.arg(1)),
        prog::fault::access_of(ctx.arg(2)) | FaultFlags::USER,
    )
}

/// Entry of a kernel-mode fault: `page_fault_kernel(address, regs, error_code)`.
#[raw_tracepoint(tracepoint = "page_fault_kernel")]
fn fault_enter_kernel(ctx: RawTracePointContext) -> i32 {
    prog::fault::enter(ctx.arg(0), || prog::fault::ip_of(ctx.arg(1)), prog::fault::access_of(ctx.arg(2)))
}

/// Entry of any fault by the software event `page-faults`, where the tracepoints are missing.
#[perf_event]
fn fault_enter_software(ctx: PerfEventContext) -> i32 {
    let (addr, ip) = prog::fault::sample_of(&ctx);
    prog::fault::enter(addr, || ip, prog::fault::mode_of(ip))
}

/// A signal for a task: `signal_generate(sig, info, task, group, result)`.
#[raw_tracepoint(tracepoint = "signal_generate")]
fn signal_generated(ctx: RawTracePointContext) -> i32 {
    // SAFETY: the helper has no preconditions.
    let is_current = || unsafe { bpf_get_current_task() } == ctx.arg::<u64>(2);
    prog::fault::signalled(ctx.arg::<u64>(0) as i32, is_current, || prog::fault::signal_code(ctx.arg(1)))
}

/// Completion of a minor fault: software event `minor-faults`.
#[perf_event]
fn fault_minor(ctx: PerfEventContext) -> i32 {
    let (addr, ip) = prog::fault::sample_of(&ctx);
    prog::fault::complete(addr, ip, FaultKind::MINOR)
}

/// Completion of a major fault: software event `major-faults`.
#[perf_event]
fn fault_major(ctx: PerfEventContext) -> i32 {
    let (addr, ip) = prog::fault::sample_of(&ctx);
    prog::fault::complete(addr, ip, FaultKind::MAJOR)
}

/// A task got a lock on a memory map: `mmap_lock_acquire_returned(mm, write, success)`; also when it goes on to share
/// one that it held alone.
#[raw_tracepoint(tracepoint = "mmap_lock_acquire_returned")]
fn lock_acquired(ctx: RawTracePointContext) -> i32 {
    prog::vma::locked(ctx.arg(0), truth(ctx.arg(1)), truth(ctx.arg(2)))
}

/// As [`lock_acquired`] before Linux 6.14: `mmap_lock_acquire_returned(mm, memcg_path, write, success)`.
#[raw_tracepoint(tracepoint = "mmap_lock_acquire_returned")]
fn lock_acquired_path(ctx: RawTracePointContext) -> i32 {
    prog::vma::locked(ctx.arg(0), truth(ctx.arg(2)), truth(ctx.arg(3)))
}

/// A task lets go of a memory map: `mmap_lock_released(mm, write)`. Whatever populates memory without
/// an event holds this lock, and this is the first thing that happens afterwards.
#[raw_tracepoint(tracepoint = "mmap_lock_released")]
fn lock_released(ctx: RawTracePointContext) -> i32 {
    prog::fault::unlocked(ctx.arg(0), truth(ctx.arg(1)))
}

/// As [`lock_released`] before Linux 6.14: `mmap_lock_released(mm, memcg_path, write)`.
#[raw_tracepoint(tracepoint = "mmap_lock_released")]
fn lock_released_path(ctx: RawTracePointContext) -> i32 {
    prog::fault::unlocked(ctx.arg(0), truth(ctx.arg(2)))
}

/// The end of a system call: `sys_exit(regs, ret)`.
#[raw_tracepoint(tracepoint = "sys_exit")]
fn call_returned(ctx: RawTracePointContext) -> i32 {
    prog::vma::returned(ctx.arg(0), ctx.arg(1))
}

/// A request of `io_uring` is completed: `io_uring_complete(ctx, req, …)`.
#[raw_tracepoint(tracepoint = "io_uring_complete")]
fn request_completed(ctx: RawTracePointContext) -> i32 {
    prog::request::completed(ctx.arg(1))
}

/// A new task: `task_newtask(task, clone_flags)`, in the parent, before the child runs.
#[raw_tracepoint(tracepoint = "task_newtask")]
fn task_new(ctx: RawTracePointContext) -> i32 {
    prog::task::new(&ctx, ctx.arg(0), || prog::task::ids_of(ctx.arg(0)), ctx.arg(1))
}

/// A new program: `sched_process_exec(task, old_pid, bprm)`.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn task_exec(ctx: RawTracePointContext) -> i32 {
    prog::task::exec(&ctx, ctx.arg(0), ctx.arg(1))
}

/// The end of a task: `sched_process_exit(task, …)`.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn task_exit(ctx: RawTracePointContext) -> i32 {
    prog::task::exit(ctx.arg(0))
}

/// The kernel forgets a task: `sched_process_free(task)`.
#[raw_tracepoint(tracepoint = "sched_process_free")]
fn task_free(ctx: RawTracePointContext) -> i32 {
    let task = ctx.arg(0);
    prog::task::free(prog::task::ids_of(task), task)
}

/// A new name: `task_rename(task, name)`.
#[raw_tracepoint(tracepoint = "task_rename")]
fn task_rename(ctx: RawTracePointContext) -> i32 {
    prog::task::rename(prog::task::ids_of(ctx.arg(0)).0, || prog::task::comm_at(ctx.arg(1)))
}

/// A task moves between cgroups: `cgroup_attach_task(dst_cgrp, path, task, threadgroup)`. A thread that moves alone
/// stays with its group.
#[raw_tracepoint(tracepoint = "cgroup_attach_task")]
fn cgroup_attach(ctx: RawTracePointContext) -> i32 {
    if !truth(ctx.arg(3)) {
        return 0;
    }
    prog::cgroup::attach(
        prog::cgroup::hierarchy_of(ctx.arg(0)),
        || prog::cgroup::is_inside(ctx.arg(0)),
        prog::cgroup::group_of(ctx.arg(2)),
    )
}

/// As [`fault_enter_user`], from the record of the classic tracepoint.
///
/// Since Linux 7.0 a program at a raw tracepoint can be preempted, and until it goes on the kernel skips it for all other
/// tasks of the CPU. At a classic tracepoint it cannot.
#[tracepoint]
fn fault_enter_user_record(ctx: TracePointContext) -> u32 {
    fault_enter_record(&ctx, FaultFlags::USER)
}

/// As [`fault_enter_kernel`], from the record of the classic tracepoint.
#[tracepoint]
fn fault_enter_kernel_record(ctx: TracePointContext) -> u32 {
    fault_enter_record(&ctx, 0)
}

#[inline(always)]
fn fault_enter_record(record: &TracePointContext, mode: u16) -> u32 {
    prog::fault::enter(
        prog::record_field(record, config!(fault_address)),
        || prog::record_field(record, config!(fault_ip)),
        prog::fault::access_of(prog::record_field(record, config!(fault_error))) | mode,
    ) as u32
}

/// As [`signal_generated`], from the record of the classic tracepoint.
#[tracepoint]
fn signal_generated_record(ctx: TracePointContext) -> u32 {
    let is_current = || prog::record_field::<u32>(&ctx, config!(signal_pid)) == prog::current_ids().0;
    let code = || prog::record_field(&ctx, config!(signal_code));
    prog::fault::signalled(prog::record_field(&ctx, config!(signal_number)), is_current, code) as u32
}

/// As [`lock_acquired`], from the record of the classic tracepoint.
#[tracepoint]
fn lock_acquired_record(ctx: TracePointContext) -> u32 {
    let is_set = |offset| prog::record_field::<u8>(&ctx, offset) != 0;
    let mm = prog::record_field(&ctx, config!(lock_mm));
    prog::vma::locked(mm, is_set(config!(lock_write)), is_set(config!(lock_success))) as u32
}

/// As [`lock_released`], from the record of the classic tracepoint.
#[tracepoint]
fn lock_released_record(ctx: TracePointContext) -> u32 {
    let write: u8 = prog::record_field(&ctx, config!(unlock_write));
    prog::fault::unlocked(prog::record_field(&ctx, config!(unlock_mm)), write != 0) as u32
}

/// As [`call_returned`], from the record of the classic tracepoint, where the registers are known from elsewhere.
#[tracepoint]
fn call_returned_record(ctx: TracePointContext) -> u32 {
    let Some(regs) = prog::vma::registers() else {
        return 0;
    };
    prog::vma::returned(regs, prog::record_field(&ctx, config!(exit_ret))) as u32
}

/// As [`request_completed`], from the record of the classic tracepoint.
#[tracepoint]
fn request_completed_record(ctx: TracePointContext) -> u32 {
    prog::request::completed(prog::record_field(&ctx, config!(completed_request))) as u32
}

/// As [`task_exec`], from the record of the classic tracepoint.
#[tracepoint]
fn task_exec_record(ctx: TracePointContext) -> u32 {
    let old_tid: u32 = prog::record_field(&ctx, config!(exec_old_pid));
    // SAFETY: the helper has no preconditions.
    prog::task::exec(&ctx, unsafe { bpf_get_current_task() }, old_tid.into()) as u32
}

/// As [`task_exit`], from the record of the classic tracepoint.
#[tracepoint]
fn task_exit_record(_: TracePointContext) -> u32 {
    // SAFETY: the helper has no preconditions.
    prog::task::exit(unsafe { bpf_get_current_task() }) as u32
}

/// As [`task_new`], where the kernel's types are unknown: the record of the classic tracepoint has the thread ID.
#[tracepoint]
fn task_new_record(ctx: TracePointContext) -> u32 {
    let clone_flags = prog::record_field(&ctx, config!(newtask_clone_flags));
    let child_ids = || prog::task::child_ids(prog::record_field(&ctx, config!(newtask_pid)), clone_flags);
    prog::task::new(&ctx, 0, child_ids, clone_flags) as u32
}

/// As [`task_free`], from the record of the classic tracepoint, which does not tell whether a thread led its group.
#[tracepoint]
fn task_free_record(ctx: TracePointContext) -> u32 {
    let tid = prog::record_field(&ctx, config!(free_pid));
    prog::task::free((tid, tid), 0) as u32
}

/// As [`task_rename`], from the record of the classic tracepoint.
#[tracepoint]
fn task_rename_record(ctx: TracePointContext) -> u32 {
    let comm = || prog::record_field(&ctx, config!(rename_newcomm));
    let tid = match config!(rename_pid) {
        0 => prog::current_ids().0,
        offset => prog::record_field(&ctx, offset),
    };
    prog::task::rename(tid, comm) as u32
}

/// As [`cgroup_attach`], from the record of the classic tracepoint, which does not tell a group that moves from a
/// thread: only a leader's ID is that of a group.
#[tracepoint]
fn cgroup_attach_record(ctx: TracePointContext) -> u32 {
    // The low half of the word is the text's offset in the record.
    let text: u32 = prog::record_field(&ctx, config!(attach_dst_path));
    let path = (ctx.as_ptr() as u64).wrapping_add(u64::from(text & 0xffff));
    let hierarchy = prog::record_field(&ctx, config!(attach_dst_root));
    prog::cgroup::attach(
        hierarchy,
        || prog::cgroup::is_path_inside(path),
        prog::record_field(&ctx, config!(attach_pid)),
    ) as u32
}

/// Lists the tasks of the reader's PID namespace with their IDs there and in the initial one, as `TaskIds`.
///
/// An iterator, not a hook: it runs while user space reads what it writes.
#[unsafe(link_section = "iter/task")]
#[unsafe(no_mangle)]
extern "C" fn task_ids(ctx: *const IteratorContext) -> i32 {
    prog::namespace::list(ctx);
    0
}

/// The licence that the kernel asks for: some helpers are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: the verifier proves that no panic is reachable; a program with one is refused.
    unsafe { core::hint::unreachable_unchecked() }
}
