//! Calls that would have gone otherwise if the recorder did not hold their tasks by ptrace.
//!
//! A task has one tracer, so a debugger is refused what the recorder holds, and so is `PTRACE_TRACEME`. Whoever is refused gets a
//! signal that is ignored by default: of one that is ignored only a tracer sees anything (`sig_ignored` of `kernel/signal.c`), and
//! before the task is back in user mode. There the recorder lets go, and has the call made again (`session::hold`).
//!
//! The signal is sent at the end of the call, when nothing of it is left to do.

use aya_ebpf::helpers::generated::bpf_send_signal_thread;
use memtrace_ebpf::Call;

use super::{
    call::Request,
    config,
    kernel::{self, read_kernel},
    namespace,
};

/// `SIGURG`
const SIGURG: u32 = 23;
/// `SIGSTOP`, for tasks that block the other, as LeakSanitizer does: nobody can block it.
const SIGSTOP: u32 = 19;
/// `EPERM`
const EPERM: i64 = 1;
/// `PTRACE_TRACEME`, `PTRACE_ATTACH` and `PTRACE_SEIZE` of `include/uapi/linux/ptrace.h`.
const BEGINNINGS: [u64; 3] = [0, 16, 0x4206];
/// `CLONE_UNTRACED`: the new task is not held with its parent, and may be about to trace it.
const CLONE_UNTRACED: u64 = 0x80_0000;

/// The current task returns from `request` with `result`.
#[inline(always)]
pub(crate) fn returned(request: Request, result: i64) {
    if config!(holder) == 0 {
        return;
    }
    let task = kernel::current_task();
    // Before the arguments, which are many ways for the verifier to walk.
    if !is_held(task) {
        return;
    }
    let blocked: u64 = read_kernel(task, config!(task_blocked));
    let concerns = match request.call {
        Call::PTRACE => result == -EPERM && BEGINNINGS.contains(&request.argument(0)),
        Call::CLONE => result > 0 && request.argument(0) & CLONE_UNTRACED != 0,
        Call::CLONE3 => result > 0 && request.pointed() & CLONE_UNTRACED != 0,
        _ => false,
    };
    if concerns {
        let signal = if blocked & 1 << (SIGURG - 1) == 0 { SIGURG } else { SIGSTOP };
        // SAFETY: the helper has no preconditions.
        let _ending = unsafe { bpf_send_signal_thread(signal) };
    }
}

/// Whether the recorder traces `task`.
#[inline(always)]
fn is_held(task: u64) -> bool {
    if read_kernel::<u32>(task, config!(task_ptrace)) == 0 {
        return false;
    }
    let tracer: u64 = read_kernel(task, config!(task_parent));
    let leader = read_kernel(tracer, config!(task_group_leader));
    namespace::is_beside_recorder(leader, read_kernel(leader, config!(task_pid)), config!(holder))
}
