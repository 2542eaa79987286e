//! Finds out how this kernel's words about pages are to be read.
//!
//! Layer: shell. Input: the running kernel. Output: [`PageEra`].
//! Source: `Documentation/admin-guide/mm/pagemap.rst`, `ioctl_userfaultfd(2)`, `include/linux/swap.h`, `/proc/kallsyms`.
//! Keeps: what can be tried is; the meaning of flags and the numbers of types go by the release of the kernel.
//! Not here: what the eras are (`pagemap`).

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    os::fd::AsFd as _,
    time::Duration,
};

use rustix::system::uname;

use super::{
    attempt::{OWN_PAGEMAP, own_page_word, word_at},
    own_page_size,
};
use crate::{
    pagemap::{EntryFlags, FlagsEra, PageCategories, PageEra, PagemapEntry, PagemapEra, Release, SwapLayout},
    sys::{
        guard,
        scan::{Query, Scanner},
        uffd,
    },
    units::{VirtAddr, VirtRange},
};

/// How this kernel's words are to be read.
///
/// Takes some tens of milliseconds, most of them for [`swap_layout`].
#[must_use]
pub fn page_era() -> PageEra {
    PageEra { swap: swap_layout(), ..page_era_but_for_swap() }
}

/// As [`page_era`], in less than a millisecond: the types of swap entries are not known.
#[must_use]
pub fn page_era_but_for_swap() -> PageEra {
    let release = release();
    PageEra {
        pagemap: pagemap(release, userfaultfd_offers()),
        flags: FlagsEra::of_release(release),
        swap: None,
        scan: scan_categories(),
    }
}

/// Which types of swap entries this kernel has; `None` if it does not say.
///
/// Takes some tens of milliseconds: the symbols of a kernel are a long text.
#[must_use]
pub fn swap_layout() -> Option<SwapLayout> {
    Symbols::read().ok()?.swap_layout(release(), userfaultfd_offers())
}

fn release() -> Release {
    Release::parse(&uname().release().to_string_lossy())
}

/// The features of userfaultfd; `None` if they are not known: a filter of system calls may hide it from this process, and
/// still others use it.
fn userfaultfd_offers() -> Option<u64> {
    match uffd::features() {
        Ok(offers) => Some(offers),
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Some(0),
        Err(_) => None,
    }
}

/// The layout of pagemap words of a kernel of `release` whose userfaultfd `offers` these features; `None` if that is not known.
///
/// Bits 57 and 58 mean something only where userfaultfd and guard regions are: so they are what is tried.
fn pagemap(release: Release, offers: Option<u64>) -> Option<PagemapEra> {
    let word = PagemapEntry::from_raw(own_page_word().ok()?);
    let era = PagemapEra::of_written_page(word, own_page_size().bytes().trailing_zeros())?;
    if era < PagemapEra::V4_2 {
        return Some(era);
    }
    let guard = guard::with_guard_page(word_at).ok().and_then(Result::ok).unwrap_or_default();
    let shows_guard = EntryFlags::from_bits_retain(guard).contains(EntryFlags::GUARD);
    Some(if shows_guard {
        PagemapEra::V6_15
    } else if offers.map_or(release >= Release::new(5, 14), |offers| offers & uffd::MINOR_SHMEM != 0) {
        PagemapEra::V5_14
    } else {
        era
    })
}

/// The categories that `PAGEMAP_SCAN` takes: it refuses those that it does not know.
fn scan_categories() -> PageCategories {
    let page = own_page_size();
    let range = VirtRange::new(VirtAddr::from_raw(0), VirtAddr::from_raw(page.bytes())).expect("not empty");
    let Ok(pagemap) = File::open(OWN_PAGEMAP) else {
        return PageCategories::empty();
    };
    let mut scanner = Scanner::new(page, Duration::MAX);
    let mut takes = |category| {
        let query = Query { any_of: category, wanted: category, ..Query::default() };
        scanner.step(pagemap.as_fd(), range, query).is_ok()
    };
    PageCategories::all().iter().filter(|category| takes(*category)).collect()
}

/// Functions that tell of types of swap entries.
const FUNCTIONS: [&str; 5] = [
    // CONFIG_MEMORY_FAILURE.
    "memory_failure",
    // CONFIG_MIGRATION.
    "migrate_pages",
    // CONFIG_DEVICE_PRIVATE until Linux 5.18.
    "migrate_vma_setup",
    // CONFIG_DEVICE_PRIVATE, Linux 5.14 to 6.14: four types for devices.
    "make_device_exclusive_range",
    // The same since Linux 6.15: three types.
    "make_device_exclusive",
];

/// Those of [`FUNCTIONS`] that the kernel has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Symbols(Vec<&'static str>);

impl Symbols {
    fn read() -> io::Result<Self> {
        Self::parse(BufReader::new(File::open("/proc/kallsyms")?))
    }

    /// Finds the functions in lines of address, type, name, and module if there is one.
    fn parse(mut lines: impl BufRead) -> io::Result<Self> {
        let mut found = Vec::new();
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            let name = line.splitn(3, |byte| *byte == b' ').nth(2).unwrap_or_default().trim_ascii_end();
            found.extend(FUNCTIONS.into_iter().find(|function| function.as_bytes() == name));
            line.clear();
        }
        Ok(Self(found))
    }

    fn has(&self, function: &str) -> bool {
        self.0.contains(&function)
    }

    /// Types of swap entries of a kernel of `release` with these functions, whose userfaultfd `offers` these features.
    ///
    /// `None` without any of the functions: such a kernel hides its symbols; and if it is not known which features there are, and
    /// they matter.
    fn swap_layout(&self, release: Release, offers: Option<u64>) -> Option<SwapLayout> {
        if self.0.is_empty() {
            return None;
        }
        let is_since = |major, minor| release >= Release::new(major, minor);
        let migration = match (self.has("migrate_pages"), is_since(5, 19)) {
            (false, _) => 0,
            (true, false) => 2,
            (true, true) => 3,
        };
        let device = if self.has("make_device_exclusive") {
            3
        } else if self.has("make_device_exclusive_range") {
            4
        } else if self.has("migrate_vma_setup") && !is_since(5, 14) {
            2
        } else {
            0
        };
        // Until Linux 6.2 markers could be left out, and what could not be read back from swap had a type of its own.
        let marker = match (is_since(5, 19), is_since(6, 2)) {
            (false, _) => 0,
            (true, false) => 1 + u8::from(offers? & uffd::WP_HUGETLBFS_SHMEM != 0),
            (true, true) => 1,
        };
        SwapLayout::new(self.has("memory_failure").into(), migration, device, marker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layout of a kernel of `release` with these functions.
    fn layout(release: &str, names: &[&str]) -> Option<SwapLayout> {
        let lines: Vec<_> = names.iter().map(|name| format!("0000000000000000 T {name}\n")).collect();
        let symbols = Symbols::parse(lines.concat().as_bytes()).expect("memory can be read");
        symbols.swap_layout(Release::parse(release), Some(uffd::WP_HUGETLBFS_SHMEM))
    }

    #[test]
    fn types_are_those_of_known_kernels() {
        let debian = ["memory_failure", "migrate_pages", "migrate_vma_setup"];
        let with = |name| [debian[0], debian[1], debian[2], name];
        let exclusive = "make_device_exclusive_range";

        assert_eq!(layout("5.10.0", &debian), SwapLayout::new(1, 2, 2, 0));
        assert_eq!(layout("5.15.0", &with(exclusive)), SwapLayout::new(1, 2, 4, 0));
        assert_eq!(layout("6.1.0", &with(exclusive)), SwapLayout::new(1, 3, 4, 2));
        assert_eq!(layout("6.12.0", &with(exclusive)), SwapLayout::new(1, 3, 4, 1));
        assert_eq!(layout("6.12.0", &debian), SwapLayout::new(1, 3, 0, 1), "without memory of devices");
        assert_eq!(layout("7.2.0", &with("make_device_exclusive")), SwapLayout::new(1, 3, 3, 1));
        assert_eq!(layout("6.18.0", &["migrate_pages"]), SwapLayout::new(0, 3, 0, 1));
    }

    #[test]
    fn layout_is_unknown_where_hidden_features_decide() {
        let symbols = Symbols(vec!["migrate_pages"]);
        let layout = |release| symbols.swap_layout(Release::parse(release), None);

        assert_eq!(layout("5.10.0"), SwapLayout::new(0, 2, 0, 0));
        assert_eq!(layout("6.1.0"), None);
        assert_eq!(layout("6.12.0"), SwapLayout::new(0, 3, 0, 1));
    }

    #[test]
    fn symbols_of_modules_and_like_names_do_not_count() {
        let others = ["migrate_pages\t[module]", "migrate_pages.cold", "memory_failure_queue"];

        assert_eq!(layout("6.18.0", &others), None);
    }
}
