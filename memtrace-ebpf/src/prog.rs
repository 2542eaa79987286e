//! The programs, one concern per file, and how they are declared.

use aya_ebpf::programs::TracePointContext;

pub(crate) mod account;
pub(crate) mod call;
pub(crate) mod cgroup;
pub(crate) mod emit;
pub(crate) mod fault;
pub(crate) mod file;
pub(crate) mod filter;
pub(crate) mod heat;
pub(crate) mod hold;
pub(crate) mod kernel;
pub(crate) mod namespace;
pub(crate) mod pending;
pub(crate) mod request;
pub(crate) mod stack;
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

/// Reads a `T` at `offset` bytes of the record of a classic tracepoint; zero if it cannot be read.
#[inline(always)]
pub(crate) fn record_field<T: Copy + Default>(record: &TracePointContext, offset: u64) -> T {
    // SAFETY: the helper behind it checks the address and returns an error for a bad one.
    unsafe { record.read_at(offset as usize) }.unwrap_or_default()
}

/// An argument that is a `bool`: only its low byte is defined.
#[inline(always)]
pub(crate) fn truth(argument: u64) -> bool {
    argument as u8 != 0
}

/// Declares what is watched at a tracepoint: a program at the raw tracepoint, which has the arguments, and its twin at the classic
/// one, which has the record. `names` is the constant by which user space knows both.
///
/// Since Linux 7.0 a program at a raw tracepoint can be preempted, and until it goes on the kernel skips it for all other
/// tasks of the CPU. At a classic tracepoint it cannot.
macro_rules! twins {
    (
        $(#[$about:meta])*
        $names:ident at $tracepoint:tt
        fn $raw:ident($arguments:ident) $by_arguments:block
        $(#[$about_record:meta])*
        fn $twin:ident($record:ident) $by_record:block
    ) => {
        $(#[$about])*
        #[aya_ebpf::macros::raw_tracepoint(tracepoint = $tracepoint)]
        fn $raw($arguments: aya_ebpf::programs::RawTracePointContext) -> i32 $by_arguments

        #[doc = concat!("As [`", stringify!($raw), "`], from the record of the classic tracepoint.")]
        $(#[$about_record])*
        #[aya_ebpf::macros::tracepoint]
        fn $twin($record: aya_ebpf::programs::TracePointContext) -> u32 {
            let returned: i32 = $by_record;
            returned as u32
        }

        crate::prog::known!($names.raw, $raw);
        crate::prog::known!($names.record, $twin);
    };
}
pub(crate) use twins;

/// Holds that user space knows `program` by `name`: a symbol cannot be made of a constant.
macro_rules! known {
    ($name:ident $(.$of:ident)?, $program:ident) => {
        const _: () = assert!(crate::prog::is_same(memtrace_ebpf::names::$name $(.$of)?, stringify!($program)));
    };
}
pub(crate) use known;

/// Whether two names are the same.
pub(crate) const fn is_same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}
