//! Holds children of this test, which wait for a line on their standard input before they do what a test is about.

use std::{
    env,
    io::{Read as _, Write as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Child, Command, ExitStatus, Stdio, exit},
    sync::{Arc, Barrier, mpsc::Receiver},
    thread,
    time::Duration,
};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use super::*;
use crate::sys::process::kill;

/// Set where a test runs itself again to be the held process.
const CHILD: &str = "MEMTRACE_TEST_CHILD";

/// A held child, and the maps of the processes that were held at their exit.
struct Held {
    child: Child,
    hold: Hold,
    exits: Receiver<(Tgid, String)>,
}

impl Held {
    /// Starts and seizes what waits for a line.
    fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::piped()).spawn().expect("the program is there");
        let (sender, exits) = mpsc::channel();
        let hold = Hold::seize([Tgid(child.id())].into(), move |Exiting { process, thread, .. }| {
            let maps = fs::read_to_string(format!("/proc/{}/maps", thread.0)).expect("held");
            sender.send((process, maps)).expect("the test collects them");
        });
        Self { child, hold: hold.expect("our own child may be seized"), exits }
    }

    fn shell(script: &str) -> Self {
        Self::start(Command::new("sh").args(["-c", &format!("read line; {script}")]))
    }

    /// This program, running the test `name` alone.
    fn rerun(name: &str) -> Self {
        let test = format!("session::hold::tests::{name}");
        let mut program = Command::new(env::current_exe().expect("tests have a path"));
        Self::start(program.args(["--exact", &test, "--nocapture"]).env(CHILD, "1").stdout(Stdio::null()))
    }

    fn tgid(&self) -> Tgid {
        Tgid(self.child.id())
    }

    /// Sends the line.
    fn go(&mut self) {
        let mut stdin = self.child.stdin.take().expect("a line is sent once");
        stdin.write_all(b"\n").expect("the child reads it");
    }

    /// How the child ended; as in the product, stops of it are left to the hold.
    fn wait(mut self) -> (ExitStatus, Vec<(Tgid, String)>) {
        until("the child ends", || {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            let found = waitid(WaitId::Pid(Pid::from_child(&self.child)), options).expect("our child");
            found.is_some_and(|found| !found.trapped())
        });
        let status = self.child.wait().expect("it has ended");
        drop(self.hold);
        (status, self.exits.iter().collect())
    }

    /// Waits until the child is in one of these states of `/proc/PID/status`, traced or not.
    fn wait_for_state(&self, states: &[char], is_traced: bool) {
        until("the child is in the state", || {
            let Status { state, tracerpid, .. } = status(Tid(self.child.id())).expect("it is not reaped");
            state.starts_with(states) && (tracerpid != 0) == is_traced
        });
    }
}

fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if is_true() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("10 seconds until {what}");
}

/// Whether this is the held process itself, past its gate.
fn is_child() -> bool {
    let is_child = env::var_os(CHILD).is_some();
    if is_child {
        std::io::stdin().read_exact(&mut [0]).expect("the test sends a line");
    }
    is_child
}

#[test]
fn maps_are_whole_at_the_exit_and_the_code_is_its_own() {
    let mut held = Held::shell("exit 7");
    let tgid = held.tgid();

    held.go();
    let (status, exits) = held.wait();

    assert_eq!(status.code(), Some(7));
    assert_eq!(exits.len(), 1);
    assert_eq!(exits[0].0, tgid);
    assert!(exits[0].1.contains("[stack]"), "{}", exits[0].1);
}

#[test]
fn process_killed_by_a_signal_is_held_and_dies_by_it() {
    for signal in [libc::SIGKILL, libc::SIGTERM] {
        let held = Held::shell("");

        kill(held.tgid(), signal).expect("it waits for its line");
        let (status, exits) = held.wait();

        assert_eq!(status.signal(), Some(signal));
        assert!(exits[0].1.contains("[stack]"), "{}", exits[0].1);
    }
}

#[test]
fn signal_reaches_its_handler() {
    let mut held = Held::shell("trap 'exit 9' TERM; kill -TERM $$; exit 1");

    held.go();

    assert_eq!(held.wait().0.code(), Some(9));
}

#[test]
fn children_are_held_and_left_to_their_parent() {
    let mut held = Held::shell("sh -c 'kill -9 $$'; killed=$?; (exit 4); exit $((killed + $?))");

    held.go();
    let (status, exits) = held.wait();

    // 128 + 9 + 4.
    assert_eq!(status.code(), Some(141));
    let processes: BTreeSet<_> = exits.iter().map(|(tgid, _)| *tgid).collect();
    assert_eq!((processes.len(), exits.len()), (3, 3));
    assert!(exits.iter().all(|(_, maps)| maps.contains("[stack]")));
}

#[test]
fn program_is_held_under_its_new_maps_after_exec() {
    let mut held = Held::shell("exec cat /dev/null");

    held.go();
    let (status, exits) = held.wait();

    assert_eq!(status.code(), Some(0));
    assert_eq!(exits.len(), 1);
    assert!(!exits[0].1.contains("/sh\n") && !exits[0].1.contains("/dash\n"), "{}", exits[0].1);
}

#[test]
fn process_with_threads_is_held_once() {
    if is_child() {
        let all = Arc::new(Barrier::new(21));
        for _ in 0..20 {
            let all = Arc::clone(&all);
            thread::spawn(move || (all.wait(), thread::sleep(Duration::from_mins(1))));
        }
        all.wait();
        exit(5);
    }
    let mut held = Held::rerun("process_with_threads_is_held_once");

    held.go();
    let (status, exits) = held.wait();

    assert_eq!(status.code(), Some(5));
    assert_eq!(exits.len(), 1);
    assert!(exits[0].1.contains("[stack]"), "{}", exits[0].1);
}

#[test]
fn threads_that_come_and_go_end_no_process() {
    if is_child() {
        for _ in 0..50 {
            thread::spawn(|| {}).join().expect("it does nothing");
        }
        exit(0);
    }
    let mut held = Held::rerun("threads_that_come_and_go_end_no_process");

    held.go();

    assert_eq!(held.wait().1.len(), 1);
}

#[test]
fn exec_by_another_thread_ends_no_process() {
    if is_child() {
        let error = Command::new("sh").args(["-c", "exit 3"]).exec();
        panic!("{error}");
    }
    let mut held = Held::rerun("exec_by_another_thread_ends_no_process");

    held.go();
    let (status, exits) = held.wait();

    assert_eq!(status.code(), Some(3));
    assert_eq!(exits.len(), 1);
    assert!(exits[0].1.contains("[stack]") && !exits[0].1.contains("memtrace-"), "{}", exits[0].1);
}

#[test]
fn process_whose_leader_left_first_is_held_at_its_last_thread() {
    // SYS_exit ends only the calling thread, here the leader.
    let exit = if cfg!(target_arch = "x86_64") { 60 } else { 93 };
    let script = format!(
        "import ctypes, sys, threading, time
sys.stdin.readline()
threading.Thread(target=lambda: (time.sleep(0.2), open('/dev/null'), time.sleep(0.2))).start()
ctypes.CDLL(None).syscall({exit}, 0)"
    );
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("skipped: needs python3");
        return;
    }
    let mut held = Held::start(Command::new("python3").args(["-c", &script]));
    let tgid = held.tgid();

    held.go();
    held.wait_for_state(&['Z'], false);
    // The interpreter runs a program of its own at its start.
    assert!(held.exits.try_iter().all(|(other, _)| other != tgid), "a thread is left");
    let (_, exits) = held.wait();

    assert_eq!(exits.len(), 1);
    assert_eq!(exits[0].0, tgid);
    assert!(exits[0].1.contains("[stack]"), "{}", exits[0].1);
}

#[test]
fn stop_and_continue_work_while_held() {
    let mut held = Held::shell("exit 6");

    kill(held.tgid(), libc::SIGSTOP).expect("it lives");
    held.wait_for_state(&['T', 't'], true);
    held.go();
    thread::sleep(Duration::from_millis(50));
    held.wait_for_state(&['T', 't'], true);
    kill(held.tgid(), libc::SIGCONT).expect("it lives");

    assert_eq!(held.wait().0.code(), Some(6));
}

#[test]
fn released_process_runs_on_untraced() {
    let mut held = Held::shell("exit 8");
    held.wait_for_state(&['S'], true);

    let nothing = Hold::seize(BTreeSet::new(), |_| {}).expect("nobody refuses");
    drop(std::mem::replace(&mut held.hold, nothing));

    held.wait_for_state(&['S'], false);
    held.go();
    let (status, exits) = held.wait();
    assert_eq!(status.code(), Some(8));
    assert!(exits.is_empty());
}

#[test]
fn released_process_stays_stopped_until_continued() {
    let mut held = Held::shell("exit 8");
    kill(held.tgid(), libc::SIGSTOP).expect("it lives");
    held.wait_for_state(&['T', 't'], true);

    let nothing = Hold::seize(BTreeSet::new(), |_| {}).expect("nobody refuses");
    drop(std::mem::replace(&mut held.hold, nothing));

    held.wait_for_state(&['T'], false);
    held.go();
    kill(held.tgid(), libc::SIGCONT).expect("it lives");
    assert_eq!(held.wait().0.code(), Some(8));
}

#[test]
fn process_that_is_traced_already_is_refused() {
    let mut held = Held::shell("exit 0");

    let error = Hold::seize([held.tgid()].into(), |_| {}).expect_err("one tracer only");

    assert!(matches!(error, HoldError::Traced { tgid, .. } if tgid == held.tgid()), "{error}");
    held.go();
    assert_eq!(held.wait().0.code(), Some(0));
}

#[test]
fn process_that_has_ended_is_not_held() {
    // Larger than the largest PID that the kernel gives.
    Hold::seize([Tgid(1 << 23)].into(), |_| {}).expect("nobody to hold");
}
