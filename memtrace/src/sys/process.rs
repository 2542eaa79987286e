//! Waits for a child with what it used, signals it, dies like it; becomes another user; hands on what fork(2) takes away.
//!
//! Layer: shell. Input: a process ID, a signal, a user, a command. Output: [`Ended`].
//! Source: `wait4(2)`, `getrusage(2)`, `core(5)`, `initgroups(3)`, `setuid(2)`, `fork(2)`.
//! Keeps: the fault counts of a child are the kernel's own, complete once it is reaped.
//! Not here: starting a child (`session`), its signal settings (`signals`).

use std::{
    ffi::CStr,
    io,
    mem::MaybeUninit,
    os::{
        fd::{OwnedFd, RawFd},
        unix::process::CommandExt as _,
    },
    process::Command,
    ptr,
};

use rustix::{
    io::Errno,
    process::{
        DumpableBehavior, Pid, Resource, Rlimit, WaitId, WaitIdOptions, child_subreaper,
        parent_process_death_signal, set_child_subreaper, set_dumpable_behavior,
        set_parent_process_death_signal, setrlimit, waitid,
    },
};

use super::{opened, signals};
use crate::event::{FaultCounts, Tgid, Tid};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code, 0 to 255.
    Code(u8),
    /// This signal killed it.
    Signal(i32),
}

/// A child that ended and was reaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How.
    pub exit: Exit,
    /// Faults of all its threads over its life, and of those of its children that it waited for.
    pub faults: FaultCounts,
}

/// The end of the child `child`; `None` while it runs.
///
/// A ptrace stop of a child that another thread of this process has seized is left to that thread: `wait4` would
/// take it for an end.
pub fn try_wait(child: Tgid) -> io::Result<Option<Ended>> {
    let pid = Pid::from_raw(to_pid(child)?).ok_or(Errno::SRCH)?;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match waitid(WaitId::Pid(pid), options)? {
        Some(found) if !found.trapped() => wait4(child, libc::WNOHANG),
        _ => Ok(None),
    }
}

fn wait4(child: Tgid, options: libc::c_int) -> io::Result<Option<Ended>> {
    let pid = to_pid(child)?;
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are to locals of the type that the call fills.
    let reaped = unsafe { libc::wait4(pid, &raw mut status, options, usage.as_mut_ptr()) };
    if reaped < 0 {
        return Err(io::Error::last_os_error());
    }
    if reaped == 0 {
        return Ok(None);
    }
    // SAFETY: it was zeroed, which is a valid `rusage`.
    let usage = unsafe { usage.assume_init() };
    let exit = if libc::WIFSIGNALED(status) {
        Exit::Signal(libc::WTERMSIG(status))
    } else {
        Exit::Code(libc::WEXITSTATUS(status).to_le_bytes()[0])
    };
    let faults =
        FaultCounts { minor: usage.ru_minflt.cast_unsigned(), major: usage.ru_majflt.cast_unsigned() };
    Ok(Some(Ended { exit, faults }))
}

/// Lets `command` start with what exec(2) would keep for it and fork(2) does not: the signal at the death of the parent, whether
/// orphans become its children, and the interval timers (`alarm(2)`), which this process gives up.
pub fn as_without_fork(command: &mut Command) -> &mut Command {
    // Each is a question for a number, which no kernel since 3.4 refuses.
    let death = parent_process_death_signal().ok().flatten();
    let reaper = child_subreaper().ok().flatten();
    let timers =
        [libc::ITIMER_REAL, libc::ITIMER_VIRTUAL, libc::ITIMER_PROF].map(|which| (which, take_timer(which)));
    let restore = move || {
        for (which, timer) in timers {
            // SAFETY: the kernel only reads `timer`, and is asked for nothing.
            unsafe { libc::setitimer(which, &raw const timer, ptr::null_mut()) };
        }
        set_parent_process_death_signal(death)?;
        Ok(set_child_subreaper(reaper)?)
    };
    // SAFETY: between fork and exec, `restore` only makes system calls.
    unsafe { command.pre_exec(restore) }
}

/// Stops an interval timer of this process; what was left of it, which is zero if it did not run.
fn take_timer(which: libc::c_int) -> libc::itimerval {
    let zero = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let stopped = libc::itimerval { it_interval: zero, it_value: zero };
    let mut left = stopped;
    // SAFETY: the kernel reads the one and fills the other, which are of the type that it takes.
    unsafe { libc::setitimer(which, &raw const stopped, &raw mut left) };
    left
}

/// Sends `signal` to the process `tgid`.
pub fn kill(tgid: Tgid, signal: i32) -> io::Result<()> {
    let pid = to_pid(tgid)?;
    // SAFETY: sends a signal; touches no memory.
    succeeded(unsafe { libc::kill(pid, signal) })
}

/// Whether `process` has the thread `thread`, both as this process numbers them.
#[must_use]
pub fn has_thread(process: Tgid, thread: Tid) -> bool {
    // SAFETY: signal 0 is not sent; touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, process.0, thread.0, 0) };
    // Whether it may be sent a signal is asked of a thread that is there.
    result == 0 || io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

/// Dies by `signal` with its default action, leaving no core.
///
/// Returns only if that action does not end a process, and says so.
#[must_use]
pub fn die_by(signal: i32) -> io::Error {
    // A core_pattern that pipes to a program disregards the limit but not the flag.
    let no_core = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) =
        setrlimit(Resource::Core, no_core).and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable))
    {
        log::debug!("cannot forbid a core: {error}");
    }
    // SAFETY: installs no handler.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    signals::unblock(&[signal]);
    // SAFETY: sends a signal to this thread.
    unsafe { libc::raise(signal) };
    io::Error::other(format!("signal {signal} does not end a process"))
}

/// The process ID as the kernel takes it: positive, so never a group or everybody.
fn to_pid(tgid: Tgid) -> io::Result<libc::pid_t> {
    libc::pid_t::try_from(tgid.0)
        .ok()
        .filter(|pid| *pid > 0)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
}

/// Becomes the user `uid` with the primary group `gid` and the supplementary groups of the name `name`.
///
/// For good: real, effective and saved IDs. Needs the privilege to change IDs.
pub fn become_user(uid: u32, gid: u32, name: &CStr) -> io::Result<()> {
    // SAFETY: the name ends in a zero byte and is only read.
    succeeded(unsafe { libc::initgroups(name.as_ptr(), gid) })?;
    // SAFETY: changes the IDs of the process; touches no memory of ours.
    succeeded(unsafe { libc::setgid(gid) })?;
    // SAFETY: as above; last, because it gives up the privilege that the others need.
    succeeded(unsafe { libc::setuid(uid) })
}

/// The groups of the user `name`, the primary one, `gid`, among them.
pub fn groups_of(name: &CStr, gid: u32) -> io::Result<Vec<u32>> {
    /// `NGROUPS_MAX` of `include/uapi/linux/limits.h`: nobody has more.
    const MOST: libc::c_int = 65_536;
    let mut groups = vec![0; MOST.unsigned_abs() as usize];
    let mut count = MOST;
    // SAFETY: the name ends in a zero byte and is only read; there is room for as many groups as `count` says.
    let found = unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &raw mut count) };
    succeeded(found)?;
    groups.truncate(count.unsigned_abs() as usize);
    Ok(groups)
}

/// A descriptor of the file behind the descriptor `number` that the parent left open across exec; the next exec closes both.
///
/// # Errors
///
/// If it is not open, or is one of the standard three.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number <= libc::STDERR_FILENO {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: makes a descriptor; touches no memory, and not the one that is there, which may have an owner.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, libc::STDERR_FILENO + 1) };
    // SAFETY: that call returns a new descriptor.
    let copy = unsafe { opened(copy.into()) }?;
    // SAFETY: sets a flag; the descriptor stays open until exec.
    succeeded(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    Ok(copy)
}

/// The error of a call that returns a negative number when it fails.
fn succeeded(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::{
        env,
        fs::File,
        os::{
            fd::AsRawFd as _,
            unix::process::{CommandExt, ExitStatusExt},
        },
        process::Command,
    };

    use super::*;

    /// Set where a test runs itself again to do what ends or changes a process.
    const CHILD: &str = "MEMTRACE_TEST_CHILD";

    /// This program, set to run the test `name` alone, as a child of it.
    fn rerun(name: &str) -> Command {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "ulimit -c unlimited; exec \"$0\" --exact sys::process::tests::$1 --nocapture"])
            .arg(env::current_exe().expect("tests have a path"))
            .arg(name)
            .env(CHILD, "1");
        shell
    }

    #[expect(clippy::zombie_processes, reason = "the test reaps it")]
    fn shell(script: &str) -> Tgid {
        let shell = Command::new("sh").args(["-c", script]).spawn().expect("there is a shell");
        Tgid(shell.id())
    }

    /// Waits until the child `child` ends.
    fn wait(child: Tgid) -> io::Result<Ended> {
        wait4(child, 0).map(|ended| ended.expect("without WNOHANG a child is reaped"))
    }

    #[test]
    fn exit_code_and_faults_of_a_child_are_told() {
        let child = shell("exit 7");

        let ended = wait(child).expect("our own child");

        assert_eq!(ended.exit, Exit::Code(7));
        // An exec'ed program touches its stack, its data and its libraries.
        assert!(ended.faults.minor > 10, "{ended:?}");
    }

    #[test]
    fn child_killed_by_a_signal_says_which() {
        let child = shell("kill -9 $$");

        assert_eq!(wait(child).expect("our own child").exit, Exit::Signal(9));
    }

    #[test]
    fn running_child_has_not_ended_until_killed() {
        let child = shell("exec sleep 60");

        assert_eq!(try_wait(child).expect("our own child"), None);

        kill(child, libc::SIGTERM).expect("it runs");
        assert_eq!(wait(child).expect("our own child").exit, Exit::Signal(libc::SIGTERM));
    }

    #[test]
    fn death_by_a_core_signal_leaves_no_core() {
        if env::var_os(CHILD).is_some() {
            let error = die_by(libc::SIGQUIT);
            panic!("{error}");
        }

        let status = rerun("death_by_a_core_signal_leaves_no_core").status().expect("there is a shell");

        assert_eq!(status.signal(), Some(libc::SIGQUIT));
        assert!(!status.core_dumped());
    }

    #[test]
    fn every_id_becomes_that_of_the_user() {
        if env::var_os(CHILD).is_some() {
            become_user(65534, 65534, c"nobody").expect("root may");
            let error = Command::new("cat").arg("/proc/self/status").exec();
            panic!("{error}");
        }
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }

        let output = rerun("every_id_becomes_that_of_the_user").output().expect("there is a shell");

        let status = String::from_utf8_lossy(&output.stdout);
        for ids in ["Uid:", "Gid:"] {
            let line = format!("\n{ids}\t65534\t65534\t65534\t65534\n");
            assert!(status.contains(&line), "{status}");
        }
        assert!(status.contains("\nGroups:\t65534 \n"), "{status}");
    }

    #[test]
    fn process_0_is_nobody() {
        assert_eq!(kill(Tgid(0), 0).expect_err("no group").raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn inherited_descriptor_stays_its_owners() {
        let owner = File::open("/dev/null").expect("there is always /dev/null");

        drop(inherited(owner.as_raw_fd()).expect("it is open"));

        assert!(owner.metadata().is_ok());
    }

    #[test]
    fn closed_descriptor_is_not_inherited() {
        assert_eq!(inherited(1_000_000).expect_err("not open").raw_os_error(), Some(libc::EBADF));
        assert!(inherited(1).is_err());
    }
}
