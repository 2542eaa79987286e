//! Makes rules of unwind tables, and unwinds stacks by them.
//!
//! Layer: core. Input: an ELF image, bytes of a stack. Output: [`Rule`]s, frames.
//! Source: the Linux Standard Base, "Exception Frames"; the x86-64 psABI, "Stack Unwind Algorithm".
//! Keeps: a hostile image takes bounded time and memory; what rules cannot express ends the stack, with the reason.
//! Not here: which file is mapped where (`pipeline`), opening it (`live`).
#![forbid(unsafe_code)]

mod table;

use memtrace_ebpf::{FrameWord, Registers, Rule, STACK_FRAMES, StackEnd};

pub use table::{ImageError, UnwindTable};

/// Bytes of a stack from an address on.
#[derive(Clone, Copy, Debug)]
pub struct StackBytes<'a> {
    /// Where they begin.
    pub start: u64,
    /// The bytes.
    pub bytes: &'a [u8],
}

impl StackBytes<'_> {
    /// The word at `addr`; the error says whether it lies beyond the bytes.
    fn word(self, addr: u64) -> Result<u64, StackEnd> {
        let offset = addr.checked_sub(self.start).ok_or(StackEnd::ASTRAY)?;
        let offset = usize::try_from(offset).map_err(|_| StackEnd::ASTRAY)?;
        let word = self.bytes.get(offset..).and_then(|rest| rest.first_chunk());
        word.map(|word| u64::from_ne_bytes(*word)).ok_or(StackEnd::BEYOND_DUMP)
    }
}

/// Unwinds from the frame of `registers`, which is the last one of `frames`: adds those that follow, and returns why there are no
/// more. `rule` gives the rule of a frame, from its registers and the word in the stack that would follow by the frame pointer.
pub fn unwind(
    frames: &mut Vec<u64>,
    registers: Registers,
    stack: StackBytes<'_>,
    mut rule: impl FnMut(&Registers, Option<u64>) -> Rule,
) -> StackEnd {
    let mut at = registers;
    loop {
        let by_frame_pointer = at.bp.checked_add(8).and_then(|addr| stack.word(addr).ok());
        let rule = rule(&at, by_frame_pointer);
        let bits = match step(&mut at, rule, stack) {
            Ok(bits) => bits,
            // What a signal interrupted may have its stack anywhere.
            Err(StackEnd::ASTRAY) if at.sp < stack.start => return StackEnd::BEYOND_DUMP,
            Err(end) => return end,
        };
        if frames.len() == STACK_FRAMES {
            return StackEnd::TOO_DEEP;
        }
        frames.push(at.ip | bits);
    }
}

/// Goes on from a frame to the next one, as the programs do; returns the bits of its word.
fn step(at: &mut Registers, rule: Rule, stack: StackBytes<'_>) -> Result<u64, StackEnd> {
    let Registers { sp, bp, .. } = *at;
    if let Some(end) = rule.end() {
        return Err(end);
    }
    let mut cfa = rule.cfa_place(sp, bp);
    if rule.is_behind() {
        cfa = stack.word(cfa)?;
    }
    let ip = stack.word(rule.ip_place(sp, cfa))? & FrameWord::ADDRESS;
    if rule.leads_nowhere(sp, cfa, ip) {
        return Err(rule.why_nowhere(ip));
    }
    let bp = if rule.is_saved() { stack.word(rule.bp_place(sp, bp, cfa))? } else { bp };
    *at = Registers { ip, sp: cfa, bp, is_return: rule.is_return() };
    Ok(rule.frame_bits())
}

#[cfg(test)]
mod tests;
