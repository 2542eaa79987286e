//! Programs that nobody wrote for memtrace: the memory stressors of stress-ng, and some that people run every day.
//!
//! A short selection runs always, all of them by `cargo xtask test --strangers`.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
};

use memtrace_tests::{directory, memtrace, require, requirement, run::Run, task::Usage, turn};

/// Names each stressor, and makes a test of each: those that have found defects run always, the others take minutes.
macro_rules! stressors {
    (always: $($always:ident)*; at_length: $($at_length:ident)*;) => {
        /// Those that are run.
        const RUN: &[&str] = &[$(stringify!($always),)* $(stringify!($at_length),)*];

        mod stressor {
            $(
                #[test]
                fn $always() {
                    super::stress(stringify!($always));
                }
            )*
            $(
                #[test]
                #[ignore = "all stressors take minutes: cargo xtask test --strangers"]
                fn $at_length() {
                    super::stress(stringify!($at_length));
                }
            )*
        }
    };
}

stressors! {
    always:
        bad_altstack clone exec fork io_uring mmapfork mremap ptrace rmap userfaultfd vfork vm_segv;
    at_length:
        aio aiol bigheap brk dev_shm env fallocate fault fpunch madvise malloc mcontend memfd mincore mlock mlockmany mmap
        mmapaddr mmapfixed mmaphuge mmapmany mprotect msync msyncmany munmap numa pagemove pageswap physpage pkey pthread
        remap seal secretmem shm shm_sysv spawn stack stackmmap tmpfs vforkmany vm vm_addr vm_rw vm_splice zombie;
}

/// Those of stress-ng's class `vm` that are not run, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    ("swap", "takes the machine's swap areas away, which other tests use"),
    ("watchdog", "restarts the machine if it is killed"),
];

/// Those that refuse to run as root.
const AS_NOBODY: &[&str] = &["exec", "spawn"];

/// The name of a stressor as stress-ng has it.
fn option(stressor: &str) -> String {
    stressor.replace('_', "-")
}

/// Runs a stressor for a second.
#[track_caller]
fn stress(stressor: &str) {
    require!(root);
    require!(bpf);
    require!(btf);
    require!(program "stress-ng" of "stress-ng");
    let scratch = directory();
    fs::set_permissions(scratch.path(), Permissions::from_mode(0o777)).expect("it is ours");
    let scratch = scratch.path().to_str().expect("a temporary path is text");
    let option = format!("--{}", option(stressor));
    let run = ["stress-ng", "--temp-path", scratch, &option, "1", "--timeout", "1s"];
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    if AS_NOBODY.contains(&stressor) {
        expect_exact(&[&nobody[..], &run].concat());
    } else {
        expect_exact(&run);
    }
}

/// Records `command`, which must end as it does without memtrace; each fault must be accounted for, and each comparison with maps
/// agree.
#[track_caller]
fn expect_exact(command: &[&str]) {
    let _turn = turn();
    let alone = Run::new(command[0]).args(&command[1..]).finish();
    // So stress-ng says that it has done nothing, whatever its exit code.
    if alone.stderr.contains("No stress workers invoked") {
        return requirement::skip(&format!("{} has nothing to do here: {}", command.join(" "), alone.stderr));
    }

    let recording = memtrace!().record(&["--verify"], command);

    let text = memtrace!().run(["report"]).arg(recording.path()).finish().expect_code(0).stdout;
    let run = &recording.run;
    assert_eq!(run.status, alone.status, "with memtrace and without: {run:#?}\n{text}");
    let report = recording.report();
    let [kernel, recorded, uncounted] =
        ["/kernel_counted", "/faults", "/uncounted"].map(|counts| report.usage(counts));
    assert_eq!([recorded, uncounted].into_iter().sum::<Usage>(), kernel, "recorded + uncounted\n{text}");
    assert_eq!(report.number("/map_identity/contradictions"), 0, "{}\n{text}", report.at("/map_identity"));
}

#[test]
fn each_stressor_of_memory_is_run_or_left_out_for_a_reason() {
    require!(program "stress-ng" of "stress-ng");
    // stress-ng lists the class, and takes the question for a mistake.
    let listed = Run::new("stress-ng").args(["--class", "vm?"]).finish();
    let (_, class) = listed.stdout.split_once(':').unwrap_or_else(|| panic!("no list: {listed:#?}"));

    let known: Vec<_> =
        RUN.iter().chain(LEFT_OUT.iter().map(|(name, _)| name)).map(|name| option(name)).collect();
    let unknown: Vec<_> =
        class.split_whitespace().filter(|name| !known.iter().any(|known| known == name)).collect();
    assert!(unknown.is_empty(), "neither run nor left out: {unknown:?}");
}

#[test]
fn make_that_only_prints() {
    require!(root);
    require!(bpf);
    require!(btf);
    require!(program "make" of "make");
    let scratch = directory();
    let makefile = scratch.path().join("Makefile");
    fs::write(&makefile, "all:\n\techo $(shell echo made)\n").expect("a file");
    expect_exact(&["make", "-n", "-f", makefile.to_str().expect("a temporary path is text")]);
}

#[test]
fn cargo_through_rustup() {
    require!(root);
    require!(bpf);
    require!(btf);
    require!(program "rustup" of "rustup");
    expect_exact(&["cargo", "--version"]);
}
