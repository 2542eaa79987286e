//! What can be traced besides a command: processes, threads, cgroups, the system.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::maps::{HashMap, Map, MapData, loaded_maps};
use memtrace_ebpf::TaskState;
use memtrace_tests::{
    cgroup::hierarchy,
    ledger::{Ledger, Ready},
    memtrace, program,
    recording::{InProgress, Memtrace, Recording},
    require,
    run::{Finished, Run, Running},
};
use procfs::process::Process;
use rustix::process::Signal;

/// A `touch` that waits before its phase.
#[track_caller]
fn waiting(phase: &[&str]) -> (Running, Ready) {
    let mut touch = Run::new(program!("touch")).args(phase).arg("--wait").with_stdin().start();
    let ready = Ready::of(&mut touch);
    (touch, ready)
}

/// Lets a waiting `touch` do its phase.
#[track_caller]
fn finish(mut touch: Running) -> (Finished, Ledger) {
    touch.send("\n");
    let finished = touch.finish().expect_code(0);
    let ledger = finished.last_line();
    (finished, ledger)
}

/// memtrace as it is, and where the kernel's type information is missing: tasks are followed in another way there.
fn both_ways() -> [Memtrace; 2] {
    [memtrace!(), memtrace!().without("btf")]
}

/// Starts memtrace on a target that runs, and waits until it is armed.
#[track_caller]
fn attach(memtrace: Memtrace, options: &[&str]) -> InProgress {
    let mut attached = memtrace.start(options, &[]);
    attached.wait_until_armed();
    attached
}

/// Stops memtrace as ^C does.
#[track_caller]
fn stop(attached: InProgress) -> Recording {
    attached.running.signal(Signal::INT);
    let recording = attached.finish();
    assert_eq!(recording.run.signal(), Some(Signal::INT), "{:#?}", recording.run);
    recording
}

/// Checks that all areas of the ledger were recorded.
#[track_caller]
fn expect_recorded(recording: &Recording, ledger: &Ledger) {
    let faults = recording.faults();
    for area in &ledger.areas {
        assert_eq!(area.found_in(&faults), *area);
    }
}

/// Checks that no area of the ledger was.
#[track_caller]
fn expect_untraced(recording: &Recording, ledger: &Ledger) {
    let faults = recording.faults();
    for area in &ledger.areas {
        assert_eq!(area.rows_of(&faults).count(), 0, "{area:?}");
    }
}

#[test]
fn running_process_is_traced_with_all_its_threads() {
    require!(root);
    require!(bpf);
    for memtrace in both_ways() {
        let (touch, ready) = waiting(&["threads", "--threads", "3"]);
        let (other, _) = waiting(&["write"]);

        let attached = attach(memtrace, &["-p", &ready.pid.to_string()]);
        let (_, untraced) = finish(other);
        let (_, ledger) = finish(touch);
        let recording = attached.finish().expect_code(0);

        expect_recorded(&recording, &ledger);
        expect_untraced(&recording, &untraced);
    }
}

/// What the programs hold of a task.
type State = [u8; TaskState::LEN];

/// The tables of traced tasks that have the task `tid`, and what they hold of it.
fn tables_with(tid: u32) -> Vec<(HashMap<MapData, u32, State>, State)> {
    let tables = loaded_maps().flatten().filter(|map| map.name_as_str() == Some("TASKS"));
    let tables =
        tables.filter_map(|map| HashMap::try_from(Map::HashMap(MapData::from_id(map.id()).ok()?)).ok());
    tables.filter_map(|table| table.get(&tid, 0).ok().map(|state| (table, state))).collect()
}

/// What the kernel has charged to a process, by `/proc/PID/stat`.
fn charged(pid: u32) -> u64 {
    let pid = i32::try_from(pid).expect("process IDs are small");
    let stat = Process::new(pid).and_then(|process| process.stat()).expect("it lives");
    stat.minflt + stat.majflt
}

#[test]
fn target_of_which_no_event_came_is_not_complete() {
    require!(root);
    require!(bpf);
    for memtrace in both_ways() {
        // It lives on: a little after a task has ended the programs forget it.
        let script =
            "read go; for size in 1 2 3 4 5 6 7 8 9; do text=$text$text$PATH; done; echo grown; read end";
        let mut silent = Run::new("sh").args(["-c", script]).with_stdin().start();
        let (seen, seen_ready) = waiting(&["write"]);
        let pids = format!("{},{}", silent.pid(), seen_ready.pid);
        let attached = attach(memtrace, &["-p", &pids]);

        // The programs forget the target, as if they had been given the number of somebody else.
        let mut tables = tables_with(silent.pid());
        assert_eq!(tables.len(), 1);
        let (table, state) = &mut tables[0];
        let before = charged(silent.pid());
        table.remove(&silent.pid()).expect("an entry of the table");
        silent.send("go\n");
        silent.wait_for("growth", |silent| silent.stdout().contains("grown").then_some(()));
        silent.wait_for("sleep", |silent| is_reading(silent.pid()).then_some(()));
        let unseen = charged(silent.pid()) - before;
        table.insert(silent.pid(), *state, 0).expect("there is room");
        let (_, ledger) = finish(seen);
        let recording = stop(attached);
        silent.send("end\n");
        silent.finish().expect_code(0);

        expect_recorded(&recording, &ledger);
        assert!(recording.faults().iter().all(|fault| fault.tgid == Some(seen_ready.pid)));
        assert_eq!(recording.report().at("/complete"), false, "{:#?}", recording.run);
        let (_, losses) = recording.skips_and_other_losses();
        let [loss] = &losses[..] else { panic!("one loss: {losses:?}") };
        assert_eq!((&*loss.cause, loss.count), ("no_events", Some(unseen)));
        assert!(unseen > 0);
    }
}

/// Whether a process waits in a system call.
fn is_reading(pid: u32) -> bool {
    let pid = i32::try_from(pid).expect("process IDs are small");
    Process::new(pid).and_then(|process| process.stat()).is_ok_and(|stat| stat.state == 'S')
}

#[test]
fn several_processes_are_traced_at_once() {
    require!(root);
    require!(bpf);
    for memtrace in both_ways() {
        let (first, first_ready) = waiting(&["write"]);
        let (second, second_ready) = waiting(&["spawn"]);

        let attached = attach(memtrace, &["-p", &format!("{},{}", first_ready.pid, second_ready.pid)]);
        let ledgers = [finish(first).1, finish(second).1];
        let recording = attached.finish().expect_code(0);

        for ledger in &ledgers {
            expect_recorded(&recording, ledger);
        }
    }
}

#[test]
fn thread_is_traced_alone() {
    require!(root);
    require!(bpf);
    for memtrace in both_ways() {
        let (touch, ready) = waiting(&["threads", "--threads", "3"]);

        let attached = attach(memtrace, &["-t", &ready.tids[1].to_string()]);
        let (_, ledger) = finish(touch);
        let recording = attached.finish().expect_code(0);

        let faults = recording.faults();
        for area in &ledger.areas {
            let expected = if area.tid == ready.tids[1] { area.minor } else { 0 };
            assert_eq!(area.found_in(&faults).minor, expected, "{area:?} of {ready:?}");
        }
    }
}

#[test]
fn system_is_traced_for_a_while() {
    require!(root);
    require!(bpf);
    for memtrace in both_ways() {
        let (before, _) = waiting(&["write"]);

        let attached = attach(memtrace, &["-a"]);
        let (_, known) = finish(before);
        let new = Run::new(program!("touch")).arg("write").finish().expect_code(0).last_line();
        let recording = stop(attached);

        expect_recorded(&recording, &known);
        expect_recorded(&recording, &new);
    }
}

#[test]
fn target_goes_on_when_the_recording_is_stopped() {
    require!(root);
    require!(bpf);
    for memtrace in both_ways() {
        let (touch, ready) = waiting(&["write"]);

        let recording = stop(attach(memtrace, &["-p", &ready.pid.to_string()]));
        let (_, ledger) = finish(touch);

        expect_untraced(&recording, &ledger);
        recording.expect_complete_but_for_skips();
    }
}

/// A cgroup of its own, gone at the end.
struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes one below `root`.
    fn below(root: &Path) -> Self {
        let path = root.join(format!("memtrace-tests-{}", std::process::id()));
        fs::create_dir(&path).expect("a cgroup can be made");
        Self { path }
    }

    fn adopt(&self, pid: u32) {
        fs::write(self.path.join("cgroup.procs"), pid.to_string()).expect("a process can be moved");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Busy if a process is left, which the failed test says.
        let _busy = fs::remove_dir(&self.path);
    }
}

/// Traces a cgroup below `root`: a process that was in it, one that moves in, and one that stays out.
#[track_caller]
fn cgroup_is_traced(root: Option<PathBuf>, version: &str) {
    let Some(root) = root else {
        return memtrace_tests::requirement::skip(&format!("needs a cgroup hierarchy of version {version}"));
    };
    for memtrace in both_ways() {
        let cgroup = Cgroup::below(&root);
        let (inside, ready) = waiting(&["spawn"]);
        cgroup.adopt(ready.pid);
        let (moving, moving_ready) = waiting(&["write"]);
        let (outside, _) = waiting(&["write"]);

        let attached = attach(memtrace, &["--cgroup", &cgroup.path.to_string_lossy()]);
        cgroup.adopt(moving_ready.pid);
        let traced = [finish(inside).1, finish(moving).1];
        let (_, untraced) = finish(outside);
        let recording = stop(attached);

        for ledger in &traced {
            expect_recorded(&recording, ledger);
        }
        expect_untraced(&recording, &untraced);
    }
}

/// Many threads that exit at once are the last thing that a process does in its cgroup.
#[test]
fn threads_that_exit_in_a_cgroup_are_accounted_for() {
    require!(root);
    require!(bpf);
    let Some(root) = hierarchy(|kind, _| kind == "cgroup2") else {
        return memtrace_tests::requirement::skip("needs a cgroup hierarchy of version 2");
    };
    for memtrace in both_ways() {
        let cgroup = Cgroup::below(&root);
        let (inside, ready) = waiting(&["threads", "--threads", "8"]);
        cgroup.adopt(ready.pid);

        let attached = attach(memtrace, &["--cgroup", &cgroup.path.to_string_lossy()]);
        let (_, ledger) = finish(inside);
        let recording = stop(attached);

        expect_recorded(&recording, &ledger);
        assert_eq!(recording.report().number("/tasks/exits"), ledger.areas.len() as u64);
    }
}

/// Pages of the stack of `pid` that smaps says are in memory.
fn resident_stack_pages(pid: u32) -> u64 {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("the process runs");
    let (_, stack) = smaps.split_once("[stack]").expect("a process has a stack");
    let rss = stack.lines().find_map(|line| line.strip_prefix("Rss:")).expect("a size");
    let kib: u64 = rss.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1024 / memtrace_tests::memory::page_bytes() as u64
}

#[test]
fn scan_at_everything_sees_what_has_not_faulted_for_long() {
    require!(root);
    require!(bpf);
    for memtrace in [memtrace!(), memtrace!().without("pagemap_scan")] {
        let (mut touch, ready) = waiting(&["write"]);
        let mut attached = memtrace.start(&["-p", &ready.pid.to_string()], &[]);
        attached.wait_until_armed();

        attached.read_maps(ready.pid);
        // Nothing but that signal and the end make it scan everything.
        attached.wait_for_report("/scans/by/full/scans", 1);
        let recording = stop(attached);
        let resident = resident_stack_pages(ready.pid);
        touch.send("\n");
        touch.finish().expect_code(0);

        let stack = recording.timeline().into_iter().find(|row| row.backing == "stack");
        assert_eq!(stack.expect("the stack was scanned").present_pages, Some(resident));
    }
}

#[test]
fn cgroup_of_version_2_is_traced_with_what_moves_in() {
    require!(root);
    require!(bpf);
    cgroup_is_traced(hierarchy(|kind, _| kind == "cgroup2"), "2");
}

#[test]
fn cgroup_of_version_1_is_traced_with_what_moves_in() {
    require!(root);
    require!(bpf);
    cgroup_is_traced(hierarchy(|kind, options| kind == "cgroup" && options.contains("pids")), "1");
}
