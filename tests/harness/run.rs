//! Runs programs to their end, never longer than a test may take.
//!
//! Input: a command line. Output: [`Finished`]: how it ended and what it wrote.
//! Keeps: nothing that was started outlives the test; the environment holds nothing that changes memtrace's ways.
//! Not here: what memtrace's output means (`recording`).

use std::{
    ffi::OsStr,
    fmt::Debug,
    fs::{self, File},
    io::Write as _,
    os::unix::{
        fs::FileExt as _,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::Path,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::de::DeserializeOwned;

/// Longest life of a program in a test: what takes a second on a processor may take a minute on an emulated one.
const PATIENCE: Duration = Duration::from_mins(2);

/// Time after the end of a program in which its children may do what is waited for.
const AFTERMATH: Duration = Duration::from_secs(5);

/// Time between two checks of what is waited for.
const PERIOD: Duration = Duration::from_millis(2);

/// Most of the time between two scans that counts: if it was longer, then the machine stood still.
const LONGEST_PERIOD: Duration = Duration::from_secs(1);

/// What sudo and the user's shell may have set, and memtrace heeds.
const HEEDED: [&str; 7] =
    ["SUDO_UID", "SUDO_GID", "SUDO_USER", "MEMTRACE_DISABLE", "NO_COLOR", "CLICOLOR_FORCE", "RUST_LOG"];

/// A command that has not been started.
#[derive(Debug)]
pub struct Run {
    command: Command,
}

impl Run {
    /// `program` without arguments, with an empty stdin, in a process group of its own.
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).process_group(0);
        for name in HEEDED {
            command.env_remove(name);
        }
        Self { command }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, args: I) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Starts it in `directory`.
    #[must_use]
    pub fn in_dir(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Starts it with a stdin that [`Running::send`] writes to.
    #[must_use]
    pub fn with_stdin(mut self) -> Self {
        self.command.stdin(Stdio::piped());
        self
    }

    /// Starts it.
    #[must_use]
    #[track_caller]
    pub fn start(mut self) -> Running {
        let [stdout, stderr] = std::array::from_fn(|_| tempfile::tempfile().expect("a file for output"));
        let writer = |file: &File| Stdio::from(file.try_clone().expect("a second descriptor"));
        self.command.stdout(writer(&stdout)).stderr(writer(&stderr));
        let mut child = self.command.spawn().expect("the program starts");
        let stdin = child.stdin.take();
        Running { line: format!("{:?}", self.command), child, stdin, stdout, stderr, patience: PATIENCE }
    }

    /// Starts it and waits for its end.
    #[must_use]
    #[track_caller]
    pub fn finish(self) -> Finished {
        self.start().finish()
    }
}

/// A program that runs; its process group is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    line: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: File,
    stderr: File,
    patience: Duration,
}

impl Running {
    /// Its process ID.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn group(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends a signal to it alone.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill_process(self.group(), signal).expect("the program runs");
    }

    /// Sends a signal to all of its process group, as a terminal does.
    #[track_caller]
    pub fn signal_group(&self, signal: Signal) {
        kill_process_group(self.group(), signal).expect("the program runs");
    }

    /// Stops its process group, and waits until all threads of `pids`, who are of that group, stand still.
    #[track_caller]
    pub fn freeze(&mut self, pids: &[u32]) {
        self.signal_group(Signal::STOP);
        for pid in pids {
            self.wait_for("stop", |_| is_stopped(*pid).then_some(()));
        }
    }

    /// Stops it alone, and waits until all its threads stand still.
    #[track_caller]
    pub fn stop(&mut self) {
        self.signal(Signal::STOP);
        let pid = self.pid();
        self.wait_for("stop", |_| is_stopped(pid).then_some(()));
    }

    /// Writes `text` to its stdin, and leaves it open.
    #[track_caller]
    pub fn send(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("started with a stdin");
        stdin.write_all(text.as_bytes()).expect("the program reads its stdin");
    }

    /// What it and its children have written to stdout by now.
    #[must_use]
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// Waits until `condition` gives something.
    #[track_caller]
    pub fn wait_for<T>(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> Option<T>) -> T {
        loop {
            let scan = Instant::now();
            if let Some(found) = condition(self) {
                return found;
            }
            if self.child.try_wait().expect("the program is a child").is_some() {
                // Its children may still do what is waited for.
                self.patience = self.patience.min(AFTERMATH);
            }
            assert!(
                !self.patience.is_zero(),
                "no {what} from {}\n{}\n{}",
                self.line,
                self.written(),
                standing(self.pid())
            );
            thread::sleep(PERIOD);
            self.patience = self.patience.saturating_sub(scan.elapsed().min(LONGEST_PERIOD));
        }
    }

    /// Waits for the first line of its stdout.
    #[track_caller]
    pub fn first_line(&mut self) -> String {
        self.line(0)
    }

    /// Waits for the line of its stdout before which there are `index` others.
    #[track_caller]
    pub fn line(&mut self, index: usize) -> String {
        self.wait_for("line", |this| {
            let stdout = this.stdout();
            stdout.split_inclusive('\n').nth(index)?.strip_suffix('\n').map(str::to_owned)
        })
    }

    /// Waits until the file at `path` holds something, and returns its text.
    #[track_caller]
    pub fn wait_for_content(&mut self, path: &Path) -> Vec<u8> {
        self.wait_for(&format!("content of {}", path.display()), |_| {
            fs::read(path).ok().filter(|content| !content.is_empty())
        })
    }

    /// Waits for its end; its children may run on.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        drop(self.stdin.take());
        self.wait_for("end", |this| this.child.try_wait().expect("the program is a child"))
    }

    /// Waits for its end, and kills what is left of its group.
    #[must_use]
    #[track_caller]
    pub fn finish(mut self) -> Finished {
        let status = self.wait();
        Finished { line: self.line.clone(), status, stdout: read(&self.stdout), stderr: read(&self.stderr) }
    }

    fn written(&self) -> String {
        format!("stdout:\n{}\nstderr:\n{}", read(&self.stdout), read(&self.stderr))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Whoever is left of the group, if any.
        let _gone = kill_process_group(self.group(), Signal::KILL);
        let _reaped = self.child.wait();
    }
}

/// Whether all threads of process `pid` are stopped.
fn is_stopped(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it lives");
    tasks.flatten().all(|task| {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:\tT"))
    })
}

/// Where in the kernel the threads of process `pid` and of its descendants are, as far as the kernel tells.
fn standing(pid: u32) -> String {
    let mut text = String::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let read = |file| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        text.extend([task.path().display().to_string(), " ".to_owned(), read("comm"), read("stack")]);
        let children = read("children");
        text.extend(children.split_whitespace().filter_map(|child| child.parse().ok()).map(standing));
    }
    text
}

/// All of `file` as text. Its position is the program's that writes, so it stays where it is.
fn read(file: &File) -> String {
    let len = file.metadata().expect("an open file has metadata").len();
    let mut bytes = vec![0; usize::try_from(len).expect("output fits into memory")];
    file.read_exact_at(&mut bytes, 0).expect("a file does not shrink");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// How a program ended, and what it wrote.
#[derive(Debug)]
pub struct Finished {
    /// What was run.
    pub line: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

#[expect(
    clippy::must_use_candidate,
    clippy::return_self_not_must_use,
    reason = "the checks among these are called for their panic"
)]
impl Finished {
    /// Its exit code, unless a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that ended it, if one did.
    pub fn signal(&self) -> Option<Signal> {
        self.status.signal().and_then(Signal::from_named_raw)
    }

    /// Checks that it ended with `code`.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code(), Some(code), "{self:#?}");
        self
    }

    /// Checks that `signal` ended it.
    #[track_caller]
    pub fn expect_signal(self, signal: Signal) -> Self {
        assert_eq!(self.signal(), Some(signal), "{self:#?}");
        self
    }

    /// Checks that it failed with `code` and one message of memtrace that holds each of `words`.
    #[track_caller]
    pub fn expect_failure(self, code: i32, words: &[&str]) -> Self {
        let this = self.expect_code(code);
        let message = this.stderr.lines().find(|line| line.starts_with("memtrace: "));
        let holds = |word: &&str| this.stderr.contains(*word);
        assert!(message.is_some() && words.iter().all(holds), "{words:?} are missing: {this:#?}");
        assert!(!this.stderr.contains("panicked"), "{this:#?}");
        this
    }

    /// The last line of stdout as JSON.
    #[track_caller]
    pub fn last_line<T: DeserializeOwned + Debug>(&self) -> T {
        let line = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|cause| panic!("{cause}: {self:#?}"))
    }
}
