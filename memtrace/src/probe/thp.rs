//! Reads how transparent huge pages are used: what is chosen, and what came of it, for each size.
//!
//! Layer: shell. Input: a [`Root`]. Output: [`Thp`].
//! Source: `Documentation/admin-guide/mm/transhuge.rst`; `mm/huge_memory.c` (`mthp_stats`).
//! Keeps: the kernel's own words and names; what it lacks is `None`.
//! Not here: settings of khugepaged; which pages are huge (`probe::walk`).

use std::collections::BTreeMap;

use super::{
    files::{self, FileError, Root},
    hugetlb::size_in_bytes,
};
use crate::{event::LargeFolios, units::PageSize};

/// Statistics that tell how many there are, and not how often something happened.
const GAUGES: [&str; 2] = ["nr_anon", "nr_anon_partially_mapped"];

/// Settings of the whole system, and each size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thp {
    /// For which memory: the chosen one of `always`, `madvise` and `never`.
    pub enabled: Option<String>,
    /// When a fault may wait for a huge page: one of `always`, `defer`, `defer+madvise`, `madvise` and `never`.
    pub defrag: Option<String>,
    /// For which shared memory: one of `always`, `within_size`, `advise`, `never`, `deny` and `force`.
    pub shmem_enabled: Option<String>,
    /// Whether reading untouched memory maps the huge zero page.
    pub zero_page: Option<bool>,
    /// Whether huge pages that are mostly zeros are split when memory is short (Linux 6.12).
    pub shrink_underused: Option<bool>,
    /// Size of a page that an entry of the next higher page table maps (PMD).
    pub pmd_size: Option<PageSize>,
    /// Each size, smallest first; none before Linux 6.8.
    pub sizes: Vec<ThpSize>,
}

/// Settings and statistics of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThpSize {
    /// Size of the huge page.
    pub size: PageSize,
    /// For which memory: `inherit` for what is chosen for the system, or one of its words. `None` for sizes that
    /// anonymous memory cannot have.
    pub enabled: Option<String>,
    /// The same for shared memory (Linux 6.11).
    pub shmem_enabled: Option<String>,
    /// What became of attempts to use the size (Linux 6.10).
    pub stats: Option<ThpStats>,
}

/// Statistics of one size since boot, by the kernel's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThpStats {
    /// How often something happened, such as `anon_fault_alloc`.
    pub counters: BTreeMap<String, u64>,
    /// How many huge pages of this size there are now, such as `nr_anon`.
    pub gauges: BTreeMap<String, u64>,
}

impl Thp {
    /// Reads all of it; `None` where the kernel has no transparent huge pages.
    pub fn read(root: &Root) -> Result<Option<Self>, FileError> {
        let dir = root.path("/sys/kernel/mm/transparent_hugepage");
        if files::names(&dir)?.is_none() {
            return Ok(None);
        }
        let sizes = files::entries(&dir, size_in_bytes)?;
        let sizes = sizes.into_iter().filter_map(|(bytes, dir)| Some((PageSize::from_bytes(bytes)?, dir)));
        let sizes = sizes.map(|(size, dir)| {
            let has_stats = files::names(&dir.join("stats"))?.is_some();
            Ok(ThpSize {
                size,
                enabled: files::choice(&dir.join("enabled"))?,
                shmem_enabled: files::choice(&dir.join("shmem_enabled"))?,
                stats: has_stats.then(|| ThpStats::read(&dir.join("stats"))).transpose()?,
            })
        });
        Ok(Some(Self {
            enabled: files::choice(&dir.join("enabled"))?,
            defrag: files::choice(&dir.join("defrag"))?,
            shmem_enabled: files::choice(&dir.join("shmem_enabled"))?,
            zero_page: files::switch(&dir.join("use_zero_page"))?,
            shrink_underused: files::switch(&dir.join("shrink_underused"))?,
            pmd_size: files::parsed(&dir.join("hpage_pmd_size"), |text| {
                PageSize::from_bytes(text.parse().ok()?)
            })?,
            sizes: sizes.collect::<Result<_, FileError>>()?,
        }))
    }
}

impl Thp {
    /// For which memory without a file some size may be used.
    #[must_use]
    pub fn largest_use(&self) -> LargeFolios {
        let of_size = |size: &ThpSize| match size.enabled.as_deref() {
            Some("inherit") => self.enabled.clone(),
            _ => size.enabled.clone(),
        };
        // Before Linux 6.8 there is one size, and one choice.
        let mut chosen: Vec<_> = self.sizes.iter().filter_map(of_size).collect();
        if chosen.is_empty() {
            chosen.extend(self.enabled.clone());
        }
        let has = |word: &str| chosen.iter().any(|choice| choice == word);
        match () {
            () if has("always") => LargeFolios::Always,
            () if has("madvise") => LargeFolios::Advised,
            () => LargeFolios::Never,
        }
    }
}

impl ThpStats {
    fn read(dir: &std::path::Path) -> Result<Self, FileError> {
        let mut stats = Self::default();
        for (name, path) in files::entries(dir, |name| Some(name.to_owned()))? {
            let is_gauge = GAUGES.contains(&name.as_str());
            let values = if is_gauge { &mut stats.gauges } else { &mut stats.counters };
            values.insert(name, files::needed(&path)?);
        }
        Ok(stats)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::files::tests::tree, *};

    fn size(bytes: u64) -> Option<PageSize> {
        PageSize::from_bytes(bytes)
    }

    #[test]
    fn each_size_has_its_words_and_statistics() {
        let (_dir, root) = tree([
            ("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
            ("/sys/kernel/mm/transparent_hugepage/defrag", "always defer [defer+madvise] madvise never\n"),
            ("/sys/kernel/mm/transparent_hugepage/use_zero_page", "1\n"),
            ("/sys/kernel/mm/transparent_hugepage/shrink_underused", "0\n"),
            ("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", "2097152\n"),
            ("/sys/kernel/mm/transparent_hugepage/khugepaged/defrag", "1\n"),
            (
                "/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/enabled",
                "always [inherit] madvise never\n",
            ),
            ("/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/stats/anon_fault_alloc", "17\n"),
            ("/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/stats/nr_anon", "3\n"),
            ("/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/stats/nr_anon_partially_mapped", "1\n"),
            (
                "/sys/kernel/mm/transparent_hugepage/hugepages-8kB/shmem_enabled",
                "always inherit within_size advise [never]\n",
            ),
        ]);

        let thp = Thp::read(&root).expect("a tree").expect("there are huge pages");

        assert_eq!(thp.enabled.as_deref(), Some("madvise"));
        assert_eq!(thp.defrag.as_deref(), Some("defer+madvise"));
        assert_eq!((thp.shmem_enabled, thp.zero_page, thp.shrink_underused), (None, Some(true), Some(false)));
        assert_eq!(thp.pmd_size, size(2 << 20));
        let stats = ThpStats {
            counters: [("anon_fault_alloc".to_owned(), 17)].into(),
            gauges: [("nr_anon".to_owned(), 3), ("nr_anon_partially_mapped".to_owned(), 1)].into(),
        };
        let small = ThpSize {
            size: size(8 << 10).expect("a power of two"),
            enabled: None,
            shmem_enabled: Some("never".to_owned()),
            stats: None,
        };
        let large = ThpSize {
            size: size(2 << 20).expect("a power of two"),
            enabled: Some("inherit".to_owned()),
            shmem_enabled: None,
            stats: Some(stats),
        };
        assert_eq!(thp.sizes, [small, large]);
    }

    #[test]
    fn kernel_before_6_8_has_no_sizes() {
        let (_dir, root) =
            tree([("/sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n")]);

        let thp = Thp::read(&root).expect("a tree").expect("there are huge pages");

        assert_eq!((thp.enabled.as_deref(), thp.sizes), (Some("always"), Vec::new()));
        assert_eq!((thp.zero_page, thp.pmd_size), (None, None));
    }

    #[test]
    fn kernel_without_huge_pages_is_none() {
        let (_dir, root) = tree([]);

        assert_eq!(Thp::read(&root).expect("no error"), None);
    }
}
