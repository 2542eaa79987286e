//! The kernel facilities that memtrace knows, and how each is tried.
//!
//! Layer: shell. Input: the running kernel. Output: [`Availability`].
//! Source: `bpf(2)`, `perf_event_open(2)`, `Documentation/admin-guide/mm/`, `capabilities(7)`.
//! Keeps: trying leaves nothing behind and touches no process but this one.
//! Not here: `Btf`, whose result is kept (`host`).

use std::{
    fs::{self, File},
    hint::black_box,
    io::{self, ErrorKind},
    os::{
        fd::AsFd,
        unix::{
            ffi::OsStrExt,
            fs::{FileExt, MetadataExt},
        },
    },
};

use aya::{maps::MapType, sys::is_map_supported};

use super::own_page_size;
use crate::{
    pagemap::PageCategories,
    record::Availability,
    sys::{
        bpf::EmptyProgram,
        perf,
        scan::{Query, ScanError, Scanner},
        uffd,
    },
    units::{VirtAddr, VirtRange},
};

/// A kernel facility.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Facility {
    /// Loading eBPF programs.
    Bpf,
    /// The eBPF ring buffer.
    RingBuffer,
    /// Software events of page faults, those in kernel mode included.
    FaultEvents,
    /// The kernel's description of its types.
    Btf,
    /// Raw tracepoints at the entry of page faults.
    FaultTracepoints,
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

/// A line that gives this process what it lacks.
const AS_ROOT: &str = "sudo memtrace …";

impl Facility {
    /// All of them, the most needed first.
    pub const ALL: [Self; 16] = [
        Self::Bpf,
        Self::RingBuffer,
        Self::FaultEvents,
        Self::Btf,
        Self::FaultTracepoints,
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

    /// Its name in recordings, in JSON and in `MEMTRACE_DISABLE`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bpf => "bpf",
            Self::RingBuffer => "ring_buffer",
            Self::FaultEvents => "fault_events",
            Self::Btf => "btf",
            Self::FaultTracepoints => "fault_tracepoints",
            Self::Pagemap => "pagemap",
            Self::ForeignPagemap => "foreign_pagemap",
            Self::FrameNumbers => "frame_numbers",
            Self::PagemapScan => "pagemap_scan",
            Self::PageFlags => "kpageflags",
            Self::PageCounts => "kpagecount",
            Self::PageCgroups => "kpagecgroup",
            Self::SoftDirty => "soft_dirty",
            Self::WriteProtect => "uffd_wp_async",
            Self::IdleBitmap => "idle_bitmap",
            Self::Cgroups => "cgroups",
        }
    }

    /// What it is for.
    #[must_use]
    pub const fn purpose(self) -> &'static str {
        match self {
            Self::Bpf => "seeing events as they happen",
            Self::RingBuffer => "every fault in order, not just counts",
            Self::FaultEvents => "the completion of each fault",
            Self::Btf => "the kernel's own fault counters, and threads that end",
            Self::FaultTracepoints => "latency from the very entry, and read or write",
            Self::Pagemap => "which pages are present or swapped",
            Self::ForeignPagemap => "the same, for processes of other users",
            Self::FrameNumbers => "pages shared, moved and merged",
            Self::PagemapScan => "page state at less cost, with huge and zero pages",
            Self::PageFlags => "what the kernel does with each frame",
            Self::PageCounts => "how many mappings share a frame",
            Self::PageCgroups => "which cgroup pays for a frame",
            Self::SoftDirty | Self::WriteProtect => "which pages were written",
            Self::IdleBitmap => "which pages were not used",
            Self::Cgroups => "targets by --cgroup",
        }
    }

    /// Whether nothing can be recorded without it.
    #[must_use]
    pub const fn is_required(self) -> bool {
        matches!(self, Self::Bpf | Self::RingBuffer | Self::FaultEvents | Self::Btf)
    }

    /// Tries it.
    pub(super) fn attempt(self) -> Availability {
        match self {
            Self::Bpf => bpf(EmptyProgram::load().map(drop), "Linux 4.17 with CONFIG_BPF_SYSCALL=y"),
            Self::RingBuffer => ring_buffer(),
            Self::FaultEvents => fault_events(),
            Self::Btf => file(super::btf::VMLINUX, "CONFIG_DEBUG_INFO_BTF=y"),
            Self::FaultTracepoints => fault_tracepoints(),
            Self::Pagemap => file(OWN_PAGEMAP, "CONFIG_PROC_PAGE_MONITOR=y"),
            Self::ForeignPagemap => foreign_pagemap(),
            Self::FrameNumbers => frame_numbers(),
            Self::PagemapScan => pagemap_scan(),
            Self::PageFlags => file("/proc/kpageflags", "CONFIG_PROC_PAGE_MONITOR=y"),
            Self::PageCounts => file("/proc/kpagecount", "CONFIG_PROC_PAGE_MONITOR=y"),
            Self::PageCgroups => file("/proc/kpagecgroup", "Linux 4.3 with CONFIG_MEMCG=y"),
            Self::SoftDirty => soft_dirty(),
            Self::WriteProtect => write_protect(),
            Self::IdleBitmap => file("/sys/kernel/mm/page_idle/bitmap", "CONFIG_IDLE_PAGE_TRACKING=y"),
            Self::Cgroups => cgroups(),
        }
    }
}

fn missing(since: &str) -> Availability {
    Availability::Missing { since: since.to_owned() }
}

fn denied(need: &str) -> Availability {
    Availability::Denied { need: need.to_owned(), fix: AS_ROOT.to_owned() }
}

fn bpf(result: io::Result<()>, since: &str) -> Availability {
    match result {
        Ok(()) => Availability::Usable,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            denied("CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN")
        }
        Err(_) => missing(since),
    }
}

fn ring_buffer() -> Availability {
    let since = "Linux 5.8";
    let result = is_map_supported(MapType::RingBuf).map_err(|error| error.io_error);
    match result {
        Ok(true) => Availability::Usable,
        Ok(false) => missing(since),
        Err(error) => bpf(Err(error), since),
    }
}

fn fault_tracepoints() -> Availability {
    let attached = EmptyProgram::load().and_then(|program| {
        program.attach(c"page_fault_user")?;
        program.attach(c"page_fault_kernel").map(drop)
    });
    bpf(attached, "Linux 3.13 on x86-64; not on arm64")
}

fn fault_events() -> Availability {
    match perf::open_minor_faults() {
        Ok(_) => Availability::Usable,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let path = "/proc/sys/kernel/perf_event_paranoid";
            let value = fs::read_to_string(path).unwrap_or_default();
            denied(&format!(
                "CAP_PERFMON (kernel.perf_event_paranoid is {})",
                if value.is_empty() { "unknown" } else { value.trim_end() }
            ))
        }
        Err(_) => missing("CONFIG_PERF_EVENTS=y"),
    }
}

const OWN_PAGEMAP: &str = "/proc/self/pagemap";

/// Whether `path` can be opened for reading.
fn file(path: &str, since: &str) -> Availability {
    match File::open(path) {
        Ok(_) => Availability::Usable,
        Err(error) => unreadable(path, &error, since),
    }
}

fn unreadable(path: &str, error: &io::Error, since: &str) -> Availability {
    match error.kind() {
        ErrorKind::NotFound => missing(since),
        ErrorKind::PermissionDenied => denied(&format!("CAP_DAC_READ_SEARCH to read {path}")),
        _ => denied(&format!("{path} to be readable, which says: {error}")),
    }
}

/// Whether the page tables of any process of another user can be opened; where there is none, of nobody's.
fn foreign_pagemap() -> Availability {
    let own_user = rustix::process::geteuid().as_raw();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut foreign = processes
        .filter(|entry| entry.file_name().as_bytes().iter().all(u8::is_ascii_digit))
        .filter(|entry| entry.metadata().is_ok_and(|metadata| metadata.uid() != own_user))
        .map(|entry| File::open(entry.path().join("pagemap")).map(drop))
        // Processes that ended meanwhile, and kernel threads, say nothing.
        .filter(|result| {
            let error = result.as_ref().err().map(io::Error::kind);
            error.is_none_or(|kind| kind == ErrorKind::PermissionDenied)
        })
        .peekable();
    if foreign.peek().is_none() || foreign.any(|result| result.is_ok()) {
        file(OWN_PAGEMAP, "CONFIG_PROC_PAGE_MONITOR=y")
    } else {
        denied("CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH")
    }
}

/// The pagemap word of a page of ours that was just written to.
fn own_page_word() -> io::Result<u64> {
    let page = black_box(Box::new(1_u8));
    let number = VirtAddr::from_raw(std::ptr::from_ref(&*page).addr() as u64).vpn(own_page_size());
    let mut word = [0; 8];
    File::open(OWN_PAGEMAP)?.read_exact_at(&mut word, number.as_raw() * 8)?;
    Ok(u64::from_ne_bytes(word))
}

fn frame_numbers() -> Availability {
    const FRAME_BITS: u64 = (1 << 55) - 1;
    match own_page_word() {
        Ok(word) if word & FRAME_BITS != 0 => Availability::Usable,
        Ok(_) => denied("CAP_SYS_ADMIN in the initial user namespace"),
        Err(error) => unreadable(OWN_PAGEMAP, &error, "CONFIG_PROC_PAGE_MONITOR=y"),
    }
}

/// A page that was written and never cleaned is soft-dirty, if the kernel keeps such a bit.
fn soft_dirty() -> Availability {
    const SOFT_DIRTY: u64 = 1 << 55;
    match own_page_word() {
        Ok(word) if word & SOFT_DIRTY != 0 => Availability::Usable,
        Ok(_) => missing("Linux 3.11 with CONFIG_MEM_SOFT_DIRTY=y"),
        Err(error) => unreadable(OWN_PAGEMAP, &error, "CONFIG_PROC_PAGE_MONITOR=y"),
    }
}

fn pagemap_scan() -> Availability {
    let since = "Linux 6.7";
    let page = own_page_size();
    let pagemap = match File::open(OWN_PAGEMAP) {
        Ok(pagemap) => pagemap,
        Err(error) => return unreadable(OWN_PAGEMAP, &error, since),
    };
    let categories = PageCategories::PRESENT | PageCategories::HUGE | PageCategories::PFNZERO;
    let query = Query { any_of: categories, wanted: categories };
    let first_page =
        VirtRange::new(VirtAddr::from_raw(0), VirtAddr::from_raw(page.bytes())).expect("a page is not empty");
    match Scanner::new(page).scan(pagemap.as_fd(), first_page, query, |_| ()) {
        Ok(()) => Availability::Usable,
        Err(ScanError::Gone | ScanError::Missing | ScanError::Io(_)) => missing(since),
    }
}

fn write_protect() -> Availability {
    let since = "Linux 6.7 with CONFIG_USERFAULTFD=y";
    match uffd::features() {
        Ok(features) if features & uffd::WP_ASYNC != 0 => Availability::Usable,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            denied("CAP_SYS_PTRACE, or vm.unprivileged_userfaultfd = 1")
        }
        Ok(_) | Err(_) => missing(since),
    }
}

fn cgroups() -> Availability {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if mounts.contains(" - cgroup2 ") || mounts.contains(" - cgroup ") {
        Availability::Usable
    } else {
        missing("a cgroup mount: mount -t cgroup2 none /sys/fs/cgroup")
    }
}
