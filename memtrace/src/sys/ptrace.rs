//! Follows tasks with ptrace: seizes them, tells where they stopped, lets them go on.
//!
//! Layer: shell. Input: thread IDs. Output: [`Report`]s of the tasks that the calling thread has seized.
//! Source: `ptrace(2)`; `kernel/ptrace.c`; `kernel/exit.c`, where `wait_consider_task` reports a stop of a traced
//! child to every wait of its tracer's process, and `exit_ptrace` lets go what a thread has seized when it ends.
//! Keeps: the end of a child is seen, not taken, so it stays for whoever waits for that child.
//! Not here: how to answer a report (`session::hold`).

use std::{io, mem::MaybeUninit};

use crate::event::Tid;

pub mod call;

/// What a seized task reports. It stands still until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// It is about to exit; its address space is still whole.
    Exiting,
    /// It has become another program, and is now the only thread of its process, under the ID of the leader.
    Execed,
    /// It was just made by a seized task, or has just made one, or leaves a stop of its process.
    Passing,
    /// It stopped together with its process, until SIGCONT.
    GroupStop,
    /// It is about to get this signal.
    Signal(i32),
    /// It ended, killed before it could report that; it waits to be reaped.
    Dead,
}

/// Seizes a running task, and by it every thread and process that it makes; it does not stop for this.
pub fn seize(tid: Tid) -> io::Result<()> {
    let options = libc::PTRACE_O_TRACEEXIT
        | libc::PTRACE_O_TRACEEXEC
        | libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK
        | libc::PTRACE_O_TRACECLONE;
    request(libc::PTRACE_SEIZE.into(), tid, options)
}

/// A task seized by the calling thread that has stopped or died, and why; `None` if there is none now.
///
/// A stop is told once, a death until it is reaped.
///
/// # Errors
///
/// `ECHILD` if the calling thread has no seized task left.
pub fn report() -> io::Result<Option<(Tid, Report)>> {
    // Taken, for until then a stop at exec cannot be answered (`looks_like_a_spurious_pid`, since 5.13).
    let stop = match wait(libc::P_ALL, 0, libc::WSTOPPED | libc::WNOHANG) {
        Ok(found) => decode(&found),
        // Of dead tasks alone too.
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => None,
        Err(error) => return Err(error),
    };
    if stop.is_some() {
        return Ok(stop);
    }
    wait(libc::P_ALL, 0, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT).map(|found| decode(&found))
}

/// Whether the kernel itself sent the signal before which a task is stopped: a program of ours, most often.
pub fn is_from_kernel(tid: Tid) -> io::Result<bool> {
    /// Of `include/uapi/asm-generic/siginfo.h`.
    const SI_KERNEL: i32 = 0x80;
    let signal = unless_gone(read::<libc::siginfo_t>(libc::PTRACE_GETSIGINFO.into(), tid, 0))?;
    Ok(signal.is_some_and(|signal| signal.si_code == SI_KERNEL))
}

/// Lets a stopped task go on, with `signal` delivered to it unless that is 0.
pub fn resume(tid: Tid, signal: i32) -> io::Result<()> {
    answer(libc::PTRACE_CONT.into(), tid, signal)
}

/// Leaves a task in the stop of its process, and reports when that ends.
pub fn listen(tid: Tid) -> io::Result<()> {
    answer(libc::PTRACE_LISTEN.into(), tid, 0)
}

/// Stops a seized task, as soon as it can; one that stands still already does not report that again.
pub fn interrupt(tid: Tid) -> io::Result<()> {
    answer(libc::PTRACE_INTERRUPT.into(), tid, 0)
}

/// Lets a stopped task go on, seized no longer, with `signal` delivered to it unless that is 0.
pub fn detach(tid: Tid, signal: i32) -> io::Result<()> {
    answer(libc::PTRACE_DETACH.into(), tid, signal)
}

/// Reaps a dead task; if it is a process of another parent, that one learns of its end now.
pub fn reap(tid: Tid) -> io::Result<()> {
    wait(libc::P_PID, tid.0, libc::WEXITED | libc::WNOHANG).map(drop)
}

/// What `waitid` says of a task of the calling thread.
fn wait(which: libc::idtype_t, id: u32, options: libc::c_int) -> io::Result<libc::siginfo_t> {
    let mut found = MaybeUninit::<libc::siginfo_t>::zeroed();
    // Without __WNOTHREAD it would see children of other threads; without __WALL it would not see threads.
    let options = options | libc::__WALL | libc::__WNOTHREAD;
    // SAFETY: the pointer is to a local of the type that the call fills.
    if unsafe { libc::waitid(which, id, found.as_mut_ptr(), options) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was zeroed, which is a valid `siginfo_t`.
    Ok(unsafe { found.assume_init() })
}

/// The task that `waitid` found, if any, and what it reports.
fn decode(found: &libc::siginfo_t) -> Option<(Tid, Report)> {
    // SAFETY: `waitid` fills the fields of a child, or leaves them zero if it finds none.
    let (pid, status) = unsafe { (found.si_pid(), found.si_status()) };
    let tid = u32::try_from(pid).ok().filter(|pid| *pid != 0).map(Tid)?;
    Some((tid, meaning(found.si_code, status)))
}

/// What `si_code` and `si_status` of a traced task mean: a signal, and above its 8 bits a `PTRACE_EVENT_*`.
fn meaning(code: i32, status: i32) -> Report {
    if code != libc::CLD_TRAPPED {
        return Report::Dead;
    }
    match (status >> 8, status & 0xff) {
        (0, signal) => Report::Signal(signal),
        (libc::PTRACE_EVENT_EXIT, _) => Report::Exiting,
        (libc::PTRACE_EVENT_EXEC, _) => Report::Execed,
        (libc::PTRACE_EVENT_STOP, libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU) => {
            Report::GroupStop
        }
        _ => Report::Passing,
    }
}

/// A request that a stopped task go on in some way; one that was killed meanwhile needs none.
fn answer(operation: libc::c_long, tid: Tid, data: i32) -> io::Result<()> {
    unless_gone(request(operation, tid, data)).map(drop)
}

/// The result of a request; `None` if the task was killed meanwhile.
fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        result => result.map(Some),
    }
}

/// The system call itself: the type of the operation is not the same in all C libraries.
fn request(operation: libc::c_long, tid: Tid, data: i32) -> io::Result<()> {
    let address = 0_usize;
    // SAFETY: none of the requests made with it reads or writes memory of this process.
    let result = unsafe { libc::syscall(libc::SYS_ptrace, operation, tid.0, address, i64::from(data)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A type of which the kernel fills each byte, or none, and any bytes are a value.
trait Plain {}

impl Plain for libc::siginfo_t {}
#[cfg(target_arch = "x86_64")]
impl Plain for libc::user_regs_struct {}
#[cfg(target_arch = "x86_64")]
impl Plain for u64 {}

/// What `operation` tells of a stopped task; the value is as long as the kernel has it.
fn read<T: Plain>(operation: libc::c_long, tid: Tid, address: u64) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: the pointer is to a local of the type that the request fills.
    let result = unsafe { libc::syscall(libc::SYS_ptrace, operation, tid.0, address, value.as_mut_ptr()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was zeroed, and any bytes are a value.
    Ok(unsafe { value.assume_init() })
}

/// Has `operation` set what a stopped task has to `value`, which is as long as the kernel has it.
#[cfg(target_arch = "x86_64")]
fn write<T: Plain>(operation: libc::c_long, tid: Tid, value: &T) -> io::Result<()> {
    let address = 0_usize;
    // SAFETY: the request reads the value, which lives until it is over.
    let result = unsafe { libc::syscall(libc::SYS_ptrace, operation, tid.0, address, &raw const *value) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Numbers from include/uapi/linux/ptrace.h and asm-generic/{siginfo,signal}.h.
    const TRAPPED: i32 = 4;
    const SIGTRAP: i32 = 5;
    const SIGSTOP: i32 = 19;

    #[test]
    fn events_stand_above_the_signal() {
        assert_eq!(meaning(TRAPPED, 6 << 8 | SIGTRAP), Report::Exiting);
        assert_eq!(meaning(TRAPPED, 4 << 8 | SIGTRAP), Report::Execed);
        assert_eq!(meaning(TRAPPED, 3 << 8 | SIGTRAP), Report::Passing);
        assert_eq!(meaning(TRAPPED, 15), Report::Signal(15));
    }

    #[test]
    fn only_stop_signals_make_a_group_stop() {
        assert_eq!(meaning(TRAPPED, 128 << 8 | SIGSTOP), Report::GroupStop);
        assert_eq!(meaning(TRAPPED, 128 << 8 | SIGTRAP), Report::Passing);
    }

    #[test]
    fn killed_task_is_dead() {
        assert_eq!(meaning(2, 9), Report::Dead);
    }

    #[test]
    fn thread_that_seized_nothing_has_nothing_to_report() {
        assert_eq!(report().expect_err("no tasks").raw_os_error(), Some(libc::ECHILD));
    }
}
