//! The ABI between memtrace's eBPF programs and its user space.
//!
//! Both sides compile this crate, so a layout is written once. Everything here is plain data:
//! fixed-width integers, native byte order, no implicit padding, no dependencies.
//!
//! Four ways lead out of the kernel:
//!
//! * `EVENTS_0` to `EVENTS_7`, ring buffers of [`FaultEvent`]s alone: one page fault each, complete in itself. Up to eight CPUs
//!   have one each, so that they do not wait for each other; more CPUs share them in turn.
//! * `CONTROL`, a ring buffer of records that begin with an [`EventHeader`]: what happened to tasks and to address
//!   spaces, and faults that the kernel charged without an event. It is never shared with faults, so a fault
//!   storm cannot displace the life of a process.
//! * `STACKS`, a ring buffer of user stacks: each once, and what user space has to find out of others.
//! * `HEAT` and `COUNTERS`, arrays mapped into user space: fault counts per address-space slot, and
//!   per-CPU totals with the losses by cause. They only grow, and are read without a system call.
//!
//! [`Config`] goes the other way, once, before the programs are loaded; and `RULES`, an array in which user space writes how stacks are
//! walked, while they run.
//!
//! Recordings keep what comes out of the rings, and every later build reads it: a kind never gets another meaning, a record
//! grows only by fields at its end, which are unknown in older recordings, and a fault by a column of its own. [`CallEvent`] and
//! [`EventHeader`] lie within others and cannot grow: with its stack a call is a [`StackedCallEvent`].
#![no_std]

mod abi;

pub use abi::{
    config::*, counters::*, event::*, fault::*, heat::*, names, names::EVENT_RINGS, stack::*, task::*,
};
