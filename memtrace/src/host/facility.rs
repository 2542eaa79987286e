//! The kernel facilities that memtrace knows: since when kernels have them, and what happens without them.
//!
//! Layer: shell. Input: none. Output: [`Facility`] and its [`Description`].
//! Source: `Documentation/admin-guide/mm/`, `bpf(2)`, `perf_event_open(2)`, and the history of the kernel.
//! Keeps: this is the one table; `doctor`, the reasons in recordings and the README are made from it.
//! Not here: trying them (`attempt`).

/// A kernel facility.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Facility {
    /// Loading eBPF programs for raw tracepoints.
    Bpf,
    /// The eBPF ring buffer.
    RingBuffer,
    /// Programs at software events of page faults, those in kernel mode included.
    FaultEvents,
    /// The kernel's description of its types.
    Btf,
    /// Programs at classic tracepoints, and the descriptions of their records.
    TracepointRecords,
    /// Programs at raw tracepoints that run to their end before anything else does on their CPU.
    RawTracepoints,
    /// Raw tracepoints at the entry of page faults.
    FaultTracepoints,
    /// The raw tracepoints at locks on memory maps.
    LockTracepoint,
    /// The raw tracepoint at the end of system calls.
    CallTracepoint,
    /// Records of perf on new VMAs.
    SideBand,
    /// The helper by which a program finds the system call in flight.
    SyscallNames,
    /// What requests of `io_uring` ask for.
    IoUring,
    /// Own page tables.
    Pagemap,
    /// Page tables of other users' processes.
    ForeignPagemap,
    /// Frame numbers in page tables.
    FrameNumbers,
    /// The ioctl `PAGEMAP_SCAN`.
    PagemapScan,
    /// Flags of frames.
    PageFlags,
    /// Mapping counts of frames.
    PageCounts,
    /// Memory cgroups of frames.
    PageCgroups,
    /// Soft-dirty bits.
    SoftDirty,
    /// Asynchronous write-protection by userfaultfd.
    WriteProtect,
    /// The bitmap of idle frames.
    IdleBitmap,
    /// A mounted cgroup hierarchy.
    Cgroups,
}

/// What is to be known of a facility before it is tried.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// Its name in recordings, in JSON and in `MEMTRACE_DISABLE`.
    pub name: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// The first release that has it, the configuration option, or both.
    pub since: &'static str,
    /// What happens without it.
    pub without: &'static str,
}

/// For what recording cannot do without.
const REFUSED: &str = "`record` says so and starts nothing";
/// For what `record` does not use yet.
const UNUSED: &str = "nothing changes in `record`";

impl Facility {
    /// All of them, the most needed first.
    pub const ALL: [Self; 23] = [
        Self::Bpf,
        Self::RingBuffer,
        Self::FaultEvents,
        Self::Btf,
        Self::TracepointRecords,
        Self::RawTracepoints,
        Self::FaultTracepoints,
        Self::LockTracepoint,
        Self::CallTracepoint,
        Self::SideBand,
        Self::SyscallNames,
        Self::IoUring,
        Self::Pagemap,
        Self::ForeignPagemap,
        Self::FrameNumbers,
        Self::PagemapScan,
        Self::PageFlags,
        Self::PageCounts,
        Self::PageCgroups,
        Self::SoftDirty,
        Self::WriteProtect,
        Self::IdleBitmap,
        Self::Cgroups,
    ];

    /// What is to be known of it.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "a table")]
    pub const fn describe(self) -> Description {
        match self {
            Self::Bpf => Description {
                name: "bpf",
                purpose: "seeing events as they happen",
                since: "Linux 5.5 with CONFIG_BPF_SYSCALL=y and CONFIG_BPF_EVENTS=y",
                without: REFUSED,
            },
            Self::RingBuffer => Description {
                name: "ring_buffer",
                purpose: "every fault in order, and its details",
                since: "Linux 5.8",
                without: REFUSED,
            },
            Self::FaultEvents => Description {
                name: "fault_events",
                purpose: "the completion of each fault",
                since: "Linux 4.17 with CONFIG_PERF_EVENTS=y",
                without: REFUSED,
            },
            Self::Btf => Description {
                name: "btf",
                purpose: "the kernel's own fault counters, by which faults without events are found",
                since: "Linux 5.4 with CONFIG_DEBUG_INFO_BTF=y",
                without: "uncounted faults are unknown, and an event that the kernel drops goes unnoticed; tasks are followed by `tracepoint_records`",
            },
            Self::TracepointRecords => Description {
                name: "tracepoint_records",
                purpose: "following tasks where there is no `btf`, and everything where there are no `raw_tracepoints`",
                since: "Linux 4.7 with CONFIG_BPF_EVENTS=y, and tracefs: mount -t tracefs tracefs /sys/kernel/tracing",
                without: "without `raw_tracepoints` too, what the kernel skips is a loss; without `btf` too, `record` says so and starts nothing",
            },
            Self::RawTracepoints => Description {
                name: "raw_tracepoints",
                purpose: "the least cost per event",
                since: "Linux 4.17 to 6.19: later ones preempt programs, and skip them for other tasks meanwhile",
                without: "programs are at classic tracepoints, where an event costs more",
            },
            Self::FaultTracepoints => Description {
                name: "fault_tracepoints",
                purpose: "latency from the very entry; read, write or exec; faults that fail",
                since: "Linux 3.13 on x86-64",
                without: "entries are seen by software events: read, write or exec is unknown",
            },
            Self::LockTracepoint => Description {
                name: "mmap_lock_tracepoint",
                purpose: "the true order of changes of an address space; faults without events, at the call that took them",
                since: "Linux 5.11",
                without: "changes are in the order in which their calls return; such faults are found at the thread's next fault or at its exit: as many, but later and without the call",
            },
            Self::CallTracepoint => Description {
                name: "call_tracepoint",
                purpose: "calls that change an address space",
                since: "Linux 4.17 with CONFIG_FTRACE=y",
                without: "regions are read from maps many times a second, and what is mapped only briefly is missed",
            },
            Self::SideBand => Description {
                name: "side_band",
                purpose: "new regions with their files, those that exec and stack growth make too",
                since: "Linux 4.1 with CONFIG_PERF_EVENTS=y",
                without: "as without `call_tracepoint`",
            },
            Self::SyscallNames => Description {
                name: "syscall_names",
                purpose: "the name of the call that took faults without events",
                since: "Linux 5.15",
                without: "the call is unknown; a change of an address space that nothing explains shows only when maps is next read",
            },
            Self::IoUring => Description {
                name: "io_uring",
                purpose: "advice that programs give by io_uring",
                since: "Linux 6.0 with CONFIG_IO_URING=y and CONFIG_DEBUG_INFO_BTF=y",
                without: "what such advice takes away went for a reason that is unknown, or `unexplained`",
            },
            Self::Pagemap => Description {
                name: "pagemap",
                purpose: "which pages are present or swapped",
                since: "Linux 2.6.25 with CONFIG_PROC_PAGE_MONITOR=y",
                without: "no page state",
            },
            Self::ForeignPagemap => Description {
                name: "foreign_pagemap",
                purpose: "the same, for processes of other users",
                since: "CONFIG_PROC_PAGE_MONITOR=y",
                without: "page state of your own processes only",
            },
            Self::FrameNumbers => Description {
                name: "frame_numbers",
                purpose: "pages shared, moved and merged",
                since: "CONFIG_PROC_PAGE_MONITOR=y",
                without: "`snapshot` knows no flags, folios, PSS, nodes and sharing",
            },
            Self::PagemapScan => Description {
                name: "pagemap_scan",
                purpose: "page state at less cost, with huge and zero pages",
                since: "Linux 6.7",
                without: "page state is read from `pagemap`: huge and zero pages are not distinguished in `record`; \
                          what page middle directories map is not known in `snapshot`",
            },
            Self::PageFlags => Description {
                name: "kpageflags",
                purpose: "what the kernel does with each frame",
                since: "Linux 2.6.25 with CONFIG_PROC_PAGE_MONITOR=y",
                without: "as without `frame_numbers`",
            },
            Self::PageCounts => Description {
                name: "kpagecount",
                purpose: "how many mappings share a frame",
                since: "Linux 2.6.25 with CONFIG_PROC_PAGE_MONITOR=y",
                without: "`snapshot` knows no PSS and no sharing",
            },
            Self::PageCgroups => Description {
                name: "kpagecgroup",
                purpose: "which cgroup pays for a frame",
                since: "Linux 4.3 with CONFIG_MEMCG=y",
                without: "no `snapshot -C` and `--charged`",
            },
            Self::SoftDirty => Description {
                name: "soft_dirty",
                purpose: "which pages were written",
                since: "Linux 3.11 with CONFIG_MEM_SOFT_DIRTY=y",
                without: UNUSED,
            },
            Self::WriteProtect => Description {
                name: "uffd_wp_async",
                purpose: "which pages were written",
                since: "Linux 6.7 with CONFIG_USERFAULTFD=y",
                without: UNUSED,
            },
            Self::IdleBitmap => Description {
                name: "idle_bitmap",
                purpose: "which pages were not used",
                since: "Linux 4.3 with CONFIG_IDLE_PAGE_TRACKING=y",
                without: "no `snapshot --mark-idle`",
            },
            Self::Cgroups => Description {
                name: "cgroups",
                purpose: "targets by --cgroup",
                since: "CONFIG_CGROUPS=y and a mount: mount -t cgroup2 none /sys/fs/cgroup",
                without: "no --cgroup",
            },
        }
    }

    /// Its name in recordings, in JSON and in `MEMTRACE_DISABLE`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.describe().name
    }
}
