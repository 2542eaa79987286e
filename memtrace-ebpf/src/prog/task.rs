//! Birth, exec, exit and names of tasks: grows and shrinks the set of traced tasks.

use aya_ebpf::{EbpfContext, helpers::bpf_get_current_comm};
use aya_log_ebpf::{info, warn};
use memtrace_ebpf::{
    CommEvent, EndEvent, EventKind, ExecEvent, ExitEvent, FaultKind, ForkEvent, LoadEvent, TaskAccount,
    TaskState, UncountedCause,
};

use super::{account, config, emit, filter, kernel, namespace, pending, record_field, twins, vma};
use crate::{GROUPS, TASKS};

/// `CLONE_VM`: parent and child share the address space.
const CLONE_VM: u64 = 0x100;
/// `CLONE_THREAD`: the child is a thread of the parent's group.
const CLONE_THREAD: u64 = 0x1_0000;

twins! {
    /// A new task: `task_newtask(task, clone_flags)`, in the parent, before the child runs.
    TASK_NEW at "task_newtask"
    fn task_new(ctx) { new(&ctx, ctx.arg(0), || kernel::ids_of(ctx.arg(0)), ctx.arg(1)) }
    /// Where the kernel's types are unknown: the record has the thread ID.
    fn task_new_record(record) {
        let clone_flags = record_field(&record, config!(newtask_clone_flags));
        let child_ids = || child_ids(record_field(&record, config!(newtask_pid)), clone_flags);
        new(&record, 0, child_ids, clone_flags)
    }
}

twins! {
    /// A new program: `sched_process_exec(task, old_pid, bprm)`.
    TASK_EXEC at "sched_process_exec"
    fn task_exec(ctx) { exec(&ctx, ctx.arg(0), ctx.arg(1)) }
    fn task_exec_record(record) {
        let old_tid: u32 = record_field(&record, config!(exec_old_pid));
        exec(&record, kernel::current_task(), old_tid.into())
    }
}

twins! {
    /// The end of a task: `sched_process_exit(task, …)`.
    TASK_EXIT at "sched_process_exit"
    fn task_exit(ctx) { exit(ctx.arg(0)) }
    fn task_exit_record(_record) { exit(kernel::current_task()) }
}

twins! {
    /// The kernel forgets a task: `sched_process_free(task)`.
    TASK_FREE at "sched_process_free"
    fn task_free(ctx) {
        let task = ctx.arg(0);
        free(kernel::ids_of(task), task)
    }
    /// It does not tell whether a thread led its group.
    fn task_free_record(record) {
        let tid = record_field(&record, config!(free_pid));
        free((tid, tid), 0)
    }
}

twins! {
    /// A new name: `task_rename(task, name)`.
    TASK_RENAME at "task_rename"
    fn task_rename(ctx) { rename(kernel::ids_of(ctx.arg(0)).0, || kernel::comm_at(ctx.arg(1))) }
    fn task_rename_record(record) {
        let comm = || record_field(&record, config!(rename_newcomm));
        let tid = match config!(rename_pid) {
            0 => kernel::current_ids().0,
            offset => record_field(&record, offset),
        };
        rename(tid, comm)
    }
}

/// Thread ID and thread-group ID of the task `child_tid` that the current one makes with these flags.
#[inline(always)]
fn child_ids(child_tid: u32, clone_flags: u64) -> (u32, u32) {
    let (_, tgid) = kernel::current_ids();
    (child_tid, if clone_flags & CLONE_THREAD != 0 { tgid } else { child_tid })
}

/// The current task made a new one, which has not run yet; `child` is its `task_struct`, 0 if unknown.
///
/// Its thread ID and thread-group ID are asked for only if the current task is traced.
#[inline(always)]
fn new(ctx: &impl EbpfContext, child: u64, child_ids: impl FnOnce() -> (u32, u32), clone_flags: u64) -> i32 {
    let Some(parent) = filter::traced() else {
        return 0;
    };
    if config!(follow_forks) == 0 && clone_flags & CLONE_THREAD == 0 {
        return 0;
    }
    let (key, group) = child_ids();
    let child_tid = namespace::id_of(child, key);
    // SAFETY: `parent` is the current task's own element.
    let (parent_tgid, parent_space, copied_ns) =
        unsafe { ((*parent).tgid, (*parent).space, (*parent).section_ns) };
    let child_tgid = if clone_flags & CLONE_THREAD != 0 { parent_tgid } else { child_tid };
    let space = if clone_flags & CLONE_VM != 0 { parent_space } else { emit::new_space() };
    let Some(state) = filter::track(key, &filter::UNKNOWN) else {
        warn!(ctx, "no room for thread {}: it goes untraced", child_tid);
        return 0;
    };
    // SAFETY: a live element; the child has not run yet.
    unsafe {
        (*state).task = child;
        if child != 0 {
            (*state).mm = kernel::mm_of(child);
        }
        (*state).space = space;
        (*state).tid = child_tid;
        (*state).tgid = child_tgid;
        (*state).flags = TaskState::BASE_KNOWN;
    }
    info!(ctx, "process {} made thread {} of process {}", parent_tgid, child_tid, child_tgid);
    if config!(join_groups) != 0 || config!(whole_system) != 0 {
        filter::track_group(group, space);
    }
    if let Some(mut entry) = emit::control::<ForkEvent>() {
        entry.write(ForkEvent {
            header: emit::header(EventKind::FORK, ForkEvent::LEN, parent),
            child_tgid,
            child_tid,
            clone_flags,
            space,
            comm: bpf_get_current_comm().unwrap_or_default(),
            parent_space,
            copied_ns: if clone_flags & CLONE_VM != 0 { 0 } else { copied_ns },
            brk: if child != 0 { kernel::brk_of(child) } else { 0 },
            total_vm: if child != 0 && clone_flags & CLONE_VM == 0 {
                kernel::total_vm(kernel::mm_of(child))
            } else {
                0
            },
        });
        entry.submit(emit::NO_WAKEUP);
    }
    0
}

/// The current task replaced its address space; its thread ID was `old_tid` before.
#[inline(always)]
fn exec(ctx: &impl EbpfContext, task: u64, old_tid: u64) -> i32 {
    let (tid, tgid) = kernel::current_ids();
    let other = if old_tid as u32 == tid { None } else { take_over(task, old_tid as u32, tid) };
    let Some(state) = filter::traced() else {
        return 0;
    };
    // SAFETY: `state` is the current task's own element.
    let old_tid = other.unwrap_or(unsafe { (*state).tid });
    info!(ctx, "process {} executes a program; it was thread {}", tgid, old_tid);
    account::settle(state, task, UncountedCause::EXEC);
    // SAFETY: as above.
    let is_space_told = unsafe { (*state).flags } & TaskState::SPACE_TOLD != 0;
    // SAFETY: as above.
    let space = if is_space_told { unsafe { (*state).space } } else { emit::new_space() };
    // SAFETY: as above.
    unsafe {
        (*state).space = space;
        (*state).flags &= !TaskState::SPACE_TOLD;
    }
    let (start_brk, start_stack) = kernel::landmarks(task);
    if config!(join_groups) != 0 || config!(whole_system) != 0 {
        filter::track_group(tgid, space);
    }
    if let Some(mut entry) = emit::control::<LoadEvent>() {
        let exec = ExecEvent {
            header: emit::header(EventKind::EXEC, LoadEvent::LEN, state),
            space,
            old_tid,
            is_space_told: is_space_told.into(),
            comm: bpf_get_current_comm().unwrap_or_default(),
            start_brk,
            start_stack,
            is_hidden: is_hidden(task).into(),
            total_vm: kernel::total_vm(kernel::mm_of(task)),
        };
        entry.write(LoadEvent { exec, max_rss: kernel::max_rss(task) });
        entry.submit(emit::NO_WAKEUP);
    }
    0
}

/// Whether the kernel took the events of perf away from `task` because the program that it executes is not its user's to
/// look into (`begin_new_exec` of `fs/exec.c`).
#[inline(always)]
fn is_hidden(task: u64) -> bool {
    let follows_tasks = config!(join_groups) == 0 && config!(whole_system) == 0;
    follows_tasks && config!(has_task_layout) != 0 && !kernel::is_dumpable(task)
}

/// A thread other than the leader called `execve` and has the leader's thread ID now: its state moves there. Returns the
/// thread ID that records had for it, if it was traced.
///
/// Since the exchange of the IDs its faults were counted in the element of the dead leader, in an
/// account of their own; both add up.
#[inline(always)]
fn take_over(task: u64, old_tid: u32, tid: u32) -> Option<u32> {
    let old = TASKS.get_ptr_mut(old_tid)?;
    // SAFETY: a live element; the thread runs this program. A leader has the ID of its group.
    let recorded_tid = unsafe { core::mem::replace(&mut (*old).tid, (*old).tgid) };
    if let Some(new) = TASKS.get_ptr(tid) {
        // SAFETY: both are live elements; the thread runs this program, and the leader is dead.
        unsafe {
            if (*new).task == task {
                let since: &TaskAccount = &(*new).account;
                (*old).account.recorded_minor += since.recorded_minor;
                (*old).account.recorded_major += since.recorded_major;
                (*old).account.uncounted_minor += since.uncounted_minor;
                (*old).account.uncounted_major += since.uncounted_major;
            }
            if (*new).flags & TaskState::SPACE_TOLD != 0 {
                (*old).mm = (*new).mm;
                (*old).space = (*new).space;
                (*old).flags |= TaskState::SPACE_TOLD;
            }
        }
    }
    // SAFETY: a live element of the map.
    let moved = unsafe { &*old };
    if filter::track(tid, moved).is_some() {
        let _gone = TASKS.remove(old_tid);
    }
    Some(recorded_tid)
}

/// The current task ends. Clearing its thread ID and its robust futexes may still fault, so that the
/// element stays until [`free`], with an account that begins here.
#[inline(always)]
fn exit(task: u64) -> i32 {
    let Some(state) = filter::traced() else {
        return 0;
    };
    let (tid, tgid) = kernel::current_ids();
    pending::end_all(state, FaultKind::UNFINISHED, FaultKind::REFUSED);
    account::settle(state, task, UncountedCause::EXIT);
    let knows_task = config!(has_task_layout) != 0;
    let group_dead = if knows_task { kernel::is_group_dead(task) } else { tid == tgid };
    let of_process = if knows_task && group_dead {
        (kernel::max_rss(task), u64::from(kernel::exit_status(task)) + 1)
    } else {
        (0, 0)
    };
    finish(state, EventKind::EXIT, u64::from(group_dead), of_process);
    // SAFETY: `state` is the current task's own element.
    unsafe { (*state).flags |= TaskState::EXITED };
    0
}

/// Writes the account of a task and begins it anew; `max_rss` and `status_plus_one` as [`EndEvent`] has them.
#[inline(always)]
fn finish(state: *mut TaskState, kind: EventKind, group_dead: u64, (max_rss, status_plus_one): (u64, u64)) {
    // SAFETY: `state` is a live element; the task itself or its end is the only writer.
    let (account, space) = unsafe { ((*state).account, (*state).space) };
    if let Some(mut entry) = emit::control::<EndEvent>() {
        let header = emit::header(kind, EndEvent::LEN, state);
        let exit =
            ExitEvent { header, space, group_dead, is_charge_known: config!(has_task_layout), account };
        entry.write(EndEvent { exit, max_rss, status_plus_one });
        entry.submit(emit::NO_WAKEUP);
    }
    // SAFETY: as above.
    unsafe {
        (*state).account = TaskAccount {
            base_minor: account.last_minor,
            base_major: account.last_major,
            last_minor: account.last_minor,
            last_major: account.last_major,
            ..TaskAccount::default()
        };
    }
}

/// The kernel forgets the task with these thread and group IDs in the initial PID namespace: nothing can be charged to it any
/// more. `task` is its `task_struct`, 0 if unknown.
#[inline(always)]
fn free((tid, tgid): (u32, u32), task: u64) -> i32 {
    let Some(state) = TASKS.get_ptr_mut(tid) else {
        if tid == tgid {
            let _absent = GROUPS.remove(tgid);
        }
        return 0;
    };
    // SAFETY: the map returned a pointer to a live element.
    let (owner, flags) = unsafe { ((*state).task, (*state).flags) };
    // The kernel is slow to forget: somebody else may have the thread ID by now.
    let is_other = if task != 0 { owner != 0 && owner != task } else { flags & TaskState::EXITED == 0 };
    if is_other {
        return 0;
    }
    if tid == tgid {
        let _absent = GROUPS.remove(tgid);
    }
    account::settle(state, task, UncountedCause::EXIT);
    // SAFETY: as above.
    let late = unsafe { (*state).account };
    if late.recorded_minor | late.recorded_major | late.uncounted_minor | late.uncounted_major != 0 {
        finish(state, EventKind::LATE, 0, (0, 0));
    }
    let _gone = TASKS.remove(tid);
    0
}

/// The task that is `tid` in the initial PID namespace has another name from now on, which is asked for only if it is
/// traced.
#[inline(always)]
fn rename(tid: u32, comm: impl FnOnce() -> [u8; 16]) -> i32 {
    let Some(state) = TASKS.get_ptr_mut(tid) else {
        return 0;
    };
    if tid == kernel::current_ids().0 {
        vma::renamed(state);
    }
    let comm = comm();
    if let Some(mut entry) = emit::control::<CommEvent>() {
        entry.write(CommEvent { header: emit::header(EventKind::COMM, CommEvent::LEN, state), comm });
        entry.submit(emit::NO_WAKEUP);
    }
    0
}
