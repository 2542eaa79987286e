//! The ABI between memtrace's eBPF programs and its user space.
//!
//! Both sides compile this crate, so a layout is written once. Everything here is plain data:
//! fixed-width integers, native byte order, no implicit padding, no dependencies.
//!
//! Three ways lead out of the kernel:
//!
//! * `EVENTS_0` to `EVENTS_7`, ring buffers of [`FaultEvent`]s alone: one page fault each, complete in itself. Up to eight CPUs
//!   have one each, so that they do not wait for each other; more CPUs share them in turn.
//! * `CONTROL`, a ring buffer of records that begin with an [`EventHeader`]: what happened to tasks and to address
//!   spaces, and faults that the kernel charged without an event. It is never shared with faults, so a fault
//!   storm cannot displace the life of a process.
//! * `HEAT` and `COUNTERS`, arrays mapped into user space: fault counts per address-space slot, and
//!   per-CPU totals with the losses by cause. They only grow, and are read without a system call.
//!
//! [`Config`] goes the other way, once, before the programs are loaded.
//!
//! Any change to a layout or to the meaning of a field changes [`ABI_VERSION`], which recordings carry.
#![no_std]

mod abi;

pub use abi::{
    config::{CGROUP_PATH_MAX, Config},
    counters::{Counter, counter_index},
    event::{
        Call, CallEvent, CommEvent, EventHeader, EventKind, ExecEvent, ExitEvent, ForkEvent, JoinEvent,
        LeaveEvent, NameEvent, SectionEvent, SpaceEvent, TrimEvent, UncountedCause, UncountedEvent, VmaName,
    },
    fault::{FaultEvent, FaultFlags, FaultKind},
    heat::{HEAT_OVERFLOW_CELLS, HEAT_PROBES, HEAT_SLOT_SHIFT, HeatCell, OVERFLOW_SLOT},
    names,
    names::EVENT_RINGS,
    task::{Pending, TaskAccount, TaskIds, TaskState, is_vsyscall},
};

/// Version of every layout in this crate; stored in recordings.
pub const ABI_VERSION: u32 = 6;
