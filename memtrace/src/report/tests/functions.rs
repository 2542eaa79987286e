use super::*;
use crate::{
    event::{Function, StackEnd},
    timeline::{CodePlace, CodePosition, ResidentPages, StackTotals},
};

/// Code of the function `name` of a file, with what was inlined there, innermost first.
fn code(module: &str, name: &str, inlined: &[&str]) -> CodePlace {
    let named = |name: &&str| Function { name: Some(Arc::from(name.as_bytes())), ..Function::default() };
    CodePlace {
        module: Some(Module::Named(Arc::from(module.as_bytes()))),
        position: CodePosition::InFile(0x1000),
        build_id: None,
        functions: inlined.iter().chain([&name]).map(named).collect(),
    }
}

fn nameless(module: &str, offset: u64) -> CodePlace {
    CodePlace { position: CodePosition::InFile(offset), functions: Arc::default(), ..code(module, "", &[]) }
}

/// Of 100 µs `read_all` took 60 in `memcpy` and 10 by itself, `sort` 29.5 through an inlined function and below another caller; the start of
/// 400 ns is not known, nor is the stack of one fault of 100 ns.
fn named() -> Report {
    let (start, main) = (code("/bin/sort", "_start", &[]), code("/bin/sort", "main", &[]));
    let read_all = code("/bin/sort", "read_all", &[]);
    let sort = code("/bin/sort", "sort", &["swap"]);
    let stack = |stack, places: &[&CodePlace], end, totals| {
        let places = places.iter().map(|place| (*place).clone()).collect();
        StackTotals { stack, places, end, totals }
    };
    let memcpy = code("/lib/libc.so.6", "memcpy", &[]);
    let callback = nameless("/lib/libc.so.6", 0x2000);
    let mut report = report();
    report.summary.stacks = vec![
        stack(1, &[&memcpy, &read_all, &main, &start], StackEnd::Root, totals(30, 2, 60_000)),
        stack(2, &[&read_all, &main, &start], StackEnd::Root, totals(5, 0, 10_000)),
        stack(3, &[&sort, &callback, &main, &start], StackEnd::Root, totals(20, 0, 29_500)),
        stack(4, &[&memcpy], StackEnd::NoFramePointer, totals(1, 0, 400)),
    ];
    report.summary.without_stack = totals(1, 0, 100);
    let label = |place: &CodePlace| FunctionLabel::at(place);
    report.functions = vec![
        (label(&memcpy), totals(31, 2, 60_400)),
        (label(&sort), totals(20, 0, 29_500)),
        (label(&read_all), totals(5, 0, 10_000)),
        (label(&callback), totals(1, 0, 100)),
    ];
    report
}

#[test]
fn functions_stand_by_stall_with_their_libraries_in_place_of_code() {
    let report = named();
    let text = report.to_string();

    let (_, section) = text.split_once("By function").expect("a section");
    let rows: Vec<_> = section.lines().skip(1).take(4).collect();
    let expected = [
        "  memcpy (libc.so.6)                33           2     60.4 µs       60.4%",
        "  sort (sort)                       20           0     29.5 µs       29.5%",
        "  read_all (sort)                    5           0     10.0 µs       10.0%",
        "  libc.so.6+0x2000                   1           0      100 ns        0.1%",
    ];
    assert_eq!(rows, expected);
    assert!(!text.contains("By code"), "{text}");
    let json = report.to_json();
    let memcpy = json!({
        "function": "memcpy", "module": "/lib/libc.so.6", "build_id": null, "file_offset_bytes": null, "address": null,
        "minor": 31, "major": 2, "stall_ns": 60_400,
    });
    assert_eq!(json["functions"][0], memcpy);
    assert_eq!(json["functions"][3]["file_offset_bytes"], 0x2000);
    // Places in code stay in JSON: `memcpy`, `read_all` and `sort` are innermost somewhere.
    assert_eq!(json["code"].as_array().map(Vec::len), Some(3));
}

#[test]
fn code_stands_beside_functions_where_most_have_no_name() {
    let mut report = named();
    report.functions = vec![
        (FunctionLabel::at(&nameless("/bin/sort", 0x3000)), totals(50, 0, 60_000)),
        (FunctionLabel::at(&code("/bin/sort", "sort", &[])), totals(49, 0, 50_000)),
    ];

    let text = report.to_string();

    let (function, code) = (text.find("By function"), text.find("By code"));
    assert!(function.is_some() && function < code, "{text}");
}

#[test]
fn call_paths_begin_with_the_outermost_caller() {
    let text = named().to_string();

    let (_, section) = text.split_once("Call paths").expect("a section");
    let lines: Vec<_> = section.lines().skip(1).take(10).collect();
    let expected = [
        "      faults       stall       share  outermost caller first",
        "          57     99.5 µs       99.5%  _start (sort)",
        "                                      main (sort)",
        "          37     70.0 µs       70.0%  └ read_all (sort)",
        "          32     60.0 µs       60.0%    memcpy (libc.so.6)",
        "          20     29.5 µs       29.5%  └ libc.so.6+0x2000",
        "                                        sort (sort)",
        "                                        swap (sort)",
        "  paths that took less than 1% of the stall are left out; memtrace export -f folded has all, with every caller",
        "",
    ];
    assert_eq!(lines, expected, "{section}");
    assert!(!text.contains("  stack 1"), "{text}");
}

#[test]
fn call_paths_are_a_tree_in_json_with_all_faults() {
    let tree = &named().to_json()["call_tree"];

    let names = |nodes: &Value| -> Vec<Value> {
        nodes.as_array().expect("nodes").iter().map(|node| node["function"].clone()).collect()
    };
    assert_eq!(names(tree), [json!("_start"), Value::Null, Value::Null]);
    let main = &tree[0]["children"][0];
    assert_eq!((&main["minor"], &main["major"], &main["stall_ns"]), (&json!(55), &json!(2), &json!(99_500)));
    assert_eq!(names(&main["children"]), [json!("read_all"), Value::Null]);
    let memcpy = &main["children"][0]["children"][0];
    assert_eq!((&memcpy["module"], &memcpy["children"]), (&json!("/lib/libc.so.6"), &json!([])));
    assert_eq!(
        (&tree[1]["missing_callers"], &tree[1]["stall_ns"]),
        (&json!("no_frame_pointer"), &json!(400))
    );
    assert_eq!((&tree[2]["missing_callers"], &tree[2]["stall_ns"]), (&Value::Null, &json!(100)));
    let stall: u64 =
        tree.as_array().expect("nodes").iter().filter_map(|node| node["stall_ns"].as_u64()).sum();
    assert_eq!(stall, 100_000);
}

#[test]
fn path_of_many_frames_is_shortened_in_its_middle_and_its_json_can_be_parsed() {
    let mut report = named();
    let frame = |index: u32| code("/bin/sort", if index.is_multiple_of(2) { "even" } else { "odd" }, &[]);
    let deep = StackTotals {
        stack: 9,
        places: (0..100_000).map(frame).collect(),
        end: StackEnd::Root,
        totals: totals(100, 0, 1_000_000),
    };
    report.summary.stacks.push(deep);

    let text = report.to_string();
    let (_, section) = text.split_once("Call paths").expect("a section");
    let steps: Vec<_> = section.lines().skip(2).take(7).map(|line| line[36..].trim()).collect();
    let [odd, even] = ["odd (sort)", "even (sort)"];
    assert_eq!(steps, [odd, even, "… 99994 more", odd, even, odd, even]);
    let json: Value =
        serde_json::from_str(&report.to_json().to_string()).expect("no more levels than parsers take");
    assert_eq!(json["call_tree"][0]["function"], "odd");
}

#[test]
fn memory_that_stays_says_where_it_is_a_lower_bound() {
    let mut report = named();
    let line = "more stays: what a process had when it was in too many pieces is not among it";
    report.summary.resident = vec![ResidentPages { process: None, stack: 1, pages: PageCount::new(3) }];
    assert!(!report.to_string().contains(line));

    report.summary.resident_lower_bound = true;

    let text = report.to_string();
    let (_, section) = text.split_once("Memory that stays").expect("a section");
    assert!(section.contains(line), "{text}");
    assert_eq!(report.to_json()["resident_lower_bound"], true);
}

#[test]
fn without_names_there_are_neither_functions_nor_paths() {
    let report = report();
    let text = report.to_string();

    assert!(!text.contains("By function") && !text.contains("Call paths"), "{text}");
    assert!(text.contains("By code") && text.contains("  stack 2"), "{text}");
    let json = report.to_json();
    assert_eq!((&json["functions"], &json["call_tree"]), (&json!([]), &json!([])));
}
