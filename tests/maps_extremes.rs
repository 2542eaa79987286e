//! The address space over time of targets that are large, of others, or of another word size.

use std::{collections::BTreeMap, fs};

use memtrace_tests::{
    directory, ledger::Zoo, maps::successful_calls, memtrace, program, require, rows::MapRow, run::Run,
};

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
    let script = "mkdir m && mount -t tmpfs none m && cp \"$(command -v sleep)\" m/hidden && m/hidden 0";
    let command = ["unshare", "-pm", "--fork", "--mount-proc", "sh", "-c", script];
    let recording = memtrace!().record(&["--verify"], &command).expect_code(0);

    recording.expect_map_identity(1);
    let regions = recording.regions();
    assert!(
        regions.iter().any(|row| row.name.ends_with("/m/hidden") && row.backing == "shmem"),
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

/// Makes each rare call once, and prints the names of those that succeeded.
#[cfg(target_arch = "x86_64")]
const RARE_CALLS: &str = r#"
import ctypes, os
libc = ctypes.CDLL(None)
libc.syscall.restype = ctypes.c_long
ALL = 2 ** 64 - 1
def call(name, number, *args):
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_ulong(arg) for arg in args])
    if name and result >= 0:
        print(name)
    return result
page = call(None, 9, 0, 0x10000, 3, 0x22, ALL, 0)
call(None, 157, 41, 1, 0, 0, 0)
call(None, 157, 67, 1, 0, 0, 0)
call("mlock", 149, page, 0x1000)
call("mlock", 325, page, 0x1000, 1)
call("munlock", 150, page, 0x1000)
call("mlockall", 151, 1)
call("munlockall", 152)
call("pkey_mprotect", 329, page, 0x2000, 1, ALL)
file = os.memfd_create("rare")
os.ftruncate(file, 0x4000)
shared = call(None, 9, 0, 0x4000, 3, 1, file, 0)
call("remap_file_pages", 216, shared, 0x1000, 0, 2, 0)
call("mseal", 462, page + 0x8000, 0x1000, 0)
vector = (ctypes.c_ulong * 2)(page, 0x1000)
call("process_madvise", 440, os.pidfd_open(os.getpid()), ctypes.addressof(vector), 1, 20, 0)
watch = call(None, 323, 0x80001)
greeting = (ctypes.c_ulong * 3)(0xaa, 0, 0)
call(None, 16, watch, 0xc018aa3f, ctypes.addressof(greeting))
place = (ctypes.c_ulong * 4)(page + 0x4000, 0x2000, 1, 0)
call("userfaultfd", 16, watch, 0xc020aa00, ctypes.addressof(place))
call("userfaultfd", 16, watch, 0x8010aa01, ctypes.addressof(place))
ring = ctypes.c_ulong(0)
call(None, 206, 8, ctypes.addressof(ring))
call(None, 207, ring.value)
segment = call(None, 29, 0, 0x5000, 0o1600)
one, other = [call("shmat", 30, segment, 0, 0) for _ in range(2)]
call("shmdt", 67, one)
call("shmat", 30, segment, other, 0o40000)
call("shmdt", 67, other)
call(None, 31, segment, 0, 0)
"#;

#[test]
#[cfg(target_arch = "x86_64")]
fn rare_calls_are_rows_and_leave_the_map_equal_to_the_kernels() {
    require!(root);
    require!(bpf);
    require!(program "python3" of "python3");
    require!(@ (Run::new("python3").args(["-c", "import ctypes"]).finish().code() != Some(0))
        .then(|| "needs a python3 that has ctypes".to_owned()));
    let recording = memtrace!().record(&["--verify"], &["python3", "-c", RARE_CALLS]).expect_code(0);

    recording.expect_map_identity(1);
    let rows = recording.maps();
    let found = successful_calls(&rows);
    let mut known: BTreeMap<&str, u64> = BTreeMap::new();
    for name in recording.run.stdout.lines() {
        *known.entry(name).or_default() += 1;
    }
    assert!(known["shmat"] == 3 && known.len() > 6, "{known:?}");
    for (name, count) in known {
        assert_eq!(found.get(name), Some(&count), "{name}: {found:?}");
    }
    // The kernel unmaps the ring of io_setup(2) with no call of munmap. What prctl(2) sets here does not show in maps.
    let unexplained: Vec<_> =
        rows.iter().filter(|row| row.action == "unexplained").map(|row| row.flags.as_str()).collect();
    assert!(!unexplained.is_empty() && !unexplained.contains(&"syscall_157"), "{rows:#x?}");
}

#[test]
fn program_that_perf_may_not_follow_is_a_loss() {
    require!(root);
    require!(bpf);
    require!(btf);
    let scratch = directory();
    let hidden = scratch.path().join("hidden");
    let copy = "cp \"$(command -v sleep)\" \"$0\" && chown 65534 \"$0\" && chmod 4755 \"$0\"";
    let path = hidden.to_str().expect("a temporary path is text");
    let _copied = Run::new("sh").args(["-c", copy, path]).finish().expect_code(0);

    let recording = memtrace!().record(&["--verify"], &[path, "0"]).expect_code(0);

    let report = recording.report();
    assert_eq!(report.number("/map_identity/contradictions"), 0, "{}", report.at("/map_identity"));
    assert_eq!(report.at("/complete"), &serde_json::Value::Bool(false));
    let losses = recording.losses();
    assert!(losses.iter().any(|loss| loss.cause == "hidden_program" && loss.count.is_none()), "{losses:?}");
}
