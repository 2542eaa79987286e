//! Recordings made by hand, for what reads them.
//!
//! Input: none. Output: bytes of a recording, and what it must say.
//! Keeps: as small as the phenomenon allows, so that all tables can be computed by hand.
//! Not here: recordings of real programs (`recording`).

mod stacks;

use memtrace::{
    decode::Frame,
    event::{
        CodeFile, Cpu, FaultCounts, Function, HostFacts, Landmarks, Loss, LossCause, MapsReading, NamedCode,
        Observation, Seen, SpaceId, Symbols, Tgid, Vma,
    },
    pipeline::{Detail, FocusOptions},
    record::{Capture, Cost, End, Ending, ExitReason, Header, Totals, Writer, add_symbols},
    units::{Nanos, PageSize, Timestamp, VirtAddr, VirtRange},
};
use memtrace_ebpf::{
    Call, CallEvent, EventHeader, EventKind, ExitEvent, FaultEvent, FaultFlags, FaultKind, FrameWord,
    JoinEvent, StackEnd, StackEvent, TaskAccount, UncountedCause, UncountedEvent,
};

pub use self::stacks::stacks;

/// Start of the recording on `CLOCK_BOOTTIME`, in nanoseconds.
const START: u64 = 5_000_000_000;

/// The process, its only thread, and its only address space.
const PID: u32 = 10;
const SPACE: u64 = 1;

/// Number of mmap(2) on x86-64.
const MMAP: u32 = 9;

/// A process `demo` on a machine with pages of 4 KiB, in intervals of 100 ms:
///
/// | ms | what | where |
/// |---|---|---|
/// | 1, 2 | minor faults by writes, 1500 and 500 ns | anonymous memory at 0x10000 |
/// | 3 | a major fault by an instruction fetch, 90000 ns | `/bin/demo` at 0x20000 |
/// | 103 | a minor fault by a read in the kernel, 700 ns | anonymous memory |
/// | 104 | 4 uncounted minor faults in mmap(2) | |
/// | 150 to 160 | 3 records lost | ring of CPU 1 |
/// | 200 | munmap(2) of the page at 0x13000 | anonymous memory |
/// | 250 | exits with code 0 | |
#[must_use]
pub fn small() -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), &header()).expect("memory takes all");
    for frame in [
        Frame::Control(join()),
        maps(),
        Frame::Faults(
            [
                fault(1, 0x10008, FaultKind::MINOR, FaultFlags::USER | FaultFlags::WRITE, 1500),
                fault(2, 0x11000, FaultKind::MINOR, FaultFlags::USER | FaultFlags::WRITE, 500),
                fault(3, 0x20010, FaultKind::MAJOR, FaultFlags::USER | FaultFlags::EXEC, 90_000),
            ]
            .concat(),
        ),
        Frame::Tick(at(50)),
        Frame::Faults(fault(103, 0x12000, FaultKind::MINOR, 0, 700)),
        Frame::Control(uncounted()),
        Frame::Loss(Loss {
            start: at(150),
            end: Some(at(160)),
            cpu: Some(Cpu(1)),
            cause: LossCause::EventsRing,
            count: Some(3),
        }),
        Frame::Control(munmap()),
        Frame::Control(exit()),
        Frame::Tick(at(260)),
    ] {
        writer.append(&frame).expect("memory takes all");
    }
    writer.finish(&end()).expect("memory takes all")
}

/// As many minor faults as asked for, a millisecond apart; nothing is lost.
#[must_use]
pub fn storm(faults: u64) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), &header()).expect("memory takes all");
    let mut bytes = Vec::new();
    writer.append(&Frame::Control(join())).expect("memory takes all");
    writer.append(&maps()).expect("memory takes all");
    for ms in 0..faults {
        let flags = FaultFlags::USER | FaultFlags::WRITE;
        bytes.extend(fault(ms, 0x10000, FaultKind::MINOR, flags, 1000));
    }
    writer.append(&Frame::Faults(bytes)).expect("memory takes all");
    writer.append(&Frame::Tick(at(faults + 100))).expect("memory takes all");
    writer.finish(&end()).expect("memory takes all")
}

/// Two minor faults with one stack: in `main` of `/bin/demo` a call of `grow`, where `push` was inlined.
///
/// One is in user mode and took 1500 ns, the other in `clear_page` of the kernel in read(2), and took 500 ns. The names stand behind
/// what they are of.
#[must_use]
pub fn named() -> Vec<u8> {
    const STACK: u64 = 77;
    const CLEAR_PAGE: u64 = 0xffff_ffff_8100_0000;
    let (header, (ip, caller)) = (header(), (0x20010, 0x20100));
    let header = Header { capture: Capture { stacks: true, ..header.capture }, ..header };
    let mut writer = Writer::new(Vec::new(), &header).expect("memory takes all");
    let words = [ip, caller | FrameWord::IS_RETURN];
    let stack = StackEvent {
        header: event(EventKind::STACK, StackEvent::LEN + size_of_val(&words), 1),
        space: SPACE,
        stack: STACK,
        end: StackEnd::ROOT,
        count: 2,
    };
    let stack = [stack.to_bytes().to_vec(), words.map(u64::to_ne_bytes).concat()].concat();
    let fault = |ms, ip, flags, latency_ns| {
        let flags = flags | FaultFlags::WRITE | FaultFlags::ACCESS_KNOWN;
        let (time_ns, kind) = (at(ms).as_nanos(), FaultKind::MINOR);
        let fault = FaultEvent {
            time_ns,
            addr: 0x10000,
            ip,
            tid: PID,
            flags,
            kind,
            stack: STACK,
            ..FaultEvent::default()
        };
        fault.with_latency_ns(latency_ns).to_bytes().to_vec()
    };
    let read_plus_one = 1 << FaultFlags::SYSCALL_SHIFT;
    let function = |name: &[u8], offset| Function { name: Some(name.into()), offset, ..Function::default() };
    let symbols = |file, code| Symbols { file, segments: Vec::new(), code };
    let inlined = [function(b"push", None), function(b"grow", Some(8))];
    // A call returns behind its last byte.
    let named = |at: u64, functions: &[Function]| NamedCode {
        at,
        since: Timestamp::default(),
        functions: functions.into(),
    };
    let code = vec![named(0x10, &inlined), named(0xff, &[function(b"main", Some(0xf))])];
    let kernel = vec![named(CLEAR_PAGE, &[function(b"clear_page", Some(0))])];
    let symbols = [symbols(CodeFile::Inode((8, 1), 7), code), symbols(CodeFile::Kernel, kernel)];
    let faults = [fault(2, ip, FaultFlags::USER, 1500), fault(3, CLEAR_PAGE, read_plus_one, 500)];
    for frame in [
        Frame::Control(join()),
        maps(),
        Frame::Control(stack),
        Frame::Faults(faults.concat()),
        Frame::Tick(at(260)),
    ] {
        writer.append(&frame).expect("memory takes all");
    }
    let mut recording = writer.finish(&end()).expect("memory takes all");
    add_symbols(&mut recording, &symbols).expect("memory takes all");
    recording
}

/// A time in milliseconds since the start.
fn at(ms: u64) -> Timestamp {
    Timestamp::from_nanos(START + ms * 1_000_000)
}

fn header() -> Header {
    Header {
        memtrace_version: "0.0.0-fixture".to_owned(),
        host: HostFacts {
            page: PageSize::from_bytes(4096).expect("a power of two"),
            arch: "x86_64".to_owned(),
            kernel_release: "6.18.0".to_owned(),
            cpus: 2,
            start: at(0),
            realtime_offset_ns: 0,
            devices: Vec::new(),
            large_folios: None,
        },
        capture: Capture {
            command: vec!["demo".to_owned()],
            targets: "command".to_owned(),
            detail: Detail::Full,
            interval: Nanos::new(100_000_000),
            ring_bytes: 16 << 20,
            follow_forks: true,
            follows_maps: true,
            verify: false,
            focus: FocusOptions::default(),
            gate: Some(FaultCounts { minor: 100, major: 0 }),
            stacks: false,
        },
        features: Vec::new(),
        page_era: None,
    }
}

fn end() -> End {
    End {
        ending: Ending::Target,
        time: at(260),
        exit: Some(ExitReason::Code(0)),
        rusage: Some(FaultCounts { minor: 107, major: 1 }),
        totals: Totals {
            recorded: FaultCounts { minor: 3, major: 1 },
            uncounted: FaultCounts { minor: 4, major: 0 },
            lost_events: 3,
            ..Totals::default()
        },
        cost: Cost::default(),
    }
}

fn event(kind: EventKind, len: usize, ms: u64) -> EventHeader {
    let len = u16::try_from(len).expect("a short record");
    EventHeader { time_ns: at(ms).as_nanos(), tgid: PID, tid: PID, kind, len, cpu: 0 }
}

fn join() -> Vec<u8> {
    let mut comm = [0; 16];
    comm[..4].copy_from_slice(b"demo");
    let header = event(EventKind::JOIN, JoinEvent::LEN, 0);
    JoinEvent { header, space: SPACE, comm, ..JoinEvent::default() }.to_bytes().to_vec()
}

fn uncounted() -> Vec<u8> {
    let header = event(EventKind::UNCOUNTED, UncountedEvent::LEN, 104);
    let cause = UncountedCause::SYSCALL;
    let event =
        UncountedEvent { header, minor: 4, major: 0, cause, syscall_plus_one: MMAP + 1, space: SPACE };
    event.to_bytes().to_vec()
}

fn munmap() -> Vec<u8> {
    let (header, call) = (event(EventKind::CALL, CallEvent::LEN, 200), Call::MUNMAP);
    let (arg_0, arg_1, may_have_resized) = (0x13000, 0x1000, 1);
    let event =
        CallEvent { header, space: SPACE, call, may_have_resized, arg_0, arg_1, ..CallEvent::default() };
    event.to_bytes().to_vec()
}

fn exit() -> Vec<u8> {
    let account = TaskAccount {
        base_minor: 100,
        base_major: 0,
        last_minor: 107,
        last_major: 1,
        recorded_minor: 3,
        recorded_major: 1,
        uncounted_minor: 4,
        uncounted_major: 0,
    };
    let header = event(EventKind::EXIT, ExitEvent::LEN, 250);
    ExitEvent { header, space: SPACE, group_dead: 1, is_charge_known: 1, account }.to_bytes().to_vec()
}

fn fault(ms: u64, addr: u64, kind: FaultKind, flags: u16, latency_ns: u64) -> Vec<u8> {
    let flags = flags | FaultFlags::ACCESS_KNOWN;
    let (time_ns, ip, tid, cpu) = (at(ms).as_nanos(), 0x20000, PID, 0);
    let fault = FaultEvent { time_ns, addr, ip, tid, cpu, flags, kind, ..FaultEvent::default() };
    fault.with_latency_ns(latency_ns).to_bytes().to_vec()
}

fn maps() -> Frame {
    let vma = |start, end, perms: &[u8; 4], inode, name: &[u8]| Vma {
        range: VirtRange::new(VirtAddr::from_raw(start), VirtAddr::from_raw(end)).expect("not empty"),
        perms: *perms,
        offset: 0,
        device: if inode == 0 { (0, 0) } else { (8, 1) },
        inode,
        name: name.to_vec(),
    };
    Frame::Observation(Observation {
        time: at(0).after(Nanos::new(2)),
        tgid: Tgid(PID),
        space: SpaceId(SPACE),
        seen: Seen::Maps(MapsReading {
            began: at(0).after(Nanos::new(1)),
            vmas: vec![
                vma(0x10000, 0x14000, b"rw-p", 0, b""),
                vma(0x20000, 0x22000, b"r-xp", 7, b"/bin/demo"),
            ],
            landmarks: Landmarks::default(),
            devices: Vec::new(),
            at_exit: false,
        }),
    })
}
