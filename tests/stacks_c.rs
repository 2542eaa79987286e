//! Stacks of faults of programs of C, with and without what says who called whom.

use memtrace_tests::{
    directory, gcc, ledger::Area, made, memtrace, recording::Recording, require, rows::FrameRow,
    stacks::Stacks, symbols::in_elf,
};
use object::{Object as _, ObjectSection as _};

/// A program of C that touches 16 pages in `touch`, called by `middle`, called by `outer`, called by `main`, and says where.
const WITH_LIBC: &str = r#"
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
#define OWN __attribute__((noipa))
#define NO_TAIL __asm__ volatile ("" ::: "memory")
OWN void touch(char *memory) { for (int page = 0; page < 16; page++) memory[page * 4096L] = 1; NO_TAIL; }
OWN void middle(char *memory) { touch(memory); NO_TAIL; }
OWN void outer(char *memory) { middle(memory); NO_TAIL; }
int main(void) {
    char *memory = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(memory, 65536, MADV_NOHUGEPAGE);
    outer(memory);
    printf("{\"tid\":%d,\"start\":%lu,\"end\":%lu,\"minor\":16,\"major\":0,\"failed\":0,\"refused\":0,\"emulated\":0,"
           "\"retried\":0,\"unfinished\":0}\n", getpid(), (long)memory, (long)memory + 65536);
    return 0;
}
"#;

/// As above, but without a library: at a fixed place, and `main` is called by the code at the entry. gcc lets a function without
/// anything on the stack go without a frame pointer, whatever its options.
const ALONE: &str = r#"
#define OWN __attribute__((noipa))
#define NO_TAIL __asm__ volatile ("" ::: "memory")
static long call(long number, long a, long b, long c, long d, long e, long f) {
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    __asm__ volatile ("syscall" : "+a"(number) : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                      : "rcx", "r11", "memory");
    return number;
}
OWN void touch(char *memory) { for (volatile long page = 0; page < 16; page++) memory[page * 4096] = 1; }
OWN void middle(char *memory) { touch(memory); NO_TAIL; }
OWN void outer(char *memory) { middle(memory); NO_TAIL; }
OWN int main(void) {
    char *memory = (char *)call(9, 0x10000000, 65536, 3, 0x32, -1, 0);
    call(28, (long)memory, 65536, 15, 0, 0, 0);
    outer(memory);
    return 0;
}
__attribute__((used)) void leave(long code) { call(231, code, 0, 0, 0, 0, 0); }
__asm__ (".globl _start\n.type _start,@function\n_start: xor %ebp,%ebp\n and $-16,%rsp\n call main\n mov %rax,%rdi\n call leave\n hlt\n"
         ".size _start,.-_start");
"#;

/// Where [`ALONE`] touches memory.
const PLACE: Area = Area {
    tid: 0,
    start: 0x1000_0000,
    end: 0x1001_0000,
    minor: 16,
    major: 0,
    failed: 0,
    refused: 0,
    emulated: 0,
    retried: 0,
    unfinished: 0,
};

/// Whether a program has a table by which stacks are walked.
fn has_unwind_table(program: &str) -> bool {
    let bytes = in_elf(program, |file| file.section_by_name(".eh_frame").map(|table| table.size()));
    bytes.is_some_and(|bytes| bytes > 4)
}

/// A stack, and the names of the functions of its frames.
type Named = (Vec<FrameRow>, Vec<String>);

/// The stacks of the faults in the memory of a C program.
#[track_caller]
fn stacks_of(recording: &Recording, program: &str, area: Option<Area>) -> Vec<Named> {
    let stacks = Stacks::of(recording, program);
    let faults = recording.faults();
    let area = area.unwrap_or_else(|| {
        let tid =
            faults.iter().find(|fault| (PLACE.start..PLACE.end).contains(&fault.addr)).expect("faults").tid;
        Area { tid, ..PLACE }
    });
    assert_eq!(area.found_in(&faults), area);
    let of_fault = |stack: Option<u64>| {
        let frames = stacks.get(stack.expect("a stack")).expect("its frames").to_vec();
        let names = frames.iter().map(|frame| stacks.names(frame).join("="));
        let names = names.collect();
        (frames, names)
    };
    area.rows_of(&faults).map(|fault| of_fault(fault.stack)).collect()
}

/// Records a program of C that has unwind tables and no frame pointers, however it is linked.
#[track_caller]
fn expect_stacks_of_c(linking: &str) {
    require!(root);
    require!(bpf);
    require!(btf);
    let scratch = directory();
    let options = format!("-fomit-frame-pointer {linking}");
    let program = made!(gcc::optimised(scratch.path(), WITH_LIBC, &options));
    assert!(has_unwind_table(&program));

    let recording = memtrace!().record(&["-g"], &[&program]).expect_code(0);

    let area = recording.run.last_line();
    for (frames, names) in stacks_of(&recording, &program, Some(area)) {
        assert_eq!(names[..4], ["touch", "middle", "outer", "main"]);
        assert_eq!(names.last().map(String::as_str), Some("_start"), "{frames:#?}");
        assert_eq!(frames.last().and_then(|frame| frame.end.as_deref()), Some("root"), "{frames:#?}");
        assert!(frames.iter().all(|frame| frame.by_frame_pointer == 0), "{frames:#?}");
    }
}

#[test]
fn program_at_a_fixed_address() {
    expect_stacks_of_c("-no-pie");
}

#[test]
fn program_with_its_libc_in_it() {
    expect_stacks_of_c("-static");
}

#[test]
fn program_with_its_libc_in_it_at_any_address() {
    expect_stacks_of_c("-static-pie");
}

#[test]
fn program_whose_calls_go_through_a_table() {
    expect_stacks_of_c("-Wl,-z,lazy");
}

/// How programs are built that have no unwind tables and no library.
const NO_TABLES: &str =
    "-fno-asynchronous-unwind-tables -fno-unwind-tables -static -nostdlib -nostartfiles -fno-stack-protector";

/// Records [`ALONE`], made with `option` and without unwind tables; or says what is missing to make it.
#[track_caller]
fn stacks_without_tables(option: &str) -> Result<Vec<Named>, String> {
    let scratch = directory();
    let program = gcc::optimised(scratch.path(), ALONE, &format!("{option} {NO_TABLES}"))?;
    assert!(!has_unwind_table(&program));
    let recording = memtrace!().record(&["-g"], &[&program]).expect_code(0);
    Ok(stacks_of(&recording, &program, None))
}

#[test]
fn stack_without_unwind_information_ends_and_says_so() {
    require!(root);
    require!(bpf);
    require!(btf);

    for (frames, names) in made!(stacks_without_tables("-fomit-frame-pointer")) {
        assert_eq!(names, ["touch"], "{frames:#?}");
        assert_eq!(frames[0].end.as_deref(), Some("no_unwind_information"));
    }
}

#[test]
fn stack_without_unwind_information_goes_on_by_frame_pointers() {
    require!(root);
    require!(bpf);
    require!(btf);

    for (frames, names) in made!(stacks_without_tables("-fno-omit-frame-pointer")) {
        assert_eq!(names, ["touch", "middle", "outer", "main", "_start"], "{frames:#?}");
        let by_frame_pointer: Vec<_> = frames.iter().map(|frame| frame.by_frame_pointer).collect();
        assert_eq!(by_frame_pointer, [0, 1, 1, 1, 1]);
        assert_eq!(frames[4].end.as_deref(), Some("no_unwind_information"));
    }
}

#[test]
fn code_without_unwind_information_that_a_library_calls_ends_the_stack() {
    require!(root);
    require!(bpf);
    require!(btf);
    let scratch = directory();
    let options = "-fomit-frame-pointer -fno-asynchronous-unwind-tables -fno-unwind-tables";
    let program = made!(gcc::optimised(scratch.path(), WITH_LIBC, options));

    let recording = memtrace!().record(&["-g"], &[&program]).expect_code(0);

    let area = recording.run.last_line();
    for (frames, names) in stacks_of(&recording, &program, Some(area)) {
        assert_eq!(names, ["touch"], "{frames:#?}");
        assert_eq!(frames[0].end.as_deref(), Some("no_unwind_information"));
    }
}

/// A library whose `run` touches pages through a function of its own; others of it keep more on the stack.
const LIBRARY: &str = r#"
__attribute__((noipa)) void touch(char *memory, int pages) {
    for (volatile long page = 0; page < pages; page++) memory[page * 4096] = 1;
}
void run(char *memory, int pages) {
    char kept[KEPT];
    __asm__ volatile ("" :: "r"(kept) : "memory");
    touch(memory, pages);
    __asm__ volatile ("" ::: "memory");
}
"#;

/// Opens the libraries in turn, has each touch 64 fresh pages, and closes it, so that the next one comes to lie where it lay.
const TURNS: &str = r#"
#include <dlfcn.h>
#include <stdio.h>
#include <sys/mman.h>
int main(int count, char **names) {
    unsigned long places[2] = { 0, 0 };
    for (int turn = 0; turn < 40; turn++) {
        char *memory = mmap(0, 262144, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        madvise(memory, 262144, MADV_NOHUGEPAGE);
        void *library = dlopen(names[1 + turn % 2], RTLD_NOW);
        void (*run)(char *, int) = (void (*)(char *, int))dlsym(library, "run");
        places[turn % 2] = (unsigned long)run;
        run(memory, 64);
        dlclose(library);
    }
    printf("%d\n", places[0] == places[1]);
    return 0;
}
"#;

#[test]
fn library_in_the_place_of_another_has_no_stacks_of_that_one() {
    require!(root);
    require!(bpf);
    require!(btf);
    let (one, other, scratch) = (directory(), directory(), directory());
    let options = |kept| format!("-fomit-frame-pointer -fPIC -shared -DKEPT={kept}");
    let libraries = [(&one, 8), (&other, 600)];
    let libraries =
        libraries.map(|(directory, kept)| gcc::optimised(directory.path(), LIBRARY, &options(kept)));
    let [one, other] = libraries.map(|library| library.expect("it needs no headers"));
    let program = made!(gcc::optimised(scratch.path(), TURNS, "-fomit-frame-pointer"));

    let recording = memtrace!().record(&["-g"], &[&program, &one, &other]).expect_code(0);

    assert_eq!(recording.run.stdout, "1\n", "both lie at the same place");
    let stacks = Stacks::of(&recording, &program);
    let mut faults = recording.faults();
    faults.retain(|fault| fault.ip_module.as_ref().is_some_and(|module| [&one, &other].contains(&module)));
    assert!(faults.len() >= 40 * 64, "{} faults", faults.len());
    let known = faults.iter().filter_map(|fault| Some((fault, stacks.get(fault.stack?).expect("frames"))));
    let known: Vec<_> = known.filter(|(_, frames)| frames.len() > 1).collect();
    for (fault, frames) in &known {
        let modules: Vec<_> = frames.iter().take(3).map(|frame| frame.module.as_deref()).collect();
        let library = fault.ip_module.as_deref();
        assert_eq!(modules, [library, library, Some(&program)], "{frames:#?}");
        assert_eq!(frames.last().and_then(|frame| frame.end.as_deref()), Some("root"), "{frames:#?}");
    }
    // Until another one came.
    assert!(known.len() >= 60, "{} of {} faults have a stack", known.len(), faults.len());
}
