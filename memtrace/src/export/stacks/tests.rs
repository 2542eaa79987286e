//! Sums of a story that is small enough to be computed by hand; the formats are held against it too.

use super::*;
use crate::{
    event::{
        BuildId, CodeFile, Cpu, Fault, FaultKind, Function, HostFacts, Landmarks, MapsReading, NamedCode,
        Observation, Record, Seen, SpaceId, Stack, StackFrame, StackId, Symbols, TaskAction, TaskEvent, Tgid,
        Tid, Vma,
    },
    export::Sink,
    pipeline::{Detail, FocusOptions, Options, Pipeline},
    timeline::{FaultOutcome, OutcomeKind, Summary},
    units::{TimeRange, Timestamp, VirtAddr, VirtRange},
};

const SPACE: SpaceId = SpaceId(7);
const TGID: Tgid = Tgid(10);
/// A thread of the process that is not its leader.
const WORKER: u32 = 11;

/// Numbers of calls on x86-64.
const READ: u32 = 0;
const PREAD64: u32 = 17;

/// Where the program is mapped, from 0x1000 of its file on; and memory with code, without a file.
const PROGRAM: (u64, u64) = (0x40_0000, 0x41_0000);
const COMPILED: (u64, u64) = (0x50_0000, 0x50_1000);
/// In the kernel.
const COPY: u64 = 0xffff_ffff_8100_0000;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_nanos(millis * 1_000_000)
}

fn name(text: &str) -> Arc<[u8]> {
    text.as_bytes().into()
}

/// Code has the names `push` inlined into `main`, `_start`, and `copy_page_to_iter` in the kernel.
fn symbols() -> [Record; 2] {
    let push = Function {
        name: Some(name("push")),
        source_file: Some(name("/src/vec.rs")),
        line: Some(12),
        ..Function::default()
    };
    let main = Function {
        name: Some(name("main")),
        offset: Some(0x10),
        source_file: Some(name("/src/main.rs")),
        line: Some(5),
    };
    let start = Function { name: Some(name("_start")), offset: Some(0x20), ..Function::default() };
    let copy = Function { name: Some(name("copy_page_to_iter")), offset: Some(3), ..Function::default() };
    let named = |file, code: Vec<(u64, Arc<[Function]>)>| {
        let code =
            code.into_iter().map(|(place, functions)| NamedCode { at: place, since: at(0), functions });
        Record::Symbols(Box::new(Symbols { file, segments: Vec::new(), code: code.collect() }))
    };
    [
        named(
            CodeFile::BuildId([0xab, 0xcd].into()),
            vec![(0x1010, [push, main].into()), (0x10ff, [start].into())],
        ),
        named(CodeFile::Kernel, vec![(COPY, [copy].into())]),
    ]
}

fn task(tid: u32, comm: &str) -> Record {
    let action = TaskAction::Join { space: SPACE, parent: None, comm: Comm::from_text(comm) };
    Record::Task(TaskEvent { time: at(1), tgid: TGID, tid: Tid(tid), action })
}

fn maps() -> Record {
    let vma = |(start, end), perms, inode, name: &[u8]| Vma {
        range: VirtRange::new(VirtAddr::from_raw(start), VirtAddr::from_raw(end)).expect("not empty"),
        perms,
        offset: if inode == 0 { 0 } else { 0x1000 },
        device: if inode == 0 { (0, 0) } else { (8, 1) },
        inode,
        name: name.to_vec(),
    };
    let seen = Seen::Maps(MapsReading {
        began: at(2).before(Nanos::new(1)),
        vmas: vec![
            vma((0x1000, 0x9000), *b"rw-p", 0, b""),
            vma(PROGRAM, *b"r-xp", 5, b"/bin/prog"),
            vma(COMPILED, *b"rwxp", 0, b""),
        ],
        landmarks: Landmarks::default(),
        devices: Vec::new(),
        at_exit: false,
    });
    Record::Observation(Observation { time: at(2), tgid: TGID, space: SPACE, seen })
}

/// The stack `raw`: code at the first address, called from before the others.
fn stack(raw: u64, addrs: &[u64], end: StackEnd) -> Record {
    let frame = |(depth, addr): (usize, &u64)| StackFrame {
        addr: VirtAddr::from_raw(*addr),
        is_return: depth > 0,
        by_frame_pointer: false,
    };
    let frames = addrs.iter().enumerate().map(frame).collect();
    let id = StackId::from_raw(raw).expect("not zero");
    Record::Stack(Box::new(Stack { time: at(3), space: SPACE, id, frames, end }))
}

fn fault(millis: u64, stack: u64, latency: u64) -> Fault {
    Fault {
        time: at(millis),
        tid: Tid(TGID.0),
        cpu: Cpu(0),
        addr: VirtAddr::from_raw(0x1000),
        ip: VirtAddr::from_raw(PROGRAM.0),
        access: None,
        protection: None,
        mode: Mode::User,
        kind: FaultKind::Minor,
        latency: Some(Nanos::new(latency)),
        syscall: None,
        stack: StackId::from_raw(stack),
    }
}

/// | faults | of | latency |
/// |---|---|---|
/// | 3 | `push` inlined into `main`, called by `_start`; one by another thread | 1000, 1000 and 500 |
/// | 1 | the same, in the kernel in `copy_page_to_iter` for `pread64` | 300 |
/// | 1 | `push` and `main`, of which the caller is not known, in the kernel for `read` | 40 |
/// | 1 | the same, in the kernel for whatever it was | 2 |
/// | 1 | compiled code that `_start` called, major | 7 |
/// | 1 | an unknown stack | 20000 |
///
/// Another one failed. The first two brought 16 pages each, as a scan saw.
fn rows() -> (Vec<Row>, Summary) {
    let in_kernel =
        |fault, ip, syscall| Fault { mode: Mode::Kernel, ip: VirtAddr::from_raw(ip), syscall, ..fault };
    let faults = [
        fault(10, 1, 1_000),
        fault(11, 1, 1_000),
        Fault { tid: Tid(WORKER), ..fault(12, 1, 500) },
        in_kernel(fault(13, 1, 300), COPY, Some(PREAD64)),
        in_kernel(fault(14, 2, 40), COPY + 1, Some(READ)),
        in_kernel(fault(15, 2, 2), COPY + 1, None),
        Fault { kind: FaultKind::Major, ..fault(16, 3, 7) },
        fault(17, 0, 20_000),
        Fault { kind: FaultKind::Failed, latency: None, ..fault(18, 1, 0) },
    ];
    let file = BuildId { time: at(2), file: ((8, 1), 5), id: [0xab, 0xcd].into() };
    let mut records = symbols().to_vec();
    records.extend([task(TGID.0, "prog"), task(WORKER, "worker"), maps()]);
    records.extend([
        Record::BuildId(Box::new(file)),
        stack(1, &[PROGRAM.0 + 0x10, PROGRAM.0 + 0x100], StackEnd::Root),
        stack(2, &[PROGRAM.0 + 0x10], StackEnd::NoUnwindInformation),
        stack(3, &[COMPILED.0, PROGRAM.0 + 0x100], StackEnd::Root),
    ]);
    records.extend(faults.map(Record::Fault));
    records.push(Record::Tick(at(1_000)));

    let options = Options {
        interval: Nanos::new(100_000_000),
        detail: Detail::Full,
        follows_maps: true,
        sees_effects: true,
        verify: false,
        wants: RowSet::all(),
        stays: TimeRange::default(),
        focus: FocusOptions::default(),
    };
    let mut pipeline = Pipeline::new(HostFacts::sample(at(0)), options);
    let (mut rows, mut requests) = (Vec::new(), Vec::new());
    for record in records {
        pipeline.push(record, &mut rows, &mut requests);
    }
    let summary = pipeline.finish(&mut rows);
    for row in &mut rows {
        if let Row::Fault(row) = row
            && row.fault.latency == Some(Nanos::new(1_000))
        {
            let pages = Some(PageCount::new(16));
            row.outcome = Some(FaultOutcome { kind: OutcomeKind::Anon, pages, lag: Nanos::new(1) });
        }
    }
    (rows, summary)
}

/// Lets `sink` take the story.
pub(in crate::export) fn feed(sink: &mut dyn Sink) {
    let (rows, summary) = rows();
    sink.begin(&summary.host).expect("memory takes all");
    for row in &rows {
        sink.row(row).expect("memory takes all");
    }
    sink.end(&summary).expect("memory takes all");
}

#[test]
fn sums_are_those_of_completed_faults() {
    let (rows, summary) = rows();
    let mut sums = StackSums::default();
    for row in &rows {
        sums.row(row);
    }
    let resident =
        ResidentPages { process: Some(Comm::from_text("gone")), stack: 1, pages: PageCount::new(3) };
    let summary = Summary { resident: vec![resident], ..summary };
    let sums = sums.take(&summary);

    let all = sums.groups.values().fold(Costs::default(), |mut all, costs| {
        all += *costs;
        all
    });
    assert_eq!(
        all,
        Costs { faults: 8, stall: Nanos::new(22_849), pages: PageCount::new(32), resident: all.resident }
    );
    assert_eq!(all.faults, summary.faults.completed.total());
    let weights = WEIGHTS.iter().map(|weight| (weight.name, (weight.of)(&all, summary.host.page)));
    assert_eq!(
        weights.collect::<Vec<_>>(),
        [("faults", 8), ("stall", 22_849), ("bytes", 32 * 4096), ("resident", 3 * 4096)]
    );
}

#[test]
fn sums_of_a_time_range_are_those_of_its_faults() {
    let (rows, summary) = rows();
    let since = |fault: &FaultRow| fault.fault.time.since(summary.host.start);
    let faults = rows.iter().filter_map(|row| if let Row::Fault(row) = row { Some(row) } else { None });
    let mut times: Vec<_> = faults.filter(|row| row.fault.kind.is_completed()).map(since).collect();
    times.sort_unstable();
    let middle = times[times.len() / 2];
    let count = |times: TimeRange| {
        let mut sums = StackSums::of(times);
        sums.begin(&summary.host);
        for row in &rows {
            sums.row(row);
        }
        sums.take(&summary).groups.values().map(|costs| costs.faults).sum::<u64>()
    };

    let before = count(TimeRange { from: None, to: Some(middle) });
    assert_eq!(before, times.iter().filter(|time| **time < middle).count() as u64);
    assert_eq!(before + count(TimeRange { from: Some(middle), to: None }), 8);
}

#[test]
fn stacks_are_one_wherever_their_file_is_mapped() {
    let place = |offset| CodePlace {
        module: None,
        position: crate::timeline::CodePosition::InFile(offset),
        build_id: None,
        functions: [].into(),
    };
    let frame = |stack, addr, end| FrameRow {
        stack,
        depth: 0,
        frame: StackFrame { addr: VirtAddr::from_raw(addr), is_return: false, by_frame_pointer: false },
        place: place(0x10),
        function: Function::default(),
        inlined: false,
        end: Some(end),
    };
    let mut sums = StackSums::default();
    sums.row(&Row::Frame(frame(1, 0x1010, StackEnd::Root)));
    sums.row(&Row::Frame(frame(2, 0x2010, StackEnd::Root)));
    sums.row(&Row::Frame(frame(3, 0x2010, StackEnd::TooDeep)));

    assert_eq!([1, 2, 3].map(|number| sums.by_number[&number]), [0, 0, 1]);
    assert_eq!(sums.take(&rows().1).places, [place(0x10)]);
}

#[test]
fn threads_have_the_name_of_their_process_and_their_own() {
    let (rows, _) = rows();
    let names = rows.iter().filter_map(|row| match row {
        Row::Fault(row) => Some((row.fault.tid.0, row.process_comm, row.comm)),
        _ => None,
    });

    let [prog, worker] = ["prog", "worker"].map(|name| Some(Comm::from_text(name)));
    for (tid, process, thread) in names {
        assert_eq!((process, thread), (prog, if tid == WORKER { worker } else { prog }));
    }
}
