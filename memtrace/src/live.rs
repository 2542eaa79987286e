//! Loads and arms the eBPF programs, and drains what they write.
//!
//! Layer: shell. Input: a target and a [`Plan`]. Output: frames, as the kernel wrote them.
//! Source: `memtrace_ebpf` for layouts; each part names its own.
//! Keeps: what is armed is disarmed when its owner is dropped.
//! Not here: what frames mean (`decode`), what to do with them (`session`).

pub mod attach;
pub mod batches;
pub mod cgroup;
pub mod cpus;
pub mod drain;
pub mod heat;
pub mod losses;
pub mod probes;
mod programs;
pub mod sideband;
pub mod skips;
pub mod stacks;
mod syscalls;
pub mod target;
pub mod tasks;

pub use attach::{AttachError, VerifierLog};
pub use batches::{Batch, BatchSender, Batches, batches};
pub use cgroup::{Cgroup, CgroupError};
pub use cpus::{CpuCompletions, CpuWatch};
pub use drain::{Drain, Rings};
pub use heat::HeatReader;
pub use losses::LossMeter;
pub use probes::{Entry, Plan, Probes, Scope};
pub use sideband::{SideBand, ring_bytes};
pub use skips::SkipMeter;
pub use stacks::{SeenCode, Stacks};
pub use target::{ArmError, Armed, SESSION_FILES, Target, arm};
