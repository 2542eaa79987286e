//! Transparent huge pages, KSM, memory cgroups and NUMA nodes, against what the tests did and the kernel's files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use memtrace::{
    event::Tgid,
    probe::{
        cgroups::MemoryCgroups,
        files::{FileError, Root},
        ksm::{Ksm, KsmProcess, KsmRun},
        nodes::NodeMap,
        thp::Thp,
    },
    units::{PageCount, PageSize, Pfn},
};
use memtrace_tests::{
    cgroup, directory, made,
    memory::Mapping,
    require,
    requirement::skip,
    scan::{self, LOW, first_page, own_pagemap, page_size},
    setting::{Setting, number},
    turn, wait_until,
};
use rustix::mm::Advice;

const KSM: &str = "/sys/kernel/mm/ksm";
const THP: &str = "/sys/kernel/mm/transparent_hugepage";
/// Bit of `/proc/kpageflags`: merged by KSM.
const KPF_KSM: u32 = 21;

/// Word number `index` of the file `path`; `None` if there is none.
fn word(path: &str, index: u64) -> Option<u64> {
    scan::word(&File::open(path).ok()?, index)
}

/// The frames of `mapping`, all of which is there.
fn frames(mapping: &Mapping) -> Vec<u64> {
    let (pagemap, first) = (own_pagemap(), first_page(mapping));
    let pages = first..first + mapping.pages() as u64;
    pages.map(|page| scan::word(&pagemap, page).expect("own memory") & LOW).collect()
}

#[test]
fn word_of_an_own_page_leads_to_the_own_cgroup() {
    require!(root);
    let _turn = turn();
    let found = MemoryCgroups::find(&Root::system()).expect("/proc is mounted");
    let (_, own) = match cgroup::of_memory() {
        Ok(memory) => memory,
        Err(missing) => {
            assert!(found.is_none(), "{found:?}");
            return skip(&missing);
        }
    };
    let mapping = Mapping::anonymous(1).expect("room");
    mapping.write(0);
    let Some(inode) = word("/proc/kpagecgroup", frames(&mapping)[0]) else {
        return skip("needs /proc/kpagecgroup (CONFIG_MEMCG)");
    };

    let path = found.expect("it is mounted").path(inode);

    assert_eq!(path, Some(PathBuf::from(own)));
}

#[test]
fn cgroup_is_found_until_it_is_removed() {
    require!(root);
    let _turn = turn();
    let (top, own) = made!(cgroup::of_memory());
    let mut cgroups = MemoryCgroups::find(&Root::system()).expect("/proc is mounted").expect("it is mounted");
    let home = top.join(own.strip_prefix('/').expect("absolute"));
    let parent = home.join(format!("memtrace-policies-{}", std::process::id()));
    let inode = |dir: &Path| fs::metadata(dir).expect("it is there").ino();
    assert_eq!(cgroups.path(inode(&home)), Some(PathBuf::from(&own)));

    fs::create_dir(&parent).expect("root may");
    fs::create_dir(parent.join("inner")).expect("root may");
    let (outer, inner) = (inode(&parent), inode(&parent.join("inner")));
    let both = [cgroups.path(outer), cgroups.path(inner)];
    fs::remove_dir(parent.join("inner")).expect("nobody is in it");
    let after = [cgroups.path(outer), cgroups.path(inner)];
    fs::remove_dir(&parent).expect("nobody is in it");

    let path = Path::new(&own).join(parent.file_name().expect("a name"));
    assert_eq!(both, [Some(path.clone()), Some(path.join("inner"))]);
    assert_eq!(after, [Some(path), None]);
    assert_eq!(cgroups.path(outer), None);
}

/// Pages on each node by `/proc/self/numa_maps`; `None` on kernels without NUMA.
fn pages_by_node(mapping: &Mapping) -> Option<BTreeMap<u32, usize>> {
    let text = fs::read_to_string("/proc/self/numa_maps").ok()?;
    let start = format!("{:08x} ", mapping.area(0).start);
    let line = text.lines().find(|line| line.starts_with(&start)).expect("the kernel does not merge it");
    let nodes = line.split(' ').filter_map(|word| {
        let (node, pages) = word.strip_prefix('N')?.split_once('=')?;
        Some((node.parse().ok()?, pages.parse().expect("a number")))
    });
    Some(nodes.collect())
}

#[test]
fn pages_are_on_the_nodes_that_numa_maps_tells() {
    require!(root);
    let _turn = turn();
    // Private memory may become one VMA with its neighbours, which numa_maps counts together.
    let mapping = Mapping::shared(256).expect("room");
    mapping.write_all();

    let map = NodeMap::read(&Root::system(), page_size()).expect("root may read it");

    let mut found = BTreeMap::new();
    for frame in frames(&mapping) {
        let node = map.node(Pfn::new(frame).expect("root sees frames")).expect("it is memory");
        *found.entry(node).or_insert(0) += 1;
    }
    // A kernel without NUMA calls all memory node 0.
    let expected = pages_by_node(&mapping).unwrap_or_else(|| BTreeMap::from([(0, 256)]));
    assert_eq!(found, expected);
    assert_eq!(map.node(Pfn::new(1 << 50).expect("not 0")), None);
}

#[test]
fn huge_page_settings_are_those_of_the_files() {
    let thp = Thp::read(&Root::system()).expect("sysfs is mounted");
    let Some(thp) = thp else {
        assert!(!Path::new(THP).exists());
        return skip("needs transparent huge pages (CONFIG_TRANSPARENT_HUGEPAGE)");
    };

    let is_chosen = |word: Option<&str>, path: &str| match word {
        Some(word) => fs::read_to_string(path).is_ok_and(|text| text.contains(&format!("[{word}]"))),
        None => !Path::new(path).exists(),
    };
    assert!(is_chosen(thp.enabled.as_deref(), &format!("{THP}/enabled")), "{thp:?}");
    assert!(is_chosen(thp.defrag.as_deref(), &format!("{THP}/defrag")), "{thp:?}");
    assert!(is_chosen(thp.shmem_enabled.as_deref(), &format!("{THP}/shmem_enabled")), "{thp:?}");
    assert_eq!(thp.pmd_size.map(PageSize::bytes), number(format!("{THP}/hpage_pmd_size")));
    let entries = fs::read_dir(THP).expect("it is there").flatten();
    let sizes = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("hugepages-"));
    assert_eq!(thp.sizes.len(), sizes.count());
    for size in &thp.sizes {
        let dir = format!("{THP}/hugepages-{}kB", size.size.bytes() >> 10);
        assert!(is_chosen(size.enabled.as_deref(), &format!("{dir}/enabled")), "{size:?}");
        assert!(is_chosen(size.shmem_enabled.as_deref(), &format!("{dir}/shmem_enabled")), "{size:?}");
        let names = fs::read_dir(format!("{dir}/stats")).map(Iterator::count).ok();
        assert_eq!(size.stats.as_ref().map(|stats| stats.counters.len() + stats.gauges.len()), names);
    }
}

#[test]
fn fault_of_a_huge_page_is_counted_by_its_size() {
    require!(root);
    let _turn = turn();
    let stats = || {
        let thp = Thp::read(&Root::system()).expect("sysfs is mounted")?;
        thp.sizes.into_iter().find(|size| size.size.bytes() == 2 << 20)?.stats
    };
    let Some(before) = stats() else {
        assert!(!Path::new(&format!("{THP}/hugepages-2048kB/stats")).exists());
        return skip("needs Linux 6.10 (statistics of each size of huge pages)");
    };
    let mapping = Mapping::huge(1).expect("room");
    mapping.write(0);
    let smaps = fs::read_to_string("/proc/self/smaps").expect("own memory");
    if !smaps.lines().any(|line| line.split_whitespace().eq(["AnonHugePages:", "2048", "kB"])) {
        return skip(
            "needs a huge page at the first touch (transparent_hugepage/enabled, memory in one piece)",
        );
    }

    let with = stats().expect("it was there");
    drop(mapping);

    assert!(with.counters["anon_fault_alloc"] > before.counters["anon_fault_alloc"], "{before:?} {with:?}");
    if let Some(huge_pages) = with.gauges.get("nr_anon") {
        assert!(*huge_pages >= 1);
        assert!(!with.counters.contains_key("nr_anon"));
    }
}

#[test]
fn equal_pages_are_merged_and_counted() {
    require!(root);
    let _turn = turn();
    let of_ksm = |name: &str| number(Path::new(KSM).join(name));
    if !Path::new(KSM).exists() {
        assert_eq!(Ksm::read(&Root::system()).expect("sysfs is mounted"), None);
        return skip("needs KSM (CONFIG_KSM)");
    }
    let areas = [(); 2].map(|()| Mapping::anonymous(16).expect("room"));
    for area in &areas {
        area.write_all();
        area.advise(Advice::LinuxMergeable).expect("the kernel can merge");
    }
    let change = |name, value| Setting::change(&format!("{KSM}/{name}"), value).expect("root may");
    let _sleep = change("sleep_millisecs", "10");
    // Guests of QEMU let all their memory be merged too, and come first.
    let _pages = change("pages_to_scan", "20000");
    let _run = change("run", "1");
    let is_merged =
        |frame: u64| word("/proc/kpageflags", frame).is_some_and(|flags| flags >> KPF_KSM & 1 == 1);
    // Some kernels have the flag on all anonymous pages.
    let merged = wait_until(|| {
        let frames: BTreeSet<_> = areas.iter().flat_map(frames).collect();
        frames.len() == 1 && frames.into_iter().all(is_merged)
    });
    let running = Ksm::read(&Root::system()).expect("sysfs is mounted").expect("the kernel can merge");
    fs::write(Path::new(KSM).join("run"), "0").expect("root may");
    assert!(merged, "{running:?}");

    // Other programs may take merged pages apart at any time.
    let names = ["pages_shared", "pages_sharing", "pages_unshared", "pages_skipped", "ksm_zero_pages"];
    let profit = || fs::read_to_string(Path::new(KSM).join("general_profit")).ok();
    let own = || (names.map(|name| of_ksm(name).map(PageCount::new)), of_ksm("full_scans"), profit());
    let read = || Ksm::read(&Root::system()).expect("sysfs is mounted").expect("the kernel can merge");
    let (own, ksm) = loop {
        let (before, ksm) = (own(), read());
        if own() == before {
            break (before, ksm);
        }
    };

    let pages = [
        Some(ksm.pages_shared),
        Some(ksm.pages_sharing),
        Some(ksm.pages_unshared),
        ksm.pages_skipped,
        ksm.zero_pages,
    ];
    let profit = ksm.general_profit.map(|bytes| format!("{bytes}\n"));
    assert_eq!((pages, Some(ksm.full_scans), profit), own);
    // Of 32 equal pages one stays.
    assert!(ksm.pages_shared.get() >= 1 && ksm.pages_sharing.get() >= 31, "{ksm:?}");
    assert_eq!((running.run, ksm.run), (KsmRun::Merging, KsmRun::Stopped));
    assert_eq!((ksm.sleep.get(), ksm.pages_to_scan), (10_000_000, PageCount::new(20_000)));
    let process = KsmProcess::read(&Root::system(), Tgid(std::process::id())).expect("own files");
    assert_eq!(process.is_some(), Path::new("/proc/self/ksm_stat").exists());
    if let Some(pages) = process.and_then(|process| process.merging_pages) {
        assert_eq!(pages, PageCount::new(32));
    }
    if let Some(pages) = process.and_then(|process| process.rmap_items) {
        assert!(pages.get() >= 32);
    }
}

#[test]
fn process_that_is_gone_has_no_merged_pages() {
    let mut child = Command::new("true").spawn().expect("there is true");
    let tgid = Tgid(child.id());
    // A dead process that nobody waited for has no memory.
    let is_zombie = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", tgid.0)).expect("nobody waited for it");
        stat.contains(") Z ")
    };
    assert!(wait_until(is_zombie));
    let read = || KsmProcess::read(&Root::system(), tgid).expect("no error");

    assert_eq!(read(), None);
    child.wait().expect("it is ours");
    assert_eq!(read(), None);
}

#[test]
fn empty_root_has_nothing() {
    let dir = directory();
    let root = Root::at(dir.path());

    assert_eq!(Thp::read(&root).expect("no error"), None);
    assert_eq!(Ksm::read(&root).expect("no error"), None);
    assert!(matches!(MemoryCgroups::find(&root), Err(FileError::Missing { .. })), "mounts are not known");
    let nodes = NodeMap::read(&root, page_size()).expect("no error");
    assert_eq!(nodes.node(Pfn::new(1).expect("not 0")), None);
}
