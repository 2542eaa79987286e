//! Stacks of faults in formats of others, from a recording that is small enough to be summed up by hand. Needs no privileges.

use std::{fs, path::Path};

use memtrace_tests::{directory, fixture, memtrace, protobuf::Message, run::Run};

/// What `export` writes of the recording.
fn export(args: &[&str]) -> String {
    let directory = directory();
    let path = directory.path().join("stacks.mtrace");
    fs::write(&path, fixture::stacks()).expect("room");
    memtrace!().run(["export"]).args(args).arg(&path).finish().expect_code(0).stdout
}

/// The profile, unzipped.
fn profile(directory: &Path, args: &[&str]) -> Vec<u8> {
    let [recording, profile] = ["stacks.mtrace", "profile.pb"].map(|name| directory.join(name));
    fs::write(&recording, fixture::stacks()).expect("room");
    let out = directory.join("profile.pb.gz");
    let run = memtrace!().run(["export", "-f", "pprof", "-o"]).arg(&out).args(args).arg(&recording);
    assert_eq!(run.finish().expect_code(0).stdout, "");
    Run::new("gzip").args(["-d"]).arg(&out).finish().expect_code(0);
    fs::read(profile).expect("gzip made it")
}

/// Sum of a column of the completed faults of the table.
fn sum_of_table(column: &str) -> u64 {
    let table = export(&["-f", "csv", "--table", "faults"]);
    let mut reader = csv::Reader::from_reader(table.as_bytes());
    let header = reader.headers().expect("a header").clone();
    let index = |name| header.iter().position(|one| one == name).expect("there is such a column");
    let rows = reader.records().map(|row| row.expect("RFC 4180"));
    let completed = rows.filter(|row| ["minor", "major"].contains(&&row[index("kind")]));
    completed.map(|row| row[index(column)].parse::<u64>().expect("a number")).sum()
}

#[test]
fn folded_stacks_are_weighed_by_stall_or_by_faults() {
    assert_eq!(
        export(&["-f", "folded"]),
        "demo;[unknown] 40\n\
         demo;[unreadable];main;fill:all 700\n\
         demo;demo+0xff;main;fill:all 2000\n\
         demo;demo+0xff;main;fill:all;pread64_[k];copy_page_to_iter_[k] 90000\n"
    );
    assert_eq!(
        export(&["-f", "folded", "--weight", "faults"]),
        "demo;[unknown] 1\n\
         demo;[unreadable];main;fill:all 1\n\
         demo;demo+0xff;main;fill:all 2\n\
         demo;demo+0xff;main;fill:all;pread64_[k];copy_page_to_iter_[k] 1\n"
    );
    // No scan saw what the faults brought.
    assert_eq!(export(&["-f", "folded", "--weight", "bytes"]), "");
}

#[test]
fn recording_without_stacks_is_one_line_for_each_process_and_call() {
    let directory = directory();
    let path = directory.path().join("small.mtrace");
    fs::write(&path, fixture::small()).expect("room");

    let run = memtrace!().run(["export", "-f", "folded", "--weight", "faults"]).arg(&path);

    let expected = "demo;[unknown] 3\ndemo;[unknown];[kernel]_[k] 1\n";
    assert_eq!(run.finish().expect_code(0).stdout, expected);
}

#[test]
fn values_of_a_profile_add_up_to_those_of_the_table() {
    let directory = directory();
    let bytes = profile(directory.path(), &[]);
    let profile = Message::read(&bytes);
    let strings = profile.texts(6);
    let text = |message: &Message<'_>, field| strings[usize::try_from(message.number(field)).expect("small")];

    let types: Vec<_> = profile.messages(1).iter().map(|one| (text(one, 1), text(one, 2))).collect();
    assert_eq!(
        types,
        [("faults", "count"), ("stall", "nanoseconds"), ("bytes", "bytes"), ("resident", "bytes")]
    );
    assert_eq!(text(&profile, 14), "stall");
    let values: Vec<_> = profile.messages(2).iter().map(|sample| sample.numbers(2)).collect();
    let sum = |index: usize| values.iter().map(|values| values[index]).sum::<u64>();
    // All are at one page, and the stack of the last one is not known.
    assert_eq!([sum(0), sum(1), sum(2), sum(3)], [5, 92_740, 0, 0]);
    assert_eq!(sum(1), sum_of_table("latency_ns"));
    let comment: Vec<_> = profile.numbers(13);
    assert_eq!(
        comment.iter().map(|line| strings[usize::try_from(*line).expect("small")]).collect::<Vec<_>>(),
        ["demo"]
    );
    // The recording began 5 s after the Epoch, and its last fault was 16 ms later.
    assert_eq!((profile.number(9), profile.number(10)), (5_000_000_000, 16_000_000));
}

#[test]
fn places_of_a_profile_are_in_a_file_with_a_build_id() {
    let directory = directory();
    let bytes = profile(directory.path(), &["--weight", "faults"]);
    let profile = Message::read(&bytes);
    let strings = profile.texts(6);
    let text = |message: &Message<'_>, field| strings[usize::try_from(message.number(field)).expect("small")];
    assert_eq!(text(&profile, 14), "faults");

    let mappings = profile.messages(3);
    let file = mappings.iter().find(|mapping| text(mapping, 5) == "/bin/demo").expect("it has frames");
    assert_eq!(text(file, 6), "0a0b0c");
    let (start, limit, offset) = (file.number(2), file.number(3), file.number(4));
    // It is mapped at 0x20000 to 0x22000, from its start on. Not all that is in it has a name.
    assert_eq!((limit - start, offset, file.number(7)), (0x2000, 0, 0));

    let name = |id| {
        let functions = profile.messages(5);
        text(functions.iter().find(|function| function.number(1) == id).expect("it is there"), 2)
    };
    let in_file = profile.messages(4).into_iter().filter(|location| location.number(2) == file.number(1));
    let places: Vec<_> = in_file
        .map(|location| {
            let lines = location.messages(4);
            let lines: Vec<_> = lines.iter().map(|line| (name(line.number(1)), line.number(2))).collect();
            (location.number(3) - start, lines)
        })
        .collect();
    assert_eq!(places, [(0x10, vec![("fill;all", 7), ("main", 40)]), (0xff, Vec::new())]);
}
