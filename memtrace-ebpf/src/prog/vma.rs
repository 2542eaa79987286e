//! Calls that change an address space, and when each change took effect.
//!
//! Calls return in another order than they change the address space. The true order is that of the sections in which
//! a task alone holds the memory map: they end with the release of the lock, or with its downgrade to a shared one, and
//! both are seen while it is still held.

use aya_ebpf::helpers::{
    bpf_get_current_task, bpf_get_current_task_btf, bpf_probe_read_user, bpf_probe_read_user_str_bytes,
    bpf_task_pt_regs,
};
use memtrace_ebpf::{
    Call, CallEvent, EventKind, NameEvent, SectionEvent, SpaceEvent, TaskState, TrimEvent, VmaName,
};

use super::{config, current_ids, emit, file::MappedFile, filter, pending, read_kernel, request as io_uring};
use crate::CALLS;

/// `PR_SET_VMA` of `include/uapi/linux/prctl.h`.
const PR_SET_VMA: u32 = 0x5356_4d41;
/// `PR_SET_MM` of `include/uapi/linux/prctl.h`.
const PR_SET_MM: u32 = 35;
/// `MAP_ANONYMOUS`
const MAP_ANONYMOUS: u64 = 0x20;
/// `UFFDIO_REGISTER` and `UFFDIO_UNREGISTER` of `include/uapi/linux/userfaultfd.h`.
const UFFDIO: [u32; 2] = [0xc020_aa00, 0x8010_aa01];
/// `MADV_DONTFORK`, `MADV_DOFORK`, `MADV_WIPEONFORK` and `MADV_KEEPONFORK`: what a fork copies depends on them.
pub(crate) const FORK_ADVICE: [u32; 4] = [10, 11, 18, 19];

/// Time after which a call that populates memory is stamped with its return: the record would come too late to be put
/// in order, and the kernel's own record of the new region has told of it.
const STALE_NS: u64 = 100_000_000;

/// A system call as the registers of its caller have it.
#[derive(Clone, Copy)]
struct Request {
    /// Its number on the architecture of the caller.
    number: u64,
    call: Call,
    /// The `pt_regs`.
    regs: u64,
    is_32_bit: bool,
}

/// The registers that the current task had in user mode; `None` if the kernel has no helper that tells.
#[inline(always)]
pub(crate) fn registers() -> Option<u64> {
    if config!(has_task_pt_regs) == 0 {
        return None;
    }
    // SAFETY: the first helper returns the current task, which is what the second one takes.
    Some(unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as u64)
}

/// Which call `number` is: on this architecture, or for 32-bit programs.
#[inline(always)]
fn call_of(number: u64, is_32_bit: bool) -> Call {
    if number >= Call::NUMBERS as u64 {
        return Call(0);
    }
    let table = if is_32_bit { Call::NUMBERS } else { 0 };
    let index = table + (number as usize & (Call::NUMBERS - 1));
    // SAFETY: `index` is below the length of the static. Volatile, so that the compiler does not take the zeros of
    // the build for constants.
    Call(unsafe { core::ptr::read_volatile((&raw const CALLS).cast::<u8>().add(index)) })
}

/// The system call in the registers `regs`.
#[inline(always)]
fn request(regs: u64) -> Request {
    let number: u64 = read_kernel(regs, config!(regs_syscall));
    // Most numbers are nothing in either table, and every system call of every process comes here.
    if call_of(number, false) == Call(0) && call_of(number, true) == Call(0) {
        return Request { number, call: Call(0), regs, is_32_bit: false };
    }
    let is_32_bit = arch::is_32_bit(regs);
    Request { number, call: call_of(number, is_32_bit), regs, is_32_bit }
}

impl Request {
    /// Whether a change of the address space in this call is told by the call, or by others of its kind.
    #[inline(always)]
    fn explains(self) -> bool {
        match self.call {
            Call(0) => false,
            Call::PRCTL | Call::IOCTL => self.is_told(),
            _ => true,
        }
    }

    /// Whether the end of this call is recorded.
    #[inline(always)]
    fn is_told(self) -> bool {
        match self.call {
            Call(0) | Call::EXPLAINED => false,
            Call::PRCTL => matches!(self.int(0), PR_SET_VMA | PR_SET_MM),
            Call::IOCTL => UFFDIO.contains(&self.int(1)),
            _ => true,
        }
    }

    /// Whether it is `prctl(PR_SET_VMA)`.
    #[inline(always)]
    fn names(self) -> bool {
        self.call == Call::PRCTL && self.int(0) == PR_SET_VMA
    }

    #[inline(always)]
    fn argument(self, index: usize) -> u64 {
        arch::argument(self.regs, index, self.is_32_bit)
    }

    /// An argument that the call declares as `int`: the kernel takes the lower half of the register.
    #[inline(always)]
    fn int(self, index: usize) -> u32 {
        self.argument(index) as u32
    }

    /// Whether it maps what is behind a descriptor.
    #[inline(always)]
    fn maps_file(self) -> bool {
        matches!(self.call, Call::MMAP | Call::MMAP2) && self.argument(3) & MAP_ANONYMOUS == 0
    }

    /// Records that the call ended.
    #[inline(always)]
    fn tell(self, state: *const TaskState, time_ns: u64, result: i64) {
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
        if let Some(mut entry) = emit::control::<CallEvent>() {
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
pub(crate) fn returned(regs: u64, result: i64) -> i32 {
    let request = request(regs);
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
pub(crate) fn locked(mm: u64, alone: bool, success: bool) -> i32 {
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
            (*state).total_vm = total_vm(mm);
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
    let Some(regs) = registers() else {
        return 0;
    };
    let request = request(regs);
    let result = match request.call {
        Call::MUNMAP => 0,
        Call::BRK | Call::MREMAP => request.argument(0) as i64,
        _ => {
            tell_unexplained(state, request, before < total_vm(mm));
            return 0;
        }
    };
    // SAFETY: as above.
    unsafe { (*state).flags |= TaskState::CALL_TOLD };
    request.tell(state, now, result);
    0
}

/// Pages that are mapped in `mm`; 0 if unknown.
#[inline(always)]
pub(crate) fn total_vm(mm: u64) -> u64 {
    if config!(has_task_layout) == 0 { 0 } else { read_kernel(mm, config!(mm_total_vm)) }
}

/// The current task, which alone held the memory map `mm`, lets go of it.
#[inline(always)]
pub(crate) fn section_ends(state: *mut TaskState, mm: u64) {
    let now = emit::now();
    let after = total_vm(mm);
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
    if let Some(regs) = registers() {
        tell_unexplained(state, request(regs), before < after);
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
    // SAFETY: the helper has no preconditions.
    let mm = mm_of(unsafe { bpf_get_current_task() });
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
        filter::track_group(current_ids().1, space);
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

/// The `mm_struct` of `task`.
#[inline(always)]
pub(crate) fn mm_of(task: u64) -> u64 {
    read_kernel(task, config!(task_mm))
}

/// `start_brk`, `brk` and `start_stack` of the current task; 0 each if unknown.
#[inline(always)]
fn bounds() -> [u64; 3] {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let (start_brk, start_stack) = landmarks(task);
    [start_brk, if start_brk == 0 { 0 } else { brk_of(task) }, start_stack]
}

/// Where the heap of `task` ends.
#[inline(always)]
pub(crate) fn brk_of(task: u64) -> u64 {
    read_kernel(mm_of(task), config!(mm_brk))
}

/// Whether the kernel took the events of perf away from `task` because the program that it executes is not its user's to
/// look into: `get_dumpable()` is not `SUID_DUMP_USER`, or `TASK_DUMPABLE_OWNER` (`begin_new_exec` of `fs/exec.c`).
#[inline(always)]
pub(crate) fn is_hidden(task: u64) -> bool {
    const DUMPABLE_MASK: u32 = 3;
    const SUID_DUMP_USER: u32 = 1;
    let follows_tasks = config!(join_groups) == 0 && config!(whole_system) == 0;
    follows_tasks
        && config!(has_task_layout) != 0
        && read_kernel::<u32>(read_kernel(task, config!(task_dumpable)), config!(dumpable)) & DUMPABLE_MASK
            != SUID_DUMP_USER
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

/// Where an architecture keeps the arguments of a system call.
#[cfg(bpf_target_arch = "x86_64")]
mod arch {
    use core::mem::offset_of;

    use aya_ebpf::bindings::pt_regs;

    use super::read_kernel;

    /// Code segment of 32-bit programs.
    const USER32_CS: u64 = 0x23;

    const NATIVE: [usize; 6] = [
        offset_of!(pt_regs, rdi),
        offset_of!(pt_regs, rsi),
        offset_of!(pt_regs, rdx),
        offset_of!(pt_regs, r10),
        offset_of!(pt_regs, r8),
        offset_of!(pt_regs, r9),
    ];
    const COMPAT: [usize; 6] = [
        offset_of!(pt_regs, rbx),
        offset_of!(pt_regs, rcx),
        offset_of!(pt_regs, rdx),
        offset_of!(pt_regs, rsi),
        offset_of!(pt_regs, rdi),
        offset_of!(pt_regs, rbp),
    ];

    #[inline(always)]
    pub(super) fn is_32_bit(regs: u64) -> bool {
        read_kernel::<u64>(regs, offset_of!(pt_regs, cs) as u64) == USER32_CS
    }

    #[inline(always)]
    pub(super) fn argument(regs: u64, index: usize, is_32_bit: bool) -> u64 {
        if is_32_bit {
            read_kernel::<u64>(regs, COMPAT[index] as u64) & 0xffff_ffff
        } else {
            read_kernel(regs, NATIVE[index] as u64)
        }
    }
}

/// Where an architecture keeps the arguments of a system call.
#[cfg(bpf_target_arch = "aarch64")]
mod arch {
    use super::read_kernel;

    /// The first argument as it was before the result took its register: behind 31 registers, sp, pc and pstate.
    const ORIG_X0: u64 = 34 * 8;

    #[inline(always)]
    pub(super) fn is_32_bit(_regs: u64) -> bool {
        false
    }

    #[inline(always)]
    pub(super) fn argument(regs: u64, index: usize, _is_32_bit: bool) -> u64 {
        read_kernel(regs, if index == 0 { ORIG_X0 } else { index as u64 * 8 })
    }
}
