//! Which stack each fault has, and where its frames lie.

use std::sync::Arc;

use super::*;
use crate::{
    event::{
        BuildId, CodeFile, Function, MapCall, MapRequest, NamedCode, ReportedVma, Stack, StackEnd,
        StackFrame, StackId, Symbols, flags,
    },
    pagemap::{PageWords, PagemapEntry},
    timeline::{CodePlace, CodePosition, CodeTotals, FrameRow, Module},
    units::TimeRange,
};

const CODE: (u64, u64) = (0x40_0000, 0x41_0000);

fn code(name: &[u8], inode: u64) -> Vma {
    Vma { perms: *b"r-xp", offset: 0x1000, device: (8, 1), inode, name: name.to_vec(), ..anon(CODE) }
}

/// A process with a program at 0x400000, which begins 0x1000 bytes into its file, and memory to fault in.
fn begin() -> Vec<Record> {
    let seen = Seen::Maps(MapsReading {
        began: at(2).before(Nanos::new(MS / 2)),
        vmas: vec![anon((0x1000, 0x9000)), code(b"/bin/prog", 5)],
        landmarks: Landmarks::default(),
        devices: Vec::new(),
        at_exit: false,
    });
    vec![join(1), Record::Observation(Observation { time: at(2), tgid: TGID, space: SPACE, seen })]
}

fn id(raw: u64) -> Option<StackId> {
    StackId::from_raw(raw)
}

/// The stack `raw`: code at the first address, called from before the others.
fn stack(millis: u64, raw: u64, addrs: &[u64]) -> Record {
    let frame = |(depth, addr): (usize, &u64)| StackFrame {
        addr: VirtAddr::from_raw(*addr),
        is_return: depth > 0,
        by_frame_pointer: false,
    };
    let frames = addrs.iter().enumerate().map(frame).collect();
    let id = id(raw).expect("not zero");
    Record::Stack(Box::new(Stack { time: at(millis), space: SPACE, id, frames, end: StackEnd::Root }))
}

fn with_stack(millis: u64, raw: u64) -> Record {
    let Record::Fault(fault) = fault(millis, 0x1000) else { panic!("a fault") };
    Record::Fault(Fault { stack: id(raw), latency: Some(Nanos::new(1_000)), ..fault })
}

/// The other file is mapped in the place of the program.
fn replaced(millis: u64) -> Vec<Record> {
    let (addr, length) = (VirtAddr::from_raw(CODE.0), CODE.1 - CODE.0);
    let call = |request| MapCall { request, result: Ok(0), may_have_resized: true, file: None, stack: None };
    let munmap = call(MapRequest::Munmap { addr, length });
    let mmap = call(MapRequest::Mmap { addr, length, prot: 5, flags: 0x12, offset: 0x1000 });
    let mmap = MapCall { result: Ok(CODE.0), ..mmap };
    vec![
        map(millis, MapAction::Call { space: SPACE, call: munmap }),
        map(millis + 1, MapAction::Shown(ReportedVma { vma: code(b"/bin/other", 6), kind: None })),
        map(millis + 2, MapAction::Call { space: SPACE, call: mmap }),
    ]
}

/// The numbers that faults have, frames, and totals.
fn run_all(records: &[Record]) -> (Vec<Option<u64>>, Vec<FrameRow>, Summary) {
    let (rows, _, summary) = run_with(Options { wants: RowSet::all(), ..options(Detail::Full) }, records);
    let (mut numbers, mut frames) = (Vec::new(), Vec::new());
    for row in rows {
        match row {
            Row::Fault(row) => numbers.push(row.stack),
            Row::Frame(row) => frames.push(row),
            _ => {}
        }
    }
    (numbers, frames, summary)
}

fn totals(faults: u64) -> CodeTotals {
    CodeTotals { faults: FaultCounts { minor: faults, major: 0 }, latency_sum: Nanos::new(faults * 1_000) }
}

#[test]
fn stacks_have_numbers_and_frames_lie_in_files() {
    let file = BuildId { time: at(9), file: ((8, 1), 5), id: Box::from([0xab, 0xcd]) };
    let told = [
        Record::BuildId(Box::new(file)),
        stack(10, 77, &[0x40_0010, 0x40_0100]),
        with_stack(10, 77),
        with_stack(11, 77),
        // The same frames under another name, as user space found them out.
        stack(12, 1 << 63 | 5, &[0x40_0010, 0x40_0100]),
        with_stack(12, 1 << 63 | 5),
        with_stack(13, 99),
    ];

    let (numbers, frames, summary) = run_all(&[begin(), told.to_vec()].concat());

    assert_eq!(numbers, [Some(1), Some(1), Some(1), None]);
    let place = |offset| CodePlace {
        module: Some(Module::Named((&b"/bin/prog"[..]).into())),
        position: CodePosition::InFile(offset),
        build_id: Some([0xab, 0xcd].into()),
        functions: [].into(),
    };
    let expected = [(0, 0x40_0010, place(0x1010), None), (1, 0x40_0100, place(0x10ff), Some(StackEnd::Root))];
    let found = frames.iter().map(|row| (row.depth, row.frame.addr.as_raw(), row.place.clone(), row.end));
    assert_eq!(found.collect::<Vec<_>>(), expected);
    let [one] = &summary.stacks[..] else { panic!("{:?}", summary.stacks) };
    assert_eq!((one.stack, one.totals), (1, totals(3)));
    assert_eq!(one.places[..], [place(0x1010), place(0x10ff)]);
    assert_eq!(summary.without_stack, totals(1));
}

#[test]
fn stack_that_was_told_late_is_known_to_faults_that_wait_for_their_rows() {
    let late = [with_stack(10, 77), tick(300), stack(10, 77, &[0x40_0010])];

    let (numbers, _, summary) = run_all(&[begin(), late.to_vec()].concat());

    assert_eq!((numbers, &summary.losses[..]), (vec![Some(1)], &[][..]));
}

#[test]
fn stack_with_code_that_went_is_unknown_until_it_is_told_again() {
    let before = [stack(10, 77, &[0x40_0010]), with_stack(10, 77)];
    // Walked by a rule for code that is not there any more: the frames may be anything.
    let stale = [with_stack(25, 77), stack(26, 78, &[0x40_0020]), with_stack(26, 78)];
    // By then nobody remembers what was there.
    let again = [stack(2000, 77, &[0x40_0010]), with_stack(2000, 77), tick(2600)];
    let story = [begin(), before.to_vec(), replaced(20), stale.to_vec(), vec![tick(1500)], again.to_vec()];

    let (numbers, frames, _) = run_all(&story.concat());

    assert_eq!(numbers, [Some(1), None, None, Some(2)]);
    let modules: Vec<_> = frames.iter().map(|row| row.place.module.clone()).collect();
    let named = |name: &[u8]| Some(Module::Named(name.into()));
    assert_eq!(modules, [named(b"/bin/prog"), named(b"/bin/other")]);
}

#[test]
fn code_is_what_it_was_when_a_stack_was_sent() {
    let mut tasks = Tasks::new(&host(), true);
    let story = [begin(), replaced(20)].concat();
    for record in story {
        match record {
            Record::Task(task) => drop(tasks.apply(&task)),
            Record::Map(map) => drop(join::maps::apply(&map, &mut tasks)),
            Record::Observation(Observation { time, tgid, space, seen: Seen::Maps(maps) }) => {
                drop(tasks.compare(time, (tgid, space), &maps));
            }
            other => panic!("not in the story: {other:?}"),
        }
    }
    let module_at = |millis| {
        let frame =
            StackFrame { addr: VirtAddr::from_raw(0x40_0010), is_return: false, by_frame_pointer: false };
        tasks.code(SPACE, frame, at(millis)).module
    };
    let named = |name: &[u8]| Some(Module::Named(name.into()));

    assert_eq!(module_at(10), named(b"/bin/prog"));
    assert_eq!(module_at(25), named(b"/bin/other"));
}

fn names(file: CodeFile, code: Vec<NamedCode>) -> Record {
    Record::Symbols(Box::new(Symbols { file, segments: Vec::new(), code }))
}

fn named(millis: u64, at_place: u64, functions: &[Function]) -> NamedCode {
    NamedCode { at: at_place, since: at(millis), functions: functions.into() }
}

#[test]
fn code_in_the_place_of_other_code_has_its_own_name() {
    let function = |name: &[u8]| [Function { name: Some(name.into()), ..Function::default() }];
    let code = vec![named(1, CODE.0, &function(b"before")), named(20, CODE.0, &function(b"behind"))];
    let compiled = Vma { perms: *b"r-xp", ..anon(CODE) };
    let seen = Seen::Maps(MapsReading {
        began: at(2).before(Nanos::new(MS / 2)),
        vmas: vec![anon((0x1000, 0x9000)), compiled],
        landmarks: Landmarks::default(),
        devices: Vec::new(),
        at_exit: false,
    });
    let reading = Observation { time: at(2), tgid: TGID, space: SPACE, seen };
    let mut records = vec![names(CodeFile::Memory(SPACE), code), join(1), Record::Observation(reading)];
    records.extend([stack(3, 7, &[CODE.0]), with_stack(4, 7), stack(25, 7, &[CODE.0]), with_stack(26, 7)]);
    records.push(tick(1_000));

    let (rows, ..) = run_with(Options { wants: RowSet::all(), ..options(Detail::Full) }, &records);

    let faults = rows.iter().filter_map(|row| if let Row::Fault(row) = row { Some(row) } else { None });
    let faults: Vec<_> = faults.map(|row| (row.stack, row.function.as_deref())).collect();
    assert_eq!(faults, [(Some(1), Some(&b"before"[..])), (Some(2), Some(&b"behind"[..]))]);
}

#[test]
fn code_has_its_names_by_build_id_and_offset() {
    let function = |name: &[u8], offset| Function { name: Some(name.into()), offset, ..Function::default() };
    let inlined = [function(b"push", None), function(b"main", Some(0x10))];
    let start = [function(b"_start", Some(0x20))];
    let code = vec![named(0, 0x1010, &inlined), named(0, 0x1fff, &start)];
    let mut records = vec![names(CodeFile::BuildId([0xab].into()), code)];
    records.extend(begin());
    let file = BuildId { time: at(2), file: ((8, 1), 5), id: [0xab].into() };
    records.push(Record::BuildId(Box::new(file)));
    records.extend([stack(3, 7, &[CODE.0 + 0x10, CODE.0 + 0x1000]), with_stack(4, 7), tick(1_000)]);

    let (rows, ..) = run_with(Options { wants: RowSet::all(), ..options(Detail::Full) }, &records);
    let text =
        |name: &Option<Arc<[u8]>>| name.as_ref().map(|name| String::from_utf8_lossy(name).into_owned());
    let frames = rows.iter().filter_map(|row| if let Row::Frame(row) = row { Some(row) } else { None });
    let frames: Vec<_> =
        frames.map(|row| (row.depth, text(&row.function.name), row.inlined, row.end)).collect();
    let named = |name: &str| Some(name.to_owned());
    let expected = [
        (0, named("push"), true, None),
        (0, named("main"), false, None),
        (1, named("_start"), false, Some(StackEnd::Root)),
    ];
    assert_eq!(frames, expected);
    let functions = rows
        .iter()
        .filter_map(|row| if let Row::Fault(row) = row { Some(text(&row.function)) } else { None });
    assert_eq!(functions.collect::<Vec<_>>(), [named("main")]);
}

#[test]
fn functions_of_the_kernel_have_their_names_by_address() {
    let name: Arc<[u8]> = b"copy_page_to_iter".as_slice().into();
    let function = Function { name: Some(Arc::clone(&name)), ..Function::default() };
    let symbols = names(CodeFile::Kernel, vec![named(0, 0xffff_8000, &[function])]);
    let Record::Fault(fault) = fault(4, 0x1000) else { panic!("a fault") };
    let in_kernel = |ip| Record::Fault(Fault { mode: Mode::Kernel, ip: VirtAddr::from_raw(ip), ..fault });
    let mut records = vec![symbols];
    records.extend(begin());
    records.extend([in_kernel(0xffff_8000), in_kernel(0xffff_8001), tick(1_000)]);

    let (rows, ..) = run_with(Options { wants: RowSet::all(), ..options(Detail::Full) }, &records);
    let functions = rows.into_iter().filter_map(|row| match row {
        Row::Fault(row) => Some(row.function),
        _ => None,
    });
    assert_eq!(functions.collect::<Vec<_>>(), [Some(name), None]);
}

fn fault_of(millis: u64, addr: u64, raw: u64) -> Record {
    let Record::Fault(fault) = fault(millis, addr) else { panic!("a fault") };
    Record::Fault(Fault { stack: id(raw), ..fault })
}

/// Memory is given back.
fn zap(millis: u64, addr: u64, length: u64) -> Record {
    let (addr, advice) = (VirtAddr::from_raw(addr), flags::MADV_DONTNEED);
    let request = MapRequest::Madvise { addr, length, advice };
    let call = MapCall { request, result: Ok(0), may_have_resized: false, file: None, stack: None };
    map(millis, MapAction::Call { space: SPACE, call })
}

#[test]
fn pages_that_stay_are_of_the_stack_that_brought_them_last() {
    let mut records = begin();
    records.extend([stack(3, 7, &[CODE.0]), stack(3, 8, &[CODE.0 + 0x10]), stack(3, 9, &[CODE.0 + 0x20])]);
    // Eight pages: six of the one, of which two go and one comes back with the other; one more of each is not there in the end.
    records.extend((0..6).map(|page| fault_of(5, 0x1000 + page * 0x1000, 7)));
    records.extend([zap(6, 0x2000, 0x2000), fault_of(7, 0x2000, 8)]);
    records.extend([fault_of(8, 0x7000, 9), zap(9, 0x7000, 0x1000)]);

    // It goes on, it ends with the recording, or it has ended long before.
    for end in [&[tick(1_000)][..], &[exit(10), tick(11)], &[exit(10), tick(500), tick(1_000)]] {
        let (.., summary) = run_all(&[&records[..], end].concat());

        let resident: Vec<_> = summary.resident.iter().map(|one| (one.stack, one.pages.get())).collect();
        assert_eq!(resident, [(1, 4), (2, 1)]);
        let names: Vec<_> = summary.resident.iter().map(|one| one.process).collect();
        assert_eq!(names, [Some(Comm::from_text("prog")); 2], "{end:?}");
    }
}

#[test]
fn pages_that_stay_are_of_what_their_stack_was_when_they_came() {
    let mut records = begin();
    records.extend([stack(3, 7, &[CODE.0]), fault_of(5, 0x1000, 7), fault_of(5, 0x2000, 7)]);
    // The library goes, and another one comes, in which the same identity is another stack.
    records.extend(replaced(40));
    records.extend([stack(1_100, 7, &[CODE.0]), fault_of(1_102, 0x5000, 7), tick(3_000)]);

    let (.., summary) = run_all(&records);

    let resident: Vec<_> = summary.resident.iter().map(|one| (one.stack, one.pages.get())).collect();
    assert_eq!(resident, [(1, 2), (2, 1)]);
    assert!(!summary.resident_lower_bound);
}

#[test]
fn pages_that_stay_are_those_of_a_time_range_at_its_end() {
    let mut records = begin();
    records.extend([stack(3, 7, &[CODE.0]), stack(3, 8, &[CODE.0 + 0x10])]);
    // Two pages before it, of which one comes again in it; three in it, of which one goes in it and one after it.
    records.extend([fault_of(5, 0x1000, 7), fault_of(5, 0x2000, 7), zap(11, 0x2000, 0x1000)]);
    records.extend([fault_of(12, 0x2000, 8), fault_of(13, 0x3000, 7), fault_of(13, 0x4000, 7)]);
    records.extend([fault_of(14, 0x5000, 8), zap(15, 0x4000, 0x1000)]);
    records.extend([zap(20, 0x3000, 0x1000), fault_of(21, 0x6000, 8), tick(1_000)]);

    let resident = |from: Option<u64>, to: Option<u64>| {
        let since_start = |millis: u64| Nanos::new(millis * MS);
        let stays = TimeRange { from: from.map(since_start), to: to.map(since_start) };
        let options = Options { wants: RowSet::all(), stays, ..options(Detail::Full) };
        let (_, _, summary) = run_with(options, &records);
        summary.resident.iter().map(|one| (one.stack, one.pages.get())).collect::<Vec<_>>()
    };

    assert_eq!(resident(Some(10), Some(20)), [(1, 1), (2, 2)]);
    assert_eq!(resident(None, Some(10)), [(1, 2)]);
    assert_eq!(resident(Some(10), None), [(2, 3)]);
    assert_eq!(resident(None, None), [(1, 1), (2, 3)]);
}

#[test]
fn pages_that_a_scan_does_not_find_do_not_stay() {
    let mut records = begin();
    records.extend([stack(3, 7, &[CODE.0]), fault_of(5, 0x1000, 7), fault_of(5, 0x2000, 7)]);
    records.extend([fault_of(50, 0x5000, 7), fault_of(5, 0x3000, 7)]);
    let page = |addr, categories| StateRun {
        range: range(addr, addr + 0x1000),
        categories,
        words: Some(PageWords { entry: PagemapEntry::from_raw(1 << 63), flags: None }),
    };
    let scan = |depth| PageScan {
        depth,
        began: at(40),
        reason: ScanReason::Heat,
        range: range(0x1000, 0x9000),
        known: PageCategories::all(),
        runs: vec![
            page(0x2000, PageCategories::PRESENT),
            page(0x3000, PageCategories::PRESENT | PageCategories::PFNZERO),
        ],
    };
    let seen = Seen::Pages(scan(ScanDepth::Words));
    records.push(Record::Observation(Observation { time: at(60), tgid: TGID, space: SPACE, seen }));
    records.push(tick(1_000));

    let (.., summary) = run_all(&records);

    let [resident] = &summary.resident[..] else { panic!("of one stack: {:?}", summary.resident) };
    assert_eq!(resident.pages.get(), 2, "one was seen, one came while the scan ran, one is the zero page");
}
