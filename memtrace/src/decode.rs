//! Turns what the kernel wrote into the words of [`event`](crate::event).
//!
//! Layer: core. Input: [`Frame`]s: ring contents byte for byte, and what the shell observed. Output: [`Record`]s.
//! Source: `memtrace_ebpf`, whose records grow only at their ends.
//! Keeps: what cannot be decoded is a loss, never silence.
//! Not here: the file format (`record`).
#![forbid(unsafe_code)]

mod calls;
mod sideband;
mod stacks;
mod sums;

use memtrace_ebpf::{
    CallEvent, CommEvent, EndEvent, EventHeader, EventKind, ExecEvent, ExitEvent, FaultEvent, FaultFlags,
    ForkEvent, JoinEvent, LeaveEvent, LoadEvent, NameEvent, SectionEvent, SpaceEvent, StackedCallEvent,
    TaskAccount, TrimEvent, UncountedEvent,
};

use crate::{
    event::{
        Access, Account, Comm, Cpu, Fault, FaultCounts, FaultKind, HeatReading, Landmarks, Loss, LossCause,
        MapAction, MapCall, MapEvent, Mode, Observation, ReclaimReading, Record, Seen, SpaceId, StackId,
        TaskAction, TaskEvent, Tgid, Tid, Uncounted, UncountedCause, WaitStatus,
    },
    units::{Nanos, PageCount, Timestamp, VirtAddr},
};

pub use sums::{FaultSums, kernel_code};

/// What the shell hands over and a recording stores, in arrival order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Records of a ring of faults, [`FaultEvent::LEN`] bytes each.
    Faults(Vec<u8>),
    /// Records of the ring `CONTROL`, each led by an [`EventHeader`].
    Control(Vec<u8>),
    /// Records of perf, each led by a `perf_event_header`.
    SideBand(Vec<u8>),
    /// The heat counters were read.
    Heat(HeatReading),
    /// The kernel's counters of reclaim were read.
    Reclaim(ReclaimReading),
    /// A scan of a traced process.
    Observation(Observation),
    /// Records are missing here.
    Loss(Loss),
    /// Time passed.
    Tick(Timestamp),
}

impl Frame {
    /// Bytes that the frame takes in memory, but for names of files.
    #[must_use]
    pub fn size(&self) -> usize {
        let more = match self {
            Self::Faults(bytes) | Self::Control(bytes) | Self::SideBand(bytes) => bytes.len(),
            Self::Heat(reading) => size_of_val(&reading.cells[..]),
            Self::Observation(Observation { seen: Seen::Maps(maps), .. }) => size_of_val(&maps.vmas[..]),
            Self::Observation(Observation { seen: Seen::Pages(scan), .. }) => size_of_val(&scan.runs[..]),
            Self::Observation(_) | Self::Reclaim(_) | Self::Loss(_) | Self::Tick(_) => 0,
        };
        size_of::<Self>() + more
    }

    /// The records in the frame, in order.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let none: &[u8] = &[];
        let (faults, control, side_band, other) = match self {
            Self::Faults(bytes) => (&bytes[..], none, none, None),
            Self::Control(bytes) => (none, &bytes[..], none, None),
            Self::SideBand(bytes) => (none, none, &bytes[..], None),
            Self::Heat(reading) => (none, none, none, Some(Record::Heat(reading.clone()))),
            Self::Reclaim(reading) => (none, none, none, Some(Record::Reclaim(*reading))),
            Self::Observation(observation) => {
                (none, none, none, Some(Record::Observation(observation.clone())))
            }
            Self::Loss(loss) => (none, none, none, Some(Record::Loss(*loss))),
            Self::Tick(time) => (none, none, none, Some(Record::Tick(*time))),
        };
        let control = Control { rest: control, last: Timestamp::default(), second: None };
        let faults = faults.chunks(FaultEvent::LEN).map(fault);
        faults.chain(control).chain(sideband::records(side_band)).chain(other)
    }
}

/// One record of a ring of faults.
fn fault(bytes: &[u8]) -> Record {
    let Some(raw) = FaultEvent::from_bytes(bytes) else {
        return undecodable(Timestamp::default());
    };
    let FaultEvent { time_ns, addr, ip, tid, cpu, flags, kind, latency_low: _, latency_high: _, stack } = raw;
    let time = Timestamp::from_nanos(time_ns);
    let Some(kind) = fault_kind(kind) else {
        return undecodable(time);
    };
    let has = |flag| flags & flag != 0;
    let access_known = has(FaultFlags::ACCESS_KNOWN);
    let access = match (has(FaultFlags::EXEC), has(FaultFlags::WRITE)) {
        (true, _) => Access::Exec,
        (false, true) => Access::Write,
        (false, false) => Access::Read,
    };
    Record::Fault(Fault {
        time,
        tid: Tid(tid),
        cpu: Cpu(cpu.into()),
        addr: VirtAddr::from_raw(addr),
        ip: VirtAddr::from_raw(ip),
        access: access_known.then_some(access),
        protection: access_known.then_some(has(FaultFlags::PROTECTION)),
        mode: if has(FaultFlags::USER) { Mode::User } else { Mode::Kernel },
        kind,
        latency: raw.latency_ns().map(Nanos::new),
        syscall: raw.syscall(),
        stack: StackId::from_raw(stack),
    })
}

fn fault_kind(kind: memtrace_ebpf::FaultKind) -> Option<FaultKind> {
    match kind {
        memtrace_ebpf::FaultKind::MINOR => Some(FaultKind::Minor),
        memtrace_ebpf::FaultKind::MAJOR => Some(FaultKind::Major),
        memtrace_ebpf::FaultKind::FAILED => Some(FaultKind::Failed),
        memtrace_ebpf::FaultKind::RETRIED => Some(FaultKind::Retried),
        memtrace_ebpf::FaultKind::UNFINISHED => Some(FaultKind::Unfinished),
        memtrace_ebpf::FaultKind::REFUSED => Some(FaultKind::Refused),
        memtrace_ebpf::FaultKind::EMULATED => Some(FaultKind::Emulated),
        _ => None,
    }
}

/// A record that this build does not understand.
fn undecodable(time: Timestamp) -> Record {
    Record::Loss(Loss {
        start: time,
        end: Some(time),
        cpu: None,
        cause: LossCause::UnknownKind,
        count: Some(1),
    })
}

/// Walks the records of `CONTROL` by their lengths.
struct Control<'a> {
    rest: &'a [u8],
    last: Timestamp,
    /// The other event of a record that tells of two.
    second: Option<Record>,
}

impl Iterator for Control<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        if let Some(second) = self.second.take() {
            return Some(second);
        }
        if self.rest.is_empty() {
            return None;
        }
        let record = EventHeader::from_bytes(self.rest)
            .filter(|header| usize::from(header.len) >= EventHeader::LEN)
            .and_then(|header| Some((header, self.rest.get(..header.len.into())?)));
        let Some((header, bytes)) = record else {
            // Without a length there is no way to the next record.
            self.rest = &[];
            return Some(Record::Loss(Loss {
                start: self.last,
                end: None,
                cpu: None,
                cause: LossCause::UnknownKind,
                count: None,
            }));
        };
        self.rest = &self.rest[bytes.len()..];
        self.last = Timestamp::from_nanos(header.time_ns);
        if header.kind == EventKind::FORK {
            self.second = copied(bytes);
        }
        Some(control(header, bytes).unwrap_or_else(|| undecodable(self.last)))
    }
}

/// One record of `CONTROL`, which a later build may have made longer; `None` if its kind or a word in it is unknown, or it is cut.
fn control(header: EventHeader, bytes: &[u8]) -> Option<Record> {
    let EventHeader { time_ns, tgid, tid, kind, len: _, cpu: _ } = header;
    let time = Timestamp::from_nanos(time_ns);
    let map = |action| map(header, action);
    let task = |action| Record::Task(TaskEvent { time, tgid: Tgid(tgid), tid: Tid(tid), action });
    match kind {
        EventKind::FORK => {
            let ForkEvent {
                header: _,
                child_tgid,
                child_tid,
                clone_flags,
                space,
                comm,
                parent_space,
                copied_ns: _,
                brk: _,
                total_vm: _,
            } = ForkEvent::from_bytes(bytes)?;
            Some(task(TaskAction::Fork {
                child_tgid: Tgid(child_tgid),
                child_tid: Tid(child_tid),
                clone_flags,
                space: SpaceId(space),
                parent_space: SpaceId(parent_space),
                comm: Comm::from_raw(comm),
            }))
        }
        EventKind::EXEC => Some(task(exec(bytes)?)),
        EventKind::EXIT | EventKind::ALIVE | EventKind::LATE => Some(task(exit(kind, bytes)?)),
        EventKind::COMM => {
            let CommEvent { header: _, comm } = CommEvent::from_bytes(bytes)?;
            Some(task(TaskAction::Comm(Comm::from_raw(comm))))
        }
        EventKind::JOIN => {
            let JoinEvent { header: _, space, parent_tgid, pad: _, comm } = JoinEvent::from_bytes(bytes)?;
            Some(task(TaskAction::Join {
                space: SpaceId(space),
                parent: (parent_tgid != 0).then_some(Tgid(parent_tgid)),
                comm: Comm::from_raw(comm),
            }))
        }
        EventKind::LEAVE => {
            let LeaveEvent { header: _, is_charge_known, account: raw } = LeaveEvent::from_bytes(bytes)?;
            Some(task(TaskAction::Leave { account: account(is_charge_known, raw) }))
        }
        EventKind::UNCOUNTED => {
            let UncountedEvent { header: _, minor, major, cause, syscall_plus_one, space } =
                UncountedEvent::from_bytes(bytes)?;
            Some(Record::Uncounted(Uncounted {
                time,
                tgid: Tgid(tgid),
                tid: Tid(tid),
                space: SpaceId(space),
                faults: FaultCounts { minor, major },
                cause: uncounted_cause(cause, syscall_plus_one),
            }))
        }
        EventKind::CALL => {
            let event = CallEvent::from_bytes(bytes)?;
            let stack = StackedCallEvent::from_bytes(bytes).and_then(|event| StackId::from_raw(event.stack));
            let call = MapCall { stack, ..calls::call(&event, &[])? };
            Some(map(MapAction::Call { space: SpaceId(event.space), call }))
        }
        EventKind::NAME => {
            let NameEvent { call, name } = NameEvent::from_bytes(bytes)?;
            let name = name.0.split(|byte| *byte == 0).next().unwrap_or_default();
            Some(map(MapAction::Call { space: SpaceId(call.space), call: calls::call(&call, name)? }))
        }
        EventKind::SPACE => {
            let SpaceEvent { header: _, space } = SpaceEvent::from_bytes(bytes)?;
            Some(map(MapAction::Renewed { space: SpaceId(space) }))
        }
        EventKind::TRIM => {
            let TrimEvent { header: _, space, pages } = TrimEvent::from_bytes(bytes)?;
            Some(map(MapAction::Trimmed { space: SpaceId(space), pages: PageCount::new(pages) }))
        }
        EventKind::STACK => Some(Record::Stack(Box::new(stacks::stack(bytes)?))),
        EventKind::BUILD_ID => Some(Record::BuildId(Box::new(stacks::build_id(bytes)?))),
        EventKind::SECTION => {
            let SectionEvent { header: _, space, syscall } = SectionEvent::from_bytes(bytes)?;
            Some(map(MapAction::Unexplained { space: SpaceId(space), syscall }))
        }
        _ => None,
    }
}

/// A task ended, or tracing of it did.
fn exit(kind: EventKind, bytes: &[u8]) -> Option<TaskAction> {
    let ExitEvent { header: _, space, group_dead, is_charge_known, account: raw } =
        ExitEvent::from_bytes(bytes)?;
    let (space, account) = (SpaceId(space), account(is_charge_known, raw));
    Some(match kind {
        EventKind::EXIT => {
            // In recordings of early builds the record ends before.
            let end = EndEvent::from_bytes(bytes);
            let status = end.and_then(|end| end.status_plus_one.checked_sub(1));
            TaskAction::Exit {
                space,
                group_dead: group_dead != 0,
                account,
                status: status.and_then(|status| u32::try_from(status).ok()).map(WaitStatus),
                max_rss: end.and_then(|end| known_pages(end.max_rss)),
            }
        }
        EventKind::ALIVE => TaskAction::Alive { space, account },
        _ => TaskAction::Late { account },
    })
}

/// A program begins to be executed.
fn exec(bytes: &[u8]) -> Option<TaskAction> {
    let ExecEvent {
        header: _,
        space,
        old_tid,
        is_space_told,
        comm,
        start_brk,
        start_stack,
        is_hidden,
        total_vm,
    } = ExecEvent::from_bytes(bytes)?;
    Some(TaskAction::Exec {
        space: SpaceId(space),
        old_tid: Tid(old_tid),
        comm: Comm::from_raw(comm),
        is_space_told: is_space_told != 0,
        landmarks: Landmarks { start_brk: known_addr(start_brk), start_stack: known_addr(start_stack) },
        is_hidden: is_hidden != 0,
        total_vm: known_pages(total_vm),
        max_rss: LoadEvent::from_bytes(bytes).and_then(|load| known_pages(load.max_rss)),
    })
}

/// An address, unless it is 0 for unknown.
fn known_addr(addr: u64) -> Option<VirtAddr> {
    (addr != 0).then_some(VirtAddr::from_raw(addr))
}

/// A number of pages, unless it is 0 for unknown.
fn known_pages(pages: u64) -> Option<PageCount> {
    (pages != 0).then_some(PageCount::new(pages))
}

/// An event in an address space, done by the task in the header at its time.
fn map(header: EventHeader, action: MapAction) -> Record {
    let EventHeader { time_ns, tgid, tid, .. } = header;
    Record::Map(Box::new(MapEvent {
        time: Timestamp::from_nanos(time_ns),
        tgid: Tgid(tgid),
        tid: Tid(tid),
        action,
    }))
}

/// When the address space of a forked process was copied; `None` if it was not, but is shared.
fn copied(bytes: &[u8]) -> Option<Record> {
    let ForkEvent { header, space, parent_space, copied_ns, brk, total_vm, .. } =
        ForkEvent::from_bytes(bytes)?;
    let time_ns = if copied_ns == 0 { header.time_ns } else { copied_ns };
    let action = MapAction::Copied {
        parent: SpaceId(parent_space),
        child: SpaceId(space),
        brk: known_addr(brk),
        total_vm: known_pages(total_vm),
    };
    (space != parent_space).then(|| map(EventHeader { time_ns, ..header }, action))
}

/// The growth of the kernel's counters, and what was seen of it; `None` if they could not be read.
fn account(is_charge_known: u64, raw: TaskAccount) -> Option<Account> {
    let TaskAccount {
        base_minor,
        base_major,
        last_minor,
        last_major,
        recorded_minor,
        recorded_major,
        uncounted_minor,
        uncounted_major,
    } = raw;
    (is_charge_known != 0).then_some(Account {
        kernel: FaultCounts {
            minor: last_minor.saturating_sub(base_minor),
            major: last_major.saturating_sub(base_major),
        },
        recorded: FaultCounts { minor: recorded_minor, major: recorded_major },
        uncounted: FaultCounts { minor: uncounted_minor, major: uncounted_major },
    })
}

fn uncounted_cause(cause: memtrace_ebpf::UncountedCause, syscall_plus_one: u32) -> UncountedCause {
    match (cause, syscall_plus_one.checked_sub(1)) {
        (memtrace_ebpf::UncountedCause::EXEC, _) => UncountedCause::Exec,
        (memtrace_ebpf::UncountedCause::EXIT, _) => UncountedCause::Exit,
        (memtrace_ebpf::UncountedCause::SYSCALL, Some(number)) => UncountedCause::Syscall(number),
        (memtrace_ebpf::UncountedCause::CORE_DUMP, _) => UncountedCause::CoreDump,
        (memtrace_ebpf::UncountedCause::USER, _) => UncountedCause::User,
        _ => UncountedCause::UnknownCall,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: EventKind, len: usize) -> EventHeader {
        EventHeader {
            time_ns: 500,
            tgid: 10,
            tid: 11,
            kind,
            len: u16::try_from(len).expect("records are short"),
            cpu: 1,
        }
    }

    #[test]
    fn write_to_a_present_page_is_protection() {
        let raw = FaultEvent {
            flags: FaultFlags::ACCESS_KNOWN | FaultFlags::WRITE | FaultFlags::PROTECTION | FaultFlags::USER,
            kind: memtrace_ebpf::FaultKind::MINOR,
            ..FaultEvent::default()
        };

        let Record::Fault(fault) = fault(&raw.to_bytes()) else { panic!("a fault") };

        assert_eq!((fault.access, fault.protection), (Some(Access::Write), Some(true)));
        assert_eq!((fault.mode, fault.latency), (Mode::User, None));
    }

    #[test]
    fn latency_beyond_32_bits_is_told_as_it_is() {
        let raw = FaultEvent { kind: memtrace_ebpf::FaultKind::MINOR, ..FaultEvent::default() };

        let Record::Fault(fault) = fault(&raw.with_latency_ns(6_000_146_064).to_bytes()) else {
            panic!("a fault")
        };

        assert_eq!(fault.latency, Some(Nanos::new(6_000_146_064)));
    }

    #[test]
    fn access_is_unknown_without_an_error_code() {
        let raw = FaultEvent { kind: memtrace_ebpf::FaultKind::MAJOR, ..FaultEvent::default() };

        let Record::Fault(fault) = fault(&raw.to_bytes()) else { panic!("a fault") };

        assert_eq!((fault.access, fault.protection), (None, None));
    }

    #[test]
    fn unknown_kind_is_skipped_by_its_length_and_counted() {
        let unknown = header(EventKind(999), EventHeader::LEN + 8);
        let comm = CommEvent {
            header: header(EventKind::COMM, CommEvent::LEN),
            comm: *b"new\0\0\0\0\0\0\0\0\0\0\0\0\0",
        };
        let mut bytes = unknown.to_bytes().to_vec();
        bytes.extend([0; 8]);
        bytes.extend(comm.to_bytes());

        let records: Vec<_> = Frame::Control(bytes).records().collect();

        let [Record::Loss(loss), Record::Task(task)] = &records[..] else {
            panic!("two records: {records:?}")
        };
        assert_eq!((loss.cause, loss.count), (LossCause::UnknownKind, Some(1)));
        assert_eq!(task.action, TaskAction::Comm(Comm::from_text("new")));
    }

    #[test]
    fn trim_says_how_many_pages_went() {
        let event = TrimEvent { header: header(EventKind::TRIM, TrimEvent::LEN), space: 3, pages: 511 };

        let records: Vec<_> = Frame::Control(event.to_bytes().to_vec()).records().collect();

        let [Record::Map(event)] = &records[..] else { panic!("one change: {records:?}") };
        assert_eq!(event.action, MapAction::Trimmed { space: SpaceId(3), pages: PageCount::new(511) });
    }

    #[test]
    fn cut_record_is_a_loss_of_unknown_size() {
        let bytes = header(EventKind::COMM, CommEvent::LEN).to_bytes().to_vec();

        let records: Vec<_> = Frame::Control(bytes).records().collect();

        let [Record::Loss(loss)] = &records[..] else { panic!("one loss: {records:?}") };
        assert_eq!(loss.count, None);
    }

    #[test]
    fn kernel_counted_is_what_the_counters_grew_by() {
        let raw = TaskAccount {
            base_minor: 100,
            last_minor: 160,
            recorded_minor: 50,
            uncounted_minor: 10,
            ..TaskAccount::default()
        };

        let kernel = |is_charge_known| account(is_charge_known, raw).map(|account| account.kernel);
        assert_eq!(kernel(1), Some(FaultCounts { minor: 60, major: 0 }));
        assert_eq!(kernel(0), None, "what was not read is unknown");
    }
}
