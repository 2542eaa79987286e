//! What the entry points do, one concern per file.

use aya_ebpf::programs::TracePointContext;

pub(crate) mod account;
pub(crate) mod cgroup;
pub(crate) mod emit;
pub(crate) mod fault;
pub(crate) mod filter;
pub(crate) mod heat;
pub(crate) mod pending;
pub(crate) mod task;
pub(crate) mod vma;

/// Reads one field of [`CONFIG`](crate::CONFIG).
///
/// Volatile, so that the compiler does not take the zeros of the build for constants.
macro_rules! config {
    ($field:ident) => {{
        // SAFETY: `CONFIG` is a static, so the pointer is valid and aligned.
        unsafe { core::ptr::read_volatile(&raw const crate::CONFIG.$field) }
    }};
}
pub(crate) use config;

/// Reads a `T` at `offset` bytes from the kernel object at `base`; zero if it cannot be read.
#[inline(always)]
pub(crate) fn read_kernel<T: Copy + Default>(base: u64, offset: u64) -> T {
    let source = base.wrapping_add(offset) as *const T;
    // SAFETY: the helper checks the address and returns an error for a bad one.
    unsafe { aya_ebpf::helpers::bpf_probe_read_kernel(source) }.unwrap_or_default()
}

/// Reads a `T` at `offset` bytes of the record of a classic tracepoint; zero if it cannot be read.
#[inline(always)]
pub(crate) fn record_field<T: Copy + Default>(record: &TracePointContext, offset: u64) -> T {
    // SAFETY: the helper behind it checks the address and returns an error for a bad one.
    unsafe { record.read_at(offset as usize) }.unwrap_or_default()
}

/// Thread ID and thread-group ID of the current task.
#[inline(always)]
pub(crate) fn current_ids() -> (u32, u32) {
    let ids = aya_ebpf::helpers::bpf_get_current_pid_tgid();
    (ids as u32, (ids >> 32) as u32)
}
