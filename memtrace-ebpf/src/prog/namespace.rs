//! IDs of tasks in the PID namespace of the recorder.
//!
//! The programs find tasks by their IDs in the initial namespace, which the kernel hands them at no cost. What they write
//! has the IDs by which user space knows tasks, and a task keeps these from its birth to its end.

use core::ffi::c_void;

use aya_ebpf::{bindings::seq_file, helpers::generated::bpf_seq_write};
use memtrace_ebpf::TaskIds;

use super::{
    config,
    kernel::{self, read_kernel},
    known,
};

/// PID namespaces within one another, the initial one included: `MAX_PID_NS_LEVEL` of `include/linux/pid_namespace.h`.
const LEVELS: u64 = 33;

/// The ID in the recorder's PID namespace of `task`, whose thread ID in the initial one is `tid`; 0 if it has none there.
#[inline(always)]
pub(crate) fn id_of(task: u64, tid: u32) -> u32 {
    if config!(pid_namespace) == 0 { tid } else { translate(task) }
}

/// Searches the IDs that `task` has, one in its own PID namespace and one in each above, for that in the recorder's.
#[inline(never)]
fn translate(task: u64) -> u32 {
    let pid: u64 = read_kernel(task, config!(task_thread_pid));
    let level: u32 = read_kernel(pid, config!(pid_level));
    for depth in 0..LEVELS {
        if depth > u64::from(level) {
            break;
        }
        let upid = pid.wrapping_add(config!(pid_numbers) + depth * config!(upid_len));
        let namespace: u64 = read_kernel(upid, config!(upid_ns));
        if u64::from(read_kernel::<u32>(namespace, config!(pid_namespace_inum))) == config!(pid_namespace) {
            return read_kernel(upid, config!(upid_nr));
        }
    }
    0
}

/// Whether `task`, whose thread ID in the initial PID namespace is `tid`, lives in the recorder's, not in one below, and has the ID
/// `id` there. Without a search: this is asked where the verifier has much to walk already.
#[inline(always)]
pub(crate) fn is_beside_recorder(task: u64, tid: u32, id: u64) -> bool {
    if config!(pid_namespace) == 0 {
        return u64::from(tid) == id;
    }
    let pid: u64 = read_kernel(task, config!(task_thread_pid));
    let level: u32 = read_kernel(pid, config!(pid_level));
    let upid = pid.wrapping_add(config!(pid_numbers) + u64::from(level) * config!(upid_len));
    let namespace: u64 = read_kernel(upid, config!(upid_ns));
    let inode: u32 = read_kernel(namespace, config!(pid_namespace_inum));
    u64::from(inode) == config!(pid_namespace) && u64::from(read_kernel::<u32>(upid, config!(upid_nr))) == id
}

/// What an iterator over tasks is given: `struct bpf_iter__task` of `kernel/bpf/task_iter.c`.
#[repr(C)]
struct IteratorContext {
    meta: *const IteratorMeta,
    /// Null after the last one.
    task: *const c_void,
}

/// `struct bpf_iter_meta` of `include/linux/bpf.h`, as far as it is used.
#[repr(C)]
struct IteratorMeta {
    seq: *mut seq_file,
}

/// Lists the tasks of the reader's PID namespace with their IDs there and in the initial one, as `TaskIds`.
///
/// An iterator, not a hook: it runs while user space reads what it writes.
#[unsafe(link_section = "iter/task")]
#[unsafe(no_mangle)]
extern "C" fn task_ids(ctx: *const IteratorContext) -> i32 {
    list(ctx);
    0
}
known!(TASK_IDS, task_ids);

/// Writes the IDs of the task that the iterator has come to.
#[inline(always)]
fn list(ctx: *const IteratorContext) {
    // SAFETY: the kernel passes a valid context, in which only `task` may be null.
    let (seq, task) = unsafe { ((*(*ctx).meta).seq, (*ctx).task as u64) };
    if task == 0 {
        return;
    }
    let (initial_tid, _) = kernel::ids_of(task);
    let ids = TaskIds { tid: id_of(task, initial_tid), initial_tid };
    // SAFETY: `ids` has as many bytes; where there is no room the kernel comes again with a larger buffer.
    let _full = unsafe { bpf_seq_write(seq, (&raw const ids).cast_mut().cast(), TaskIds::LEN as u32) };
}
