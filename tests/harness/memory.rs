//! Memory with known behaviour: mappings whose pages are touched one by one.
//!
//! Input: sizes in base pages. Output: the faults that the kernel must take for each touch.
//! Source: mmap(2), madvise(2), mlock(2), mprotect(2), sigaction(2).
//! Keeps: base pages alone unless huge ones are asked for; a touch is one access and allocates nothing.
//! Not here: who touches what, and what it is called (`workloads`).
#![expect(unsafe_code, reason = "touching raw mappings is what this module makes safe")]

use std::{
    ffi::{CStr, c_int, c_void},
    fs::File,
    io,
    os::fd::AsRawFd as _,
    ptr::null_mut,
    slice,
    sync::atomic::{AtomicPtr, Ordering},
};

use rustix::mm::{
    Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mlock, mmap, mmap_anonymous, mprotect, munmap,
};

use crate::ledger::Area;

/// Size of a base page in bytes.
#[must_use]
pub fn page_bytes() -> usize {
    rustix::param::page_size()
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
        // SAFETY: the memory is this mapping's, and nothing relies on its content.
        unsafe { madvise(self.start.cast(), self.len, advice) }.map_err(io::Error::from)
    }

    /// Lets the kernel populate and pin the whole mapping.
    pub fn lock(&self) -> io::Result<()> {
        // SAFETY: the memory is this mapping's.
        unsafe { mlock(self.start.cast(), self.len) }.map_err(io::Error::from)
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
