//! "Is this task traced?": the first thing that every program asks.

use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_task};
use memtrace_ebpf::{Counter, EventKind, JoinEvent, LeaveEvent, TaskState, UncountedCause};

use super::{account, config, current_ids, emit, pending};
use crate::{GROUPS, TASKS};

/// The state of the current task if it is traced.
///
/// The pointer stays valid for the whole program: an element of a preallocated map is never unmapped, and
/// only the task itself and its end remove it.
#[inline(always)]
pub(crate) fn traced() -> Option<*mut TaskState> {
    let (tid, tgid) = current_ids();
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

/// Begins to trace the current task; its counters so far are learnt at its first completion.
#[inline(never)]
fn join(tid: u32, tgid: u32, space: u64) -> Option<*mut TaskState> {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    track(tid, &TaskState { task, space, tgid, ..TaskState::default() })?;
    if let Some(mut entry) = emit::control::<JoinEvent>() {
        entry.write(JoinEvent {
            header: emit::header(EventKind::JOIN, JoinEvent::LEN, tgid, tid),
            space,
            parent_tgid: 0,
            pad: 0,
            comm: bpf_get_current_comm().unwrap_or_default(),
        });
        entry.submit(emit::NO_WAKEUP);
    }
    TASKS.get_ptr_mut(tid)
}

/// Makes all threads of `tgid` join when they are next seen, in `space`; counts it as lost if there is no room.
#[inline(always)]
pub(crate) fn track_group(tgid: u32, space: u64) {
    if GROUPS.insert(tgid, space, 0).is_err() {
        emit::count(Counter::LostTasks, 1);
    }
}

/// Enters `state` into the table of traced tasks; counts the task as lost if there is no room.
#[inline(always)]
pub(crate) fn track(tid: u32, state: &TaskState) -> Option<()> {
    if TASKS.insert(tid, state, 0).is_err() {
        emit::count(Counter::LostTasks, 1);
        return None;
    }
    Some(())
}

/// The current task is no longer traced: its group left the cgroup.
#[inline(never)]
fn leave(tid: u32, state: *mut TaskState) {
    pending::end_all(state, None);
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    account::settle(state, task, current_ids(), UncountedCause::USER);
    // SAFETY: `state` is the current task's own element.
    let (account, tgid) = unsafe { ((*state).account, (*state).tgid) };
    if let Some(mut entry) = emit::control::<LeaveEvent>() {
        entry.write(LeaveEvent {
            header: emit::header(EventKind::LEAVE, LeaveEvent::LEN, tgid, tid),
            account,
        });
        entry.submit(emit::NO_WAKEUP);
    }
    let _gone = TASKS.remove(tid);
}
