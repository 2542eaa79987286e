//! "Is this task traced?": the first thing that every program asks.

use aya_ebpf::helpers::bpf_get_current_comm;
use memtrace_ebpf::{Counter, EventKind, FaultKind, JoinEvent, LeaveEvent, TaskState, UncountedCause};

use super::{account, config, emit, kernel, pending};
use crate::{GROUPS, TASKS};

/// The state of the current task if it is traced.
///
/// The pointer stays valid for the whole program: an element of a preallocated map is never unmapped, and
/// only the task itself and its end remove it.
#[inline(always)]
pub(crate) fn traced() -> Option<*mut TaskState> {
    let (tid, tgid) = kernel::current_ids();
    let known = TASKS.get_ptr_mut(tid);
    if config!(join_groups) != 0 || config!(whole_system) != 0 {
        return member(known, tid, tgid);
    }
    known
}

/// As [`traced`] where thread groups, not tasks, are the target: tasks join at first sight and leave with their group.
#[inline(always)]
fn member(known: Option<*mut TaskState>, tid: u32, tgid: u32) -> Option<*mut TaskState> {
    let group = GROUPS.get_ptr(tgid);
    if let Some(state) = known {
        // SAFETY: the map returned a pointer to a live element.
        let has_exited = unsafe { (*state).flags } & TaskState::EXITED != 0;
        if group.is_none() && config!(whole_system) == 0 && !has_exited {
            leave(tid, state);
            return None;
        }
        return known;
    }
    let space = match group {
        // SAFETY: the map returned a pointer to a live element.
        Some(space) => unsafe { *space },
        None if config!(whole_system) != 0 => {
            let space = emit::new_space();
            track_group(tgid, space);
            space
        }
        None => return None,
    };
    join(tid, tgid, space)
}

/// Begins to trace the current task; its counters so far are read at its first completion. Tasks only join where the
/// recorder is in the initial PID namespace, so that records have the same IDs.
#[inline(never)]
fn join(tid: u32, tgid: u32, space: u64) -> Option<*mut TaskState> {
    let task = kernel::current_task();
    let state = track(tid, &UNKNOWN)?;
    // SAFETY: a live element, which is the current task's own.
    unsafe {
        (*state).task = task;
        (*state).mm = kernel::mm_of(task);
        (*state).space = space;
        (*state).tid = tid;
        (*state).tgid = tgid;
    }
    if let Some(mut entry) = emit::control::<JoinEvent>() {
        entry.write(JoinEvent {
            header: emit::header(EventKind::JOIN, JoinEvent::LEN, state),
            space,
            parent_tgid: 0,
            pad: 0,
            comm: bpf_get_current_comm().unwrap_or_default(),
        });
        entry.submit(emit::NO_WAKEUP);
    }
    Some(state)
}

/// Makes all threads of `tgid` join when they are next seen, in `space`; counts it as lost if there is no room.
#[inline(always)]
pub(crate) fn track_group(tgid: u32, space: u64) {
    if GROUPS.insert(tgid, space, 0).is_err() {
        emit::count(Counter::LostTasks, 1);
    }
}

/// The state of a task of which nothing is known yet. Not on the stack: with it the frames of two programs'
/// functions would not fit into the 512 bytes that they share.
pub(crate) static UNKNOWN: TaskState = TaskState::ZERO;

/// Enters the task that is `tid` in the initial PID namespace into the table of traced ones as `state` has it, a static or
/// an element of that table; counts it as lost if there is no room.
#[inline(always)]
pub(crate) fn track(tid: u32, state: &TaskState) -> Option<*mut TaskState> {
    if TASKS.insert(tid, state, 0).is_err() {
        emit::count(Counter::LostTasks, 1);
        return None;
    }
    TASKS.get_ptr_mut(tid)
}

/// The current task is no longer traced: its group left the cgroup.
#[inline(never)]
fn leave(tid: u32, state: *mut TaskState) {
    pending::end_all(state, FaultKind::UNFINISHED, FaultKind::UNFINISHED);
    let task = kernel::current_task();
    account::settle(state, task, UncountedCause::USER);
    // SAFETY: `state` is the current task's own element.
    let account = unsafe { (*state).account };
    if let Some(mut entry) = emit::control::<LeaveEvent>() {
        entry.write(LeaveEvent {
            header: emit::header(EventKind::LEAVE, LeaveEvent::LEN, state),
            is_charge_known: config!(has_task_layout),
            account,
        });
        entry.submit(emit::NO_WAKEUP);
    }
    let _gone = TASKS.remove(tid);
}
