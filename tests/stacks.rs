//! Stacks of faults and calls, against programs that know from where they touched memory, and have no frame pointers.

use std::{collections::BTreeMap, fmt::Write as _};

use memtrace_tests::{
    ledger::{Base, Callers, Ready, Step, Walks},
    memtrace, program,
    recording::{InProgress, Recording},
    require,
    requirement::since,
    rows::{FaultRow, FrameRow},
    run::{Run, Running},
    stacks::Stacks,
    symbols::in_elf,
    wait_until,
};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

/// Rounds of the workload: in the first one user space has to find out what the programs need to know in the later ones.
const ROUNDS: usize = 3;

/// What is wrong with the stack `number`, which should be `expected`; nothing if it is that, or, if it `may_end` early, its
/// beginning.
fn flaw(stacks: &Stacks, number: Option<u64>, expected: &Callers, may_end: bool) -> Option<String> {
    let Some(frames) = number.map(|number| stacks.get(number).unwrap_or_default()) else {
        return Some("no stack".to_owned());
    };
    mismatch(stacks, frames, expected, may_end).map(|what| format!("{what}\n{}", stacks.text(frames)))
}

fn mismatch(stacks: &Stacks, frames: &[FrameRow], expected: &Callers, may_end: bool) -> Option<String> {
    let Some(last) = frames.last() else { return Some("no frames".to_owned()) };
    if let Some(frame) = frames.iter().find(|frame| frame.by_frame_pointer != 0) {
        return Some(format!("frame {} by frame pointer", frame.depth));
    }
    let may_end = may_end && last.end.as_deref() == Some("beyond_dump");
    let mut rest = frames;
    for (place, step) in expected.steps.iter().enumerate() {
        if rest.is_empty() && may_end {
            return None;
        }
        let len = len(stacks, rest, step);
        if len == 0 {
            return Some(format!("step {place} should be {step:?}"));
        }
        rest = &rest[len..];
    }
    if may_end { None } else { mismatch_of_base(stacks, rest, last, expected.base) }
}

/// How many of the first of `frames` are `step`; 0 if the first one is something else.
fn len(stacks: &Stacks, frames: &[FrameRow], step: &Step) -> usize {
    let Some(first) = frames.first() else { return 0 };
    match step {
        Step::Function(name) => usize::from(stacks.is_in(first, name)),
        Step::Inside => usize::from(first.is_in_libc()),
        Step::Library(exports) => {
            let len = frames.iter().take_while(|frame| frame.is_in_libc()).count();
            let names = frames[..len].last().map(|frame| stacks.names(frame)).unwrap_or_default();
            if names.iter().any(|name| exports.iter().any(|one| one == name)) { len } else { 0 }
        }
        Step::Restorer(addr) => usize::from(first.address == *addr),
    }
}

/// What is wrong with the outer end of a stack.
fn mismatch_of_base(stacks: &Stacks, rest: &[FrameRow], last: &FrameRow, base: Base) -> Option<String> {
    let end = if base == Base::TooDeep { "too_deep" } else { "root" };
    if last.end.as_deref() != Some(end) {
        return Some(format!("should end with {end}"));
    }
    let is_right = match (base, rest) {
        (Base::Main, [.., library, start]) => {
            library.is_in_libc()
                && stacks.is_in(start, "_start")
                && rest.iter().any(|frame| stacks.is_in(frame, "main"))
        }
        (Base::Thread, [.., last]) => last.is_in_libc(),
        (Base::TooDeep, _) => {
            let names = stacks.names(last);
            stacks.is_of_program(last)
                && !names.is_empty()
                && rest.iter().all(|frame| stacks.names(frame) == names)
        }
        _ => false,
    };
    (!is_right).then(|| format!("should go on to {base:?}"))
}

/// Checks that all faults of `walks` are there, and have the stacks that the program says. A stack of which parts lie far from each
/// other may end early in the first round.
#[track_caller]
fn expect_touches(recording: &Recording, walks: &[Walks], is_ours: impl Fn(&FaultRow) -> bool) {
    let stacks = Stacks::of(recording, program!("stacks"));
    let mut faults = recording.faults();
    // What the dynamic linker mapped and unmapped may have lain where the program maps memory.
    let is_own = |fault: &&FaultRow| fault.ip_module.as_deref().is_some_and(|path| path.ends_with("/stacks"));
    let began = faults.iter().filter(is_own).map(|fault| fault.time_ns).min().expect("it ran");
    faults.retain(|fault| fault.time_ns >= began && is_ours(fault));
    let mut flaws = String::new();
    for (round, walks) in walks.iter().enumerate() {
        for touch in &walks.touches {
            let area = touch.area;
            assert_eq!(area.found_in(&faults), area, "{}", touch.name);
            let mut wrong: BTreeMap<String, Vec<usize>> = BTreeMap::new();
            for (place, fault) in area.rows_of(&faults).enumerate() {
                let is_kernel = touch.syscall.is_some();
                let syscall = touch.syscall.clone().filter(|_| since("5.15"));
                assert_eq!((&fault.syscall, fault.mode == "kernel"), (&syscall, is_kernel), "{fault:?}");
                let flaw = flaw(&stacks, fault.stack, &touch.stack, touch.is_far && round == 0);
                // Otherwise only the registers at the fault itself are known, not the caller's of the kernel (`bpf_task_pt_regs`).
                let takes_caller = fault.mode == "kernel" || fault.kind == "failed";
                if let Some(flaw) = flaw.filter(|_| !takes_caller || since("5.15")) {
                    wrong.entry(flaw).or_default().push(place);
                }
            }
            for (flaw, places) in wrong {
                let all = area.rows_of(&faults).count();
                let name = &touch.name;
                let _infallible =
                    writeln!(flaws, "round {round}, {name}, faults {places:?} of {all}: {flaw}");
            }
        }
    }
    assert!(flaws.is_empty(), "{flaws}");
}

/// Checks that all calls of `walks` are there, and have the stacks that the program says.
#[track_caller]
fn expect_calls(recording: &Recording, walks: &[Walks]) {
    let stacks = Stacks::of(recording, program!("stacks"));
    let maps = recording.maps();
    for call in walks.iter().flat_map(|walks| &walks.calls) {
        let place = (Some(call.tid), Some(call.stretch.start), Some(call.stretch.end));
        let rows = maps
            .iter()
            .filter(|row| row.action == call.name && (row.tid, row.start_addr, row.end_addr) == place);
        let flaws: Vec<_> = rows.map(|row| flaw(&stacks, row.stack, &call.stack, false)).collect();
        // Another round may have had the same place.
        let rounds = walks.iter().flat_map(|walks| &walks.calls);
        let same = rounds.filter(|other| (&other.name, other.stretch) == (&call.name, call.stretch)).count();
        assert_eq!(flaws.len(), same, "{call:?}");
        assert!(flaws.iter().all(Option::is_none), "{}: {flaws:#?}", call.name);
    }
}

/// What the workload says of a round, which stands in the line before which there are `index` others.
fn round(running: &mut Running, index: usize) -> Walks {
    serde_json::from_str(&running.line(index)).expect("a ledger")
}

/// Records `rounds` of the workload, each of which begins when what was found out in the one before is in the file.
#[track_caller]
fn record(rounds: usize) -> (Recording, Vec<Walks>) {
    let mut recording = memtrace!().start(&["-g"], &[program!("stacks"), "--rounds", &rounds.to_string()]);
    let mut walks: Vec<Walks> = Vec::new();
    for index in 0..rounds {
        if index > 0 {
            wait_for_stacks(&recording, &walks[index - 1]);
            recording.running.send("\n");
        }
        walks.push(round(&mut recording.running, index));
    }
    (recording.finish().expect_code(0), walks)
}

/// Waits until the stack of the last fault of `walks` is in the file.
#[track_caller]
fn wait_for_stacks(recording: &InProgress, walks: &Walks) {
    let last = walks.touches.last().expect("much is touched").area;
    let is_there = || {
        let faults = recording.faults_so_far();
        last.rows_of(&faults).filter(|fault| fault.stack.is_some()).count() as u64 >= last.minor
    };
    assert!(wait_until(is_there), "no stacks in {}", recording.directory().display());
}

#[test]
fn workload_has_no_frame_pointers() {
    // push %rbp; mov %rsp,%rbp
    const PROLOGUE: [u8; 4] = [0x55, 0x48, 0x89, 0xe5];
    let count = in_elf(program!("stacks"), |file| {
        let symbols =
            file.symbols().filter(|symbol| symbol.name().is_ok_and(|name| name.starts_with("ledger_")));
        let text = file.section_by_name(".text").expect("it has code");
        let mut count = 0;
        for symbol in symbols {
            let code = text.data_range(symbol.address(), symbol.size()).expect("a section").expect("in it");
            assert!(!code.windows(4).any(|bytes| bytes == PROLOGUE), "{:?}", symbol.name());
            count += 1;
        }
        count
    });
    assert!(count >= 20, "{count} functions");
}

#[test]
fn faults_have_the_stacks_of_the_ledger() {
    require!(root);
    require!(bpf);
    // Without type information it is known from maps, a moment later, where code lies.
    require!(btf);

    let (recording, walks) = record(ROUNDS);

    expect_touches(&recording, &walks, |_| true);
}

#[test]
fn calls_have_the_stacks_of_the_ledger() {
    require!(root);
    require!(bpf);
    require!(btf);

    let (recording, walks) = record(ROUNDS);

    expect_calls(&recording, &walks);
}

#[test]
fn two_recordings_of_one_program_have_the_same_stacks() {
    require!(root);
    require!(bpf);
    require!(btf);
    let mut workload = Run::new(program!("stacks")).args(["--rounds", "2", "--wait"]).with_stdin().start();
    let pid = Ready::of(&mut workload).pid.to_string();
    let start = || {
        let mut recording = memtrace!().start(&["-g", "-p", &pid], &[]);
        recording.wait_until_armed();
        // Of a process that was there before, it is read where its code lies.
        let is_read = || recording.regions_so_far().iter().any(|region| region.name == program!("stacks"));
        assert!(wait_until(is_read), "the maps of {pid} are not read");
        recording
    };
    let recordings = [start(), start()];

    workload.send("\n");
    let first = round(&mut workload, 1);
    for recording in &recordings {
        wait_for_stacks(recording, &first);
    }
    workload.send("\n");
    let walks = [first, round(&mut workload, 2)];
    let _end = workload.finish().expect_code(0);

    for recording in recordings {
        let recording = recording.finish().expect_code(0);
        // When one of them reads beyond the stack of a thread, the kernel tries that where it may not fault: so the other one says.
        expect_touches(&recording, &walks, |fault| fault.kind != "refused");
        expect_calls(&recording, &walks);
    }
}
