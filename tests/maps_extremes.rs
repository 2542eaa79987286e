//! The address space over time of targets that are large, of others, or of another word size.

use std::fs;

use memtrace_tests::{directory, ledger::Zoo, memtrace, program, recording::MapRow, require, run::Run};

#[test]
fn as_many_vmas_as_the_kernel_allows() {
    require!(root);
    require!(bpf);
    let recording =
        memtrace!().record(&["--verify"], &[program!("mapzoo"), "--vmas", "65000"]).expect_code(0);

    recording.expect_map_identity(1);
    let zoo: Zoo = recording.run.last_line();
    let place = zoo.things["vmas"];
    let inside = |row: &MapRow| {
        row.action == "mprotect"
            && row.start_addr.is_some_and(|start| (place.start..place.end).contains(&start))
    };
    // Every other page was made read-only.
    assert_eq!(recording.maps().iter().filter(|row| inside(row)).count(), 32_500);
}

#[test]
fn target_of_another_user() {
    require!(root);
    require!(bpf);
    require!(program "setpriv" of "util-linux");
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let recording = memtrace!().record(&["--verify"], &[&nobody[..], &["ls", "/"]].concat()).expect_code(0);

    recording.expect_map_identity(1);
}

#[test]
fn target_in_namespaces_of_its_own() {
    require!(root);
    require!(bpf);
    require!(program "unshare" of "util-linux");
    // A file that only the target sees under this name.
    let script = "mkdir m && mount -t tmpfs none m && cp \"$(command -v sleep)\" m/hidden && m/hidden 0.3";
    let command = ["unshare", "-pm", "--fork", "--mount-proc", "sh", "-c", script];
    let recording = memtrace!().record(&["--verify"], &command).expect_code(0);

    recording.expect_map_identity(1);
    let regions = recording.regions();
    assert!(
        regions.iter().any(|row| row.name.ends_with("/m/hidden") && row.backing == "file"),
        "{regions:#x?}"
    );
}

/// Maps 3 pages by mmap2(2), unmaps the last of them, and moves the break by 2 pages.
#[cfg(target_arch = "x86_64")]
const PROGRAM_32: &str = "
    .globl _start
_start:
    mov $192, %eax          # mmap2
    xor %ebx, %ebx
    mov $0x3000, %ecx
    mov $3, %edx            # PROT_READ | PROT_WRITE
    mov $0x22, %esi         # MAP_PRIVATE | MAP_ANONYMOUS
    mov $-1, %edi
    xor %ebp, %ebp
    int $0x80
    lea 0x2000(%eax), %ebx
    mov $91, %eax           # munmap
    mov $0x1000, %ecx
    int $0x80
    mov $45, %eax           # brk
    xor %ebx, %ebx
    int $0x80
    lea 0x2000(%eax), %ebx
    mov $45, %eax
    int $0x80
    mov $1, %eax            # exit
    xor %ebx, %ebx
    int $0x80
";

#[test]
#[cfg(target_arch = "x86_64")]
fn calls_of_a_32_bit_program_have_their_lengths() {
    require!(root);
    require!(bpf);
    require!(program "as" of "binutils");
    require!(program "ld" of "binutils");
    let scratch = directory();
    fs::write(scratch.path().join("a.s"), PROGRAM_32).expect("a file");
    let tool = |words: &[&str]| Run::new(words[0]).args(&words[1..]).in_dir(scratch.path()).finish();
    let _assembled = tool(&["as", "--32", "-o", "a.o", "a.s"]).expect_code(0);
    let _linked = tool(&["ld", "-m", "elf_i386", "-o", "a", "a.o"]).expect_code(0);
    // Kernels without CONFIG_IA32_EMULATION execute no such program.
    require!(@ (tool(&["sh", "-c", "./a"]).code() != Some(0))
        .then(|| "needs a kernel that runs 32-bit programs (CONFIG_IA32_EMULATION)".to_owned()));
    let program = scratch.path().join("a");
    let program = program.to_str().expect("a temporary path is text");

    let recording = memtrace!().record(&["--verify"], &[program]).expect_code(0);

    recording.expect_map_identity(1);
    let rows = recording.maps();
    let lengths = |action: &str| -> Vec<u64> {
        let calls = rows.iter().filter(|row| row.action == action && row.is_successful_call());
        calls.filter_map(|row| Some(row.end_addr? - row.start_addr?)).collect()
    };
    assert_eq!(lengths("mmap"), [0x3000]);
    assert_eq!(lengths("munmap"), [0x1000]);
    assert!(lengths("brk").contains(&0x2000), "{rows:#x?}");
}
