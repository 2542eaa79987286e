//! Pools of huge pages, their mounts and their cgroups, against what the tests did and the kernel's files.
//!
//! What is changed is added to what was there, and taken back at the end.

use std::{
    fmt::Display,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use memtrace::{
    probe::{
        files::{FileError, Root},
        hugetlb::{self, HugeCharge, HugePool, Limit},
    },
    units::{ByteSize, PageCount, PageSize},
};
use memtrace_tests::{
    cgroup, directory, made,
    memory::Mapping,
    mounted::Mounted,
    require,
    requirement::skip,
    scan::page_size,
    setting::{HugePages, POOL, Setting, number},
    turn, wait_until,
};

const HUGE: u64 = 2 << 20;

/// A number of the pool of huge pages of 2 MiB, in huge pages.
fn of_pool(name: &str) -> u64 {
    number(Path::new(POOL).join(name)).expect("the pool has it")
}

/// A number of `/proc/meminfo`.
fn meminfo(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").expect("/proc is mounted");
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let value = value.expect("a kernel with huge pages").trim().trim_end_matches(" kB");
    value.parse().expect("a number")
}

/// Base pages of `count` huge pages.
fn huge(count: u64) -> PageCount {
    PageCount::new(count * HUGE / page_size().bytes())
}

/// Says what could not be put back: to panic at the end of a test that fails would end the others too.
fn report<E: Display>(result: Result<(), E>) {
    if let Err(error) = result {
        eprintln!("cannot put back what was there before: {error}");
    }
}

/// The pool of huge pages of 2 MiB as memtrace reads it.
fn pool() -> HugePool {
    let pools = hugetlb::pools(&Root::system(), page_size()).expect("sysfs is mounted");
    pools.into_iter().find(|pool| pool.size.bytes() == HUGE).expect("the pool is there")
}

#[test]
fn pool_has_what_was_added_reserved_and_touched() {
    require!(root);
    let _turn = turn();
    let start = number(Path::new(POOL).join("nr_hugepages"));
    let _grown = made!(HugePages::add(4));

    let idle = pool();
    let mapping = Mapping::hugetlb(2).expect("four are free");
    let mapped = pool();
    mapping.write(0);
    let touched = pool();
    let by_meminfo = ["HugePages_Total", "HugePages_Free", "HugePages_Rsvd", "HugePages_Surp"].map(meminfo);
    drop(mapping);

    let total = start.expect("the pool is there") + 4;
    assert_eq!((idle.total, idle.pages_each), (huge(total), huge(1)));
    let (free, reserved) = (of_pool("free_hugepages"), of_pool("resv_hugepages"));
    assert!(free >= 4, "{idle:?}");
    assert_eq!((idle.free, idle.reserved), (huge(free), huge(reserved)));
    assert_eq!((mapped.total, mapped.free, mapped.reserved), (huge(total), huge(free), huge(reserved + 2)));
    assert_eq!(
        (touched.total, touched.free, touched.reserved),
        (huge(total), huge(free - 1), huge(reserved + 1))
    );
    if meminfo("Hugepagesize") == HUGE >> 10 {
        assert_eq!(
            [touched.total, touched.free, touched.reserved, touched.surplus],
            by_meminfo.map(huge),
            "{touched:?}"
        );
    }
    assert_eq!(pool(), idle);
}

#[test]
fn pool_is_the_sum_of_the_nodes() {
    require!(root);
    let _turn = turn();
    let _grown = made!(HugePages::add(4));
    let mapping = Mapping::hugetlb(1).expect("four are free");
    mapping.write(0);

    let pool = pool();

    let of_node = |node: u32, name: &str| {
        number(format!("/sys/devices/system/node/node{node}/hugepages/hugepages-2048kB/{name}"))
    };
    let known = (0..64).filter(|node| of_node(*node, "nr_hugepages").is_some()).collect::<Vec<_>>();
    assert_eq!(pool.nodes.keys().copied().collect::<Vec<_>>(), known);
    if known.is_empty() {
        return skip("needs NUMA nodes in sysfs (CONFIG_NUMA)");
    }
    let sum = |pages: fn(&hugetlb::NodePool) -> PageCount| {
        PageCount::new(pool.nodes.values().map(|node| pages(node).get()).sum())
    };
    assert_eq!(sum(|node| node.total), pool.total);
    assert_eq!(sum(|node| node.free), pool.free);
    assert_eq!(sum(|node| node.surplus), pool.surplus);
    for (node, pages) in &pool.nodes {
        assert_eq!(Some(pages.total), of_node(*node, "nr_hugepages").map(huge));
        assert_eq!(Some(pages.free), of_node(*node, "free_hugepages").map(huge));
    }
}

#[test]
fn pages_beyond_the_pool_are_surplus() {
    require!(root);
    let _turn = turn();
    let _grown = made!(HugePages::add(1));
    let limit = of_pool("nr_overcommit_hugepages");
    let overcommit = format!("{POOL}/nr_overcommit_hugepages");
    let _overcommit = Setting::change(&overcommit, &(limit + 2).to_string()).expect("root may");
    let (total, surplus) = (of_pool("nr_hugepages"), of_pool("surplus_hugepages"));
    let available = of_pool("free_hugepages") - of_pool("resv_hugepages");

    let Ok(mapping) = Mapping::hugetlb(usize::try_from(available + 2).expect("a small number")) else {
        return skip("needs memory in one piece for huge pages");
    };
    let with = pool();
    drop(mapping);

    assert_eq!(with.overcommit, huge(limit + 2));
    assert_eq!((with.total, with.surplus), (huge(total + 2), huge(surplus + 2)));
    let without = pool();
    assert_eq!((without.total, without.surplus), (huge(total), huge(surplus)));
}

#[test]
fn size_into_which_pages_can_be_split_is_that_of_the_file() {
    let pools = hugetlb::pools(&Root::system(), page_size()).expect("sysfs is mounted");

    for pool in pools {
        let kib = pool.size.bytes() >> 10;
        let file = format!("/sys/kernel/mm/hugepages/hugepages-{kib}kB/demote_size");
        let demote = pool.demote.map(|size| format!("{}kB\n", size.bytes() >> 10));
        assert_eq!(demote, fs::read_to_string(file).ok());
    }
}

#[test]
fn mount_has_the_options_that_were_given() {
    require!(root);
    let _turn = turn();
    let _grown = made!(HugePages::add(4));
    let reserved = of_pool("resv_hugepages");
    let options = "pagesize=2M,size=8M,min_size=4M,nr_inodes=9,mode=1770,uid=7,gid=8";
    let mounted = Mounted::new("hugetlbfs", options).expect("four are free");

    let mounts = hugetlb::mounts(&Root::system()).expect("/proc is mounted");

    let found = mounts.iter().find(|mount| mount.point == mounted.path()).expect("it is mounted");
    assert_eq!((found.top.as_path(), found.page), (Path::new("/"), PageSize::from_bytes(HUGE)));
    assert_eq!((found.size, found.min_size), (Some(ByteSize::new(8 << 20)), Some(ByteSize::new(4 << 20))));
    assert_eq!((found.inodes, found.uid, found.gid, found.mode), (Some(9), Some(7), Some(8), Some(0o1770)));
    let top = fs::metadata(mounted.path()).expect("it is mounted");
    assert_eq!((top.uid(), top.gid(), top.mode() & 0o7777), (7, 8, 0o1770));
    // What is reserved for the mount.
    assert_eq!(pool().reserved, huge(reserved + 2));
}

#[test]
fn mount_without_options_says_just_the_size_of_its_pages() {
    require!(root);
    let Ok(mounted) = Mounted::new("hugetlbfs", "") else {
        return skip("needs hugetlbfs (CONFIG_HUGETLBFS)");
    };

    let mounts = hugetlb::mounts(&Root::system()).expect("/proc is mounted");

    let found = mounts.iter().find(|mount| mount.point == mounted.path()).expect("it is mounted");
    assert_eq!(found.page, PageSize::from_bytes(meminfo("Hugepagesize") << 10));
    assert_eq!((found.size, found.min_size, found.inodes), (None, None, None));
    assert_eq!((found.uid, found.gid, found.mode), (None, None, None));
}

#[test]
fn group_for_shared_memory_is_the_one_that_was_set() {
    require!(root);
    let path = "/proc/sys/vm/hugetlb_shm_group";
    let read = || hugetlb::shm_group(&Root::system()).expect("/proc is mounted");
    if !Path::new(path).exists() {
        assert_eq!(read(), None);
        return skip("needs huge pages (CONFIG_HUGETLBFS)");
    }
    let _group = Setting::change(path, "4242").expect("root may");

    assert_eq!(read(), Some(4242));
}

/// A cgroup of its own, gone at the end, when whoever was in it is back.
struct Cgroup {
    dir: PathBuf,
    /// The file by which members leave it, and what they write there.
    back: (PathBuf, String),
}

impl Cgroup {
    /// A cgroup below `parent` which `member`, as written to `file`, joins.
    fn joined(parent: &Path, file: &str, member: &str, home: &Path) -> Self {
        let dir = parent.join(format!("memtrace-hugetlb-{}", std::process::id()));
        fs::create_dir(&dir).expect("root may");
        fs::write(dir.join(file), member).expect("root may");
        Self { dir, back: (home.join(file), member.to_owned()) }
    }

    fn charge(&self) -> HugeCharge {
        let charges = hugetlb::charges(&self.dir).expect("a cgroup");
        charges.into_iter().find(|charge| charge.size.bytes() == HUGE).expect("pages of 2 MiB")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let (home, member) = &self.back;
        report(fs::write(home, member));
        report(fs::remove_dir(&self.dir));
    }
}

/// Maps two huge pages in `cgroup`, of which one may be there, and checks what is told of it.
///
/// `names` are the ends of the names of its files: usage, limit, and refusals.
#[track_caller]
fn expect_charged(cgroup: &Cgroup, names: [&str; 3]) {
    let [usage, limit, refused] = names;
    let file = |name: &str| cgroup.dir.join(format!("hugetlb.2MB.{name}"));
    let bytes = |huge: u64| Some(ByteSize::new(huge * HUGE));
    let has_reservations = file(&format!("rsvd.{usage}")).exists();

    let empty = cgroup.charge();
    let mapping = Mapping::hugetlb(2).expect("four are free");
    mapping.write(0);
    let touched = cgroup.charge();
    fs::write(file(limit), HUGE.to_string()).expect("root may");
    // More than the limit, by a call, for which there is an error and not a signal.
    mapping.lock().expect_err("one page is the limit");
    let full = cgroup.charge();
    let refusals = fs::read_to_string(file(refused)).expect("the kernel counts them");
    let peak = number(file("max_usage_in_bytes")).map(ByteSize::new);
    drop(mapping);

    assert_eq!((empty.used.now, empty.used.limit), (bytes(0), Some(Limit::Unlimited)));
    assert_eq!((empty.used.refused, touched.used.refused), (Some(0), Some(0)));
    assert_eq!((touched.used.now, touched.used.limit), (bytes(1), Some(Limit::Unlimited)));
    assert_eq!((full.used.now, full.used.limit), (bytes(1), Some(Limit::Bytes(ByteSize::new(HUGE)))));
    assert_eq!(full.used.peak, peak);
    let refusals = refusals.trim().trim_start_matches("max ").parse().expect("a number");
    assert!(refusals > 0);
    assert_eq!(full.used.refused, Some(refusals));
    let reserved = if has_reservations { bytes(2) } else { None };
    assert_eq!(touched.reserved.now, reserved);
    assert_eq!(touched.reserved.limit, reserved.map(|_| Limit::Unlimited));
    assert_eq!(cgroup.charge().used.now, bytes(0));
}

/// The controller hugetlb in a hierarchy of version 1, for a while.
struct OldHierarchy {
    /// `None` only while it goes.
    mounted: Option<Mounted>,
}

impl Drop for OldHierarchy {
    fn drop(&mut self) {
        // Number of the hierarchy, and of cgroups in it.
        let state = || {
            let text = fs::read_to_string("/proc/cgroups").unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("hugetlb")).unwrap_or_default();
            let mut fields = line.split_whitespace().map(|field| field.parse::<u64>().ok());
            (fields.next().flatten(), fields.next().flatten())
        };
        // A hierarchy that is unmounted before a removed cgroup is taken apart keeps the controller.
        let _in_time = wait_until(|| state().1 == Some(1));
        drop(self.mounted.take());
        if !wait_until(|| state().0 == Some(0)) {
            eprintln!("version 2 has not got its controller hugetlb again");
        }
    }
}

#[test]
fn cgroup_of_version_1_has_what_its_thread_touched() {
    require!(root);
    let _turn = turn();
    let _grown = made!(HugePages::add(4));
    let hierarchy = match Mounted::new("cgroup", "hugetlb") {
        Ok(mounted) => OldHierarchy { mounted: Some(mounted) },
        Err(error) => {
            return skip(&format!("needs the cgroup controller hugetlb for version 1: {error}"));
        }
    };
    let top = hierarchy.mounted.as_ref().expect("just mounted").path();

    // 0 stands for the thread that writes.
    let cgroup = Cgroup::joined(top, "tasks", "0", top);

    expect_charged(&cgroup, ["usage_in_bytes", "limit_in_bytes", "failcnt"]);
}

/// Version 2 gives the controller hugetlb to cgroups below its root, for a while.
struct Enabled {
    control: PathBuf,
}

impl Enabled {
    fn below(top: &Path) -> Self {
        let control = top.join("cgroup.subtree_control");
        fs::write(&control, "+hugetlb").expect("root may");
        Self { control }
    }
}

impl Drop for Enabled {
    fn drop(&mut self) {
        report(fs::write(&self.control, "-hugetlb"));
    }
}

#[test]
fn cgroup_of_version_2_has_what_its_process_touched() {
    require!(root);
    let _turn = turn();
    let _grown = made!(HugePages::add(4));
    let has = |dir: &Path, file: &str| {
        let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
        text.split_whitespace().any(|one| one == "hugetlb")
    };
    let top = cgroup::hierarchy(|kind, _| kind == "cgroup2").filter(|top| has(top, "cgroup.controllers"));
    let Some(top) = top else {
        return skip("needs the cgroup controller hugetlb in version 2");
    };
    let _enabled = (!has(&top, "cgroup.subtree_control")).then(|| Enabled::below(&top));

    let home = top.join(cgroup::own_path(str::is_empty).strip_prefix('/').expect("absolute"));
    let cgroup = Cgroup::joined(&top, "cgroup.procs", &std::process::id().to_string(), &home);

    expect_charged(&cgroup, ["current", "max", "events"]);
}

#[test]
fn empty_root_has_nothing() {
    let dir = directory();
    let root = Root::at(dir.path());

    assert_eq!(hugetlb::pools(&root, page_size()).expect("no error"), []);
    assert!(matches!(hugetlb::mounts(&root), Err(FileError::Missing { .. })), "mounts are not known");
}
