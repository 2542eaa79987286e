//! Walks the user stack of the current task, by rules of exact program counters.
//!
//! A program counter that has no rule ends the walk. What there is of the stack then goes to user space, which finds out the rest
//! and makes the rules that were missing; where there is no room for it, the frames so far are the stack.

use core::ffi::c_void;

use aya_ebpf::{bindings::BPF_RB_AVAIL_DATA, helpers::generated};
use memtrace_ebpf::{
    Counter, DUMP_BYTES, DUMPED, EventKind, FrameWord, Registers, Rule, STACK_FRAMES, StackEnd, StackEvent,
    TaskState, hash, names, rule_key,
};

use super::{config, emit};
use crate::{COUNTERS, RULES, SENT_STACKS, STACKS, WALKS};

/// Bytes that are read of a stack at once: no read goes beyond a page, which may be the last one.
const PAGE: usize = 4096;

/// Bits of a number of frames.
const COUNT_MASK: u32 = (STACK_FRAMES as u32).next_power_of_two() - 1;

/// What a walk finds, as it is sent.
#[repr(C)]
pub(crate) struct Walk {
    stack: StackEvent,
    frames: [u64; STACK_FRAMES],
    registers: Registers,
    bytes: [u8; DUMP_BYTES + PAGE],
}

/// Bytes of [`Walk`] that do not depend on how much of the stack there is.
const DUMP_HEAD: usize = StackEvent::LEN + 8 * STACK_FRAMES + Registers::LEN;

/// The stack of the current task, whose registers in user mode are `registers`; 0 if it is unknown.
#[inline(always)]
pub(crate) fn of(state: *mut TaskState, time_ns: u64, registers: Registers) -> u64 {
    // While a program is being executed, the registers are still those of the one before, whose stack is gone.
    // SAFETY: `state` is the current task's own element.
    if config!(rule_buckets) == 0
        || registers.ip == 0
        || unsafe { (*state).flags } & TaskState::SPACE_TOLD != 0
    {
        return 0;
    }
    let Some(walk) = WALKS.get_ptr_mut(0) else {
        return 0;
    };
    let mut header = emit::header(EventKind::STACK, StackEvent::LEN, state);
    header.time_ns = time_ns;
    // SAFETY: `state` is the current task's own element. The map returned a pointer to this CPU's element, which nothing else uses:
    // programs that walk cannot be preempted, and a fault of the walk walks no stack.
    unsafe {
        (*walk).stack.header = header;
        (*walk).stack.space = (*state).space;
        // Through memory: of registers that it knows the compiler calls the walk once for each way to them, and the verifier walks it
        // as often.
        (&raw mut (*walk).registers).write_volatile(registers);
        if (&raw const (*walk).registers.ip).read_volatile() == 0 {
            return 0;
        }
        (*state).flags |= TaskState::WALKED;
        let stack = walk_all();
        (*state).flags &= !TaskState::WALKED;
        stack
    }
}

/// Walks from the innermost frame, the registers of which are written, as is the rest of the event.
#[inline(never)]
fn walk_all() -> u64 {
    let Some(walk) = WALKS.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: as in `of`.
    let (space, Registers { ip, mut sp, mut bp, .. }) = unsafe { ((*walk).stack.space, (*walk).registers) };
    let mut ip = ip & FrameWord::ADDRESS;
    let mut is_return = 0;
    let mut bits = 0;
    let mut sum = space;
    let mut count = 0;
    let mut end = StackEnd::TOO_DEEP;
    for depth in 0..STACK_FRAMES {
        let frame = ip | bits;
        // SAFETY: as in `of`; `depth` is in the array.
        unsafe { (*walk).frames[depth] = frame };
        sum = hash(sum, frame);
        count = depth as u32 + 1;
        let rule = rule_of(space, ip, is_return);
        if let Some(reason) = rule.end() {
            end = reason;
            break;
        }
        let mut cfa = rule.cfa_place(sp, bp);
        if rule.is_behind() {
            cfa = word_at(cfa);
        }
        ip = word_at(rule.ip_place(sp, cfa)) & FrameWord::ADDRESS;
        if rule.leads_nowhere(sp, cfa, ip) {
            end = rule.why_nowhere(ip);
            break;
        }
        if rule.is_saved() {
            bp = word_at(rule.bp_place(sp, bp, cfa));
        }
        (sp, is_return, bits) = (cfa, rule.is_return(), rule.frame_bits());
    }
    // The verifier would walk what follows for each number of frames and each end that it knows.
    // SAFETY: as in `of`.
    let (count, end) = unsafe {
        (*walk).stack.count = count;
        (*walk).stack.end = end;
        ((&raw const (*walk).stack.count).read_volatile(), (&raw const (*walk).stack.end).read_volatile())
    };
    // Before it is known whether they are needed, for the same reason: it costs less than a frame.
    let pages = pages_to_dump();
    if end == StackEnd::NO_RULE && pages > 0 {
        // SAFETY: as in `of`.
        unsafe { (*walk).registers = Registers { ip, sp, bp, is_return } };
        let stack = dump(walk, pages);
        if stack != 0 {
            return stack;
        }
    }
    send(walk, hash(sum, end.0 as u64), count)
}

/// The rule for a program counter.
#[inline(always)]
fn rule_of(space: u64, ip: u64, is_return: u64) -> Rule {
    let key = rule_key(space, ip, is_return);
    let index = key as u32 & (config!(rule_buckets) as u32).wrapping_sub(1);
    let Some(bucket) = RULES.get_ptr(index) else {
        return Rule::NONE;
    };
    // SAFETY: the map returned a pointer to a live element. User space may write a word of it meanwhile, and what does not fit then
    // is no rule.
    unsafe { bucket.read_volatile() }.rule(key)
}

/// The word at `addr` of user space; 0 if it cannot be read.
#[inline(always)]
fn word_at(addr: u64) -> u64 {
    let mut word = 0_u64;
    // SAFETY: `word` has room for the length; the helper checks the address, and clears the word if that is no good.
    let _unreadable =
        unsafe { generated::bpf_probe_read_user((&raw mut word).cast(), 8, addr as *const c_void) };
    word
}

/// How many pages of the stack to send to user space: fewer where it falls behind, since it learns rules of the inner frames all
/// the same; none where what room there is must be left to stacks.
#[inline(always)]
fn pages_to_dump() -> usize {
    let (waiting, most) = (STACKS.query(BPF_RB_AVAIL_DATA as u64), config!(dump_bytes));
    if waiting < most / 2 {
        DUMP_BYTES / PAGE
    } else if waiting < most {
        1
    } else {
        0
    }
}

/// Sends the frames so far and the bytes of the stack from there on; returns the number of the stack, 0 if there is no room.
#[inline(always)]
fn dump(walk: *mut Walk, pages: usize) -> u64 {
    // SAFETY: as in `of`.
    let sp = unsafe { (*walk).registers.sp };
    // The rest of the first page, then whole ones.
    let first = PAGE as u64 - (sp & (PAGE as u64 - 1));
    let mut len = 0_u64;
    for page in 0..DUMP_BYTES / PAGE {
        let size = if page == 0 { first } else { PAGE as u64 };
        if page >= pages || len > DUMP_BYTES as u64 {
            break;
        }
        // SAFETY: as in `of`; there is room for a page after the most that has been read.
        let failed = unsafe {
            generated::bpf_probe_read_user(
                (&raw mut (*walk).bytes).cast::<u8>().add(len as usize).cast(),
                size as u32,
                sp.wrapping_add(len) as *const c_void,
            )
        };
        if failed != 0 {
            break;
        }
        len += size;
    }
    let cpu = emit::cpu();
    let Some(sent) = COUNTERS.get_ptr_mut(memtrace_ebpf::counter_index(cpu, Counter::Dumps)) else {
        return 0;
    };
    // SAFETY: the map returned a pointer to a live element, which only this CPU writes.
    let number = unsafe {
        *sent += 1;
        *sent
    };
    let stack = DUMPED | number << 16 | u64::from(cpu & 0xffff);
    // SAFETY: as in `of`.
    unsafe {
        (*walk).stack.stack = stack;
        (*walk).stack.header.kind = EventKind::DUMP;
        (*walk).stack.header.len = (DUMP_HEAD as u64 + len) as u16;
    }
    if output(walk, DUMP_HEAD as u64 + len) { stack } else { 0 }
}

/// Sends the frames, unless that was done before; returns the number of the stack.
#[inline(always)]
fn send(walk: *mut Walk, sum: u64, count: u32) -> u64 {
    // It is no more anyway; the verifier sees no further than this.
    let len = StackEvent::LEN as u64 + 8 * u64::from(count & COUNT_MASK);
    // 0 is no stack.
    let stack = (sum & !DUMPED) | 1;
    let Some(sent) = SENT_STACKS.get_ptr_mut((stack >> 1) as u32 & (names::SENT_STACKS_LEN - 1)) else {
        return 0;
    };
    // SAFETY: the map returned a pointer to a live element. Others may write it meanwhile: the stack is sent again then.
    if unsafe { sent.read_volatile() } == stack {
        return stack;
    }
    // SAFETY: as in `of`.
    unsafe {
        (*walk).stack.stack = stack;
        (*walk).stack.header.kind = EventKind::STACK;
        (*walk).stack.header.len = len as u16;
    }
    if !output(walk, len) {
        return 0;
    }
    // SAFETY: as above.
    unsafe { sent.write_volatile(stack) };
    stack
}

/// Sends the first `len` bytes of what was found, no more than there are; whether there was room.
#[inline(always)]
fn output(walk: *mut Walk, len: u64) -> bool {
    // SAFETY: as in `of`; the length is that of the element at most.
    let bytes = unsafe { core::slice::from_raw_parts(walk.cast::<u8>(), len as usize) };
    STACKS.output::<[u8]>(bytes, emit::NO_WAKEUP).is_ok()
}
