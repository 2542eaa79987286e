//! Reads the pools of huge pages of hugetlb, where they are mounted, and what cgroups have of them.
//!
//! Layer: shell. Input: a [`Root`]; the directory of a cgroup. Output: [`HugePool`]s, [`HugeMount`]s, [`HugeCharge`]s.
//! Source: `Documentation/admin-guide/mm/hugetlbpage.rst`; `fs/hugetlbfs/inode.c` (`hugetlbfs_show_options`);
//! `mm/hugetlb_cgroup.c`; `hugetlb.rst` of both versions of cgroups.
//! Keeps: pages are base pages of the host, whatever the size of the pool; a kernel without hugetlb has no pools.
//! Not here: which process has huge pages (`/proc/PID/smaps`); transparent ones (`thp`).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    files::{self, FileError, Root},
    mounts, nodes,
};
use crate::units::{ByteSize, PageCount, PageSize};

/// The pool of huge pages of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HugePool {
    /// Size of a huge page.
    pub size: PageSize,
    /// Base pages in a huge page: by these the others are multiples.
    pub pages_each: PageCount,
    /// All pages that there are (`nr_hugepages`), surplus ones too; the sysctl of this name leaves those out.
    pub total: PageCount,
    /// Pages that nobody uses (`free_hugepages`), reserved ones too.
    pub free: PageCount,
    /// Pages that are promised to mappings but not yet touched (`resv_hugepages`).
    pub reserved: PageCount,
    /// Pages beyond the pool (`surplus_hugepages`), which leave it when they become free.
    pub surplus: PageCount,
    /// How many surplus pages there may be (`nr_overcommit_hugepages`); `u64::MAX` for more than can be told.
    pub overcommit: PageCount,
    /// Into what a page can be split on demand (`demote_size`). `None` for the smallest size and before Linux 5.16.
    pub demote: Option<PageSize>,
    /// The part of the pool on each NUMA node, by number; empty on kernels without NUMA.
    pub nodes: BTreeMap<u32, NodePool>,
}

/// The part of a pool that is on one NUMA node. Reservations belong to no node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodePool {
    /// All pages, surplus ones too.
    pub total: PageCount,
    /// Pages that nobody uses.
    pub free: PageCount,
    /// Pages beyond the pool.
    pub surplus: PageCount,
}

/// A mount of hugetlbfs. What its options do not say is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HugeMount {
    /// Where.
    pub point: PathBuf,
    /// The directory of the file system that is mounted.
    pub top: PathBuf,
    /// Size of its huge pages.
    pub page: Option<PageSize>,
    /// Most memory that its files may have, in bytes.
    pub size: Option<ByteSize>,
    /// Memory that is reserved for it from its mount on, in bytes.
    pub min_size: Option<ByteSize>,
    /// Most inodes.
    pub inodes: Option<u64>,
    /// User that owns its root; not said for 0.
    pub uid: Option<u32>,
    /// Group that owns its root; not said for 0.
    pub gid: Option<u32>,
    /// Permissions of its root, as `chmod(2)` takes them; not said for `0o755`.
    pub mode: Option<u32>,
}

/// Huge pages of one size in a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HugeCharge {
    /// Size of a huge page.
    pub size: PageSize,
    /// Pages that are in use.
    pub used: Charge,
    /// Pages that are reserved or in use (`rsvd`). Nothing is known before Linux 5.7.
    pub reserved: Charge,
}

/// What is charged to a cgroup, and how far that may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Charge {
    /// Bytes that are charged now, those of cgroups below included.
    pub now: Option<ByteSize>,
    /// Bytes that may be.
    pub limit: Option<Limit>,
    /// Most bytes that ever were. `None` in version 2.
    pub peak: Option<ByteSize>,
    /// How often more was refused; in version 2, to cgroups below too. `None` there for reservations.
    pub refused: Option<u64>,
}

/// A limit of a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// As much as there is.
    Unlimited,
    /// These bytes.
    Bytes(ByteSize),
}

/// The pools of a host with base pages of size `base`, smallest huge pages first.
pub fn pools(root: &Root, base: PageSize) -> Result<Vec<HugePool>, FileError> {
    let nodes = nodes::directories(root)?;
    let pools = files::entries(&root.path("/sys/kernel/mm/hugepages"), size_in_bytes)?;
    let pools = pools.into_iter().filter_map(|(bytes, dir)| Some((PageSize::from_bytes(bytes)?, dir)));
    pools.map(|(size, dir)| pool(size, base, &dir, &nodes)).collect()
}

/// The bytes of a huge page, from a name such as `hugepages-2048kB`.
pub(super) fn size_in_bytes(name: &str) -> Option<u64> {
    let size: ByteSize = name.strip_prefix("hugepages-")?.parse().ok()?;
    Some(size.get())
}

/// The pool of the directory `dir`.
fn pool(
    size: PageSize,
    base: PageSize,
    dir: &Path,
    node_dirs: &[(u32, PathBuf)],
) -> Result<HugePool, FileError> {
    let each = size.bytes() / base.bytes();
    let pages = |count: u64| PageCount::new(count.saturating_mul(each));
    let needed = |name| files::needed(&dir.join(name)).map(pages);
    let mut nodes = BTreeMap::new();
    for (node, node_dir) in node_dirs {
        let dir = node_dir.join("hugepages").join(dir.file_name().unwrap_or_default());
        let count = |name| files::number(&dir.join(name)).map(|count| count.map(pages));
        let (total, free) = (count("nr_hugepages")?, count("free_hugepages")?);
        // A node without memory has no pools, and one may be taken out meanwhile.
        if let (Some(total), Some(free), Some(surplus)) = (total, free, count("surplus_hugepages")?) {
            nodes.insert(*node, NodePool { total, free, surplus });
        }
    }
    Ok(HugePool {
        size,
        pages_each: PageCount::new(each),
        total: needed("nr_hugepages")?,
        free: needed("free_hugepages")?,
        reserved: needed("resv_hugepages")?,
        surplus: needed("surplus_hugepages")?,
        overcommit: needed("nr_overcommit_hugepages")?,
        demote: files::parsed(&dir.join("demote_size"), page_size)?,
        nodes,
    })
}

/// The size that `text` says, such as `2M`.
fn page_size(text: &str) -> Option<PageSize> {
    PageSize::from_bytes(text.parse::<ByteSize>().ok()?.get())
}

/// The group that may have shared memory in huge pages without more rights (`vm.hugetlb_shm_group`).
///
/// `None` where the kernel has no hugetlb.
pub fn shm_group(root: &Root) -> Result<Option<u32>, FileError> {
    let group = files::number::<i32>(&root.path("/proc/sys/vm/hugetlb_shm_group"))?;
    // The kernel writes the highest groups as negative numbers.
    Ok(group.map(i32::cast_unsigned))
}

/// The mounts of hugetlbfs that this process sees.
pub fn mounts(root: &Root) -> Result<Vec<HugeMount>, FileError> {
    let mounts = mounts::mounts(root)?.into_iter().filter(|mount| mount.kind == "hugetlbfs");
    let mounts = mounts.map(|mount| {
        let size = |name| mount.option(name)?.parse().ok();
        HugeMount {
            page: mount.option("pagesize").and_then(page_size),
            size: size("size"),
            min_size: size("min_size"),
            inodes: mount.option("nr_inodes").and_then(|inodes| inodes.parse().ok()),
            uid: mount.option("uid").and_then(|uid| uid.parse().ok()),
            gid: mount.option("gid").and_then(|gid| gid.parse().ok()),
            mode: mount.option("mode").and_then(|mode| u32::from_str_radix(mode, 8).ok()),
            point: mount.point,
            top: mount.top,
        }
    });
    Ok(mounts.collect())
}

/// What the cgroup of the directory `dir` has of each size, smallest first, in the version of cgroups that it is of.
///
/// Nothing if the controller `hugetlb` is not enabled for it, or the cgroup is gone; so for the root in version 2.
pub fn charges(dir: &Path) -> Result<Vec<HugeCharge>, FileError> {
    // The file that both versions have, but for the end of its name.
    let size_of = |name: &str| {
        let name = name.strip_prefix("hugetlb.")?;
        let size = name.strip_suffix(".usage_in_bytes").or(name.strip_suffix(".current"))?;
        Some((size.parse::<ByteSize>().ok()?.get(), size.to_owned()))
    };
    let sizes = files::entries(dir, size_of)?;
    let sizes = sizes.into_iter().filter_map(|((bytes, name), _)| Some((PageSize::from_bytes(bytes)?, name)));
    let charges = sizes.map(|(size, name)| {
        let used = charge(size, dir, &format!("hugetlb.{name}"))?;
        let reserved = charge(size, dir, &format!("hugetlb.{name}.rsvd"))?;
        Ok(HugeCharge { size, used, reserved })
    });
    charges.collect()
}

/// What the files in `dir` say whose names begin with `prefix`.
fn charge(size: PageSize, dir: &Path, prefix: &str) -> Result<Charge, FileError> {
    let file = |end: &str| dir.join(format!("{prefix}.{end}"));
    let bytes = |end| files::number(&file(end)).map(|bytes| bytes.map(ByteSize::new));
    let now = match bytes("usage_in_bytes")? {
        None => bytes("current")?,
        now => now,
    };
    let limit = |end| files::parsed(&file(end), |text| limit(text, size));
    let limit = match limit("limit_in_bytes")? {
        None => limit("max")?,
        limit => limit,
    };
    let refused = match files::number(&file("failcnt"))? {
        None => files::parsed(&file("events"), |text| {
            text.lines().find_map(|line| line.strip_prefix("max ")?.parse().ok())
        })?,
        refused => refused,
    };
    Ok(Charge { now, limit, peak: bytes("max_usage_in_bytes")?, refused })
}

/// The limit on huge pages of this size that the kernel writes as `text`.
fn limit(text: &str, size: PageSize) -> Option<Limit> {
    // Without a limit there is as much as a `long` has bytes, in whole base pages; or in whole huge pages once it was written to,
    // and only then version 2 writes a word (`hugetlb_cgroup_read_u64_max`).
    let whole = i64::MAX.cast_unsigned() & !(size.bytes() - 1);
    match text {
        "max" => Some(Limit::Unlimited),
        _ => text
            .parse()
            .ok()
            .map(|bytes| if bytes >= whole { Limit::Unlimited } else { Limit::Bytes(ByteSize::new(bytes)) }),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::files::tests::tree, *};

    const SYS: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
    const GIB: &str = "/sys/kernel/mm/hugepages/hugepages-1048576kB";

    fn size(bytes: u64) -> PageSize {
        PageSize::from_bytes(bytes).expect("a power of two")
    }

    fn pages(count: u64) -> PageCount {
        PageCount::new(count)
    }

    fn file(dir: &str, name: &str, text: &str) -> (String, String) {
        (format!("{dir}/{name}"), format!("{text}\n"))
    }

    fn pool_files(
        dir: &str,
        [total, free, reserved, surplus, overcommit]: [&str; 5],
    ) -> Vec<(String, String)> {
        let node_files = node_files(dir, [total, free, surplus]);
        let others =
            [file(dir, "resv_hugepages", reserved), file(dir, "nr_overcommit_hugepages", overcommit)];
        node_files.into_iter().chain(others).collect()
    }

    fn node_files(dir: &str, [total, free, surplus]: [&str; 3]) -> Vec<(String, String)> {
        let names = [("nr_hugepages", total), ("free_hugepages", free), ("surplus_hugepages", surplus)];
        names.map(|(name, text)| file(dir, name, text)).into()
    }

    fn root_of(files: &[(String, String)]) -> (tempfile::TempDir, Root) {
        tree(files.iter().map(|(path, text)| (path.as_str(), text.as_str())))
    }

    #[test]
    fn pools_are_told_in_base_pages_for_the_system_and_each_node() {
        let node = |number| format!("/sys/devices/system/node/node{number}/hugepages/hugepages-2048kB");
        let mut all = pool_files(SYS, ["5", "3", "2", "1", "7"]);
        all.extend(pool_files(GIB, ["1", "1", "0", "0", "0"]));
        all.push(file(GIB, "demote_size", "2048kB"));
        all.extend(node_files(&node(0), ["4", "3", "0"]));
        all.extend(node_files(&node(10), ["2", "0", "1"]));
        // A node without memory, and what is no node.
        all.push(file("/sys/devices/system/node/node2", "cpulist", "0"));
        all.push(file("/sys/devices/system/node", "online", "0,2,10"));
        let (_dir, root) = root_of(&all);

        let pools = pools(&root, size(4096)).expect("a tree of one kernel");

        let [small, large] = &pools[..] else { panic!("{pools:?}") };
        assert_eq!((small.size, large.size), (size(2 << 20), size(1 << 30)));
        assert_eq!((small.pages_each, large.pages_each), (pages(512), pages(262_144)));
        assert_eq!((small.total, small.free, small.reserved), (pages(2560), pages(1536), pages(1024)));
        assert_eq!((small.surplus, small.overcommit), (pages(512), pages(3584)));
        assert_eq!((small.demote, large.demote), (None, Some(size(2 << 20))));
        let nodes = [
            (0, NodePool { total: pages(2048), free: pages(1536), surplus: pages(0) }),
            (10, NodePool { total: pages(1024), free: pages(0), surplus: pages(512) }),
        ];
        assert_eq!((small.nodes.clone(), large.nodes.clone()), (nodes.into(), BTreeMap::new()));
    }

    #[test]
    fn overcommit_beyond_all_numbers_is_the_highest() {
        let (_dir, root) = root_of(&pool_files(SYS, ["0", "0", "0", "0", "18446744073709551615"]));

        let pools = pools(&root, size(4096)).expect("a tree of one kernel");

        assert_eq!(pools[0].overcommit, pages(u64::MAX));
    }

    #[test]
    fn kernel_without_hugetlb_has_no_pools_no_mounts_and_no_group() {
        let (_dir, root) = tree([("/proc/self/mountinfo", "22 1 0:21 / /proc rw - proc proc rw\n")]);

        assert_eq!(pools(&root, size(4096)).expect("no error"), []);
        assert_eq!(mounts(&root).expect("no error"), []);
        assert_eq!(shm_group(&root).expect("no error"), None);
    }

    #[test]
    fn pool_that_is_not_whole_is_an_error() {
        let (_dir, root) = root_of(&node_files(SYS, ["1", "1", "0"]));

        let error = pools(&root, size(4096)).expect_err("reservations are missing");

        assert!(matches!(error, FileError::Missing { path } if path.ends_with("resv_hugepages")));
    }

    #[test]
    fn highest_groups_are_negative_in_the_file() {
        let (_dir, root) = tree([("/proc/sys/vm/hugetlb_shm_group", "-2\n")]);

        assert_eq!(shm_group(&root).expect("a number"), Some(0xffff_fffe));
    }

    #[test]
    fn mount_says_only_what_differs_from_the_default() {
        let (_dir, root) = tree([(
            "/proc/self/mountinfo",
            "50 1 0:50 / /dev/huge\\040pages rw - hugetlbfs none rw,pagesize=1024M\n\
             51 1 0:51 / /all rw - hugetlbfs none \
             rw,uid=7,gid=8,mode=1770,nr_inodes=9,pagesize=2M,size=8388608,min_size=4194304\n\
             52 1 0:52 / /tmp rw - tmpfs tmpfs rw,size=4k\n",
        )]);

        let mounts = mounts(&root).expect("a table");

        let unsaid = HugeMount {
            point: "/dev/huge pages".into(),
            top: "/".into(),
            page: Some(size(1 << 30)),
            size: None,
            min_size: None,
            inodes: None,
            uid: None,
            gid: None,
            mode: None,
        };
        let all = HugeMount {
            point: "/all".into(),
            top: "/".into(),
            page: Some(size(2 << 20)),
            size: Some(ByteSize::new(8 << 20)),
            min_size: Some(ByteSize::new(4 << 20)),
            inodes: Some(9),
            uid: Some(7),
            gid: Some(8),
            mode: Some(0o1770),
        };
        assert_eq!(mounts, [unsaid, all]);
    }

    #[test]
    fn cgroup_of_version_1_has_peaks_and_a_number_for_no_limit() {
        let (dir, _root) = tree([
            ("/hugetlb.1GB.usage_in_bytes", "0\n"),
            ("/hugetlb.2MB.usage_in_bytes", "2097152\n"),
            // 2^63 - 2 MiB: without a limit.
            ("/hugetlb.2MB.limit_in_bytes", "9223372036852678656\n"),
            ("/hugetlb.2MB.max_usage_in_bytes", "4194304\n"),
            ("/hugetlb.2MB.failcnt", "0\n"),
            ("/hugetlb.2MB.rsvd.usage_in_bytes", "6291456\n"),
            ("/hugetlb.2MB.rsvd.limit_in_bytes", "8388608\n"),
            ("/hugetlb.2MB.rsvd.max_usage_in_bytes", "8388608\n"),
            ("/hugetlb.2MB.rsvd.failcnt", "3\n"),
            ("/cgroup.procs", "1\n"),
        ]);

        let charges = charges(dir.path()).expect("a cgroup");

        let mib = |count: u64| ByteSize::new(count << 20);
        let [small, large] = charges[..] else { panic!("{charges:?}") };
        assert_eq!((small.size, large.size), (size(2 << 20), size(1 << 30)));
        let used =
            Charge { now: Some(mib(2)), limit: Some(Limit::Unlimited), peak: Some(mib(4)), refused: Some(0) };
        let reserved = Charge {
            now: Some(mib(6)),
            limit: Some(Limit::Bytes(mib(8))),
            peak: Some(mib(8)),
            refused: Some(3),
        };
        assert_eq!((small.used, small.reserved), (used, reserved));
        // A kernel before 5.7.
        assert_eq!(large.reserved, Charge::default());
    }

    #[test]
    fn cgroup_of_version_2_has_events_and_no_peaks() {
        let (dir, _root) = tree([
            ("/hugetlb.2MB.current", "2097152\n"),
            ("/hugetlb.2MB.max", "max\n"),
            ("/hugetlb.2MB.events", "max 5\n"),
            ("/hugetlb.2MB.events.local", "max 4\n"),
            ("/hugetlb.2MB.numa_stat", "total=2097152 N0=2097152\n"),
            ("/hugetlb.2MB.rsvd.current", "0\n"),
            ("/hugetlb.2MB.rsvd.max", "4194304\n"),
        ]);

        let charges = charges(dir.path()).expect("a cgroup");

        let used = Charge {
            now: Some(ByteSize::new(2 << 20)),
            limit: Some(Limit::Unlimited),
            peak: None,
            refused: Some(5),
        };
        let reserved = Charge {
            now: Some(ByteSize::new(0)),
            limit: Some(Limit::Bytes(ByteSize::new(4 << 20))),
            ..Charge::default()
        };
        assert_eq!(charges, [HugeCharge { size: size(2 << 20), used, reserved }]);
    }

    #[test]
    fn number_for_no_limit_is_rounded_to_either_kind_of_page() {
        let of = |text| limit(text, size(2 << 20));

        assert_eq!(of("max"), Some(Limit::Unlimited));
        assert_eq!(of("9223372036852678656"), Some(Limit::Unlimited));
        assert_eq!(of("9223372036854771712"), Some(Limit::Unlimited));
        assert_eq!(of("9223372036850581504"), Some(Limit::Bytes(ByteSize::new((1 << 63) - (4 << 20)))));
        assert_eq!(of("none"), None);
    }

    #[test]
    fn cgroup_that_is_gone_or_without_the_controller_has_nothing() {
        let (dir, _root) = tree([("/cgroup.procs", "")]);

        assert_eq!(charges(dir.path()).expect("no error"), []);
        assert_eq!(charges(&dir.path().join("gone")).expect("no error"), []);
    }
}
