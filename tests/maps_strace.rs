//! Successful calls by kind against strace(1), which sees each call by ptrace(2).
//!
//! Each program runs twice, with the same files and without randomised addresses, so that it makes the same calls.

use std::{collections::BTreeMap, fs};

use memtrace_tests::{directory, maps::successful_calls, memtrace, program, require, run::Run};

/// Kinds of calls whose counts must agree.
const KINDS: [&str; 6] = ["mmap", "munmap", "mremap", "mprotect", "madvise", "brk"];

/// Successful calls in what `strace -f` wrote, by kind.
fn successes(text: &str) -> BTreeMap<&str, u64> {
    let mut counts = BTreeMap::new();
    for line in text.lines() {
        // A line is `PID name(arguments) = result`, or in two parts `PID name(arguments <unfinished ...>` and
        // `PID <... name resumed>arguments) = result`; the result is in the last part.
        let Some((_pid, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        let call = call.strip_prefix("<... ").unwrap_or(call);
        let Some(name) = call.split(['(', ' ']).next() else { continue };
        let Some((_, result)) = call.rsplit_once(" = ") else { continue };
        if KINDS.contains(&name) && !result.starts_with(['-', '?']) {
            *counts.entry(name).or_default() += 1;
        }
    }
    counts
}

/// Runs `command` below strace, then below memtrace; both must have the same calls.
#[track_caller]
fn expect_equal(command: &[&str]) {
    let scratch = directory();
    let fixed = [&["setarch", "-R"], command].concat();
    // Once before, so that both find the same caches.
    let _warm = Run::new(fixed[0]).args(&fixed[1..]).in_dir(scratch.path()).finish().expect_code(0);
    let strace = ["-f", "-q", "-e", "trace=%memory", "-o", "calls", "--"];
    let run = Run::new("strace").args(strace).args(&fixed).in_dir(scratch.path()).finish();
    let _traced = run.expect_code(0);
    let text = fs::read(scratch.path().join("calls")).expect("strace writes its file");
    let text = String::from_utf8_lossy(&text);

    let recording = memtrace!().record(&[], &fixed).expect_code(0);

    let known = successes(&text);
    let rows = recording.maps();
    let mut found = successful_calls(&rows);
    found.retain(|kind, _| KINDS.contains(kind));
    assert!(known["mmap"] > 0, "{text}");
    // memtrace begins at the execve of the command, as strace does.
    assert_eq!(found, known, "{command:?}");
}

#[test]
fn lines_of_strace_are_counted_by_result() {
    let text = "10 brk(NULL) = 0x5000\n\
        10 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 3, 0 <unfinished ...>\n\
        11    munmap(0x7000, 4096) = 0\n\
        10 <... mmap resumed>) = 0x7000\n\
        11 mprotect(0x1000, 4096, PROT_NONE) = -1 ENOMEM (Cannot allocate memory)\n\
        11 munmap(0x7000, 4096 <unfinished ...>) = ?\n\
        10 +++ exited with 0 +++\n";

    let counts = successes(text);

    assert_eq!(counts, [("brk", 1), ("mmap", 1), ("munmap", 1)].into());
}

#[test]
fn ls() {
    require!(root);
    require!(bpf);
    require!(program "strace" of "strace");
    expect_equal(&["ls", "-l", "/usr/share"]);
}

#[test]
fn sqlite() {
    require!(root);
    require!(bpf);
    require!(program "strace" of "strace");
    require!(program "sqlite3" of "sqlite3");
    let script = "create table t(x); with recursive n(i) as (select 1 union all select i + 1 from n limit 20000) \
        insert into t select randomblob(i % 500) from n; select count(*) from t order by x;";
    expect_equal(&["sqlite3", ":memory:", script]);
}

#[test]
fn python() {
    require!(root);
    require!(bpf);
    require!(program "strace" of "strace");
    require!(program "python3" of "python3");
    expect_equal(&["env", "PYTHONHASHSEED=0", "python3", "-c", "import json; len([0] * 1000000)"]);
}

#[test]
fn compiler_and_its_children() {
    require!(root);
    require!(bpf);
    require!(program "strace" of "strace");
    require!(program "gcc" of "gcc");
    let script = "printf 'int main(void) { return 0; }\\n' >a.c && gcc -o a a.c";
    expect_equal(&["sh", "-c", script]);
}

#[test]
fn perl() {
    require!(root);
    require!(bpf);
    require!(program "strace" of "strace");
    require!(program "perl" of "perl");
    expect_equal(&[
        "env",
        "PERL_HASH_SEED=0",
        "perl",
        "-e",
        "my @a = map { 'x' x $_ } 1..3000; print scalar @a",
    ]);
}

#[test]
fn fights_over_addresses() {
    require!(root);
    require!(bpf);
    require!(program "strace" of "strace");
    // Alone, a thread's random numbers give the same calls each time.
    expect_equal(&[
        program!("mapstress"),
        "--threads",
        "1",
        "--calls",
        "2000",
        "--forks",
        "2",
        "--execs",
        "2",
    ]);
}
