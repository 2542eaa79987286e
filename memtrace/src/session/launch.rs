//! Starts the traced command behind a gate that opens once the probes are armed.
//!
//! Layer: shell. Input: the command line. Output: a process that waits, then becomes the command.
//! Source: `execvp(3)`; exit codes 126 and 127 as in `env(1)`.
//! Keeps: the command starts only if set-up succeeded; it gets what memtrace was called with: signal mask and dispositions,
//! limits, parent-death signal, user, groups and environment; and none of memtrace's descriptors.
//! Not here: arming (`live::target`), waiting for the end (`session`).

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use rustix::io::{FdFlags, fcntl_setfd};

use super::invoker::Invoker;
use crate::{
    event::Tgid,
    sys::{limits, process, signals},
};

/// The hidden verb by which memtrace runs itself as the launcher.
pub const VERB: &str = "__launch";

/// What the launcher writes when nothing is left to do but to become the command.
const READY: u8 = b'R';

/// Why the command did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The launcher could not be started.
    #[error("cannot start the launcher of the command")]
    Spawn(#[source] io::Error),
    /// The launcher ended before it was ready.
    #[error("the launcher of the command ended early")]
    Died,
    /// There is no such program.
    #[error("cannot run '{}': no such program; check the spelling and PATH", program.display())]
    NotFound {
        /// As given.
        program: OsString,
    },
    /// It is there, and cannot be executed.
    #[error("cannot run '{}': {need}", program.display())]
    NotExecutable {
        /// As given.
        program: OsString,
        /// What would have to be.
        need: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A process that waits to become the command.
#[derive(Debug)]
pub struct Gated {
    pid: Tgid,
    program: OsString,
    gate: io::PipeWriter,
    status: io::PipeReader,
}

impl Gated {
    /// Starts the launcher for `command` and waits until it blocks at the gate.
    pub fn spawn(command: &[OsString]) -> Result<Self, LaunchError> {
        let program = command.first().cloned().unwrap_or_default();
        let (gate_end, gate) = io::pipe().map_err(LaunchError::Spawn)?;
        let (mut status, status_end) = io::pipe().map_err(LaunchError::Spawn)?;
        let inheritable = |fd| fcntl_setfd(fd, FdFlags::empty()).map_err(io::Error::from);
        inheritable(gate_end.as_fd()).map_err(LaunchError::Spawn)?;
        inheritable(status_end.as_fd()).map_err(LaunchError::Spawn)?;
        let mut launcher = Command::new("/proc/self/exe");
        launcher
            .arg0("memtrace")
            .arg(VERB)
            .arg(gate_end.as_raw_fd().to_string())
            .arg(status_end.as_raw_fd().to_string())
            .args(command);
        process::as_without_fork(limits::as_at_start(signals::as_at_start(&mut launcher)));
        let child = launcher.spawn().map_err(LaunchError::Spawn)?;
        drop((gate_end, status_end));
        let mut ready = [0];
        status.read_exact(&mut ready).map_err(|_| LaunchError::Died)?;
        let pid = Tgid(child.id());
        wait_until_asleep(pid);
        Ok(Self { pid, program, gate, status })
    }

    /// Its process ID, which the command keeps.
    #[must_use]
    pub fn pid(&self) -> Tgid {
        self.pid
    }

    /// Opens the gate; returns once the command runs, or why it does not.
    pub fn release(mut self) -> Result<(), LaunchError> {
        self.gate.write_all(&[READY]).map_err(LaunchError::Spawn)?;
        let mut error = [0; 4];
        match self.status.read_exact(&mut error) {
            // The descriptor closed on exec.
            Err(_) => Ok(()),
            Ok(()) => Err(exec_error(self.program, i32::from_le_bytes(error))),
        }
    }
}

/// Waits, for a second at most, until the launcher sleeps at the gate, so that its fault counters stand still.
fn wait_until_asleep(pid: Tgid) {
    for _ in 0..1_000 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.0)).unwrap_or_default();
        // The state follows the name, which may itself hold a parenthesis.
        if stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('S')) {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// What an error number of `execvp` means for the user.
fn exec_error(program: OsString, code: i32) -> LaunchError {
    let path = Path::new(&program);
    // Only such a name is not searched for.
    let is_there = path.parent() != Some(Path::new("")) && path.exists();
    let need = match code {
        libc::ENOENT if is_there => "needs the interpreter that its first line names",
        libc::ENOENT => return LaunchError::NotFound { program },
        libc::EACCES if is_there && path.is_dir() => "needs to be a program, and is a directory",
        libc::EACCES => "needs to be executable (chmod +x)",
        _ => "the kernel refuses",
    };
    LaunchError::NotExecutable { program, need, source: io::Error::from_raw_os_error(code) }
}

/// What the launcher does with the arguments after its verb: waits at the gate, then becomes the command.
///
/// Returns only if it cannot; the parent knows why.
#[must_use]
pub fn launch(args: &[OsString]) -> io::Error {
    let [gate, status, program, rest @ ..] = args else {
        return io::ErrorKind::InvalidInput.into();
    };
    let mut command = Command::new(program);
    command.args(rest);
    match wait_at_gate(gate, status, &mut command) {
        Err(error) => error,
        Ok(mut status) => {
            let error = signals::as_at_start(&mut command).exec();
            let code = error.raw_os_error().unwrap_or(libc::EINVAL);
            // If memtrace is gone there is nobody to tell.
            let _gone = status.write_all(&code.to_le_bytes());
            error
        }
    }
}

/// Becomes the user whose command it is, and blocks until the gate opens; an error if memtrace is gone.
fn wait_at_gate(gate: &OsStr, status: &OsStr, command: &mut Command) -> io::Result<fs::File> {
    let mut gate = inherited(gate)?;
    let mut status = inherited(status)?;
    rustix::thread::set_name(c"memtrace")?;
    if let Some(invoker) = Invoker::find() {
        invoker.take_over(command)?;
    }
    status.write_all(&[READY])?;
    let mut go = [0];
    gate.read_exact(&mut go)?;
    Ok(status)
}

/// Takes over the descriptor whose number is `text`.
fn inherited(text: &OsStr) -> io::Result<fs::File> {
    let number = text.to_str().and_then(|text| text.parse().ok());
    let fd: OwnedFd = process::inherited(number.ok_or(io::ErrorKind::InvalidInput)?)?;
    Ok(fd.into())
}
