//! Groups of rows made by hand.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::{
    event::{Comm, Cpu, Fault, FaultKind, Function, Mode, SpaceId, StackEnd, StackFrame},
    report::tests::report,
    timeline::{
        Backing, CodePlace, CodePosition, FaultOutcome, FaultPlace, Module, OutcomeKind, RegionSummary,
    },
    units::{TimeRange, VirtAddr, VirtRange},
};

/// Start of the recording.
const START: u64 = 7_000_000_000;

fn module(path: &str) -> Module {
    Module::Named(Arc::from(path.as_bytes()))
}

fn process(tgid: u32) -> ProcessId {
    ProcessId { tgid: Tgid(tgid), born: Timestamp::from_nanos(START) }
}

/// A minor fault by `cc1` in user mode, of which nothing else is known but that it took `latency` nanoseconds.
fn row(nanos: u64, latency: impl Into<Option<u64>>) -> FaultRow {
    FaultRow {
        fault: Fault {
            time: Timestamp::from_nanos(START + nanos),
            tid: Tid(42),
            cpu: Cpu(0),
            addr: VirtAddr::from_raw(0x1000),
            ip: VirtAddr::from_raw(0x40_0000),
            access: None,
            protection: None,
            mode: Mode::User,
            kind: FaultKind::Minor,
            latency: latency.into().map(Nanos::new),
            syscall: None,
            stack: None,
        },
        process: Some(process(42)),
        process_comm: Some(Comm::from_text("cc1")),
        comm: Some(Comm::from_text("cc1")),
        place: None,
        module: None,
        function: None,
        syscall: None,
        stack: None,
        outcome: None,
        outcome_unknown: None,
        refault: None,
        space: None,
    }
}

fn of(kind: FaultKind, row: FaultRow) -> FaultRow {
    FaultRow { fault: Fault { kind, ..row.fault }, ..row }
}

fn in_module(path: &str, row: FaultRow) -> FaultRow {
    FaultRow { module: Some(module(path)), ..row }
}

fn in_kernel(syscall: Option<u32>, row: FaultRow) -> FaultRow {
    let fault = Fault { mode: Mode::Kernel, syscall, ..row.fault };
    FaultRow { fault, module: Some(Module::Kernel), ..row }
}

fn brought(kind: OutcomeKind, pages: Option<u64>, row: FaultRow) -> FaultRow {
    let outcome = FaultOutcome { kind, pages: pages.map(PageCount::new), lag: Nanos::new(1) };
    FaultRow { outcome: Some(outcome), ..row }
}

/// What is made of `rows`.
fn grouped(grouping: Grouping, rows: impl IntoIterator<Item = Row>) -> GroupReport {
    let report = report();
    let mut groups = Groups::new(grouping);
    groups.begin(&report.header.host).expect("it takes note");
    rows.into_iter().for_each(|row| groups.row(&row).expect("it takes rows"));
    GroupReport { report, groups }
}

fn by(keys: &[Key]) -> Grouping {
    Grouping { by: keys.to_vec(), ..Grouping::default() }
}

fn faults(rows: impl IntoIterator<Item = FaultRow>) -> Vec<Row> {
    rows.into_iter().map(Row::Fault).collect()
}

/// Lines below the heading of the table, their columns separated by one space.
fn lines(report: &GroupReport) -> Vec<String> {
    let text = report.to_string();
    let (_, table) = text.split_once("\u{1b}[1mBy ").expect("a table");
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    table.lines().skip(1).map(words).collect()
}

/// The values of `key` and the faults, in order of the groups.
fn counts(report: &GroupReport, key: &str) -> Vec<(Value, u64)> {
    let json = report.to_json();
    let groups = json["groups"].as_array().expect("groups");
    groups.iter().map(|group| (group[key].clone(), group["faults"].as_u64().expect("a number"))).collect()
}

#[test]
fn groups_have_their_sums_and_add_up_to_all_faults() {
    let rows = [
        in_module("/bin/cc1", row(10, 1_000)),
        in_module("/lib/libc.so.6", of(FaultKind::Major, row(20, 6_000))),
        brought(OutcomeKind::Anon, Some(1), in_module("/bin/cc1", row(30, 2_000))),
        in_module("/bin/cc1", row(40, None)),
        row(50, 1_000),
        // It did not complete.
        of(FaultKind::Failed, in_module("/bin/cc1", row(60, None))),
    ];

    let report = grouped(by(&[Key::Library]), faults(rows));

    assert_eq!(
        lines(&report),
        [
            "libc.so.6 1 1 6000 ns 60.0% 6000 ns 6000 ns",
            "cc1 3 0 3000 ns 30.0% 1500 ns 2000 ns ≥ 4 KiB",
            "unknown 1 0 1000 ns 10.0% 1000 ns 1000 ns",
        ]
    );
    let text = report.to_string();
    assert!(text.contains("Completed faults: 5, 1 of them major, stall 10.0 µs"), "{text}");
    let json = report.to_json();
    let cc1 = json!({
        "library": "/bin/cc1", "faults": 3, "minor": 3, "major": 0, "stall_ns": 3_000, "share": 0.3,
        "mean_ns": 1_500, "max_ns": 2_000, "without_latency": 1, "bytes": 4_096, "without_bytes": 2,
    });
    assert_eq!(json["groups"][1], cc1);
    assert_eq!(json["groups"][2]["library"], Value::Null);
    let total = &json["total"];
    assert_eq!(
        (&total["faults"], &total["major"], &total["stall_ns"]),
        (&json!(5), &json!(1), &json!(10_000))
    );
    assert_eq!(json["more"]["groups"], 0);
}

#[test]
fn what_is_unknown_is_no_zero() {
    let report = grouped(by(&[Key::Library]), faults([row(10, None)]));

    assert_eq!(lines(&report), ["unknown 1 0"]);
    let group = &report.to_json()["groups"][0];
    for key in ["library", "share", "mean_ns", "max_ns", "bytes"] {
        assert_eq!(group[key], Value::Null, "{key}");
    }
}

#[test]
fn functions_of_one_name_in_two_libraries_are_two() {
    let named = |path, row| FaultRow { function: Some(Arc::from(&b"memset"[..])), ..in_module(path, row) };
    let rows = [
        named("/lib/libc.so.6", row(10, 3_000)),
        named("/lib/libjemalloc.so", row(20, 2_000)),
        named("/lib/libc.so.6", row(30, 4_000)),
        in_module("/lib/libc.so.6", row(40, 1_000)),
        in_kernel(None, row(50, 500)),
        row(60, 100),
    ];

    let report = grouped(by(&[Key::Function]), faults(rows));

    let labels: Vec<_> =
        lines(&report).iter().map(|line| line.split(" 0 ").next().unwrap_or_default().to_owned()).collect();
    let expected = [
        "memset (libc.so.6) 2",
        "memset (libjemalloc.so) 1",
        "unknown (libc.so.6) 1",
        "unknown ([kernel]) 1",
        "unknown 1",
    ];
    assert_eq!(labels, expected);
}

/// The innermost frame of the stack `stack` is 0x34 bytes into a function without a name; one was inlined there.
fn frames(stack: u64) -> Vec<Row> {
    let start = Function { offset: Some(0x34), ..Function::default() };
    let inlined = Function { name: Some(Arc::from(&b"inlined"[..])), ..Function::default() };
    let place = |position, functions: &[Function]| CodePlace {
        module: Some(module("/lib/libc.so.6")),
        position: CodePosition::InFile(position),
        build_id: None,
        functions: functions.into(),
    };
    let addr = VirtAddr::from_raw(0x7f00_0000_1234);
    let frame = StackFrame { addr, is_return: false, by_frame_pointer: false };
    let inner = place(0x1234, &[inlined.clone(), start.clone()]);
    let row = |depth, place, function, inlined| {
        Row::Frame(FrameRow { stack, depth, frame, place, function, inlined, end: Some(StackEnd::Root) })
    };
    vec![
        row(0, inner.clone(), inlined, true),
        row(0, inner, start, false),
        row(1, place(0x9999, &[]), Function::default(), false),
    ]
}

#[test]
fn function_without_a_name_is_where_that_of_the_innermost_frame_begins() {
    let on_stack = |row| FaultRow { stack: Some(3), ..in_module("/lib/libc.so.6", row) };
    let mut rows = frames(3);
    // The stack of a fault in kernel mode ends in the function that called it.
    rows.extend(faults([on_stack(row(10, 9)), in_kernel(Some(0), on_stack(row(20, 8)))]));

    let report = grouped(by(&[Key::Function, Key::Stack]), rows);

    assert_eq!(
        lines(&report),
        [
            "libc.so.6+0x1200 3 libc.so.6+0x1200 1 0 9 ns 52.9% 9 ns 9 ns",
            "unknown ([kernel]) 3 libc.so.6+0x1200 1 0 8 ns 47.1% 8 ns 8 ns",
        ]
    );
    let json = report.to_json();
    assert_eq!(
        (&json["groups"][0]["stack"], &json["groups"][0]["function"]["name"]),
        (&json!(3), &Value::Null)
    );
    assert_eq!(json["groups"][0]["function"]["file_offset_bytes"], 0x1200);
}

#[test]
fn call_that_is_not_known_is_another_thing_than_none() {
    let rows = [
        row(10, 900),
        in_kernel(Some(0), row(20, 800)),
        in_kernel(Some(9_999), row(30, 700)),
        in_kernel(None, row(40, 600)),
    ];

    let report = grouped(by(&[Key::Syscall]), faults(rows));

    let calls = [("-".into(), 1), ("read".into(), 1), ("syscall_9999".into(), 1), (Value::Null, 1)];
    assert_eq!(counts(&report, "syscall"), calls);
}

#[test]
fn processes_of_one_name_are_one_group_that_says_how_many_they_are() {
    let by_thread = |tgid, tid, comm, row: FaultRow| FaultRow {
        fault: Fault { tid: Tid(tid), ..row.fault },
        process: Some(process(tgid)),
        comm: Some(Comm::from_text(comm)),
        ..row
    };
    let rows = || {
        faults([
            by_thread(42, 42, "cc1", row(10, 1_000)),
            by_thread(43, 43, "cc1", row(20, 1_000)),
            by_thread(43, 44, "worker", row(30, 1_000)),
            by_thread(43, 45, "worker", row(40, 1_000)),
            by_thread(43, 45, "worker", row(50, 1_000)),
            FaultRow { process: None, process_comm: None, comm: None, ..row(60, 1) },
        ])
    };
    let of = |keys: &[Key]| -> Vec<Value> {
        let json = grouped(by(keys), rows()).to_json();
        json["groups"].as_array().expect("groups").iter().map(|group| group["of"].clone()).collect()
    };

    assert_eq!(of(&[Key::Process]), [json!(2), Value::Null]);
    // Two leaders are called as their process, two others as workers; of the last fault the thread alone is known.
    assert_eq!(of(&[Key::Thread]), [json!(2), json!(2), json!(1)]);
    assert_eq!(of(&[Key::Process, Key::Thread]), [json!(2), json!(2), json!(1)]);
    let text = lines(&grouped(by(&[Key::Process]), rows()));
    assert_eq!(text[0], "cc1 2 5 0 5000 ns 100.0% 1000 ns 1000 ns");
}

#[test]
fn selection_is_half_open_in_time_and_leaves_out_what_may_be_of_others() {
    let of = |tgid, row| FaultRow { process: Some(process(tgid)), ..row };
    let rows = [
        of(42, row(99, 1)),
        of(42, row(100, 10)),
        of(43, row(150, 100)),
        FaultRow { process: None, ..row(160, 1_000) },
        of(44, row(199, 10_000)),
        of(42, row(200, 100_000)),
    ];
    let times = TimeRange { from: Some(Nanos::new(100)), to: Some(Nanos::new(200)) };

    let report =
        grouped(Grouping { pids: vec![Tgid(42), Tgid(44)], times, ..by(&[Key::Thread]) }, faults(rows));

    let text = report.to_string();
    let heading = "Completed faults of processes 42, 44, from 100ns on, before 200ns: 2, 0 of them major, stall 10.0 µs";
    assert!(text.contains(heading), "{text}");
    assert!(text.contains("1 more, of which the process is not known, are left out"), "{text}");
    let json = report.to_json();
    assert_eq!(json["total"]["stall_ns"], 10_010);
    let selected = json!({ "tgids": [42, 44], "from_ns": 100, "to_ns": 200, "left_out_without_process": 1 });
    assert_eq!(json["selected"], selected);
}

#[test]
fn groups_that_are_not_shown_are_counted_and_summed() {
    let rows = || {
        faults([
            brought(OutcomeKind::Zero, None, row(10, 5_000)),
            brought(OutcomeKind::Swap, Some(1), row(20, 1_000)),
            brought(OutcomeKind::Swap, Some(1), row(30, 1_000)),
            brought(OutcomeKind::Anon, Some(512), row(40, 2_000)),
        ])
    };
    let first = |order| {
        let report = grouped(Grouping { order, most: Some(1), ..by(&[Key::Outcome]) }, rows());
        lines(&report)
    };

    let more = "… 2 more 3 0 4000 ns 44.4% 1333 ns 2000 ns 2.0 MiB";
    assert_eq!(first(Order::Stall), ["zero 1 0 5000 ns 55.6% 5000 ns 5000 ns", more]);
    assert!(first(Order::Faults)[0].starts_with("swap 2 0 "), "{:?}", first(Order::Faults));
    assert!(first(Order::Bytes)[0].starts_with("anon 1 0 "), "{:?}", first(Order::Bytes));
    let json = grouped(Grouping { most: Some(1), ..by(&[Key::Outcome]) }, rows()).to_json();
    assert_eq!((&json["more"]["groups"], &json["more"]["stall_ns"]), (&json!(2), &json!(4_000)));
    assert_eq!(json["groups"].as_array().map(Vec::len), Some(1));
}

#[test]
fn regions_have_their_last_place_and_files_their_names() {
    let placed = |region, name: &[u8], row| {
        let place =
            FaultPlace { region: RegionId(region), offset: 0, name: Arc::from(name), file_offset: None };
        FaultRow { place: Some(place), ..row }
    };
    let range = VirtRange::new(VirtAddr::from_raw(0x1000), VirtAddr::from_raw(0x9000)).expect("not empty");
    let backing = Backing::Heap;
    let label = |id, name: &[u8]| RegionLabel {
        id: RegionId(id),
        range,
        perms: *b"rw-p",
        backing,
        name: Arc::from(name),
        file_offset: None,
    };
    let region = |id, name: &[u8]| {
        Row::Region(RegionSummary {
            label: label(id, name),
            space: SpaceId(1),
            ..report().summary.regions[0].clone()
        })
    };
    let mut rows = faults([placed(5, b"[heap]", row(10, 3)), placed(6, b"", row(20, 2)), row(30, 1)]);
    rows.extend([region(5, b"[heap]"), region(7, b"[other]"), region(6, b"")]);

    let report = grouped(by(&[Key::Region, Key::File]), rows);

    let labels: Vec<_> =
        lines(&report).iter().map(|line| line.split(" 1 0 ").next().unwrap_or_default().to_owned()).collect();
    let expected =
        ["5 rw-p 0x1000-0x9000 [heap] [heap]", "6 rw-p 0x1000-0x9000 [anon] [anon]", "unknown unknown"];
    assert_eq!(labels, expected);
    let json = report.to_json();
    assert_eq!(json["groups"][1]["region"]["start_addr"], "0x1000");
    assert_eq!(json["groups"][1]["file"], "[anon]");
    assert!(!report.groups.regions.contains_key(&RegionId(7)), "nobody faulted there");
}

#[test]
fn libraries_of_one_file_name_are_shown_by_their_paths() {
    let rows = [
        in_module("/opt/libc.so.6", row(10, 3)),
        in_module("/lib/libc.so.6", row(20, 2)),
        in_module("/lib/libm.so.6", row(30, 1)),
    ];

    let report = grouped(by(&[Key::Library]), faults(rows));

    let labels: Vec<_> =
        lines(&report).iter().map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect();
    assert_eq!(labels, ["/opt/libc.so.6", "/lib/libc.so.6", "libm.so.6"]);
}

#[test]
fn rows_are_wanted_only_as_far_as_keys_take_them() {
    let wants = |keys: &[Key]| Groups::new(by(keys)).wants();

    assert_eq!(wants(&[Key::Library, Key::Process]), RowSet::FAULTS);
    assert_eq!(wants(&[Key::Function]), RowSet::FAULTS | RowSet::FRAMES);
    assert_eq!(wants(&[Key::Region]), RowSet::FAULTS | RowSet::REGIONS);
}
