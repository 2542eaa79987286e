//! Calls that change an address space, and when each change took effect.
//!
//! Calls return in another order than they change the address space. The true order is that of the sections in which
//! a task alone holds the memory map: they end with the release of the lock, or with its downgrade to a shared one, and
//! both are seen while it is still held.

use aya_ebpf::{
    helpers::{bpf_probe_read_user, bpf_probe_read_user_str_bytes},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use memtrace_ebpf::{
    Call, CallEvent, EventKind, NameEvent, SectionEvent, SpaceEvent, StackedCallEvent, TaskState, TrimEvent,
    UncountedCause, VmaName,
};

use super::{
    account,
    call::{self, FORK_ADVICE, Request},
    config, emit,
    file::MappedFile,
    filter, hold, kernel, known, pending, record_field, request as io_uring, stack, truth, twins,
};

/// Time after which a call that populates memory is stamped with its return: the record would come too late to be put
/// in order, and the kernel's own record of the new region has told of it.
const STALE_NS: u64 = 100_000_000;

twins! {
    /// A task got a lock on a memory map: `mmap_lock_acquire_returned(mm, write, success)`; also when it goes on to share
    /// one that it held alone.
    LOCK_ACQUIRED at "mmap_lock_acquire_returned"
    fn lock_acquired(ctx) { locked(ctx.arg(0), truth(ctx.arg(1)), truth(ctx.arg(2))) }
    fn lock_acquired_record(record) {
        let is_set = |offset| record_field::<u8>(&record, offset) != 0;
        let mm = record_field(&record, config!(lock_mm));
        locked(mm, is_set(config!(lock_write)), is_set(config!(lock_success)))
    }
}

/// As [`lock_acquired`] before Linux 6.14: `mmap_lock_acquire_returned(mm, memcg_path, write, success)`.
#[raw_tracepoint(tracepoint = "mmap_lock_acquire_returned")]
fn lock_acquired_path(ctx: RawTracePointContext) -> i32 {
    locked(ctx.arg(0), truth(ctx.arg(2)), truth(ctx.arg(3)))
}
known!(LOCK_ACQUIRED_PATH, lock_acquired_path);

twins! {
    /// A task lets go of a memory map: `mmap_lock_released(mm, write)`. Whatever populates memory without
    /// an event holds this lock, and this is the first thing that happens afterwards.
    LOCK_RELEASED at "mmap_lock_released"
    fn lock_released(ctx) { unlocked(ctx.arg(0), truth(ctx.arg(1))) }
    fn lock_released_record(record) {
        let write: u8 = record_field(&record, config!(unlock_write));
        unlocked(record_field(&record, config!(unlock_mm)), write != 0)
    }
}

/// As [`lock_released`] before Linux 6.14: `mmap_lock_released(mm, memcg_path, write)`.
#[raw_tracepoint(tracepoint = "mmap_lock_released")]
fn lock_released_path(ctx: RawTracePointContext) -> i32 {
    unlocked(ctx.arg(0), truth(ctx.arg(2)))
}
known!(LOCK_RELEASED_PATH, lock_released_path);

twins! {
    /// The end of a system call: `sys_exit(regs, ret)`.
    CALL_RETURNED at "sys_exit"
    fn call_returned(ctx) { returned(ctx.arg(0), ctx.arg(1)) }
    /// The registers are known from elsewhere.
    fn call_returned_record(record) {
        match call::registers() {
            Some(regs) => returned(regs, record_field(&record, config!(exit_ret))),
            None => 0,
        }
    }
}

impl Request {
    /// Records that the call ended.
    #[inline(always)]
    fn tell(self, state: *mut TaskState, time_ns: u64, result: i64) {
        let is_named = self.names();
        // SAFETY: `state` is the current task's own element.
        let (space, flags) = unsafe { ((*state).space, (*state).flags) };
        let (kind, len) =
            if is_named { (EventKind::NAME, NameEvent::LEN) } else { (EventKind::CALL, CallEvent::LEN) };
        let mut event = CallEvent {
            header: emit::header(kind, len, state),
            space,
            call: self.call,
            may_have_resized: (config!(has_task_layout) == 0 || flags & TaskState::RESIZED != 0).into(),
            file_mode: 0,
            file_magic: 0,
            result,
            arg_0: self.argument(0),
            arg_1: self.argument(1),
            arg_2: self.argument(2),
            arg_3: self.argument(3),
            arg_4: self.argument(4),
            arg_5: self.argument(5),
        };
        event.header.time_ns = time_ns;
        if is_named {
            tell_name(event);
            return;
        }
        if self.call == Call::PRCTL {
            [event.arg_2, event.arg_3, event.arg_4] = bounds();
        }
        if self.call == Call::IOCTL {
            // SAFETY: the helper checks the address and returns an error for a bad one.
            let range = unsafe { bpf_probe_read_user(event.arg_2 as *const [u64; 3]) };
            [event.arg_2, event.arg_3, event.arg_4] = range.unwrap_or_default();
        }
        if self.maps_file() && !is_error(result) {
            let file = MappedFile::behind(event.arg_4 as u32);
            if file.magic != 0 {
                (event.file_mode, event.file_magic, event.arg_4) =
                    (file.mode, file.magic, file.device.into());
            }
        }
        if config!(rule_buckets) != 0 {
            let stack = stack::of(state, time_ns, self.registers());
            event.header.len = StackedCallEvent::LEN as u16;
            if let Some(mut entry) = emit::control::<StackedCallEvent>() {
                entry.write(StackedCallEvent { call: event, stack });
                entry.submit(emit::NO_WAKEUP);
            }
        } else if let Some(mut entry) = emit::control::<CallEvent>() {
            entry.write(event);
            entry.submit(emit::NO_WAKEUP);
        }
    }
}

/// Records `prctl(PR_SET_VMA)` with the name that it gave.
#[inline(always)]
fn tell_name(call: CallEvent) {
    let Some(mut entry) = emit::control::<NameEvent>() else {
        return;
    };
    let event = entry.as_mut_ptr();
    // SAFETY: the ring gave room for the whole record.
    unsafe {
        (*event).call = call;
        (*event).name = VmaName([0; 80]);
    }
    // SAFETY: as above; the helper checks the address and bounds the copy.
    let _no_name = unsafe { bpf_probe_read_user_str_bytes(call.arg_4 as *const u8, &mut (*event).name.0) };
    entry.submit(emit::NO_WAKEUP);
}

/// The current task returns from a system call.
#[inline(always)]
fn returned(regs: u64, result: i64) -> i32 {
    let request = Request::of(regs);
    if matches!(request.call, Call::PTRACE | Call::CLONE | Call::CLONE3) {
        hold::returned(request, result);
        return 0;
    }
    if !request.is_told() {
        return 0;
    }
    let Some(state) = filter::traced() else {
        return 0;
    };
    // SAFETY: `state` is the current task's own element.
    let (section_ns, flags) = unsafe {
        let seen = ((*state).section_ns, (*state).flags);
        (*state).section_ns = 0;
        seen
    };
    if flags & TaskState::CALL_TOLD == 0 {
        // A call that fails may have unmapped something before.
        let had_effect = !is_error(result) || flags & TaskState::RESIZED != 0;
        request.tell(state, effective(request, section_ns, had_effect), result);
    }
    // SAFETY: as above.
    unsafe { (*state).flags &= !(TaskState::CALL_TOLD | TaskState::RESIZED) };
    0
}

/// Whether a call that returned `result` failed.
#[inline(always)]
const fn is_error(result: i64) -> bool {
    -4096 < result && result < 0
}

/// When a call that has just returned took effect, if it had any, and if the task's last section as the only holder of a
/// memory map ended at `section_ns`.
#[inline(always)]
fn effective(request: Request, section_ns: u64, had_effect: bool) -> u64 {
    let now = emit::now();
    let may_wait = match request.call {
        Call::MUNMAP | Call::MREMAP | Call::BRK | Call::SHMDT => true,
        Call::MMAP
        | Call::MMAP2
        | Call::MPROTECT
        | Call::PKEY_MPROTECT
        | Call::SHMAT
        | Call::REMAP_FILE_PAGES => now - section_ns < STALE_NS,
        // PR_SET_MM shares the lock.
        Call::PRCTL => request.names() && now - section_ns < STALE_NS,
        Call::MADVISE => FORK_ADVICE.contains(&request.int(2)) && now - section_ns < STALE_NS,
        _ => false,
    };
    if section_ns != 0 && had_effect && may_wait { section_ns } else { now }
}

/// The current task tried to lock the memory map `mm`, and may have got it. If it held it alone until now, that section ends
/// here: `munmap`, and a shrinking `brk` or `mremap`, have done their work, and free the pages together with others.
#[inline(always)]
fn locked(mm: u64, alone: bool, success: bool) -> i32 {
    if !success {
        return 0;
    }
    let Some(state) = filter::traced() else {
        return 0;
    };
    let now = emit::now();
    // SAFETY: `state` is the current task's own element.
    let (was_alone, before) = unsafe {
        (*state).locked_ns = now;
        let was_alone = (*state).flags & TaskState::WRITING != 0;
        let before = (*state).total_vm;
        if alone {
            (*state).flags |= TaskState::WRITING;
            (*state).total_vm = kernel::total_vm(mm);
        } else {
            (*state).flags &= !TaskState::WRITING;
        }
        (was_alone, before)
    };
    if alone || !was_alone {
        return 0;
    }
    // SAFETY: as above.
    unsafe { (*state).section_ns = now };
    let Some(regs) = call::registers() else {
        return 0;
    };
    let request = Request::of(regs);
    let result = match request.call {
        Call::MUNMAP => 0,
        Call::BRK | Call::MREMAP => request.argument(0) as i64,
        _ => {
            tell_unexplained(state, request, before < kernel::total_vm(mm));
            return 0;
        }
    };
    // SAFETY: as above.
    unsafe { (*state).flags |= TaskState::CALL_TOLD };
    request.tell(state, now, result);
    0
}

/// The current task lets go of the memory map `mm`, which it may have populated without an event, and which it held `alone` or
/// with others.
#[inline(always)]
fn unlocked(mm: u64, alone: bool) -> i32 {
    let Some(state) = filter::traced() else {
        return 0;
    };
    if config!(has_task_layout) != 0 {
        account::settle(state, kernel::current_task(), UncountedCause::SYSCALL);
    }
    if alone {
        section_ends(state, mm);
    }
    0
}

/// The current task, which alone held the memory map `mm`, lets go of it.
#[inline(always)]
fn section_ends(state: *mut TaskState, mm: u64) {
    let now = emit::now();
    let after = kernel::total_vm(mm);
    // SAFETY: `state` is the current task's own element.
    let (before, flags) = unsafe {
        (*state).section_ns = now;
        (*state).flags &= !TaskState::WRITING;
        if (*state).total_vm != after {
            (*state).flags |= TaskState::RESIZED;
        }
        ((*state).total_vm, (*state).flags)
    };
    if flags & TaskState::SPACE_TOLD != 0 && after < before {
        trimmed(state, now, before - after);
    }
    if let Some(regs) = call::registers() {
        tell_unexplained(state, Request::of(regs), before < after);
    }
}

/// Records that the current task, which is executing a program, unmapped `pages` of its new address space at `time_ns`.
#[inline(always)]
fn trimmed(state: *const TaskState, time_ns: u64, pages: u64) {
    if let Some(mut entry) = emit::control::<TrimEvent>() {
        let mut header = emit::header(EventKind::TRIM, TrimEvent::LEN, state);
        header.time_ns = time_ns;
        // SAFETY: `state` is the current task's own element.
        entry.write(TrimEvent { header, space: unsafe { (*state).space }, pages });
        entry.submit(emit::NO_WAKEUP);
    }
}

/// Records that the current task changed a memory map, which `grew` or not, unless `request`, the call in flight, explains it.
#[inline(always)]
fn tell_unexplained(state: *const TaskState, request: Request, grew: bool) {
    // SAFETY: `state` is the current task's own element.
    let (space, flags) = unsafe { ((*state).space, (*state).flags) };
    // Outside a system call, as in a fault that makes the stack grow, there is no number.
    if flags & TaskState::EXITED != 0
        || request.explains()
        || (request.number as i32) < 0
        || io_uring::is_told()
    {
        return;
    }
    // An access of the kernel to the stack of its caller makes it grow as well, and perf shows it.
    if grew && pending::in_kernel(state) {
        return;
    }
    if let Some(mut entry) = emit::control::<SectionEvent>() {
        let header = emit::header(EventKind::SECTION, SectionEvent::LEN, state);
        entry.write(SectionEvent { header, space, syscall: request.number });
        entry.submit(emit::NO_WAKEUP);
    }
}

/// The current task got a new name. If it has another memory map than before, the kernel gave it that name because it
/// is executing a program.
#[inline(always)]
pub(crate) fn renamed(state: *mut TaskState) {
    if config!(has_task_layout) == 0 {
        return;
    }
    let mm = kernel::mm_of(kernel::current_task());
    // SAFETY: `state` is the current task's own element.
    unsafe {
        // A task that stood still when it was entered, and has not been seen since, does nothing but execute.
        let is_unknown = (*state).mm == 0 && (*state).flags & TaskState::BASE_KNOWN == 0;
        if (*state).mm == mm || is_unknown {
            (*state).mm = mm;
            return;
        }
        (*state).mm = mm;
        (*state).space = emit::new_space();
        (*state).flags |= TaskState::SPACE_TOLD;
    }
    // SAFETY: as above.
    let (space, locked_ns) = unsafe { ((*state).space, (*state).locked_ns) };
    if config!(join_groups) != 0 || config!(whole_system) != 0 {
        filter::track_group(kernel::current_ids().1, space);
    }
    if let Some(mut entry) = emit::control::<SpaceEvent>() {
        let mut header = emit::header(EventKind::SPACE, SpaceEvent::LEN, state);
        // The last lock was that on the old memory map, just before it was exchanged.
        if locked_ns != 0 && header.time_ns - locked_ns < STALE_NS {
            header.time_ns = locked_ns;
        }
        entry.write(SpaceEvent { header, space });
        entry.submit(emit::NO_WAKEUP);
    }
}

/// `start_brk`, `brk` and `start_stack` of the current task; 0 each if unknown.
#[inline(always)]
fn bounds() -> [u64; 3] {
    let task = kernel::current_task();
    let (start_brk, start_stack) = kernel::landmarks(task);
    [start_brk, if start_brk == 0 { 0 } else { kernel::brk_of(task) }, start_stack]
}
