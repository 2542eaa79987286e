//! Signal settings that this process was started with: what memtrace changes for itself, and hands on as it was.
//!
//! Layer: shell. Input: what the kernel says before `main`. Output: a [`Command`] that begins as we did.
//! Source: `execve(2)`: ignored signals and the mask survive it, handlers become the default. Rust's runtime
//! ignores SIGPIPE before `main`, and `std::process` gives a child the default SIGPIPE and an empty mask.
//! Keeps: a program behind memtrace finds the signals as it would without it (`nohup`, `trap '' PIPE`).
//! Not here: handling signals (`session`), sending them (`process`).

use std::{
    io,
    mem::MaybeUninit,
    os::unix::process::CommandExt,
    process::Command,
    ptr,
    sync::atomic::{AtomicU64, Ordering},
};

/// Signals 1 to 64, as bits 0 to 63, that were ignored at the start.
static IGNORED: AtomicU64 = AtomicU64::new(0);
/// Signals 1 to 64, as bits 0 to 63, that were blocked at the start.
static BLOCKED: AtomicU64 = AtomicU64::new(0);

// SAFETY: the C runtime calls the functions of this section once, on one thread, before `main`; `remember`
// takes none of the arguments that it may be given.
#[unsafe(link_section = ".init_array")]
#[used]
static AT_START: extern "C" fn() = remember;

/// Runs before Rust's runtime, so it allocates nothing and cannot panic.
extern "C" fn remember() {
    let mut ignored = 0;
    let mut blocked = 0;
    let mask = current_mask();
    for (bit, signal) in (1..=64).enumerate() {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: asks for the disposition of one signal; `action` is of the type that the call fills.
        if unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) } == 0 {
            // SAFETY: it was zeroed, which is a valid `sigaction`.
            let action = unsafe { action.assume_init() };
            ignored |= u64::from(action.sa_sigaction == libc::SIG_IGN) << bit;
        }
        // SAFETY: `mask` is initialised.
        blocked |= u64::from(unsafe { libc::sigismember(&raw const mask, signal) } == 1) << bit;
    }
    IGNORED.store(ignored, Ordering::Relaxed);
    BLOCKED.store(blocked, Ordering::Relaxed);
}

/// Whether this process was started with `signal` ignored.
#[must_use]
pub fn is_ignored(signal: i32) -> bool {
    (1..=64).contains(&signal) && IGNORED.load(Ordering::Relaxed) >> (signal - 1) & 1 == 1
}

/// Ignores `signal`: what it would report, system calls say as well.
pub fn ignore(signal: i32) {
    // SAFETY: installs no handler.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Lets the calling thread, and those that it makes, get `signals` although memtrace may have been started with them blocked.
pub fn unblock(signals: &[i32]) {
    let set = set_of(signals.iter().copied());
    // SAFETY: changes the mask of this thread; the set is initialised.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut()) };
}

/// The set of these signals.
fn set_of(signals: impl Iterator<Item = i32>) -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: initialises the set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: it was just initialised.
    let mut set = unsafe { set.assume_init() };
    for signal in signals {
        // SAFETY: the set is initialised.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    set
}

/// The signals that the calling thread blocks.
fn current_mask() -> libc::sigset_t {
    let mut mask = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: asks for the mask; `mask` is of the type that the call fills.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, ptr::null(), mask.as_mut_ptr()) };
    // SAFETY: it was zeroed, which is a valid set.
    unsafe { mask.assume_init() }
}

/// Lets `command` start with the ignored signals and the mask that this process was started with.
///
/// For `spawn` as well as for `exec`.
pub fn as_at_start(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec, `restore` only makes async-signal-safe calls.
    unsafe { command.pre_exec(restore) }
}

/// Undoes what memtrace, Rust's runtime and `std::process` did to signals.
#[expect(clippy::unnecessary_wraps, reason = "the type that `pre_exec` takes")]
fn restore() -> io::Result<()> {
    let ignored = IGNORED.load(Ordering::Relaxed);
    let blocked = BLOCKED.load(Ordering::Relaxed);
    for signal in 1..=64 {
        let action = if ignored >> (signal - 1) & 1 == 1 { libc::SIG_IGN } else { libc::SIG_DFL };
        // SAFETY: installs no handler.
        unsafe { libc::signal(signal, action) };
    }
    let mask = set_of((1..=64).filter(|signal| blocked >> (signal - 1) & 1 == 1));
    // SAFETY: sets the mask of the thread that is about to exec.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask, ptr::null_mut()) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::env;

    use super::*;

    /// Set where this test runs itself again to become `cat`.
    const BECOME_CAT: &str = "MEMTRACE_TEST_BECOME_CAT";

    const NAME: &str = "sys::signals::tests::command_finds_the_signals_that_we_were_started_with";

    /// `SigIgn` and `SigBlk` of a `cat` that this program becomes when a shell starts it with `prefix`.
    fn signals_behind_us(prefix: &str) -> (u64, u64) {
        let script = format!("{prefix} \"$0\" --exact {NAME} --nocapture");
        let output = Command::new("sh")
            .args(["-c", &script])
            .arg(env::current_exe().expect("tests have a path"))
            .env(BECOME_CAT, "1")
            .output()
            .expect("there is a shell");
        let text = String::from_utf8_lossy(&output.stdout);
        let bits = |field| {
            let bits = text.lines().find_map(|line| line.strip_prefix(field));
            bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
                .unwrap_or_else(|| panic!("no {field} in {text}"))
        };
        (bits("SigIgn:"), bits("SigBlk:"))
    }

    fn bit(signal: i32) -> u64 {
        1 << (signal - 1)
    }

    #[test]
    fn command_finds_the_signals_that_we_were_started_with() {
        if env::var_os(BECOME_CAT).is_some() {
            let error = as_at_start(Command::new("cat").arg("/proc/self/status")).exec();
            panic!("cat: {error}");
        }

        let (ignored, blocked) = signals_behind_us("exec");
        let (ignored_trap, _) = signals_behind_us("trap '' PIPE HUP; exec");
        let (_, blocked_env) = signals_behind_us("exec env --block-signal=USR1");

        assert_eq!(ignored & (bit(libc::SIGPIPE) | bit(libc::SIGHUP)), 0);
        assert_eq!(ignored_trap & !ignored, bit(libc::SIGPIPE) | bit(libc::SIGHUP));
        assert_eq!(blocked_env & !blocked, bit(libc::SIGUSR1));
    }
}
