//! Memory with known behaviour: mappings whose pages are touched one by one.
//!
//! Input: sizes in base pages. Output: the faults that the kernel must take for each touch.
//! Source: mmap(2), madvise(2), mlock(2), mprotect(2), sigaction(2).
//! Keeps: base pages alone unless huge ones are asked for; a touch is one access and allocates nothing.
//! Not here: who touches what, and what it is called (`workloads`).
#![expect(unsafe_code, reason = "touching raw mappings is what this module makes safe")]

use std::{
    ffi::{CStr, c_int, c_void},
    fs::{self, File},
    io, mem,
    ops::Range,
    os::fd::AsRawFd as _,
    ptr::null_mut,
    slice,
    sync::atomic::{AtomicPtr, Ordering},
    thread,
    time::Duration,
};

use rustix::mm::{
    Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags, madvise, mlock, mmap, mmap_anonymous, mprotect,
    mremap_fixed, munmap,
};

use crate::ledger::Area;

/// Size of a base page in bytes.
#[must_use]
pub fn page_bytes() -> usize {
    rustix::param::page_size()
}

/// Whether the kernel has the call `cachestat`, by the number that all architectures but alpha have for it.
#[must_use]
pub fn has_cachestat() -> bool {
    const SYS_CACHESTAT: libc::c_long = 451;
    // SAFETY: with a descriptor that is none the kernel reads and writes nothing.
    let _refused = unsafe { libc::syscall(SYS_CACHESTAT, -1, null_mut::<u8>(), null_mut::<u8>(), 0) };
    io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS)
}

/// Puts the pages that wait in batches, one for each processor, on the lists of reclaim.
pub fn drain_batches() {
    // Compaction begins with that. Where it is missing, they drain in their own time.
    let _missing = fs::write("/proc/sys/vm/compact_memory", "1");
}

/// Bytes of memory that this process had at most while `body` ran, beyond what it had before.
pub fn peak_growth(body: impl FnOnce()) -> u64 {
    let bytes = |row: &str| {
        let status = fs::read_to_string("/proc/self/status").expect("our own");
        let size = status.lines().find_map(|line| line.strip_prefix(row)).expect("a row of every process");
        size.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    };
    // The peak begins anew.
    fs::write("/proc/self/clear_refs", "5").expect("since 4.0");
    let before = bytes("VmRSS:");
    body();
    bytes("VmHWM:").saturating_sub(before)
}

/// A mapping of its own, unmapped at the end.
#[derive(Debug)]
pub struct Mapping {
    start: *mut u8,
    len: usize,
}

/// How changes to a file mapping are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Written to the file.
    Shared,
    /// Copied on write.
    Private,
}

impl Mapping {
    /// Private anonymous memory in base pages, none of which is there yet.
    pub fn anonymous(pages: usize) -> io::Result<Self> {
        let mapping = Self::unadvised(pages)?;
        mapping.advise(Advice::LinuxNoHugepage)?;
        Ok(mapping)
    }

    /// As [`Self::anonymous`], but by mmap(2) alone, so that huge pages may be used where they are enabled for all memory.
    pub fn unadvised(pages: usize) -> io::Result<Self> {
        Self::map_anonymous(pages * page_bytes(), MapFlags::PRIVATE)
    }

    /// As [`Self::anonymous`], but the kernel populates it in the call (`MAP_POPULATE`).
    ///
    /// The flag comes before any advice, so it may use huge pages where they are enabled for all memory.
    pub fn populated(pages: usize) -> io::Result<Self> {
        Self::map_anonymous(pages * page_bytes(), MapFlags::PRIVATE | MapFlags::POPULATE)
    }

    /// Shared anonymous memory in base pages, none of which is there yet.
    pub fn shared(pages: usize) -> io::Result<Self> {
        let mapping = Self::map_anonymous(pages * page_bytes(), MapFlags::SHARED)?;
        mapping.advise(Advice::LinuxNoHugepage)?;
        Ok(mapping)
    }

    /// As [`Self::anonymous`], but more than the machine need have (`MAP_NORESERVE`).
    pub fn reserved(pages: usize) -> io::Result<Self> {
        let mapping = Self::map_anonymous(pages * page_bytes(), MapFlags::PRIVATE | MapFlags::NORESERVE)?;
        mapping.advise(Advice::LinuxNoHugepage)?;
        Ok(mapping)
    }

    /// Private anonymous memory of `count` huge pages of 2 MiB, aligned to them, where the kernel has such.
    pub fn huge(count: usize) -> io::Result<Self> {
        const HUGE: usize = 2 << 20;
        let mut reserve = Self::map_anonymous((count + 1) * HUGE, MapFlags::PRIVATE)?;
        let before = reserve.split(reserve.start.align_offset(HUGE));
        let mapping = reserve.split(count * HUGE);
        drop((before, reserve));
        mapping.advise(Advice::LinuxHugepage)?;
        Ok(mapping)
    }

    /// Private anonymous memory of `count` huge pages of 2 MiB from the pool for it, which are reserved but not there yet.
    pub fn hugetlb(count: usize) -> io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::HUGETLB | MapFlags::HUGE_2MB;
        Self::map_anonymous(count * (2 << 20), flags)
    }

    /// As [`Self::huge`], but the first pages of `file`, shared.
    pub fn huge_of_file(file: &File, count: usize) -> io::Result<Self> {
        let mapping = Self::huge(count)?;
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::FIXED);
        // SAFETY: replaces this mapping alone, to which nothing refers yet.
        unsafe { mmap(mapping.start.cast(), mapping.len, access, flags, file, 0)? };
        mapping.advise(Advice::LinuxHugepage)?;
        Ok(mapping)
    }

    /// Parts with the first `len` bytes, whole pages; the rest stays in `self`.
    fn split(&mut self, len: usize) -> Self {
        assert!(len <= self.len, "{len} of {}", self.len);
        let first = Self { start: self.start, len };
        self.start = self.start.wrapping_add(len);
        self.len -= len;
        first
    }

    /// The first `pages` pages of `file`.
    pub fn of_file(file: &File, pages: usize, sharing: Sharing) -> io::Result<Self> {
        let len = pages * page_bytes();
        let flags = match sharing {
            Sharing::Shared => MapFlags::SHARED,
            Sharing::Private => MapFlags::PRIVATE,
        };
        // SAFETY: the kernel chooses the place, so no other memory is touched.
        let start = unsafe { mmap(null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags, file, 0)? };
        Ok(Self { start: start.cast(), len })
    }

    fn map_anonymous(len: usize, flags: MapFlags) -> io::Result<Self> {
        // SAFETY: the kernel chooses the place, so no other memory is touched.
        let start = unsafe { mmap_anonymous(null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags)? };
        Ok(Self { start: start.cast(), len })
    }

    /// Its base pages.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.len / page_bytes()
    }

    /// Its first byte.
    #[must_use]
    pub const fn start(&self) -> *mut u8 {
        self.start
    }

    /// Its addresses, as an area of `tid` in which nothing happened yet.
    #[must_use]
    pub fn area(&self, tid: u32) -> Area {
        let start = self.start.addr() as u64;
        Area { tid, start, end: start + self.len as u64, ..Area::default() }
    }

    fn at(&self, page: usize) -> *mut u8 {
        assert!(page < self.pages(), "page {page} of {}", self.pages());
        self.start.wrapping_add(page * page_bytes())
    }

    /// Writes one byte of a page. A page that was made inaccessible raises SIGSEGV, as in any program.
    pub fn write(&self, page: usize) {
        // SAFETY: `at` is inside the mapping, which lives as long as `self` and holds no Rust object.
        unsafe { self.at(page).write_volatile(1) }
    }

    /// Reads one byte of a page.
    pub fn read(&self, page: usize) {
        // SAFETY: as in `write`; a mapping is initialised by the kernel.
        let _value = unsafe { self.at(page).read_volatile() };
    }

    /// Writes one byte of every page, in order.
    pub fn write_all(&self) {
        (0..self.pages()).for_each(|page| self.write(page));
    }

    /// Reads one byte of every page, in order.
    pub fn read_all(&self) {
        (0..self.pages()).for_each(|page| self.read(page));
    }

    /// Gives the kernel an advice about the whole mapping.
    pub fn advise(&self, advice: Advice) -> io::Result<()> {
        self.advise_part(0..self.pages(), advice)
    }

    /// Gives the kernel an advice about some of its pages.
    pub fn advise_part(&self, pages: Range<usize>, advice: Advice) -> io::Result<()> {
        let (start, len) = self.part(pages);
        // SAFETY: the memory is this mapping's, and nothing relies on its content.
        unsafe { madvise(start.cast(), len, advice) }.map_err(io::Error::from)
    }

    /// Makes guard pages of some of its pages, whose content is lost (`MADV_GUARD_INSTALL`, Linux 6.13).
    pub fn guard(&self, pages: Range<usize>) -> io::Result<()> {
        const INSTALL: c_int = 102;
        self.advise_raw(pages, INSTALL)
    }

    /// Takes guard pages away (`MADV_GUARD_REMOVE`, Linux 6.13).
    pub fn unguard(&self, pages: Range<usize>) -> io::Result<()> {
        const REMOVE: c_int = 103;
        self.advise_raw(pages, REMOVE)
    }

    /// Gives an advice that rustix does not know.
    fn advise_raw(&self, pages: Range<usize>, advice: c_int) -> io::Result<()> {
        let (start, len) = self.part(pages);
        // SAFETY: the memory is this mapping's, and nothing relies on its content.
        match unsafe { libc::madvise(start.cast(), len, advice) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Where some of its pages begin, and their length in bytes.
    fn part(&self, pages: Range<usize>) -> (*mut u8, usize) {
        assert!(pages.end <= self.pages(), "{pages:?} of {}", self.pages());
        (self.start.wrapping_add(pages.start * page_bytes()), pages.len() * page_bytes())
    }

    /// Lets the kernel swap out one page, or write it back and drop it; returns whether it did.
    ///
    /// It is tried for a while: something else may hold the page just then.
    pub fn page_out(&self, page: usize) -> io::Result<bool> {
        for _ in 0..200 {
            // SAFETY: a page of this mapping, and nothing relies on its being in memory.
            unsafe { madvise(self.at(page).cast(), page_bytes(), Advice::LinuxPageOut) }?;
            if self.states(page..page + 1)? == [false] {
                return Ok(true);
            }
            thread::sleep(Duration::from_millis(5));
            self.read(page);
        }
        Ok(false)
    }

    /// Which of its pages are in memory, as mincore(2) says: of files, whether or not they are mapped.
    pub fn resident(&self) -> io::Result<Vec<bool>> {
        self.states(0..self.pages())
    }

    fn states(&self, pages: Range<usize>) -> io::Result<Vec<bool>> {
        assert!(pages.end <= self.pages(), "{pages:?} of {}", self.pages());
        let start = self.start.wrapping_add(pages.start * page_bytes());
        let mut states = vec![0; pages.len()];
        // SAFETY: the mapping has as many pages from there on as there are bytes to write.
        match unsafe { libc::mincore(start.cast(), pages.len() * page_bytes(), states.as_mut_ptr()) } {
            0 => Ok(states.into_iter().map(|state| state & 1 == 1).collect()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Moves all of it to another address, between two pages that stay inaccessible.
    pub fn relocate(&mut self) -> io::Result<()> {
        let mut last = Self::reserved(self.pages() + 2)?;
        last.forbid()?;
        let (first, place) = (last.split(page_bytes()), last.split(self.len));
        let (from, to, flags) = (self.start.cast(), place.start.cast(), MremapFlags::MAYMOVE);
        // SAFETY: replaces a mapping to which nothing refers; where this one is only `start` says.
        unsafe { mremap_fixed(from, self.len, self.len, flags, to)? };
        self.start = place.start;
        mem::forget((first, place, last));
        Ok(())
    }

    /// Maps fresh memory in its place: what was there is gone, and nothing is there yet.
    pub fn renew(&self) -> io::Result<()> {
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::FIXED);
        // SAFETY: replaces this mapping, and nothing relies on its content.
        unsafe { mmap_anonymous(self.start.cast(), self.len, prot, flags) }?;
        self.advise(Advice::LinuxNoHugepage)
    }

    /// Lets the kernel populate and pin the whole mapping.
    pub fn lock(&self) -> io::Result<()> {
        // SAFETY: the memory is this mapping's.
        unsafe { mlock(self.start.cast(), self.len) }.map_err(io::Error::from)
    }

    /// Makes the whole mapping readable and writable again.
    pub fn permit(&self) -> io::Result<()> {
        let access = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: the memory is this mapping's.
        unsafe { mprotect(self.start.cast(), self.len, access) }.map_err(io::Error::from)
    }

    /// Makes the whole mapping inaccessible.
    pub fn forbid(&self) -> io::Result<()> {
        // SAFETY: the memory is this mapping's; accesses through it may fail by contract.
        unsafe { mprotect(self.start.cast(), self.len, MprotectFlags::empty()) }.map_err(io::Error::from)
    }

    /// Names an anonymous mapping in `/proc/PID/maps`, where the kernel can (Linux 5.17, `CONFIG_ANON_VMA_NAME`).
    pub fn name(&self, name: &CStr) {
        // SAFETY: initialised by the kernel, and alive while the slice is.
        let region = unsafe { slice::from_raw_parts(self.start, self.len) };
        // A name is decoration: kernels without the option refuse it.
        let _unnamed = rustix::process::set_virtual_memory_region_name(region, Some(name));
    }

    /// Lets the kernel fill the whole mapping from `file` by read(2); returns the bytes of it that `file` had.
    pub fn fill_from(&self, file: &File) -> io::Result<usize> {
        let mut filled = 0;
        while filled < self.len {
            match self.read_into(file, filled, self.len - filled)? {
                0 => break,
                read => filled += read,
            }
        }
        Ok(filled)
    }

    /// Asks for a read(2) of `file` into the first byte of a page: of more, some kernels try the rest again.
    pub fn fill_byte_from(&self, page: usize, file: &File) -> io::Result<usize> {
        self.read_into(file, page * page_bytes(), 1)
    }

    fn read_into(&self, file: &File, offset: usize, len: usize) -> io::Result<usize> {
        assert!(offset + len <= self.len, "{offset}+{len} of {}", self.len);
        let to = self.start.wrapping_add(offset).cast();
        // SAFETY: the bytes belong to this mapping; if they are inaccessible the kernel says EFAULT.
        let read = unsafe { libc::read(file.as_raw_fd(), to, len) };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: the memory is this mapping's, and nothing else refers to it.
            let _unmapped = unsafe { munmap(self.start.cast(), self.len) };
        }
    }
}

/// Where the handler writes next before it opens a page; null for nowhere.
static DETOUR: AtomicPtr<u8> = AtomicPtr::new(null_mut());

/// From now on SIGSEGV opens the page that it was raised for, and the access is tried again.
///
/// With a `detour` the handler first writes to the next page of it, so that the thread's next fault is elsewhere;
/// it must have a page for every such access.
pub fn open_forbidden_pages(detour: Option<&Mapping>) -> io::Result<()> {
    DETOUR.store(detour.map_or(null_mut(), |mapping| mapping.start), Ordering::Relaxed);
    // SAFETY: all-zero is a valid `sigaction`: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = open_page as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the handler calls nothing but mprotect(2) and abort(3), which are async-signal-safe.
    match unsafe { libc::sigaction(libc::SIGSEGV, &raw const action, null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn open_page(_signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    let detour = DETOUR.load(Ordering::Relaxed);
    if !detour.is_null() {
        DETOUR.store(detour.wrapping_add(page_bytes()), Ordering::Relaxed);
        // SAFETY: a page of the caller's mapping, by the contract of `open_forbidden_pages`.
        unsafe { detour.write_volatile(1) };
    }
    // SAFETY: the kernel fills `si_addr` for SIGSEGV.
    let addr = unsafe { (*info).si_addr() };
    let page = addr.map_addr(|addr| addr & !(page_bytes() - 1));
    // SAFETY: makes a page accessible that a `Mapping` forbade; at any other address the call or the retry fails.
    if unsafe { libc::mprotect(page, page_bytes(), libc::PROT_READ | libc::PROT_WRITE) } != 0 {
        // SAFETY: no preconditions.
        unsafe { libc::abort() }
    }
}
