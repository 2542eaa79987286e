//! The address space over time of real programs: after each check memtrace's map is the kernel's.

use std::{fs, path::Path};

use memtrace_tests::{directory, memtrace, recording::Recording, require, run::Run};

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
    let program = compile(scratch.path(), options);
    let _recording = expect_identity(&program);
}

#[track_caller]
fn compile(directory: &Path, options: &[&str]) -> String {
    let source = directory.join("hello.c");
    fs::write(&source, "#include <stdio.h>\nint main(void) { return puts(\"hello\") < 0; }\n")
        .expect("a file");
    let program = directory.join("hello");
    let gcc = Run::new("gcc").args(options).arg("-o").arg(&program).arg(&source);
    let _built = gcc.finish().expect_code(0);
    program.to_str().expect("a temporary path is text").to_owned()
}

#[test]
fn python_with_many_modules() {
    require!(root);
    require!(bpf);
    require!(program "python3" of "python3");
    let _recording =
        expect_identity("python3 -c 'import json, ssl, sqlite3, asyncio, ctypes, multiprocessing, email'");
}

#[test]
fn python_with_numpy() {
    require!(root);
    require!(bpf);
    require!(program "python3" of "python3");
    require!(@ (Run::new("python3").args(["-c", "import numpy"]).finish().code() != Some(0))
        .then(|| "needs numpy: apt-get install python3-numpy".to_owned()));
    let _recording =
        expect_identity("python3 -c 'import numpy; numpy.ones((500, 500)).dot(numpy.ones(500))'");
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
        "printf '#include <stdio.h>\\nint main(void) { return puts(\"\") < 0; }\\n' >a.c && gcc -O2 -o a a.c",
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
