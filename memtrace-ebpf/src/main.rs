//! The eBPF programs of memtrace: their maps, and what user space sets.
//!
//! The programs are in `prog`, each beside what it does. Layouts are the library's.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "programs read kernel memory and write map values through raw pointers")]

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, HashMap, PerCpuArray, RingBuf, ring_buf::RingBufEntry},
};
use memtrace_ebpf::{Call, Config, FaultEvent, HeatCell, RuleBucket, TaskState};
use prog::stack::Walk;

mod prog;

#[map]
static CONTROL: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Declares the rings of faults, and the function that finds room in one of them.
macro_rules! fault_rings {
    ($($number:literal: $ring:ident),*) => {
        $(
            #[map]
            static $ring: RingBuf = RingBuf::with_byte_size(1 << 12, 0);
        )*

        /// Room for a fault in ring `number`.
        #[inline(always)]
        fn reserve_fault(number: u32) -> Option<RingBufEntry<FaultEvent>> {
            match number {
                $($number => $ring.reserve(0),)*
                _ => None,
            }
        }
    };
}

fault_rings! {
    0: EVENTS_0, 1: EVENTS_1, 2: EVENTS_2, 3: EVENTS_3, 4: EVENTS_4, 5: EVENTS_5, 6: EVENTS_6, 7: EVENTS_7
}

#[map]
static TASKS: HashMap<u32, TaskState> = HashMap::with_max_entries(1 << 15, 0);

#[map]
static GROUPS: HashMap<u32, u64> = HashMap::with_max_entries(1 << 15, 0);

#[map]
static HEAT: Array<HeatCell> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
static COUNTERS: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
static STACKS: RingBuf = RingBuf::with_byte_size(1 << 12, 0);

#[map]
static RULES: Array<RuleBucket> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
static SENT_STACKS: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Where a walk keeps what it finds.
#[map]
static WALKS: PerCpuArray<Walk> = PerCpuArray::with_max_entries(1, 0);

/// Set by user space before loading; the verifier sees constants and drops the branches they close.
#[unsafe(no_mangle)]
static CONFIG: Config = Config::ZERO;

/// Path of the traced cgroup within its hierarchy; `Config::cgroup_path_len` bytes of it count.
#[unsafe(no_mangle)]
static CGROUP_PATH: [u8; memtrace_ebpf::CGROUP_PATH_MAX] = [0; memtrace_ebpf::CGROUP_PATH_MAX];

/// Which [`Call`] each system-call number is: those of the architecture, then those of 32-bit programs.
#[unsafe(no_mangle)]
static CALLS: [u8; 2 * Call::NUMBERS] = [0; 2 * Call::NUMBERS];

/// The licence that the kernel asks for: some helpers are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: the verifier proves that no panic is reachable; a program with one is refused.
    unsafe { core::hint::unreachable_unchecked() }
}
