//! The kernel's fault counters of a task against the completions seen of it.
//!
//! `mm_account_fault()` adds to `min_flt` or `maj_flt` before it raises the event, so at a completion the
//! counter is one ahead of what was seen; anything more was charged without an event.

use memtrace_ebpf::{Counter, EventKind, FaultKind, TaskAccount, TaskState, UncountedCause, UncountedEvent};

use super::{
    call, config, emit,
    kernel::{self, read_kernel},
    pending,
};

/// Takes note of a completion of the current task; `false` if it had been noted already.
#[inline(always)]
pub(crate) fn completed(state: *mut TaskState, kind: FaultKind) -> bool {
    let is_major = kind.0 == FaultKind::MAJOR.0;
    let (one_minor, one_major) = if is_major { (0, 1) } else { (1, 0) };
    if config!(has_task_layout) != 0 && !compare(state, is_major, (one_minor, one_major)) {
        return false;
    }
    // SAFETY: `state` is the current task's own element, and only the task itself changes its account.
    unsafe {
        (*state).account.recorded_minor += one_minor;
        (*state).account.recorded_major += one_major;
    }
    emit::count(if is_major { Counter::Major } else { Counter::Minor }, 1);
    true
}

/// Compares the counters of the current task, at the completion of `one` fault, with what was seen; `false` if
/// the kernel charged nothing for it since.
#[inline(always)]
fn compare(state: *mut TaskState, is_major: bool, (one_minor, one_major): (u64, u64)) -> bool {
    let task = kernel::current_task();
    let (minor, major) = kernel::charged(task);
    if !is_known(state, task) {
        begin(state, task, minor - one_minor, major - one_major);
    }
    let (ahead_minor, ahead_major) = ahead(state, minor, major);
    if (is_major && ahead_major == 0) || (!is_major && ahead_minor == 0) {
        emit::count(Counter::Duplicates, 1);
        return false;
    }
    if ahead_minor + ahead_major > 1 {
        let cause = if pending::in_kernel(state) { UncountedCause::SYSCALL } else { UncountedCause::USER };
        uncounted(state, (ahead_minor - one_minor, ahead_major - one_major), cause);
    }
    // SAFETY: `state` is the current task's own element, and only the task itself changes its account.
    unsafe {
        (*state).account.last_minor = minor;
        (*state).account.last_major = major;
    }
    true
}

/// Whether the account of `state` is that of `task` and has a beginning.
///
/// It is another task's for a moment when a thread that is about to `execve` has taken over the thread ID of
/// its leader. User space does not know the address of a task that it enters.
#[inline(always)]
fn is_known(state: *mut TaskState, task: u64) -> bool {
    // SAFETY: `state` is a live element; the task itself or its end is the only writer.
    unsafe {
        if (*state).task == 0 {
            (*state).task = task;
            (*state).mm = kernel::mm_of(task);
        }
        (*state).task == task && (*state).flags & TaskState::BASE_KNOWN != 0
    }
}

/// Begins the account of `task` at the given readings: it was there before it was traced.
#[inline(always)]
fn begin(state: *mut TaskState, task: u64, minor: u64, major: u64) {
    // SAFETY: `state` is a live element; the task itself or its end is the only writer.
    unsafe {
        (*state).task = task;
        (*state).flags = (*state).flags & !TaskState::EXITED | TaskState::BASE_KNOWN;
        (*state).account = TaskAccount {
            base_minor: minor,
            base_major: major,
            last_minor: minor,
            last_major: major,
            ..TaskAccount::default()
        };
    }
}

/// How far the readings are ahead of what was seen.
#[inline(always)]
fn ahead(state: *const TaskState, minor: u64, major: u64) -> (u64, u64) {
    // SAFETY: `state` is a live element; the task itself or its end is the only writer.
    let account = unsafe { &(*state).account };
    (
        minor.wrapping_sub(account.base_minor + account.recorded_minor + account.uncounted_minor),
        major.wrapping_sub(account.base_major + account.recorded_major + account.uncounted_major),
    )
}

/// Compares the counters of `task` with what was seen, outside a completion.
#[inline(always)]
pub(crate) fn settle(state: *mut TaskState, task: u64, cause: UncountedCause) {
    if config!(has_task_layout) == 0 {
        return;
    }
    let (minor, major) = kernel::charged(task);
    if !is_known(state, task) {
        begin(state, task, minor, major);
    }
    let ahead = ahead(state, minor, major);
    if ahead.0 | ahead.1 != 0 {
        let is_dumping = cause == UncountedCause::SYSCALL && is_dumping_core(task);
        uncounted(state, ahead, if is_dumping { UncountedCause::CORE_DUMP } else { cause });
    }
    // SAFETY: `state` is a live element; the task itself or its end is the only writer.
    unsafe {
        (*state).account.last_minor = minor;
        (*state).account.last_major = major;
    }
}

/// Whether `task` is writing a core dump, for which the kernel populates what is to be in it (`get_dump_page()` of `mm/gup.c`).
#[inline(always)]
fn is_dumping_core(task: u64) -> bool {
    /// `PF_EXITING` of `include/linux/sched.h`: set when the dump is written.
    const EXITING: u32 = 0x4;
    /// `PF_DUMPCORE`: set from the beginning of the dump on.
    const DUMPCORE: u32 = 0x200;
    kernel::flags_of(task) & (DUMPCORE | EXITING) == DUMPCORE
}

/// Records faults that were charged without an event to the task of `state`.
#[inline(always)]
fn uncounted(state: *mut TaskState, (minor, major): (u64, u64), cause: UncountedCause) {
    // SAFETY: `state` is a live element; the task itself or its end is the only writer.
    let space = unsafe {
        (*state).account.uncounted_minor += minor;
        (*state).account.uncounted_major += major;
        (*state).space
    };
    emit::count(Counter::UncountedMinor, minor);
    emit::count(Counter::UncountedMajor, major);
    if let Some(mut entry) = emit::control::<UncountedEvent>() {
        entry.write(UncountedEvent {
            header: emit::header(EventKind::UNCOUNTED, UncountedEvent::LEN, state),
            minor,
            major,
            cause,
            syscall_plus_one: if cause == UncountedCause::SYSCALL { syscall_plus_one() } else { 0 },
            space,
        });
        entry.submit(emit::NO_WAKEUP);
    }
}

/// Number of the system call in flight plus one; 0 if there is none, or the kernel cannot tell.
#[inline(always)]
fn syscall_plus_one() -> u32 {
    match call::registers() {
        Some(regs) => (read_kernel::<u64>(regs, config!(regs_syscall)) as u32).wrapping_add(1),
        None => 0,
    }
}
