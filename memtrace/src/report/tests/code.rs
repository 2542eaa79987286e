use super::*;
use crate::{
    event::StackEnd,
    timeline::{CodePlace, CodePosition, StackTotals},
};

pub(super) fn modules() -> BTreeMap<Option<Module>, CodeTotals> {
    let sort = Module::Named(Arc::from(&b"/usr/bin/sort"[..]));
    [
        (Some(sort), totals(90, 0, 12_000)),
        (Some(Module::Kernel), totals(8, 2, 36_000)),
        (None, totals(2, 0, 0)),
    ]
    .into()
}

/// Two stacks with the same innermost frame, and one in memory without a file.
pub(super) fn stacks() -> Vec<StackTotals> {
    let in_file = |module: &str, offset| CodePlace {
        module: Some(Module::Named(Arc::from(module.as_bytes()))),
        position: CodePosition::InFile(offset),
        build_id: Some(Arc::from([0x0a, 0xbc])),
        functions: Arc::default(),
    };
    let (copy, sort) = (in_file("/lib/libc.so.6", 0x1000), |offset| in_file("/usr/bin/sort", offset));
    let compiled = CodePlace {
        module: Some(Module::Anonymous),
        position: CodePosition::At(VirtAddr::from_raw(0x7f00_0000_0010)),
        build_id: None,
        functions: Arc::default(),
    };
    let stack = |stack, places: Vec<CodePlace>, end, totals| StackTotals {
        stack,
        places: places.into(),
        end,
        totals,
    };
    vec![
        stack(1, vec![copy.clone(), sort(0x2000)], StackEnd::Root, totals(50, 0, 5_000)),
        stack(2, vec![copy, sort(0x3000)], StackEnd::Root, totals(39, 2, 40_000)),
        stack(3, vec![compiled], StackEnd::NoFramePointer, totals(10, 0, 3_000)),
    ]
}

#[test]
fn code_stands_by_stall_with_its_share_of_it() {
    let text = report().to_string();
    let (_, section) = text.split_once("By code").expect("a section");
    let rows: Vec<_> = section.lines().skip(1).take(2).collect();
    assert_eq!(
        rows,
        [
            "  libc.so.6+0x1000                  91           2     45.0 µs       90.0%",
            "  [anon] 0x7f0000000010             10           0     3000 ns        6.0%",
        ]
    );

    let json = report().to_json();
    let place = serde_json::json!({
        "module": "/lib/libc.so.6", "build_id": "0abc", "file_offset_bytes": 0x1000, "address": null,
        "minor": 89, "major": 2, "stall_ns": 45_000,
    });
    assert_eq!(json["code"][0], place);
    assert_eq!(json["code"][1]["address"], "0x7f0000000010");
}

#[test]
fn system_calls_have_their_names() {
    let text = report().to_string();
    let (_, section) = text.split_once("By system call").expect("a section");
    let rows: Vec<_> = section.lines().skip(1).take(2).collect();
    assert!(rows[0].starts_with("  read ") && rows[1].starts_with("  unknown, or none "), "{rows:?}");

    let calls = serde_json::json!([
        { "syscall": "read", "minor": 3, "major": 2, "stall_ns": 30_000 },
        { "syscall": null, "minor": 5, "major": 0, "stall_ns": 6_000 },
    ]);
    assert_eq!(report().to_json()["syscalls"], calls);
}

#[test]
fn stacks_say_how_far_they_reach() {
    let text = report().to_string();
    let (_, section) = text.split_once("Stacks").expect("a section");
    let words: Vec<_> = section.lines().skip(1).take(7).map(|line| line.split("  ").nth(1)).collect();
    let expected =
        ["to the start of threads", "no_frame_pointer", "unknown", "stack 2", "", "", "stack 1"].map(Some);
    assert_eq!(words, expected, "{section}");

    let json = report().to_json();
    let ends = serde_json::json!([
        { "end": "root", "minor": 89, "major": 2, "stall_ns": 45_000 },
        { "end": "no_frame_pointer", "minor": 10, "major": 0, "stall_ns": 3_000 },
        { "end": null, "minor": 1, "major": 0, "stall_ns": 2_000 },
    ]);
    assert_eq!(json["stack_ends"], ends);
    assert_eq!(json["stacks"][1]["frames"][1]["file_offset_bytes"], 0x3000);
}

#[test]
fn recording_without_stacks_has_no_section_of_them() {
    let mut report = report();
    report.header.capture.stacks = false;
    report.summary.stacks = Vec::new();
    let text = report.to_string();

    assert!(!text.contains("By code") && !text.contains("Stacks"), "{text}");
    assert_eq!(report.to_json()["stack_ends"], serde_json::json!([]));
}

#[test]
fn modules_stand_by_stall_with_their_share_of_it() {
    let text = report().to_string();

    let (_, section) = text.split_once("By module").expect("a section");
    let rows: Vec<Vec<_>> =
        section.lines().skip(1).take(3).map(|row| row.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["[kernel]", "10", "2", "36.0", "µs", "75.0%"]);
    assert_eq!(rows[1], ["sort", "90", "0", "12.0", "µs", "25.0%", "/usr/bin/sort"]);
    assert_eq!(rows[2], ["in", "no", "known", "region", "2", "0", "0.0%"]);
    let json = json!([
        { "module": "[kernel]", "minor": 8, "major": 2, "stall_ns": 36_000 },
        { "module": "/usr/bin/sort", "minor": 90, "major": 0, "stall_ns": 12_000 },
        { "module": null, "minor": 2, "major": 0, "stall_ns": 0 },
    ]);
    assert_eq!(report().to_json()["modules"], json);
}
