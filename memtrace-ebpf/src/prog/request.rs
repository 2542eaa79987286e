//! Advice that tasks give by `io_uring`. A thread of the process carries it out, a worker that the kernel made.
//!
//! Source: `io_madvise` of `io_uring/advise.c`, which the kernel always leaves to workers; `io_worker_handle_work` of `io_uring/io-wq.c`.

use memtrace_ebpf::{Call, CallEvent, EventKind};

use super::{
    call, config, emit, filter,
    kernel::{self, read_kernel},
    record_field, twins,
};

twins! {
    /// A request is completed: `io_uring_complete(ctx, req, …)`.
    REQUEST_COMPLETED at "io_uring_complete"
    fn request_completed(ctx) { completed(ctx.arg(1)) }
    fn request_completed_record(record) { completed(record_field(&record, config!(completed_request))) }
}

/// `IORING_OP_MADVISE` of `include/uapi/linux/io_uring.h`.
const MADVISE: u8 = 25;
/// `PF_IO_WORKER` of `include/linux/sched.h`.
const IO_WORKER: u32 = 0x10;
/// `ENOMEM`: not all was mapped that the advice was for.
const OUT_OF_MEMORY: i32 = 12;

/// Whether `request`, an `io_kiocb`, is advice.
#[inline(always)]
fn is_advice(request: u64) -> bool {
    read_kernel::<u8>(request, config!(request_opcode)) == MADVISE
}

#[inline(always)]
fn advice(request: u64) -> u32 {
    read_kernel(request, config!(madvise_advice))
}

/// The length was a `u32` once: just before the advice.
#[inline(always)]
fn length(request: u64) -> u64 {
    let offset = config!(madvise_len);
    if config!(madvise_advice) - offset == size_of::<u32>() as u64 {
        read_kernel::<u32>(request, offset).into()
    } else {
        read_kernel(request, offset)
    }
}

/// The kernel completes `request`, in the worker that carried it out or in the task that made it.
#[inline(always)]
fn completed(request: u64) -> i32 {
    if !is_advice(request) {
        return 0;
    }
    let result: i32 = read_kernel(request, config!(request_result));
    // What fails otherwise may never have been read: then what it asks for is not there.
    if result != 0 && result != -OUT_OF_MEMORY {
        return 0;
    }
    let Some(state) = filter::traced() else {
        return 0;
    };
    let Some(mut entry) = emit::control::<CallEvent>() else {
        return 0;
    };
    entry.write(CallEvent {
        header: emit::header(EventKind::CALL, CallEvent::LEN, state),
        // SAFETY: `state` is the current task's own element.
        space: unsafe { (*state).space },
        call: Call::MADVISE,
        may_have_resized: 0,
        file_mode: 0,
        file_magic: 0,
        result: result.into(),
        arg_0: read_kernel(request, config!(madvise_addr)),
        arg_1: length(request),
        arg_2: advice(request).into(),
        arg_3: 0,
        arg_4: 0,
        arg_5: 0,
    });
    entry.submit(emit::NO_WAKEUP);
    0
}

/// Whether the current task is a worker that carries out advice, of which the completion tells. Not if forks depend on the advice:
/// they may come before the completion.
#[inline(always)]
pub(crate) fn is_told() -> bool {
    if config!(has_requests) == 0 {
        return false;
    }
    let task = kernel::current_task();
    if kernel::flags_of(task) & IO_WORKER == 0 {
        return false;
    }
    let work: u64 = read_kernel(read_kernel(task, config!(task_worker)), config!(worker_work));
    let request = work.wrapping_sub(config!(request_work));
    is_advice(request) && !call::FORK_ADVICE.contains(&advice(request))
}
