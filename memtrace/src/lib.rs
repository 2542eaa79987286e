//! memtrace: what a program did to memory, when, and what the kernel gave it.
//!
//! eBPF programs see every page fault of the traced tasks and count them per region of the address space;
//! user space scans the page tables of just the busy regions; one pipeline joins both into timelines.
//! The same pipeline runs live and over a recording.
//!
//! Modules stand in layers, and a module uses its own layer or lower ones:
//!
//! * core, pure: [`units`], [`pagemap`], [`select`], [`event`], [`census`], [`decode`], [`order`], [`region`], [`timeline`], [`pipeline`];
//! * codec, `Read` and `Write` only: [`record`], [`export`], [`report`], [`snapshot`];
//! * shell, which touches the kernel, under the feature `live`: `sys`, `probe`, `live`, `host`, `session`.

// The object that `report --json` prints has as many keys.
#![recursion_limit = "256"]

pub mod census;
pub mod cli;
pub mod decode;
pub mod event;
pub mod export;
#[cfg(feature = "live")]
pub mod host;
#[cfg(feature = "live")]
pub mod live;
pub mod order;
pub mod pagemap;
pub mod pipeline;
#[cfg(feature = "live")]
pub mod probe;
pub mod record;
pub mod region;
pub mod report;
pub mod select;
#[cfg(feature = "live")]
pub mod session;
pub mod snapshot;
#[cfg(feature = "live")]
pub mod symbolize;
#[cfg(feature = "live")]
pub mod sys;
pub mod timeline;
pub mod units;
#[cfg(feature = "live")]
pub mod unwind;
