//! Finds out stacks that the programs could not walk, and makes the rules that they lacked.
//!
//! Layer: shell. Input: the ring `STACKS`, and what the rings of changes brought. Output: records of stacks; rules.
//! Source: `memtrace_ebpf`: what a dump is, and how rules are found.
//! Keeps: all that came of changes before a dump is known when it is unwound; what cannot be found out is said in the record.
//! Not here: what unwind tables mean (`unwind`), when rings are drained (`drain`).

mod code;
mod images;
mod perf_map;
pub(super) mod rules;

use std::collections::HashMap;

use aya::maps::{MapData, RingBuf};
use memtrace_ebpf::{EventHeader, EventKind, Registers, Rule, STACK_FRAMES, StackEnd, StackEvent, rule_key};

use self::{
    code::Place,
    images::{Image, Images, KnownImage},
};
pub use self::{code::SeenCode, rules::RuleTable};
use crate::{
    decode::Frame,
    event::{Device, HostFacts, SpaceId},
    pipeline::{Arrived, Code},
    probe,
    region::CODE_REMEMBERED,
    sys::clock,
    units::{Nanos, Timestamp, VirtAddr},
    unwind::{self, StackBytes, UnwindTable},
};

/// Bytes of the ring; three quarters of them may be dumps, 1,400 that are as large as can be.
pub const RING_BYTES: u32 = 32 << 20;

/// Time for which an address space is not read again to find code that no event has reported.
const READ_AGAIN: Nanos = Nanos::new(100_000_000);

/// Takes stacks out of their ring.
pub struct Stacks {
    ring: RingBuf<MapData>,
    is_learning: bool,
    unwinder: Unwinder,
}

impl Stacks {
    /// Takes them out of `ring`, and puts rules into `table`; `follows_maps` if events report every change of an address space,
    /// `wants_names` if code is to have names, and `first` reported the tasks that there are.
    #[must_use]
    pub fn new(
        ring: RingBuf<MapData>,
        table: RuleTable,
        host: &HostFacts,
        (follows_maps, wants_names): (bool, bool),
        first: &[Frame],
    ) -> Self {
        let mut arrived = Arrived::new(host, follows_maps);
        arrived.take(first);
        // Their children have the same code, and may be gone before it is needed.
        for (space, process) in arrived.processes() {
            if let Some(maps) = probe::maps_of(process) {
                arrived.read(clock::boottime(), process, space, &maps);
            }
        }
        let unwinder = Unwinder {
            arrived,
            forgotten: Timestamp::default(),
            images: Images::default(),
            seen: wants_names.then(SeenCode::default),
            table,
            spaces: HashMap::new(),
            out: Vec::new(),
        };
        Self { ring, is_learning: false, unwinder }
    }

    /// Whether a stack lacked a rule at the last drain.
    #[must_use]
    pub const fn is_learning(&self) -> bool {
        self.is_learning
    }

    /// Takes note of fault records.
    pub(super) fn see_faults(&mut self, records: &[u8]) {
        if let Some(seen) = &mut self.unwinder.seen {
            seen.add_kernel(records);
        }
    }

    /// The code that stacks led through, and kernel code that faulted, if it is to have names.
    pub(super) fn into_code(self) -> Option<SeenCode> {
        self.unwinder.seen
    }

    /// Takes what is in the ring. To be called before the changes are drained that are handed to [`Self::unwind`].
    pub(super) fn drain(&mut self) -> Vec<u8> {
        let mut records = Vec::new();
        while records.len() < RING_BYTES as usize
            && let Some(record) = self.ring.next()
        {
            records.extend_from_slice(&record);
        }
        records
    }

    /// The records of stacks that come of what was drained, `changes` included.
    pub(super) fn unwind(&mut self, drained: &[u8], changes: &[Frame]) -> Option<Frame> {
        let unwinder = &mut self.unwinder;
        unwinder.arrived.take(changes);
        unwinder.take_stale();
        if unwinder.seen.as_mut().is_some_and(|seen| seen.read_maps(clock::boottime())) {
            // Stacks through it are others from now on.
            unwinder.table.forget_sent();
        }
        let mut rest = drained;
        self.is_learning = false;
        while let Some(header) = EventHeader::from_bytes(rest)
            && usize::from(header.len) >= EventHeader::LEN
            && let Some((record, after)) = rest.split_at_checked(header.len.into())
        {
            if header.kind == EventKind::DUMP {
                self.is_learning = true;
                unwinder.unwind(record);
            } else {
                unwinder.out.extend_from_slice(record);
            }
            rest = after;
        }
        unwinder.forget();
        let out = std::mem::take(&mut unwinder.out);
        (!out.is_empty()).then_some(Frame::Control(out))
    }
}

/// What is known of the code of an address space.
#[derive(Debug, Default)]
struct Space {
    /// By program counter, and whether a call returns there; with where that stands in which file.
    rules: HashMap<(u64, u64), (Rule, Option<FilePlace>)>,
    /// How often code had gone when these were known to be right.
    code_changes: u64,
    /// When its maps were read last.
    read: Option<Timestamp>,
    /// When a rule of it was last needed.
    used: Timestamp,
}

/// A file, if it is known which, and an offset in it.
type FilePlace = (Option<(Device, u64)>, u64);

/// An address in the instruction that is executed, or that calls.
const fn instruction(ip: u64, is_return: u64) -> VirtAddr {
    VirtAddr::from_raw(ip.wrapping_sub(is_return))
}

/// Where `code` stands in its file.
fn file_place(code: &Code) -> Option<FilePlace> {
    code.file_offset.map(|offset| (code.file, offset))
}

/// Unwinds what the programs could not walk.
#[derive(Debug)]
struct Unwinder {
    arrived: Arrived,
    /// What ended before has been forgotten.
    forgotten: Timestamp,
    images: Images,
    /// All code that has been of interest, if it is to have names.
    seen: Option<SeenCode>,
    table: RuleTable,
    spaces: HashMap<SpaceId, Space>,
    /// Records that have been made.
    out: Vec<u8>,
}

impl Unwinder {
    /// Finds out the rest of the stack in `record`.
    fn unwind(&mut self, record: &[u8]) {
        const FRAMES_END: usize = StackEvent::LEN + 8 * STACK_FRAMES;
        let parsed =
            StackEvent::from_bytes(record).zip(record.get(FRAMES_END..)).and_then(|(event, rest)| {
                Some((event, Registers::from_bytes(rest)?, rest.get(Registers::LEN..)?))
            });
        let Some((event, registers, bytes)) = parsed else { return };
        let (words, _) = record[StackEvent::LEN..FRAMES_END].as_chunks::<8>();
        let mut frames: Vec<u64> =
            words.iter().take(event.count as usize).map(|word| u64::from_ne_bytes(*word)).collect();
        let stack = StackBytes { start: registers.sp, bytes };
        let end = unwind::unwind(&mut frames, registers, stack, |at, above| self.rule(&event, at, above));
        let header = EventHeader {
            kind: EventKind::STACK,
            len: u16::try_from(StackEvent::LEN + 8 * frames.len()).unwrap_or(u16::MAX),
            ..event.header
        };
        let count = u32::try_from(frames.len()).unwrap_or(u32::MAX);
        self.out.extend_from_slice(&StackEvent { header, end, count, ..event }.to_bytes());
        self.out.extend(frames.iter().flat_map(|frame| frame.to_ne_bytes()));
    }

    /// The rule of the frame of `at` in the stack of `event`, where the frame pointer would lead to `above`.
    fn rule(&mut self, event: &StackEvent, at: &Registers, above: Option<u64>) -> Rule {
        let space = SpaceId(event.space);
        let key = rule_key(event.space, at.ip, at.is_return);
        let known = self.spaces.entry(space).or_default();
        known.used = Timestamp::from_nanos(event.header.time_ns);
        if let Some((rule, _)) = known.rules.get(&(at.ip, at.is_return)).copied() {
            // It may have been displaced, or has come since.
            self.table.insert(key, rule);
            return rule;
        }
        let Some(code) = self.code(event, instruction(at.ip, at.is_return)) else {
            return Rule::ending(StackEnd::NO_CODE);
        };
        let rule = self.find(event, &code, at, above);
        // The next dump may hold more; and of code that has gone meanwhile nobody would take the rule away.
        let now = self.arrived.code(space, instruction(at.ip, at.is_return), clock::boottime());
        let is_there = now.is_some_and(|now| file_place(&now) == file_place(&code));
        if is_there && rule.end() != Some(StackEnd::BEYOND_DUMP) {
            let known = self.spaces.entry(space).or_default();
            known.rules.insert((at.ip, at.is_return), (rule, file_place(&code)));
            self.table.insert(key, rule);
        }
        rule
    }

    fn find(&mut self, event: &StackEvent, code: &Code, at: &Registers, above: Option<u64>) -> Rule {
        let space = SpaceId(event.space);
        let process = self.arrived.process_of(space);
        let place = Place { space, process, addr: instruction(at.ip, at.is_return), code };
        let KnownImage { table, file } = match self.images.of(code, process) {
            // What a just-in-time compiler makes has no table.
            Image::None => {
                if let Some(seen) = &mut self.seen {
                    seen.add_memory(&place);
                }
                return self.chain(event, at, above, None);
            }
            Image::Unreadable => return Rule::ending(StackEnd::NO_FILE),
            Image::Known { known, is_new } => {
                if is_new && let Some(record) = images::build_id(&event.header, code, &known.table) {
                    self.out.extend_from_slice(&record.to_bytes());
                }
                known
            }
        };
        let in_region = place.addr.as_raw().wrapping_sub(code.range.start().as_raw());
        let offset = code.file_offset.unwrap_or(in_region);
        if let Some(seen) = &mut self.seen {
            seen.add(&place, &table, file.as_ref(), table.in_function(offset));
        }
        match table.rule(offset, at.ip) {
            Some(rule) => rule,
            None => self.chain(event, at, above, Some(&table)),
        }
    }

    /// The rule of code that is in no table: of the file of `table`, or of none.
    fn chain(
        &mut self,
        event: &StackEvent,
        at: &Registers,
        above: Option<u64>,
        table: Option<&UnwindTable>,
    ) -> Rule {
        let is_entry = at.bp == 0 && at.is_return != 0;
        if is_entry && table.is_some_and(|table| !table.is_empty()) {
            // The kernel entered the program there: the dynamic linker's first code has no entry in its table.
            return Rule::ending(StackEnd::ROOT);
        }
        if at.bp >= at.sp {
            let Some(above) = above else { return Rule::ending(StackEnd::BEYOND_DUMP) };
            if self.code(event, VirtAddr::from_raw(above.wrapping_sub(1))).is_some() {
                return Rule::CHAIN;
            }
        }
        let is_file = table.is_some();
        Rule::ending(if is_file { StackEnd::NO_UNWIND_INFORMATION } else { StackEnd::NO_FRAME_POINTER })
    }

    /// The code at `addr` in the address space of `event`.
    fn code(&mut self, event: &StackEvent, addr: VirtAddr) -> Option<Code> {
        let space = SpaceId(event.space);
        let time = Timestamp::from_nanos(event.header.time_ns);
        if let Some(code) = self.arrived.code(space, addr, time) {
            return Some(code);
        }
        // Where the process was there before, and what the kernel maps without an event.
        let now = clock::boottime();
        let known = self.spaces.entry(space).or_default();
        if known.read.is_some_and(|read| now < read.after(READ_AGAIN)) {
            return None;
        }
        known.read = Some(now);
        let process = self.arrived.process_of(space)?;
        let maps = probe::maps_of(process)?;
        self.arrived.read(clock::boottime(), process, space, &maps);
        self.arrived.code(space, addr, time)
    }

    /// Takes away the rules of code that is not there any more.
    fn take_stale(&mut self) {
        let now = clock::boottime();
        let mut is_any_stale = false;
        for (space, known) in &mut self.spaces {
            let changes = self.arrived.code_changes(*space);
            if std::mem::replace(&mut known.code_changes, changes) == changes {
                continue;
            }
            known.rules.retain(|(ip, is_return), (_, place)| {
                let code = self.arrived.code(*space, instruction(*ip, *is_return), now);
                let is_there = code.is_some_and(|code| file_place(&code) == *place);
                if !is_there {
                    self.table.remove(rule_key(space.0, *ip, *is_return));
                    is_any_stale = true;
                }
                is_there
            });
        }
        if is_any_stale {
            // What code is gone may have led to, means something else now.
            self.table.forget_sent();
        }
    }

    /// Forgets what is not needed any more.
    fn forget(&mut self) {
        let horizon = clock::boottime().before(CODE_REMEMBERED);
        if horizon < self.forgotten.after(READ_AGAIN) {
            return;
        }
        self.forgotten = horizon;
        self.arrived.forget_before(horizon);
        let arrived = &self.arrived;
        self.spaces.retain(|space, known| known.used >= horizon || arrived.process_of(*space).is_some());
    }
}
