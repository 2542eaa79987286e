//! Asks the kernel for the state of page ranges: the ioctl `PAGEMAP_SCAN`.
//!
//! Layer: shell. Input: an open `/proc/PID/pagemap`, a range, what to look for. Output: [`StateRun`]s.
//! Source: `include/uapi/linux/fs.h`, `Documentation/admin-guide/mm/pagemap.rst` (Linux 6.7).
//! Keeps: the whole range is scanned, in as many calls as it takes; nothing is written to the target.
//! Not here: kernels without it (`probe` reads pagemap words).

use std::{
    ffi::c_void,
    io,
    os::fd::BorrowedFd,
    ptr,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode},
};

use crate::{
    pagemap::{PageCategories, StateRun},
    units::{PageSize, VirtAddr, VirtRange},
};

/// Runs per call; the kernel's own bounce buffer holds as many.
const REGIONS: usize = 512;

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg`: in, except for `walk_end`.
#[repr(C)]
#[derive(Debug, Default)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

const _: () = assert!(size_of::<PageRegion>() == 24);
const _: () = assert!(size_of::<ScanArg>() == 96);

/// One call; the buffer that `arg.vec` points to is borrowed for as long.
struct Call<'a> {
    arg: &'a mut ScanArg,
    _regions: &'a mut [PageRegion],
}

impl<'a> Call<'a> {
    fn new(arg: &'a mut ScanArg, regions: &'a mut [PageRegion]) -> Self {
        arg.vec = regions.as_mut_ptr().expose_provenance() as u64;
        arg.vec_len = regions.len() as u64;
        Self { arg, _regions: regions }
    }
}

// SAFETY: the opcode is that of PAGEMAP_SCAN, whose argument is a `pm_scan_arg`; the kernel writes to its
// `walk_end` and to `vec_len` regions at `vec`, both of which `Call` borrows mutably.
unsafe impl Ioctl for Call<'_> {
    type Output = usize;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::read_write::<ScanArg>(b'f', 16)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        ptr::from_mut(self.arg).cast()
    }

    // SAFETY: upholds nothing: the pointer is not used.
    unsafe fn output_from_ptr(found: IoctlOutput, _: *mut c_void) -> rustix::io::Result<usize> {
        usize::try_from(found).map_err(|_| Errno::INVAL)
    }
}

/// Which pages a scan reports, and what it says of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Query {
    /// Categories that are meant to be absent where the masks below name them.
    pub inverted: PageCategories,
    /// Pages for which all of these hold are reported.
    pub all_of: PageCategories,
    /// And at least one of these, if there are any.
    pub any_of: PageCategories,
    /// What is told of them; neighbours that agree in these are one run.
    pub wanted: PageCategories,
}

/// Why a scan failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// The address space is gone. Expected; the session goes on.
    #[error("the process exited while being scanned")]
    Gone,
    /// The kernel has no such ioctl.
    #[error("this kernel has no PAGEMAP_SCAN (added in Linux 6.7)")]
    Missing,
    /// Anything else the kernel said.
    #[error("PAGEMAP_SCAN failed")]
    Io(#[source] io::Error),
}

impl From<Errno> for ScanError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::SRCH => Self::Gone,
            Errno::NOTTY => Self::Missing,
            error => Self::Io(error.into()),
        }
    }
}

/// Time under the lock of the memory map that a call is reckoned to take for each page it finds, in nanoseconds.
const PAGE_NS: u128 = 16;

/// Scans page tables; keeps its buffer from one scan to the next.
///
/// The kernel holds the lock of the memory map, shared, for a whole call: so a call is given no more than it should walk in
/// `max_lock`.
#[derive(Debug)]
pub struct Scanner {
    page: PageSize,
    regions: Vec<PageRegion>,
    max_lock: Duration,
    /// Bytes of address space that the next call is given.
    reach: u64,
}

impl Scanner {
    /// Bytes of address space that a call is always given.
    const MIN_REACH: u64 = 64 << 20;

    /// A scanner for processes with base pages of size `page`, which holds their memory map up to about `max_lock` at a time.
    #[must_use]
    pub fn new(page: PageSize, max_lock: Duration) -> Self {
        let regions = vec![PageRegion { start: 0, end: 0, categories: 0 }; REGIONS];
        Self { page, regions, max_lock, reach: Self::MIN_REACH }
    }

    /// Scans the beginning of `range`, which begins at a page: the runs that `query` asks for, in address order, and what is
    /// left to scan.
    ///
    /// The last run of a step and the first of the next may touch and agree: the kernel merges within a call only.
    pub fn step(
        &mut self,
        pagemap: BorrowedFd<'_>,
        range: VirtRange,
        query: Query,
    ) -> Result<(impl Iterator<Item = StateRun> + '_, Option<VirtRange>), ScanError> {
        let max_pages = u64::try_from(self.max_lock.as_nanos() / PAGE_NS).unwrap_or(u64::MAX);
        let (found, rest) = self.scan(pagemap, range, query, max_pages)?;
        let runs = self.regions[..found].iter().filter_map(|region| {
            let PageRegion { start, end, categories } = *region;
            let range = VirtRange::new(VirtAddr::from_raw(start), VirtAddr::from_raw(end))?;
            Some(StateRun::new(range, PageCategories::from_bits_retain(categories)))
        });
        Ok((runs, rest))
    }

    /// Scans the beginning of `range`, which begins at a page, for the first page that `query` asks for: its address, or else what
    /// is left to scan.
    pub fn find(
        &mut self,
        pagemap: BorrowedFd<'_>,
        range: VirtRange,
        query: Query,
    ) -> Result<(Option<VirtAddr>, Option<VirtRange>), ScanError> {
        let (found, rest) = self.scan(pagemap, range, query, 1)?;
        let first = self.regions[..found].first().map(|region| VirtAddr::from_raw(region.start));
        Ok((first, rest))
    }

    /// Scans the beginning of `range` until `max_pages` were found: how many runs are in `regions`, and what is left.
    fn scan(
        &mut self,
        pagemap: BorrowedFd<'_>,
        range: VirtRange,
        query: Query,
        max_pages: u64,
    ) -> Result<(usize, Option<VirtRange>), ScanError> {
        let start = range.start().as_raw();
        let mut end = range.end().as_raw();
        let (found, walked) = loop {
            let stop = end.min(start.saturating_add(self.reach));
            match self.call(pagemap, start, stop, query, max_pages) {
                Ok(found) => break found,
                Err(Errno::INTR) => {}
                // Beyond the end of user space, which on x86-64 is one page short of a power of two.
                Err(Errno::FAULT)
                    if end == range.end().as_raw() && stop == end && end - start > self.page.bytes() =>
                {
                    end -= self.page.bytes();
                }
                Err(Errno::FAULT) => break (0, end),
                Err(error) => return Err(error.into()),
            }
        };
        let rest = if walked <= start {
            None
        } else {
            VirtRange::new(VirtAddr::from_raw(walked), VirtAddr::from_raw(end))
        };
        Ok((found, rest))
    }

    /// One call: how many runs it found, and where it stopped.
    fn call(
        &mut self,
        pagemap: BorrowedFd<'_>,
        start: u64,
        end: u64,
        query: Query,
        max_pages: u64,
    ) -> Result<(usize, u64), Errno> {
        let mut arg = ScanArg {
            size: size_of::<ScanArg>() as u64,
            start,
            end,
            max_pages: max_pages.max(1),
            category_inverted: query.inverted.bits(),
            category_mask: query.all_of.bits(),
            category_anyof_mask: query.any_of.bits(),
            return_mask: query.wanted.bits(),
            ..ScanArg::default()
        };
        let call = Call::new(&mut arg, &mut self.regions);
        let began = Instant::now();
        // SAFETY: `Call` describes the ioctl; another file's ioctl of this number and size cannot be met,
        // since the caller opened a pagemap, and would find memory that is borrowed for writing.
        let found = unsafe { ioctl(pagemap, call) }?;
        // What pages cost is bounded by their number. Page tables without any are not, so one feels the way.
        if began.elapsed() > self.max_lock / 2 {
            self.reach = (self.reach / 4).max(Self::MIN_REACH);
        } else if found == 0 {
            self.reach = self.reach.saturating_mul(4);
        }
        Ok((found.min(REGIONS), arg.walk_end))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd};

    use super::*;

    const PAGE: u64 = 4096;
    const QUERY: Query = Query {
        inverted: PageCategories::empty(),
        all_of: PageCategories::empty(),
        any_of: PageCategories::PRESENT.union(PageCategories::SWAPPED),
        wanted: PageCategories::PRESENT,
    };

    fn page() -> PageSize {
        PageSize::from_bytes(PAGE).expect("a power of two")
    }

    fn scan(file: &File, start: u64, end: u64) -> Result<Vec<StateRun>, ScanError> {
        let range = VirtRange::new(VirtAddr::from_raw(start), VirtAddr::from_raw(end));
        let mut scanner = Scanner::new(page(), Duration::from_millis(2));
        let (mut runs, mut rest) = (Vec::new(), range);
        while let Some(range) = rest {
            let (found, left) = scanner.step(file.as_fd(), range, QUERY)?;
            runs.extend(found);
            rest = left;
        }
        Ok(runs)
    }

    #[test]
    fn ioctl_number_is_that_of_the_kernel_header() {
        let mut arg = ScanArg::default();

        assert_eq!(Call::new(&mut arg, &mut []).opcode(), 0xc060_6610);
    }

    #[test]
    fn file_without_the_ioctl_is_missing() {
        let null = File::open("/dev/null").expect("there is always /dev/null");

        assert!(matches!(scan(&null, PAGE, 2 * PAGE), Err(ScanError::Missing)));
    }

    #[test]
    fn addresses_of_the_kernel_have_no_pages() {
        let pagemap = File::open("/proc/self/pagemap").expect("own pagemap can be opened");

        match scan(&pagemap, 0xffff_8000_0000_0000, 0xffff_8000_0020_0000) {
            Ok(runs) => assert!(runs.is_empty()),
            Err(ScanError::Missing) => eprintln!("skipped: needs Linux 6.7 (PAGEMAP_SCAN)"),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn slot_across_the_end_of_user_space_shows_the_stack_below_it() {
        let pagemap = File::open("/proc/self/pagemap").expect("own pagemap can be opened");
        let here = 0_u64;
        let start = (ptr::from_ref(&here).addr() as u64) & !(PAGE - 1);

        match scan(&pagemap, start, 0x8000_0000_0000) {
            Ok(runs) => assert_eq!(runs.first().map(|run| run.range.start().as_raw()), Some(start)),
            Err(ScanError::Missing) => eprintln!("skipped: needs Linux 6.7 (PAGEMAP_SCAN)"),
            Err(error) => panic!("{error}"),
        }
    }
}
