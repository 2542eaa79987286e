//! How each facility is tried.
//!
//! Layer: shell. Input: the running kernel. Output: [`Availability`].
//! Source: `bpf(2)`, `perf_event_open(2)`, `Documentation/admin-guide/mm/`, `capabilities(7)`, `kernel_lockdown(7)`.
//! Keeps: trying leaves nothing behind and touches no process but this one.
//! Not here: what follows from it for a session (`host`).

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
    time::Duration,
};

use aya::{
    maps::MapType,
    programs::ProgramError,
    sys::{BpfHelper, SyscallError, is_helper_supported, is_map_supported},
};
use rustix::{
    system::uname,
    thread::{CapabilitySet, capabilities},
};

use super::{
    Facility, Found, LockArguments, PARANOID,
    btf::{self, BtfError},
    lockdown, own_page_size,
    tracepoint::{self, RecordError},
};
use crate::{
    pagemap::{PageCategories, Release},
    record::Availability,
    sys::{
        bpf::{EmptyProgram, ProgramType},
        limits::Shortage,
        memlock, perf,
        scan::{Query, ScanError, Scanner},
        sideband::Ring,
        uffd,
    },
    units::{VirtAddr, VirtRange},
};

/// Bytes of a ring that is not kept.
const SMALL_RING: usize = 64 << 10;

/// A line that gives this process what it lacks.
const AS_ROOT: &str = "sudo memtrace …";

impl Facility {
    /// Tries it, and keeps what it learns of the kernel in `found`.
    pub(super) fn attempt(self, found: &mut Found) -> Availability {
        match self {
            Self::Bpf => self.loading(),
            Self::RingBuffer => self.ring_buffer(),
            Self::FaultEvents => self.fault_events(),
            Self::Btf => self.types(found),
            Self::TracepointRecords => self.tracepoint_records(found),
            Self::RawTracepoints => self.raw_tracepoints_to_their_end(),
            Self::FaultTracepoints => self.raw_tracepoints(&[c"page_fault_user", c"page_fault_kernel"]),
            Self::LockTracepoint => self.lock_tracepoints(found),
            Self::CallTracepoint => self.raw_tracepoints(&[c"sys_exit"]),
            Self::SideBand => self.programs(Ring::new(0, SMALL_RING).map(drop)),
            Self::SyscallNames => self.syscall_names(),
            Self::IoUring => self.requests(found),
            Self::Pagemap => self.file(OWN_PAGEMAP),
            Self::ForeignPagemap => self.foreign_pagemap(),
            Self::FrameNumbers => self.frame_numbers(),
            Self::PagemapScan => self.pagemap_scan(),
            Self::PageFlags => self.file("/proc/kpageflags"),
            Self::PageCounts => self.file("/proc/kpagecount"),
            Self::PageCgroups => self.file("/proc/kpagecgroup"),
            Self::SoftDirty => self.soft_dirty(),
            Self::WriteProtect => self.write_protect(),
            Self::IdleBitmap => self.file("/sys/kernel/mm/page_idle/bitmap"),
            Self::Cgroups => self.cgroups(),
        }
    }

    /// This kernel does not have it.
    fn missing(self) -> Availability {
        Availability::Missing { since: self.describe().since.to_owned() }
    }

    /// What an attempt to load or attach programs says.
    fn programs(self, result: io::Result<()>) -> Availability {
        match result {
            Ok(()) => Availability::Usable,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => programs_denied(),
            Err(error) => self.otherwise(&error),
        }
    }

    /// This kernel does not have it, unless a limit of this process explains `error`.
    fn otherwise(self, error: &io::Error) -> Availability {
        match error.raw_os_error().and_then(Shortage::behind) {
            Some(shortage) => Availability::Denied {
                need: format!("more than {}", shortage.limit()),
                fix: shortage.remedy(),
            },
            None => self.missing(),
        }
    }

    /// Programs, and the helper by which they read kernel memory: lockdown lets one load without the other.
    fn loading(self) -> Availability {
        if let Err(error) = EmptyProgram::load(ProgramType::RawTracepoint) {
            return self.programs(Err(error));
        }
        match self.helper(BpfHelper::BPF_FUNC_probe_read_kernel) {
            Availability::Missing { .. } if is_confidential() => programs_denied(),
            found => found,
        }
    }

    /// Whether raw-tracepoint programs may call `helper`.
    fn helper(self, helper: BpfHelper) -> Availability {
        match is_helper_supported(aya::programs::ProgramType::RawTracePoint, helper) {
            Ok(true) => Availability::Usable,
            Err(
                ProgramError::LoadError { io_error, .. }
                | ProgramError::SyscallError(SyscallError { io_error, .. }),
            ) => self.programs(Err(io_error)),
            Ok(false) | Err(_) => self.missing(),
        }
    }

    fn ring_buffer(self) -> Availability {
        match is_map_supported(MapType::RingBuf) {
            Ok(true) => Availability::Usable,
            Ok(false) => self.missing(),
            Err(error) => self.programs(Err(error.io_error)),
        }
    }

    fn raw_tracepoints(self, names: &[&std::ffi::CStr]) -> Availability {
        self.programs(
            EmptyProgram::load(ProgramType::RawTracepoint)
                .and_then(|program| names.iter().try_for_each(|name| program.attach_raw(name).map(drop))),
        )
    }

    /// By the release: whether a program is preempted cannot be tried.
    fn raw_tracepoints_to_their_end(self) -> Availability {
        let release = Release::parse(&uname().release().to_string_lossy());
        if release < Release::new(7, 0) { Availability::Usable } else { self.missing() }
    }

    /// The tracepoints of the lock of memory maps, the second of which has two arguments, or three before Linux 6.14.
    fn lock_tracepoints(self, found: &mut Found) -> Availability {
        let has_third = EmptyProgram::load_with_argument(2)
            .is_ok_and(|program| program.attach_raw(c"mmap_lock_released").is_ok());
        found.lock = Some(if has_third { LockArguments::WithPath } else { LockArguments::Plain });
        self.raw_tracepoints(&[c"mmap_lock_acquire_returned", c"mmap_lock_released"])
    }

    fn types(self, found: &mut Found) -> Availability {
        match btf::kernel_offsets() {
            Ok(offsets) => {
                found.offsets.get_or_insert(offsets);
                Availability::Usable
            }
            Err(BtfError::Read(error)) if error.kind() == ErrorKind::PermissionDenied => {
                Availability::Denied {
                    need: format!("{} to be readable", btf::VMLINUX),
                    fix: format!("sudo chmod a+r {}", btf::VMLINUX),
                }
            }
            Err(BtfError::Read(error)) => self.otherwise(&error),
            Err(error) => Availability::Missing { since: format!("in a form we know: {error}") },
        }
    }

    /// The offsets, which BTF has if the kernel has `io_uring`, and the tracepoint.
    fn requests(self, found: &Found) -> Availability {
        match found.offsets {
            Some(offsets) if offsets.has_requests != 0 => self.raw_tracepoints(&[c"io_uring_complete"]),
            _ => self.missing(),
        }
    }

    /// Programs at classic tracepoints. None is attached: to detach it takes the kernel 80 ms.
    fn tracepoint_records(self, found: &mut Found) -> Availability {
        let offsets = match tracepoint::record_offsets() {
            Ok(offsets) => offsets,
            Err(RecordError::Read { path, source }) => {
                return self.unreadable(&path.display().to_string(), &source);
            }
            Err(error @ RecordError::Absent { .. }) => {
                return Availability::Missing { since: format!("in a form we know: {error}") };
            }
        };
        let loaded = EmptyProgram::load(ProgramType::Tracepoint);
        if loaded.is_ok() {
            found.offsets.get_or_insert(offsets);
        }
        self.programs(loaded.map(drop))
    }

    fn syscall_names(self) -> Availability {
        self.helper(BpfHelper::BPF_FUNC_task_pt_regs)
    }

    fn fault_events(self) -> Availability {
        let event = match perf::open_minor_faults() {
            Ok(event) => event,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return perf_denied(),
            Err(error) => return self.otherwise(&error),
        };
        self.programs(
            EmptyProgram::load(ProgramType::PerfEvent)
                .and_then(|program| perf::set_program(&event, &program)),
        )
    }

    /// Whether `path` can be opened for reading.
    fn file(self, path: &str) -> Availability {
        match File::open(path) {
            Ok(_) => Availability::Usable,
            Err(error) => self.unreadable(path, &error),
        }
    }

    fn unreadable(self, path: &str, error: &io::Error) -> Availability {
        match error.kind() {
            ErrorKind::NotFound => self.missing(),
            ErrorKind::PermissionDenied => denied(&format!("CAP_DAC_READ_SEARCH to read {path}")),
            _ if error.raw_os_error().and_then(Shortage::behind).is_some() => self.otherwise(error),
            _ => denied(&format!("{path} to be readable, which says: {error}")),
        }
    }

    /// Whether the page tables of any process of another user can be opened; where there is none, of nobody's.
    fn foreign_pagemap(self) -> Availability {
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
            self.file(OWN_PAGEMAP)
        } else {
            denied("CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH")
        }
    }

    fn frame_numbers(self) -> Availability {
        const FRAME_BITS: u64 = (1 << 55) - 1;
        match own_page_word() {
            Ok(word) if word & FRAME_BITS != 0 => Availability::Usable,
            Ok(_) => denied("CAP_SYS_ADMIN in the initial user namespace"),
            Err(error) => self.unreadable(OWN_PAGEMAP, &error),
        }
    }

    /// A page that was written and never cleaned is soft-dirty, if the kernel keeps such a bit.
    fn soft_dirty(self) -> Availability {
        const SOFT_DIRTY: u64 = 1 << 55;
        match own_page_word() {
            Ok(word) if word & SOFT_DIRTY != 0 => Availability::Usable,
            Ok(_) => self.missing(),
            Err(error) => self.unreadable(OWN_PAGEMAP, &error),
        }
    }

    fn pagemap_scan(self) -> Availability {
        let page = own_page_size();
        let pagemap = match File::open(OWN_PAGEMAP) {
            Ok(pagemap) => pagemap,
            Err(error) => return self.unreadable(OWN_PAGEMAP, &error),
        };
        let categories = PageCategories::PRESENT | PageCategories::HUGE | PageCategories::PFNZERO;
        let query = Query { any_of: categories, wanted: categories, ..Query::default() };
        let first_page = VirtRange::new(VirtAddr::from_raw(0), VirtAddr::from_raw(page.bytes()))
            .expect("a page is not empty");
        match Scanner::new(page, Duration::MAX).step(pagemap.as_fd(), first_page, query) {
            Ok(_) => Availability::Usable,
            Err(ScanError::Gone | ScanError::Missing) => self.missing(),
            Err(ScanError::Io(error)) => self.otherwise(&error),
        }
    }

    fn write_protect(self) -> Availability {
        match uffd::features() {
            Ok(features) if features & uffd::WP_ASYNC != 0 => Availability::Usable,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                denied("CAP_SYS_PTRACE, or vm.unprivileged_userfaultfd = 1")
            }
            Err(error) => self.otherwise(&error),
            Ok(_) => self.missing(),
        }
    }

    fn cgroups(self) -> Availability {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        if mounts.contains(" - cgroup2 ") || mounts.contains(" - cgroup ") {
            Availability::Usable
        } else {
            self.missing()
        }
    }
}

fn denied(need: &str) -> Availability {
    Availability::Denied { need: need.to_owned(), fix: AS_ROOT.to_owned() }
}

/// Why programs are refused: lockdown, which nobody overrides; the limit of locked memory; or privileges.
fn programs_denied() -> Availability {
    if is_confidential() {
        return Availability::Denied {
            need: "kernel lockdown below confidentiality, where programs may not read kernel memory"
                .to_owned(),
            fix: "boot with lockdown=integrity or lockdown=none".to_owned(),
        };
    }
    let may_load = may(CapabilitySet::SYS_ADMIN) || may(CapabilitySet::BPF | CapabilitySet::PERFMON);
    if may_load && memlock::is_limited() {
        return Availability::Denied {
            need: "more locked memory, to which kernels before 5.11 charge eBPF (RLIMIT_MEMLOCK)".to_owned(),
            fix: "sudo prlimit --pid $$ --memlock=unlimited:unlimited".to_owned(),
        };
    }
    if may_load {
        return denied("the system calls of eBPF, which a filter of this container or service forbids");
    }
    denied("CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN, in the initial user namespace")
}

/// Whether this process has these capabilities where the kernel asks for them: in the initial user namespace.
fn may(needed: CapabilitySet) -> bool {
    let is_initial = fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]));
    is_initial && capabilities(None).is_ok_and(|own| own.effective.contains(needed))
}

/// Whether kernel memory is secret.
fn is_confidential() -> bool {
    lockdown().is_some_and(|level| level == "confidentiality")
}

/// Why events of perf are refused, and what allows them.
fn perf_denied() -> Availability {
    if is_confidential() {
        return programs_denied();
    }
    let value = fs::read_to_string(PARANOID).unwrap_or_default();
    let value = if value.is_empty() { "unknown" } else { value.trim_end() };
    // Beyond 2 is an addition of distributions.
    if may(CapabilitySet::PERFMON) && value.parse::<i32>().is_ok_and(|value| value > 2) {
        return Availability::Denied {
            need: format!("kernel.perf_event_paranoid of 2 or less (it is {value}), or CAP_SYS_ADMIN"),
            fix: "sudo sysctl kernel.perf_event_paranoid=2".to_owned(),
        };
    }
    denied(&format!(
        "CAP_PERFMON in the initial user namespace (kernel.perf_event_paranoid is {value}), and no filter of \
         perf_event_open(2)"
    ))
}

pub(super) const OWN_PAGEMAP: &str = "/proc/self/pagemap";

/// The pagemap word of a page of ours that was just written to.
pub(super) fn own_page_word() -> io::Result<u64> {
    let page = black_box(Box::new(1_u8));
    word_at(VirtAddr::from_raw(std::ptr::from_ref(&*page).addr() as u64))
}

/// The pagemap word of the page of ours at `addr`.
pub(super) fn word_at(addr: VirtAddr) -> io::Result<u64> {
    let number = addr.vpn(own_page_size());
    let mut word = [0; 8];
    File::open(OWN_PAGEMAP)?.read_exact_at(&mut word, number.as_raw() * 8)?;
    Ok(u64::from_ne_bytes(word))
}
