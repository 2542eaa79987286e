//! Programs that use ptrace(2) themselves, under `--verify`, which holds them by it: they do what they do without memtrace.

use std::{fs, path::Path};

use memtrace_tests::{
    directory, gcc, made, memtrace,
    recording::{Recording, Report},
    require,
    run::{Finished, Run, Running},
    wait_until,
};
use rustix::process::Signal;

/// Traces a child of its own in the way that its argument names, and prints what it saw of it. Needs no headers.
const DEBUGGER: &str = r#"
long ptrace(int, int, void *, void *), write(int, const void *, long), read(int, void *, long);
int fork(void), waitpid(int, int *, int), raise(int), kill(int, int), pause(void), pipe(int *), getpid(void), gettid(void), getchar(void);
int printf(const char *, ...), fflush(void *), strcmp(const char *, const char *);
int sigfillset(void *), sigprocmask(int, const void *, void *), prctl(int, unsigned long);
int pthread_create(unsigned long *, void *, void *(*)(void *), void *);
void _exit(int);
enum { TRACEME = 0, CONT = 7, ATTACH = 16, SEIZE = 0x4206, INTERRUPT = 0x4207, WALL = 0x40000000 };
static int ends[2];
static void *known(void *unused) {
    int tid = gettid();
    write(ends[1], &tid, sizeof tid);
    for (;;) pause();
}
/* Waits for a stop of a task, or its end, and says which. */
static int next(int tid) {
    int status = 0;
    if (waitpid(tid, &status, WALL) != tid) return -1;
    return (status & 0xff) == 0x7f ? status >> 8 & 0xff : status >> 8 & 0xff | 0x100;
}
static void ask(void) {
    int child = fork();
    if (!child) {
        if (ptrace(TRACEME, 0, 0, 0)) _exit(9);
        raise(10);
        _exit(4);
    }
    int stop = next(child);
    ptrace(CONT, child, 0, 0);
    printf("stopped by %d, exited with %d\n", stop, next(child) & 0xff);
}
static void attach(void) {
    int child = fork();
    if (!child) for (;;) pause();
    long result = ptrace(ATTACH, child, 0, 0);
    int stop = result ? 0 : next(child);
    kill(child, 9);
    printf("attached %ld, stopped by %d\n", result, stop);
    next(child);
}
static void attach_blocked(void) {
    char all[128];
    sigfillset(all);
    sigprocmask(0, all, 0);
    attach();
}
static void seize_threads(void) {
    unsigned long thread;
    int child = fork(), tids[2];
    if (!child) {
        pthread_create(&thread, 0, known, 0);
        known(0);
    }
    read(ends[0], &tids[0], sizeof tids[0]);
    read(ends[0], &tids[1], sizeof tids[1]);
    for (int i = 0; i < 2; i++) {
        long seized = ptrace(SEIZE, tids[i], 0, 0), asked = ptrace(INTERRUPT, tids[i], 0, 0);
        printf("seized %ld %ld, stopped by %d\n", seized, asked, asked ? 0 : next(tids[i]));
    }
    kill(child, 9);
}
static void refused(void) {
    /* A kernel thread, init and itself. */
    printf("%ld %ld\n", ptrace(ATTACH, 2, 0, 0), ptrace(ATTACH, getpid(), 0, 0));
}
int main(int count, char **words) {
    struct { const char *name; void (*run)(void); } ways[] = {
        {"ask", ask}, {"attach", attach}, {"attach_blocked", attach_blocked}, {"seize_threads", seize_threads},
        {"refused", refused},
    };
    if (pipe(ends)) return 1;
    if (count > 2) {
        printf("ready\n");
        fflush(0);
        getchar();
    }
    for (int i = 0; i < 5; i++)
        if (!strcmp(words[1], ways[i].name)) ways[i].run();
    return 7;
}
"#;

/// Makes a program of `source`, or says what is missing.
fn compile(directory: &Path, source: &str, options: &[&str]) -> Result<String, String> {
    gcc::compile(directory, source, &[options, &["-w"]].concat())
        .map_err(|gcc| format!("needs gcc and libc for {options:?}: {}", gcc.stderr))
}

/// Records `command` with processes held at their exit: it must end as it does alone.
#[track_caller]
fn record(command: &[&str]) -> (Finished, Recording, Report) {
    let alone = Run::new(command[0]).args(&command[1..]).finish();
    let recording = memtrace!().record(&["--verify"], command);
    assert_eq!(recording.run.status, alone.status, "alone: {alone:#?}\nwith memtrace: {:#?}", recording.run);
    assert_eq!(recording.run.stdout, alone.stdout, "{:#?}", recording.run);
    let report = recording.report();
    assert_eq!(report.number("/map_identity/contradictions"), 0, "{}", report.at("/map_identity"));
    (alone, recording, report)
}

/// Records the program above, which must print this; that many of its processes are let go.
#[track_caller]
fn expect(way: &str, printed: &str, unverified: u64) {
    let scratch = directory();
    let program = made!(compile(scratch.path(), DEBUGGER, &[]));

    let (alone, _, report) = record(&[&program, way]);

    assert_eq!((alone.stdout.as_str(), alone.code()), (printed, Some(7)), "without memtrace");
    assert_eq!(report.number("/map_identity/unverified"), unverified, "{}", report.at("/map_identity"));
}

#[test]
fn child_that_asks_to_be_traced_is() {
    require!(root);
    require!(bpf);
    require!(btf);
    expect("ask", "stopped by 10, exited with 4\n", 1);
}

#[test]
fn child_that_runs_is_attached_to() {
    require!(root);
    require!(bpf);
    require!(btf);
    expect("attach", "attached 0, stopped by 19\n", 1);
}

#[test]
fn debugger_that_blocks_all_signals_attaches() {
    require!(root);
    require!(bpf);
    require!(btf);
    expect("attach_blocked", "attached 0, stopped by 19\n", 1);
}

#[test]
fn each_thread_is_seized() {
    require!(root);
    require!(bpf);
    require!(btf);
    let one = "seized 0 0, stopped by 5\n";
    expect("seize_threads", &one.repeat(2), 1);
}

#[test]
fn what_is_refused_without_memtrace_is_refused_and_nobody_let_go() {
    require!(root);
    require!(bpf);
    require!(btf);
    expect("refused", "-1 -1\n", 0);
}

/// Waits until `running` has printed `line`.
#[track_caller]
fn wait_for_line(running: &mut Running, line: &str) {
    running.wait_for(line, |running| running.stdout().lines().any(|it| it == line).then_some(()));
}

#[test]
fn nothing_waits_for_a_memtrace_that_is_stopped() {
    require!(root);
    require!(bpf);
    require!(btf);
    let scratch = directory();
    let program = made!(compile(scratch.path(), DEBUGGER, &[]));
    let script = "echo ready; read line; \"$0\" ask; (exit 3); echo \"then $?\"";
    let mut recording = memtrace!().start(&["--verify"], &["sh", "-c", script, &program]);
    wait_for_line(&mut recording.running, "ready");

    recording.running.stop();
    recording.running.send("\n");
    wait_for_line(&mut recording.running, "stopped by 10, exited with 4");
    wait_for_line(&mut recording.running, "then 3");
    recording.running.signal(Signal::CONT);

    let recording = recording.finish().expect_code(0);
    assert_eq!(recording.report().number("/map_identity/contradictions"), 0);
}

/// Whether some process traces `pid`.
fn is_traced(pid: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
}

#[test]
fn debugger_outlives_a_memtrace_that_is_killed() {
    require!(root);
    require!(bpf);
    require!(btf);
    let scratch = directory();
    let program = made!(compile(scratch.path(), DEBUGGER, &[]));
    let mut recording = memtrace!().start(&["--verify"], &[&program, "ask", "wait"]);
    wait_for_line(&mut recording.running, "ready");

    let memtrace = recording.running.pid();
    let debugger =
        fs::read_to_string(format!("/proc/{memtrace}/task/{memtrace}/children")).expect("procfs is mounted");
    let debugger = debugger.split(' ').find(|pid| is_traced(pid)).expect("it is held").to_owned();

    recording.running.signal(Signal::KILL);
    // Whoever holds it lets go a moment later.
    assert!(wait_until(|| !is_traced(&debugger)), "process {debugger} is still held");
    // This closes its input, for which the debugger waits.
    recording.running.wait();

    wait_for_line(&mut recording.running, "stopped by 10, exited with 4");
}

#[test]
fn gdb_runs_a_program() {
    require!(root);
    require!(bpf);
    require!(btf);
    require!(program "gdb" of "gdb");
    // What gdb prints has process IDs.
    let script = "gdb -batch -ex run -ex 'print $_exitcode' --args sh -c 'exit 5' 2>&1 | grep '^.1 = '";
    let (alone, ..) = record(&["sh", "-c", script]);

    assert_eq!(alone.stdout, "$1 = 5\n");
}

#[test]
fn strace_follows_a_program_and_its_child() {
    require!(root);
    require!(bpf);
    require!(btf);
    require!(program "strace" of "strace");
    let scratch = directory();
    let trace = scratch.path().join("trace");
    let script = "strace -f -o \"$0\" -e trace=exit_group sh -c '(exit 3); exit 4'; \
        code=$?; grep -c '+++ exited with' \"$0\"; exit $code";
    let (alone, ..) = record(&["sh", "-c", script, trace.to_str().expect("a temporary path is text")]);

    assert_eq!((alone.stdout.as_str(), alone.code()), ("2\n", Some(4)));
}

#[test]
fn leak_sanitizer_finds_its_leak() {
    const LEAK: &str = "void *malloc(unsigned long);\nint main(void) { return !malloc(100); }\n";
    require!(root);
    require!(bpf);
    require!(btf);
    let scratch = directory();
    let program = made!(compile(scratch.path(), LEAK, &["-O0", "-fsanitize=leak"]));

    let (alone, recording, report) = record(&[&program]);

    let found = "100 byte(s) leaked in 1 allocation(s).";
    assert!(alone.stderr.contains(found), "without memtrace: {alone:#?}");
    assert!(recording.run.stderr.contains(found), "{:#?}", recording.run);
    // The program, and the task by which it looks into itself.
    assert_eq!(report.number("/map_identity/unverified"), 2, "{}", report.at("/map_identity"));
}
