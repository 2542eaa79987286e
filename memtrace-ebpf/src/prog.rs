//! What the entry points do, one concern per file.

use core::ffi::c_void;

use aya_ebpf::{helpers::generated, programs::TracePointContext};

pub(crate) mod account;
pub(crate) mod cgroup;
pub(crate) mod emit;
pub(crate) mod fault;
pub(crate) mod file;
pub(crate) mod filter;
pub(crate) mod heat;
pub(crate) mod namespace;
pub(crate) mod pending;
pub(crate) mod request;
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
///
/// What the helper returns is not looked at: it fills the value with zeros when it fails, and a branch for each read
/// would multiply the paths that the verifier walks.
#[inline(always)]
pub(crate) fn read_kernel<T: Copy + Default>(base: u64, offset: u64) -> T {
    let source = base.wrapping_add(offset) as *const c_void;
    let mut value = T::default();
    // SAFETY: `value` has room for the length; the helper checks the address.
    let _unreadable =
        unsafe { generated::bpf_probe_read_kernel((&raw mut value).cast(), size_of::<T>() as u32, source) };
    value
}

/// Reads a `T` at `offset` bytes of the record of a classic tracepoint; zero if it cannot be read.
#[inline(always)]
pub(crate) fn record_field<T: Copy + Default>(record: &TracePointContext, offset: u64) -> T {
    // SAFETY: the helper behind it checks the address and returns an error for a bad one.
    unsafe { record.read_at(offset as usize) }.unwrap_or_default()
}

/// Thread ID and thread-group ID of the current task in the initial PID namespace, by which the tables find it.
#[inline(always)]
pub(crate) fn current_ids() -> (u32, u32) {
    let ids = aya_ebpf::helpers::bpf_get_current_pid_tgid();
    (ids as u32, (ids >> 32) as u32)
}
