//! Tasks as the kernel counts them: fault counters, children, ends; and threads of fewer rights.
//!
//! Input: none. Output: the kernel's own numbers, which are the oracle of the accounting identity.
//! Source: getrusage(2), wait4(2), fork(2), signal(7).
//! Not here: memory (`memory`).
#![expect(unsafe_code, reason = "rustix has no fork, getrusage, wait4 and signal handlers")]

use std::{
    io,
    iter::Sum,
    mem::MaybeUninit,
    ops::Sub,
    os::unix::process::ExitStatusExt as _,
    process::ExitStatus,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use rustix::thread::{
    CapabilitySet, CpuSet, capabilities, sched_getcpu, sched_setaffinity, set_capabilities,
};
use serde::{Deserialize, Serialize};

use crate::memory::Mapping;

/// Fault counters of the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// `ru_minflt`.
    pub minor: u64,
    /// `ru_majflt`.
    pub major: u64,
}

impl Usage {
    /// Those of the calling thread.
    pub fn of_thread() -> io::Result<Self> {
        rusage(libc::RUSAGE_THREAD)
    }

    /// Those of the calling process, its ended threads included.
    pub fn of_process() -> io::Result<Self> {
        rusage(libc::RUSAGE_SELF)
    }

    fn from_raw(usage: &libc::rusage) -> Self {
        Self { minor: usage.ru_minflt.cast_unsigned(), major: usage.ru_majflt.cast_unsigned() }
    }
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { minor: self.minor - before.minor, major: self.major - before.major }
    }
}

impl Sum for Usage {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), |sum, part| Self {
            minor: sum.minor + part.minor,
            major: sum.major + part.major,
        })
    }
}

/// What getrusage(2) says of `who`.
fn rusage(who: i32) -> io::Result<Usage> {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` has room for what the kernel writes.
    if unsafe { libc::getrusage(who, usage.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all bytes were zero, and the kernel has filled it in.
    Ok(Usage::from_raw(&unsafe { usage.assume_init() }))
}

/// Waits for the end of a child; tells how it ended and what was charged to it and its waited-for children.
pub fn wait4(pid: u32) -> io::Result<(ExitStatus, Usage)> {
    let (status, usage) = wait4_raw(pid)?;
    Ok((status, Usage::from_raw(&usage)))
}

/// As [`wait4`], with the most memory that one of them had at once, in bytes.
///
/// A child begins as a copy of this process, so it is never less than this process has.
pub fn wait4_with_peak(pid: u32) -> io::Result<(ExitStatus, Usage, u64)> {
    let (status, usage) = wait4_raw(pid)?;
    Ok((status, Usage::from_raw(&usage), usage.ru_maxrss.cast_unsigned() << 10))
}

fn wait4_raw(pid: u32) -> io::Result<(ExitStatus, libc::rusage)> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers have room for what the kernel writes.
    if unsafe { libc::wait4(pid.cast_signed(), &raw mut status, 0, usage.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all bytes were zero, and the kernel has filled it in.
    Ok((ExitStatus::from_raw(status), unsafe { usage.assume_init() }))
}

/// Runs `body` in a forked child, waits for its end and returns its process ID.
///
/// The caller has one thread, so the child may do what any process may.
pub fn in_child(body: impl FnOnce()) -> io::Result<u32> {
    // SAFETY: with one thread no lock can be held by a thread that the child lacks.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            body();
            // SAFETY: no preconditions; skips the exit handlers, which are the parent's.
            unsafe { libc::_exit(0) }
        }
        child => {
            let (status, _usage) = wait4(child.cast_unsigned())?;
            if !status.success() {
                return Err(io::Error::other(format!("the child ended with {status}")));
            }
            Ok(child.cast_unsigned())
        }
    }
}

/// Runs `body` in a forked child, with the process ID `wanted` if one is given, which nobody has; waits for its end, and returns
/// its process ID and what was charged to it. An ID is granted from Linux 5.5 on.
///
/// The caller has one thread, so the child may do what any process may.
pub fn in_child_with_id(wanted: Option<u32>, body: impl FnOnce()) -> io::Result<(u32, Usage)> {
    let wanted = wanted.map(u32::cast_signed);
    let size = size_of::<libc::clone_args>();
    // SAFETY: all fields are numbers, for which zero is valid: no flags, no new stack.
    let mut args: libc::clone_args = unsafe { MaybeUninit::zeroed().assume_init() };
    args.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    args.set_tid = wanted.as_ref().map_or(0, |wanted| std::ptr::from_ref(wanted).addr() as u64);
    args.set_tid_size = wanted.iter().len() as u64;
    // SAFETY: the kernel reads `args` and the ID that it points to, and goes on on a copy of the stack, as fork(2) does.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size) } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            body();
            // SAFETY: no preconditions; skips the exit handlers, which are the parent's.
            unsafe { libc::_exit(0) }
        }
        child => {
            let child = u32::try_from(child).map_err(io::Error::other)?;
            let (status, usage) = wait4(child)?;
            if !status.success() {
                return Err(io::Error::other(format!("the child ended with {status}")));
            }
            Ok((child, usage))
        }
    }
}

/// A forked copy of the calling process that does nothing; killed when this is dropped.
#[derive(Debug)]
pub struct Sleeper {
    pid: u32,
}

impl Sleeper {
    /// Forks one; the caller may have any number of threads.
    pub fn fork() -> io::Result<Self> {
        // SAFETY: the child calls nothing but prctl(2) and pause(2), which are async-signal-safe.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => Self::sleep(),
            child => Ok(Self { pid: child.cast_unsigned() }),
        }
    }

    /// Forks one that writes to `pages` of `memory` first, and waits until it has.
    pub fn fork_that_writes(memory: &Mapping, pages: impl Iterator<Item = usize>) -> io::Result<Self> {
        let (reader, writer) = rustix::pipe::pipe()?;
        // SAFETY: the child touches memory, and calls nothing but write(2), prctl(2) and pause(2).
        let child = match unsafe { libc::fork() } {
            -1 => return Err(io::Error::last_os_error()),
            0 => {
                pages.for_each(|page| memory.write(page));
                let _written = rustix::io::write(&writer, b"1");
                Self::sleep()
            }
            child => Self { pid: child.cast_unsigned() },
        };
        drop(writer);
        match rustix::io::read(&reader, &mut [0])? {
            1 => Ok(child),
            _ => Err(io::Error::other("the child is gone")),
        }
    }

    /// Does nothing for ever.
    fn sleep() -> ! {
        loop {
            // SAFETY: no preconditions; ends the child with its parent.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            // SAFETY: no preconditions.
            unsafe { libc::pause() };
        }
    }

    /// Its process ID.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // SAFETY: a child that nobody else waits for, so the ID is still its own.
        unsafe { libc::kill(self.pid.cast_signed(), libc::SIGKILL) };
        let _ended = wait4(self.pid);
    }
}

/// Runs `body` on a thread without the capabilities `taken`.
pub fn without<T: Send>(taken: CapabilitySet, body: impl FnOnce() -> T + Send) -> T {
    // Capabilities are those of a thread.
    thread::scope(|scope| {
        let lesser = scope.spawn(|| {
            let mut sets = capabilities(None).expect("our own");
            sets.effective.remove(taken);
            set_capabilities(None, sets).expect("less is always granted");
            body()
        });
        lesser.join().expect("no panic")
    })
}

/// Ends the calling thread alone, and runs nothing of what ends a process.
pub fn end_thread() -> ! {
    // SAFETY: the call takes a number and does not return; nobody else's memory is freed.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!("the thread has ended")
}

/// Keeps this thread, and those that it makes from now on, on the CPU that it is on.
///
/// A page that was touched waits in a batch of that CPU to be put onto its list. Until then the kernel neither swaps it out nor
/// sees that nobody shares it, unless it is asked on the same CPU (`wp_can_reuse_anon_folio` of `mm/memory.c`).
pub fn stay_on_this_cpu() -> io::Result<()> {
    let mut here = CpuSet::new();
    here.set(sched_getcpu());
    Ok(sched_setaffinity(None, &here)?)
}

/// The ID of the calling thread.
#[must_use]
pub fn tid() -> u32 {
    rustix::thread::gettid().as_raw_pid().cast_unsigned()
}

/// Leaves SIGSEGV to the kernel: the handler of Rust's runtime returns to the access that raised it, which is then made twice.
pub fn die_of_first_segv() -> io::Result<()> {
    // SAFETY: the default action runs no code of this process.
    if unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// How often [`count_terminations`] saw SIGTERM.
static TERMINATIONS: AtomicU32 = AtomicU32::new(0);

/// From now on SIGTERM is counted and does nothing else.
pub fn count_terminations() -> io::Result<()> {
    extern "C" fn count(_signal: i32) {
        TERMINATIONS.fetch_add(1, Ordering::Relaxed);
    }
    // SAFETY: the handler only adds to an atomic.
    if unsafe { libc::signal(libc::SIGTERM, count as *const () as libc::sighandler_t) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// SIGTERMs since [`count_terminations`].
#[must_use]
pub fn terminations() -> u32 {
    TERMINATIONS.load(Ordering::Relaxed)
}
