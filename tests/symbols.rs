//! Names of code: functions, lines and what was inlined, of files, of compilers that run beside, and of the kernel.

use std::{collections::BTreeSet, fs, iter, path::Path};

use memtrace_tests::{
    directory, gcc,
    ledger::Area,
    made, memtrace,
    recording::Recording,
    require,
    rows::{FaultRow, FrameRow},
    run::Run,
    symbols::Symbols,
};

/// Touches 16 pages in `touch`, into which `store` is inlined, and says where. `touch` and `main` are no symbols of a library.
const SOURCE: &str = r#"
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
static inline __attribute__((always_inline)) void store(char *memory, int page) {
    memory[page * 4096L] = 1; /* stores */
}
static __attribute__((noipa)) void touch(char *memory) {
    for (int page = 0; page < 16; page++)
        store(memory, page); /* touches */
    __asm__ volatile ("" ::: "memory");
}
int main(int count, char **names) {
    char *memory = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(memory, 65536, MADV_NOHUGEPAGE);
    if (count > 1)
        unlink(names[0]);
    touch(memory); /* calls */
    if (count > 1)
        getchar();
    printf("{\"tid\":%d,\"start\":%lu,\"end\":%lu,\"minor\":16,\"major\":0,\"failed\":0,\"refused\":0,\"emulated\":0,"
           "\"retried\":0,\"unfinished\":0}\n", getpid(), (long)memory, (long)memory + 65536);
    return 0;
}
"#;

/// The line of `source` that has this comment.
fn line_of(source: &str, comment: &str) -> u64 {
    let line = source.lines().position(|line| line.contains(&format!("/* {comment} */")));
    line.expect("it is there") as u64 + 1
}

/// Runs a program of binutils or xz.
#[track_caller]
fn run(program: &str, arguments: &[&str]) {
    drop(Run::new(program).args(arguments).finish().expect_code(0));
}

/// Of the faults in the memory that the program touched: the function of each, and its frames.
#[track_caller]
fn touched(recording: &Recording) -> Vec<(FaultRow, Vec<FrameRow>)> {
    let area: Area = recording.run.last_line();
    let (faults, frames) = (recording.faults(), recording.frames());
    assert_eq!(area.found_in(&faults), area);
    let of = |stack: u64| frames.iter().filter(|frame| frame.stack == stack).cloned().collect();
    area.rows_of(&faults).map(|fault| (fault.clone(), of(fault.stack.expect("a stack")))).collect()
}

/// The functions of frames of the program, innermost first.
fn functions<'a>(frames: &'a [FrameRow], program: &str) -> Vec<&'a str> {
    let own = frames.iter().filter(|frame| frame.module.as_deref() == Some(program));
    own.map(|frame| frame.function.as_deref().unwrap_or("")).collect()
}

#[test]
fn functions_have_names_lines_and_what_was_inlined() {
    require!(root);
    require!(bpf);
    require!(btf);
    let scratch = directory();
    let program = made!(gcc::optimised(scratch.path(), SOURCE, "-g"));

    let recording = memtrace!().record(&["-g"], &[&program]).expect_code(0);

    for (fault, frames) in touched(&recording) {
        assert_eq!(fault.ip_function.as_deref(), Some("touch"));
        assert_eq!(functions(&frames, &program), ["store", "touch", "main", "_start"], "{frames:#?}");
        let places: Vec<_> =
            frames[..3].iter().map(|frame| (frame.depth, frame.inlined, frame.line)).collect();
        let lines = ["stores", "touches", "calls"].map(|comment| Some(line_of(SOURCE, comment)));
        assert_eq!(places, [(0, 1, lines[0]), (0, 0, lines[1]), (1, 0, lines[2])]);
        assert!(
            frames[..3]
                .iter()
                .all(|frame| frame.source_file.as_deref().is_some_and(|file| file.ends_with("source.c")))
        );
    }
    let calls = recording.maps();
    let mapped = calls
        .iter()
        .find(|call| call.action == "mmap" && call.ip_module.is_some())
        .expect("libc maps memory");
    assert_eq!(mapped.syscall.as_deref(), Some("mmap"));
}

#[test]
fn code_of_a_stripped_file_has_the_start_of_its_function() {
    require!(root);
    require!(bpf);
    require!(btf);
    require!(program "strip" of "binutils");
    let scratch = directory();
    let program = made!(gcc::optimised(scratch.path(), SOURCE, "-g"));
    let symbols = Symbols::of(&program);
    run("strip", &[&program]);

    let recording = memtrace!().record(&["-g"], &[&program]).expect_code(0);

    for (fault, frames) in touched(&recording) {
        assert_eq!((fault.ip_function, frames[0].function.as_deref()), (None, None));
        let offset = frames[0].file_offset_bytes.expect("it is in a file");
        let in_function = frames[0].offset_bytes.expect("the unwind table has its function");
        assert_eq!(symbols.at(offset - in_function), ["touch"]);
        assert!(in_function == 0 || symbols.at(offset - in_function - 1) != ["touch"], "it begins there");
    }
}

#[test]
fn stripped_file_with_a_packed_symbol_table_has_names() {
    require!(root);
    require!(bpf);
    require!(btf);
    require!(program "strip" of "binutils");
    require!(program "xz" of "xz-utils");
    let scratch = directory();
    let program = made!(gcc::optimised(scratch.path(), SOURCE, "-g"));
    let packed = format!("{program}.tables");
    fs::copy(&program, &packed).expect("a copy");
    run("strip", &["--strip-debug", &packed]);
    run("xz", &[&packed]);
    run("strip", &[&program]);
    run("objcopy", &["--add-section", &format!(".gnu_debugdata={packed}.xz"), &program]);

    let recording = memtrace!().record(&["-g"], &[&program]).expect_code(0);

    for (fault, frames) in touched(&recording) {
        assert_eq!(fault.ip_function.as_deref(), Some("touch"));
        assert_eq!(functions(&frames, &program)[..2], ["touch", "main"], "{frames:#?}");
    }
}

#[test]
fn file_that_names_a_pipe_as_its_debug_information_holds_nobody_up() {
    require!(root);
    require!(bpf);
    require!(btf);
    require!(program "objcopy" of "binutils");
    let scratch = directory();
    let program = made!(gcc::optimised(scratch.path(), SOURCE, "-g0"));
    let link = scratch.path().join("link.debug");
    fs::write(&link, "whatever").expect("a file");
    run("objcopy", &[&format!("--add-gnu-debuglink={}", link.display()), &program]);
    fs::remove_file(&link).expect("it is there");
    run("mkfifo", &[&link.display().to_string()]);

    let recording = memtrace!().record(&["-g"], &[&program]).expect_code(0);

    for (fault, frames) in touched(&recording) {
        assert_eq!(fault.ip_function.as_deref(), Some("touch"));
        assert_eq!(functions(&frames, &program)[..2], ["touch", "main"], "{frames:#?}");
    }
}

#[test]
fn program_that_is_deleted_while_it_runs_has_names() {
    require!(root);
    require!(bpf);
    require!(btf);
    let scratch = directory();
    let program = made!(gcc::optimised(scratch.path(), SOURCE, "-g"));

    let mut recording = memtrace!().start(&["-g"], &[&program, "delete"]);
    recording.wait_until_armed();
    // Who is gone before its first stack is unwound takes a deleted file along.
    recording.wait_for_stack(|frame| {
        frame.module.as_deref() == Some(&program) && frame.end.as_deref() == Some("root")
    });
    let recording = recording.finish().expect_code(0);

    assert!(!Path::new(&program).exists());
    for (fault, _) in touched(&recording) {
        assert_eq!(fault.ip_function.as_deref(), Some("touch"));
    }
}

#[test]
fn report_is_the_same_where_no_file_is() {
    require!(root);
    require!(bpf);
    require!(btf);
    let scratch = directory();
    let program = made!(gcc::optimised(scratch.path(), SOURCE, "-g"));
    let recording = memtrace!().record(&["-g"], &[&program]).expect_code(0);
    let report = || memtrace!().run(["report"]).arg(recording.path()).finish().expect_code(0).stdout;
    let before = report();

    fs::remove_file(&program).expect("it is there");

    assert_eq!(report(), before);
    assert!(before.contains("touch"), "{before}");
}

#[test]
fn names_are_added_later_from_files_with_the_same_build_id() {
    require!(root);
    require!(bpf);
    require!(btf);
    require!(program "strip" of "binutils");
    let (scratch, debug) = (directory(), directory());
    let program = made!(gcc::optimised(scratch.path(), SOURCE, "-g -Wl,--build-id"));
    let full = debug.path().join("full");
    fs::copy(&program, &full).expect("a copy");
    run("strip", &[&program]);
    let recording = memtrace!().record(&["-g", "--symbols", "later"], &[&program]).expect_code(0);
    let path = recording.path();
    let named = |recording: &Path| {
        let frames = memtrace!().run(["export", "-f", "csv", "--table", "frames"]).arg(recording).finish();
        frames.expect_code(0).stdout.matches(",touch,").count()
    };
    assert_eq!(named(path), 0);

    // As a debug package lies: the tables alone, below their build ID.
    let build_id = touched(&recording)[0].1[0].build_id.clone().expect("it has one");
    let below = debug.path().join(".build-id").join(&build_id[..2]);
    fs::create_dir_all(&below).expect("a directory");
    let tables = below.join(format!("{}.debug", &build_id[2..]));
    run("objcopy", &["--only-keep-debug", &full.display().to_string(), &tables.display().to_string()]);
    let symbolize = || {
        let run = memtrace!().run(["symbolize", "--debug-dir"]).arg(debug.path()).arg(path).finish();
        run.expect_code(0).stderr
    };
    let cut = scratch.path().join("cut.mtrace");
    let whole = fs::read(path).expect("a file");
    fs::write(&cut, &whole[..whole.len() - 7]).expect("a file");
    let run = memtrace!().run(["symbolize", "--debug-dir"]).arg(debug.path()).arg(&cut).finish();
    run.expect_failure(1, &["cut.mtrace", "is cut"]);
    assert_eq!(fs::metadata(&cut).expect("a file").len(), whole.len() as u64 - 7);

    let said = symbolize();

    assert!(named(path) > 0, "{said}");
    assert!(symbolize().contains("added names of 0 places"), "all is known");
    let info = memtrace!().run(["info"]).arg(path).finish().expect_code(0).stdout;
    assert!(info.contains("whole"), "{info}");
}

/// Makes a function in memory, names it in a map, has it touch 16 pages; then makes another one in its place.
const COMPILER: &str = r#"
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
int main(void) {
    /* push %rbp; mov %rsp,%rbp; movb $1,(%rdi); pop %rbp; ret */
    static const char code[] = "\x55\x48\x89\xe5\xc6\x07\x01\x5d\xc3";
    char *made = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *memory = mmap(0, 131072, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(memory, 131072, MADV_NOHUGEPAGE);
    memcpy(made, code, sizeof code);
    char path[64];
    sprintf(path, "/tmp/perf-%d.map", getpid());
    FILE *map = fopen(path, "w");
    setvbuf(map, 0, _IONBF, 0);
    const char *names[] = { "first in place", "second\tin \x1b[31mplace" };
    for (int turn = 0; turn < 2; turn++) {
        fprintf(map, "%lx %zx %s\n", (long)made, sizeof code - 1, names[turn]);
        /* Whoever follows the map reads it every hundredth of a second. */
        nanosleep(&(struct timespec){ .tv_nsec = 500000000 }, 0);
        for (int page = 0; page < 16; page++)
            ((void (*)(char *))made)(memory + (turn * 16 + page) * 4096L);
    }
    unlink(path);
    printf("{\"tid\":%d,\"start\":%lu,\"end\":%lu,\"minor\":32,\"major\":0,\"failed\":0,\"refused\":0,\"emulated\":0,"
           "\"retried\":0,\"unfinished\":0}\n", getpid(), (long)memory, (long)memory + 131072);
    return 0;
}
"#;

#[test]
fn code_of_a_compiler_has_the_name_that_it_had_then() {
    require!(root);
    require!(bpf);
    require!(btf);
    let scratch = directory();
    let program = made!(gcc::optimised(scratch.path(), COMPILER, "-g"));

    let recording = memtrace!().record(&["-g"], &[&program]).expect_code(0);

    let names: Vec<_> = touched(&recording).into_iter().map(|(fault, _)| fault.ip_function).collect();
    let expected = ["first in place", "second\tin \u{1b}[31mplace"]
        .map(|name| iter::repeat_n(Some(name.to_owned()), 16));
    assert_eq!(names, expected.into_iter().flatten().collect::<Vec<_>>());
    let report = memtrace!().run(["report"]).arg(recording.path()).finish().expect_code(0).stdout;
    assert!(report.contains("first in place"), "{report}");
    assert!(!report.contains('\u{1b}'), "nothing in it is for the terminal");
}

/// Has the kernel fill 64 pages that nobody touched before.
const READER: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
int main(void) {
    char *memory = mmap(0, 262144, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(memory, 262144, MADV_NOHUGEPAGE);
    int file = open("/proc/self/exe", O_RDONLY);
    for (int page = 0; page < 64; page++)
        if (pread(file, memory + page * 4096L, 64, 0) != 64)
            return 1;
    printf("{\"tid\":%d,\"start\":%lu,\"end\":%lu,\"minor\":64,\"major\":0,\"failed\":0,\"refused\":0,\"emulated\":0,"
           "\"retried\":0,\"unfinished\":0}\n", getpid(), (long)memory, (long)memory + 262144);
    return 0;
}
"#;

/// The symbols of the kernel that begin last at or before `addr`, as the kernel lists them.
fn kernel_symbols(addr: u64) -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/kallsyms").expect("root reads it");
    let symbols = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let start = u64::from_str_radix(words.next()?, 16).ok()?;
        Some((start, words.nth(1)?.to_owned()))
    });
    let before: Vec<_> = symbols.filter(|(start, _)| *start <= addr).collect();
    let nearest = before.iter().map(|(start, _)| *start).max();
    before.into_iter().filter(|(start, _)| Some(*start) == nearest).map(|(_, name)| name).collect()
}

#[test]
fn kernel_code_has_the_name_that_the_kernel_lists() {
    require!(root);
    require!(bpf);
    require!(btf);
    let scratch = directory();
    let program = made!(gcc::optimised(scratch.path(), READER, "-g"));

    let recording = memtrace!().record(&["-g"], &[&program]).expect_code(0);

    let faults = touched(&recording);
    assert_eq!(faults.len(), 64);
    let listed = kernel_symbols(faults[0].0.ip);
    for (fault, frames) in faults {
        assert_eq!((fault.mode.as_str(), fault.syscall.as_deref()), ("kernel", Some("pread64")));
        let name = fault.ip_function.expect("it has a name");
        assert!(kernel_symbols(fault.ip).contains(&name) || listed.contains(&name), "{name}: {listed:?}");
        assert!(functions(&frames, &program).contains(&"main"), "{frames:#?}");
    }
}

#[test]
fn without_names_there_are_none() {
    require!(root);
    require!(bpf);
    require!(btf);
    let scratch = directory();
    let program = made!(gcc::optimised(scratch.path(), SOURCE, "-g"));

    let recording = memtrace!().record(&["-g", "--symbols", "none"], &[&program]).expect_code(0);

    assert!(recording.frames().iter().all(|frame| frame.function.is_none() && frame.offset_bytes.is_none()));
    let usage = memtrace!().run(["record", "--symbols", "now", "--", "true"]).finish().expect_code(125);
    assert!(usage.stderr.contains("--stacks"), "{usage:#?}");
}
