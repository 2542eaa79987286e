//! User stacks: the rules by which programs walk them, and what they write into the ring `STACKS`.
//!
//! A rule says how one frame leads to the next, for one exact program counter of one address space. User space makes rules of
//! the unwind tables of files, when a program met a counter that had none and sent what there is of the stack; so a walk by rules
//! is what an unwinder would do. Addresses of user space have 57 bits at most; the bits above say more of a frame.

use super::event::EventHeader;

/// Frames of one stack at most.
pub const STACK_FRAMES: usize = 96;

/// Bytes of a stack that are sent at most.
pub const DUMP_BYTES: usize = 16 << 10;

open_enum! {
    /// Why a stack has no further frames.
    pub struct StackEnd(u32) {
        /// A program counter had no rule, and there was no room to send the stack to user space.
        NO_RULE = 0,
        /// The thread began there.
        ROOT = 1,
        /// There are more frames than [`STACK_FRAMES`].
        TOO_DEEP = 2,
        /// The stack cannot be read there.
        UNREADABLE = 3,
        /// The file has no unwind information for this code.
        NO_UNWIND_INFORMATION = 4,
        /// The unwind information is of a kind that rules cannot express.
        UNSUPPORTED = 5,
        /// The stack goes on beyond the [`DUMP_BYTES`] that were sent to user space.
        BEYOND_DUMP = 6,
        /// No code is mapped there.
        NO_CODE = 7,
        /// The code has no unwind information, and the frame pointer points at no frame.
        NO_FRAME_POINTER = 8,
        /// The next frame would not lie above this one.
        ASTRAY = 9,
        /// The file of the code could not be read.
        NO_FILE = 10,
    }
}

record! {
    /// The stack of a thread in user mode, innermost frame first: [`Self::count`] words follow, each an address and bits of
    /// [`FrameWord`]. Sent once for each stack of an address space.
    pub struct StackEvent = 48 {
        /// Common fields.
        pub header: EventHeader,
        /// Address space of the task.
        pub space: u64,
        /// The stack, as [`FaultEvent::stack`](crate::FaultEvent::stack) and other records name it.
        pub stack: u64,
        /// Why it has no further frames.
        pub end: StackEnd,
        /// Frames.
        pub count: u32,
    }
}

record! {
    /// The registers by which a frame leads to the next one.
    ///
    /// A record of the kind [`DUMP`](crate::EventKind::DUMP) is a [`StackEvent`] of which user space has to find out the rest:
    /// [`STACK_FRAMES`] words follow, however many count, then the registers of the last frame, then bytes of the stack from
    /// [`Self::sp`] on.
    pub struct Registers = 32 {
        /// Program counter.
        pub ip: u64,
        /// Stack pointer.
        pub sp: u64,
        /// Frame pointer.
        pub bp: u64,
        /// 1 if [`Self::ip`] is where a call returns to, 0 if it is being executed.
        pub is_return: u64,
    }
}

impl Registers {
    /// None are known: an address of 0 has no code.
    pub const NONE: Self = Self { ip: 0, sp: 0, bp: 0, is_return: 0 };
}

/// Bits of a frame beside its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameWord;

impl FrameWord {
    /// The frame was found by the frame pointer, since its callee has no unwind information.
    pub const BY_FRAME_POINTER: u64 = 1 << 63;
    /// The address is where a call returns to, and not what is being executed.
    pub const IS_RETURN: u64 = 1 << 62;
    /// The address.
    pub const ADDRESS: u64 = (1 << 57) - 1;
}

/// Bit of [`StackEvent::stack`] that distinguishes a stack that was sent to user space, which has a number, from one known by the
/// hash of its frames.
pub const DUMPED: u64 = 1 << 63;

/// How one frame leads to the next: to its canonical frame address (CFA), which is the stack pointer of the next frame, below which
/// the return address stands; and to the frame pointer of the next frame.
///
/// The low 16 bits are those of the constants below; then come 16 bits for the place of the frame pointer, and 32 for that of the
/// CFA, or if no frame follows the [`StackEnd`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule(pub u64);

/// Where the registers of what a signal interrupted stand, in bytes from the stack pointer of the frame that returns from it
/// (`struct rt_sigframe` of `arch/x86/include/asm/sigframe.h`).
const SIGNAL_BP: i16 = 120;
const SIGNAL_SP: i32 = 160;
const SIGNAL_IP: u64 = 168;

impl Rule {
    /// No rule.
    pub const NONE: Self = Self(0);
    /// There is a next frame.
    const GOES_ON: u64 = 1 << 0;
    /// The place of the CFA is counted from the frame pointer, else from the stack pointer.
    const FROM_BP: u64 = 1 << 2;
    /// The CFA stands at its place, else is the place.
    const BEHIND: u64 = 1 << 3;
    /// The frame returns from a signal: registers stand in its `ucontext`.
    const SIGNAL_BIT: u64 = 1 << 4;
    /// By the convention of frame pointers alone.
    const CHAIN_BIT: u64 = 1 << 5;
    /// The frame pointer of the next frame is saved, so many bytes from the CFA; else it is that of this one.
    const SAVED: u64 = 1 << 8;
    /// The same, counted from the frame pointer.
    const SAVED_FROM_BP: u64 = 1 << 9;
    /// The same, counted from the stack pointer.
    const SAVED_FROM_SP: u64 = 1 << 10;

    /// The frame returns from a signal.
    pub const SIGNAL: Self = Self(
        Self::GOES_ON
            | Self::SIGNAL_BIT
            | Self::BEHIND
            | Self::SAVED
            | Self::SAVED_FROM_SP
            | (SIGNAL_BP as u64) << 16
            | (SIGNAL_SP as u64) << 32,
    );
    /// What `push %rbp; mov %rsp,%rbp` leaves.
    pub const CHAIN: Self = {
        let saved = Some(Saved { offset: -16, is_from_bp: false });
        Self(Self::new(Base::FramePointer, 16, saved).0 | Self::CHAIN_BIT)
    };

    /// The place of the CFA is `offset` bytes from `base`; the frame pointer is unchanged, or saved.
    #[must_use]
    pub const fn new(base: Base, offset: i32, saved: Option<Saved>) -> Self {
        let base = match base {
            Base::StackPointer => 0,
            Base::FramePointer => Self::FROM_BP,
            Base::BehindFramePointer => Self::FROM_BP | Self::BEHIND,
        };
        let (saved, place) = match saved {
            None => (0, 0),
            Some(Saved { offset, is_from_bp: false }) => (Self::SAVED, offset),
            Some(Saved { offset, is_from_bp: true }) => (Self::SAVED | Self::SAVED_FROM_BP, offset),
        };
        Self(
            Self::GOES_ON
                | base
                | saved
                | (place.cast_unsigned() as u64) << 16
                | (offset.cast_unsigned() as u64) << 32,
        )
    }

    /// No frame follows, for this reason.
    #[must_use]
    pub const fn ending(end: StackEnd) -> Self {
        Self((end.0 as u64) << 32)
    }

    /// Why no frame follows; `None` if one does.
    #[must_use]
    #[inline]
    pub const fn end(self) -> Option<StackEnd> {
        if self.0 & Self::GOES_ON == 0 { Some(StackEnd(self.high().cast_unsigned())) } else { None }
    }

    /// The upper half.
    #[inline]
    const fn high(self) -> i32 {
        let [_, _, _, _, high @ ..] = self.0.to_le_bytes();
        i32::from_le_bytes(high)
    }

    /// The place of the CFA, for these registers.
    #[must_use]
    #[inline]
    pub const fn cfa_place(self, sp: u64, bp: u64) -> u64 {
        select(self.0 & Self::FROM_BP, bp, sp).wrapping_add_signed(self.high() as i64)
    }

    /// Whether the CFA stands at its place.
    #[must_use]
    #[inline]
    pub const fn is_behind(self) -> bool {
        self.0 & Self::BEHIND != 0
    }

    /// Whether the next frame, with this CFA and program counter, cannot be one: it does not lie above this one, though it does not
    /// belong to another stack, as what a signal interrupted may; or its program counter could not be read. By the frame pointer
    /// it lies above what that points at.
    #[must_use]
    #[inline]
    pub const fn leads_nowhere(self, sp: u64, cfa: u64, ip: u64) -> bool {
        // Addresses of user space have no sign; what has one is too low.
        let least = select(self.0 & Self::CHAIN_BIT, sp.wrapping_add(16), sp.wrapping_add(1));
        let least = select(self.0 & Self::SIGNAL_BIT, 0, least);
        (cfa.wrapping_sub(least) | ip.wrapping_sub(1)) >> 63 != 0
    }

    /// Why, if so.
    #[must_use]
    #[inline]
    pub const fn why_nowhere(self, ip: u64) -> StackEnd {
        if ip == 0 {
            StackEnd::UNREADABLE
        } else if self.0 & Self::CHAIN_BIT != 0 {
            StackEnd::NO_FRAME_POINTER
        } else {
            StackEnd::ASTRAY
        }
    }

    /// Where the program counter of the next frame stands.
    #[must_use]
    #[inline]
    pub const fn ip_place(self, sp: u64, cfa: u64) -> u64 {
        select(self.0 & Self::SIGNAL_BIT, sp.wrapping_add(SIGNAL_IP), cfa.wrapping_sub(8))
    }

    /// Whether the frame pointer of the next frame is saved.
    #[must_use]
    #[inline]
    pub const fn is_saved(self) -> bool {
        self.0 & Self::SAVED != 0
    }

    /// Where it is saved.
    #[must_use]
    #[inline]
    pub const fn bp_place(self, sp: u64, bp: u64, cfa: u64) -> u64 {
        let base = select(self.0 & Self::SAVED_FROM_BP, bp, select(self.0 & Self::SAVED_FROM_SP, sp, cfa));
        let [_, _, low, high, ..] = self.0.to_le_bytes();
        base.wrapping_add_signed(i16::from_le_bytes([low, high]) as i64)
    }

    /// 1 if the program counter of the next frame is where a call returns to, 0 if it was interrupted.
    #[must_use]
    #[inline]
    pub const fn is_return(self) -> u64 {
        (self.0 & Self::SIGNAL_BIT == 0) as u64
    }

    /// Bits of the word of the next frame.
    #[must_use]
    #[inline]
    pub const fn frame_bits(self) -> u64 {
        self.is_return() << FrameWord::IS_RETURN.trailing_zeros()
            | (self.0 & Self::CHAIN_BIT)
                << (FrameWord::BY_FRAME_POINTER.trailing_zeros() - Self::CHAIN_BIT.trailing_zeros())
    }
}

/// `one` if any bit of `bits` is set, else `other`.
#[inline]
const fn select(bits: u64, one: u64, other: u64) -> u64 {
    if bits != 0 { one } else { other }
}

/// From where the place of a CFA is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// The stack pointer.
    StackPointer,
    /// The frame pointer.
    FramePointer,
    /// The frame pointer, and the CFA stands there.
    BehindFramePointer,
}

/// Where a frame saves the frame pointer of the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Bytes from the CFA.
    pub offset: i16,
    /// Bytes from the frame pointer instead.
    pub is_from_bp: bool,
}

/// Rules that a [`RuleBucket`] has room for.
pub const BUCKET_RULES: usize = 4;

record! {
    /// A place in the array `RULES`, a cache line: a rule is in the one that the low bits of its key name. Beside each rule stands
    /// its key, xor the rule: while user space writes one of the words, the other does not fit.
    pub struct RuleBucket = 64 {
        /// Key, by [`rule_key`], xor [`Self::rule_0`].
        pub check_0: u64,
        /// See [`Self::check_0`].
        pub check_1: u64,
        /// See [`Self::check_0`].
        pub check_2: u64,
        /// See [`Self::check_0`].
        pub check_3: u64,
        /// A [`Rule`].
        pub rule_0: u64,
        /// See [`Self::rule_0`].
        pub rule_1: u64,
        /// See [`Self::rule_0`].
        pub rule_2: u64,
        /// See [`Self::rule_0`].
        pub rule_3: u64,
    }
}

impl RuleBucket {
    /// The rule of `key`; none if it is not here.
    #[must_use]
    #[inline]
    pub const fn rule(&self, key: u64) -> Rule {
        Rule(
            select(self.check_0 ^ self.rule_0 ^ key, 0, self.rule_0)
                | select(self.check_1 ^ self.rule_1 ^ key, 0, self.rule_1)
                | select(self.check_2 ^ self.rule_2 ^ key, 0, self.rule_2)
                | select(self.check_3 ^ self.rule_3 ^ key, 0, self.rule_3),
        )
    }
}

/// `hash`, to which `word` is added.
#[must_use]
#[inline]
pub const fn hash(hash: u64, word: u64) -> u64 {
    let mixed = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}

/// The key of the rule for a program counter of an address space.
#[must_use]
#[inline]
pub const fn rule_key(space: u64, ip: u64, is_return: u64) -> u64 {
    hash(hash(space, is_return), ip) | 1 << 63
}

#[cfg(test)]
mod tests {
    use super::*;

    const SP: u64 = 0x7ffc_0000_1000;
    const BP: u64 = 0x7ffc_0000_2000;

    #[test]
    fn frames_are_found_by_stack_pointer() {
        // After `push %rbp`: the CFA is rsp + 16, and rbp is saved just below the return address.
        let rule = Rule::new(Base::StackPointer, 16, Some(Saved { offset: -16, is_from_bp: false }));
        let cfa = rule.cfa_place(SP, BP);

        assert_eq!((rule.end(), rule.is_behind()), (None, false));
        assert_eq!(cfa, SP + 16);
        assert_eq!((rule.ip_place(SP, cfa), rule.is_saved(), rule.bp_place(SP, BP, cfa)), (SP + 8, true, SP));
        assert_eq!((rule.is_return(), rule.frame_bits()), (1, FrameWord::IS_RETURN));
        assert!(!Rule::new(Base::StackPointer, 0x1_0000, None).is_saved());
        assert_eq!(Rule::new(Base::StackPointer, i32::MAX, None).cfa_place(SP, BP), SP + 0x7fff_ffff);
    }

    #[test]
    fn frames_are_found_by_frame_pointer() {
        let cfa = Rule::CHAIN.cfa_place(SP, BP);
        assert_eq!(
            (cfa, Rule::CHAIN.ip_place(SP, cfa), Rule::CHAIN.bp_place(SP, BP, cfa)),
            (BP + 16, BP + 8, BP)
        );
        assert_eq!(Rule::CHAIN.frame_bits(), FrameWord::IS_RETURN | FrameWord::BY_FRAME_POINTER);

        // What gcc makes where it aligns the stack: the CFA was saved 8 bytes below rbp, and rbp at rbp.
        let aligned = Rule::new(Base::BehindFramePointer, -8, Some(Saved { offset: 0, is_from_bp: true }));
        assert_eq!((aligned.is_behind(), aligned.cfa_place(SP, BP)), (true, BP - 8));
        assert_eq!(aligned.bp_place(SP, BP, 0x7fff_0000_0000), BP);
    }

    #[test]
    fn frames_below_a_signal_are_found_by_its_context() {
        // uc_mcontext begins 40 bytes behind the return address that was taken, 48 behind the frame: rbp, rsp and rip are the
        // 11th, 16th and 17th words of it.
        let rule = Rule::SIGNAL;
        assert!(rule.is_behind() && rule.is_saved());
        assert_eq!(rule.cfa_place(SP, BP), SP + 40 + 8 * 15);
        assert_eq!(rule.ip_place(SP, 0), SP + 40 + 8 * 16);
        assert_eq!(rule.bp_place(SP, BP, 0), SP + 40 + 8 * 10);
        assert_eq!((rule.is_return(), rule.frame_bits()), (0, 0));
    }

    #[test]
    fn ends_have_their_reason() {
        assert_eq!(Rule::ending(StackEnd::ASTRAY).end(), Some(StackEnd::ASTRAY));
        assert_eq!(Rule::NONE.end(), Some(StackEnd::NO_RULE));
    }

    #[test]
    fn next_frames_lie_above() {
        let rule = Rule::new(Base::StackPointer, 8, None);
        assert!(!rule.leads_nowhere(SP, SP + 8, 0x40_1000));
        assert!(
            rule.leads_nowhere(SP, SP, 0x40_1000)
                && rule.leads_nowhere(SP, 0, 1)
                && rule.leads_nowhere(SP, u64::MAX, 1)
        );
        assert_eq!(rule.why_nowhere(0x40_1000), StackEnd::ASTRAY);
        assert!(rule.leads_nowhere(SP, SP + 8, 0));
        assert_eq!(rule.why_nowhere(0), StackEnd::UNREADABLE);
        // The frame pointer of a frame is not below its stack pointer.
        assert!(!Rule::CHAIN.leads_nowhere(SP, SP + 16, 1));
        assert!(Rule::CHAIN.leads_nowhere(SP, SP + 8, 1));
        assert_eq!(Rule::CHAIN.why_nowhere(1), StackEnd::NO_FRAME_POINTER);
        assert!(!Rule::SIGNAL.leads_nowhere(SP, 0x1000, 1));
    }

    #[test]
    fn rules_are_found_by_their_keys_unless_half_written() {
        let key = rule_key(1, 0x40_1000, 1);
        let bucket =
            RuleBucket { check_2: key ^ Rule::CHAIN.0, rule_2: Rule::CHAIN.0, ..RuleBucket::default() };
        assert_eq!(bucket.rule(key), Rule::CHAIN);
        assert_eq!(bucket.rule(rule_key(1, 0x40_1000, 0)), Rule::NONE);
        assert_eq!(RuleBucket { rule_2: Rule::SIGNAL.0, ..bucket }.rule(key), Rule::NONE);
        assert_eq!(RuleBucket { check_2: 0, ..bucket }.rule(key), Rule::NONE);
    }

    #[test]
    fn keys_differ_by_all_that_they_are_made_of() {
        let keys =
            [rule_key(1, 2, 0), rule_key(1, 2, 1), rule_key(2, 2, 0), rule_key(1, 3, 0), rule_key(2, 1, 0)];
        for (index, key) in keys.iter().enumerate() {
            assert_ne!(*key, 0);
            assert!(!keys[..index].contains(key), "{keys:x?}");
        }
    }
}
