//! The address space over time of real programs: after each check memtrace's map is the kernel's.

use memtrace_tests::{directory, gcc, made, memtrace, recording::Recording, require, rows::MapRow, run::Run};

/// Records `script` in a shell, with its maps compared at the end of every process; all comparisons must agree.
#[track_caller]
fn expect_identity(script: &str) -> Recording {
    let recording = memtrace!().record(&["--verify"], &["sh", "-c", script]).expect_code(0);
    // Each process is held at its exit.
    recording.expect_map_identity(recording.report().processes().len() as u64);
    recording
}

/// Builds a program of one line of C, and records it.
#[track_caller]
fn expect_identity_of_c(options: &[&str]) {
    let scratch = directory();
    let missing = |_| format!("needs gcc and libc for {}", options.join(" "));
    let program = made!(gcc::compile(scratch.path(), HELLO, options).map_err(missing));
    let _recording = expect_identity(&program);
}

/// Needs no headers.
const HELLO: &str = "int puts(const char *);\nint main(void) { return puts(\"hello\") < 0; }\n";

#[test]
fn python_with_many_modules() {
    require!(root);
    require!(bpf);
    require!(program "python3" of "python3");
    // Not every installation has all of them.
    let _recording = expect_identity(
        "exec python3 -c 'for module in \"json ssl sqlite3 ctypes email\".split():
  try: __import__(module)
  except ImportError: pass'",
    );
}

#[test]
fn python_with_numpy() {
    require!(root);
    require!(bpf);
    require!(program "python3" of "python3");
    // The distribution's package is for the distribution's Python.
    let has_numpy = |python: &&str| {
        let import = format!("{python} -c 'import numpy'");
        Run::new("sh").args(["-c", &import]).finish().code() == Some(0)
    };
    let python = ["python3", "/usr/bin/python3"].into_iter().find(has_numpy);
    require!(@ python.is_none().then(|| "needs numpy: apt-get install python3-numpy".to_owned()));
    let script = "import numpy; numpy.ones((500, 500)).dot(numpy.ones(500))";
    let _recording = expect_identity(&format!("{} -c '{script}'", python.unwrap_or_default()));
}

#[test]
fn java() {
    require!(root);
    require!(bpf);
    require!(program "java" of "default-jre-headless");
    let _recording = expect_identity("java -version");
}

#[test]
fn node() {
    require!(root);
    require!(bpf);
    require!(program "node" of "nodejs");
    let _recording = expect_identity("node -e 'console.log([...Array(1000).keys()].map(String).join())'");
}

#[test]
fn compiler_and_its_children() {
    require!(root);
    require!(bpf);
    require!(program "gcc" of "gcc");
    let recording = expect_identity(
        "printf 'int puts(const char *);\\nint main(void) { return puts(\"\") < 0; }\\n' >a.c && gcc -O2 -o a a.c",
    );

    // The driver, the compiler proper, the assembler, the linker.
    assert!(recording.report().processes().len() >= 4);
}

#[test]
fn redis_that_forks_to_save() {
    require!(root);
    require!(bpf);
    require!(program "redis-server" of "redis-server");
    require!(program "redis-cli" of "redis-tools");
    let script = r#"
        cli="redis-cli -s $PWD/redis.sock"
        redis-server --port 0 --unixsocket "$PWD/redis.sock" --dir "$PWD" --save "" --daemonize no >log &
        until $cli ping 2>&1 | grep -q PONG; do sleep 0.1; done
        $cli eval "for i = 1, 20000 do redis.call('set', i, i) end" 0 >&2
        $cli bgsave >&2
        until [ -s dump.rdb ] && $cli info persistence | grep -q rdb_bgsave_in_progress:0; do sleep 0.1; done
        $cli shutdown nosave
        wait"#;
    let _recording = expect_identity(script);
}

#[test]
fn position_independent_program() {
    require!(root);
    require!(bpf);
    require!(program "gcc" of "gcc");
    expect_identity_of_c(&["-pie", "-fPIE"]);
}

#[test]
fn program_at_fixed_addresses() {
    require!(root);
    require!(bpf);
    require!(program "gcc" of "gcc");
    expect_identity_of_c(&["-no-pie"]);
}

#[test]
fn static_program() {
    require!(root);
    require!(bpf);
    require!(program "gcc" of "gcc");
    expect_identity_of_c(&["-static"]);
}

#[test]
fn static_position_independent_program() {
    require!(root);
    require!(bpf);
    require!(program "gcc" of "gcc");
    expect_identity_of_c(&["-static-pie"]);
}

/// Puts a page into the hole behind the first segment of its own file, and ends with a child that inherits it.
const HOLE: &str = "
void *mmap(void *, unsigned long, int, int, int, long);
int fork(void);
int wait(int *);
extern char __executable_start;
int main(void) {
    char *hole = &__executable_start + 0x100000;
    /* MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE */
    if (mmap(hole, 4096, 3, 0x100022, -1, 0) != hole) return 1;
    *hole = 1;
    if (fork() == 0) return 0;
    wait(0);
    return 0;
}
";

/// Segments at multiples of 2 MiB, as for huge pages.
const FAR_APART: &str = "-Wl,-z,max-page-size=0x200000,-z,separate-code";

#[test]
fn program_with_holes_of_two_mib_between_its_segments() {
    require!(root);
    require!(bpf);
    require!(program "gcc" of "gcc");
    expect_identity_of_c(&["-pie", "-fPIE", FAR_APART]);
    expect_identity_of_c(&["-no-pie", FAR_APART]);
    expect_identity_of_c(&["-static", FAR_APART]);
    expect_identity_of_c(&["-static-pie", FAR_APART]);
}

#[test]
fn program_with_holes_of_a_page_between_its_segments() {
    require!(root);
    require!(bpf);
    require!(program "gcc" of "gcc");
    expect_identity_of_c(&["-pie", "-fPIE", "-Wl,-z,max-page-size=0x2000,-z,separate-code"]);
}

#[test]
fn memory_that_is_mapped_into_a_hole_of_the_program() {
    require!(root);
    require!(bpf);
    require!(program "gcc" of "gcc");
    let scratch = directory();
    let program = gcc::compile(scratch.path(), HOLE, &["-pie", "-fPIE", FAR_APART]);
    let program = made!(program.map_err(|_| "needs gcc and libc"));

    let recording = expect_identity(&format!("exec {program}"));

    assert_eq!(recording.report().number("/tasks/forks"), 1);
}

#[test]
fn program_at_addresses_that_are_not_randomised() {
    require!(root);
    require!(bpf);
    require!(program "setarch" of "util-linux");
    let recording = expect_identity("exec setarch -R cat /proc/self/maps");

    // In maps of the last program, by itself.
    let stack = recording.run.stdout.lines().find(|line| line.ends_with("[stack]")).expect("a stack");
    let end = stack.split(['-', ' ']).nth(1).and_then(|end| u64::from_str_radix(end, 16).ok());
    let is_it = |row: &&MapRow| row.action == "exec" && row.backing == "stack" && row.end_addr == end;
    assert!(end.is_some() && recording.maps().iter().any(|row| is_it(&row)), "{stack}");
}
