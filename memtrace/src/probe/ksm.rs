//! Reads how far pages of the same content were merged, in the whole system and in a process.
//!
//! Layer: shell. Input: a [`Root`]; a process. Output: [`Ksm`], [`KsmProcess`].
//! Source: `Documentation/admin-guide/mm/ksm.rst`; `mm/ksm.c`; `fs/proc/base.c` (`proc_pid_ksm_stat`).
//! Keeps: what the kernel lacks is `None`; profits may be losses.
//! Not here: which pages are merged (`PageFlags::KSM` of `probe::walk`).

use super::files::{self, FileError, Root};
use crate::{
    event::Tgid,
    units::{Nanos, PageCount},
};

/// What the thread that merges does, and what it has done since boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ksm {
    /// What it is told to do.
    pub run: KsmRun,
    /// Pages that it scans before it sleeps.
    pub pages_to_scan: PageCount,
    /// How long it sleeps.
    pub sleep: Nanos,
    /// Most mappings of a merged page.
    pub max_page_sharing: Option<u64>,
    /// Whether empty pages are merged with the zero page.
    pub use_zero_pages: Option<bool>,
    /// Whether pages of different NUMA nodes are merged; `None` on kernels without NUMA.
    pub merge_across_nodes: Option<bool>,
    /// Whether pages that could not be merged are scanned less often (Linux 6.7).
    pub smart_scan: Option<bool>,
    /// Merged pages that there are.
    pub pages_shared: PageCount,
    /// Mappings of them beyond the first of each: pages that were saved.
    pub pages_sharing: PageCount,
    /// Pages without an equal.
    pub pages_unshared: PageCount,
    /// Pages that change too fast.
    pub pages_volatile: PageCount,
    /// Pages that were scanned (Linux 6.6).
    pub pages_scanned: Option<PageCount>,
    /// Pages that were passed over by `smart_scan` (Linux 6.7).
    pub pages_skipped: Option<PageCount>,
    /// Pages that were merged with the zero page (Linux 6.6).
    pub zero_pages: Option<PageCount>,
    /// How often all mergeable memory was scanned.
    pub full_scans: u64,
    /// Merged pages that there are more than once, since each has too many mappings.
    pub stable_node_chains: Option<u64>,
    /// Such copies.
    pub stable_node_dups: Option<u64>,
    /// Bytes saved, less those that the kernel's own notes take (Linux 6.4).
    pub general_profit: Option<i64>,
}

/// What the thread that merges is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KsmRun {
    /// Nothing; what is merged stays so.
    Stopped,
    /// To merge.
    Merging,
    /// To undo it all.
    Unmerging,
}

/// What was merged of a process. Kernels tell more from release to release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KsmProcess {
    /// Pages of which the kernel keeps notes.
    pub rmap_items: Option<PageCount>,
    /// Pages that are merged.
    pub merging_pages: Option<PageCount>,
    /// Pages that were merged with the zero page.
    pub zero_pages: Option<PageCount>,
    /// Bytes saved, less those that the kernel's own notes take.
    pub profit: Option<i64>,
    /// Whether all memory that can be is mergeable (`PR_SET_MEMORY_MERGE`).
    pub merge_any: Option<bool>,
    /// Whether some memory is mergeable.
    pub mergeable: Option<bool>,
}

impl Ksm {
    /// Reads the state of the whole system; `None` where the kernel cannot merge.
    pub fn read(root: &Root) -> Result<Option<Self>, FileError> {
        let dir = root.path("/sys/kernel/mm/ksm");
        let path = |name: &str| dir.join(name);
        let pages = |name: &str| files::number(&path(name)).map(|pages| pages.map(PageCount::new));
        let needed = |name: &str| files::needed(&path(name)).map(PageCount::new);
        let run = |text: &str| match text {
            "0" => Some(KsmRun::Stopped),
            "1" => Some(KsmRun::Merging),
            "2" => Some(KsmRun::Unmerging),
            _ => None,
        };
        let Some(run) = files::parsed(&path("run"), run)? else {
            return Ok(None);
        };
        let sleep_ms: u64 = files::needed(&path("sleep_millisecs"))?;
        Ok(Some(Self {
            run,
            pages_to_scan: needed("pages_to_scan")?,
            sleep: Nanos::new(sleep_ms.saturating_mul(1_000_000)),
            max_page_sharing: files::number(&path("max_page_sharing"))?,
            use_zero_pages: files::switch(&path("use_zero_pages"))?,
            merge_across_nodes: files::switch(&path("merge_across_nodes"))?,
            smart_scan: files::switch(&path("smart_scan"))?,
            pages_shared: needed("pages_shared")?,
            pages_sharing: needed("pages_sharing")?,
            pages_unshared: needed("pages_unshared")?,
            pages_volatile: needed("pages_volatile")?,
            pages_scanned: pages("pages_scanned")?,
            pages_skipped: pages("pages_skipped")?,
            zero_pages: pages("ksm_zero_pages")?,
            full_scans: files::needed(&path("full_scans"))?,
            stable_node_chains: files::number(&path("stable_node_chains"))?,
            stable_node_dups: files::number(&path("stable_node_dups"))?,
            general_profit: files::number(&path("general_profit"))?,
        }))
    }
}

impl KsmProcess {
    /// Reads `/proc/PID/ksm_stat`.
    ///
    /// `None` where the kernel has none (before Linux 6.1, or it cannot merge), and if the process is gone or has no memory.
    pub fn read(root: &Root, tgid: Tgid) -> Result<Option<Self>, FileError> {
        let text = files::text(&root.path(format!("/proc/{}/ksm_stat", tgid.0)))?;
        // Of a task without memory the file is empty.
        Ok(text.filter(|text| !text.is_empty()).map(|text| Self::parse(&text)))
    }

    /// What `text`, lines of a name and a value, says.
    fn parse(text: &str) -> Self {
        let value = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(' '));
            lines.find_map(|(key, value)| (key.trim_end_matches(':') == name).then_some(value))
        };
        let pages = |name| value(name)?.parse().ok().map(PageCount::new);
        let word = |name| match value(name)? {
            "yes" => Some(true),
            "no" => Some(false),
            _ => None,
        };
        Self {
            rmap_items: pages("ksm_rmap_items"),
            merging_pages: pages("ksm_merging_pages"),
            zero_pages: pages("ksm_zero_pages"),
            profit: value("ksm_process_profit").and_then(|profit| profit.parse().ok()),
            merge_any: word("ksm_merge_any"),
            mergeable: word("ksm_mergeable"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::files::tests::tree, *};

    /// What all kernels have.
    const OLD: [(&str, &str); 8] = [
        ("/sys/kernel/mm/ksm/run", "1\n"),
        ("/sys/kernel/mm/ksm/pages_to_scan", "100\n"),
        ("/sys/kernel/mm/ksm/sleep_millisecs", "20\n"),
        ("/sys/kernel/mm/ksm/pages_shared", "2\n"),
        ("/sys/kernel/mm/ksm/pages_sharing", "30\n"),
        ("/sys/kernel/mm/ksm/pages_unshared", "4\n"),
        ("/sys/kernel/mm/ksm/pages_volatile", "5\n"),
        ("/sys/kernel/mm/ksm/full_scans", "6\n"),
    ];

    fn pages(count: u64) -> PageCount {
        PageCount::new(count)
    }

    #[test]
    fn old_kernel_leaves_unknown_what_came_later() {
        let (_dir, root) = tree(OLD);

        let ksm = Ksm::read(&root).expect("a tree").expect("it can merge");

        let expected = Ksm {
            run: KsmRun::Merging,
            pages_to_scan: pages(100),
            sleep: Nanos::new(20_000_000),
            max_page_sharing: None,
            use_zero_pages: None,
            merge_across_nodes: None,
            smart_scan: None,
            pages_shared: pages(2),
            pages_sharing: pages(30),
            pages_unshared: pages(4),
            pages_volatile: pages(5),
            pages_scanned: None,
            pages_skipped: None,
            zero_pages: None,
            full_scans: 6,
            stable_node_chains: None,
            stable_node_dups: None,
            general_profit: None,
        };
        assert_eq!(ksm, expected);
    }

    #[test]
    fn profit_may_be_a_loss() {
        let later = [
            ("/sys/kernel/mm/ksm/general_profit", "-4096\n"),
            ("/sys/kernel/mm/ksm/ksm_zero_pages", "7\n"),
            ("/sys/kernel/mm/ksm/pages_skipped", "8\n"),
            ("/sys/kernel/mm/ksm/smart_scan", "1\n"),
        ];
        let (_dir, root) = tree(OLD.into_iter().chain(later));

        let ksm = Ksm::read(&root).expect("a tree").expect("it can merge");

        assert_eq!((ksm.general_profit, ksm.zero_pages), (Some(-4096), Some(pages(7))));
        assert_eq!((ksm.pages_skipped, ksm.smart_scan), (Some(pages(8)), Some(true)));
    }

    #[test]
    fn kernel_that_cannot_merge_is_none() {
        let (_dir, root) = tree([]);

        assert_eq!(Ksm::read(&root).expect("no error"), None);
        assert_eq!(KsmProcess::read(&root, Tgid(1)).expect("no error"), None);
    }

    #[test]
    fn process_is_told_as_far_as_the_kernel_does() {
        let (_dir, root) = tree([
            ("/proc/1/ksm_stat", "ksm_rmap_items 64\n"),
            (
                "/proc/2/ksm_stat",
                "ksm_rmap_items 64\nksm_zero_pages 1\nksm_merging_pages 32\nksm_process_profit -8\n\
                 ksm_merge_any: no\nksm_mergeable: yes\n",
            ),
            ("/proc/3/ksm_stat", ""),
        ]);
        let read = |tgid| KsmProcess::read(&root, Tgid(tgid)).expect("no error");

        assert_eq!(read(1), Some(KsmProcess { rmap_items: Some(pages(64)), ..KsmProcess::default() }));
        let all = KsmProcess {
            rmap_items: Some(pages(64)),
            merging_pages: Some(pages(32)),
            zero_pages: Some(pages(1)),
            profit: Some(-8),
            merge_any: Some(false),
            mergeable: Some(true),
        };
        assert_eq!(read(2), Some(all));
        assert_eq!(read(3), None);
    }
}
