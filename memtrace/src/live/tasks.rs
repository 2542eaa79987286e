//! The tasks that are there when tracing begins.
//!
//! Layer: shell. Input: `/proc`. Output: [`Task`]s, and the join records that tell the core of them.
//! Source: `proc(5)`: `/proc/PID/task`, `stat`, `status`.
//! Keeps: a task that ends meanwhile is left out, not an error.
//! Not here: tasks that come later (the programs add them).

use std::{collections::BTreeMap, fs, io};

use memtrace_ebpf::{EventHeader, EventKind, JoinEvent, TaskAccount, TaskIds, TaskState};
use procfs::process::ProcState;

use crate::{
    event::{Comm, FaultCounts},
    units::Timestamp,
};

/// Bit of `flags` of `/proc/PID/stat`: `PF_KTHREAD` of `include/linux/sched.h`.
const PF_KTHREAD: u32 = 0x0020_0000;

/// A task as `/proc` shows it.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    /// Thread ID.
    pub tid: u32,
    /// Thread-group ID.
    pub tgid: u32,
    /// Thread-group ID of the parent.
    pub parent_tgid: u32,
    /// Its name.
    pub comm: Comm,
    /// Whether it is the kernel's own, without memory.
    pub is_kernel_thread: bool,
    /// What the kernel has charged to it.
    pub charged: FaultCounts,
}

impl Task {
    /// The thread `tid`; `None` if there is none, or it is dead and waits to be reaped.
    #[must_use]
    pub fn find(tid: u32) -> Option<Self> {
        let tid_signed = i32::try_from(tid).ok()?;
        let process = procfs::process::Process::new(tid_signed).ok()?;
        let status = process.status().ok()?;
        let stat = process.task_from_tid(tid_signed).ok()?.stat().ok()?;
        if matches!(stat.state().ok()?, ProcState::Zombie | ProcState::Dead) {
            return None;
        }
        Some(Self {
            tid,
            tgid: u32::try_from(status.tgid).ok()?,
            parent_tgid: u32::try_from(status.ppid).ok()?,
            comm: Comm::from_text(&stat.comm),
            is_kernel_thread: stat.flags & PF_KTHREAD != 0,
            charged: FaultCounts { minor: stat.minflt, major: stat.majflt },
        })
    }

    /// All threads of the process `tgid`.
    pub fn threads_of(tgid: u32) -> io::Result<Vec<Self>> {
        let mut threads: Vec<_> = fs::read_dir(format!("/proc/{tgid}/task"))?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(Self::find)
            .collect();
        threads.sort_unstable_by_key(|task| task.tid);
        Ok(threads)
    }

    /// How the programs should begin with it. `exact` if it stands still, so that what `/proc` says it
    /// was charged is what it will go on from.
    #[must_use]
    pub fn state(&self, space: u64, exact: bool) -> TaskState {
        let FaultCounts { minor, major } = self.charged;
        TaskState {
            space,
            tid: self.tid,
            tgid: self.tgid,
            flags: if exact { TaskState::BASE_KNOWN } else { 0 },
            account: TaskAccount {
                base_minor: minor,
                base_major: major,
                last_minor: minor,
                last_major: major,
                ..TaskAccount::default()
            },
            ..TaskState::default()
        }
    }

    /// The record that reports it, as the programs write it for tasks that join later.
    #[must_use]
    pub fn join(&self, time: Timestamp, space: u64) -> [u8; JoinEvent::LEN] {
        let len = u16::try_from(JoinEvent::LEN).unwrap_or(u16::MAX);
        JoinEvent {
            header: EventHeader {
                time_ns: time.as_nanos(),
                tgid: self.tgid,
                tid: self.tid,
                kind: EventKind::JOIN,
                len,
                cpu: 0,
            },
            space,
            parent_tgid: self.parent_tgid,
            pad: 0,
            comm: self.comm.to_raw(),
        }
        .to_bytes()
    }
}

/// By which thread IDs the programs find the tasks of this PID namespace: those that they have in the initial one.
#[derive(Clone, Debug)]
pub struct InitialTids(Option<BTreeMap<u32, u32>>);

impl InitialTids {
    /// This PID namespace is the initial one.
    pub(super) const SAME: Self = Self(None);

    /// What the programs wrote of all tasks, [`TaskIds`] one after the other.
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let ids = bytes.chunks(TaskIds::LEN).filter_map(TaskIds::from_bytes);
        Self(Some(ids.map(|ids| (ids.tid, ids.initial_tid)).collect()))
    }

    /// That of the thread `tid`; `None` if there was none when the tasks were listed.
    #[must_use]
    pub fn of(&self, tid: u32) -> Option<u32> {
        match &self.0 {
            Some(initial) => initial.get(&tid).copied(),
            None => Some(tid),
        }
    }
}

/// Numbers for address spaces of tasks that are there at the start: one per process.
///
/// The programs put the CPU into the low 16 bits of theirs; 65,535 marks these.
#[derive(Debug, Default)]
pub struct Spaces {
    by_tgid: BTreeMap<u32, u64>,
}

impl Spaces {
    /// The number for the process `tgid`.
    pub fn of(&mut self, tgid: u32) -> u64 {
        let next = self.by_tgid.len() as u64 + 1;
        *self.by_tgid.entry(tgid).or_insert((next << 16) | 0xffff)
    }
}
